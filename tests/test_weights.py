"""Weights of rows: an integer weight does what as many copies of the row would do, but in standard
errors over rows, where a row is one observation."""

import re
from dataclasses import replace

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import OBJECTIVES
from pyro.infer import Trace_ELBO
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, likelihoods, objectives
from ppl_vae.data import Dataset
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.evidence.errors import covariance_of_means
from ppl_vae.programs.row_weights import weighted

WEIGHTS = np.array([1, 3, 2, 1, 1, 2, 4, 1])
X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COPIES = np.repeat(np.arange(8), WEIGHTS)


# -- training
# ----------------------------------------------------------------------------------------------


class Points(nn.Module):
    """z ~ N(g, 1), x ~ N(z a, s^2), g ~ N(0, 1) outside the plate; the guide has point masses, so
    that nothing is random."""

    def __init__(self, num_data=None):
        super().__init__()
        self.num_data = num_data
        start = [("slope", [1.0, -0.5]), ("log_s", 0.1), ("g", 0.3), ("map", [0.5, 0.2])]
        for name, value in start:
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def plate(self, x):
        return pyro.plate("data", self.num_data or len(x), subsample_size=len(x), dim=-1)

    def model(self, x):
        g = pyro.sample("g", dist.Normal(x.new_zeros(()), 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            likelihood = dist.Normal(z.unsqueeze(-1) * self.slope, self.log_s.exp())
            pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("g", dist.Delta(self.g))
        with self.plate(x):
            pyro.sample("z", dist.Delta(x @ self.map))


def trained(rows, weights, objective, sized=False, **options):
    splits = {"train": np.flatnonzero(rows < 6), "valid": np.flatnonzero(rows >= 6)}
    data = Dataset(X[rows], weights=weights, splits=splits, dtype=torch.float64)
    program = Points(len(splits["train"]) if sized else None)
    training = pv.Training(num_epochs=12, learning_rate=0.05, progress=False, **options)
    result = pv.fit(program.model, program.guide, data, objective=objective, training=training)
    return torch.cat([each.detach().flatten() for each in program.parameters()]), result.history


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize(
    ("objective", "sized", "parts"),
    [
        (objectives.TraceELBO(), False, 1),
        (objectives.TraceELBO(), True, 1),
        (objectives.IWAE(3), False, 2),
        (Trace_ELBO(), False, 1),
        (Trace_ELBO(), True, 1),
    ],
    ids=["elbo", "elbo, sized", "iwae, in parts", "pyro", "pyro, sized"],
)
def test_training_with_integer_weights_is_training_on_copies(objective, sized, parts, optimizer):
    options = {"num_parts": parts, "optimizer": optimizer}
    found, history = trained(np.arange(8), WEIGHTS, objective, sized, **options)
    expected, of_copies = trained(COPIES, None, objective, sized, **options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for name in ("train",) if sized else ("train", "valid"):  # the plate has the size of train
        np.testing.assert_allclose(history[name], of_copies[name], rtol=1e-9)
    plain, _ = trained(np.arange(8), None, objective, sized, **options)
    assert (plain - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "InfoVAE"])
def test_each_row_counts_by_its_weight_in_every_objective(name):
    bed = beds.linear_gaussian(num_data=8, guide_scale=1.2, guide_shift=0.3)
    objective = OBJECTIVES[name]()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    with pv.seeded(0):
        loss = objective.loss(weighted(bed.model), weighted(bed.guide), bed.x, weights)
    with pv.seeded(0):
        bound = objective.bound(bed.model, bed.guide, bed.x)
    sign = 1 if objective.is_upper else -1
    assert loss == pytest.approx(sign * (weights * bound).sum().item(), rel=1e-9)


def test_free_bits_are_spent_by_weight():
    """Dimensions are free by the mean of the weighted rows: with all weight on one, by its own."""
    objective = objectives.BetaELBO(free_bits=1.0)
    model = beds.linear_gaussian(num_data=8, latent_dim=1).model
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 5).double()
    with torch.no_grad():
        guide.posterior.link.linear.weight.mul_(10.0)
    x = beds.linear_gaussian(num_data=8, latent_dim=1).x

    def value(rows, weights):
        args = x[rows], torch.tensor(weights, dtype=torch.float64)
        with pv.seeded(0):
            return objective.loss(weighted(model), weighted(guide), *args)

    for row in range(8):
        weights = np.full(8, 1e-12)
        weights[row] = 1.0
        kl = pv.diagnostics.kl_per_dimension(model, guide, x)[row, 0]
        found = value(slice(None), weights)
        terms = objective.terms(model, guide, x)
        assert terms.scale == 1
        if kl < 1:
            assert found > value(slice(None), weights) - 1e-6


def test_a_recorded_step_takes_weights(caplog, monkeypatch):
    monkeypatch.setattr("ppl_vae.training.step.FEWEST_STEPS_TO_RECORD", 1)

    def run(compile):
        with pv.seeded(0):
            guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 2)
            model = pv.Model(pv.priors.StandardNormal(1), likelihoods.Gaussian(2))
        data = Dataset(X, weights=WEIGHTS)
        training = pv.Training(num_epochs=3, batch_size=4, compile=compile, progress=False)
        result = pv.fit(model, guide, data, training=training)
        return result.history["train"]

    with caplog.at_level("INFO", "ppl_vae"):
        recorded = run("auto")
    assert "training step recorded" in caplog.text
    np.testing.assert_allclose(recorded, run(False), rtol=1e-5)


