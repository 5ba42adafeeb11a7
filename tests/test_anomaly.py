"""Conformal p-values are valid for any score, discoveries keep their rate, and scores are functions
of the row alone."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control

import ppl_vae as pv
from ppl_vae import ImportanceSampling, Sandwich, beds, likelihoods, posteriors, priors
from ppl_vae.refinement import GradientRefinement
from ppl_vae.runtime.seeding import generator
from ppl_vae.tasks.anomaly import (
    AnomalyPValues,
    LikelihoodRegret,
    LogEvidence,
    LowerEnd,
    Typicality,
    conformal_p_values,
    odd_columns,
    plot_anomalies,
)
from ppl_vae.tasks.anomaly.shared_rows import told_shared

NUM_CALIBRATION, NUM_NULL, NUM_ODD = 200, 90, 10
REDRAWS = 2000
QUICK = LogEvidence(num_particles=30, refinement=None)


@pytest.fixture(scope="module")
def bed():
    """Rows of the linear-Gaussian model with an exact guide, in float64."""
    return beds.linear_gaussian(num_data=300)


@pytest.fixture(scope="module")
def inexact():
    """The same with a guide that is shifted and too narrow."""
    return beds.linear_gaussian(num_data=40, guide_scale=0.7, guide_shift=0.5)


# --- laws of the p-values -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redraws():
    """P-values of redrawn splits of one pool of scores, (redraws, null + odd); the odd rows last.

    Null scores are chi-squared, the odd ones larger by 14."""
    rng = np.random.default_rng(0)
    pool = rng.chisquare(3, size=3000)
    odd = 14 + rng.chisquare(3, size=500)
    num = NUM_CALIBRATION + NUM_NULL
    null = np.stack([rng.choice(pool, num, replace=False) for _ in range(REDRAWS)])
    far = np.stack([rng.choice(odd, NUM_ODD, replace=False) for _ in range(REDRAWS)])
    scores = np.concatenate([null[:, NUM_CALIBRATION:], far], axis=1)
    pairs = zip(null[:, :NUM_CALIBRATION], scores, strict=True)
    return np.stack([conformal_p_values(*pair) for pair in pairs])


@pytest.mark.statistical
def test_null_p_values_are_super_uniform(redraws):
    one = redraws[:, 0]  # one null row of each redraw: independent of other redraws
    for level in (0.01, 0.05, 0.1, 0.2, 0.5):
        se = np.sqrt(level * (1 - level) / REDRAWS)
        assert (one <= level).mean() <= level + 3.5 * se  # level 2e-4 each
        exact = np.floor(level * (NUM_CALIBRATION + 1)) / (NUM_CALIBRATION + 1)
        assert (one <= level).mean() >= exact - 3.5 * se


@pytest.mark.statistical
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_false_discoveries_keep_their_rate(redraws, alpha):
    found = false_discovery_control(redraws, axis=1) <= alpha
    false = found[:, :NUM_NULL].sum(1)
    proportion = false / np.maximum(found.sum(1), 1)
    share_null = NUM_NULL / (NUM_NULL + NUM_ODD)
    se = proportion.std() / np.sqrt(REDRAWS)
    assert proportion.mean() <= alpha * share_null + 3 * se  # level 1e-3 each
    power = found[:, NUM_NULL:].mean()
    assert power > {0.05: 0.5, 0.1: 0.9, 0.2: 0.95}[alpha]


def test_p_values_count_the_rows_that_are_at_least_as_odd():
    known = np.array([0.0, 1.0, 1.0, 2.0, np.inf])
    scores = np.array([-1.0, 1.0, 1.5, np.inf])
    direct = [(1 + (known >= each).sum()) / 6 for each in scores]
    np.testing.assert_allclose(conformal_p_values(known, scores), direct, rtol=1e-15)
    found = AnomalyPValues.from_scores(known, scores)
    np.testing.assert_allclose(found.weighted(np.ones(5), np.ones(4)).p_values, direct, rtol=1e-15)
    weights = np.array([1.0, 0.0, 2.0, 3.0, 0.5])
    expected = [(weights[known >= s].sum() + 0.7) / (6.5 + 0.7) for s in scores]
    weighted = found.weighted(weights, np.full(4, 0.7))
    np.testing.assert_allclose(weighted.p_values, expected, rtol=1e-14)
    share = generator(3).random(4)
    odder = np.array([weights[known > s].sum() for s in scores])
    tied = np.array([weights[known == s].sum() for s in scores]) + 0.7
    drawn = weighted.randomised(3).p_values
    np.testing.assert_allclose(drawn, (odder + share * tied) / (6.5 + 0.7), rtol=1e-14)
    equal = found.weighted(np.ones(5), np.ones(4)).randomised(3).p_values
    np.testing.assert_allclose(equal, found.randomised(3).p_values, rtol=1e-14)


@pytest.mark.statistical
def test_randomised_p_values_under_a_shift_are_uniform():
    """Calibration N(0, 1), rows N(1, 1), scores rounded: null under weights exp(x - 1/2)."""
    rng = np.random.default_rng(0)
    small = []
    for seed in range(1000):
        known, own = rng.normal(size=100), rng.normal(1, 1, size=1)
        found = AnomalyPValues.from_scores(known.round(1), own.round(1))
        weighted = found.weighted(np.exp(known.round(1) - 0.5), np.exp(own.round(1) - 0.5))
        small.append(weighted.randomised(seed).p_values[0] <= 0.1)
    assert np.mean(small) < 0.1 + 4 * np.sqrt(0.1 * 0.9 / 1000)  # level 3e-5
    assert np.mean(small) > 0.05


@pytest.mark.statistical
def test_randomised_p_values_are_uniform_where_scores_tie():
    rng = np.random.default_rng(1)
    scores = rng.integers(3, size=(400, 31))
    found = [AnomalyPValues.from_scores(row[:30], row[30:]) for row in scores]
    plain = np.concatenate([each.p_values for each in found])
    p_values = np.concatenate([each.randomised(seed).p_values for seed, each in enumerate(found)])
    assert (p_values <= plain).all()
    assert abs(p_values.mean() - 0.5) < 4 / np.sqrt(12 * 400)  # level 6e-5
    assert plain.mean() > 0.6


def test_discoveries_are_those_of_scipy_and_say_when_none_is_possible():
    rng = np.random.default_rng(2)
    found = AnomalyPValues.from_scores(rng.normal(size=500), rng.normal(size=50) + 2)
    for method in ("bh", "by"):
        expected = false_discovery_control(found.p_values, method=method) <= 0.1
        assert (found.discoveries(0.1, method) == expected).all()
        assert expected.sum() > 2
    # n + 1 = 10 < m / alpha = 40: four rows at the smallest p-value are needed, and found
    four = AnomalyPValues.from_scores(np.arange(9.0), [9.0] * 4)
    assert four.discoveries(0.1).all()
    one = AnomalyPValues.from_scores(np.arange(9.0), [9.0, 1.0, 1.0, 1.0])
    with pytest.warns(UserWarning, match="takes 4 or more of the 4 rows .* 39 rows of calibration"):
        assert not one.discoveries(0.1).any()
    with pytest.warns(UserWarning, match="takes more rows than there are"):
        one.discoveries(0.05)
    enough = AnomalyPValues.from_scores(np.arange(39.0), [39.0, 1.0, 1.0, 1.0])
    assert enough.discoveries(0.1).tolist() == [True, False, False, False]


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "score",
    [
        LogEvidence(50, GradientRefinement(num_steps=20)),
        LikelihoodRegret(50, GradientRefinement(num_steps=20)),
        QUICK,
    ],
    ids=["refined", "regret", "plain"],
)
def test_a_score_is_a_function_of_its_row(inexact, score):
    data = pv.Dataset(inexact.x, dtype=torch.float64)
    whole = score.oddness(inexact.model, inexact.guide, data, progress=False)
    some = [31, 4, 17]
    part = score.oddness(inexact.model, inexact.guide, data[some], progress=False)
    np.testing.assert_allclose(part, whole[some], atol=1e-6, rtol=0)


def test_a_posterior_that_cannot_share_its_noise_is_refined_row_by_row():
    x = torch.randn(3, 2)
    with pv.seeded(0):
        guide = pv.Guide(posteriors.StudentT(1), 2, start=x)
        model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=x)
    score = LogEvidence(20, GradientRefinement(num_steps=2))
    found = [score.oddness(model, guide, pv.Dataset(rows), False) for rows in (x, x.flip(0))]
    np.testing.assert_allclose(found[0], found[1][::-1], atol=1e-6)


def test_scores_are_exact_on_the_linear_gaussian_bed(inexact):
    model, guide, x = inexact.model, inexact.guide, inexact.x[:8]
    data, exact = pv.Dataset(x, dtype=torch.float64), inexact.log_evidence[:8].numpy()
    short = GradientRefinement(num_steps=150)
    found = LogEvidence(200, short).oddness(model, guide, data, progress=False)
    np.testing.assert_allclose(found, -exact, atol=1e-3)  # refined guides are nearly exact
    reference = pv.Dataset(inexact.x[8:], dtype=torch.float64)
    score = Typicality(200, short, reference=reference).ready(model, guide, None, progress=False)
    centre = np.median(inexact.log_evidence[8:])
    typical = score.oddness(model, guide, data, progress=False)
    np.testing.assert_allclose(typical, abs(exact - centre), atol=2e-3)
    regret = LikelihoodRegret(1000, short).oddness(model, guide, data, progress=False)
    q = guide.posterior(x)
    p = torch.distributions.MultivariateNormal(*model.posterior(x))
    gap = torch.distributions.kl_divergence(q, p).numpy()
    np.testing.assert_allclose(regret, gap, atol=0.15)  # KL(q || p), by 1,000 draws


def test_the_lower_end_is_that_of_the_row_alone(inexact):
    data = pv.Dataset(inexact.x[:2], dtype=torch.float64)
    method = Sandwich(ImportanceSampling(500), check=None, upper=None)
    found = LowerEnd(method).oddness(inexact.model, inexact.guide, data, progress=False)
    for row in range(2):
        alone = pv.evidence_interval(inexact.model, inexact.guide, inexact.x[[row]], method)
        assert found[row] == -alone.lower[0]


def test_anomalous_rows_are_discovered(bed):
    rows = torch.cat([bed.x[:40], bed.x[:4] + 6.0])
    frame = pd.DataFrame(rows.numpy(), index=[f"row {i}" for i in range(44)])
    data = pv.Dataset(frame, dtype=torch.float64)
    found = pv.anomaly_pvalues(bed.model, bed.guide, bed.x[40:], data, score=QUICK)
    assert found.discoveries(0.1)[40:].all()
    table = found.to_frame()
    assert list(table.index) == list(frame.index)
    np.testing.assert_array_equal(table["p_value"], found.p_values)
    assert (table["adjusted"] <= 0.1).tolist() == found.discoveries(0.1).tolist()
    assert repr(found).startswith("AnomalyPValues(44 rows, LogEvidence, calibrated by 260 rows;")
    assert len(plot_anomalies(found).lines[-1].get_xdata()) == found.discoveries(0.1).sum()


def test_a_function_and_the_scores_of_another_detector_serve(bed):
    def distance(model, guide, rows):
        return (rows.x**2).sum(1)

    found = pv.anomaly_pvalues(bed.model, bed.guide, bed.x[:50], bed.x[50:60], score=distance)
    squares = (bed.x**2).sum(1).numpy()
    other = AnomalyPValues.from_scores(squares[:50], squares[50:60], score="distance")
    np.testing.assert_array_equal(found.p_values, other.p_values)
    assert found.score == "distance"


def test_typicality_takes_its_centre_from_the_training_rows(bed):
    splits = {"train": range(150), "test": range(150, 300)}
    data = pv.Dataset(bed.x, dtype=torch.float64).with_splits(splits)
    score = Typicality(30, refinement=None)
    rows = (data.test[:100], data.test[100:])
    found = pv.anomaly_pvalues(bed.model, bed.guide, *rows, score=score, trained_on=data)
    log_p = bed.log_evidence.numpy()
    expected = abs(log_p[250:] - np.median(log_p[:150]))
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


# --- columns --------------------------------------------------------------------------------------


def test_columns_are_judged_by_their_exact_conditional_density(bed):
    known, rows = bed.x[:40].clone(), bed.x[40:44].clone()
    rows[0, 2] += 5.0
    rows[1, 3] = torch.nan
    known[0, 0] = torch.nan
    found = odd_columns(bed.model, bed.guide, known, rows, num_particles=400, progress=False)
    covariance = bed.loading @ bed.loading.T + torch.diag(bed.noise**2)

    def exact(x, column):
        """-log p(x_j given the observed others)."""
        rest = [j for j in range(5) if j != column and not x[j].isnan()]
        slope = torch.linalg.solve(covariance[rest][:, rest], covariance[rest, column])
        mean = bed.mean[column] + slope @ (x[rest] - bed.mean[rest])
        variance = covariance[column, column] - slope @ covariance[rest, column]
        return -torch.distributions.Normal(mean, variance.sqrt()).log_prob(x[column]).item()

    # Monte Carlo errors swap rows of nearly equal density.
    for column in range(5):
        among = np.array([exact(x, column) for x in known if not x[column].isnan()])
        for row in range(4):
            if rows[row, column].isnan():
                assert np.isnan(found.iloc[row, column])
                continue
            p = conformal_p_values(among, np.array([exact(rows[row], column)]))[0]
            assert abs(found.iloc[row, column] - p) <= 5 / 41


# --- refusals -------------------------------------------------------------------------------------


def call(bed, calibration, rows, **options):
    return pv.anomaly_pvalues(bed.model, bed.guide, calibration, rows, **{"score": QUICK} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": "x[:0]"}, "calibration: "),
        ({"rows": "x[100:, :4]"}, "data has rows of shape (4,) and calibration of (5,)"),
        ({"score": "density"}, "Allowed: log_evidence, lower_end, typicality, regret"),
        ({"score": LogEvidence}, "score is <class"),
        ({"score": "typicality"}, "give trained_on=data"),
        ({"score": lambda *_: 1.0}, "gives an array of shape"),
        ({"score": lambda m, g, d: d.x[:, 0] * np.nan}, "calibration row 0 is NaN"),
        ({"rows": "x[90:120]"}, "10 of the 100 calibration rows, the first of them row 90"),
    ],
)
def test_bad_input_is_refused_in_one_line(bed, change, message):
    given = {"calibration": "x[:100]", "rows": "x[100:]"} | change
    parts = [eval(given.pop(name), {"x": bed.x}) for name in ("calibration", "rows")]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call(bed, *parts, **given)
    assert "\n" not in str(error.value)


def test_rows_of_training_and_validation_are_refused(bed):
    splits = {"train": range(100), "valid": range(100, 150), "test": range(150, 300)}
    data = pv.Dataset(bed.x, dtype=torch.float64).with_splits(splits)
    for part, name in ((data.train, "train"), (data.valid, "valid")):
        with pytest.raises(ValueError, match=f"also among the {name} rows: calibrate by rows"):
            call(bed, part, data.test, trained_on=data)
    with pytest.raises(ValueError, match="are also among the reference rows"):
        call(bed, data.valid, data.test, score=Typicality(reference=data.valid))
    call(bed, data.test[:100], data.test[100:], trained_on=data)
    for part, name in ((data.train, "train"), (data.valid, "valid")):
        with pytest.warns(UserWarning, match=f"tested rows, .* are also among the {name} rows"):
            call(bed, data.test, part, trained_on=data)


@pytest.mark.parametrize("num_bits", [6, 8, 10])
@pytest.mark.parametrize("num_rows", [3, 19, 50])
def test_few_rows_that_repeat_by_nature_are_told_from_rows_of_training(num_bits, num_rows):
    """Twenty fresh samples: none is said to be among 2,000 rows of training."""
    rng = np.random.default_rng(0)
    train = pv.Dataset(rng.integers(2, size=(2_000, num_bits)))
    for _ in range(20):
        fresh = pv.Dataset(rng.integers(2, size=(num_rows, num_bits)))
        assert told_shared(fresh, train, ("tested", "train")) is None
    reals = pv.Dataset(rng.normal(size=(2_000, num_bits)))
    assert "are also among" in told_shared(reals[:num_rows], reals, ("tested", "train"))


def test_rows_that_repeat_by_nature_are_not_refused():
    bits = torch.randint(2, (200, 3), generator=torch.Generator().manual_seed(0)).float()
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(3))
    found = pv.anomaly_pvalues(model, guide, bits[:100], bits[100:], score=QUICK)
    assert len(np.unique(found.p_values)) <= 8  # ties: equal rows have equal scores


def test_values_missing_in_one_part_are_named(bed):
    holes = bed.x[100:].clone()
    holes[0, 0] = torch.nan
    with pytest.warns(UserWarning, match="missing in the tested rows alone"):
        found = call(bed, bed.x[:100], holes)
    exact = bed.model.log_evidence(holes).numpy()
    np.testing.assert_allclose(found.scores, -exact, atol=1e-5)


def test_numbers_that_are_no_scores_or_levels():
    found = AnomalyPValues.from_scores([1.0, 2.0], [3.0])
    assert found.p_values.tolist() == [1 / 3]
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="alpha is"):
            found.discoveries(alpha)
    with pytest.raises(ValueError, match="must be 'bh' or 'by'"):
        found.discoveries(method="holm")
    with pytest.raises(ValueError, match="there are no calibration scores"):
        AnomalyPValues.from_scores([], [1.0])
    with pytest.raises(ValueError, match="calibration_weights is -1 at row 1"):
        found.weighted([1.0, -1.0], [1.0])
    with pytest.warns(UserWarning, match="all rows have the score 1: every p-value is 1"):
        AnomalyPValues.from_scores([1.0, 1.0], [1.0])
    dead = AnomalyPValues.from_scores([np.inf, 0.0], [np.inf, 1.0])
    assert dead.p_values.tolist() == [2 / 3, 2 / 3]


NO_ORACLE = "nonconform is not installed"


def test_p_values_agree_with_nonconform():
    nonconform = pytest.importorskip("nonconform", reason=NO_ORACLE)
    rng = np.random.default_rng(3)
    known, scores = (
        rng.integers(30, size=100).astype(float),
        rng.integers(40, size=20).astype(float),
    )
    found = AnomalyPValues.from_scores(known, scores)
    oracle = nonconform.Empirical()
    np.testing.assert_allclose(found.p_values, oracle.compute_p_values(scores, known))
    weights = rng.exponential(size=100), rng.exponential(size=20)
    expected = oracle.compute_p_values(scores, known, weights)
    np.testing.assert_allclose(found.weighted(*weights).p_values, expected, rtol=1e-12)


@pytest.mark.statistical
def test_weighted_discoveries_keep_their_rate_under_a_shift():
    """c ~ N(0, 1) in calibration and N(1, 1) among the rows; scores follow c. 150 redraws; without
    weights nearly every discovery is false in proportion to the nulls."""
    pytest.importorskip("nonconform", reason=NO_ORACLE)
    rng = np.random.default_rng(4)
    shares, powers = [], []
    for _ in range(150):
        c_known, c = rng.normal(size=300), 1 + rng.normal(size=30)
        odd = np.arange(30) < 10
        known = c_known + 0.3 * rng.normal(size=300)
        scores = c + 0.3 * rng.normal(size=30) + 5.0 * odd
        found = AnomalyPValues.from_scores(known, scores)
        chosen = found.weighted_discoveries(np.exp(c_known), np.exp(c), alpha=0.2)
        shares.append((chosen & ~odd).sum() / max(1, chosen.sum()))
        powers.append(chosen[odd].mean())
    assert np.mean(shares) < 0.2 * 20 / 30 + 3 * np.std(shares) / np.sqrt(150)
    assert np.mean(powers) > 0.1


def test_wrong_scores_and_weights_are_named():
    found = AnomalyPValues.from_scores(np.arange(9.0), [1.0, 2.0])
    ones = np.ones(9), np.ones(2)
    for call, message in (
        (lambda: AnomalyPValues.from_scores([], [1.0]), "there are no calibration scores"),
        (lambda: AnomalyPValues.from_scores([[1.0]], [1.0]), r"calibration scores .* \(1, 1\)"),
        (lambda: AnomalyPValues.from_scores([1.0], ["a"]), "test scores are no numbers"),
        (lambda: AnomalyPValues.from_scores([1.0], [2.0], names="ab"), "names has the shape"),
        (lambda: found.weighted(np.ones(3), ones[1]), r"_weights has the shape \(3,\) for 9 rows"),
        (lambda: found.weighted(ones[0], [1, -2]), "^weights is -2 at row 1: a ratio"),
        (lambda: found.weighted(ones[0], [1, np.nan]), "^weights is nan at row 1"),
        (lambda: found.weighted(0 * ones[0], [1, 0]), "a p-value is 0 / 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_rows_that_share_a_latent_are_not_refined():
    data = pv.Dataset(torch.randn(40, 3), context=torch.rand(40, 1))
    prior = priors.GaussianProcess(2, context_dim=1)
    model = pv.Model(prior, likelihoods.Gaussian(3), start=data)
    guide = pv.Guide(posteriors.GaussianProcess(prior), 3, start=data)
    rows = data[:20], data[20:]
    for score in ("log_evidence", "regret", "lower_end"):
        with pytest.raises(
            ValueError, match="share the latent 'inducing' of GaussianProcess.*None"
        ):
            pv.anomaly_pvalues(model, guide, *rows, score=score)
    assert len(pv.anomaly_pvalues(model, guide, *rows, score=QUICK)) == 20


def test_columns_of_a_model_with_a_mechanism_are_refused():
    rows = pd.DataFrame({"income": [1.0, 2.0, np.nan, 4.0], "age": [3.0, 1.0, 2.0, 5.0]})
    data = pv.Dataset(rows)
    mechanism = pv.missingness.SelfMasking({"income": 1})
    prior, likelihood = priors.StandardNormal(1), likelihoods.Gaussian(2)
    model = pv.Model(prior, likelihood, start=data, missingness=mechanism)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data, missing=True)
    with pytest.raises(ValueError, match="odd_columns needs a model without missingness="):
        pv.odd_columns(model, guide, data, data)
