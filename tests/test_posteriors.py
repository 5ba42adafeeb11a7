"""Posteriors beside the laws that all obey: how draws move with parameters, and exact values."""

import sys

import numpy as np
import pytest
import torch
from cases import DISCRETE, POSTERIORS, nodes
from pyro.distributions import constraints
from scipy import stats
from scipy.special import logsumexp

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.evidence.defensive import inflate
from ppl_vae.refinement import GradientRefinement, refine


def rough(z):
    """Functions of z whose means every part of a density changes."""
    first, second = z[..., 0], z[..., 1]
    return torch.stack([(1.3 * first).sin(), second.tanh() ** 2, (first * second).cos()], dim=-1)


@pytest.mark.parametrize("name", [name for name in POSTERIORS if name not in DISCRETE])
def test_draws_have_the_density_and_move_as_it_does(name):
    """Means of functions, and their derivatives in the parameters, against quadrature: 6 numbers
    for each family, each within 4.5 standard errors (level 1e-5)."""
    support = getattr(posteriors, name).support
    dim = 2 if support is constraints.real_vector else 3
    q = POSTERIORS[name](dim).double()
    z, weights = nodes(support, dim, points=201)
    point = 0.8 * torch.randn(q.num_parameters, dtype=torch.float64)
    direction = torch.randn(q.num_parameters, dtype=torch.float64)

    @torch.no_grad()
    def exact(raw):
        density = q.distribution(raw).log_prob(z).exp()
        return (density * weights) @ rough(z)

    raw = point.expand(20_000, -1).clone().requires_grad_()
    values = rough(q.distribution(raw).rsample())
    slopes = [torch.autograd.grad(v.sum(), raw, retain_graph=True)[0] for v in values.unbind(-1)]
    slopes = torch.stack([slope @ direction for slope in slopes], dim=-1)
    step = 1e-4 * direction
    expected = (exact(point + step) - exact(point - step)) / 2e-4
    for found, truth in ((values.detach(), exact(point)), (slopes, expected)):
        error = found.mean(0) - truth
        assert (error.abs() < 4.5 * found.std(0) / len(found) ** 0.5 + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in POSTERIORS if name not in DISCRETE])
def test_the_draws_of_a_narrow_posterior_far_away_differ(name, dtype):
    """Means up to 10^6 with the smallest scale: of 200 draws in float32, a normal with a sd of 64
    spacings has fewer than 100 different values with probability 1e-9."""
    support = getattr(posteriors, name).support
    if support is not constraints.real_vector:
        return
    q = POSTERIORS[name](2).to(dtype)
    raw = torch.zeros(q.num_parameters, dtype=dtype)
    raw[2:] = -30.0
    for mean in (0.0, 1.0, -40.0, 1e3, -1e6):
        raw[:2] = mean
        draws = q.distribution(raw.expand(200, -1)).sample()
        assert all(len(column.unique()) >= 100 for column in draws.unbind(-1)), mean


def test_a_mixture_is_scipys_wherever_its_components_lie():
    """Components 1000 standard deviations apart, one of them with a tiny scale."""
    q = posteriors.Mixture(1, 3).double()
    loc = torch.tensor([[0.0], [1e3], [-2.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0], [1.0], [1e-5]], dtype=torch.float64)
    mixture = q.distribution(torch.zeros(q.num_parameters, dtype=torch.float64))
    normals = type(mixture.component_distribution.base_dist)(loc, scale)
    mixture = type(mixture)(mixture.mixture_distribution, normals.to_event(1))
    z = np.array([-2.00001, -2.0, 0.0, 500.0, 1e3, 1e5])
    parts = [stats.norm(*part).logpdf(z) for part in zip(loc[:, 0], scale[:, 0], strict=True)]
    found = mixture.log_prob(torch.as_tensor(z)[:, None])
    np.testing.assert_allclose(found, logsumexp(parts, axis=0) - np.log(3), rtol=1e-9)
    wide = inflate(mixture, 2.0, "z")
    assert torch.equal(wide.component_distribution.base_dist.scale, 2 * scale)


class Absolute(torch.nn.Module):
    """A decoder that does not tell z from -z."""

    def forward(self, z):
        return z.abs()


def test_a_mixture_closes_the_gap_that_a_normal_leaves_at_two_modes():
    """x = |z| + noise: one normal loses log 2 nats, less what the tails overlap."""
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(1, scale=0.3), Absolute())
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 1, torch.nn.Identity())
    with torch.no_grad():
        model.likelihood.link.linear.weight.fill_(1.0)
        model.likelihood.link.linear.bias.zero_()
        guide.posterior.link.linear.weight.zero_()
        guide.posterior.link.linear.bias.zero_()  # N(0, 0.7^2), between the modes
    x = torch.tensor([[1.5], [2.5]])
    z = torch.linspace(-6, 6, 2401)[:, None, None]
    joint = model.decode(z).log_prob(x) + model.prior().log_prob(z)
    exact = joint.logsumexp(0) + np.log(12 / 2400)
    gaps = []
    for family in (posteriors.FullRankNormal(1), posteriors.Mixture(1, 2)):
        method = GradientRefinement(150, learning_rate=0.1, posterior=family)
        refined = refine(model, guide, x, method, progress=False)
        log_w = pv.log_weights(model, refined, x, num_particles=2000, seed=0)
        gaps.append((exact - log_w.mean(0)).max().item())
    assert gaps[0] > 0.6
    assert abs(gaps[1]) < 0.05


def test_an_autoregressive_flow_scores_other_points_as_its_own():
    q = posteriors.InverseAutoregressive(5, 3, hidden_dims=(3,)).double()
    for parameter in q.parameters():
        parameter.data.mul_(20)  # far from the identity
    raw = torch.randn(50, q.num_parameters, dtype=torch.float64)
    own = q.distribution(raw)
    z = own.rsample()
    found = q.distribution(raw).log_prob(z.detach())
    torch.testing.assert_close(found, own.log_prob(z), rtol=1e-9, atol=1e-9)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda e, c: flowed(q, e, c)))
    slopes = jacobian(torch.randn(9, 5).double(), raw[:9, 10:])
    assert (torch.linalg.det(slopes) > 0).all()
    assert posteriors.InverseAutoregressive(1).distribution(torch.zeros(34)).event_shape == (1,)


def flowed(q, e, conditioner):
    raw = torch.cat([torch.zeros(10, dtype=e.dtype), conditioner])
    for transform in q.distribution(raw).transforms:
        e = transform(e)
    return e


@pytest.mark.parametrize("kind", ["nsf", "realnvp"])
def test_the_other_flows_of_zuko_integrate_to_one(kind):
    q = posteriors.ZukoFlow(2, kind, hidden_dims=(8,)).double()
    axis = torch.linspace(-12, 12, 301, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    raw = torch.randn(q.num_parameters, dtype=torch.float64)
    with torch.no_grad():
        mass = q.distribution(raw).log_prob(plane).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=2e-3)


def test_zuko_is_asked_for_where_it_is_missing_and_changes_no_checks(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    checked = torch.distributions.Distribution._validate_args
    posteriors.ZukoFlow(1)
    assert torch.distributions.Distribution._validate_args == checked
    with pytest.raises(ValueError, match='"realnvp"\\) has nothing to couple'):
        posteriors.ZukoFlow(1, "realnvp")
    with pytest.raises(ValueError, match="kind"):
        posteriors.ZukoFlow(2, "spline")
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r'ZukoFlow needs zuko: pip install "ppl-vae\[zuko\]"'):
        posteriors.ZukoFlow(2)
