"""Rounding of x to a narrower type is said, once and by name, where it costs a visible share of a
column's spread."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from cases import vae

import ppl_vae as pv

NUM_ROWS = 2000


def column(centre, spread):
    return centre + spread * np.random.default_rng(0).normal(size=NUM_ROWS)


def said(caplog):
    return [
        record.getMessage() for record in caplog.records if "rounds column" in record.getMessage()
    ]


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("centre", [0.0, 1.0, 1e3, 5.4e6, 1.7e9])
def test_a_warning_where_the_rounding_exceeds_a_hundredth_of_the_spread(centre, spread, caplog):
    """The law, over centres and spreads: sqrt(mean (x32 - x)^2) > 0.01 sd(x)."""
    x = column(centre, spread)
    lost = np.sqrt(np.square(x.astype(np.float32).astype(np.float64) - x).mean()) > 0.01 * x.std()
    pv.Dataset(x)
    assert len(said(caplog)) == lost


def test_the_warning_names_column_cost_and_remedy(caplog):
    frame = pd.DataFrame({"height": column(1.7, 0.1), "northing": column(5.4e6, 0.1)})
    with caplog.at_level(logging.WARNING):
        pv.Dataset(frame)
    (message,) = said(caplog)
    for part in (
        "'northing'",
        "2,000 different values become 3",
        "subtract its mean",
        "dtype=torch.float64",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "make",
    [
        lambda x: pv.Dataset(x.tolist()),
        lambda x: pv.Dataset(torch.as_tensor(x)),
        lambda x: pv.Dataset(np.rint(x * 10).astype(np.int64), scale=10),
        lambda x: pv.Dataset(np.zeros(NUM_ROWS), context=x),
        lambda x: pv.Dataset(x, dtype=torch.float64).to(dtype=torch.float32),
    ],
    ids=["lists", "tensor", "whole numbers", "context", "to"],
)
def test_wherever_the_digits_are_lost(make, caplog):
    make(column(5.4e6, 0.3))
    assert len(said(caplog)) == 1


def test_rows_in_a_file_are_looked_at_too(tmp_path, caplog):
    np.save(tmp_path / "x.npy", np.stack([column(5.4e6, 0.3), column(0.0, 1.0)], axis=1))
    pv.Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert len(said(caplog)) == 1


def test_nothing_is_said_where_nothing_is_lost(caplog):
    pv.Dataset(np.full(NUM_ROWS, 5.4e6 + 0.1))  # constant
    pv.Dataset(column(5.4e6, 0.1).astype(np.float32))  # rounded by somebody else
    pv.Dataset(column(5.4e6, 0.1), dtype=torch.float64)
    pv.Dataset(np.arange(NUM_ROWS))
    missing = column(0.0, 1.0)
    missing[::2] = np.nan
    pv.Dataset(missing)
    assert said(caplog) == []


def test_a_float64_data_set_for_a_float32_model_is_said_before_training(caplog):
    x = np.stack([column(5.4e6, 0.1)] * 3, axis=1)
    model, guide = vae(likelihood="Gaussian")
    training = pv.Training(num_epochs=1, batch_size=1000, progress=False)
    pv.fit(model, guide, pv.Dataset(x, dtype=torch.float64), training=training)
    assert "and 2 more columns" in said(caplog)[0]


# --- and the result carries it --------------------------------------------------------------------


def evidence_of(data, *, double=False, **options):
    torch.manual_seed(0)
    model, guide = vae(likelihood="Gaussian")
    if double:
        model, guide = model.double(), guide.double()
    return pv.log_evidence(model, guide, data, num_particles=30, progress=False, **options)


def columns(num_rows=20):
    return np.stack([column(0.0, 1.0), column(5.4e6, 0.3), column(0.0, 1.0)], axis=1)[:num_rows]


@pytest.mark.parametrize(
    "data",
    [
        columns(),
        pv.Dataset(columns()),
        pv.Dataset(columns(), dtype=torch.float64),
        pv.Dataset(columns())[:7],
    ],
    ids=["array", "float32 rows", "float64 rows of a float32 model", "a subset"],
)
def test_evidence_of_rounded_rows_says_so(data):
    x = columns()
    lost = np.sqrt(np.square(x.astype(np.float32) - x).mean(0)) / x.std(0)
    evidence = evidence_of(data)
    np.testing.assert_allclose(
        evidence.checks["rounding_of_x"], np.full(len(data), lost[1]), rtol=1e-6
    )
    summary = evidence.summary()
    assert f"off by {lost[1]:.0%} of the standard deviation of a column: subtract its mean" in str(
        summary
    )
    assert "\n" not in str(summary)
    assert f"x rounded by {lost[1]:.0%} of a column's sd" in repr(evidence)


def test_what_was_rounded_once_stays_so_in_float64():
    assert "rounding_of_x" in evidence_of(pv.Dataset(columns()), double=True).checks


@pytest.mark.parametrize(
    "data",
    [pv.Dataset(columns() - columns().mean(0)), pv.Dataset(columns(), dtype=torch.float64)],
    ids=["centred", "float64"],
)
def test_either_remedy_is_one(data):
    evidence = evidence_of(data, double=data.x.dtype == torch.float64)
    assert "rounding_of_x" not in evidence.checks
    assert "round" not in str(evidence.summary())


def test_a_file_and_a_checkpoint_keep_it(tmp_path):
    """A checkpoint of a version that did not write it has it added."""
    data = pv.Dataset(columns())
    path = tmp_path / "evidence.npz"
    evidence_of(data, checkpoint=path)
    assert pv.Evidence.load(path).summary().rounding_of_x > 0.01
    with np.load(path) as file:
        later = ("checks.rounding_of_x", "format")
        arrays = {name: file[name] for name in file if name not in later}
    np.savez(path, **arrays)
    assert evidence_of(data, checkpoint=path).summary().rounding_of_x > 0.01


@pytest.mark.filterwarnings("ignore:.*2.53")
@pytest.mark.parametrize("size", [2.0**24, 2.0**40, 2.0**52, 2.0**53])
def test_whole_numbers_of_any_size_are_told_to_be_rounded(size, caplog):
    """Numbers that float64 tells apart, and float32 makes one."""
    column = size + 2.0 * np.arange(40)
    is_rounded = size > 2**24
    assert (pv.Dataset(column[:, None]).rounding > 0.5) == is_rounded
    assert len(said(caplog)) == is_rounded
    caplog.clear()
    assert pv.Dataset(np.full((40, 1), size)).rounding == 0.0
    assert said(caplog) == []
