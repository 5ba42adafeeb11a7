"""Several layers of latents against the exact log p(x) of linear-Gaussian models."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.evidence.defensive import inflate

NOISE = 0.5
LOADINGS = np.array([1.0, -2.0, 0.3])
LINKS = (0.7, -1.3)  # of each layer to the one above
SCALES = (0.8, 1.2)  # given the one above


def covariance(num_layers):
    """Of (z_1, ..., z_L, x): z_L is N(0, 1), z_l normal about a multiple of z_(l+1), x of z_1."""
    noise = np.eye(num_layers + len(LOADINGS))
    z = [noise[num_layers - 1]]
    for layer in reversed(range(num_layers - 1)):
        z.insert(0, LINKS[layer] * z[0] + SCALES[layer] * noise[layer])
    root = np.vstack([*z, np.outer(LOADINGS, z[0]) + NOISE * noise[num_layers:]])
    return root @ root.T


def raw_scale(scale):
    """What softplus maps to this scale."""
    return np.log(np.expm1(scale))


def set_affine(linear, weight, bias):
    linear.weight.data = torch.as_tensor(np.atleast_2d(weight))
    linear.bias.data = torch.as_tensor(np.atleast_1d(bias))


def set_step(step, slope, scale):
    """N(slope z, scale^2) from one layer to the next."""
    set_affine(step[-1], [[slope], [0.0]], [0.0, raw_scale(scale) - 0.5413])


def exact(num_layers, order):
    """A model, its exact posterior as a guide, and the covariance of latents and x."""
    sizes, total = (1,) * num_layers, covariance(num_layers)
    prior = priors.Hierarchical(num_layers, sizes, hidden_dims=())
    likelihood = likelihoods.Gaussian(len(LOADINGS), scale=NOISE)
    model = pv.Model(prior, likelihood, nn.Identity()).double()
    posterior = posteriors.Hierarchical(num_layers, sizes, hidden_dims=(), order=order)
    guide = pv.Guide(posterior, len(LOADINGS), nn.Identity()).double()
    for step, layer in zip(prior.steps, reversed(range(num_layers - 1)), strict=True):
        set_step(step, LINKS[layer], SCALES[layer])
    set_affine(likelihood.link.linear, LOADINGS[:, None], np.zeros(3))
    x = list(range(num_layers, len(total)))
    layers = list(range(num_layers))[:: 1 if order == "bottom-up" else -1]
    loc, scale = np.zeros((num_layers, 3)), np.zeros(num_layers)
    for i, layer in enumerate(layers):
        known = [*x, *layers[max(0, i - 1) : i]]
        slopes = np.linalg.solve(total[np.ix_(known, known)], total[known, layer])
        loc[layer] = slopes[:3]
        scale[layer] = np.sqrt(total[layer, layer] - slopes @ total[known, layer]) - 1e-6
        if i:
            set_step(posterior.steps[i - 1], slopes[3], 1.0)
    weights = np.vstack([loc, np.zeros_like(loc)])
    set_affine(posterior.link.linear, weights, [*np.zeros(num_layers), *raw_scale(scale)])
    return model, guide, total


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_weight_of_the_exact_posterior_is_the_exact_evidence(num_layers, order):
    model, guide, total = exact(num_layers, order)
    x = torch.randn(6, 3, dtype=torch.float64)
    log_w = pv.log_weights(model, guide, x, num_particles=7)
    marginal = stats.multivariate_normal(np.zeros(3), total[num_layers:, num_layers:])
    np.testing.assert_allclose(log_w, np.tile(marginal.logpdf(x), (7, 1)), atol=1e-9)


def test_draws_of_the_prior_have_the_exact_moments_and_x_depends_on_the_first_layer():
    model, _, total = exact(3, "bottom-up")
    z = model.prior().sample((20_000,)).numpy()
    assert abs(np.cov(z.T) - total[:3, :3]).max() < 0.1
    z = torch.randn(5, 3, dtype=torch.float64)
    other = torch.cat([z[:, :1], torch.randn(5, 2).double()], dim=-1)
    assert torch.equal(model.decode(z).mean, model.decode(other).mean)
    assert not torch.equal(model.decode(z + 1).mean, model.decode(z).mean)


def test_a_wider_chain_is_wider_at_each_layer():
    _, guide, _ = exact(2, "bottom-up")
    q = guide.encode(torch.randn(4, 3).double())
    z = q.sample()
    wide = inflate(q, 2.0, "z")
    first = (z - q.loc)[:, 0] / q.scale[:, 0]
    mean = q.loc[:, 1] + q.steps[0](z[:, :1])[:, 0]
    second = (z[:, 1] - mean) / q.scale[:, 1]
    gain = wide.log_prob(z) - q.log_prob(z)
    expected = 3 / 8 * (first**2 + second**2) - 2 * np.log(2)
    torch.testing.assert_close(gain, expected, atol=1e-4, rtol=0)


def test_layers_must_add_up():
    with pytest.raises(ValueError, match=r"layers \(3, 1\) have 4 dimensions together"):
        priors.Hierarchical(5, layers=(3, 1))
    with pytest.raises(ValueError, match="latent_dim of two layers is 1"):
        posteriors.Hierarchical(1)
    with pytest.raises(ValueError, match="order"):
        posteriors.Hierarchical(2, order="sideways")
    assert priors.Hierarchical(150).layers == (100, 50)
