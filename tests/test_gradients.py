"""Gradient estimators against closed forms and against each other, in expectation; levels state 4.5
standard errors."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import GRADIENTS, OBJECTIVES
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, objectives
from ppl_vae.hmc import HMC
from ppl_vae.objectives import (
    VIMCO,
    DoublyReparameterized,
    Reparameterized,
    ScoreFunction,
    StickingTheLanding,
)

MODEL, GUIDE = ("prior_loc", "prior_log_scale", "loading"), ("loc", "log_scale")


class Toy(nn.Module):
    """z in two dimensions, x in three, everything normal: z ~ N(m, s^2), x ~ N(W z, 0.5^2), q =
    N(loc, scale^2)."""

    x = torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64)

    def __init__(self):
        super().__init__()
        values = {
            "prior_loc": [0.2, -0.1],
            "prior_log_scale": [0.1, -0.2],
            "loading": [[0.6, -0.2], [0.1, 0.5], [-0.4, 0.3]],
            "loc": [0.1, -0.5],
            "log_scale": [-0.3, -0.5],
        }
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(
                "z", dist.Normal(self.prior_loc, self.prior_log_scale.exp()).to_event(1)
            )
            pyro.sample("x", dist.Normal(z @ self.loading.T, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1).expand([len(x)])
            )

    def elbo(self):
        """In closed form."""
        q = dist.Normal(self.loc, self.log_scale.exp())
        kl = torch.distributions.kl_divergence(
            q, dist.Normal(self.prior_loc, self.prior_log_scale.exp())
        ).sum()
        spread = (self.loading.square() @ self.log_scale.mul(2).exp()).sum() / (2 * 0.25)
        return dist.Normal(self.loading @ self.loc, 0.5).log_prob(self.x).sum() - spread - kl

    def log_evidence(self):
        """In closed form."""
        covariance = self.loading @ torch.diag(self.prior_log_scale.mul(2).exp()) @ self.loading.T
        return dist.MultivariateNormal(
            self.loading @ self.prior_loc, covariance + 0.25 * torch.eye(3, dtype=torch.float64)
        ).log_prob(self.x)

    def forward_kl_ascent(self):
        """E_{p(z given x)} log q(z), the posterior held fixed."""
        with torch.no_grad():
            precision = (
                torch.diag(self.prior_log_scale.mul(-2).exp()) + 4 * self.loading.T @ self.loading
            )
            covariance = precision.inverse()
            mean = covariance @ (
                self.prior_loc * self.prior_log_scale.mul(-2).exp() + 4 * self.loading.T @ self.x
            )
        return self.expected_log_q(mean, covariance.diagonal())

    def sleep_ascent(self):
        """E_{p(z)} log q(z), the prior held fixed."""
        return self.expected_log_q(
            self.prior_loc.detach(), self.prior_log_scale.detach().mul(2).exp()
        )

    def expected_log_q(self, mean, variance):
        return (
            -self.log_scale
            - ((mean - self.loc) ** 2 + variance) / (2 * self.log_scale.mul(2).exp())
        ).sum()


def ascent(scalar, toy, names):
    """The exact gradient of a closed form, flattened."""
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(scalar, [getattr(toy, n) for n in names])]
    )


def estimate(objective, names, num_data=2500, repeats=40, seed=0):
    """Mean gradient of the bound per row and its standard error, from num_data x repeats
    draws."""
    toy, found = Toy(), []
    x = Toy.x.expand(num_data, 3)
    with pv.seeded(seed):
        for _ in range(repeats):
            loss = objective.differentiable_loss(toy.model, toy.guide, x)
            gradients = torch.autograd.grad(
                loss, [getattr(toy, n) for n in names], allow_unused=True
            )
            pairs = zip(gradients, names, strict=True)
            flat = [torch.zeros_like(getattr(toy, n)) if g is None else g for g, n in pairs]
            found.append(-torch.cat([g.flatten() for g in flat]) / num_data)
    found = torch.stack(found)
    return found.mean(0), found.std(0) / repeats**0.5


def assert_close(found, exact, allowance=0.0):
    mean, se = found
    error = (mean - exact).abs()
    assert (error <= 4.5 * se + 1e-9 + allowance * exact.abs().max()).all(), (
        error / se.clamp(min=1e-12)
    ).max()


ELBO_ESTIMATORS = [
    objectives.TraceELBO(),
    objectives.MeanFieldELBO(),
    objectives.BetaELBO(1.0),
    objectives.IWAE(1),
    objectives.ThermodynamicELBO(1, (), gradient=Reparameterized()),
    objectives.ThermodynamicELBO(2, ()),  # its covariances are divided by K - 1
    objectives.TraceELBO(gradient=StickingTheLanding()),
    objectives.TraceELBO(gradient=DoublyReparameterized()),
    objectives.TraceELBO(gradient=DoublyReparameterized(prior=True)),
    objectives.TraceELBO(2, gradient=ScoreFunction()),
    objectives.TraceELBO(gradient=ScoreFunction(None)),
    objectives.TraceELBO(gradient=ScoreFunction("moving-average")),
    objectives.TraceELBO(3, gradient=VIMCO()),
]


@pytest.mark.parametrize("objective", ELBO_ESTIMATORS, ids=repr)
def test_elbo_gradients_equal_the_closed_form(objective):
    """10^5 draws; the closed form is differentiated by autograd."""
    toy = Toy()
    assert_close(estimate(objective, MODEL + GUIDE), ascent(toy.elbo(), toy, MODEL + GUIDE))


BOUNDS = {
    "IWAE": lambda g: objectives.IWAE(4, gradient=g),
    "CIWAE": lambda g: objectives.CIWAE(0.4, 4, gradient=g),
    "MIWAE": lambda g: objectives.MIWAE(2, 2, gradient=g),
    "PIWAE": lambda g: objectives.PIWAE(2, 2, gradient=g),
    "Renyi": lambda g: objectives.Renyi(0.5, 4, gradient=g),
    "CUBO": lambda g: objectives.CUBO(2, 4, gradient=g),
}


@functools.cache
def reparameterised(name):
    """Mean gradient and its standard error, once for all estimators that are held against it."""
    return estimate(BOUNDS[name](None), MODEL + GUIDE, seed=1)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(
    "gradient",
    [
        DoublyReparameterized(),
        DoublyReparameterized(prior=True),
        VIMCO(),
        ScoreFunction(),
        ScoreFunction(None),
    ],
    ids=repr,
)
def test_many_particle_gradients_agree_in_expectation(name, gradient):
    """Each against the reparameterised one, 10^5 draws of both, 4.5 standard errors of the
    difference."""
    if gradient == DoublyReparameterized(prior=True) and name in ("PIWAE", "CUBO"):
        with pytest.raises(ValueError, match="needs model and guide to follow one target"):
            BOUNDS[name](gradient)
        return
    if name in ("MIWAE", "PIWAE") and gradient == ScoreFunction():
        with pytest.raises(ValueError, match=r"not defined for .*: use VIMCO\(\)"):
            estimate(BOUNDS[name](gradient), GUIDE, 2, 1)
        return
    reference, se = reparameterised(name)
    mean, other_se = estimate(BOUNDS[name](gradient), MODEL + GUIDE)
    assert_close((mean, (se**2 + other_se**2).sqrt()), reference)


def test_reparameterised_iwae_gradient_equals_finite_differences():
    """Of E[IWAE_4] itself, central differences with common random numbers over 2 x 10^6 draws."""
    objective, step = objectives.IWAE(4), 0.05

    def bound(shift):
        toy = Toy()
        toy.loc.data[0] += shift
        with pv.seeded(7):
            return objective.bound(toy.model, toy.guide, Toy.x.expand(500_000, 3))

    differences = (bound(step) - bound(-step)) / (2 * step)
    mean, se = estimate(objective, GUIDE)
    error = (mean[0] - differences.mean()).abs()
    assert (
        error < 4.5 * math.hypot(se[0], differences.std() / 500_000**0.5) + 2e-3
    )  # + the step's own error, O(step^2)


def test_piwae_model_follows_iwae_and_guide_follows_miwae():
    piwae = objectives.PIWAE(2, 2)
    for names, target in ((MODEL, objectives.IWAE(4)), (GUIDE, objectives.MIWAE(2, 2))):
        reference, se = estimate(target, names, seed=1)
        mean, other_se = estimate(piwae, names)
        assert_close((mean, (se**2 + other_se**2).sqrt()), reference)


def test_cubo_leaves_the_model_alone():
    mean, _ = estimate(objectives.CUBO(2, 4), MODEL, 100, 2)
    assert (mean == 0).all()


def test_thermodynamic_covariance_gradient():
    """Consistent as K grows: at K = 400 against the reparameterised gradient of the same sum, bias
    below 1 %."""
    make = lambda g: objectives.ThermodynamicELBO(400, (0.2, 0.5), gradient=g)  # noqa: E731
    reference, se = estimate(make(Reparameterized()), MODEL + GUIDE, 60, 40, seed=1)
    mean, other_se = estimate(make(None), MODEL + GUIDE, 60, 40)
    assert_close((mean, (se**2 + other_se**2).sqrt()), reference, allowance=0.01)


def test_thermodynamic_bound_is_the_elbo_with_one_interval_and_log_evidence_with_many():
    toy, x = Toy(), Toy.x.expand(200, 3)
    with pv.seeded(0):
        one = objectives.ThermodynamicELBO(2000, ()).bound(toy.model, toy.guide, x)
        many = objectives.ThermodynamicELBO(2000, torch.linspace(0, 1, 101)[1:-1].tolist()).bound(
            toy.model, toy.guide, x
        )
    assert (one.mean() - toy.elbo()).abs() < 4.5 * one.std() / 200**0.5
    assert (
        toy.log_evidence() - 0.02 < many.mean() < toy.log_evidence() + 4.5 * many.std() / 200**0.5
    )


def test_reweighted_wake_sleep_targets():
    """Model: IWAE. Guide, wake: E_post log q; sleep: E_prior log q. K = 1000: self-normalisation
    bias below 1 %."""
    toy = Toy()
    wake = objectives.ReweightedWakeSleep(1000)
    assert_close(
        estimate(wake, GUIDE, 25, 40), ascent(toy.forward_kl_ascent(), toy, GUIDE), allowance=0.01
    )
    assert_close(
        estimate(wake, MODEL, 25, 40), ascent(toy.log_evidence(), toy, MODEL), allowance=0.01
    )
    asleep = objectives.ReweightedWakeSleep(2, insomnia=0.0)
    assert_close(estimate(asleep, GUIDE), ascent(toy.sleep_ascent(), toy, GUIDE))


def test_wake_sleep_targets():
    """Model: the ELBO's gradient at the guide's draws; guide: E_prior log q."""
    toy = Toy()
    assert_close(estimate(objectives.WakeSleep(), MODEL), ascent(toy.elbo(), toy, MODEL))
    assert_close(estimate(objectives.WakeSleep(), GUIDE), ascent(toy.sleep_ascent(), toy, GUIDE))


def test_mcem_targets():
    """Model: the gradient of log p(x) itself; guide: E_post log q. HMC's burn-in bias below 2 %."""
    toy, mcem = Toy(), objectives.MCEM(sampler=HMC(num_samples=1, num_warmup=40, num_leapfrog=8))
    mean, se = estimate(mcem, MODEL + GUIDE, 2000, 8)
    exact = ascent(toy.log_evidence(), toy, MODEL), ascent(toy.forward_kl_ascent(), toy, GUIDE)
    num = len(exact[0])
    assert_close((mean[:num], se[:num]), exact[0], allowance=0.02)
    assert_close((mean[num:], se[num:]), exact[1], allowance=0.02)


