"""Bounds: Pyro's values for equal draws, exact answers where there are any, the right side of log
p(x)."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    DISCRETE,
    EVENT,
    GRADIENTS,
    OBJECTIVES,
    POSTERIORS,
    PRIORS,
    PROBLEMS,
    REAL_PRIORS,
    data_for,
    fitting,
    vae,
)
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from test_importance import TwoSites
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, objectives
from ppl_vae.objectives.mean_field import analytic_kl

PYRO = {"TraceELBO": Trace_ELBO, "MeanFieldELBO": TraceMeanField_ELBO}
ELBOS = ["TraceELBO", "MeanFieldELBO"]
OF_LOG_WEIGHTS = [name for name, make in OBJECTIVES.items() if make().of_log_weights]
LOWER = [name for name, make in OBJECTIVES.items() if not make().is_upper]
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_elbo = pytest.mark.parametrize("name", ELBOS)
against_pyro = pytest.mark.parametrize("name", PYRO)


def both(name, num_particles=7):
    theirs = PYRO[name](num_particles, vectorize_particles=True, max_plate_nesting=1)
    return getattr(objectives, name)(num_particles), theirs


def test_the_tables_hold_every_objective_and_gradient():
    others = {"Bound", "Gradient", "EnumeratedELBO"}  # the last needs a discrete latent
    assert set(OBJECTIVES) | set(GRADIENTS) | others == set(objectives.__all__)


def value_and_gradient(objective, model, guide, *args, modules):
    with pv.seeded(3):
        loss = objective.differentiable_loss(model, guide, *args)
    parameters = [p for module in modules for p in module.parameters()]
    return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)


def assert_equal_to_pyro(name, model, guide, *args, modules, num_particles=7):
    (ours, gradient), (theirs, their_gradient) = (
        value_and_gradient(objective, model, guide, *args, modules=modules)
        for objective in both(name, num_particles)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)
    for mine, their in zip(gradient, their_gradient, strict=True):
        assert (mine is None) == (their is None)
        if mine is not None:
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@against_pyro
@pytest.mark.parametrize("prior", REAL_PRIORS)
@pytest.mark.parametrize("missing", [False, True])
def test_equals_pyro_for_equal_draws(name, prior, missing):
    model, guide = vae(prior)
    x = data_for("Bernoulli")
    if missing:
        x[torch.rand(x.shape) < 0.3] = float("nan")
    assert_equal_to_pyro(name, model, guide, x, modules=(model, guide))


@pytest.mark.parametrize("posterior", [q for q in POSTERIORS if q not in DISCRETE])
def test_trace_elbo_equals_pyro_for_every_posterior(posterior):
    model, guide = vae(posterior=posterior)
    assert_equal_to_pyro("TraceELBO", model, guide, data_for("Bernoulli"), modules=(model, guide))


@against_pyro
@pytest.mark.parametrize("size", [None, 50])
@pytest.mark.parametrize("with_global", [False, True])
def test_equals_pyro_with_a_sized_plate_and_a_global_latent(name, size, with_global):
    """With one particle: Pyro gives each particle a global latent of its own, we give all of them
    the same."""
    program, x = TwoSites(with_global, size), torch.randn(5, 4, dtype=torch.float64)
    num_particles = 1 if with_global else 7
    assert_equal_to_pyro(
        name, program.model, program.guide, x, modules=(program,), num_particles=num_particles
    )


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", OF_LOG_WEIGHTS)
def test_tight_at_the_exact_posterior(name, problem):
    bed = PROBLEMS[problem](16)
    bound = OBJECTIVES[name]().bound(bed.model, bed.guide, bed.x)
    torch.testing.assert_close(bound, bed.log_evidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_mean_field_elbo_is_tight_in_mean(problem):
    """log p(x given z) - KL varies with z; its mean is exact: 4.5 standard errors."""
    bed = PROBLEMS[problem](16)
    draws = torch.stack(
        [objectives.MeanFieldELBO(20).bound(bed.model, bed.guide, bed.x) for _ in range(40)]
    )
    assert ((draws.mean(0) - bed.log_evidence).abs() <= 4.5 * draws.std(0) / 40**0.5 + 1e-9).all()


@pytest.mark.parametrize(
    "guide", [{"guide_scale": 0.6}, {"guide_scale": 1.5}, {"guide_shift": 0.7}]
)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", LOWER)
def test_below_log_evidence(name, guide, problem):
    """Mean over 60 draws below log p(x) within 4.5 standard errors, every row: the draws are copies
    of the rows."""
    bed = PROBLEMS[problem](8, **guide)
    x = bed.x.repeat(60, *[1] * (bed.x.dim() - 1))
    draws = OBJECTIVES[name]().bound(bed.model, bed.guide, x).reshape(60, 8)
    assert (draws.mean(0) <= bed.log_evidence + 4.5 * draws.std(0) / 60**0.5).all()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cubo_lies_above_log_evidence(problem):
    """E exp(n CUBO) >= p(x)^n, where w has n moments (a wide guide): 4.5 standard errors of the
    mean of w^2."""
    bed = PROBLEMS[problem](8, guide_scale=1.3)
    cubo = objectives.CUBO(2, num_particles=5000)
    assert (cubo.bound(bed.model, bed.guide, bed.x) >= bed.log_evidence - 4.5 * 0.02).all()
    draws = torch.stack([cubo.bound(bed.model, bed.guide, bed.x) for _ in range(10)])
    assert (draws.mean(0) > bed.log_evidence - 4.5 * draws.std(0) / 10**0.5).all()


@every_elbo
def test_best_mean_field_elbo_is_reached_in_closed_form(name):
    """4.5 standard errors over 16 data."""
    bed = beds.linear_gaussian(16)
    objective = getattr(objectives, name)(50)
    draws = torch.stack(
        [objective.bound(bed.model, bed.mean_field_guide, bed.x) for _ in range(40)]
    )
    assert ((draws.mean(0) - bed.best_mean_field_elbo).abs() < 4.5 * draws.std(0) / 40**0.5).all()


@pytest.mark.parametrize("name", OF_LOG_WEIGHTS)
def test_any_batching_gives_the_same_bound_per_datum(name):
    """With the exact guide of the linear-Gaussian bed log w has no noise, in batches of 5, 5 and
    3."""
    bed = beds.linear_gaussian(13)
    loss = OBJECTIVES[name]().loss
    whole = loss(bed.model, bed.guide, bed.x)
    parts = sum(loss(bed.model, bed.guide, rows) for rows in bed.x.split(5))
    assert parts == pytest.approx(whole, abs=1e-9)


@every_elbo
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_annealing_weighs_the_kl_alone(name, weight):
    model, guide = vae()
    model, guide, x = model.double(), guide.double(), data_for("Bernoulli").double()
    objective = getattr(objectives, name)(5)

    def annealed(w):
        with pv.seeded(1):
            return objective.annealed(w).bound(model, guide, x)

    torch.testing.assert_close(
        annealed(weight), annealed(0.0) + weight * (annealed(1.0) - annealed(0.0))
    )
    assert objective.kl_weight == 1.0


@every_objective
def test_loss_is_minus_the_scaled_sum_and_serves_every_interface(name):
    model, guide = vae()
    x, objective = data_for("Bernoulli"), OBJECTIVES[name]()
    sign = 1 if objective.is_upper else -1
    with pv.seeded(0):
        bound = objective.bound(model, guide, x)
    assert bound.shape == (64,)
    for use in (
        lambda: objective.loss(model, guide, x),
        lambda: objective.differentiable_loss(model, guide, x).item(),
        lambda: objective(model, guide)(x).item(),
        lambda: objective.loss_and_grads(model, guide, x),
        lambda: SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), objective).step(x),
        lambda: SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), objective).evaluate_loss(x),
    ):
        with pv.seeded(0):
            assert use() == pytest.approx(sign * bound.sum().item(), rel=0.05)
    assert all(p.grad is not None for p in guide.parameters())


def test_analytic_kl_is_told_site_by_site():
    for prior, posterior in ((p, q) for p in PRIORS for q in fitting(p)):
        model, guide = vae(prior, posterior=posterior)
        analytic = objectives.MeanFieldELBO().analytic_kl(model, guide, data_for("Bernoulli"))
        p, q = model.prior(), guide.encode(data_for("Bernoulli"))
        assert analytic == {"z": analytic_kl(q, p.expand(q.batch_shape)) is not None}
    program = TwoSites()
    analytic = objectives.MeanFieldELBO().analytic_kl(
        program.model, program.guide, torch.randn(5, 4).double()
    )
    assert analytic == {"a": True, "b": True}


def test_analytic_kl_lowers_the_variance_of_the_gradient():
    """Estimator B against A on a near-collapsed guide, where log p(z) - log q(z) is most of the
    noise."""
    model, guide = vae()
    x = data_for("Bernoulli")

    def noise(objective):
        draws = []
        for _ in range(100):
            loss = objective.differentiable_loss(model, guide, x)
            draws.append(torch.autograd.grad(loss, guide.posterior.link.linear.bias)[0])
        return torch.stack(draws).var(0).sum()

    assert noise(objectives.MeanFieldELBO()) < 0.5 * noise(objectives.TraceELBO())


@pytest.mark.parametrize(
    "name", ["TraceELBO", "MeanFieldELBO", "IWAE", "MIWAE", "PIWAE", "Renyi", "CUBO"]
)
def test_draws_without_gradient_are_refused_not_ignored(name):
    logits = nn.Parameter(torch.zeros(2))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=logits[0] + logits[1] * x))

    objective, x = OBJECTIVES[name](), torch.randn(4)
    assert objective.bound(model, guide, x).shape == (4,)  # the value is fine
    with pytest.raises(ValueError, match=r"latent site 'z' \(Bernoulli\) is not reparameterised"):
        objective.differentiable_loss(model, guide, x)


@pytest.mark.parametrize("loss", [Trace_ELBO, objectives.MeanFieldELBO])
def test_two_models_in_one_process_both_train_under_svi(loss):
    """Pyro's store would give the second model the first one's weights: nothing of it would
    move."""
    x = data_for("Bernoulli")
    for _ in range(2):
        model, guide = vae("VampPrior")
        named = dict(model.named_parameters()) | dict(guide.named_parameters(prefix="guide"))
        before = {n: p.detach().clone() for n, p in named.items()}
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss())
        for _ in range(3):
            svi.step(x)
        assert [n for n, p in named.items() if torch.equal(p, before[n])] == []


@pytest.mark.parametrize("event", [(), (3,)])
def test_free_bits_take_a_scalar_latent_and_a_vector(event):
    """The penalty is sum_d max(free bits, mean over the batch of the closed-form KL_d)."""
    x, loc, scale = torch.randn(6), torch.randn(6, *event), torch.rand(6, *event) + 0.5

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(event), 1.0).to_event(len(event)))
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale).to_event(len(event)))

    kl = (
        torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0))
        .reshape(6, -1)
        .mean(0)
    )
    for free_bits in (1e-3, kl.median().item(), 10.0):
        bound = objectives.BetaELBO(1.0, 2, free_bits=free_bits).bound(model, guide, x)
        expected = dist.Normal(0.0, 1.0).log_prob(x).mean() - kl.clamp(min=free_bits).sum()
        torch.testing.assert_close(bound.mean(), expected)


def test_the_discrepancy_of_a_single_datum_is_left_out():
    """It has no aggregate posterior: what remains is the ELBO, whatever the number of particles."""
    model, guide = vae()
    x = data_for("Bernoulli", num_data=1)
    for num_particles in (1, 5):
        with pv.seeded(0):
            found = objectives.InfoVAE(0.0, 1000.0, num_particles).bound(model, guide, x)
        with pv.seeded(0):
            torch.testing.assert_close(
                found, objectives.MeanFieldELBO(num_particles).bound(model, guide, x)
            )


def test_a_bound_takes_what_makes_a_dataset_and_says_what_it_cannot_take():
    model, guide = vae()
    x = data_for("Bernoulli")

    def bound(data):
        with pv.seeded(0):
            return objectives.IWAE(3).bound(model, guide, data)

    for same in (x.double(), x.int(), x.numpy(), x.tolist(), pv.Dataset(x)):
        assert torch.equal(bound(same), bound(x))
    for other, message in (
        (torch.zeros(4, EVENT + 1), "given x of shape|given \\(4,\\)"),
        (torch.zeros(0, EVENT), "is empty"),
        (x - float("inf"), "x is -inf at row 0"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            bound(other)
        assert "\n" not in str(error.value)


def test_objectives_refuse_no_particles():
    with pytest.raises(
        ValueError, match=r"TraceELBO\(num_particles\) is 0; it must be a whole number"
    ):
        objectives.TraceELBO(0)


def test_batch_norm_moves_once_per_step():
    """Pyro's guess of the plate nesting runs model and guide once more; ours does not guess."""
    encoder = nn.Sequential(nn.Linear(EVENT, 4), nn.BatchNorm1d(4))
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, encoder)
    model = vae()[0]
    objectives.TraceELBO().differentiable_loss(model, guide, data_for("Bernoulli"))
    assert encoder[1].num_batches_tracked == 1