def test_an_objective_that_compares_rows_takes_no_weights():
    with pytest.raises(ValueError, match="InfoVAE compares rows with each other and takes no wei"):
        trained(np.arange(8), WEIGHTS, objectives.InfoVAE())


# -- data sets
# ----------------------------------------------------------------------------------------------


def test_weights_are_a_column_and_follow_their_rows():
    frame = pandas.DataFrame({"a": np.arange(4.0), "w": [1, 2, 3, 4]}, index=list("abcd"))
    data = Dataset(frame, weights="w", splits={"train": [0, 2], "test": [3]})
    assert data.columns == {"x": ("a",)}
    assert data.sum_of_weights == 10
    assert data.train.weights.tolist() == [1, 3]
    assert data[[3, 0]].weights.tolist() == [4, 1]
    assert data.to(dtype=torch.float64).weights.dtype == torch.float64
    assert Dataset(torch.zeros(4, 2, 2), weights=[1, 2, 3, 4]).flatten().weights.tolist()[3] == 4
    assert "weights that sum to 10" in repr(data)
    assert Dataset(frame).sum_of_weights == 4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 0], "weight 0 at row 2: weights are positive numbers; leave out rows without one"),
        ([1, np.nan, 1], "weight nan at row 1: weights are positive numbers"),
        ([1, np.inf, 1], "weight inf at row 1: weights are positive numbers"),
        ([1, 2], "weights have shape (2, 1), x has 3 rows: give one weight per row"),
        ("v", "x has no column 'v' for weights: Allowed: a"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Dataset(pandas.DataFrame({"a": [1.0, 2.0, 3.0]}), weights=weights)


# -- means over rows
# ----------------------------------------------------------------------------------------------


def evidence(weights=None, rows=slice(None), seed=0, shift=0.0):
    log_w = np.random.default_rng(seed).normal(size=(100, 8)) + np.arange(8) + shift
    return reduce_log_weights(log_w[:, rows]) if weights is None else with_weights(log_w, weights)


def with_weights(log_w, weights):
    return pv.Evidence(**vars(reduce_log_weights(log_w)) | {"weights": np.asarray(weights, float)})


def test_means_with_integer_weights_are_means_over_copies():
    found, copies = evidence(WEIGHTS).summary(), evidence(rows=COPIES).summary()
    for name in ("log_evidence", "elbo", "mc_bias"):
        assert getattr(found, name) == pytest.approx(getattr(copies, name), rel=1e-12)
    assert (found.num_data, copies.num_data) == (8, 15)
    assert "nats per weighted row" in str(found)
    assert "weighted mean log p(x) >= " in found.brief()


def test_equal_weights_change_nothing():
    one, other = evidence(np.full(8, 2.5)), evidence()
    for name in ("log_evidence", "mc_se", "data_se", "mc_bias", "elbo"):
        value = getattr(other.summary(), name)
        assert getattr(one.summary(), name) == pytest.approx(value, rel=1e-12)
    comparisons = [
        pv.compare_models({"a": e, "b": f})
        for e, f in (
            (one, evidence(np.full(8, 2.5), seed=1, shift=0.3)),
            (other, evidence(seed=1, shift=0.3)),
        )
    ]
    weighted_table, table = (each.table.drop(columns="weight") for each in comparisons)
    pandas.testing.assert_frame_equal(weighted_table, table)


def test_standard_errors_hold_for_samples_with_unequal_probabilities():
    """Rows are sampled with probability p(size) and weighted by 1 / p: 95 % intervals for the mean
    of the population cover it. Level: 3 standard errors of 4,000 samples."""
    rng = np.random.default_rng(0)
    size = rng.exponential(size=20_000)
    value = size + rng.normal(size=20_000)
    probability = (0.2 + size) / (0.2 + size).sum()
    chosen = rng.choice(20_000, size=(4000, 200), p=probability)
    covered = 0
    for rows in chosen:
        zero = np.zeros(200)
        found = pv.Evidence(*[value[rows]] + [zero] * 5 + [zero + 1], weights=1 / probability[rows])
        summary = found.summary()
        covered += abs(summary.log_evidence - value.mean()) < 1.96 * summary.data_se
    assert abs(covered / 4000 - 0.94) < 0.02


def test_the_monte_carlo_error_adds_up_by_weight():
    found = evidence(WEIGHTS)
    expected = np.sqrt(np.square(WEIGHTS * found.mc_se).sum()) / WEIGHTS.sum()
    assert found.mean_mc_se == pytest.approx(expected, rel=1e-12)
    assert found[:3].weights.tolist() == [1, 3, 2]


def test_log_evidence_keeps_weights(tmp_path):
    bed = beds.linear_gaussian(num_data=8)
    data = Dataset(bed.x, weights=WEIGHTS, dtype=bed.x.dtype)
    path = tmp_path / "evidence.npz"
    for _ in range(2):  # anew, and resumed
        found = pv.log_evidence(bed.model, bed.guide, data, num_particles=30, checkpoint=path)
        assert found.weights.tolist() == WEIGHTS.tolist()
        assert found.summary().log_evidence == pytest.approx(
            np.average(bed.log_evidence.numpy(), weights=WEIGHTS), rel=1e-9
        )
    assert pv.Evidence.load(path).weights.tolist() == WEIGHTS.tolist()
    interval = pv.evidence_interval(bed.model, bed.guide, data).summary()
    assert interval.lower == pytest.approx(found.summary().log_evidence, rel=1e-3)
    assert interval.upper == pytest.approx(interval.lower, rel=1e-9)


# -- comparison
# ----------------------------------------------------------------------------------------------


def test_models_are_compared_by_weighted_paired_means():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 60))
    weights = rng.integers(1, 5, size=60)
    x = rng.normal(size=(60, 1))
    rows = np.repeat(np.arange(60), weights)

    def compared(rows, weights=None):
        about = {"measure": "lebesgue", "weights": weights}
        found = [pv.Evidence.exact(each[rows], x[rows], **about) for each in values]
        return pv.compare_models(dict(zip("abc", found, strict=True)), reference="a")

    found, copies = compared(slice(None), weights), compared(rows)
    assert found.names == copies.names
    for name in ("log_evidence", "difference"):
        np.testing.assert_allclose(getattr(found, name), getattr(copies, name), rtol=1e-9)
    np.testing.assert_allclose(found.weight, copies.weight, atol=2e-3)
    difference = values[1] - values[0]
    at = found.names.index("b")
    share = weights / weights.sum()
    squares = np.square(share * (difference - share @ difference))
    se = np.sqrt((squares / (1 - 2 * share + np.square(share).sum())).sum())
    assert found.difference_se[at] == pytest.approx(se, rel=1e-9)
    low, high = found.interval[at]
    assert 1.9 * se < (high - low) / 2 < 3 * se
    worth = round(weights.sum() ** 2 / np.square(weights).sum())
    assert f"60 rows are worth about {worth} of equal weight" in str(found)


