"""Latents outside the data plate: one draw for all rows, one KL for all batches, an expectation
around every bound."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import OBJECTIVES
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.programs.traces import log_terms
from ppl_vae.training.shared_latents import shared_among

N = 105
X = 0.7 + 1.4 * torch.randn(N, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TAKES_GLOBAL = [name for name, make in OBJECTIVES.items() if make().takes_global]
REFUSES = {
    "CUBO": objectives.CUBO(2, 4),
    "CUBO, order 1": objectives.CUBO(1, 4),
    "Renyi, alpha=-1": objectives.Renyi(-1.0, 4),
    "ReweightedWakeSleep": objectives.ReweightedWakeSleep(4),
    "WakeSleep": objectives.WakeSleep(),
}


class OneMean(nn.Module):
    """mu ~ N(0, 1), z_b ~ N(mu, 1), x_b ~ N(z_b, 1): p(mu given x) is normal, and so is p(z_b given
    x_b, mu)."""

    def __init__(self, sized=False):
        super().__init__()
        self.sized = sized
        self.loc = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def plate(self, x):
        return pyro.plate("data", N if self.sized else len(x), subsample_size=len(x), dim=-1)

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x):
        mu = pyro.sample("mu", dist.Normal(self.loc, self.log_scale.exp()))
        with self.plate(x):
            pyro.sample("z", dist.Normal((x[:, 0] + mu) / 2, 0.5**0.5))

    @staticmethod
    def exact():
        """Mean and standard deviation of mu given x."""
        precision = 1 + N / 2
        return (X.sum() / 2 / precision).item(), precision**-0.5


class Loadings(nn.Module):
    """W ~ N(0, 1) of shape (2, 3), z_b ~ N(0, I), x_b ~ N(z_b W, 0.5^2): a matrix outside the
    plate."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.loc = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        self.net = nn.Linear(3, 4).double()

    def model(self, x):
        W = pyro.sample("W", dist.Normal(torch.zeros(2, 3).double(), 1.0).to_event(2))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W, 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("W", dist.Normal(self.loc, 0.05).to_event(2))
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("num_particles", [1, 2, 4, 5, 6])
def test_log_terms_of_a_matrix_outside_the_plate_by_hand(num_particles):
    """Also where K is the number of rows (5), of latent dims (2), or one off."""
    program, x = Loadings(), torch.randn(5, 3, dtype=torch.float64)
    terms = log_terms(program.model, program.guide, x, num_particles=num_particles)
    W, z = (terms.guide_trace.nodes[name]["value"] for name in ("W", "z"))
    assert W.shape == (2, 3)
    assert z.shape == (num_particles, 5, 2)
    torch.testing.assert_close(terms.log_likelihood, dist.Normal(z @ W, 0.5).log_prob(x).sum(-1))
    expected = (
        dist.Normal(0.0, 1.0).log_prob(W).sum() - dist.Normal(program.loc, 0.05).log_prob(W).sum()
    )
    torch.testing.assert_close(terms.log_global, expected)


@pytest.mark.statistical
@pytest.mark.parametrize("num_particles", [50, 1_000])
def test_log_evidence_is_conditional_on_the_latent(num_particles):
    """log E_q[p(x given W)], by Monte Carlo over W with z integrated out; 4.5 standard errors of
    both."""
    program, x = (
        Loadings(),
        torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    nn.init.zeros_(program.net.weight)
    nn.init.zeros_(program.net.bias)  # q(z given x) = N(0, I)
    with pytest.warns(
        UserWarning,
        match=r"'W' lies outside the data plate: .* pyro\.condition\(program, \{'W': value\}\)",
    ):
        found = pv.log_evidence(program.model, program.guide, x, num_particles=num_particles)
    W = program.loc.detach() + 0.05 * torch.randn(20_000, 2, 3, dtype=torch.float64)
    covariance = W.mT @ W + 0.25 * torch.eye(3, dtype=torch.float64)
    log_p = dist.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x.unsqueeze(1)).T
    exact = (log_p.logsumexp(0) - math.log(len(log_p))).numpy()
    assert (np.abs(found.log_evidence - exact) < 4.5 * np.hypot(found.mc_se, 0.003)).all()


