"""Hamiltonian Monte Carlo against exact posteriors, against Pyro's NUTS, and against itself by
simulation."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, data_for, vae
from pyro.infer.mcmc import MCMC, NUTS
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.hmc import HMC, sample_posterior
from ppl_vae.hmc.posterior import run_chains


def normal(scale):
    return lambda u: -0.5 * (u / scale).square().sum(-1)


def worst(draws, chains, mean, sd):
    """Largest distance of means and of sds from the exact ones, in Monte Carlo standard errors."""
    chains = replace(chains, draws=draws)
    errors = (
        (draws.mean((0, 1)) - mean).numpy() / chains.mcse(),
        (draws.std((0, 1)) - sd).numpy() / chains.mcse("sd"),
    )
    return [float(np.abs(error).max()) for error in errors]


def test_linear_gaussian_posterior_over_1024_scalars():
    """All means and sds within 4 standard errors (level 12 % for 2048 of them); R-hat of all below
    1.03."""
    bed = beds.linear_gaussian(512)
    chains = sample_posterior(
        bed.model, bed.guide, bed.x, sampler=HMC(400, 100, num_leapfrog=6), seed=1
    )
    assert chains["z"].shape == (400, 4, 512, 2)
    sd = bed.posterior_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    # every datum has the same covariance, so their standard errors are pooled
    errors = [np.sqrt(np.square(chains.mcse(kind)).mean(0)) for kind in ("mean", "sd")]
    means, sds = chains["z"].mean((0, 1)) - bed.posterior_mean, chains["z"].std((0, 1)) - sd
    assert np.abs(means.numpy() / errors[0]).max() < 4
    assert np.abs(sds.numpy() / errors[1]).max() < 4
    summary = chains.summary()
    assert summary.r_hat < 1.03
    assert (
        summary.num_divergences < 1e-5 * summary.num_transitions
    )  # a few steps of 2 sds, where leapfrog is unstable
    assert 0.75 < summary.accept < 0.87


def dirichlet_categorical():
    """Three categories seen four times per row: Dirichlet(1, 2, 3 + counts)."""
    prior = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x = torch.tensor([[0.0, 0, 1, 2], [2, 2, 2, 2]], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Dirichlet(prior))
            pyro.sample(
                "x", dist.Categorical(z.unsqueeze(-2)).expand([*z.shape[:-1], 4]).to_event(1), obs=x
            )

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Dirichlet(prior))

    return model, guide, x, dist.Dirichlet(prior + torch.nn.functional.one_hot(x.long(), 3).sum(1))


def constrained(name):
    if name == "simplex":
        return dirichlet_categorical()
    bed = {"positive": beds.gamma_poisson, "unit interval": beds.beta_bernoulli}[name](8)
    return bed.model, bed.guide, bed.x, bed.guide.posterior(bed.x)


@pytest.mark.parametrize("support", ["positive", "unit interval", "simplex"])
def test_constrained_supports(support):
    """In the site's own support, Jacobian included: 4.5 standard errors (level 1e-3 over all)."""
    model, guide, x, exact = constrained(support)
    chains = sample_posterior(model, guide, x, sampler=HMC(300, 80, num_leapfrog=3), seed=2)
    assert max(worst(chains["z"], chains, exact.mean, exact.variance.sqrt())) < 4.5


def test_missing_data_and_all_missing_is_the_prior():
    """4.5 standard errors (level 2e-4 over 32)."""
    bed = beds.linear_gaussian(8)
    x = bed.x.clone()
    x[:, 1:3], x[0] = float("nan"), float("nan")
    mean, covariance = bed.model.posterior(x)
    assert torch.equal(covariance[0], torch.eye(2, dtype=torch.float64))
    chains = sample_posterior(bed.model, bed.guide, x, sampler=HMC(300, 80, num_leapfrog=3))
    assert max(worst(chains["z"], chains, mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt())) < 4.5


def test_agrees_with_pyros_nuts_on_a_decoder():
    """4.5 combined standard errors of 4 means (level 3e-5)."""
    model, guide = (program.double() for program in vae(likelihood="Poisson"))
    x = data_for("Poisson", num_data=2).double()
    chains = sample_posterior(model, guide, x, sampler=HMC(300, 80, num_leapfrog=3))
    with pv.seeded(0):
        nuts = MCMC(
            NUTS(model, max_tree_depth=3), num_samples=120, warmup_steps=50, disable_progbar=True
        )
        nuts.run(x)
    theirs = nuts.get_samples()["z"].detach()[:, None]
    errors = [replace(chains, draws=draws).mcse() for draws in (chains["z"], theirs)]
    z = (chains["z"].mean((0, 1)) - theirs.mean((0, 1))).numpy() / np.hypot(*errors)
    assert np.abs(z).max() < 4.5


def test_ranks_of_the_simulated_latents_are_uniform():
    """Simulation-based calibration: z from the model among 20 nearly independent draws;
    chi-squared, level 0.002."""
    model, guide = (program.double() for program in vae(likelihood="Gaussian"))
    with pv.seeded(3), torch.no_grad():
        trace = pyro.poutine.trace(model).get_trace(num_data=630)
    z, x = (trace.nodes[name]["value"] for name in ("z", "x"))
    chains = sample_posterior(model, guide, x, sampler=HMC(50, 60, num_leapfrog=5))
    ranks = (chains["z"][9::10].flatten(0, 1) < z).sum(0)
    for dimension in ranks.unbind(-1):
        assert stats.chisquare(torch.bincount(dimension, minlength=21)).pvalue > 0.001


