"""Importance sampling, complete: smoothing, verdicts, defensive proposals, adaptive K, resuming."""

import numpy as np
import pyro
import pytest
import torch
from arviz_stats.base import array_stats
from cases import PROBLEMS, data_for, vae
from scipy.special import logsumexp
from test_evidence import gaussian_log_weights

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import Defensive, ImportanceSampling, reduce_log_weights
from ppl_vae.evidence.evidence import ARRAYS, bootstrap_se

GUIDES = {"exact": {}, "narrow": {"guide_scale": 0.6}, "wide": {"guide_scale": 1.7}, "shifted": {"guide_shift": 0.5}}
BEDS = ("linear_gaussian", "gaussian_mixture", "gamma_poisson", "beta_bernoulli", "rainforth")


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("problem", BEDS)
def test_intervals_cover_wherever_the_verdict_is_estimate(problem, guide):
    """400 seeds at K = 2000: nominal 95 % intervals hold 90 to 99 %, counting those said to be estimates."""
    bed = PROBLEMS[problem](1, **GUIDES[guide])
    x = bed.x.repeat(400, *[1] * (bed.x.dim() - 1))
    evidence = pv.log_evidence(bed.model, bed.guide, x, num_particles=2000, seed=2)
    error = np.abs(evidence.log_evidence - bed.exact_log_evidence(x).numpy())
    believed = evidence.is_estimate
    if guide == "exact":
        assert believed.all()
        assert (error < 1e-9).all()
    elif guide == "narrow":
        assert believed.mean() < 0.05
    else:
        assert believed.mean() > 0.3
        covered = (error < 1.96 * evidence.mc_se)[believed].mean()
        assert 0.90 < covered < 0.99
    if guide == "wide":
        assert believed.mean() > 0.9


def test_smoothing_is_arvizs():
    log_w = gaussian_log_weights(2.0, 1000, 5) - 40.0
    smoothed = reduce_log_weights(log_w).smoothed
    for column, value in zip(log_w.T, smoothed, strict=True):
        normalised, _ = array_stats.psislw(-column)
        body = np.argsort(column)[:500]
        shift = (column - normalised)[body]  # the body is only normalised
        np.testing.assert_allclose(shift, shift[0], atol=1e-10)
        np.testing.assert_allclose(value, logsumexp(normalised + shift[0]) - np.log(1000), atol=1e-10)


def test_smoothing_calms_heavy_tails():
    """k = 0.56: over 300 repeats the smoothed estimate varies less and stays within 4 standard errors of the truth."""
    evidence = reduce_log_weights(gaussian_log_weights(1.5, 200, 300))
    assert evidence.smoothed.std() < evidence.log_evidence.std()
    assert abs(evidence.smoothed.mean()) < 4 * evidence.smoothed.std() / 300**0.5 + 0.02


def test_particles_needed_follow_k_hat():
    evidence = reduce_log_weights(gaussian_log_weights(1.5, 4000, 3))
    np.testing.assert_allclose(evidence.num_needed, 10 ** (1 / (1 - np.maximum(evidence.pareto_k, 0))))
    assert reduce_log_weights(gaussian_log_weights(20.0, 4000, 1)).num_needed[0] > 1e6
    assert reduce_log_weights(np.zeros((100, 1))).num_needed[0] == 10.0


def test_bootstrap_agrees_with_the_delta_method_where_both_hold():
    """A wide guide: within 15 %, the bootstrap's own noise at 400 resamples being 3.5 %."""
    bed = beds.linear_gaussian(8, guide_scale=1.3)
    delta, bootstrap = (pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=2000, bootstrap=b) for b in (0, 400))
    np.testing.assert_array_equal(delta.log_evidence, bootstrap.log_evidence)
    np.testing.assert_allclose(bootstrap.mc_se, delta.mc_se, rtol=0.15)


@pytest.mark.parametrize("proposal", [Defensive(), Defensive("inflated", 0.3, 2.0)], ids=repr)
@pytest.mark.parametrize("problem", ["linear_gaussian", "rainforth"])
def test_defensive_proposals_repair_a_narrow_guide(problem, proposal):
    """The weights are bounded: k-hat falls below 0.5, and intervals over 300 repeats cover 90 to 99 %."""
    bed = PROBLEMS[problem](1, guide_scale=0.5)
    x = bed.x.repeat(300, 1)
    plain = pv.log_evidence(bed.model, bed.guide, x, num_particles=1000)
    defended = pv.log_evidence(bed.model, bed.guide, x, ImportanceSampling(1000, proposal))
    assert np.median(plain.pareto_k) > 0.55
    assert np.median(defended.pareto_k) < 0.5
    error = np.abs(defended.log_evidence - bed.log_evidence.item())
    assert 0.90 < (error < 1.96 * defended.mc_se).mean() < 0.99


def test_a_mixtures_error_is_without_the_difference_between_its_parts():
    """Two parts of constant, unlike weights have no error at all; unlike parts have that of a sum, by hand."""
    halves = np.log(np.repeat([[1.0], [3.0]], [60, 40], axis=0))
    assert reduce_log_weights(halves, [60, 40]).mc_se[0] == 0
    assert reduce_log_weights(halves).mc_se[0] > 0.05
    log_w = np.random.default_rng(0).normal(size=(100, 4))
    first, second = np.exp(log_w[:60]), np.exp(log_w[60:])
    variance = (60 * first.var(0, ddof=1) + 40 * second.var(0, ddof=1)) / 100**2
    evidence = reduce_log_weights(log_w, [60, 40])
    np.testing.assert_allclose(evidence.mc_se, np.sqrt(variance) / np.exp(log_w).mean(0))
    np.testing.assert_array_equal(evidence.log_evidence, reduce_log_weights(log_w).log_evidence)
    # the bootstrap resamples each part: within its own noise, 2.5 % at 800 resamples, and that of 60 and 40 draws
    np.testing.assert_allclose(bootstrap_se(log_w, 800, 0, [60, 40]), evidence.mc_se, rtol=0.15)


