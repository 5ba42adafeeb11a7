"""Refinement against closed forms: the best member of a family, for these rows alone, and nothing
else changed."""

import copy
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from ppl_vae import (
    Dataset,
    Guide,
    Model,
    beds,
    likelihoods,
    objectives,
    posteriors,
    priors,
    to_datatree,
)
from ppl_vae.diagnostics import rate_distortion
from ppl_vae.evidence import log_evidence
from ppl_vae.hmc import HMC
from ppl_vae.importance import log_weights
from ppl_vae.refinement import GradientRefinement, SampledRefinement, refine
from ppl_vae.refinement.gradient import ELBO
from tests.cases import REAL_POSTERIORS, vae

FAST = GradientRefinement(num_steps=120, learning_rate=0.1)
QUICK = HMC(num_samples=60, num_warmup=60, num_leapfrog=5)
BRIEF = GradientRefinement(num_steps=20)


def elbo(model, guide, x, context=None, num_particles=1000):
    return log_weights(model, guide, x, context, num_particles=num_particles, seed=1).mean(0)


class TwoLatents(PyroModule):
    """A count with a positive rate and a share of its own: one positive and one bounded latent,
    correlated given x."""

    def forward(self, x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(3.0, 0.5))
            share = pyro.sample("share", dist.Uniform(0.0, 1.0))
            rates = torch.stack([rate * share, rate * (1 - share), rate], dim=-1)
            pyro.sample("x", dist.Poisson(rates).to_event(1), obs=x)


def two_latents_guide(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rate", dist.LogNormal(x[..., 2].add(1.0).log(), 0.5))
        pyro.sample("share", dist.Beta(2.0 * torch.ones(len(x)), 2.0))


def two_latents_log_evidence(x, num_points=400):
    """By the midpoint rule on a grid over both latents."""
    share = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    rate = 40 * share[:, None]
    rates = torch.stack(torch.broadcast_tensors(rate * share, rate * (1 - share), rate), dim=-1)
    log_p = dist.Gamma(3.0, 0.5).log_prob(rate) + dist.Poisson(rates).to_event(1).log_prob(
        x[:, None, None].double()
    )
    return log_p.flatten(1).logsumexp(1) + np.log(40 / num_points**2)


def linear_vae(posterior, num_data=8):
    """A linear-Gaussian VAE of the library's own parts, in float64, with an untrained encoder."""
    decoder = nn.Identity()
    model = Model(priors.StandardNormal(2), likelihoods.Gaussian(4, scale=0.5), decoder).double()
    guide = Guide(posterior, 4, nn.Identity()).double()
    x = model.sample(num_data)
    bed = beds.linear_gaussian_at(x, affine(model))
    return model, guide, x, bed


def affine(model):
    with torch.no_grad():
        zero, unit = torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        offset = model.decode(zero).mean[0]
        loading = (model.decode(unit).mean - offset).mT
    return beds.Affine(loading, offset, torch.full((4,), 0.5, dtype=torch.float64))


# --- what refinement finds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "distortion", [{"guide_scale": 0.4}, {"guide_scale": 1.7}, {"guide_shift": 1.5}], ids=str
)
def test_a_distorted_guide_returns_to_the_exact_one(distortion):
    bed = beds.linear_gaussian(num_data=10, **distortion)
    refined = refine(bed.model, bed.guide, bed.x, FAST)
    assert (bed.log_evidence - elbo(bed.model, refined, bed.x)).abs().max() < 0.01
    before, after = (
        log_evidence(bed.model, g, bed.x, num_particles=1000) for g in (bed.guide, refined)
    )
    assert after.ess.min() > 980
    assert after.ess.mean() > before.ess.mean()
    assert (after.pareto_k < 0.5).all()
    if distortion.get("guide_scale") == 0.4:  # in theory k = 1 - 0.4^2
        assert before.pareto_k.mean() > 0.6


