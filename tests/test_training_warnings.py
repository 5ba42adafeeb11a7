"""What fit says before and after training: rarely where all is well, and where it matters."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.training.monitoring.trend import still_rising
from ppl_vae.training.warnings import few_rows, missing_codes, warn_before


def plateau(rng, num_epochs, correlation, rise=0.0):
    """A bound that has levelled off: first-order autoregressive noise of one nat."""
    noise = rng.normal(size=num_epochs)
    for i in range(1, num_epochs):
        noise[i] = correlation * noise[i - 1] + (1 - correlation**2) ** 0.5 * noise[i]
    return noise + rise * np.arange(num_epochs)


@pytest.mark.statistical
@pytest.mark.parametrize("num_epochs", [20, 60, 300])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_plateau_rarely_warns(num_epochs, correlation):
    """In at most 4 % of 300 trainings, of level 2 % and two standard errors, even with correlated
    noise of a nat."""
    rng = np.random.default_rng(0)
    said = [
        still_rising(plateau(rng, num_epochs, correlation), [1.0] * num_epochs) for _ in range(300)
    ]
    assert sum(each is not None for each in said) <= 12


@pytest.mark.parametrize("num_epochs", [20, 60, 300])
def test_a_rise_of_five_noises_is_said(num_epochs):
    rng = np.random.default_rng(1)
    slope = 5.0 / (0.3 * num_epochs)
    noisy = [
        0.3 * plateau(rng, num_epochs, 0.0) + slope * np.arange(num_epochs) for _ in range(100)
    ]
    assert sum(still_rising(each, [1.0] * num_epochs) is not None for each in noisy) >= 95


def test_the_warm_up_is_no_trend():
    rising = list(range(40))
    assert still_rising(rising, [0.5] * 40) is None
    assert still_rising(rising[:5], [1.0] * 5) is None
    assert still_rising([], []) is None


def said_before(x, likelihood, caplog, **options):
    """What is said before training on rows with these features."""
    data = pv.Dataset(x, **options)
    model = pv.Model(pv.priors.StandardNormal(1), likelihood, nn.Identity())
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_before(model, data)
    return [record.getMessage() for record in caplog.records]


def test_constant_and_unobserved_features_are_counted(caplog):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert said_before(x, pv.likelihoods.Gaussian(4), caplog) == []
    x[:, 2] = 3.0
    x[5, 2] = torch.nan
    (constant,) = said_before(x, pv.likelihoods.Gaussian(4), caplog, feature_names=list("abcd"))
    assert constant.startswith("1 of 4 features is constant in the training rows (the first is c)")
    x[:, 1] = torch.nan
    constant, unobserved = said_before(x, pv.likelihoods.Gaussian(4), caplog)
    assert constant.startswith("1 of 4 features")
    assert unobserved == (
        "no training row has a value of 1 of 4 features (the first is 1): leave it out"
    )


@pytest.mark.parametrize(("latent_dim", "is_told"), [(40, False), (41, True), (5000, True)])
def test_more_latents_than_rows_can_inform_are_told(caplog, latent_dim, is_told):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    model = pv.Model(pv.priors.StandardNormal(latent_dim), pv.likelihoods.Gaussian(4))
    caplog.clear()
    warn_before(model, pv.Dataset(x))
    said = [record.getMessage() for record in caplog.records]
    assert [f"latent_dim={latent_dim}, and a row has 4 values" in each for each in said] == (
        [True] * is_told
    )


def test_a_constant_image_of_pixels_is_no_fault(caplog):
    """Binary or counted: an array without names, in one family without a density."""
    for likelihood in (pv.likelihoods.Bernoulli(2), pv.likelihoods.Poisson(2)):
        assert said_before(torch.ones(200, 2), likelihood, caplog) == []


CONSTANT = {"count": 4, "none": 0, "Boolean": True, "real": 3.5, "category": "u"}


@pytest.mark.parametrize("num_missing", [0, 3])
@pytest.mark.parametrize("num_same", [1, 2])
@pytest.mark.parametrize("kind", CONSTANT)
def test_constant_columns_of_a_table_are_told_once_whatever_their_kind(
    kind, num_same, num_missing, caplog
):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"b": rng.normal(size=200), "k": rng.poisson(3.0, 200)})
    for name in "uv"[:num_same]:
        frame[name] = pd.Series([CONSTANT[kind]] * 200).convert_dtypes()
        frame.loc[: num_missing - 1, name] = pd.NA
    data = pv.Dataset(frame)
    likelihood = pv.likelihoods.Columns.of(data)
    (said,) = said_before(frame, likelihood, caplog)
    if kind == "real":
        assert said.startswith(f"{num_same} of {2 + num_same} features")
        assert "(the first is u): " in said
        return
    shown = repr(CONSTANT[kind]) if kind == "category" else int(CONSTANT[kind])
    others = " (2 such columns)" if num_same == 2 else ""
    assert said == (
        f"column 'u' of x is {shown} in all training rows and carries no information: drop it"
        + others
    )


def test_constant_columns_with_and_without_a_density_are_told_apart(caplog):
    families = {"a": pv.likelihoods.Bernoulli, "b": pv.likelihoods.StudentT}
    likelihood = pv.likelihoods.Columns(families)
    dense, other = said_before(torch.ones(200, 2), likelihood, caplog, feature_names=["a", "b"])
    assert dense.startswith("1 of 2 features is constant in the training rows (the first is b)")
    assert other.startswith("column 'a' of x is 1 in all training rows")


def test_a_column_of_classes_has_no_density(caplog):
    """Half of the classes are 0, and then all of them."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    model = pv.SemiSupervisedModel(2, pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(2))
    for classes in (np.arange(200) % 2, np.zeros(200)):
        x[:, 2] = classes
        warn_before(model, pv.Dataset(x))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("code", "others", "is_told"),
    [
        (-999, (18, 90), True),
        (-9, (1, 5), True),
        (9999, (0, 300), True),
        (99, (18, 90), False),  # an age that may be
        (-99, (-150, 20), False),
        (-999, (-2000, 5), False),
        (-1000, (18, 90), False),  # not a customary code
    ],
)
@pytest.mark.parametrize("num_coded", [1, 2, 40])
def test_codes_of_missing_values_are_told(code, others, is_told, num_coded):
    low, high = others
    values = torch.linspace(low, high, 101)
    values[::2] = values[::2].round()
    codes = torch.full((num_coded,), float(code))
    column = torch.cat([values, codes, torch.full((5,), float("nan"))])
    said = missing_codes(column.unsqueeze(1), ["age"])
    if is_told and num_coded > 1:
        assert said.startswith(
            f"{num_coded} values of 'age' are {code}, and the others lie between {low} and {high}: "
        )
    else:
        assert said is None


