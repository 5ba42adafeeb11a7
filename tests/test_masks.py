"""Masked latents: every estimate agrees with the exact log p(x), whatever is masked and by what
means."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch.distributions import MultivariateNormal

from ppl_vae import (
    HMC,
    Dataset,
    bdmc,
    evidence_interval,
    inference_gaps,
    log_evidence,
    log_weights,
    objectives,
    refine,
    sample_posterior,
    seeded,
    simulate,
)
from ppl_vae.evidence import AIS, ChiUpperBound, Defensive, ImportanceSampling
from ppl_vae.refinement import GradientRefinement

NUM_ROWS, LATENTS, FEATURES = 6, 2, 4
NOISE = 0.5
LOADING = torch.tensor([[1.0, 0.5], [-0.7, 0.8], [0.6, -1.1], [0.3, 0.9]], dtype=torch.float64)
GRID = {
    "some rows": [[1, 1], [0, 0], [1, 1], [0, 0], [0, 0], [1, 1]],
    "one latent": [[1, 0]] * NUM_ROWS,
    "entries": [[1, 1], [0, 1], [1, 0], [0, 0], [1, 1], [0, 1]],
    "all": [[0, 0]] * NUM_ROWS,
}
WAYS = ["poutine.mask", "fn.mask", "fn.mask of entries"]


def mask_of_rows(x):
    """Latent i is masked, and multiplied by zero in the mean, where feature i of x is missing."""
    return ~x[:, :LATENTS].isnan()


def sites_of(program, x, draw):
    """Latents masked one of three ways, as (*, B, L) with zeros where masked; `draw` gives the
    distributions."""
    mask, way = mask_of_rows(x), program
    if way == "fn.mask of entries":
        return pyro.sample("z", draw().mask(mask).to_event(1)) * mask
    values = []
    for i in range(LATENTS):
        fn = draw(i)
        if way == "fn.mask":
            z = pyro.sample(f"z{i}", fn.mask(mask[:, i]))
        else:
            with poutine.mask(mask=mask[:, i]):
                z = pyro.sample(f"z{i}", fn)
        values.append(z * mask[:, i])
    return torch.stack(values, -1)


class MaskedModel(PyroModule):
    """z_i ~ N(0, 1) where it is not masked; x ~ N(LOADING z, NOISE^2) over what is observed."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        prior = dist.Normal(x.new_zeros(LATENTS), 1.0)
        with pyro.plate("data", len(x), dim=-1):
            z = sites_of(
                self.way,
                x,
                lambda i=None: (
                    prior.expand([len(x), LATENTS])
                    if i is None
                    else dist.Normal(x.new_zeros(()), 1.0)
                ),
            )
            likelihood = dist.Normal(z @ LOADING.mT, NOISE).mask(~x.isnan()).to_event(1)
            pyro.sample("x", likelihood, obs=x.nan_to_num())


class MaskedGuide(PyroModule):
    """Independent normals at the marginal posterior means and sds, masked as the model's."""

    def __init__(self, way, scale=1.2):
        super().__init__()
        self.way, self.scale = way, scale

    def forward(self, x):
        mean, covariance = posterior(x)
        sd = self.scale * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        with pyro.plate("data", len(x), dim=-1):
            sites_of(
                self.way,
                x,
                lambda i=None: (
                    dist.Normal(mean, sd) if i is None else dist.Normal(mean[:, i], sd[:, i])
                ),
            )


def loadings(x):
    """Loading of each row, with zeros for masked latents and for missing features, (B, F, L)."""
    return LOADING * mask_of_rows(x)[:, None, :] * ~x.isnan()[:, :, None]


def posterior(x):
    loading = loadings(x)
    precision = torch.eye(LATENTS, dtype=x.dtype) + loading.mT @ loading / NOISE**2
    covariance = torch.linalg.inv(precision)
    return (covariance @ loading.mT @ x.nan_to_num()[:, :, None]).squeeze(-1) / NOISE**2, covariance


def exact(x):
    found = []
    for row, loading in zip(x, loadings(x), strict=True):
        seen = ~row.isnan()
        covariance = loading[seen] @ loading[seen].mT + NOISE**2 * torch.eye(
            int(seen.sum()), dtype=x.dtype
        )
        found.append(
            MultivariateNormal(x.new_zeros(len(covariance)), covariance).log_prob(row[seen])
        )
    return torch.stack(found)


