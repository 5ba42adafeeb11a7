"""Priors beside the laws that all obey: exact values, covariates, and priors fitted afterwards."""

import numpy as np
import pytest
import torch
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds, likelihoods, objectives, posteriors, priors
from ppl_vae.diagnostics import elbo_surgery


def steps(count, learning_rate):
    """Settings of that many steps with all rows, shorter towards the end."""
    rate = pv.training.schedules.Cosine(learning_rate)
    return pv.Training(num_epochs=count, batch_size=500, learning_rate=rate, progress=False)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (priors.Laplace(1), stats.laplace()),
        (priors.StudentT(1, df=0.5), stats.t(0.5)),
        (priors.StudentT(1, df=4.0), stats.t(4.0)),
    ],
)
def test_heavy_tails_are_scipys(prior, law):
    z = np.concatenate([-np.logspace(-30, 30, 40), [0.0], np.logspace(-30, 30, 40)])
    z = z[np.isfinite(law.logpdf(z))]
    found = prior.double()().log_prob(torch.as_tensor(z)[:, None])
    np.testing.assert_allclose(found.detach(), law.logpdf(z), rtol=1e-9, atol=1e-9)
    draws = prior().sample((5000,))[:, 0].numpy()
    assert stats.kstest(draws, law.cdf).pvalue > 1e-3


def test_a_conditional_prior_is_the_normal_of_its_network():
    """With no hidden layer, m is affine in c; s is one where the features are zero."""
    prior = priors.ConditionalNormal(2, 3, network=torch.nn.Identity()).double()
    weights, c = prior.link.linear.weight, torch.randn(5, 3, dtype=torch.float64)
    p = prior(c)
    torch.testing.assert_close(p.mean, c @ weights[:2].mT)
    assert (prior(0 * c).stddev - 1).abs().max() < 2e-3
    with pytest.raises(ValueError, match="ConditionalNormal takes covariates and got none"):
        prior()
    with pytest.raises(ValueError, match="the prior's network cannot read inputs"):
        priors.ConditionalNormal(2, 3, network=torch.nn.Linear(2, 4))
    prior.float().network = torch.nn.Softmax(dim=0)
    with pytest.raises(ValueError, match="the prior mixes rows"):
        pv.Model(prior, likelihoods.Gaussian(3), context_dim=3)


class FirstEntry(torch.nn.Module):
    """A decoder of z alone, without the covariate."""

    def forward(self, inputs):
        return inputs[:, :1]


def test_covariates_that_move_the_latents_are_worth_their_information():
    """z = 2 sin(3 c) + noise, x near z: the bound is near the exact log p(x given c), far above
    that of any mean that is affine in c."""
    with pv.seeded(0):
        c = 2 * torch.rand(400, 1) - 1
        mean = 2 * torch.sin(3 * c)
        x = mean + 0.5 * torch.randn(400, 1)
        prior, likelihood = priors.ConditionalNormal(1, 1), likelihoods.Gaussian(1)
        model = pv.Model(prior, likelihood, FirstEntry(), context_dim=1)
        encoder = pv.networks.MLP(2, (32,))
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 1, encoder, context_dim=1)
        pv.fit(model, guide, pv.Dataset(x, context=c), training=steps(250, 0.05))
        bound = objectives.MeanFieldELBO(20).bound(model, guide, x, c).mean().item()
    exact = stats.norm(0, 0.5).logpdf((x - mean).numpy()).mean()
    given, value = c[:, 0].numpy(), x[:, 0].numpy()
    residual = value - np.polynomial.Polynomial.fit(given, value, deg=1)(given)
    assert abs(bound - exact) < 0.1
    assert bound > stats.norm(0, residual.std()).logpdf(residual).mean() + 0.3


# --- priors fitted to the aggregate posterior -----------------------------------------------------


def untrained():
    """A linear-Gaussian model, and rows from one whose latents lie elsewhere."""
    bed = beds.linear_gaussian(num_data=500)
    with pv.seeded(0):
        x = torch.randn(500, bed.x.shape[1]) @ torch.randn(bed.x.shape[1], bed.x.shape[1]) / 3 + 1
    guide = pv.Guide(posteriors.MeanFieldNormal(2), x.shape[1], torch.nn.Identity())
    likelihood = likelihoods.Gaussian(x.shape[1])
    model = pv.Model(priors.StandardNormal(2), likelihood, torch.nn.Identity())
    return model, guide, x


@pytest.fixture(scope="module")
def trained():
    with pv.seeded(0):
        model, guide, x = untrained()
        few = pv.Training(num_epochs=2, batch_size=100, progress=False)  # q(z) is not N(0, I) yet
        pv.fit(model, guide, x[:400], training=few)
    return model, guide, x


def elbos(model, guide, x):
    with pv.seeded(1):
        return objectives.TraceELBO(100).bound(model, guide, x)


def test_a_refitted_normal_gains_the_marginal_kl(trained):
    """The bound of the training rows rises by KL(N(m, v) || N(0, I)) exactly, with the moments m, v
    of q(z), and by what the KL of q(z) falls; nothing else changes."""
    model, guide, x = trained
    before = {k: v.clone() for k, v in (model.state_dict() | guide.state_dict()).items()}
    refitted = pv.refit_prior(
        model, guide, x[:400], priors.LearnedNormal(2), training=steps(150, 0.05)
    )
    after = model.state_dict() | guide.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in (*model.parameters(), *guide.parameters()))
    assert refitted.decoder is model.decoder
    assert repr(model.prior) == "StandardNormal(2)"

    q = guide.encode(x[:400])
    mean = q.mean.mean(0)
    variance = q.variance.mean(0) + q.mean.var(0, correction=0)
    exact = 0.5 * (variance + mean**2 - 1 - variance.log()).sum().item()
    objective = objectives.MeanFieldELBO(1)
    values = [kl_part(objective, m, guide, x[:400]) for m in (model, refitted)]
    assert exact > 0.05
    assert values[1] - values[0] == pytest.approx(exact, abs=2e-3)

    parts = [
        elbo_surgery(m, guide, x[:400], progress=False).summary().mean for m in (model, refitted)
    ]
    fall = parts[0]["marginal_kl"] - parts[1]["marginal_kl"]
    assert fall == pytest.approx(exact, abs=0.03)


def kl_part(objective, model, guide, x):
    with pv.seeded(2):  # the same draws, so that the likelihood cancels
        return objective.bound(model, guide, x).mean().item()


def small_flow():
    return priors.FlowPrior(2, "affine_coupling", hidden_dims=[8])


@pytest.mark.parametrize("make", [lambda: priors.GaussianMixture(2, 5), small_flow])
def test_a_refitted_prior_does_not_lower_the_held_out_bound(trained, make):
    model, guide, x = trained
    refitted = pv.refit_prior(model, guide, x[:400], make(), training=steps(60, 0.03))
    gain = (elbos(refitted, guide, x[400:]) - elbos(model, guide, x[400:])).double()
    assert gain.mean() > -2 * gain.std() / len(gain) ** 0.5
    assert refitted.sample(3).shape == (3, x.shape[1])


def test_a_prior_that_cannot_be_refitted_is_told(trained):
    model, guide, x = trained
    with pytest.raises(ValueError, match="StandardNormal has no parameters of its own to fit"):
        pv.refit_prior(model, guide, x, priors.StandardNormal(2))
    with pytest.raises(ValueError, match=r"the prior has 3 latent dimensions and the decoder 2"):
        pv.refit_prior(model, guide, x, priors.GaussianMixture(3))