@pytest.mark.parametrize("gradient", [StickingTheLanding(), DoublyReparameterized()], ids=repr)
def test_path_gradients_vanish_at_the_exact_posterior(gradient):
    """Standard deviation below 1e-6 (float64); the reparameterised gradient's is of order one."""
    bed = beds.linear_gaussian(1)
    mean, covariance = bed.posterior_mean[0], bed.posterior_covariance[0]
    loc, factor = nn.Parameter(mean.clone()), nn.Parameter(torch.linalg.cholesky(covariance))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.MultivariateNormal(loc, scale_tril=factor.tril()).expand([len(x)])
            )

    def noise(objective):
        draws = [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        objective.differentiable_loss(bed.model, guide, bed.x), [loc, factor]
                    )
                ]
            )
            for _ in range(50)
        ]
        return torch.stack(draws).std(0).max()

    assert noise(objectives.TraceELBO(gradient=gradient)) < 1e-6
    assert noise(objectives.TraceELBO()) > 0.1


def test_hierarchical_guides_get_the_total_path_derivative():
    """q(z2 given z1): the path of z1 runs through z2's density and its draw; STL equals the
    reparameterised mean."""
    a, b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.3, 0.7))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.0 * x, 1.0))
            z2 = pyro.sample("z2", dist.Normal(0.5 * z1, 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 0.8), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(a * x, 0.6))
            pyro.sample("z2", dist.Normal(b * (x - z1), 0.5))

    def gradients(gradient, seed):
        objective, x = (
            objectives.TraceELBO(gradient=gradient),
            torch.full((4000,), 0.9, dtype=torch.float64),
        )
        with pv.seeded(seed):
            found = [
                torch.autograd.grad(objective.differentiable_loss(model, guide, x), [a, b])
                for _ in range(40)
            ]
        found = torch.tensor(found)
        return found.mean(0), found.std(0) / 40**0.5

    (reference, se), (mean, other_se) = gradients(None, 0), gradients(StickingTheLanding(), 1)
    assert_close((mean, (se**2 + other_se**2).sqrt()), reference)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: objectives.IWAE(5, gradient=StickingTheLanding()),
            "biased for IWAE.*DoublyReparameterized",
        ),
        (
            lambda: objectives.MeanFieldELBO(gradient=StickingTheLanding()),
            "not a function of the log-weights alone",
        ),
        (lambda: objectives.IWAE(1, gradient=VIMCO()), "give IWAE num_particles >= 2"),
        (
            lambda: objectives.TraceELBO(1, gradient=ScoreFunction()),
            "give TraceELBO num_particles >= 2",
        ),
        (
            lambda: objectives.ThermodynamicELBO(5, gradient=DoublyReparameterized()),
            "not derived for ThermodynamicELBO",
        ),
        (lambda: ScoreFunction("mean"), "must be 'leave-one-out', 'moving-average' or None"),
        (lambda: objectives.ThermodynamicELBO(1), "give ThermodynamicELBO num_particles >= 2"),
        (lambda: objectives.CIWAE(1.5), r"CIWAE\(beta\) is 1.5; .* at least 0 and at most 1"),
        (lambda: objectives.CUBO(0.5), r"CUBO\(order\) is 0.5; .* at least 1"),
        (lambda: objectives.MIWAE(0, 5), r"MIWAE\(num_bounds\) is 0"),
        (lambda: objectives.ThermodynamicELBO(5, (0.5, 0.2)), "must increase strictly"),
        (
            lambda: objectives.ReweightedWakeSleep(5, insomnia=2.0),
            r"ReweightedWakeSleep\(insomnia\) is 2.0",
        ),
        (lambda: objectives.BetaELBO(-1.0), r"BetaELBO\(beta\) is -1.0"),
        (lambda: objectives.BetaELBO(capacity=2.0, free_bits=0.1), "two different penalties"),
        (
            lambda: objectives.BetaELBO(free_bits=math.nan),
            r"BetaELBO\(free_bits\) is nan; .* at least 0",
        ),
        (lambda: objectives.BetaELBO(capacity="5"), r"BetaELBO\(capacity\) is '5'"),
        (lambda: objectives.InfoVAE(alpha=1.5), r"InfoVAE\(alpha\) is 1.5; .* at most 1"),
        (
            lambda: objectives.InfoVAE(alpha=0.5, scale=0.4),
            r"InfoVAE\(scale\) is 0.4; .* at least 0.5",
        ),
        (lambda: objectives.Renyi(math.nan), r"Renyi\(alpha\) is nan"),
        (
            lambda: objectives.IWAE(2.5),
            r"IWAE\(num_particles\) is 2.5; it must be a whole number, at least 1",
        ),
        (lambda: objectives.IWAE(True), r"IWAE\(num_particles\) is True"),
        (lambda: objectives.IWAE("5"), r"IWAE\(num_particles\) is '5'"),
        (lambda: objectives.IWAE(5, max_plate_nesting=0), r"IWAE\(max_plate_nesting\) is 0"),
        (lambda: objectives.MIWAE(5, 2.0), r"MIWAE\(num_particles\) is 2.0"),
        (
            lambda: objectives.ReweightedWakeSleep(1),
            r"ReweightedWakeSleep\(num_particles\) is 1; .* at least 2",
        ),
        (lambda: objectives.IWAE().annealed(-0.1), "kl_weight is -0.1; .* at least 0"),
        (
            lambda: objectives.ThermodynamicELBO(5, "0.1"),
            r"\(partition\) is '0.1'; it must be a sequence of numbers",
        ),
        (
            lambda: objectives.ThermodynamicELBO(5, 0.1),
            r"\(partition\) is 0.1; it must be a sequence of numbers",
        ),
        (lambda: objectives.ThermodynamicELBO(5, (0.1, math.nan)), "must increase strictly"),
        (
            lambda: objectives.ThermodynamicELBO(5, gradient=StickingTheLanding()),
            r"biased for ThermodynamicELBO.*use gradient=objectives.Reparameterized\(\)",
        ),
        (
            lambda: objectives.MIWAE(2, 2, gradient=ScoreFunction()),
            r"not defined for MIWAE: use VIMCO\(\)",
        ),
        (
            lambda: ScoreFunction("moving-average", decay=1.0),
            r"ScoreFunction\(decay\) is 1.0; .* below 1",
        ),
        (
            lambda: DoublyReparameterized(prior="yes"),
            r"\(prior\) is 'yes'; it must be True or False",
        ),
    ],
)
def test_undefined_pairs_say_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: objectives.IWAE(5, gradient="VIMCO"),
            r"IWAE\(gradient\) is 'VIMCO'; it must be an object, as in",
        ),
        (
            lambda: objectives.IWAE(5, gradient=VIMCO),
            r"IWAE\(gradient\) is <class .*VIMCO'>; it must be an object",
        ),
        (
            lambda: objectives.MCEM(sampler=HMC),
            r"MCEM\(sampler\) is <class .*HMC'>; it must be an object, as in HMC",
        ),
    ],
)
def test_a_class_or_a_name_in_the_place_of_an_object_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_moving_average_is_no_setting():
    """It is state: neither an argument nor a word that a file may say."""
    with pytest.raises(TypeError, match="_average"):
        ScoreFunction("moving-average", _average=torch.zeros(()))


