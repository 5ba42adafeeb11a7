"""Chains over latents that rows share: joint posteriors known exactly, and densities by hand."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

import ppl_vae as pv
from ppl_vae.hmc import HMC, density, sample_posterior
from ppl_vae.hmc.shared import LogJointOfRows
from ppl_vae.runtime import memory

X = torch.tensor([[1.3], [2.1], [-0.4], [0.9], [3.0]], dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)
MARK = {"enumerate": "parallel"}


def from_model(model):
    """A guide that draws the model's latents from their prior."""
    return poutine.block(model, hide_fn=lambda site: site["is_observed"])


def plate(x):
    return pyro.plate("data", len(x), dim=-1)


def errors(chains, values, expected):
    """Distance of the mean of values (S, C, ...) from the expected one, in standard errors."""
    draws = values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)
    mcse = replace(chains, draws=draws.unsqueeze(2)).mcse()[0]
    off = draws.mean((0, 1)) - torch.as_tensor(expected, dtype=draws.dtype).reshape(-1)
    return np.abs(off.numpy() / mcse)


def hierarchy(x, scales, *, observe=True):
    """mu ~ N(0, t^2), z_b ~ N(mu, s^2), x_b ~ N(z_b, r^2)."""
    t, s, r = scales
    mu = pyro.sample("mu", dist.Normal(ZERO, t))
    with plate(x):
        z = pyro.sample("z", dist.Normal(mu, s))
        if observe:
            pyro.sample("x", dist.Normal(z, r), obs=x[:, 0])


def exact_hierarchy(x, scales):
    """Mean and covariance of (mu, z) given x."""
    t, s, r = scales
    precision = torch.eye(1 + len(x), dtype=x.dtype) * (s**-2 + r**-2)
    precision[0, 0] = t**-2 + len(x) * s**-2
    precision[0, 1:] = precision[1:, 0] = -(s**-2)
    covariance = precision.inverse()
    return covariance[:, 1:] @ x[:, 0] * r**-2, covariance


@pytest.mark.statistical
@pytest.mark.parametrize("scales", [(2.0, 1.0, 0.7), (0.5, 0.3, 2.0), (3.0, 0.2, 0.2)])
def test_hierarchical_normal(scales):
    """Means and all second moments, correlations of mu with each z among them, within 4.5 standard
    errors of 6 and 21 (level 2e-4)."""
    model = partial(hierarchy, scales=scales)
    guide = partial(model, observe=False)
    chains = sample_posterior(model, guide, X, sampler=HMC(400, 150, num_leapfrog=6), seed=1)
    assert chains["mu"].shape == (400, 4)
    assert chains["z"].shape == (400, 4, 5)
    mean, covariance = exact_hierarchy(X, scales)
    both = torch.cat([chains["mu"].unsqueeze(-1), chains["z"]], -1)
    assert errors(chains, both, mean).max() < 4.5
    i, j = torch.triu_indices(6, 6)
    products = (both - mean)[..., i] * (both - mean)[..., j]
    assert errors(chains, products, covariance[i, j]).max() < 4.5
    summary = chains.summary()
    assert summary.num_transitions == 4 * 400
    assert summary.r_hat < 1.03


@pytest.mark.statistical
def test_a_probability_without_latents_of_rows():
    """Beta(2, 1) and 9 Bernoulli rows: Beta(2 + heads, 1 + tails), mean and second moment."""

    def model(x):
        p = pyro.sample("p", dist.Beta(ZERO + 2.0, ZERO + 1.0))
        with plate(x):
            pyro.sample("x", dist.Bernoulli(p), obs=x[:, 0])

    x = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 0], dtype=torch.float64)[:, None]
    sampler = HMC(500, 150, num_leapfrog=3)
    chains = sample_posterior(model, from_model(model), x, sampler=sampler)
    exact = stats.beta(5, 7)
    assert errors(chains, chains["p"], exact.mean())[0] < 4
    assert errors(chains, chains["p"].square(), exact.moment(2))[0] < 4


