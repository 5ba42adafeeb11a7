"""Settings for a table, and the code that makes them."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine

import ppl_vae as pv
from ppl_vae import likelihoods


def frame(num_rows=80):
    """Numbers, counts, a category and a hole."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=num_rows)
    table = pd.DataFrame(
        {
            "score": z + 0.1 * rng.normal(size=num_rows),
            "visits": rng.poisson(np.exp(z)),
            "site": np.where(z > 0, "north", "south"),
        }
    )
    table.loc[4, "score"] = np.nan
    return table


@pytest.mark.parametrize("context", [None, ["site"]])
def test_the_printed_code_makes_the_same_recipe(context):
    data = pv.Dataset(frame(), context=context).split(valid=0.2, test=0.1, seed=1)
    found = pv.recipe(data, seed=3, progress=False)
    code, _, fitting = str(found).rpartition("result = ")
    names = {"data": data}
    exec(code, names)
    for made, own in ((names["model"], found.model), (names["guide"], found.guide)):
        assert str(made) == str(own)
        for one, other in zip(made.state_dict().items(), own.state_dict().items(), strict=True):
            assert one[0] == other[0]
            assert torch.equal(one[1], other[1])
    assert repr(names["objective"]) == repr(found.objective)
    for field in (
        "num_epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "patience",
        "refit",
        "seed",
    ):
        assert getattr(names["training"], field) == getattr(found.training, field)
    assert fitting == "pv.fit(model, guide, data, objective=objective, training=training)"


def test_validation_rows_come_from_the_training_rows():
    data = pv.Dataset(frame(), splits={"train": range(60), "test": range(60, 80)})
    found = pv.recipe(data).data
    assert len(found.test) == 20
    assert len(found.valid) == 7
    assert {*found.splits["train"], *found.splits["valid"]} == set(range(60))
    whole = pv.recipe(frame()).data
    assert (len(whole.train), len(whole.valid)) == (70, 10)


def test_a_recipe_beats_independent_normals_and_the_defaults():
    x = load_wine().data[np.random.default_rng(0).permutation(178)]
    data = pv.Dataset(x, splits={"train": range(120), "test": range(120, 178)})
    found = pv.recipe(data, num_steps=600, progress=False)
    found.fit()
    evidence = pv.log_evidence(
        found.model, found.guide, found.data.test, num_particles=300, progress=False
    )
    normals = stats.norm.logpdf(x[120:], x[:120].mean(0), x[:120].std(0)).sum(1)
    gains = evidence.log_evidence - normals
    assert gains.mean() > 2 * gains.std() / len(gains) ** 0.5


def test_what_is_no_table_or_too_small_is_refused():
    with pytest.raises(ValueError, match="needs 20 training rows or more; there are 19"):
        pv.recipe(frame(19))
    with pytest.raises(ValueError, match=r"rows of 'data' are of shape \(4, 4\)"):
        pv.recipe(torch.rand(50, 4, 4))


def test_large_tables_get_larger_batches_and_enough_epochs():
    found = pv.recipe(np.random.default_rng(0).normal(size=(40_000, 2)))
    assert (found.training.batch_size, found.training.num_epochs) == (256, 22)
    assert found.model.latent_dim == 2
    assert isinstance(found.model.likelihood, likelihoods.Columns)


def test_a_recipe_fits_without_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        found = pv.recipe(frame(200), num_steps=300, progress=False)
        result = found.fit()
    assert result.num_epochs <= found.training.num_epochs
    assert result.refit_epochs == result.best_epoch
    assert found.model.num_train == 200
    assert [r.message for r in caplog.records if "level" not in r.message] == []
