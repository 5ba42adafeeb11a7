"""Under a KL weight other than one: value and gradient of every objective and estimator, against
quadrature.

One row x = 4 of Poisson(exp(a + b z)), z ~ N(m, 1), q = N(loc, scale): everything about K particles
is an integral over K normals, taken by Gauss-Hermite quadrature. Level: 4.5 standard errors of the
mean over independent rows."""

import math
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import data_for, vae
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.objectives import (
    VIMCO,
    DoublyReparameterized,
    Reparameterized,
    ScoreFunction,
    StickingTheLanding,
)
from ppl_vae.training import schedules

WEIGHTS = [0.0, 0.3, 1.0, 1.5]
NAMES = ("loc", "log_scale", "intercept", "slope", "prior_loc")
GUIDE = [0, 1]
MODEL = [2, 3, 4]


class Counts(nn.Module):
    """x ~ Poisson(exp(intercept + slope z)), z ~ N(prior_loc, 1), q(z) = N(loc, exp(log_scale))."""

    def __init__(self):
        super().__init__()
        for name, value in zip(NAMES, (0.5, -0.3, 0.5, 0.8, 0.1), strict=True):
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def prior(self):
        return dist.Normal(self.prior_loc, 1.0)

    def posterior(self):
        return dist.Normal(self.loc, self.log_scale.exp())

    def log_likelihood(self, z, x):
        return dist.Poisson((self.intercept + self.slope * z).exp()).log_prob(x)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Poisson((self.intercept + self.slope * z).exp()), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.posterior().expand([len(x)]))

    def parameters_by_name(self):
        return [getattr(self, name) for name in NAMES]


X = torch.tensor(4.0, dtype=torch.float64)
NODES, NODE_WEIGHTS = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(40))
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


def grid(num_particles):
    """Standard normal nodes of K particles, (K, points), and their weights, (points,)."""
    noise = torch.stack(torch.meshgrid(*[NODES] * num_particles, indexing="ij")).flatten(1)
    weights = (
        torch.stack(torch.meshgrid(*[NODE_WEIGHTS] * num_particles, indexing="ij"))
        .flatten(1)
        .prod(0)
    )
    return noise, weights


def log_terms_at(program, noise):
    """log p(x given z), log p(z) and log q(z) at z = loc + scale noise, (K, points)."""
    z = program.loc + program.log_scale.exp() * noise
    return (
        program.log_likelihood(z, X),
        program.prior().log_prob(z),
        program.posterior().log_prob(z),
    )


def annealed_weights(program, noise, kl_weight):
    likelihood, prior, q = log_terms_at(program, noise)
    return likelihood + kl_weight * (prior - q)