def observations(pattern):
    generator = np.random.default_rng(1)
    mask = torch.tensor(GRID[pattern], dtype=torch.float64)
    z = torch.from_numpy(generator.standard_normal((NUM_ROWS, LATENTS))) * mask
    x = z @ LOADING.mT + NOISE * torch.from_numpy(generator.standard_normal((NUM_ROWS, FEATURES)))
    x[:, :LATENTS] = x[:, :LATENTS].masked_fill(mask == 0, torch.nan)
    return x


@pytest.fixture(params=[(way, pattern) for way in WAYS for pattern in GRID], ids="-".join)
def bed(request):
    way, pattern = request.param
    return MaskedModel(way), MaskedGuide(way), observations(pattern)


@pytest.fixture(params=WAYS)
def partly_masked(request):
    """Rows of which all, some and no latents count."""
    return MaskedModel(request.param), MaskedGuide(request.param), observations("entries")


FEW = HMC(num_samples=1, num_warmup=0, num_leapfrog=3)
METHODS = {
    "guide": ImportanceSampling(5000),
    "prior": ImportanceSampling(20_000, proposal="prior"),
    "defensive": ImportanceSampling(5000, proposal=Defensive("prior")),
    "inflated": ImportanceSampling(5000, proposal=Defensive("inflated")),
    "AIS": AIS(60, 12, sampler=FEW),
    "AIS from the prior": AIS(60, 25, start="prior", sampler=FEW),
}


def assert_agrees(model, guide, x, method):
    evidence = log_evidence(model, guide, x, method, seed=1)
    assert (abs(evidence.log_evidence - exact(x).numpy()) < 5 * evidence.mc_se + 1e-9).all()
    assert (evidence.mc_se < 0.25).all()


@pytest.mark.parametrize("name", ["guide", "AIS"])
def test_estimates_agree_with_log_p(bed, name):
    assert_agrees(*bed, METHODS[name])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("guide", "AIS")])
def test_other_methods_agree_with_log_p(partly_masked, name):
    assert_agrees(*partly_masked, METHODS[name])


def test_upper_bounds_lie_above_log_p(partly_masked):
    model, guide, x = partly_masked
    truth = exact(x).numpy()
    chi = log_evidence(model, guide, x, ChiUpperBound(2000), seed=1)
    assert (chi.log_evidence > truth - 5 * chi.mc_se - 1e-9).all()


def test_refined_guides_give_log_p(partly_masked):
    model, guide, x = partly_masked
    for method in (
        GradientRefinement(num_steps=100),
        HMC(num_samples=60, num_warmup=60, num_leapfrog=3),
    ):
        refined = refine(model, guide, x, method, progress=False)
        log_w = log_weights(model, refined, x, num_particles=4000, seed=0)
        error = log_w.logsumexp(0) - np.log(4000) - exact(x)
        se = log_w.softmax(0).square().sum(0).sub(1 / 4000).clamp(min=0).sqrt()
        assert (error.abs() < 5 * se + 1e-6).all()
        assert (log_w.mean(0) < exact(x) + 0.02).all()
        assert (log_w.mean(0) > exact(x) - 0.1).all(), "full-rank normals hold the posterior"


def test_chains_draw_masked_latents_from_their_prior(partly_masked):
    model, guide, x = partly_masked
    sampler = HMC(num_samples=60, num_warmup=60, num_leapfrog=3)
    chains = sample_posterior(model, guide, x, sampler=sampler, num_chains=40)
    mean, covariance = posterior(x)
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    draws = chains.draws.flatten(0, 1)
    assert ((draws.mean(0) - mean).abs() < 5 * sd * chains.ess().min() ** -0.5).all()
    torch.testing.assert_close(draws.std(0), sd, rtol=0.15, atol=0.0)


def test_both_bounds_of_bidirectional_monte_carlo_hold_log_p(partly_masked):
    model, guide, x = partly_masked
    result = bdmc(model, guide, Dataset(x, dtype=torch.float64), method=AIS(40, 10, sampler=FEW))
    truth = exact(result.data.x).numpy()
    assert (abs(result.lower.log_evidence - truth) < 5 * result.lower.mc_se + 1e-9).all()
    assert abs((result.upper - truth).mean()) < 5 * result.summary().gap_se + 0.05