@pytest.mark.statistical
def test_standard_errors_are_clustered_by_the_latent():
    """Over 60 seeds: each row's error and that of their mean agree with the standard errors, within
    30 %.

    All rows share the draws of mu, and lie to the right of it: the error of their mean is several
    times that of independent rows."""
    program, rows = OneMean(), X.sort(0).values[-20:]
    program.log_scale.data.fill_(-0.5)
    found = []
    for seed in range(60):
        with pytest.warns(UserWarning, match="'mu' lies outside"):
            found.append(
                pv.log_evidence(program.model, program.guide, rows, num_particles=30, seed=seed)
            )
    values = np.stack([evidence.log_evidence for evidence in found])
    se = np.sqrt(np.mean([np.square(evidence.mc_se) for evidence in found], axis=0))
    assert np.allclose(values.std(0, ddof=1), se, rtol=0.3)
    of_mean = np.sqrt(np.mean([evidence.summary().mc_se ** 2 for evidence in found]))
    assert values.mean(1).std(ddof=1) == pytest.approx(of_mean, rel=0.3)
    assert of_mean > 3 * np.sqrt(np.square(se).sum()) / 20
    assert found[0][np.arange(7)].shared_errors.shape == (7, 30)


@pytest.mark.statistical
@pytest.mark.parametrize("width", [0.05, 1.0])
def test_draws_that_miss_the_mass_are_told(width):
    """g ~ q(g) = N(0, 1), x ~ N(g, 2 width^2), exact guide given g: within a draw all weights are
    equal, between 32 draws they are not. A narrow likelihood is never an estimate; of a wide one 95
    % intervals cover in 90 % or more."""

    def model(x):
        g = pyro.sample("g", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), width))
            pyro.sample("x", dist.Normal(g + z, width), obs=x[:, 0])

    def guide(x):
        g = pyro.sample("g", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x[:, 0] - g) / 2, width / 2**0.5))

    x = torch.tensor([0.0, 1.0, 1.5, 2.0, 2.5], dtype=torch.float64).repeat(10)[:, None]
    exact = dist.Normal(0.0, (1 + 2 * width**2) ** 0.5).log_prob(x[:, 0]).numpy()
    covered = []
    for seed in range(20):
        with pytest.warns(UserWarning, match="'g' lies outside"):
            found = pv.log_evidence(model, guide, x, num_particles=1000, seed=seed, progress=False)
        assert (found.ess <= 1 / found.mc_se**2).all()
        covered += (np.abs(found.log_evidence - exact) < 1.96 * found.mc_se)[
            found.is_estimate
        ].tolist()
        if width < 1:
            assert not found.is_estimate.any()
    assert not covered or np.mean(covered) >= 0.9


def test_a_target_is_met_by_clusters_too():
    program = OneMean()
    with pytest.warns(UserWarning, match="'mu' lies outside"):
        found = pv.log_evidence(
            program.model, program.guide, X[:8], num_particles=2_000, target_se=0.05
        )
    assert ((found.mc_se < 0.05) | (found.num_used == 2_000)).all()
    assert found.shared_errors.shape == (8, 44)
    assert found[3].shared_errors.shape == (1, 44)


def test_saved_evidence_keeps_what_rows_share(tmp_path):
    program = OneMean()
    with pytest.warns(UserWarning, match="'mu' lies outside"):
        found = pv.log_evidence(program.model, program.guide, X[:20], num_particles=60)
    loaded = pv.Evidence.load(found.save(tmp_path / "evidence.npz"))
    assert np.array_equal(loaded.shared_errors, found.shared_errors)
    assert loaded.summary() == found.summary()


