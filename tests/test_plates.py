"""A plate inside the data plate: repeated measurements of each row, against the exact log p(x)."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch.distributions import MultivariateNormal

from ppl_vae import (
    HMC,
    Dataset,
    bdmc,
    calibration,
    elbo_surgery,
    evidence_interval,
    inference_gaps,
    log_evidence,
    log_weights,
    objectives,
    refine,
    sample_posterior,
    simulate,
    to_datatree,
)
from ppl_vae.diagnostics import GuideDraws
from ppl_vae.evidence import AIS, ChiUpperBound, Defensive, ImportanceSampling
from ppl_vae.refinement import GradientRefinement
from ppl_vae.runtime.seeding import seeded

REPEATS = 3
NUM_ROWS = 7
NOISE, SPREAD, OFFSET = 0.6, 0.8, 0.3
SLOPE = torch.tensor([0.9, -0.4, 1.2], dtype=torch.float64)
KINDS = [
    "observations",
    "latents",
    "latents, own dim",
]  # what the inner plate holds; the last chooses its dim itself


class Repeats(PyroModule):
    """z ~ N(0, 1) for each row, u_m ~ N(0, SPREAD^2) for each repeat, x_m ~ N(OFFSET + SLOPE_m z +
    u_m, NOISE^2).

    Where the inner plate holds observations alone, u is integrated out.
    """

    def __init__(self, kind):
        super().__init__()
        self.has_latents = kind != "observations"
        self.dim = None if kind == "latents, own dim" else -2
        self.variance = NOISE**2 if self.has_latents else NOISE**2 + SPREAD**2

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("repeat", REPEATS, dim=self.dim):
                mean = OFFSET + SLOPE[:, None] * z
                if self.has_latents:
                    mean = mean + pyro.sample("u", dist.Normal(x.new_zeros(()), SPREAD))
                pyro.sample("x", dist.Normal(mean, self.variance**0.5), obs=x.mT)


class Posterior(PyroModule):
    """q(z given x) q(u given z, x), exact at scale 1."""

    def __init__(self, model, scale=1.0):
        super().__init__()
        self.kind = (model.has_latents, model.dim)
        self.scale = scale

    def forward(self, x):
        has_latents, dim = self.kind
        precision = 1 + SLOPE.square().sum() / (NOISE**2 + SPREAD**2)
        mean = (x - OFFSET) @ SLOPE / (NOISE**2 + SPREAD**2) / precision
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(mean, self.scale * precision**-0.5))
            if has_latents:
                with pyro.plate("repeat", REPEATS, dim=dim):
                    variance = 1 / (1 / NOISE**2 + 1 / SPREAD**2)
                    rest = x.mT - OFFSET - SLOPE[:, None] * z
                    pyro.sample(
                        "u", dist.Normal(variance * rest / NOISE**2, self.scale * variance**0.5)
                    )


def observations(num_rows=NUM_ROWS):
    generator = np.random.default_rng(0)
    z, u, e = (generator.standard_normal((num_rows, size)) for size in (1, REPEATS, REPEATS))
    return torch.from_numpy(OFFSET + z * SLOPE.numpy() + SPREAD * u + NOISE * e)


def exact(x):
    covariance = SLOPE.outer(SLOPE) + (NOISE**2 + SPREAD**2) * torch.eye(
        REPEATS, dtype=torch.float64
    )
    return MultivariateNormal(torch.full_like(SLOPE, OFFSET), covariance).log_prob(x)


@pytest.fixture(params=KINDS[:2])
def bed(request):
    model = Repeats(request.param)
    return model, Posterior(model), observations()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", [1, REPEATS, NUM_ROWS, 50])
def test_log_weights_under_the_exact_guide_are_log_p(kind, num_particles):
    model, x = Repeats(kind), observations()
    log_w = log_weights(model, Posterior(model), x, num_particles=num_particles, seed=0)
    torch.testing.assert_close(log_w, exact(x).expand(num_particles, -1))


FEW = HMC(num_samples=1, num_warmup=0, num_leapfrog=3)
METHODS = {
    "guide": ImportanceSampling(4000),
    "prior": ImportanceSampling(20_000, proposal="prior"),
    "defensive": ImportanceSampling(4000, proposal=Defensive("prior")),
    "inflated": ImportanceSampling(4000, proposal=Defensive("inflated")),
    "AIS": AIS(100, 15, sampler=FEW),
    "AIS from the prior": AIS(200, 30, start="prior", sampler=FEW),
}


@pytest.mark.parametrize("name", METHODS)
def test_estimates_agree_with_log_p(bed, name):
    model, _, x = bed
    evidence = log_evidence(model, Posterior(model, scale=1.2), x, METHODS[name], seed=1)
    error = evidence.log_evidence - exact(x).numpy()
    assert (abs(error) < 5 * evidence.mc_se + 1e-9).all()
    assert (evidence.mc_se < 0.2).all()


def test_upper_bounds_lie_above_log_p(bed):
    model, _, x = bed
    evidence = log_evidence(model, Posterior(model, scale=1.1), x, ChiUpperBound(2000), seed=1)
    error = evidence.log_evidence - exact(x).numpy()
    assert (error > -5 * evidence.mc_se).all()
    assert (error < 1.0).all()


def test_the_interval_holds_log_p(bed):
    model, _, x = bed
    interval = evidence_interval(model, Posterior(model, scale=1.1), x, progress=False)
    assert (
        (interval.lower <= exact(x).numpy() + 0.05) & (exact(x).numpy() <= interval.upper + 0.05)
    ).all()


def test_both_bounds_of_bidirectional_monte_carlo_meet_at_log_p(bed):
    model, guide, x = bed
    result = bdmc(model, guide, x, method=AIS(20, 5, sampler=FEW))
    np.testing.assert_allclose(result.lower.log_evidence, exact(result.data.x), atol=1e-6)
    np.testing.assert_allclose(result.upper, exact(result.data.x), atol=1e-6)


def test_simulated_rows_keep_their_latents(bed):
    model, _, _ = bed
    data, latents = simulate(model, Dataset(observations(4000), dtype=torch.float64), seed=0)
    centred = data.x - OFFSET - latents["z"][:, None] * SLOPE
    if model.has_latents:
        assert latents["u"].shape == (4000, REPEATS)
        centred = centred - latents["u"]
    torch.testing.assert_close(
        centred.var(0), torch.full_like(SLOPE, model.variance), rtol=0.1, atol=0.0
    )


def test_chains_have_the_posterior_moments(bed):
    model, guide, x = bed
    sampler = HMC(num_samples=60, num_warmup=80, num_leapfrog=4)
    chains = sample_posterior(model, guide, x, sampler=sampler, num_chains=60)
    drawn = exact_draws(guide, x)
    for name, draws in chains.sites.items():
        flat, own = draws.flatten(0, 1), drawn[name]
        assert flat.shape[1:] == own.shape[1:]
        errors = own.std(0) * (1 / chains.ess().min() + 1 / len(own)) ** 0.5
        assert ((flat.mean(0) - own.mean(0)).abs() < 5 * errors).all()
        torch.testing.assert_close(flat.std(0), own.std(0), rtol=0.15, atol=0.0)


def exact_draws(guide, x, num=2000):
    """Draws of the exact posterior, rows first."""
    with seeded(0):
        trace = pyro.poutine.trace(pyro.plate("draws", num, dim=-3)(guide)).get_trace(x)
    draws = {"z": trace.nodes["z"]["value"].squeeze(1)}
    return draws | ({"u": trace.nodes["u"]["value"].mT} if "u" in trace.nodes else {})


def test_refinement_finds_log_p_or_refuses(bed):
    model, _, x = bed
    guide = Posterior(model, scale=1.5)
    if model.has_latents:
        with pytest.raises(ValueError, match="where it cannot be refined for each row"):
            refine(model, guide, x)
        return
    objective = objectives.TraceELBO(
        10, gradient=objectives.StickingTheLanding(), max_plate_nesting=2
    )
    by_gradient = GradientRefinement(num_steps=100, objective=objective)
    for method in (HMC(num_samples=100, num_warmup=60, num_leapfrog=3), by_gradient):
        refined = refine(model, guide, x, method, progress=False)
        log_w = log_weights(model, refined, x, num_particles=2000, seed=0)
        torch.testing.assert_close(log_w.logsumexp(0) - np.log(2000), exact(x), atol=0.02, rtol=0.0)
    gaps = inference_gaps(model, guide, x, refined, progress=False)
    np.testing.assert_allclose(gaps.log_evidence, exact(x), atol=0.02)


def test_the_tree_has_rows_before_repeats(bed):
    model, guide, x = bed
    tree = to_datatree(model, guide, x, num_samples=500, progress=False)
    np.testing.assert_allclose(tree.importance.log_evidence, exact(x))
    np.testing.assert_array_equal(tree.observed_data.x, x)
    if model.has_latents:
        assert tree.posterior["u"].shape == (1, 500, NUM_ROWS, REPEATS)
    for draws in (tree.posterior_predictive.x, tree.prior_predictive.x):
        assert draws.shape == (1, 500, NUM_ROWS, REPEATS)
    prior_mean = tree.prior_predictive.x.mean(("chain", "draw")).values
    assert abs(prior_mean - OFFSET).max() < 5 * (2.5 / 500) ** 0.5
    posterior_mean = tree.posterior_predictive.x.mean(("chain", "draw")).values
    assert np.corrcoef(posterior_mean.ravel(), x.numpy().ravel())[0, 1] > 0.5


@pytest.mark.parametrize("name", ["TraceELBO", "IWAE", "Renyi", "MeanFieldELBO"])
def test_objectives_are_exact_under_the_exact_guide(bed, name):
    model, guide, x = bed
    objective = getattr(objectives, name)(num_particles=4, max_plate_nesting=2)
    if name == "MeanFieldELBO":  # of one draw each: its Monte Carlo part is noisy
        bounds = torch.stack([objective.bound(model, guide, x) for _ in range(100)])
        assert ((bounds.mean(0) - exact(x)).abs() < 5 * bounds.std(0) / 10 + 1e-9).all()
    else:
        torch.testing.assert_close(objective.bound(model, guide, x), exact(x))


def test_calibration_of_the_exact_guide(bed):
    model, guide, _ = bed
    result = calibration(model, guide, observations(300), GuideDraws(200, progress=False))
    assert result.summary().adjusted.min() > 1e-3
    too_wide = calibration(
        model, Posterior(model, scale=1.5), observations(300), GuideDraws(200, progress=False)
    )
    assert too_wide.summary().adjusted.min() < 1e-6


def test_what_needs_one_plate_says_so(bed):
    model, guide, x = bed
    with pytest.raises(ValueError, match='in a plate inside the plate "data"'):
        elbo_surgery(model, guide, x)
