"""Gaussian process priors: exact log p(x), kernels, inducing inputs, prediction, and refusals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.gaussian_process.kernels import RBF, Matern
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, objectives, posteriors, priors
from ppl_vae.families.posteriors import inverse_softplus
from ppl_vae.importance import log_weights
from ppl_vae.training.monitoring.collapse_alarm import mean_rate, shares_information

NOISE = 0.7
KERNELS = {
    "squared_exponential": RBF,
    "matern_32": lambda length: Matern(length, nu=1.5),
    "matern_52": lambda length: Matern(length, nu=2.5),
}


class First(nn.Module):
    """The first input alone: z without covariates, or x without them."""

    def forward(self, inputs):
        return inputs[:, :1]


def linear(c, num_inducing, **options):
    """x = z + NOISE e with z a process of the covariates, in float64, and the encoder x itself."""
    prior = priors.GaussianProcess(1, c.shape[1], num_inducing=num_inducing, **options).double()
    likelihood = likelihoods.Gaussian(1, scale=NOISE)
    model = pv.Model(prior, likelihood, First(), context_dim=c.shape[1]).double()
    posterior = posteriors.GaussianProcess(prior)
    guide = pv.Guide(posterior, 1, First(), context_dim=c.shape[1]).double()
    prior.start_at(c)
    with torch.no_grad():
        for link, weight in ((likelihood.link, 1.0), (posterior.link, 0.0)):
            link.linear.weight.fill_(weight)
            link.linear.bias.zero_()
        posterior.link.linear.weight[0, 0] = 1.0
        posterior.link.linear.bias[1] = inverse_softplus(torch.tensor(NOISE).double())
    return model, guide


def make_exact(model, guide, x, c):
    """Give the guide the exact posterior of the inducing values; returns the covariance of x."""
    weights, variance = (each.detach()[:, 0] for each in model.prior.conditional(c))
    total = variance + NOISE**2
    precision = torch.eye(weights.shape[1]).double() + (weights.mT / total) @ weights
    covariance = torch.linalg.inv(precision)
    root = torch.linalg.cholesky(covariance)
    q = guide.posterior
    with torch.no_grad():
        mean = covariance @ (weights.mT / total) @ x[:, 0]
        q.raw[0] = q.normal.raw_of(mean, root)
    return (weights @ weights.mT + total.diag()).numpy()


def log_normal(x, covariance):
    return stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(x[:, 0].numpy())


@pytest.fixture(scope="module")
def rows():
    """Twenty-four rows at twelve distinct covariates."""
    generator = torch.Generator().manual_seed(0)
    c = torch.linspace(-3, 8, 12, dtype=torch.float64).repeat(2)[:, None]
    return c, c.sin() + NOISE * torch.randn(24, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("kernel", KERNELS)
def test_at_the_exact_guide_the_bound_is_the_process_evidence_of_all_rows(rows, kernel, share):
    """Inducing inputs at all distinct covariates: log N(x; 0, r K + (1 - r + s^2) I) by SciPy and
    scikit-learn's kernels, up to the jitter, and up to rounding that of the model with jitter."""
    c, x = rows
    model, guide = linear(c, 12, kernel=kernel, share=share)
    with torch.no_grad():
        model.prior.log_length.fill_(math.log(0.4))
    approximate = log_normal(x, make_exact(model, guide, x, c))
    standard = ((c - c.mean()) / c.std(correction=0)).numpy()
    K = share * KERNELS[kernel](0.4)(standard)
    exact = log_normal(x, K + (1 - share + NOISE**2) * np.eye(24))
    assert approximate == pytest.approx(exact, abs=1e-4)
    losses = [-objectives.IWAE(3).loss(model, guide, x, c) for _ in range(2)]
    np.testing.assert_allclose(losses, approximate, rtol=1e-7)
    draws = [-objectives.MeanFieldELBO(20).loss(model, guide, x, c) for _ in range(16)]
    assert abs(np.mean(draws) - exact) < 6 * np.std(draws) / 4