@pytest.mark.parametrize("batch_size", [4, 32, 105])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize(
    "name", [n for n in TAKES_GLOBAL if OBJECTIVES[n]().of_log_weights and n != "MCEM"]
)
def test_the_batches_of_an_epoch_add_up_to_the_objective(name, sized, batch_size):
    """With exact local posteriors a row's bound is log p(x_b given mu) for every draw, so the sum
    is exact for each mu.

    Last batches are smaller: 105 = 26 x 4 + 1 = 3 x 32 + 9. A plate of size N estimates the sum
    over N rows each time."""
    program, objective, total = OneMean(sized), OBJECTIVES[name]().over(N), 0.0
    for batch in X.split(batch_size):
        with pv.seeded(3):
            loss = objective.loss(program.model, program.guide, batch)
        total += loss * (len(batch) / N if sized else 1.0)
    with pv.seeded(3):
        mu = program.loc + program.log_scale.exp() * torch.randn((), dtype=torch.float64)
    log_p = dist.Normal(mu, 2**0.5).log_prob(X).sum()
    log_ratio = dist.Normal(0.0, 1.0).log_prob(mu) - dist.Normal(
        program.loc, program.log_scale.exp()
    ).log_prob(mu)
    assert -total == pytest.approx((log_p + log_ratio).item(), abs=1e-8)


@pytest.mark.parametrize("batch_size", [8, 32, 105])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("make", [Trace_ELBO, TraceGraph_ELBO])
def test_the_batches_add_up_for_pyros_objectives_too(make, sized, batch_size):
    program, total = OneMean(sized), 0.0
    objective, model, guide = shared_among(
        pv.Dataset(X, dtype=X.dtype), make(), program.model, program.guide, (X[:batch_size],)
    )
    for batch in X.split(batch_size):
        with pv.seeded(3):
            total += objective.loss(model, guide, batch) * (len(batch) / N if sized else 1.0)
    with pv.seeded(3):
        expected = objectives.TraceELBO().over(N).loss(program.model, program.guide, X)
    assert total == pytest.approx(expected, abs=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize("batch_size", [4, 35])
@pytest.mark.parametrize(
    "objective",
    [objectives.MeanFieldELBO(), objectives.IWAE(3), TraceMeanField_ELBO()],
    ids=lambda o: type(o).__name__,
)
def test_the_fitted_posterior_does_not_depend_on_the_batch_size(objective, batch_size):
    """From the exact posterior, 260 steps stay there: sd within 15 %, mean within half an sd.

    Counted once a batch, the KL of mu would let the sd grow by the rate, 1 %, at each step.
    """
    program, (mean, sd) = OneMean(), OneMean.exact()
    program.loc.data.fill_(mean)
    program.log_scale.data.fill_(math.log(sd))
    num_epochs = 260 // math.ceil(N / batch_size)
    training = pv.Training(
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=pv.training.schedules.Exponential(1e-2, 1e-3),
        progress=False,
    )
    pv.fit(program.model, program.guide, X, objective=objective, training=training)
    assert program.log_scale.exp().item() == pytest.approx(sd, rel=0.15)
    assert program.loc.item() == pytest.approx(mean, abs=0.5 * sd)


@pytest.mark.parametrize("name", REFUSES)
def test_bounds_that_an_outer_expectation_would_break_refuse(name):
    program = OneMean()
    with pytest.raises(
        ValueError,
        match="is not defined for latent site 'mu', which lies outside the plate \"data\"",
    ):
        REFUSES[name].differentiable_loss(program.model, program.guide, X)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name", [n for n in TAKES_GLOBAL if n not in ("BetaELBO", "InfoVAE", "MCEM")]
)
def test_every_other_objective_is_a_lower_bound_in_expectation(name):
    """Below log p(x) of all rows together, within 4.5 standard errors of the mean of 100 draws."""
    program = OneMean()
    with pv.seeded(0):
        losses = [OBJECTIVES[name]().loss(program.model, program.guide, X) for _ in range(100)]
    covariance = np.ones((N, N)) + 2 * np.eye(N)
    exact = stats.multivariate_normal(np.zeros(N), covariance).logpdf(X[:, 0].numpy())
    assert -np.mean(losses) <= exact + 4.5 * np.std(losses) / 100**0.5


