"""The KL of one site among several, whatever the orders in which model and guide draw them: against
joint Gaussians."""

from contextlib import nullcontext
from itertools import permutations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.diagnostics import kl_per_dimension, rate_distortion
from ppl_vae.runtime.seeding import seeded

NOISE = 0.7
X = torch.tensor([0.9, -0.4], dtype=torch.float64)
ORDERS = [((0, 1), (0, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 1)), ((1, 0), (1, 0))]
ORDERS += [(order, (0, 1, 2)) for order in permutations(range(3))]
ORDERS += [((0, 1, 2), order) for order in permutations(range(3)) if order != (0, 1, 2)]


class Joint:
    """z ~ N(mean, factor factor^T) in sites z0, z1, ..., each given the ones before it in
    `order`."""

    def __init__(self, mean, factor, order):
        self.mean, self.covariance, self.order = mean, factor @ factor.mT, order

    def sample(self):
        drawn = {}
        for site in self.order:
            known = list(drawn)
            loc, variance = self.mean[..., site], self.covariance[site, site]
            if known:
                regression = torch.linalg.solve(
                    self.covariance[known][:, known], self.covariance[known, site]
                )
                loc = (
                    loc
                    + (torch.stack(list(drawn.values()), -1) - self.mean[..., known]) @ regression
                )
                variance = variance - self.covariance[site, known] @ regression
            drawn[site] = pyro.sample(f"z{site}", dist.Normal(loc, variance.sqrt()))
        return torch.stack([drawn[site] for site in sorted(drawn)], -1)

    def distribution(self):
        return dist.MultivariateNormal(self.mean, self.covariance)


class Problem:
    """Every edge that the orders allow, x ~ N(w z, noise^2); q is any Gaussian, or the
    posterior."""

    def __init__(self, model_order, guide_order, exact=False, mask=None):
        size, generator = len(model_order), torch.Generator().manual_seed(3)
        mean, q_mean, lower, q_lower = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            for shape in ((size,), (len(X), size), (size, size), (size, size))
        )
        self.weights, self.mask = torch.linspace(1.0, -0.6, size, dtype=torch.float64), mask
        self.prior = Joint(mean, 0.5 * lower.tril() + torch.eye(size), model_order)
        self.mean, self.factor = 0.5 * q_mean, 0.3 * q_lower.tril() + 0.6 * torch.eye(size)
        if exact:
            precision = (
                self.prior.covariance.inverse() + self.weights.outer(self.weights) / NOISE**2
            )
            shift = self.prior.covariance.inverse() @ mean + X[:, None] * self.weights / NOISE**2
            self.mean, self.factor = (
                shift @ precision.inverse(),
                torch.linalg.cholesky(precision.inverse()),
            )
        self.parameters = [self.mean.requires_grad_(), self.factor.requires_grad_()]
        self.guide_order = guide_order

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            with self.masked(x):
                z = self.prior.sample()
            pyro.sample("x", dist.Normal(z @ self.weights, NOISE), obs=x.flatten())

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1), self.masked(x):
            Joint(self.mean[self.row(x)], self.factor, self.guide_order).sample()

    def row(self, x):
        """Which of `X` each one is."""
        return (x.flatten() < 0).long()

    def masked(self, x):
        if self.mask is None:
            return nullcontext()
        return poutine.mask(mask=self.mask if len(x) == len(X) else self.mask[self.row(x)])

    @property
    def posterior(self):
        return Joint(self.mean, self.factor, self.guide_order)

    def kl(self):
        kl = torch.distributions.kl_divergence(
            self.posterior.distribution(), self.prior.distribution()
        )
        return kl if self.mask is None else kl * self.mask

    def elbo(self, beta=1.0):
        """In closed form, per row."""
        spread = self.weights @ self.posterior.covariance @ self.weights / (2 * NOISE**2)
        return dist.Normal(self.mean @ self.weights, NOISE).log_prob(X) - spread - beta * self.kl()

    def log_evidence(self):
        variance = self.weights @ self.prior.covariance @ self.weights + NOISE**2
        return dist.Normal(self.prior.mean @ self.weights, variance.sqrt()).log_prob(X)


def assert_estimates(problem, objective, exact, repeats=20):
    """Value and gradient within 4.5 of their own standard errors."""
    found = []
    with pv.seeded(0):
        for _ in range(repeats):
            loss = objective.differentiable_loss(problem.model, problem.guide, X)
            gradients = torch.autograd.grad(loss, problem.parameters)
            found.append(-torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients)]))
    found = torch.stack(found)
    gradients = torch.autograd.grad(exact.sum(), problem.parameters)
    expected = torch.cat([exact.detach().sum().reshape(1), *(g.flatten() for g in gradients)])
    error, se = (found.mean(0) - expected).abs(), found.std(0) / repeats**0.5
    assert (error <= 4.5 * se + 1e-9).all(), (error / se).max()


@pytest.mark.statistical
@pytest.mark.parametrize(("model_order", "guide_order"), ORDERS)
def test_the_elbo_is_the_elbo_in_any_order(model_order, guide_order):
    """In expectation, with its gradient; where the closed form was taken is where no later draw can
    depend on it."""
    problem, objective = Problem(model_order, guide_order), objectives.MeanFieldELBO(400)
    assert_estimates(problem, objective, problem.elbo())
    assert_estimates(problem, objectives.BetaELBO(2.5, 400), problem.elbo(2.5))
    analytic = objective.analytic_kl(problem.model, problem.guide, X)
    for site in guide_order:
        before = model_order[: model_order.index(site)]
        later = guide_order[guide_order.index(site) :]
        assert analytic[f"z{site}"] == (not set(before) & set(later))