def test_other_guides_lie_below_and_the_length_scale_has_the_gradient_of_the_evidence(rows):
    """At the exact guide the mean gradient of the ELBO is that of log p(x); 4.5 standard errors.
    Batches of an epoch add up to the bound of all rows."""
    c, x = rows
    model, guide = linear(c, 12, share=0.8)
    prior = model.prior
    exact = log_normal(x, make_exact(model, guide, x, c))

    weights, variance = prior.conditional(c)
    marginal = weights[:, 0] @ weights[:, 0].mT + (variance[:, 0] + NOISE**2).diag()
    law = torch.distributions.MultivariateNormal(torch.zeros(24).double(), marginal)
    (slope,) = torch.autograd.grad(law.log_prob(x[:, 0]), prior.log_length)
    losses = [
        objectives.MeanFieldELBO(4).differentiable_loss(model, guide, x, c) for _ in range(80)
    ]
    found = -torch.stack([torch.autograd.grad(loss, prior.log_length)[0] for loss in losses])
    assert (found.mean(0) - slope).abs() < 4.5 * found.std(0) / 40**0.5

    total = 0.0
    for part in torch.arange(24).split(7):
        with pv.seeded(3):  # one draw of the inducing values for the whole epoch
            guide_loss = objectives.IWAE(1).over(24).loss(model, guide, x[part], c[part])
        total -= guide_loss
    assert total == pytest.approx(exact, abs=1e-6)

    with torch.no_grad():
        guide.posterior.raw += 0.3 * torch.randn(guide.posterior.raw.shape, dtype=torch.float64)
    bounds = [-objectives.TraceELBO(5).loss(model, guide, x, c) for _ in range(30)]
    assert np.mean(bounds) < exact - 4.5 * np.std(bounds) / 30**0.5


def test_inducing_inputs_are_quantiles_or_centres_in_standard_deviations():
    c = torch.cat([torch.zeros(90), torch.arange(1.0, 11.0)])[:, None]
    prior = priors.GaussianProcess(1, 1, num_inducing=11)
    prior.start_at(c)
    chosen = prior.inducing_inputs * c.std(correction=0) + c.mean()
    torch.testing.assert_close(chosen[:, 0], torch.arange(11.0), atol=1e-5, rtol=0)
    with torch.no_grad():
        prior.log_length.fill_(math.log(2.0))
    torch.testing.assert_close(prior.length_scale, 2 * c.std(correction=0).reshape(1, 1))

    corners = torch.tensor([[0.0, 10.0], [0.0, 50.0], [1.0, 30.0]])
    for noise, expected in ((0.0, 3), (1e-3, 60)):
        points = corners.repeat(20, 1) + noise * torch.randn(60, 2)
        prior = priors.GaussianProcess(2, 2, num_inducing=3)
        prior.start_at(points)
        assert len(points.unique(dim=0)) == expected
        distance = torch.cdist(prior.units(corners), prior.inducing_inputs).amin(1)
        assert distance.max() < 0.01
    plane = priors.GaussianProcess(2, 2, num_inducing=5)  # more than there are distinct points
    plane.start_at(corners)
    assert plane(corners, inducing=torch.randn(2, 5)).stddev.isfinite().all()