class Coin(nn.Module):
    """c ~ Bernoulli(0.3) for all rows, z_b ~ N(2 c, 1), x_b ~ N(z_b, 1): a latent without a path
    derivative."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x):
        c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(2 * c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x):
        c = pyro.sample("c", dist.Bernoulli(logits=self.logit))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x[:, 0] + 2 * c) / 2, 0.5**0.5))

    def elbo(self, x):
        """Exact: the sum over both values of c, with z integrated out."""
        q = torch.stack([-nn.functional.softplus(self.logit), -nn.functional.softplus(-self.logit)])
        joint = [
            dist.Normal(2.0 * c, 2**0.5).log_prob(x).sum() + math.log((0.7, 0.3)[c]) for c in (0, 1)
        ]
        return (q.exp() * (torch.stack(joint) - q)).sum()


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name", [n for n in TAKES_GLOBAL if n not in ("BetaELBO", "InfoVAE", "MCEM")]
)
def test_a_latent_without_path_derivative_gets_the_score_of_the_whole_objective(name):
    """The gradient for its logit against the exact one, 4.5 standard errors of 60 pairs of
    draws."""
    coin, x, objective = Coin(), X[:20], OBJECTIVES[name]()
    with pv.seeded(0):
        losses = [objective.differentiable_loss(coin.model, coin.guide, x) for _ in range(60)]
    found = torch.stack([-torch.autograd.grad(loss, coin.logit)[0] for loss in losses])
    exact = torch.autograd.grad(coin.elbo(x), coin.logit)[0]
    assert abs(found.mean() - exact) < 4.5 * found.std() / len(found) ** 0.5 + 1e-9


@pytest.mark.statistical
def test_a_discrete_latent_is_fitted():
    """The posterior logit of c for one row, where no score term would leave it at the prior's."""
    coin, x = Coin(), torch.tensor([[0.9]], dtype=torch.float64)
    heads, tails = (dist.Normal(2.0 * c, 2**0.5).log_prob(x).sum() for c in (1, 0))
    log_odds = heads - tails + math.log(0.3 / 0.7)
    training = pv.Training(
        num_epochs=250, learning_rate=pv.training.schedules.Exponential(0.1, 2e-3), progress=False
    )
    pv.fit(coin.model, coin.guide, x, objective=objectives.TraceELBO(4), training=training)
    assert coin.logit.item() == pytest.approx(log_odds.item(), abs=0.15)


@pytest.mark.statistical
def test_mcem_follows_a_latent_outside_the_plate():
    """With exact posteriors for z its gradient for q(mu) is the ELBO's, here in closed form; 4.5
    standard errors."""
    program = OneMean()
    objective = objectives.MCEM(2, sampler=pv.HMC(num_samples=1, num_warmup=8, num_leapfrog=5))
    with pv.seeded(0):
        losses = [
            objective.differentiable_loss(program.model, program.guide, X[:9]) for _ in range(60)
        ]
    found = torch.stack(
        [torch.stack(torch.autograd.grad(-loss, list(program.parameters()))) for loss in losses]
    )
    scale = program.log_scale.exp()
    fit = -((X[:9, 0] - program.loc) ** 2 + scale**2).sum() / 4
    elbo = fit - torch.distributions.kl_divergence(
        dist.Normal(program.loc, scale), dist.Normal(0.0, 1.0)
    )
    exact = torch.stack(torch.autograd.grad(elbo, list(program.parameters())))
    assert ((found.mean(0) - exact).abs() < 4.5 * found.std(0) / len(found) ** 0.5).all()