@pytest.mark.parametrize("posterior", ["MeanFieldNormal", "LowRankNormal", "FullRankNormal", "FlowPosterior"])
def test_every_family_can_be_inflated_and_mixed(posterior):
    """Same value as plain sampling within 4.5 standard errors."""
    model, guide = (program.double() for program in vae(posterior=posterior))
    x = data_for("Bernoulli", num_data=6).double()
    plain = pv.log_evidence(model, guide, x, num_particles=3000)
    for proposal in (Defensive(), Defensive("inflated")):
        mixed = pv.log_evidence(model, guide, x, ImportanceSampling(3000, proposal), seed=1)
        assert (np.abs(mixed.log_evidence - plain.log_evidence) < 4.5 * np.hypot(mixed.mc_se, plain.mc_se)).all()


def test_what_cannot_be_inflated_says_so():
    bed = beds.gamma_poisson(4)
    with pytest.raises(ValueError, match=r"site 'z' is Gamma, which cannot be inflated: use Defensive\(\"prior\"\)"):
        pv.log_evidence(bed.model, bed.guide, bed.x, ImportanceSampling(50, Defensive("inflated")))


def test_adaptive_particles_stop_at_the_target_or_at_the_end():
    bed = beds.linear_gaussian(30, guide_scale=1.3)
    method = ImportanceSampling(20_000, target_se=0.02)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, method)
    assert (evidence.mc_se < 0.02).all()
    assert (evidence.num_used < 20_000).all()
    assert len(np.unique(evidence.num_used)) >= 1
    error = np.abs(evidence.log_evidence - bed.log_evidence.numpy())
    assert (error < 4.5 * evidence.mc_se).all()
    narrow = beds.linear_gaussian(5, guide_scale=0.5)
    spent = pv.log_evidence(narrow.model, narrow.guide, narrow.x, ImportanceSampling(1600, target_se=1e-4))
    assert (spent.num_used == 1600).all()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch, stop_after):
    bed, file = beds.linear_gaussian(20, guide_scale=1.3), tmp_path / "evidence.npz"
    method = ImportanceSampling(50, chunk_size=50 * 3)
    whole = pv.log_evidence(bed.model, bed.guide, bed.x, method)
    calls = []
    estimate = ImportanceSampling.estimate

    def stumbling(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return estimate(self, *args, **kwargs)

    monkeypatch.setattr("ppl_vae.evidence.estimate.SECONDS_BETWEEN_WRITES", -1.0)
    monkeypatch.setattr(ImportanceSampling, "estimate", stumbling)
    with pytest.raises(KeyboardInterrupt):
        pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    with pytest.raises(
        ValueError, match=rf"a checkpoint with {3 * stop_after} of 20 rows done: call log_evidence again"
    ):
        pv.Evidence.load(file)
    monkeypatch.setattr(ImportanceSampling, "estimate", estimate)
    resumed = pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(pv.Evidence.load(file), name), getattr(whole, name))
    with pytest.raises(ValueError, match=r"holds another call .*: delete it"):
        pv.log_evidence(bed.model, bed.guide, bed.x, method, seed=1, checkpoint=file)


def test_a_checkpoint_knows_the_weights(tmp_path):
    model, guide = vae()
    x, file = data_for("Bernoulli", num_data=6), tmp_path / "evidence.npz"
    pv.log_evidence(model, guide, x, num_particles=30, checkpoint=file)
    torch.nn.init.zeros_(guide.encoder.weight)
    with pytest.raises(ValueError, match="holds another call"):
        pv.log_evidence(model, guide, x, num_particles=30, checkpoint=file)


def test_nothing_is_left_in_pyros_parameter_store():
    model, guide = vae()
    for proposal in ("guide", "prior", Defensive()):
        pv.log_evidence(model, guide, data_for("Bernoulli", 8), ImportanceSampling(30, proposal), progress=False)
    assert not list(pyro.get_param_store().keys())


def test_a_checkpoint_knows_another_model_of_equal_weights(tmp_path):
    models = {name: vae(likelihood=name)[0] for name in ("Bernoulli", "ContinuousBernoulli")}
    guide, x = vae()[1], data_for("Bernoulli", 8)
    models["ContinuousBernoulli"].load_state_dict(models["Bernoulli"].state_dict())
    settings = {"num_particles": 30, "checkpoint": tmp_path / "one.npz", "progress": False}
    pv.log_evidence(models["Bernoulli"], guide, x, **settings)
    with pytest.raises(ValueError, match="holds another model or guide"):
        pv.log_evidence(models["ContinuousBernoulli"], guide, x, **settings)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_named_with_a_remedy(content, tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    with pytest.raises(ValueError, match="is no checkpoint of log_evidence: delete it, or name another file"):
        pv.log_evidence(model, guide, x, num_particles=30, checkpoint=path, progress=False)


@pytest.mark.parametrize("method", ["AIS", pv.AIS, pv.HMC(1, 1)])
def test_what_is_no_method_is_refused(method):
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    with pytest.raises(ValueError, match="give a method of evidence, made"):
        pv.log_evidence(model, guide, x, method)
