"""What each bound adds to the ELBO: sized plates, global latents, missing data, penalties,
batches."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, OBJECTIVES, data_for, vae
from pyro.infer import EnergyDistance, RenyiELBO
from test_importance import TwoSites
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, objectives
from ppl_vae.objectives.info_vae import squared_mmd
from ppl_vae.objectives.mean_field import kl_per_dimension

OF_LOG_WEIGHTS = [name for name, make in OBJECTIVES.items() if make().of_log_weights]
WITHOUT_DREAMS = [
    n for n in OF_LOG_WEIGHTS if n not in ("ReweightedWakeSleep", "WakeSleep", "MCEM")
]


@pytest.mark.parametrize("name", OF_LOG_WEIGHTS)
def test_missing_data_are_integrated_out(name):
    """Exact guide: every bound is log p of what was observed, a row without anything observed has
    0."""
    bed = beds.linear_gaussian(12)
    x = bed.x.masked_fill(torch.rand(bed.x.shape) < 0.4, float("nan"))
    x[3] = float("nan")
    bound = OBJECTIVES[name]().bound(bed.model, bed.guide, x)
    torch.testing.assert_close(bound, bed.exact_log_evidence(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", WITHOUT_DREAMS)
@pytest.mark.parametrize("with_global", [False, True])
def test_a_sized_plate_multiplies_the_per_datum_bound_and_nothing_else(name, with_global):
    """Pyro's RenyiELBO takes the scale inside the log-mean-exp; a power mean of scaled weights is
    no bound."""
    program, x = TwoSites(with_global, size=50), torch.randn(5, 4, dtype=torch.float64)
    objective = OBJECTIVES[name]()
    if with_global and not objective.takes_global:
        with pytest.raises(
            ValueError, match="is not defined for latent site 'theta', which lies outside the plate"
        ):
            objective.loss(program.model, program.guide, x)
        return
    with pv.seeded(0):
        terms = objective.terms(program.model, program.guide, x)
    expected = 10.0 * objective.value(terms).sum() + terms.log_global
    with pv.seeded(0):
        loss = objective.loss(program.model, program.guide, x)
    assert loss == pytest.approx((expected if objective.is_upper else -expected).item(), abs=1e-9)


@pytest.mark.parametrize("name", WITHOUT_DREAMS)
def test_a_scale_multiplies_the_loss(name):
    model, guide = vae()
    objective, x = OBJECTIVES[name](), data_for("Bernoulli")
    scaled = [pyro.poutine.scale(program, scale=0.1) for program in (model, guide)]
    with pv.seeded(0):
        plain = objective.loss(model, guide, x)
    with pv.seeded(0):
        assert objective.loss(*scaled, x) == pytest.approx(0.1 * plain, rel=1e-5)


def test_a_scale_stays_outside_the_logarithm_unlike_pyros():
    """RenyiELBO under a scale of 8 takes log mean w^8 and lands above log p(x): no bound at all.
    Ours stays below."""
    bed = beds.linear_gaussian(64, guide_scale=1.7)
    model, guide = (pyro.poutine.scale(program, scale=8.0) for program in (bed.model, bed.guide))
    theirs = -RenyiELBO(0.0, num_particles=50, vectorize_particles=True, max_plate_nesting=1).loss(
        model, guide, bed.x
    )
    ours, exact = -objectives.Renyi(0.0, 50).loss(model, guide, bed.x), 8 * bed.log_evidence.sum()
    assert ours < exact < theirs


def test_a_site_outside_the_plate_does_not_make_the_bound_joint_unlike_pyros():
    """A `pyro.deterministic` outside the plate makes RenyiELBO want one particle that suits all
    data at once."""
    bed = beds.linear_gaussian(64, guide_scale=1.7)

    def model(x):
        pyro.deterministic("constant", torch.ones(()))
        return bed.model(x)

    theirs = -RenyiELBO(0.0, num_particles=10, vectorize_particles=True, max_plate_nesting=1).loss(
        model, bed.guide, bed.x
    )
    ours, exact = -objectives.Renyi(0.0, 10).loss(model, bed.guide, bed.x), bed.log_evidence.sum()
    assert theirs + 10 < ours < exact


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "MCEM"])
def test_every_objective_trains_and_moves_what_it_should(name):
    model, guide = vae(posterior="MeanFieldNormal", prior="LearnedNormal")
    objective, data = OBJECTIVES[name](), data_for("Bernoulli", num_data=70)  # a last batch of 6
    groups = {"model": list(model.parameters()), "guide": list(guide.parameters())}
    before = {key: [p.detach().clone() for p in group] for key, group in groups.items()}
    pv.fit(
        model,
        guide,
        data,
        objective=objective,
        training=pv.Training(num_epochs=1, batch_size=16, progress=False),
    )
    still = {
        key: all(torch.equal(p, b) for p, b in zip(groups[key], before[key], strict=True))
        for key in groups
    }
    assert still == {"model": objective.is_upper, "guide": False}


def test_beta_weighs_the_kl():
    model, guide = vae()
    x = data_for("Bernoulli")

    def bound(objective):
        with pv.seeded(0):
            return objective.bound(model, guide, x)

    kl = bound(objectives.BetaELBO(0.0)) - bound(objectives.BetaELBO(1.0))
    assert (kl > 0).all()
    torch.testing.assert_close(bound(objectives.BetaELBO(1.0)), bound(objectives.MeanFieldELBO()))
    torch.testing.assert_close(
        bound(objectives.BetaELBO(4.0)), bound(objectives.BetaELBO(0.0)) - 4 * kl
    )
    steered = bound(objectives.BetaELBO(2.0, capacity=0.7))
    torch.testing.assert_close(steered, bound(objectives.BetaELBO(0.0)) - 2 * (kl - 0.7).abs())


def test_free_bits_charge_a_dimension_what_it_carries_or_the_floor():
    model, guide = vae()
    x = data_for("Bernoulli")
    with pv.seeded(0):
        objective = objectives.BetaELBO(free_bits=0.05)
        terms = objective.terms(model, guide, x)
    kl = kl_per_dimension(terms).mean(0)
    expected = torch.where(kl.mean(0) < 0.05, 0.05, kl).sum(-1)
    torch.testing.assert_close(objective.penalty(terms), expected)
    # no gradient reaches the guide from a KL below the floor
    (gradient,) = torch.autograd.grad(
        objectives.BetaELBO(free_bits=100.0).penalty(terms).sum(),
        [guide.encoder.weight],
        allow_unused=True,
    )
    assert gradient is None or (gradient == 0).all()
    _, flow = vae(posterior="FlowPosterior")
    with pytest.raises(ValueError, match="there is no KL per dimension"):
        objective.bound(model, flow, x)


def exact_mmd(shift, variance, other_variance):
    """Between N(shift, variance I) and N(0, other_variance I): E exp(-|delta|^2 / D) is known for
    normal delta."""
    D = len(shift)

    def expected(mean, spread):  # delta ~ N(mean, spread I)
        scale = 1 + 2 * spread / D
        return scale ** (-D / 2) * torch.exp(-mean.square().sum() / (D * scale))

    within = expected(0 * shift, 2 * variance) + expected(0 * shift, 2 * other_variance)
    return within - 2 * expected(shift, variance + other_variance)


@pytest.mark.statistical
@pytest.mark.parametrize("num_particles", [1, 3, 10])
@pytest.mark.parametrize("num_rows", [2, 8, 20])
@pytest.mark.parametrize(
    ("slope", "spread", "loc"), [(0.98, 0.2, 0.05), (0.0, 0.1, 0.0), (0.5, 1.5, 1.0)]
)
def test_mmd_of_aggregates_is_its_closed_form(num_particles, num_rows, slope, spread, loc):
    """x ~ N(0, I), q = N(slope x + loc, spread^2 I): q(z) is normal. Over 100 batches, 4.5 standard
    errors."""
    shift, normal = (
        torch.full((2,), loc).double(),
        torch.distributions.Normal(0.0, torch.ones(()).double()),
    )
    with pv.seeded(0):
        rows, noise, y = (
            normal.sample((100, *s, num_rows, 2))
            for s in ((1,), (num_particles,), (num_particles,))
        )
    draws = torch.vmap(squared_mmd)(slope * rows + shift + spread * noise, y)
    error = (draws.mean() - exact_mmd(shift, slope**2 + spread**2, 1.0)).abs()
    assert error < 4.5 * draws.std() / 100**0.5


@pytest.mark.statistical
@pytest.mark.parametrize("num_particles", [1, 6])
def test_info_vae_draws_all_sites_of_the_prior_together(num_particles):
    """z2, then z1 given z2: a guide whose aggregate is that prior has no discrepancy, one that
    takes z1 alone has."""
    slope, x = 3.0, torch.zeros(12, 1, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x, 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(slope * z2, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide_at(slope):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                z2 = pyro.sample("z2", dist.Normal(x, 1.0).to_event(1))
                pyro.sample("z1", dist.Normal(slope * z2, 0.5).to_event(1))

        return guide

    objective = objectives.InfoVAE(1.0, 1.0, num_particles)
    with pv.seeded(0):
        same, other = (
            torch.stack(
                [objective.discrepancy(objective.terms(model, guide_at(s), x)) for _ in range(60)]
            )
            for s in (slope, -slope)
        )
    assert same.mean().abs() < 4.5 * same.std() / 60**0.5
    assert other.mean() > 0.1


def test_info_vae_takes_plates_within_a_row():
    """Latents of a plate inside the data plate are dimensions of a row, not rows: the MMD is that
    of (K, B, 3 E)."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1).sum(-2, keepdim=True), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(torch.stack([x, -x], -1), 0.5).to_event(1))

    objective = objectives.InfoVAE(1.0, 1.0, 5, max_plate_nesting=2)
    with pv.seeded(0):
        terms = objective.terms(model, guide, torch.randn(4))
        value = terms.model_trace.nodes["z"]["value"]  # (K, parts, B, 2)
    with pv.seeded(1):
        found = objective.discrepancy(terms)
    with pv.seeded(1):
        prior = terms.model_trace.nodes["z"]["fn"].rsample()
    x, y = (v.permute(0, 2, 1, 3).reshape(5, 4, 6) for v in (value, prior))
    torch.testing.assert_close(found, squared_mmd(x, y))


