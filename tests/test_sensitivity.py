"""Imputed values that are moved by delta, and observed entries that are hidden and imputed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.tasks.imputation import Imputations, plot_overimputation, plot_tipping_point
from ppl_vae.tasks.imputation.hidden import below_and_at
from ppl_vae.tasks.imputation.imputations import Served
from ppl_vae.tasks.imputation.predictive import GRID, Predictive
from ppl_vae.tasks.imputation.sensitivity import TippingPoint
from ppl_vae.tasks.imputation.shifts import Shift

LEVELS = {
    "smokes": [0.7, 0.3],
    "grade": [0.2, 0.5, 0.3],
    "town": [0.5, 0.3, 0.2],
}
NUM = 4000  # of imputed entries of a column


def imputed(name, draws, probabilities=None):
    """Imputations of a column whose first 20 rows are observed; draws are (m, NUM)."""
    codes = draws[0]
    if name in ("grade", "town"):
        labels = ["a", "b", "c"]
        column = pd.Categorical.from_codes(
            np.concatenate([codes[:20], [-1] * NUM]).astype(int), labels, ordered=name == "grade"
        )
    else:
        column = np.concatenate([codes[:20], [np.nan] * NUM])
    frame = pd.DataFrame({name: column, "other": np.arange(20.0 + NUM) - 7.5})
    if name == "visits":
        frame = frame.astype({name: "Int64"})
    data = pv.Dataset(frame, dtype=torch.float64)
    asked = data.x.isnan().numpy()
    is_discrete = np.full(NUM, probabilities is not None)
    predictive = Predictive.empty(len(draws), is_discrete, num_levels=3, dtype=torch.float64)
    predictive.values[:] = draws
    if probabilities is not None:
        predictive.probabilities[:] = 0
        predictive.probabilities[:, : len(probabilities)] = probabilities
    return Imputations(data, asked, predictive, Served.empty(len(frame)), np.arange(len(draws)))


def levels(name, seed=0):
    """Imputations of a column of levels, drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = LEVELS[name]
    draws = rng.choice(len(probabilities), size=(2, NUM), p=probabilities).astype(float)
    return imputed(name, draws, probabilities)


def shares(imputations, num):
    values = imputations.predictive.values.astype(int).ravel()
    return np.bincount(values, minlength=num) / len(values)


@pytest.mark.statistical
@pytest.mark.parametrize("delta", [-1.5, -0.4, 0.0, 0.4, 1.5])
@pytest.mark.parametrize("name", LEVELS)
def test_delta_is_added_to_the_log_odds(name, delta):
    imputations = levels(name)
    before = np.array(LEVELS[name])
    target = "b" if name == "town" else None
    moved = Shift(imputations, name, target).moved(delta)
    if name == "town":
        after = before.copy()
        after[1] = special.expit(special.logit(0.3) + delta)
        after[[0, 2]] *= (1 - after[1]) / 0.7
    else:
        at_least = special.expit(special.logit(1 - before.cumsum()[:-1]) + delta)
        after = -np.diff(np.concatenate([[1], at_least, [0]]))
    se = np.sqrt(after * (1 - after) / (2 * NUM))
    assert (np.abs(shares(moved, len(after)) - after) < 4.5 * se).all()  # level 1e-4 for all 15


@pytest.mark.parametrize("name", LEVELS)
def test_levels_move_with_the_smallest_changes(name):
    imputations = levels(name)
    shift = Shift(imputations, name, "b" if name == "town" else None)
    moved = [shift.moved(delta).predictive.values for delta in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    np.testing.assert_array_equal(moved[2], imputations.predictive.values)
    is_target = [values == 1 if name == "town" else values for values in moved]
    assert all((b >= a).all() for a, b in zip(is_target, is_target[1:], strict=False))


def test_numbers_keep_their_support():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(2, NUM))
    real = Shift(imputed("mood", normal), "mood")
    np.testing.assert_allclose(real.moved(0.7).predictive.values, normal + 0.7)
    positive = Shift(imputed("income", np.exp(normal)), "income")
    assert (positive.scale, positive.neutral) == ("ratio", 1)
    np.testing.assert_allclose(positive.moved(0.5).predictive.values, np.exp(normal) / 2)
    share = Shift(imputed("share", special.expit(normal)), "share", scale="odds")
    moved = share.moved(0.7).predictive.values
    np.testing.assert_allclose(special.logit(moved), normal + 0.7)