@pytest.mark.parametrize(("model_order", "guide_order"), ORDERS)
def test_an_exact_guide_has_log_evidence_on_average(model_order, guide_order):
    """By 4.5 standard errors of its particles; the rate is the exact one."""
    problem, count = Problem(model_order, guide_order, exact=True), 4000
    with torch.no_grad():
        with pv.seeded(0):
            terms = objectives.MeanFieldELBO(count).terms(problem.model, problem.guide, X)
        values = terms.log_likelihood - sum(
            kl for _, kl, _ in objectives.mean_field.kl_per_site(terms)
        )
        error = (values.mean(0) - problem.log_evidence()).abs()
        assert (error <= 4.5 * values.std(0) / count**0.5 + 1e-9).all()


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("model_order", "guide_order"), [((1, 0), (0, 1)), ((0, 1), (0, 1)), ((2, 0, 1), (0, 1, 2))]
)
def test_the_other_users_of_the_kl(model_order, guide_order):
    """Free bits below any KL, InfoVAE without its distance, the rate and the KL by dimension:
    20,000 draws."""
    problem = Problem(model_order, guide_order)
    assert_estimates(problem, objectives.InfoVAE(0.0, 1.0, 100), problem.elbo())
    settings = {"num_particles": 20_000, "progress": False}
    by_site = kl_per_dimension(problem.model, problem.guide, X, **settings)
    parts = rate_distortion(problem.model, problem.guide, X, **settings)
    exact = problem.kl().detach().numpy()
    assert (np.abs(by_site.sum(1) - parts.rate) < 4.5 * parts.rate_se).all()
    assert (np.abs(parts.rate - exact) < 4.5 * parts.rate_se).all()
    with pv.seeded(0), torch.no_grad():
        terms = objectives.MeanFieldELBO(50).terms(problem.model, problem.guide, X)
        penalty = objectives.BetaELBO(free_bits=1e-300).penalty(terms)
        plain = objectives.BetaELBO().penalty(terms)
    torch.testing.assert_close(penalty, plain)  # by the same draws: KL by dimension and by site


@pytest.mark.statistical
@pytest.mark.parametrize("guide_order", [(0, 1), (1, 0)])
def test_masked_rows_have_no_kl(guide_order):
    """Neither by site nor by dimension."""
    problem = Problem((1, 0), guide_order, mask=torch.tensor([True, False]))
    assert_estimates(problem, objectives.MeanFieldELBO(400), problem.elbo())
    found = kl_per_dimension(problem.model, problem.guide, X, num_particles=20_000, progress=False)
    parts = rate_distortion(problem.model, problem.guide, X, num_particles=20_000, progress=False)
    assert (found[1] == 0).all()
    assert abs(found[0].sum() - parts.rate[0]) < 4.5 * parts.rate_se[0]


def test_a_row_that_model_and_guide_mask_apart_is_estimated():
    """The prior of the second row is masked, its guide is not: E log q(z) is what remains, not a
    KL."""
    problem = Problem((0, 1), (0, 1))
    mask = torch.tensor([True, False])
    with pv.seeded(0), torch.no_grad():
        model = poutine.mask(problem.model, mask=mask)
        terms = objectives.MeanFieldELBO(20_000).terms(model, problem.guide, X)
        kl = objectives.mean_field.kl_per_row(terms)[:, 1]
    entropy = problem.posterior.distribution().entropy()[1].item()
    assert abs(kl.mean() + entropy) < 4.5 * kl.std() / len(kl) ** 0.5


def test_auxiliary_sites_have_no_kl_per_dimension():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0 * x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 1.0))

    with pytest.raises(
        ValueError,
        match="auxiliary site 'a' of the guide has no prior: there is no KL per dimension",
    ):
        objectives.BetaELBO(free_bits=0.1).bound(model, guide, X)


class Chain(torch.nn.Module):
    """z1 ~ N(m, 1), z2 ~ N(0.8 z1, 0.7), x ~ N(z1 + z2, 1): the prior of z2 depends on z1."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.loc, 1.0))
            z2 = pyro.sample("z2", dist.Normal(0.8 * z1, 0.7))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(self, x, order=("z1", "z2")):
        with pyro.plate("data", len(x), dim=-1):
            first = pyro.sample(order[0], dist.Normal(x.new_tensor(0.2), 0.6))
            pyro.sample(order[1], dist.Normal(0.4 * first - 0.1, 0.5))


@pytest.mark.statistical
@pytest.mark.parametrize("order", [("z1", "z2"), ("z2", "z1")])
@pytest.mark.parametrize("kl_weight", [0.4, 1.0])
@pytest.mark.parametrize(
    "make", [objectives.TraceELBO, objectives.IWAE, objectives.Renyi], ids=lambda m: m.__name__
)
def test_the_priors_own_gradient_where_another_prior_depends_on_the_site(make, kl_weight, order):
    """DReG with prior=True against the plain estimator: 4.5 standard errors of the difference, 20 x
    4,000 rows."""
    chain, x = Chain(), torch.full((4_000,), 0.8, dtype=torch.float64)
    found = []
    for gradient in (
        objectives.DoublyReparameterized(prior=True),
        objectives.DoublyReparameterized(),
    ):
        objective = make(num_particles=3, gradient=gradient).annealed(kl_weight)
        with seeded(0):
            losses = [
                objective.differentiable_loss(chain.model, lambda x: chain.guide(x, order), x)
                for _ in range(20)
            ]
        found.append(
            torch.stack([torch.autograd.grad(loss, chain.loc)[0] / len(x) for loss in losses])
        )
    difference = found[0] - found[1]
    assert difference.mean().abs() <= 4.5 * difference.std() / 20**0.5