@pytest.mark.parametrize("num_covariates", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("num_distinct", "num_inducing"), [(1, 20), (10, 10), (10, 11), (7, 20)])
def test_all_distinct_covariates_are_inducing_inputs_where_they_are_few(
    num_covariates, kernel, num_distinct, num_inducing
):
    """With share=1, z is then a function of c: its mean given v has the kernel's covariance, and
    its variance given v is that of the jitter."""
    years = torch.arange(2000.0, 2000.0 + num_distinct, dtype=torch.float64)[:, None]
    years = torch.cat([years, years.square()], 1)[:, :num_covariates]
    prior = priors.GaussianProcess(
        1, num_covariates, num_inducing=num_inducing, share=1.0, kernel=kernel
    ).double()
    prior.start_at(years.repeat(3, 1))
    assert torch.equal(prior.inducing_inputs.unique(dim=0), prior.units(years).unique(dim=0))
    for length in (0.1, 1.0):
        with torch.no_grad():
            prior.log_length.fill_(math.log(length))
            weights, variance = (each[:, 0] for each in prior.conditional(years))
        assert variance.max() < 2e-6
        exact = KERNELS[kernel](length)(prior.units(years).numpy())
        np.testing.assert_allclose(weights @ weights.mT, exact, atol=2e-6)


def test_the_marginals_are_averages_over_the_inducing_values(rows):
    """Of the prior N(0, 1), of the guide those of draws; 4.5 standard errors."""
    c, x = rows
    model, guide = linear(c, 5)
    make_exact(model, guide, x, c)
    v = guide.posterior.shared()["inducing"].sample((4_000,))
    z = torch.stack([guide.posterior_at(x, c, inducing=each).sample() for each in v[:400]])
    q = guide.encode(x, c)
    error = (z.mean(0) - q.mean) / (q.stddev / 20)
    assert error.abs().max() < 4.5
    assert ((z.std(0) / q.stddev).log().abs() < 4.5 / 800**0.5).all()
    mean, variance = model.prior.conditional(c)
    torch.testing.assert_close(mean.square().sum(-1) + variance, torch.ones(24, 1).double())
    assert torch.equal(model.prior_at(c).stddev, torch.ones(24, 1).double())


def test_the_alarm_for_collapse_knows_what_rows_share(rows):
    """Where c determines z, a row's own rate is near zero whether the curve is learned or not."""
    c, x = rows
    model, guide = linear(c, 12, share=1.0)
    with torch.no_grad():
        guide.posterior.raw[0] = guide.posterior.normal.raw_of(torch.zeros(12), torch.eye(12))
    assert not shares_information(model, guide, (x, c))
    make_exact(model, guide, x, c)
    assert mean_rate(model, guide, (x, c)) < 0.1
    assert shares_information(model, guide, (x, c))


# --- a smooth curve -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Three features that follow sin(c), c far from standard units, with noise of each row."""
    with pv.seeded(0):
        c = 40 + 10 * torch.rand(200, 1)
        z = c.sin() + 0.3 * torch.randn(200, 1)
        x = z * torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(200, 3)
        data = pv.Dataset(x, context=c)
        prior = priors.GaussianProcess(1, 1, num_inducing=12)
        model = pv.Model(prior, likelihoods.Gaussian(3), First(), start=data)
        encoder = pv.networks.Linear(4)
        guide = pv.Guide(posteriors.GaussianProcess(prior), 3, encoder, start=data)
        rate = pv.training.schedules.Cosine(0.05)
        training = pv.Training(
            num_epochs=150, batch_size=100, learning_rate=rate, compile=False, progress=False
        )
        pv.fit(model, guide, data, training=training)
    return model, guide, data


def test_a_smooth_curve_is_recovered_between_the_rows_and_left_outside_them(fitted):
    """The mean prediction at new covariates is near the truth, and far away that of z = 0."""
    model, guide, _ = fitted
    new = torch.linspace(40.5, 49.5, 30)[:, None]
    with pv.seeded(1):
        draws = torch.stack([model.sample(context=new, guide=guide) for _ in range(300)])
        far = torch.stack([model.sample(context=new + 1e3, guide=guide) for _ in range(300)])
    truth = new.sin() * torch.tensor([1.0, -2.0, 0.5])
    assert (draws.mean(0) - truth).square().mean().sqrt() < 0.2
    centre = model.decode(torch.zeros(1), new[0]).mean
    assert ((far.mean((0, 1)) - centre).abs() < 4.5 * far.std((0, 1)) / 9_000**0.5).all()
    assert (draws.std(0).mean(0) < 0.8 * far.std(0).mean(0)).all()