@pytest.mark.statistical
def test_counts_stay_whole_and_their_mean_is_multiplied():
    counts = np.random.default_rng(1).poisson(4, size=(2, NUM)).astype(float)
    shift = Shift(imputed("visits", counts), "visits")
    moved = shift.moved(1.3)
    values = moved.predictive.values
    assert (values == np.round(values)).all()
    assert (values[counts == 0] == 0).all()
    se = np.sqrt(0.25 / values.size)  # of the rounding, at most
    assert abs(values.mean() - 1.3 * counts.mean()) < 4 * se  # level 6e-5
    np.testing.assert_array_equal(shift.moved(1.0).predictive.values, counts)
    assert moved.complete(0)["visits"].dtype == "Int64"


def test_the_tip_is_where_an_end_of_the_interval_crosses_the_null():
    rng = np.random.default_rng(0)
    imputations = imputed("mood", 1 + 0.1 * rng.normal(size=(3, NUM)))
    share = NUM / (NUM + 20)

    def analysis(frame):
        return frame["mood"].mean(), 0.04  # a variance that does not depend on delta

    # All observed values are positive, so that the default would be ratios.
    options = {"scale": "shift", "dfcom": 50}
    found = pv.tipping_point(imputations, "mood", analysis, [-2.0, -1.0, 0.0, 1.0], **options)
    start = found.pooled[2]
    np.testing.assert_allclose(found.tips, [-start.upper / share, -start.lower / share])
    assert found.nearest == found.tips[1]
    below, above = found.tips
    said = f"estimate differs from 0 for delta below {below:.3g} and above {above:.3g}"
    assert found.finding == said
    frame = found.to_frame()
    np.testing.assert_allclose(frame.estimate, start.estimate + share * found.deltas)
    assert frame.covers_null.tolist() == [False, True, False, False]
    ax = plot_tipping_point(found)
    assert ax.get_xlabel() == "delta: added to imputed values of mood (in its units)"
    assert ax.get_title() == found.finding
    none = pv.tipping_point(imputations, "mood", analysis, [-0.1, 0.1], **options)
    assert (len(none.tips), none.finding) == (
        0,
        "estimate differs from 0 for every delta from -0.1 to 0.1",
    )


@pytest.mark.parametrize(
    ("estimates", "neutral", "said"),
    [
        ((5, 5, 5, 5), 0, "differs from 0 for every delta from 0 to 3"),
        ((0, 0, 0, 0), 0, "does not differ from 0 for any delta from 0 to 3"),
        ((5, 5, 0, 0), 0, "differs from 0 for delta below 1.92"),
        ((5, 5, 0, 0), 3, "does not differ from 0 for delta above 1.92"),
        ((0, 5, 5, 0), 0, "does not differ from 0 for delta below 0.0784 and above 2.92"),
        ((0, 5, 5, 0), 2, "differs from 0 for delta between 0.0784 and 2.92"),
        ((5, 0, 0, 5), -1, "differs from 0 for delta below 0.922 and above 2.08"),
        ((5, 0, 5, 0), 0, "differs from 0 for delta below 0.922 and between 1.08 and 2.92"),
    ],
)
def test_the_finding_names_every_delta_with_the_same_conclusion(estimates, neutral, said):
    """At the delta nearest to the neutral one, which may not be among them."""
    pooled = [pv.pool([float(each)] * 2, [0.04] * 2) for each in estimates]
    found = TippingPoint(np.arange(4.0), pooled, "estimate", 0.0, float(neutral), "added")
    assert found.finding == f"estimate {said}"