def test_fit_tells_of_codes_of_missing_values(caplog):
    age = np.random.default_rng(0).integers(18, 90, size=200).astype(float)
    age[:7] = -99
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(1), nn.Identity())
    with caplog.at_level(logging.WARNING):
        warn_before(model, pv.Dataset(age[:, None], feature_names=["age"]))
    assert "7 values of 'age' are -99" in caplog.text


def test_small_splits_are_named():
    assert few_rows({"train": 500, "valid": 50, "test": 50}) is None
    assert few_rows({"train": 16, "valid": 2, "test": 2}).startswith(
        "few rows (16 train, 2 valid, 2 test)"
    )


def test_fit_says_it_before_training(caplog):
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:, 1] = 4.0
    data = pv.Dataset(x, splits={"train": range(16), "valid": [16, 17], "test": [18, 19]})
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3, nn.Identity())
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(3), nn.Identity())
    with caplog.at_level(logging.WARNING):
        pv.fit(model, guide, data, training=pv.Training(num_epochs=1, progress=False))
    assert "few rows (16 train, 2 valid, 2 test)" in caplog.text
    assert "1 of 3 features is constant in the training rows (the first is 1)" in caplog.text


def test_fit_says_that_the_bound_still_rises(caplog):
    """Twenty epochs at a learning rate far too small for them; a long training of the same model
    has levelled off."""
    bed = pv.beds.linear_gaussian(400, 2, data_dim=10, noise=0.1)
    data = pv.Dataset(bed.x).split(valid=0.2, test=0.2)

    def warned(rate, num_epochs):
        with pv.seeded(0):
            guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), data.event_shape, nn.Identity())
            model = pv.Model(
                pv.priors.StandardNormal(1),
                pv.likelihoods.Gaussian(data.event_shape),
                nn.Identity(),
            )
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            training = pv.Training(num_epochs=num_epochs, learning_rate=rate, progress=False)
            pv.fit(model, guide, data, training=training)
        return "the held-out bound still rose at the end" in caplog.text

    assert warned(0.01, 20)
    assert not warned(0.05, 100)


@pytest.mark.parametrize("num_rows", [300, 25_000])
def test_rows_in_a_file_are_looked_at_as_those_in_memory(num_rows, tmp_path, caplog):
    x = np.random.default_rng(0).normal(size=(num_rows, 5)).astype(np.float32)
    x[:, 1], x[:, 2] = 3.0, np.nan
    x[: num_rows // 4, 3] = 0.0
    x[: num_rows // 20, 4] = 9999.0
    np.save(tmp_path / "x.npy", x)
    in_file = np.load(tmp_path / "x.npy", mmap_mode="r")
    known, found = (said_before(each, pv.likelihoods.Gaussian(5), caplog) for each in (x, in_file))
    assert len(known) == 4
    if num_rows < 10_000:
        assert found == known
    else:
        assert [each.partition(": ")[0] for each in found] == ["of 12,500 training rows"] * 4