def test_evidence_with_other_weights_is_not_compared():
    weighted_one = evidence(WEIGHTS)
    for other in (evidence(seed=1), evidence(WEIGHTS[::-1], seed=1)):
        with pytest.raises(ValueError, match="'a' and 'b' cannot be compared: their rows have"):
            pv.compare_models({"a": weighted_one, "b": other})
    pv.compare_models({"a": weighted_one, "b": evidence(2 * WEIGHTS, seed=1)})
    with pytest.raises(ValueError, match="the rows have weights, and ArviZ takes none"):
        pv.diagnostics.to_elpd(weighted_one)


# -- what takes no weights says so
# ----------------------------------------------------------------------------------------------

RAINFORTH = beds.rainforth(num_data=8, latent_dim=2)
TAKES_NONE = {
    "predictive_check": lambda bed, data: pv.predictive_check(bed.model, bed.guide, data),
    "marginal_pit": lambda bed, data: pv.marginal_pit(bed.model, data, num_samples=20),
    "conditional_pit": lambda bed, data: pv.conditional_pit(
        bed.model, bed.guide, data, num_particles=20
    ),
    "elbo_surgery": lambda bed, data: pv.elbo_surgery(bed.model, bed.guide, data, num_particles=10),
    "active_units": lambda bed, data: pv.active_units(bed.model, bed.guide, data),
    "printed mean": lambda bed, data: pv.rate_distortion(bed.model, bed.guide, data),
    "calibration": lambda bed, data: pv.calibration(bed.model, bed.guide, data, num_data=10),
    "baselines": lambda bed, data: pv.baselines(data, likelihoods.Gaussian, rows=data),
    "compare_estimators": lambda bed, data: pv.compare_estimators(
        RAINFORTH.model,
        RAINFORTH.amortised_guide,
        Dataset(RAINFORTH.x, weights=np.arange(1, 9), dtype=RAINFORTH.x.dtype),
        [objectives.TraceELBO()],
        num_replicates=4,
    ),
}