@pytest.mark.parametrize("latent_dim", [2, 10])
def test_acceptance_is_what_was_asked_for(latent_dim):
    """Scales from 0.1 to 10, warm-up of 100: the mean over 200 chains within 0.06; adapted scales
    are not ones."""
    scale = torch.logspace(-1, 1, latent_dim, dtype=torch.float64)
    start = scale * torch.randn(4, 50, latent_dim, dtype=torch.float64)
    for target in (0.7, 0.9):
        chains = HMC(40, 100, target_accept=target).run(normal(scale), start)
        assert abs(chains.accept.mean() - target) < 0.06
        assert chains.step_size.mean() > 0.4


@pytest.mark.parametrize(
    ("latent_dim", "num_leapfrog"), [(1, 2), (10, 3), (10, 4), (2, 4), (2, 5), (10, 10)]
)
def test_no_number_of_leapfrog_steps_resonates_on_a_normal(latent_dim, num_leapfrog):
    """Of 1600 draws at least 130 effective ones, of mean and of sd, for each of 16 chains' targets;
    trajectories of one length have 30 to 130 for the worse of the two."""
    start = torch.randn(4, 16, latent_dim, dtype=torch.float64)
    chains = HMC(400, 150, num_leapfrog).run(normal(1.0), start)
    assert min(chains.ess().min(), chains.ess("sd").min()) > 130


def test_a_funnel_diverges_and_a_normal_does_not():
    def funnel(u):
        return -0.5 * (u[..., 0] / 3).square() - 0.5 * (
            u[..., 1:].square().sum(-1) * (-u[..., 0]).exp() + 9 * u[..., 0]
        )

    start = torch.randn(4, 20, 10, dtype=torch.float64)
    assert HMC(100, 100).run(funnel, start).divergences.sum() > 0
    assert HMC(100, 100).run(normal(1.0), start).divergences.sum() == 0


def test_several_sites_of_several_shapes():
    """z ~ Gamma(3, 1), m given z ~ N(z, 1) twice, x given m ~ N(m, 1): m given x, z is N((x + z) /
    2, 1 / 2)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), x.new_tensor(1.0)))
            m = pyro.sample("m", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), x.new_tensor(1.0)))
            pyro.sample("m", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1))

    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 0.5]], dtype=torch.float64)
    chains = sample_posterior(model, guide, x, sampler=HMC(300, 80, num_leapfrog=3))
    assert chains["z"].shape == (300, 4, 3)
    assert chains["m"].shape == (300, 4, 3, 2)
    residual = chains["m"] - (x + chains["z"].unsqueeze(-1)) / 2
    # 4.5 standard errors of 6 means and sds (level 1e-4)
    assert max(worst(residual, chains, torch.zeros(3, 2), torch.full((3, 2), 0.5**0.5))) < 4.5


def test_seed_chunks_modes_and_the_global_stream():
    model, guide = vae()
    model.train()
    x, short = data_for("Bernoulli", num_data=5), HMC(3, 4)
    before = torch.get_rng_state()
    first, again = (sample_posterior(model, guide, x, sampler=short, seed=5) for _ in range(2))
    assert torch.equal(first["z"], again["z"])
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    chunked = sample_posterior(model, guide, x, sampler=short, seed=5, chunk_size=8)
    assert chunked["z"].shape == first["z"].shape
    assert torch.equal(chunked["z"], chunked.draws)
    assert chunked.divergences.shape == (4, 5)


def test_what_cannot_be_sampled_says_so():
    bed = beds.discrete_mixture(3)
    with pytest.raises(ValueError, match="no latent site to sample"):  # the class is summed out
        sample_posterior(bed.model, bed.guide, bed.x)

    def counting(x, *, is_guide=False):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Poisson(x.new_ones(())))
            if not is_guide:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="'z' is Poisson.*needs continuous latents"):
        run_chains(
            counting, partial(counting, is_guide=True), torch.zeros(3), num_chains=2, sampler=HMC(1)
        )

    def triangle(x, *, is_guide=False):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Uniform(x.new_zeros(()), 1.0))
            pyro.sample("b", dist.Uniform(0 * a, a))
            if not is_guide:
                pyro.sample("x", dist.Normal(x, 1.0), obs=x)

    with pytest.raises(ValueError, match="support of latent site 'b' depends on another latent"):
        run_chains(
            triangle, partial(triangle, is_guide=True), torch.zeros(3), num_chains=2, sampler=HMC(1)
        )
    with pytest.raises(ValueError, match="log-density is nan where chain 0 of row 1 starts"):
        HMC(1).run(lambda u: u[..., 0].log(), torch.tensor([[[1.0], [-1.0]]]))


def test_chains_of_single_rows_refuse_a_global_latent():
    def program(x, *, is_guide=False):
        scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), scale))
            if not is_guide:
                pyro.sample("x", dist.Normal(x, 1.0), obs=x)

    with pytest.raises(ValueError, match="'scale' is outside the plate"):
        run_chains(
            program,
            partial(program, is_guide=True),
            torch.zeros(EVENT),
            num_chains=2,
            sampler=HMC(1),
        )