def log_mean_exp(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def expected(function, num_particles):
    """E over the K draws of a function of (K, points) noise."""
    noise, weights = grid(num_particles)
    return (weights * function(noise)).sum()


def bound_of_weights(reduce, num_particles=2):
    """The exact value of a bound f(l), as a function of program and weight."""
    return lambda program, kl_weight: expected(
        lambda noise: reduce(annealed_weights(program, noise, kl_weight)), num_particles
    )


def power_mean(power):
    return lambda log_w: log_mean_exp(power * log_w) / power


def self_normalised(program, kl_weight):
    """The thermodynamic sum at the limit of many particles, from one integral."""
    log_w, weights = annealed_weights(program, NODES, kl_weight), NODE_WEIGHTS
    total = 0.0
    for width, b in ((0.1, 0.0), (0.9, 0.1)):
        tilted = weights * (b * log_w).exp()
        total = total + width * (tilted * log_w).sum() / tilted.sum()
    return total


def mean_kl(program):
    return torch.distributions.kl_divergence(program.posterior(), program.prior())


def penalised(penalty):
    """E_q log p(x given z) less a weight times a function of the KL."""
    return lambda program, kl_weight: (
        expected(lambda noise: log_terms_at(program, noise)[0][0], 1)
        - kl_weight * penalty(mean_kl(program))
    )


EXACT = {  # each objective's value in expectation; where model and guide follow two targets, both
    "TraceELBO": (
        lambda g: objectives.TraceELBO(2, gradient=g),
        bound_of_weights(lambda w: w.mean(0)),
    ),
    "IWAE": (lambda g: objectives.IWAE(2, gradient=g), bound_of_weights(log_mean_exp)),
    "IWAE, K=3": (lambda g: objectives.IWAE(3, gradient=g), bound_of_weights(log_mean_exp, 3)),
    "CIWAE": (
        lambda g: objectives.CIWAE(0.4, 2, gradient=g),
        bound_of_weights(lambda w: 0.4 * w.mean(0) + 0.6 * log_mean_exp(w)),
    ),
    "MIWAE": (lambda g: objectives.MIWAE(2, 2, gradient=g), bound_of_weights(log_mean_exp)),
    "PIWAE": (
        lambda g: objectives.PIWAE(2, 1, gradient=g),
        bound_of_weights(log_mean_exp),
        bound_of_weights(lambda w: w.mean(0)),
    ),
    "Renyi": (lambda g: objectives.Renyi(0.5, 2, gradient=g), bound_of_weights(power_mean(0.5))),
    "Renyi, alpha=-1": (
        lambda g: objectives.Renyi(-1.0, 2, gradient=g),
        bound_of_weights(power_mean(2.0)),
    ),
}
ESTIMATORS = {
    "Reparameterized": Reparameterized(),
    "StickingTheLanding": StickingTheLanding(),
    "DoublyReparameterized": DoublyReparameterized(),
    "DoublyReparameterized(prior)": DoublyReparameterized(prior=True),
    "ScoreFunction": ScoreFunction(),
    "ScoreFunction(None)": ScoreFunction(None),
    "VIMCO": VIMCO(),
}
UNDEFINED = {
    *(("StickingTheLanding", name) for name in EXACT if name != "TraceELBO"),
    *(("ScoreFunction", name) for name in ("MIWAE", "PIWAE")),
    ("DoublyReparameterized(prior)", "PIWAE"),
}
PAIRS = [pair for pair in product(ESTIMATORS, EXACT) if pair not in UNDEFINED]


def estimate(objective, kl_weight, num_rows=1500, repeats=16):
    """Mean value and gradient per row over independent batches, and their standard errors, (1 +
    5,)."""
    program, x, found = Counts(), X.expand(num_rows), []
    with pv.seeded(0):
        for _ in range(repeats):
            loss = objective.annealed(kl_weight).differentiable_loss(
                program.model, program.guide, x
            )
            sign = 1 if objective.is_upper else -1
            gradient = torch.autograd.grad(loss, program.parameters_by_name(), allow_unused=True)
            filled = [torch.zeros_like(loss) if g is None else g for g in gradient]
            found.append(sign * torch.stack([loss.detach(), *filled]) / num_rows)
    found = torch.stack(found)
    return found.mean(0), found.std(0) / repeats**0.5


def exact_ascent(value, kl_weight):
    """Value and gradient of an exact objective, (1 + 5,)."""
    program = Counts()
    exact = value(program, kl_weight)
    gradient = torch.autograd.grad(exact, program.parameters_by_name(), allow_unused=True)
    return torch.stack(
        [exact.detach(), *(torch.zeros_like(exact) if g is None else g for g in gradient)]
    )


def assert_close(found, exact, allowance=0.0):
    mean, se = found
    assert ((mean - exact).abs() <= 4.5 * se + 1e-9 + allowance).all(), (
        (mean - exact) / se.clamp(min=1e-12)
    ).tolist()


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
@pytest.mark.parametrize(("gradient", "bound"), PAIRS)
def test_every_estimator_follows_the_annealed_bound(gradient, bound, kl_weight):
    make, *targets = EXACT[bound]
    found = estimate(make(ESTIMATORS[gradient]), kl_weight)
    exact = exact_ascent(targets[0], kl_weight)
    if len(targets) == 2:  # the guide follows a target of its own
        exact[[1 + i for i in GUIDE]] = exact_ascent(targets[1], kl_weight)[[1 + i for i in GUIDE]]
    assert_close(found, exact)


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
@pytest.mark.parametrize(
    "gradient", ["Reparameterized", "DoublyReparameterized", "ScoreFunction", "VIMCO"]
)
def test_cubo_trains_the_guide_alone(gradient, kl_weight):
    found = estimate(objectives.CUBO(2, 2, gradient=ESTIMATORS[gradient]), kl_weight)
    exact = exact_ascent(bound_of_weights(power_mean(2.0)), kl_weight)
    exact[[1 + i for i in MODEL]] = 0.0
    assert_close(found, exact)


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_the_covariance_estimator_of_the_thermodynamic_bound(kl_weight):
    """Biased by O(1 / K): at K = 400 by less than 0.004."""
    found = estimate(objectives.ThermodynamicELBO(400), kl_weight, num_rows=200, repeats=15)
    assert_close(found, exact_ascent(self_normalised, kl_weight), allowance=0.004)


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
@pytest.mark.parametrize("gradient", [Reparameterized(), ScoreFunction(), VIMCO()], ids=repr)
def test_the_thermodynamic_bound_of_two_particles(gradient, kl_weight):
    def reduce(log_w):
        tilted = ((b * log_w).softmax(0) * log_w for b in (0.0, 0.1))
        return sum(width * part.sum(0) for width, part in zip((0.1, 0.9), tilted, strict=True))

    found = estimate(objectives.ThermodynamicELBO(2, gradient=gradient), kl_weight)
    assert_close(found, exact_ascent(bound_of_weights(reduce), kl_weight))


PENALISED = {
    "MeanFieldELBO": (objectives.MeanFieldELBO(2), penalised(lambda kl: kl)),
    "BetaELBO": (objectives.BetaELBO(1.7, 2), penalised(lambda kl: 1.7 * kl)),
    "capacity": (
        objectives.BetaELBO(1.7, 2, capacity=0.9),
        penalised(lambda kl: 1.7 * (kl - 0.9).abs()),
    ),
    "free bits, in force": (
        objectives.BetaELBO(1.0, 2, free_bits=2.0),
        penalised(lambda kl: kl * 0.0 + 2.0),
    ),
}


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
@pytest.mark.parametrize("name", PENALISED)
def test_closed_form_penalties(name, kl_weight):
    objective, value = PENALISED[name]
    if name.startswith("free"):  # they need an event dim: the same program, by hand
        program, x = Counts(), X.expand(10)
        objective = objective.annealed(kl_weight)
        loss = objective.differentiable_loss(*as_vector(program), x)
        gradient = torch.autograd.grad(loss, [program.prior_loc], allow_unused=True)
        assert gradient[0] is None or gradient[0] == 0
        return
    assert_close(estimate(objective, kl_weight), exact_ascent(value, kl_weight))


def as_vector(program):
    """The same model and guide with z a vector of one dimension."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(program.prior_loc.expand(1), 1.0).to_event(1))
            pyro.sample(
                "x", dist.Poisson((program.intercept + program.slope * z[..., 0]).exp()), obs=x
            )

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            q = dist.Normal(program.loc.expand(1), program.log_scale.exp()).to_event(1)
            pyro.sample("z", q.expand([len(x)]))

    return model, guide


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_wake_weighs_by_the_posterior_whatever_the_weight(kl_weight):
    """The guide's ascent direction is E over particles of d log q by weights that are never
    annealed."""
    found = estimate(objectives.ReweightedWakeSleep(3), kl_weight)

    def cross_entropy(program, _):
        def of_noise(noise):
            z = (program.loc + program.log_scale.exp() * noise).detach()
            weights = annealed_weights(program, noise, 1.0).detach().softmax(0)
            return (weights * program.posterior().log_prob(z)).sum(0)

        return expected(of_noise, 3)

    exact = exact_ascent(bound_of_weights(log_mean_exp, 3), kl_weight)
    exact[[1 + i for i in GUIDE]] = exact_ascent(cross_entropy, kl_weight)[[1 + i for i in GUIDE]]
    assert_close(found, exact)


@pytest.mark.statistical
@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_sleep_is_not_annealed(kl_weight):
    """E_p(z) of d log q, in closed form; a Poisson's draws do not enter an unamortised guide."""
    found = estimate(objectives.WakeSleep(), kl_weight)
    program = Counts()
    loc, scale = program.prior_loc.detach(), program.log_scale.exp()
    ascent = -program.log_scale - ((loc - program.loc) ** 2 + 1) / (2 * scale**2)
    exact = exact_ascent(bound_of_weights(lambda w: w.mean(0), 1), kl_weight)
    exact[1:3] = torch.stack(torch.autograd.grad(ascent, [program.loc, program.log_scale]))
    assert_close(found, exact)


def test_mcem_cannot_be_annealed():
    with pytest.raises(
        ValueError, match="MCEM has no KL to anneal: leave out kl_warmup_epochs and kl_schedule"
    ):
        objectives.MCEM().annealed(0.5)
    training = pv.Training(num_epochs=2, kl_schedule=schedules.Cyclic(2), progress=False)
    with pytest.raises(ValueError, match="MCEM has no KL to anneal"):
        pv.fit(*vae(), data_for("Bernoulli"), objective=objectives.MCEM(), training=training)


@pytest.mark.statistical
def test_a_cyclic_schedule_passes_its_weights_on():
    """With one step an epoch, the ascent that SGD makes is the exact one at each epoch's weight."""
    program, x = Counts(), X.expand(20_000)

    class Columns(nn.Module):
        def forward(self, x):
            return program.model(x[:, 0])

    class ColumnsGuide(nn.Module):
        def __init__(self):
            super().__init__()
            self.program = program

        def forward(self, x):
            return program.guide(x[:, 0])

    schedule = schedules.Cyclic(2, ramp=0.8)
    training = pv.Training(
        num_epochs=4,
        batch_size=len(x),
        learning_rate=0.1,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        kl_schedule=schedule,
        progress=False,
    )
    objective = objectives.IWAE(2, gradient=DoublyReparameterized())
    pv.fit(Columns(), ColumnsGuide(), x, objective=objective, training=training)
    exact = Counts()
    for epoch in range(4):
        gradient = torch.autograd.grad(
            bound_of_weights(log_mean_exp)(exact, schedule(epoch / 4)), exact.parameters_by_name()
        )
        with torch.no_grad():
            for parameter, slope in zip(exact.parameters_by_name(), gradient, strict=True):
                parameter += 0.1 * slope
    for found, right in zip(program.parameters_by_name(), exact.parameters_by_name(), strict=True):
        assert (
            abs(found - right) < 4.5 * 4 * 0.1 * 1.5 / len(x) ** 0.5
        )  # a row's slope varies by about 1.5