@pytest.mark.statistical
@pytest.mark.parametrize("missing", [False, True])
def test_a_scale_that_rows_share(missing):
    """scale ~ LogNormal(0, 0.5), z_b ~ N(0, scale^2), x_b ~ N(z_b, 1), by quadrature over scale;
    one row without an observation. A wider prior would make a funnel, which chains do not enter."""
    x = X.clone()
    x[2] = float("nan") if missing else x[2]
    seen = ~x[:, 0].isnan()

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(ZERO, 0.5))
        with plate(x):
            z = pyro.sample("z", dist.Normal(ZERO, scale))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0].nan_to_num())

    sampler = HMC(500, 200, num_leapfrog=6)
    chains = sample_posterior(model, from_model(model), x, sampler=sampler, seed=3)
    log_scale = np.linspace(-8, 6, 20_001)[:, None]
    variance = np.exp(2 * log_scale)
    rows = x[~x[:, 0].isnan(), 0].numpy()
    log_p = stats.norm.logpdf(rows, scale=np.sqrt(variance + 1)).sum(1)
    weights = np.exp(log_p + stats.norm.logpdf(log_scale[:, 0], scale=0.5))
    weights /= weights.sum()
    values = chains["scale"].log()
    assert errors(chains, values, weights @ log_scale)[0] < 4
    assert errors(chains, values.square(), weights @ log_scale**2)[0] < 4
    shrunk = weights @ (variance / (variance + 1)) * x[:, 0].nan_to_num().numpy()
    assert errors(chains, chains["z"], shrunk).max() < 4.5


@pytest.mark.statistical
def test_a_discrete_latent_that_rows_share_is_summed_out():
    """c ~ Bernoulli(0.3), z_b ~ N(c, 1), x_b ~ N(z_b, 1): E z_b = sum_c p(c given x) (x_b + c) /
    2."""

    def model(x):
        c = pyro.sample("c", dist.Bernoulli(ZERO + 0.3))
        with plate(x):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    x = X[:2] - 1.0
    chains = sample_posterior(model, from_model(model), x, sampler=HMC(500, 150, num_leapfrog=5))
    assert [*chains.sites] == ["z"]
    log_odds = (
        math.log(0.3 / 0.7)
        + (stats.norm.logpdf(x, 1, 2**0.5) - stats.norm.logpdf(x, 0, 2**0.5)).sum()
    )
    expected = (x[:, 0] + 1 / (1 + math.exp(-log_odds))) / 2
    assert errors(chains, chains["z"], expected).max() < 4


# --- the density, by hand -------------------------------------------------------------------------