def test_a_generalised_prior_gradient_needs_a_normal_prior():
    bed = beds.gaussian_mixture(4)
    objective = objectives.IWAE(3, gradient=DoublyReparameterized(prior=True))
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 5).double()
    with pytest.raises(ValueError, match="needs a normal prior at site 'z'"):
        objective.differentiable_loss(bed.model, guide, bed.x)


def test_values_equal_their_definitions():
    log_w = torch.randn(6, 4, dtype=torch.float64)
    w = log_w.exp()
    for objective, expected in (
        (objectives.TraceELBO(6), log_w.mean(0)),
        (objectives.IWAE(6), w.mean(0).log()),
        (objectives.CIWAE(0.3, 6), 0.3 * log_w.mean(0) + 0.7 * w.mean(0).log()),
        (objectives.MIWAE(2, 3), w.reshape(3, 2, 4).mean(0).log().mean(0)),
        (objectives.Renyi(0.4, 6), (w**0.6).mean(0).log() / 0.6),
        (objectives.Renyi(1.0, 6), log_w.mean(0)),
        (objectives.Renyi(0.0, 6), w.mean(0).log()),
        (objectives.Renyi(-1.0, 6), (w**2).mean(0).log() / 2),
        (objectives.Renyi(1.0 + 1e-3, 6), (w**-1e-3).mean(0).log() / -1e-3),
        (objectives.CUBO(2, 6), (w**2).mean(0).log() / 2),
    ):
        torch.testing.assert_close(objective.reduce(log_w), expected)
    order = [
        objectives.Renyi(alpha, 6).reduce(log_w) for alpha in (-2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0)
    ]
    assert all((high >= low).all() for high, low in zip(order, order[1:], strict=False))
    assert (objectives.TraceELBO(6).reduce(log_w) <= objectives.CIWAE(0.5, 6).reduce(log_w)).all()
    assert (objectives.CIWAE(0.5, 6).reduce(log_w) <= objectives.IWAE(6).reduce(log_w)).all()
    assert (objectives.IWAE(6).reduce(log_w) <= objectives.CUBO(2, 6).reduce(log_w)).all()


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-12, -1e-12, -1e-7, -1e-5, -1e-3])
def test_renyi_tends_to_the_elbo_without_losing_digits(distance):
    """1 / power log E w^power = mean + power / 2 var + O(power^2): within 20 roundings, values and
    slopes."""
    exact = torch.randn(20, 50, dtype=torch.float64) * 3 - 100
    renyi, power = objectives.Renyi(1 - distance, 20), distance
    second_order = 10 * power**2 * exact.std(0) ** 3
    for log_w in (exact, exact.float()):
        rounding = 20 * torch.finfo(log_w.dtype).eps
        expected = log_w.mean(0) + power / 2 * log_w.var(0, correction=0)
        assert ((renyi.reduce(log_w) - expected).abs() <= 100 * rounding + second_order).all()
        centred = log_w - log_w.mean(0)
        assert (
            (20 * renyi.slopes(log_w) - 1 - power * centred).abs() <= 10 * rounding + 200 * power**2
        ).all()