BAD = {
    "no column 'age'": ("mood", "age", {}),
    "no value of 'other' was imputed": ("mood", "other", {}),
    "has no order": ("town", "town", {}),
    "has levels": ("grade", "grade", {"scale": "shift"}),
    "not between 0 and 1": ("mood", "mood", {"scale": "odds"}),
    "deltas hold nan": ("mood", "mood", {"deltas": [np.nan]}),
    "deltas hold -1": ("income", "income", {"deltas": [-1.0]}),
    "estimate is 'slope'": ("mood", "mood", {"estimate": "slope"}),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_of_tipping_points(message):
    name, column, options = BAD[message]
    draws = np.exp(np.random.default_rng(0).normal(size=(2, NUM)))
    draws -= 2 * (name == "mood")
    imputations = levels(name) if name in LEVELS else imputed(name, draws)
    with pytest.raises(ValueError, match=message):
        pv.tipping_point(imputations, column, lambda frame: ([1, 2], [1, 1]), **options)


# --- overimputation -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.25])
def test_a_share_of_the_observed_entries_of_each_column_is_hidden(share):
    bed = beds.linear_gaussian(num_data=100)
    x = bed.x.clone()
    x[:60, 0] = torch.nan
    options = {"method": "importance", "progress": False}
    found = pv.overimpute(bed.model, bed.guide, x, share=share, **options)
    expected = np.round(share * np.array([40, 100, 100, 100, 100]))
    assert found.counts.tolist() == np.maximum(1, expected).tolist()
    assert np.isnan(found.values[:60, 0]).all()


@pytest.mark.statistical
def test_a_right_model_covers_and_a_wrong_one_does_not():
    with pv.seeded(0):
        bed = beds.linear_gaussian(num_data=400)
    options = {"share": 0.3, "method": "importance", "progress": False}
    right = pv.overimpute(bed.model, bed.guide, bed.x, **options)
    for level in (0.5, 0.9, 0.95):
        z = (right.coverage(level) - level) / right.coverage_se(level)
        assert np.abs(z).max() < 4  # level 6e-5 for each of 15
    assert right.p_value > 0.001
    x = bed.x.clone()
    x[:, 2] *= 2  # the noise and the loadings of a column are twice those of the model
    wrong = pv.overimpute(bed.model, bed.guide, x, **options)
    assert wrong.p_values.argmin() == 2
    assert wrong.p_value < 1e-4
    assert wrong.coverage(0.9)[2] < 0.8
    frame = right.to_frame()
    assert (frame.relative_width < 1.1).all()
    assert list(frame.index) == [str(i) for i in range(5)]
    assert len(str(right).splitlines()) == 7
    assert len(plot_overimputation(right)) == 4


@pytest.mark.statistical
def test_pit_values_of_right_predictions_are_uniform_whatever_the_kind():
    rng = np.random.default_rng(0)
    rates = rng.gamma(3, 1, size=NUM)
    probabilities = rng.dirichlet([1, 1, 1], size=NUM)
    truth = {
        "real": rng.normal(rates),
        "count": rng.poisson(rates).astype(float),
        "category": (rng.random(NUM)[:, None] > probabilities.cumsum(1)).sum(1).astype(float),
    }
    for kind, values in truth.items():
        predictive = Predictive.empty(
            1, np.full(NUM, kind != "real"), num_levels=3, dtype=torch.float64
        )
        predictive.probabilities[:] = 0
        if kind == "real":
            predictive.quantiles[:] = stats.norm.ppf(GRID, rates[:, None])
        if kind == "count":
            predictive.probabilities[:, :-1] = stats.poisson.pmf(np.arange(50), rates[:, None])
        if kind == "category":
            predictive.probabilities[:, :3] = probabilities
        below, at = below_and_at(predictive, values, np.full(NUM, kind == "category"))
        pit = below + rng.random(NUM) * at
        assert stats.kstest(pit, "uniform").pvalue > 1e-3, kind  # level 1e-3 each
    # The most probable level comes first.
    first = np.take_along_axis(probabilities, values.astype(int)[:, None], 1)[:, 0]
    is_first = first == probabilities.max(1)
    assert (below[is_first] == 0).all()


def test_parts_of_a_total_are_not_hidden():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Multinomial(3))
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3)
    with pytest.raises(ValueError, match="add up to a total"):
        pv.overimpute(model, guide, torch.tensor([[1.0, 2.0, 0.0]]))


def test_moved_imputations_are_copies():
    imputations = levels("grade")
    before = imputations.predictive.values.copy()
    moved = Shift(imputations, "grade").moved(2.0)
    assert dataclasses.replace(moved).predictive is not imputations.predictive
    np.testing.assert_array_equal(imputations.predictive.values, before)