@pytest.mark.parametrize(
    "objective", [objectives.MeanFieldELBO(20), objectives.TraceELBO(20)], ids=str
)
def test_mean_field_refinement_reaches_the_best_mean_field_elbo(objective):
    model, guide, x, bed = linear_vae(posteriors.MeanFieldNormal(2))
    refined = refine(
        model, guide, x, GradientRefinement(num_steps=200, learning_rate=0.1, objective=objective)
    )
    log_w = log_weights(model, refined, x, num_particles=4000, seed=1)
    se = log_w.std(0) / 4000**0.5
    # above it only by chance: 4 standard errors, 8 rows; below it by what 200 noisy steps leave
    assert (log_w.mean(0) - bed.best_mean_field_elbo < 4 * se).all()
    assert (bed.best_mean_field_elbo - log_w.mean(0) < 4 * se + 0.01).all()


def test_a_richer_family_removes_the_gap_of_a_mean_field_guide():
    model, guide, x, bed = linear_vae(posteriors.MeanFieldNormal(2))
    full = GradientRefinement(
        num_steps=120, learning_rate=0.1, posterior=posteriors.FullRankNormal(2)
    )
    refined = refine(model, guide, x, full)
    assert (bed.log_evidence - elbo(model, refined, x)).abs().max() < 0.01
    assert (bed.log_evidence - bed.best_mean_field_elbo).min() > 0.04


@pytest.mark.parametrize("sd", [1e-3, 1.0])
def test_steps_are_in_units_of_the_posterior_sd(sd):
    # sd of the posterior about noise / |loading|
    bed = beds.linear_gaussian(num_data=10, noise=sd, guide_scale=0.5, guide_shift=3.0)
    refined = refine(bed.model, bed.guide, bed.x, FAST)
    assert (bed.log_evidence - elbo(bed.model, refined, bed.x)).abs().max() < 0.01


def test_the_default_covers_the_tails_that_the_elbo_leaves():
    bed = beds.linear_gaussian(num_data=40, latent_dim=6, data_dim=8, noise=1.0)
    mean_fields = [
        GradientRefinement(posterior=posteriors.MeanFieldNormal(6), objective=objective)
        for objective in (None, ELBO)
    ]
    both, elbo_alone = (
        log_evidence(
            bed.model, refine(bed.model, bed.guide, bed.x, each), bed.x, num_particles=1000
        )
        for each in mean_fields
    )
    # k-hat of one row has a standard error of about 0.15
    assert (elbo_alone.pareto_k - both.pareto_k).mean() > 0.15
    assert both.ess.mean() > 1.2 * elbo_alone.ess.mean()


@pytest.mark.parametrize("learning_rate", [1.0, 50.0, 1000.0])
def test_rows_that_diverge_keep_their_start(learning_rate):
    bed = beds.linear_gaussian(num_data=40, noise=0.3)
    x = bed.x * torch.tensor([1.0] * 30 + [3.0] * 5 + [30.0] * 5).unsqueeze(-1)
    bed = beds.linear_gaussian_at(x, bed.model.affine, guide_scale=0.7, guide_shift=0.5)
    wild = GradientRefinement(num_steps=50, learning_rate=learning_rate)
    before, after = (
        log_evidence(bed.model, guide, x, num_particles=500).log_evidence - bed.log_evidence.numpy()
        for guide in (bed.guide, refine(bed.model, bed.guide, x, wild))
    )
    assert (np.abs(after) - np.abs(before)).max() < 1  # nats; thousands without the comparison


def test_moments_of_the_exact_posterior_are_sampled():
    bed = beds.linear_gaussian(num_data=6, guide_scale=0.5, guide_shift=0.5)
    refined = refine(bed.model, bed.guide, bed.x, SampledRefinement(QUICK, num_chains=16))
    q, sd = refined.encode(bed.x), bed.posterior_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    # 960 draws of at least 300 independent: standard errors of 0.06 sd for means, 4 % for sds; 4 of
    # them, 12 scalars
    assert ((q.mean - bed.posterior_mean) / sd).abs().max() < 4 * 0.06
    assert (q.stddev / (1.1 * sd) - 1).abs().max() < 4 * 0.04
    assert (log_evidence(bed.model, refined, bed.x, num_particles=1000).pareto_k < 0.5).all()