def test_intervals_and_gaps_hold_log_p(partly_masked):
    model, guide, x = partly_masked
    truth = exact(x).numpy()
    interval = evidence_interval(model, guide, x, progress=False)
    assert ((interval.lower < truth + 0.1) & (truth < interval.upper + 0.1)).all()
    gaps = inference_gaps(
        model, guide, x, GradientRefinement(num_steps=100), num_particles=4000, progress=False
    )
    assert (abs(gaps.log_evidence - truth) < 5 * gaps.errors["log_evidence"] + 1e-6).all()


def test_a_mask_that_depends_on_a_latent_is_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            y = pyro.sample("y", dist.Normal(x.new_zeros(()), 1.0).mask(z > 0))
            pyro.sample("x", dist.Normal(z + y * (z > 0), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(x.new_zeros(()), 1.0).mask(z > 0))

    with pytest.raises(ValueError, match="the mask of latent site 'y' depends on another latent"):
        refine(model, guide, torch.zeros(5, 1))


@pytest.mark.parametrize("name", ["TraceELBO", "MeanFieldELBO"])
def test_refinement_maximises_any_objective_under_masks(name):
    model, guide, x = MaskedModel(WAYS[0]), MaskedGuide(WAYS[0]), observations("entries")
    method = GradientRefinement(
        num_steps=100, objective=getattr(objectives, name)(num_particles=10)
    )
    refined = refine(model, guide, x, method, progress=False)
    assert (
        log_weights(model, refined, x, num_particles=4000, seed=0).mean(0) > exact(x) - 0.1
    ).all()


@pytest.mark.parametrize("masks_model", [True, False], ids=["guide unmasked", "model unmasked"])
def test_a_latent_masked_in_one_program_alone_is_refused(masks_model):
    x = observations("entries")

    def program(x, masked, observe):
        mask = mask_of_rows(x)[:, 0]
        with pyro.plate("data", len(x), dim=-1):
            with poutine.mask(mask=mask if masked else True):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            if observe:
                pyro.sample(
                    "x",
                    dist.Normal((z * mask).unsqueeze(-1), 1.0).mask(~x.isnan()).to_event(1),
                    obs=x.nan_to_num(),
                )

    def model(x):
        program(x, masks_model, observe=True)

    def guide(x):
        program(x, not masks_model, observe=False)

    with pytest.raises(
        ValueError,
        match="latent site 'z' is masked for row 1 in the (model|guide) and not in the other",
    ):
        log_weights(model, guide, x)


NAMES_OF_LATENTS = ["g", "m", "x_completed"]


def program_with_latent(name, in_plate):
    """x = latent + z + noise, with the latent at a site of this name; inside the plate a coin."""

    def model(x):
        w = None if in_plate else pyro.sample(name, dist.Normal(torch.tensor(3.0), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            if in_plate:
                w = pyro.sample(name, dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            z = pyro.sample("z", dist.Normal(0.0, 1.0)).unsqueeze(-1)
            pyro.sample("x", dist.Normal(w + z.expand(len(x), 2), 1.0).to_event(1), obs=x)

    return model


@pytest.mark.parametrize("in_plate", [True, False])
@pytest.mark.parametrize("name", NAMES_OF_LATENTS[1:])
def test_a_latent_may_have_the_name_of_a_missingness_models_site(name, in_plate):
    data = Dataset(torch.zeros(5, 2))
    expected, latents = simulate(program_with_latent("g", in_plate), data)
    found, others = simulate(program_with_latent(name, in_plate), data)
    assert torch.equal(found.x, expected.x)
    assert torch.equal(others[name], latents["g"])


def test_x_may_be_observed_at_a_site_with_the_name_of_a_mask():
    """The sleep phase looks for the draw of x, and the mask of x is none."""

    def pair(name):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0)).unsqueeze(-1)
                pyro.sample(name, dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)

        def guide(x):
            shift = pyro.param("shift", torch.tensor(0.3))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(shift * x.sum(-1), 1.0))

        return model, guide

    losses = []
    for name in ("x", "m"):
        pyro.clear_param_store()
        with seeded(0):
            loss = objectives.WakeSleep().differentiable_loss(*pair(name), torch.ones(3, 2))
        losses.append(loss.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", NAMES_OF_LATENTS)
def test_chains_follow_a_latent_of_any_name(name):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(name, dist.Normal(x[:, 0], 1.0))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(name, dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    draws = sample_posterior(model, guide, torch.ones(2, 1), sampler=HMC(4, 2, num_leapfrog=2))
    assert draws[name].shape[-1] == 2