def mixture(x, *, marked=True, reads=False, observe=True):
    """Weights and a location for all rows, a class and a scale of each, a factor, a mask, two
    observed sites."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
    with pyro.plate("classes", 3):
        loc = pyro.sample("loc", dist.Normal(ZERO, 2.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(2, 1), 1.0).to_event(2))
    if reads and float(slope.sum()) > 1e9:
        raise AssertionError
    if observe:
        pyro.factor("regulariser", -slope.abs().sum())
    with plate(x):
        size = pyro.sample("size", dist.Gamma(ZERO + 2.0, 1.0))
        if observe or not marked:
            mark = MARK if marked else None
            y = pyro.sample("y", dist.Categorical(weights), infer=mark)
        if observe:
            where = loc[y] + slope.sum()
            pyro.sample("x", dist.Normal(where, size), obs=x[:, 0])
            with poutine.mask(mask=x[:, 1] > 0):
                pyro.sample("other", dist.Exponential(size), obs=x[:, 1].abs())


MIXED = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.3]], dtype=torch.float64)


def by_hand(values, x):
    """log p(x, z, g) of the mixture, y summed out."""
    weights, loc, slope, size = (values[name] for name in ("weights", "loc", "slope", "size"))
    shared = (
        dist.Dirichlet(torch.ones(3)).log_prob(weights) + dist.Normal(0.0, 2.0).log_prob(loc).sum()
    )
    shared = shared + dist.Normal(0.0, 1.0).log_prob(slope).sum() - slope.abs().sum()
    of_class = dist.Normal(loc + slope.sum(), size[:, None]).log_prob(x[:, :1])
    other = dist.Exponential(size).log_prob(x[:, 1].abs()) * (x[:, 1] > 0)
    rows = (weights.log() + of_class).logsumexp(-1) + other
    return shared + (rows + dist.Gamma(2.0, 1.0).log_prob(size)).sum()


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_the_density_is_the_sum_by_hand(marked, reads):
    """A program that reads its latents, or has sites contracted, takes one chain after another."""
    model = partial(mixture, marked=marked, reads=reads)
    with pv.seeded(0):
        joint = LogJointOfRows(model, partial(model, observe=False), MIXED, num_chains=3)
    assert joint.at_once is not (reads or marked)
    u = joint.start + 0.3
    values = joint.constrain(u)
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        "weights": (3, 3),
        "loc": (3, 3),
        "slope": (3, 2, 1),
        "size": (3, 3),
    }
    for chain, found in enumerate(joint(u)):
        given = {name: value[chain] for name, value in values.items()}
        to_simplex = torch.distributions.biject_to(dist.Dirichlet.support)
        jacobian = to_simplex.log_abs_det_jacobian(u[chain, 0, :2], given["weights"])
        expected = by_hand(given, MIXED) + jacobian + given["size"].log().sum()
        torch.testing.assert_close(found[0], expected)


def test_a_recorded_density_is_that_of_the_handlers(monkeypatch):
    """Of rows alone and of rows together: the same draws, but for rounding."""
    bed = pv.beds.gamma_poisson(3)
    of_rows = partial(hierarchy, scales=(1.0, 1.0, 1.0))
    programs = (bed.model, bed.guide, bed.x), (of_rows, partial(of_rows, observe=False), X)
    recorded = []

    class Counted(density.RecordedDensity):
        def __init__(self, *given):
            recorded.append(given)
            super().__init__(*given)

    monkeypatch.setattr(density, "RecordedDensity", Counted)
    for given in programs:
        found = []
        for fewest in (10, 10**9):
            monkeypatch.setattr(density, "FEWEST_EVALUATIONS", fewest)
            found.append(sample_posterior(*given, sampler=HMC(4, 4, num_leapfrog=3)).draws)
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    assert len(recorded) == 2


# --- results and refusals -------------------------------------------------------------------------

SHORT = HMC(4, 4, num_leapfrog=2)


def test_a_tree_has_shared_sites_without_rows():
    model = partial(mixture, marked=True)
    data = pv.Dataset(MIXED, dtype=MIXED.dtype, name="patients")
    given = (model, partial(model, observe=False), data)
    chains = sample_posterior(*given, sampler=SHORT, num_chains=3, seed=2)
    assert torch.equal(
        chains.draws, sample_posterior(*given, sampler=SHORT, num_chains=3, seed=2).draws
    )
    assert chains.shared == ("weights", "loc", "slope")
    assert chains.draws.shape == (4, 3, 1, 2 + 3 + 2 + 3)
    tree = chains.to_datatree()
    assert {name: each.dims for name, each in tree.posterior.data_vars.items()} == {
        "weights": ("chain", "draw", "weights_dim"),
        "loc": ("chain", "draw", "loc_dim"),
        "slope": ("chain", "draw", "slope_dim_0", "slope_dim_1"),
        "size": ("chain", "draw", data.dims[0]),
    }
    assert np.array_equal(tree.posterior["size"][1, 2], chains["size"][2, 1])
    assert tree.sample_stats["accept"].dims == ("chain",)


def test_what_cannot_be_sampled_is_named(monkeypatch):
    def counts(x, observe=True):
        pyro.sample("n", dist.Poisson(ZERO + 1.0))
        with plate(x):
            if observe:
                pyro.sample("x", dist.Normal(ZERO, 1.0), obs=x[:, 0])

    def many(x):
        y = pyro.sample("y", dist.Bernoulli(x.new_ones(7) / 2).to_event(1))
        more = pyro.sample("more", dist.Categorical(x.new_ones(10)))
        with plate(x):
            pyro.sample("x", dist.Normal(y.sum() + more, 1.0), obs=x[:, 0])

    def nested(x):
        top = pyro.sample("top", dist.Uniform(ZERO, 1.0))
        with plate(x):
            z = pyro.sample("z", dist.Uniform(ZERO, top))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    said = {
        counts: "site 'n' outside the plate \"data\" is Poisson",
        many: r"\('y', 'more'\) have 1,280 values together, and at most 1,000",
        nested: "the support of latent site 'z' depends on another latent",
    }
    for model, words in said.items():
        with pytest.raises(ValueError, match=words):
            sample_posterior(model, from_model(model), X, sampler=SHORT)
    model = partial(hierarchy, scales=(1.0, 1.0, 1.0))
    guide = partial(model, observe=False)
    with pytest.raises(
        ValueError, match="'mu' is outside the plate \"data\": the posterior does not"
    ):
        pv.diagnostics.guide_errors(model, guide, X, sampler=SHORT)
    weighted = pv.Dataset(X, weights=torch.arange(1.0, 6.0), dtype=X.dtype)
    with pytest.warns(UserWarning, match="weights of the rows are not used: sample_posterior"):
        sample_posterior(model, guide, weighted, sampler=SHORT)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e4)
    with pytest.raises(
        pv.errors.TooLargeError,
        match="num_samples=400 of 4 chains over 6 latents of 5 rows together",
    ):
        sample_posterior(model, guide, X, sampler=HMC(400, 4))
