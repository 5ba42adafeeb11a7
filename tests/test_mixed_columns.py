"""Tables whose columns have likelihoods of their own."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.diagnostics.predictive.cdf import below_and_at
from ppl_vae.families.missing import observed_part

FAMILIES = {
    "weight": likelihoods.StudentT,
    "visits": likelihoods.NegativeBinomial,
    "region": likelihoods.Categorical(1, num_categories=3),
    "height": likelihoods.StudentT,
    "smokes": likelihoods.Bernoulli,
}
FEATURES = 4


def columns():
    """A likelihood of five columns, its weights drawn from one seed."""
    torch.manual_seed(0)
    found = likelihoods.Columns(FAMILIES | {"region": likelihoods.Categorical(1, num_categories=3)})
    found.build((FEATURES,))
    return found.double()


def frame(num_rows=300, seed=0):
    """A table with holes: positive, real, count, category, ordered, Boolean; two latent factors."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_rows, 2))
    table = pd.DataFrame(
        {
            "income": np.exp(z[:, 0] + 0.3 * rng.normal(size=num_rows)),
            "change": z[:, 1] + 0.3 * rng.normal(size=num_rows),
            "visits": rng.poisson(np.exp(1 + 0.5 * z[:, 0])),
            "region": pd.Categorical(np.array(["n", "s", "w"])[rng.integers(0, 3, num_rows)]),
            "grade": pd.Categorical(
                np.array(["low", "mid", "high"])[np.digitize(z[:, 1], [-1, 1])],
                ["low", "mid", "high"],
                ordered=True,
            ),
            "smokes": rng.random(num_rows) < 1 / (1 + np.exp(-2 * z[:, 0])),
        }
    )
    table.loc[::17, "income"] = np.nan
    table.loc[3::19, "region"] = np.nan
    return table


def draws(num_rows=6):
    with pv.seeded(1):
        features = torch.randn(num_rows, FEATURES, dtype=torch.float64)
        return features, columns()(features).sample().double()


def test_log_p_is_the_sum_over_columns_and_missing_ones_add_nothing():
    likelihood = columns()
    features, x = draws()
    joint = likelihood(features)
    assert joint.event_shape == (5,)
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for part, places in zip(likelihood.parts, likelihood.places, strict=True):
        own = part.elementwise(*part.parameters_of(features))
        expected[:, places] = own.log_prob(x[:, places])
    torch.testing.assert_close(joint.log_prob(x), expected.sum(1))
    assert likelihood.places == [[0, 3], [1], [2], [4]]  # columns of one class are one block
    missing = torch.tensor([[True, False, True, False, True]]).expand(6, 5)
    part, values = observed_part(joint, x.masked_fill(missing, torch.nan))
    torch.testing.assert_close(part.log_prob(values), expected.masked_fill(missing, 0.0).sum(1))


def test_distribution_functions_stay_with_their_columns():
    likelihood = columns().requires_grad_(False)
    features, x = draws()
    below, at = below_and_at(likelihood(features).expand([2, 6]), x)
    assert below.shape == at.shape == (2, 6, 5)
    for part, places in zip(likelihood.parts, likelihood.places, strict=True):
        own = part.elementwise(*part.parameters_of(features)).to_event(1)
        expected = below_and_at(own, x[:, places])
        np.testing.assert_allclose(below[0][:, places], expected[0], atol=1e-12)
        np.testing.assert_allclose(at[1][:, places], expected[1], atol=1e-12)