def test_evidence_is_conditional_on_the_inducing_values_and_says_so(fitted):
    model, guide, data = fitted
    part = data[:20]
    with pytest.warns(UserWarning, match="'inducing' lies outside the data plate: log p"):
        found = pv.log_evidence(model, guide, part, num_particles=600, progress=False)
    assert found.shared_errors.shape == (20, 30)
    q = guide.posterior.shared()["inducing"].sample((500,))
    weights, variance = model.prior.conditional(part.context)
    likelihood = model.likelihood
    with torch.no_grad():  # z integrated out for each draw of the inducing values
        link = likelihood.link.linear
        unit, centre = likelihood.units.unit, likelihood.units.centre
        loadings = link.weight[:3, 0] * unit
        scale = model.decode(torch.zeros(1, 1), part.context[:1]).base_dist.scale[0]
        mean = (weights * q.unsqueeze(1)).sum(-1) * loadings + link.bias[:3] * unit + centre
        covariance = variance.unsqueeze(-1) * loadings.outer(loadings) + scale.square().diag()
        law = torch.distributions.MultivariateNormal(mean, covariance)
        exact = law.log_prob(part.x).logsumexp(0) - math.log(500)
    assert (abs(found.log_evidence - exact.numpy()) < 4.5 * found.mc_se + 0.05).all()


def test_what_works_and_what_refuses(fitted):
    """Predictive checks and counterfactuals draw the inducing values from the guide."""
    model, guide, data = fitted
    part = data[:30]
    quiet = {"progress": False}
    check = pv.predictive_check(model, guide, part, num_samples=40, **quiet)
    assert (check.p_values()["mean"] > 0.01).all()
    drawn = pv.counterfactual(model, guide, part, {"0": 45.0}, num_samples=5, **quiet)
    assert drawn.draws.shape == (5, 30, 3)
    assert log_weights(model, guide, part.x, part.context, num_particles=3).shape == (3, 30)
    assert pv.to_datatree(model, guide, part, num_samples=30)["posterior"]["inducing"].size == 360
    with pytest.raises(ValueError, match="'inducing'"):
        pv.marginal_pit(model, part)
    chains = pv.sample_posterior(model, guide, part, sampler=pv.HMC(3, 2, num_leapfrog=2))
    assert chains["inducing"].numel() == 3 * 4 * 12
    assert chains["z"].shape == (3, 4, 30, 1)
    for use in (pv.refine, pv.elbo_surgery, pv.calibration, pv.bdmc):
        with pytest.raises(ValueError, match="'inducing'"):
            use(model, guide, part)
    with pytest.raises(ValueError, match="GaussianProcess has latents that rows share"):
        pv.refit_prior(model, guide, data, priors.GaussianMixture(1))


def test_a_process_and_its_posterior_belong_together(fitted):
    model, guide, data = fitted
    plain = pv.Guide(posteriors.MeanFieldNormal(1), 3, start=data)
    other = pv.Guide(posteriors.GaussianProcess(priors.GaussianProcess(1, 1)), 3, start=data)
    normal = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(3), start=data)
    for pair, message in (
        ((model, plain), r"shares \['inducing'\] .* MeanFieldNormal none: use posteriors.Gaussian"),
        ((normal, guide), r"StandardNormal shares no latents .*\['inducing'\]"),
        ((model, other), "GaussianProcess was made for another prior: give it model.prior"),
    ):
        for use in (pv.fit, pv.log_evidence):
            with pytest.raises(ValueError, match=message):
                use(*pair, data)
    with pytest.raises(ValueError, match="GaussianProcess takes covariates and got none"):
        model.prior()
    with pytest.raises(ValueError, match=r"GaussianProcess\(kernel\) is 'cubic'"):
        priors.GaussianProcess(1, 1, kernel="cubic")