def test_renyi_in_single_precision_is_renyi_in_double():
    """At any order, with weights that overflow, within rounding of log w itself (|log w| < 400)."""
    log_w = 100 * torch.randn(20, 50, dtype=torch.float64).float()
    for alpha in (-5.0, 0.0, 0.5, 0.999, 1.001, 2.0, 50.0):
        renyi = objectives.Renyi(alpha, 20)
        found, exact = renyi.reduce(log_w), renyi.reduce(log_w.double())
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=400 * 1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_curvatures_are_second_derivatives(name):
    objective = OBJECTIVES[name]()
    if not objective.of_log_weights or name in ("ThermodynamicELBO",):
        return
    log_w = torch.randn(objective.num_particles, 1, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(
        lambda v: objective.reduce(v[:, None]).sum(), log_w[:, 0]
    )
    torch.testing.assert_close(objective.curvatures(log_w)[:, 0], hessian.diagonal())


def test_iwae_is_monotone_in_the_number_of_particles():
    """Means over 4,000 rows, K doubling, increase by more than 4.5 standard errors below and reach
    log p(x)."""
    toy, x = Toy(), Toy.x.expand(20_000, 3)
    with pv.seeded(0):
        bounds = [objectives.IWAE(k).bound(toy.model, toy.guide, x) for k in (1, 2, 4, 8, 64)]
    for low, high in zip(bounds, bounds[1:], strict=False):
        assert high.mean() - low.mean() > -4.5 * (high.var() + low.var()).sqrt() / 20_000**0.5
    assert (
        bounds[0].mean()
        < bounds[-1].mean()
        < toy.log_evidence() + 4.5 * bounds[-1].std() / 20_000**0.5
    )


def test_the_gradient_table_is_complete():
    public = {n for n in objectives.__all__ if isinstance(getattr(objectives, n), type)}
    assert {n for n in public if issubclass(getattr(objectives, n), objectives.Gradient)} == {
        *GRADIENTS,
        "Gradient",
    }