def test_a_table_goes_from_frame_to_frame():
    """Within four standard errors: twelve means, level 1e-3."""
    table = frame()
    data = pv.Dataset(table).split(valid=0.1, test=0.2, seed=0)
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), 6, start=data)
        model = pv.Model(priors.StandardNormal(2), likelihoods.Columns.of(data), start=data)
    training = pv.Training(num_epochs=80, learning_rate=3e-3, progress=False)
    pv.fit(model, guide, data, training=training)
    evidence = pv.log_evidence(model, guide, data.test, num_particles=100, progress=False)
    assert len(evidence) == 60
    with pv.seeded(1):
        drawn = data.to_frame(model.sample(4000))
    assert drawn.dtypes["region"] == table.dtypes["region"]
    assert drawn.dtypes["smokes"].kind == "b"
    for name in ("visits", "smokes", "change"):
        gap = drawn[name].mean() - table[name].mean()
        assert abs(gap) < 4 * table[name].std() / math.sqrt(len(table))
    for name in ("region", "grade"):
        shares = drawn[name].value_counts(normalize=True).sort_index()
        expected = table[name].value_counts(normalize=True).sort_index()
        se = np.sqrt(expected * (1 - expected) / len(table))
        assert ((shares - expected).abs() < 4 * se).all()


def test_a_choice_that_a_configuration_repeats_keeps_its_reason():
    data = pv.Dataset(frame())
    first = likelihoods.Columns.of(data)
    assert likelihoods.Columns.of(data, first.families).reasons == first.reasons
    other = likelihoods.Columns.of(data, first.families | {"change": likelihoods.Gaussian})
    assert other.reasons == first.reasons | {"change": "given"}


def test_the_choice_is_printed_with_its_reason():
    likelihood = likelihoods.Columns.of(pv.Dataset(frame()), {"change": likelihoods.Gaussian})
    lines = repr(likelihood).splitlines()
    assert lines[2].split() == ["change", "Gaussian", "given"]
    assert lines[4].split() == ["region", "Categorical", "category,", "3", "levels"]
    with pytest.raises(ValueError, match="no column 'age' among income, change"):
        likelihoods.Columns.of(pv.Dataset(frame()), {"age": likelihoods.Gaussian})


def test_positive_columns_get_the_family_that_describes_them_best():
    rng = np.random.default_rng(0)
    columns = {
        "normal": rng.normal(170, 10, size=500),
        "heavy": 500 + stats.t.rvs(3, size=500, random_state=rng),
        "lognormal": np.exp(rng.normal(size=500)),
        "gamma": rng.gamma(0.7, size=500),
        "few": np.exp(rng.normal(size=500)) * np.where(np.arange(500) < 19, 1.0, np.nan),
    }
    likelihood = likelihoods.Columns.of(pv.Dataset(pd.DataFrame(columns)))
    found = [line.split()[1] for line in repr(likelihood).splitlines()[1:-1]]
    assert found == ["StudentT", "StudentT", "LogNormal", "Gamma", "StudentT"]
    gain = stats.lognorm.fit(columns["lognormal"], floc=0)
    exact = stats.lognorm.logpdf(columns["lognormal"], *gain).mean()
    normal = stats.norm.logpdf(columns["lognormal"], *stats.norm.fit(columns["lognormal"])).mean()
    printed = float(likelihood.reasons["lognormal"].split()[1])
    assert 0.05 < printed <= exact - normal + 0.005


def test_answers_on_a_scale_are_ordered_categories():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "item": rng.choice([1, 2, 3, 4, 5], p=[0.3, 0.05, 0.05, 0.2, 0.4], size=300),
            "visits": 1 + rng.geometric(0.6, size=300) - 1,
            "children": rng.poisson(1.5, size=300),
            "many": rng.integers(1, 12, size=300),
        }
    )
    data = pv.Dataset(table, splits={"train": range(200), "test": range(200, 300)})
    found = likelihoods.Columns.of(data)
    kinds = [line.split()[1] for line in repr(found).splitlines()[1:-1]]
    assert kinds == ["Ordinal", "NegativeBinomial", "NegativeBinomial", "NegativeBinomial"]
    assert found.parts[0].num_categories == 6
    assert re.match(r"answers 1 to 5, 0\.\d\d nats per row", found.reasons["item"])


def test_only_equal_measures_are_compared():
    data = pv.Dataset(frame())
    assert likelihoods.Columns({"a": likelihoods.Poisson, "b": likelihoods.Bernoulli}).measure == (
        "counting"
    )
    chosen = likelihoods.Columns.of(data).measure
    other = likelihoods.Columns.of(data, {"visits": likelihoods.Gaussian}).measure
    assert chosen != other
    assert "visits: counting" in chosen
    assert "visits: lebesgue" in other