@pytest.mark.parametrize("name", TAKES_NONE)
def test_what_takes_no_weights_says_so(name):
    bed = beds.linear_gaussian(num_data=40)
    data = Dataset(bed.x, weights=np.arange(1, 41), dtype=bed.x.dtype)
    with pytest.warns(UserWarning, match=f"weights of the rows are not used: .*{name}"):
        TAKES_NONE[name](bed, data)


# --- few rows with most of the weight -------------------------------------------------------------

HEAVY = {
    "equal": np.ones(100),
    "log-normal, sd 2": np.exp(2 * np.random.default_rng(5).normal(size=100)),
    "one of 90 %": np.r_[0.9, np.full(99, 0.1 / 99)],
    "one of 99 %": np.r_[0.99, np.full(99, 0.01 / 99)],
    "one of all but 1e-9": np.r_[1.0, np.full(99, 1e-11)],
}


@pytest.mark.parametrize("name", HEAVY)
def test_the_squared_standard_error_is_unbiased(name):
    """It is a quadratic form of the values, whose mean for independent values of variance 1 is its
    trace: that of the mean, the sum of the squared shares."""
    weights = HEAVY[name]
    share = weights / weights.sum()
    trace = sum(covariance_of_means(row[:, None], weights)[0, 0] for row in np.eye(len(weights)))
    assert trace == pytest.approx(np.square(share).sum(), rel=1e-5)


@pytest.mark.parametrize("name", HEAVY)
def test_differences_of_weighted_rows_are_covered(name):
    """Nominal 95 % of 150 tables of equal models: .93 within two standard errors; without an end
    where one row holds nearly all of the weight."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(100, 1))
    about = {"measure": "lebesgue", "weights": HEAVY[name]}
    covered = 0
    for _ in range(150):
        one, other = (pv.Evidence.exact(each, x, **about) for each in rng.normal(size=(2, 100)))
        found = pv.compare_models({"one": one, "other": other}, reference="one")
        low, high = found.interval[found.names.index("other")]
        covered += low <= 0 <= high
    assert covered / 150 >= 0.93 - 2 * (0.93 * 0.07 / 150) ** 0.5
    if name.startswith("one of"):
        assert (low, high) == (-np.inf, np.inf)


def test_shares_of_weighted_rows_are_shares_of_their_weight():
    """One row with 99 % of the weight and weights that no mean can be taken of."""
    log_weights = np.random.default_rng(0).normal(scale=0.3, size=(1000, 200))
    log_weights[0, 0] = 50.0
    weights = np.r_[0.99, np.full(199, 0.01 / 199)]
    found = replace(reduce_log_weights(log_weights), weights=weights).summary()
    plain = reduce_log_weights(log_weights).summary()
    assert (found.share_bad_k, plain.share_bad_k) == pytest.approx((0.99, 1 / 200))
    assert (found.share_estimate, plain.share_estimate) == pytest.approx((0.01, 199 / 200))
    assert found.mean_ess == pytest.approx(
        np.average(reduce_log_weights(log_weights).ess, weights=weights)
    )
    assert "an estimate for 1 % of the weight" in str(found)
