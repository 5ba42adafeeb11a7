"""Log-weights reduced block by block: the same evidence as from all of them at once, in memory that
the number of particles does not decide."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import Defensive, ImportanceSampling, reduce_log_weights
from ppl_vae.evidence.pareto import pareto_k
from ppl_vae.evidence.weights import Reduction

KINDS = ("tame", "heavy", "tied", "rising", "falling", "zero", "unknown", "infinite")
SIZES = (1, 2, 29, 30, 100, 2_000, 20_000)
MEGABYTE = 2**20


def log_weights_of(kind, num_particles):
    """Rows that are tame, heavy-tailed, equal, ordered, zero or unknown."""
    rng = np.random.default_rng(num_particles)
    z = rng.normal(size=(num_particles, 6))
    log_w = z * np.array([0.0, 1e-3, 0.5, 1.0, 3.0, 30.0])
    ordered = np.linspace(0, 900, num_particles)[:, None]
    match kind:
        case "heavy":
            return 0.5 * z**2 * np.array([0.1, 0.3, 0.5, 0.9, 1.5, 5.0])
        case "tied":
            return np.round(log_w)
        case "rising":
            return log_w + ordered
        case "falling":
            return log_w - ordered
        case "zero":
            log_w[rng.random(log_w.shape) < 0.5] = -np.inf
            log_w[:, 0] = -np.inf
            log_w[: num_particles // 2, 1] = -np.inf
        case "unknown":
            log_w[num_particles // 2, [1, 3]] = np.nan
        case "infinite":
            log_w[num_particles // 2, [0, 3]] = np.inf
    return log_w


def block_by_block(log_w, size, strata=()):
    reduction = Reduction(len(log_w), strata)
    for start in range(0, len(log_w), size):
        reduction.add(log_w[start : start + size])
    return reduction.evidence()


def check_equal(found, expected):
    """To 1e-12, but for the skewness of weights that differ in their last digits alone."""
    others = expected.arrays()
    for name, values in found.arrays().items():
        if values.dtype.kind in "fib":
            loose = name == "skewness"
            tolerance = {"rtol": 1e-9, "atol": 1e-10} if loose else {"rtol": 1e-12, "atol": 1e-14}
            np.testing.assert_allclose(values, others[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_give_the_evidence_of_the_whole(kind, dtype):
    for num_particles in SIZES:
        log_w = log_weights_of(kind, num_particles).astype(dtype)
        for strata in ((), (num_particles - num_particles // 3, num_particles // 3)):
            expected = reduce_log_weights(log_w, strata)
            for size in {1 + num_particles // 50, num_particles // 3 + 1, num_particles}:
                check_equal(block_by_block(log_w, size, strata), expected)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", ["tame", "heavy", "tied", "rising", "zero"])
def test_the_evidence_is_that_of_the_formulas(kind):
    """Each of them in a line, from all weights."""
    for num_particles in SIZES[1:]:
        log_w = log_weights_of(kind, num_particles)
        log_w = log_w[:, ~np.isneginf(log_w).all(0)]
        found = block_by_block(log_w, 1 + num_particles // 7)
        log_p = logsumexp(log_w, axis=0) - np.log(num_particles)
        ratio = np.exp(log_w - log_p)
        quarter = num_particles // 4
        ordered = np.sort(log_w, axis=0)
        expected = {
            "log_evidence": log_p,
            "elbo": log_w.mean(0),
            "ess": ratio.sum(0) ** 2 / (ratio**2).sum(0),
            "mc_se": ratio.std(0, ddof=1) / num_particles**0.5,
            "spread": ordered[-1 - quarter] - ordered[quarter],
            "pareto_k": pareto_k(log_w),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(
                getattr(found, name), values, rtol=1e-11, atol=1e-12, err_msg=name
            )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_with_an_undefined_weight_has_no_numbers_and_others_keep_theirs(value):
    """Weights of zero, log w = -inf, are no error."""
    log_w = log_weights_of("zero", 100)
    known = reduce_log_weights(log_w).arrays()
    assert known["log_evidence"][0] == -np.inf
    for place in (0, 57, 99):
        log_w[place, 2] = value
    found = reduce_log_weights(log_w)
    assert found.is_undefined.tolist() == [False, False, True, False, False, False]
    assert np.isnan(pareto_k(log_w)).tolist() == found.is_undefined.tolist()
    for name in ("log_evidence", "mc_se", "ess", "pareto_k", "elbo", "smoothed"):
        values = getattr(found, name)
        assert np.isnan(values[2]), name
        np.testing.assert_array_equal(np.delete(values, 2), np.delete(known[name], 2))
    assert "not defined for some rows" in str(found.summary())
    assert not found.unresolved.any()
    clusters = np.arange(100) // 20
    assert np.isnan(reduce_log_weights(log_w, clusters=clusters).mc_se).tolist()[2]


class Jumps(dist.Normal):
    """A density that is wrong above 2."""

    wrong = torch.inf

    def log_prob(self, value):
        return torch.where(value > 2.0, self.wrong, super().log_prob(value))


@pytest.mark.parametrize("bootstrap", [0, 20])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_the_site_of_an_undefined_density_is_named(value, bootstrap, monkeypatch):
    """Row 0 is far from what is wrong: its log p(x) is known, and kept."""
    monkeypatch.setattr(Jumps, "wrong", value)
    x = torch.tensor([-20.0, 3.5, 4.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", Jumps(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    said = "log p.x. is NaN for 2 rows, the first being row 1: the log-density of site 'z' is NaN"
    options = {"num_particles": 200, "bootstrap": bootstrap, "progress": False}
    with pytest.warns(UserWarning, match=said):
        found = pv.log_evidence(model, guide, x, **options)
    assert found.is_undefined.tolist() == [False, True, True]
    exact = dist.Normal(0.0, 2**0.5).log_prob(x[0]).item()
    # the guide is exact: three terms of about 100 nats, rounded in float32
    assert abs(found.log_evidence[0] - exact) < 4 * 100 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_that_are_rounded_to_a_few_numbers_give_no_errors(dtype, wide):
    """A guide far from the posterior, narrower than its float type: all weights are equal."""
    x = torch.tensor([0.0, 40.0], dtype=dtype)
    scale = 1.0 if wide else 1e-6

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, scale))

    is_rounded = dtype is torch.float32 and not wide
    data = pv.Dataset(x, dtype=dtype)
    found = pv.log_evidence(model, guide, data, num_particles=1000, progress=False)
    said = "or the draws of a narrow guide to a few numbers"
    assert (said in str(found.summary())) == is_rounded
    assert found.unresolved.tolist() == [False, is_rounded]
    assert np.isnan(found.pareto_k[1]) == is_rounded
    assert not found.is_estimate[1]


def test_a_single_log_weight_that_is_unknown_leaves_the_other_rows_alone():
    log_w = log_weights_of("unknown", 100)
    found = block_by_block(log_w, 7)
    known = [0, 2, 4, 5]
    assert np.isnan(found.log_evidence[[1, 3]]).all()
    assert not found.is_estimate[[1, 3]].any()
    expected = reduce_log_weights(log_w[:, known])
    check_equal(found[known], replace(expected, believed=found.believed[known]))


@pytest.mark.parametrize("proposal", ["guide", "prior", Defensive(), Defensive("inflated")])
def test_particles_that_are_drawn_in_parts_give_the_evidence_of_their_log_weights(proposal):
    """Three blocks of particles for each row."""
    bed = beds.linear_gaussian(num_data=3, guide_scale=0.8)
    method = ImportanceSampling(250, proposal, chunk_size=100)
    data = pv.Dataset(bed.x)
    log_w = method.log_weights(bed.model, bed.guide, data, 250, seed=3)
    assert log_w.shape == (250, 3)
    found = method.estimate(bed.model, bed.guide, data, seed=3)
    expected = reduce_log_weights(log_w, method._strata(250))
    check_equal(found, replace(expected, believed=found.believed))


def test_a_mixture_in_parts_estimates_log_p():
    bed = beds.linear_gaussian(num_data=4, guide_scale=0.7)
    method = ImportanceSampling(20_000, Defensive("inflated"), chunk_size=3_000)
    found = pv.log_evidence(bed.model, bed.guide, bed.x, method, progress=False)
    error = (found.log_evidence - bed.log_evidence.numpy()) / found.mc_se
    assert np.abs(error).max() < 4


def test_memory_does_not_grow_with_the_particles_of_a_row():
    """Ten million of them would be 80 MB; of one million log-weights the quartiles are taken."""
    reduction = Reduction(10_000_000)
    block = np.random.default_rng(0).normal(size=(100_000, 1))
    tracemalloc.start()
    try:
        for i in range(100):
            reduction.add(block + 1e-4 * i)
        evidence = reduction.evidence()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * MEGABYTE
    assert evidence.num_used[0] == 10_000_000
    assert abs(evidence.spread[0] - 1.349) < 0.02  # of a standard normal variable


def test_the_random_stream_is_put_back_where_particles_fail():
    """Parts are drawn while programs are in evaluation mode, on a stream of their own."""
    bed = beds.linear_gaussian(num_data=2)
    calls = []

    def failing(x):
        calls.append(len(x))
        if len(calls) > 12:  # after the checks, and before all parts are drawn
            raise KeyError("no such value")
        return bed.model(x)

    before = torch.random.get_rng_state()
    with pytest.raises(KeyError):
        pv.log_evidence(failing, bed.guide, bed.x, num_particles=900, chunk_size=100)
    assert torch.equal(torch.random.get_rng_state(), before)