@pytest.mark.parametrize(
    ("families", "error", "message"),
    [
        ({"a": "Poisson"}, TypeError, "column 'a' is given 'Poisson': give a likelihood"),
        ({"a": likelihoods.LowRankNormal}, ValueError, "a LowRankNormal, one joint density"),
        ({"a": likelihoods.Multinomial(1)}, ValueError, "a Multinomial, one joint density"),
        ({"a": likelihoods.Poisson(2)}, ValueError, r"Poisson of shape \(2,\).*needs Poisson\(1"),
    ],
)
def test_what_is_no_likelihood_of_a_column_is_refused(families, error, message):
    with pytest.raises(error, match=message):
        likelihoods.Columns(families)


def test_values_outside_the_support_are_named_by_column():
    features, x = draws()
    x[4, 1] = -2
    with pytest.raises(ValueError, match="NegativeBinomial: x is -2 at row 4, feature visits; "):
        columns().check(x)


def test_other_columns_than_those_of_the_likelihood_are_refused():
    data = pv.Dataset(frame())
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 6)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Columns.of(data))
    with pytest.raises(ValueError, match="column 0 of x is 'visits'.* 'income'"):
        pv.log_evidence(model, guide, pv.Dataset(frame()[list(frame())[2:] + list(frame())[:2]]))


def test_the_encoder_reads_logs_of_counts_and_an_indicator_of_each_level():
    table = frame()
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 6, start=pv.Dataset(table))
    data = pv.Dataset(table)
    inputs = guide.inputs(data.x).numpy()
    assert inputs.shape == (300, 4 + 3 + 3)
    for place, name, transform in (
        (0, "income", lambda x: np.log1p(x / np.nanmin(x))),
        (1, "change", lambda x: x),
        (2, "visits", np.log1p),
    ):
        y = transform(table[name].to_numpy(float))
        expected = np.nan_to_num(stats.zscore(y, nan_policy="omit"))
        np.testing.assert_allclose(inputs[:, place], expected, atol=1e-5)
    indicators = pd.get_dummies(table["region"]).to_numpy(float)
    np.testing.assert_array_equal(inputs[:, 4:7], indicators)


def test_categories_under_a_likelihood_of_numbers_are_told(caplog):
    data = pv.Dataset(frame()[["change", "region"]])
    for likelihood in (likelihoods.Gaussian(2), likelihoods.Columns.of(data)):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), 2, start=data)
        model = pv.Model(priors.StandardNormal(2), likelihood, start=data)
        pv.fit(model, guide, data, training=pv.Training(num_epochs=1, progress=False))
    found = [r.message for r in caplog.records if "holds categories" in r.message]
    assert len(found) == 1
    assert found[0].startswith("column 'region' holds categories, whose codes Gaussian treats as")


def test_a_value_with_a_probability_of_its_own_is_told(caplog):
    table = frame()[["change", "visits"]].assign(
        pay=lambda t: np.where(t["change"] < 0, 0, t["change"])
    )
    data = pv.Dataset(table)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, start=data)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Columns.of(data), start=data)
    pv.fit(model, guide, data, training=pv.Training(num_epochs=1, progress=False))
    found = [r.message for r in caplog.records if "are exactly 0" in r.message]
    assert len(found) == 1
    assert "of 'pay' are exactly 0: a density has no upper limit there" in found[0]


def test_what_a_table_may_not_be():
    two = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["a", "a"])
    with pytest.raises(ValueError, match="x has two columns 'a': rename one of them"):
        pv.Dataset(two)
    with pytest.raises(TypeError, match="give a likelihood for each column by name"):
        likelihoods.Columns([likelihoods.Gaussian])
    data = pv.Dataset(frame()[["change", "visits"]], context=frame()[["income"]].fillna(1.0))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Columns.of(data), start=data)
    with pytest.raises(ValueError, match="takes 1 covariates and was given 0: give pv.Dataset"):
        model.sample(5)