def test_info_vae_compares_the_aggregate_posterior_and_punishes_collapse():
    """Narrow q(z given x) whose aggregate is the prior costs nothing; all of them at zero costs a
    lot."""
    z = torch.randn(2000, 1)

    def guide_at(spread):
        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(spread * x, 0.05).to_event(1))

        return guide

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            latent = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(latent, 0.05).to_event(1), obs=x)

    objective = objectives.InfoVAE(alpha=1.0, scale=1.0)
    informative, collapsed = (
        objective.discrepancy(objective.terms(model, guide_at(spread), z)).item()
        for spread in (1.0, 0.0)
    )
    assert abs(informative) < 0.01
    assert collapsed > 0.2


def test_info_vae_takes_a_last_batch_of_one_row():
    model, guide = vae()
    bound = objectives.InfoVAE().bound(model, guide, data_for("Bernoulli", num_data=1))
    with pv.seeded(0):
        assert (
            objectives.InfoVAE(0.0, 5.0).discrepancy(
                objectives.InfoVAE().terms(model, guide, torch.zeros(1, EVENT))
            )
            <= 0
        )
    assert not bound.isnan().any()


def test_dreams_need_one_observed_site_of_the_datas_shape():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("second", dist.Normal(z, 1.0), obs=x[:, 1])

    scale = nn.Parameter(torch.ones(()))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), scale.exp()))

    with pytest.raises(
        ValueError, match=r"one observed site of the first argument's shape \(4, 2\); found 'first'"
    ):
        objectives.WakeSleep().differentiable_loss(model, guide, torch.randn(4, 2))


def test_dreams_have_the_datas_holes():
    model, guide = vae()
    x = data_for("Bernoulli")
    x[::2, 0] = float("nan")
    loss = objectives.WakeSleep().differentiable_loss(model, guide, x)
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    assert all(torch.isfinite(g).all() and (g != 0).any() for g in gradients)


def test_what_is_no_elbo_is_refused():
    """EnergyDistance trains nothing with a discrete likelihood, and says nothing."""
    model, guide = vae()
    with pytest.raises(
        TypeError, match="objective is EnergyDistance; it must be one of ppl_vae.objectives"
    ):
        pv.fit(model, guide, torch.zeros(4, EVENT), objective=EnergyDistance())