def test_inflation_is_a_factor_on_the_standard_deviations():
    bed = beds.linear_gaussian(num_data=3)
    sampler = HMC(num_samples=5, num_warmup=5, num_leapfrog=2)
    plain, wide = (
        refine(bed.model, bed.guide, bed.x, SampledRefinement(sampler, inflation=f))
        for f in (1.0, 2.0)
    )
    assert torch.allclose(2 * plain.encode(bed.x).stddev, wide.encode(bed.x).stddev, rtol=1e-10)


# --- any family, any program ----------------------------------------------------------------------


@pytest.mark.parametrize("posterior", REAL_POSTERIORS)
def test_every_family_gains_on_its_own_guide(posterior):
    torch.manual_seed(3)
    model, guide = vae("GaussianMixture", posterior=posterior)
    x = model.sample(6)
    refined = refine(model, guide, x, FAST)
    before, after = (log_weights(model, g, x, num_particles=2000, seed=1) for g in (guide, refined))
    gain, se = (after - before).mean(0), (after - before).std(0) / 2000**0.5
    assert (gain > -4 * se - 1e-6).all()
    assert gain.mean() > 4 * se.mean()


def test_a_plain_guide_with_a_positive_and_a_bounded_latent():
    model, x = TwoLatents(), torch.tensor([[1.0, 4.0, 6.0], [0.0, 0.0, 2.0], [9.0, 2.0, 8.0]])
    exact, refined = two_latents_log_evidence(x), refine(model, two_latents_guide, x, FAST)
    before, after = (
        log_evidence(model, g, x, num_particles=4000) for g in (two_latents_guide, refined)
    )
    assert (np.abs(after.log_evidence - exact.numpy()) < 4 * after.mc_se).all()
    assert (after.elbo > before.elbo).all()
    assert (after.ess > 0.6 * 4000).all()
    drawn = pyro.poutine.trace(refined).get_trace(x)
    assert set(refined(x)) == {"rate", "share"} <= set(drawn.nodes)


def test_sampling_serves_constrained_latents_too():
    model, x = TwoLatents(), torch.tensor([[1.0, 4.0, 6.0], [9.0, 2.0, 8.0]])
    refined = refine(model, two_latents_guide, x, SampledRefinement(QUICK, num_chains=16))
    after = log_evidence(model, refined, x, num_particles=4000)
    assert (
        np.abs(after.log_evidence - two_latents_log_evidence(x).numpy()) < 4 * after.mc_se
    ).all()


def test_missing_values_and_covariates():
    posterior = posteriors.FullRankNormal(2)
    guide = Guide(posterior, 4, nn.Linear(7, 6), context_dim=3).double()
    model = Model(
        priors.StandardNormal(2), likelihoods.Gaussian(4, scale=0.5), nn.Identity(), context_dim=3
    ).double()
    context = torch.randn(6, 3, dtype=torch.float64)
    x = model.sample(6, context)
    x[0, 1], x[3] = float("nan"), float("nan")
    data = Dataset(x, context=context, dtype=torch.float64)
    refined = refine(model, guide, data, FAST)
    assert refined.raw.dtype == torch.float64
    with torch.no_grad():
        offset = model.decode(torch.zeros(6, 2, dtype=torch.float64), context).mean
        unit = torch.eye(2, dtype=torch.float64).unsqueeze(1).expand(2, 6, 2)
        loading = (model.decode(unit, context.expand(2, 6, 3)).mean - offset).movedim(0, -1)[0]
    noise = torch.full((4,), 0.5, dtype=torch.float64)
    exact = [
        beds.linear_gaussian_at(x[i : i + 1], beds.Affine(loading, offset[i], noise)).log_evidence
        for i in range(6)
    ]
    assert (torch.cat(exact) - elbo(model, refined, x, context)).abs().max() < 0.01
    with pytest.raises(ValueError, match="row 0 of x .with its context. is not among the 6 rows"):
        refined(x, context + 1)


# --- a guide everywhere a guide is ----------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model, guide = vae()
    x = model.sample(7)
    x[2, 1] = float("nan")
    x = x.unique(dim=0)
    return model, guide, x, refine(model, guide, x, BRIEF)


def test_rows_are_known_in_any_order_and_part(small):
    _, _, x, refined = small
    whole, order = refined.encode(x).mean, torch.randperm(len(x))
    assert torch.equal(refined.encode(x[order]).mean, whole[order])
    assert torch.equal(refined.encode(x[2:3]).mean, whole[2:3])
    assert torch.equal(refined.encode(x.double()).mean, whole)


@pytest.mark.parametrize("posterior", REAL_POSTERIORS)
def test_equal_rows_have_one_density_whichever_rows_are_beside_them(posterior):
    torch.manual_seed(3)
    model, guide = vae("GaussianMixture", posterior=posterior)
    x = model.sample(4)[[0, 1, 1, 2, 0, 3]]
    refined = refine(model, guide, x, BRIEF)
    z = torch.randn(6, refined.encode(x).event_shape[0])
    together = refined.encode(x).log_prob(z)
    for rows in ([0], [2], [4], [1, 2], [4, 0], [5, 4, 3, 2, 1, 0]):
        alone = refined.encode(x[rows]).log_prob(z[rows])
        torch.testing.assert_close(alone, together[rows])


def test_an_unseen_row_is_refused_by_number(small):
    model, _, x, refined = small
    unseen = torch.cat([x[:2], 0.5 * torch.ones(1, 3)])
    with pytest.raises(ValueError, match=r"row 2 of x .* refine\(model, guide, x\)"):
        refined(unseen)
    with pytest.raises(ValueError, match="row 0"):
        refined(torch.where(x.isnan(), 0.0, x)[x.isnan().any(1)] + 2)


def test_every_estimate_takes_a_refined_guide(small):
    model, _, x, refined = small
    tree = to_datatree(model, refined, x, num_samples=50, seed=0)
    expected = log_weights(model, refined, x, num_particles=50, seed=0).numpy()
    assert np.allclose(tree.sample_stats.log_weights.values[0], expected, atol=1e-5)
    assert len(rate_distortion(model, refined, x, num_particles=10).rate) == len(x)


def test_model_and_guide_are_left_as_they_were(small):
    model, guide, x, _ = small
    guide.train()
    before, stream = copy.deepcopy((model.state_dict(), guide.state_dict())), torch.get_rng_state()
    for method in (BRIEF, HMC(num_samples=5, num_warmup=5)):
        refine(model, guide, x, method)
    for was, now in zip(before, (model.state_dict(), guide.state_dict()), strict=True):
        assert all(torch.equal(was[name], now[name]) for name in was)
    assert all(
        p.grad is None and p.requires_grad for module in (model, guide) for p in module.parameters()
    )
    assert guide.training
    assert torch.equal(stream, torch.get_rng_state())
    assert len(pyro.get_param_store()) == 0


def test_the_seed_decides(small):
    model, guide, x, refined = small
    assert torch.equal(refine(model, guide, x, BRIEF).raw, refined.raw)
    assert not torch.equal(refine(model, guide, x, BRIEF, seed=1).raw, refined.raw)


def test_chunks_change_nothing_but_the_draws():
    bed = beds.linear_gaussian(num_data=9, guide_scale=0.6)
    whole, parts = (
        refine(bed.model, bed.guide, bed.x, m) for m in (FAST, replace(FAST, chunk_size=50))
    )
    assert (elbo(bed.model, whole, bed.x) - elbo(bed.model, parts, bed.x)).abs().max() < 0.01
    assert torch.allclose(whole.encode(bed.x).mean, parts.encode(bed.x).mean, atol=0.05)


# --- refusals -------------------------------------------------------------------------------------


def discrete(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Poisson(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[..., 0])


def hidden(program):
    return pyro.poutine.block(
        program, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"]
    )


def moving_support(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Uniform(0.0, 1.0 + x[..., 0].abs()))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[..., 0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, "'z' is discrete"),
        (moving_support, "'z' depends on the row"),
    ],
)
def test_latents_that_cannot_be_refined_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        refine(model, hidden(model), torch.randn(3, 1))


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (posteriors.FullRankNormal(3), r"use FullRankNormal\(2\)"),
        (posteriors.FlowPosterior(2), "that all rows share"),
    ],
)
def test_families_that_cannot_be_refined_are_refused(small, posterior, message):
    model, guide, x, _ = small
    with pytest.raises(ValueError, match=message):
        refine(model, guide, x, GradientRefinement(posterior=posterior))
