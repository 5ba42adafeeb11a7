"""log w, for any Pyro model and guide: exact where the posterior is, and the same however it is
chunked."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, PROBLEMS, data_for, vae
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.programs.traces import log_terms

every_problem = pytest.mark.parametrize("problem", PROBLEMS)


@every_problem
def test_exact_guide_gives_exact_log_evidence_with_one_particle(problem):
    bed = PROBLEMS[problem](32)
    log_w = pv.log_weights(bed.model, bed.guide, bed.x, num_particles=1, seed=0)
    torch.testing.assert_close(log_w[0], bed.log_evidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 64, 10**9])
@pytest.mark.parametrize("num_particles", [1, 5, 20])
def test_shape_and_values_do_not_depend_on_chunks(chunk_size, num_particles):
    bed = beds.linear_gaussian(13)
    log_w = pv.log_weights(
        bed.model, bed.guide, bed.x, num_particles=num_particles, chunk_size=chunk_size
    )
    assert log_w.shape == (num_particles, 13)
    torch.testing.assert_close(log_w, bed.log_evidence.expand_as(log_w), rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [3, 50, 10**6])
def test_chunked_particles_are_independent_draws(chunk_size):
    """An inexact guide: all weights differ, and their mean is the ELBO within 4 standard errors
    (level 6e-5)."""
    bed = beds.linear_gaussian(4, guide_scale=1.3)
    log_w = pv.log_weights(
        bed.model, bed.guide, bed.x, num_particles=200, chunk_size=chunk_size, seed=1
    )
    assert log_w.unique().numel() == log_w.numel()
    # KL(N(m, 1.69 S) || N(m, S)) = (1.69 - 1 - log 1.69) D / 2
    kl = (1.69 - 1 - torch.tensor(1.69).log()) * bed.latent_dim / 2
    se = log_w.std(0) / 200**0.5
    assert ((log_w.mean(0) - (bed.log_evidence - kl)).abs() < 4 * se).all()


def test_same_seed_same_weights_and_the_global_stream_is_left_alone():
    model, guide = vae()
    x = data_for("Bernoulli")
    before = torch.get_rng_state()
    first, again = (pv.log_weights(model, guide, x, num_particles=3, seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, pv.log_weights(model, guide, x, num_particles=3, seed=6))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_leaves_modes_gradients_and_parameter_store_as_they_were():
    model, guide = vae()
    model.decoder.append(nn.Dropout(0.5))
    model.decoder[0].eval()
    pv.log_weights(model, guide, data_for("Bernoulli"))
    assert model.training
    assert not model.decoder[0].training
    assert model.decoder[-1].training
    assert len(pyro.get_param_store()) == 0
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "wrap", [lambda f: lambda x: f(x), partial, lambda f: poutine.scale(f, 1.0), config_enumerate]
)
def test_a_wrapped_module_is_evaluated_as_the_bare_one(wrap):
    """Dropout is at rest within a function, a partial, a handler; and data take the float type of
    its parameters."""
    model, guide = vae()
    model.decoder.append(nn.Dropout(0.5))
    x = data_for("Bernoulli")
    bare = pv.log_weights(model, guide, x, num_particles=3, seed=0)
    assert torch.equal(pv.log_weights(wrap(model), guide, x, num_particles=3, seed=0), bare)
    assert model.decoder[-1].training
    double = pv.log_evidence(
        wrap(model.double()), wrap(guide.double()), x, num_particles=30, seed=0
    )
    assert np.isfinite(double.log_evidence).all()


def test_missing_values_are_integrated_out():
    """With a linear-Gaussian model the marginal over the observed entries is exact."""
    bed = beds.linear_gaussian(12)
    x = bed.x.clone()
    x[torch.rand(x.shape) < 0.4] = float("nan")
    x[3] = float("nan")
    log_w = pv.log_weights(bed.model, bed.guide, x, num_particles=2, seed=0)
    torch.testing.assert_close(log_w, bed.exact_log_evidence(x).expand(2, -1), rtol=0, atol=1e-10)
    torch.testing.assert_close(log_w[:, 3], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "likelihood", ["Bernoulli", "Gaussian", "Poisson", "Categorical", "StudentT"]
)
def test_a_missing_entry_contributes_nothing_in_our_models(likelihood):
    model, guide = vae(likelihood=likelihood)
    x = data_for(likelihood)
    x[::2, 1] = float("nan")
    terms = log_terms(model, guide, x, num_particles=3)
    z = terms.guide_trace.nodes["z"]["value"]
    by_hand = model.decode(z).base_dist.log_prob(x.nan_to_num()).masked_fill(x.isnan(), 0.0).sum(-1)
    torch.testing.assert_close(terms.log_likelihood, by_hand)
    terms.log_weights.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), *guide.parameters()])


class TwoSites(nn.Module):
    """A user's own program: two latent sites of other names, the second given the first, and a
    global one if asked."""

    def __init__(self, with_global=False, size=None, scale=None):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(3, 4).double(), nn.Linear(4, 6).double()
        self.with_global, self.size, self.scale = with_global, size, scale

    def plate(self, x):
        return pyro.plate("data", self.size or len(x), subsample_size=len(x), dim=-1)

    def globals(self, loc):
        return (
            pyro.sample("theta", dist.Normal(loc, 1.0))
            if self.with_global
            else torch.zeros((), dtype=torch.float64)
        )

    def model(self, x):
        pyro.module("decoder", self.decoder)
        theta = self.globals(torch.zeros((), dtype=torch.float64))
        with self.plate(x):
            a = pyro.sample(
                "a",
                dist.Normal(theta, 1.0).expand([1]).to_event(1)
                if theta.dim() == 0
                else self.tall(theta),
            )
            b = pyro.sample("b", dist.Normal(torch.cat([a, -a], -1), 0.5).to_event(1))
            pyro.sample(
                "y", dist.Normal(self.decoder(torch.cat([a, b], -1)), 1.0).to_event(1), obs=x
            )

    @staticmethod
    def tall(theta):
        return dist.Normal(theta.unsqueeze(-1), 1.0).to_event(1)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        self.globals(torch.full((), 0.3, dtype=torch.float64))
        with self.plate(x):
            h = self.encoder(x)
            a = pyro.sample("a", dist.Normal(h[..., :1], h[..., 1:2].exp()).to_event(1))
            pyro.sample(
                "b", dist.Normal(h[..., 2:4] + torch.cat([a, -a], -1), h[..., 4:].exp()).to_event(1)
            )


def test_a_users_program_is_reduced_per_datum_and_by_hand():
    program, x = TwoSites(), torch.randn(5, 4, dtype=torch.float64)
    terms = log_terms(program.model, program.guide, x, num_particles=3)
    a, b = (terms.guide_trace.nodes[name]["value"] for name in "ab")
    assert a.shape == (3, 5, 1)
    mean = program.decoder(torch.cat([a, b], -1))
    by_hand = dist.Normal(mean, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_likelihood, by_hand)
    assert set(terms.prior_sites) == {"a", "b"}
    h = program.encoder(x)
    log_q = dist.Normal(h[:, :1], h[:, 1:2].exp()).log_prob(a).sum(-1)
    log_q = log_q + dist.Normal(h[:, 2:4] + torch.cat([a, -a], -1), h[:, 4:].exp()).log_prob(b).sum(
        -1
    )
    torch.testing.assert_close(terms.log_q, log_q)
    assert terms.log_global.item() == 0.0


def test_a_global_latent_is_drawn_once_and_kept_apart():
    program, x = TwoSites(with_global=True), torch.randn(5, 4, dtype=torch.float64)
    terms = log_terms(program.model, program.guide, x, num_particles=3)
    theta = terms.guide_trace.nodes["theta"]["value"]
    assert theta.shape == ()
    expected = dist.Normal(0.0, 1.0).log_prob(theta) - dist.Normal(0.3, 1.0).log_prob(theta)
    torch.testing.assert_close(terms.log_global, expected)
    assert terms.log_weights.shape == (3, 5)


def test_a_sized_plate_scales_and_does_not_enter_the_weights():
    program, x = TwoSites(size=50), torch.randn(5, 4, dtype=torch.float64)
    terms = log_terms(program.model, program.guide, x, num_particles=3)
    a, b = (terms.guide_trace.nodes[name]["value"] for name in "ab")
    by_hand = dist.Normal(program.decoder(torch.cat([a, b], -1)), 1.0).log_prob(x).sum(-1)
    assert terms.scale == 10.0
    torch.testing.assert_close(terms.log_likelihood, by_hand)


def test_masks_are_honoured():
    """Pyro's `unscaled_log_prob` leaves `poutine.mask` out; a masked datum must have log w = 0."""
    bed = beds.linear_gaussian(6)
    keep = torch.tensor([True, False, True, True, False, True])
    masked = (pyro.poutine.mask(program, mask=keep) for program in (bed.model, bed.guide))
    log_w = pv.log_weights(*masked, bed.x, num_particles=2)
    torch.testing.assert_close(log_w, (bed.log_evidence * keep).expand(2, -1), rtol=0, atol=1e-10)


def test_plates_inside_the_data_plate_belong_to_the_datum():
    x = torch.randn(5, 4, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            with pyro.plate("features", 4, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.mT)

    def guide(x):  # exact: N(sum x / 5, 1 / 5)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(-1) / 5, 0.2**0.5))

    log_w = log_terms(model, guide, x, num_particles=3, max_plate_nesting=2).log_weights
    exact = dist.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double() + 1).log_prob(x)
    torch.testing.assert_close(log_w, exact.expand(3, -1), rtol=0, atol=1e-10)


def sample_z(name="data", dim=-1, scale=None, size=None, **infer):
    def program(x):
        with (
            pyro.plate(name, size or len(x), dim=dim),
            pyro.poutine.scale(scale=1.0 if scale is None else scale),
        ):
            pyro.sample("z", dist.Normal(torch.zeros(()) if size is None else x, 1.0), infer=infer)

    return program


def observing(where="data", obs=True):
    """z inside the plate "data", and x observed (or not) inside another plate, or none."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            if where == "data":
                pyro.sample("x", dist.Normal(z, 1.0), obs=x if obs else None)
        if where != "data":
            with nullcontext() if where is None else pyro.plate(where, len(x), dim=-1):
                pyro.sample(
                    "x", dist.Normal(z, 1.0) if where else dist.Normal(z, 1.0).to_event(1), obs=x
                )

    return model


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (
            sample_z("rows"),
            sample_z("rows"),
            r"no observed site of the model lies in a plate over the rows \(plates: 'rows'\)",
        ),
        (
            observing(),
            sample_z(scale=0.5),
            r"sites 'z' and 'z' carry different scales \(1.0 and 0.5\)",
        ),
        (
            sample_z(),
            sample_z("rows"),
            "site 'z' of the guide lies in no plate named \"data\", but the other one does",
        ),
        (sample_z("rows"), sample_z(), "site 'z' of the model lies in no plate named \"data\""),
        (sample_z(), lambda x: None, "latent site 'z' is in the model but not in the guide"),
        (lambda x: None, sample_z(), "latent site 'z' is in the guide but not in the model"),
        (
            observing(),
            sample_z(size=2),
            r'x has another number of rows than the plate "data": write pyro.plate\("data"',
        ),
        (
            sample_z(dim=-3),
            sample_z(dim=-3),
            r'a plate lies where the particles go: write pyro.plate\("data", len',
        ),
        (sample_z(), sample_z(), "the model observes nothing: give obs=x to a site inside"),
        (
            observing("rows"),
            sample_z(),
            "observed site 'x' lies outside the plate \"data\", so that no row has",
        ),
        (observing(None), sample_z(), "observed site 'x' lies outside the plate \"data\""),
        (
            sample_z(dim=-2),
            sample_z(dim=-2),
            r'plate "data" is at dim -2 at site \'z\': it must be at dim=-1',
        ),
    ],
)
def test_programs_that_cannot_be_weighted_are_told_why(model, guide, message):
    with pytest.raises(ValueError, match=message):
        log_terms(model, guide, torch.zeros(3), max_plate_nesting=2)


def test_an_observed_global_site_is_a_global_term():
    """A regulariser and a global measurement count once, beside the data."""
    x = torch.randn(3)

    def regularised(x):
        pyro.factor("penalty", torch.tensor(-2.0))
        pyro.sample("measured", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))
        observing()(x)

    with pv.seeded(0):
        plain = log_terms(observing(), sample_z(), x, num_particles=2)
    with pv.seeded(0):
        terms = log_terms(regularised, sample_z(), x, num_particles=2)
    torch.testing.assert_close(terms.log_weights, plain.log_weights)
    expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) - 2.0
    torch.testing.assert_close(terms.global_likelihood - plain.global_likelihood, expected)
    assert terms.log_global == plain.log_global == 0


def test_annealing_by_poutine_scale_on_one_site_is_refused():
    """It gives three different answers in three of Pyro's objectives; here it is an error with the
    remedy."""
    model, guide = vae()

    def annealed(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.poutine.scale(scale=0.1):
                z = pyro.sample("z", model.prior())
            pyro.sample("x", model.decode(z), obs=x)

    with pytest.raises(
        ValueError, match=r"use Training\(kl_warmup_epochs=...\) or objective.annealed\(weight\)"
    ):
        log_terms(annealed, guide, data_for("Bernoulli"))


def test_covariates_reach_prior_decoder_and_encoder():
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, context_dim=1)
    model = pv.Model(
        pv.priors.LearnedNormal(2, context_dim=1), pv.likelihoods.Bernoulli(EVENT), context_dim=1
    )
    x, c = data_for("Bernoulli"), torch.randn(64, 1)
    base = pv.log_weights(model, guide, x, c, seed=0)
    assert base.shape == (1, 64)
    moved = pv.log_weights(model, guide, x, c + torch.eye(64)[:, :1], seed=0)
    assert (moved - base).abs()[0, 0] > 0
    assert torch.equal(moved[:, 1:], base[:, 1:])
    for program in (model, guide):
        with pytest.raises(ValueError, match="takes 1 covariates and was given 0: give pv.Dataset"):
            program(x)
    plain_model, plain_guide = vae()
    for program in (plain_model, plain_guide):
        with pytest.raises(
            ValueError, match="takes 0 covariates and was given 1: construct it with context_dim=1"
        ):
            program(x, c)


def test_the_encoder_can_be_told_what_was_observed():
    told, untold = (
        pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, missing=m) for m in (True, False)
    )
    assert told.encoder.in_shape == (2 * EVENT,)
    assert untold.encoder.in_shape == (EVENT,)
    missing, zero = torch.tensor([[1.0, float("nan"), 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(untold.encode(missing).mean, untold.encode(zero).mean)
    assert not torch.equal(told.encode(missing).mean, told.encode(zero).mean)


def test_images_get_indicator_and_covariates_as_channels():
    guide = pv.Guide(
        pv.posteriors.MeanFieldNormal(2),
        (4, 5),
        nn.Conv2d(1 + 1 + 3, 2, 3),
        missing=True,
        context_dim=3,
    )
    assert guide.inputs(torch.zeros(7, 4, 5), torch.zeros(7, 3)).shape == (7, 5, 4, 5)
    assert guide(torch.zeros(7, 4, 5), torch.zeros(7, 3)).shape == (7, 2)


def test_models_generate_and_serve_pyros_tools():
    model, guide = vae()
    x = data_for("Bernoulli")
    assert model.sample(6).shape == (6, EVENT)
    draws = pyro.infer.Predictive(model, guide=guide, num_samples=4)(x)
    assert draws["z"].shape == (4, 64, 2)
    rendered = pyro.infer.inspect.get_model_relations(model, (x,))
    assert rendered["observed"] == ["x"]
    with pytest.raises(ValueError, match=r"made for data of shape \(3,\) and was given \(4,\)"):
        guide(torch.zeros(2, 4))


@pytest.mark.parametrize("of_weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_rows", [torch.float32, torch.float64])
def test_rows_are_taken_in_the_type_of_the_weights(of_weights, of_rows):
    with pv.seeded(0):
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), context_dim=1)
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 3, context_dim=1)
        x, context = torch.randn(5, 3), torch.randn(5, 1)
    programs = model.to(of_weights), guide.to(of_weights)
    found = pv.log_weights(*programs, x.to(of_rows), context.to(of_rows), seed=0)
    assert found.dtype == of_weights
    expected = pv.log_weights(*programs, x.to(of_weights), context.to(of_weights), seed=0)
    assert torch.equal(found, expected)


def test_sizes_below_one_are_refused():
    bed = beds.linear_gaussian(3)
    for name, value in (
        ("num_particles", 0),
        ("chunk_size", 0),
        ("num_particles", True),
        ("num_particles", 2.0),
    ):
        with pytest.raises(
            ValueError, match=f"{name} is {value}; it must be a whole number, at least 1"
        ):
            pv.log_weights(bed.model, bed.guide, bed.x, **{name: value})
    assert pv.log_weights(bed.model, bed.guide, bed.x, num_particles=np.int64(2)).shape == (2, 3)


def counts(masked=False, factor=False):
    """Counts x in four columns, of a rate exp(z); a program that masks what is missing, or does
    not; with a factor."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            rate = z.exp().unsqueeze(-1).expand(*z.shape, 4)
            if not masked:
                pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)
            else:
                pyro.sample(
                    "x", dist.Poisson(rate).mask(~x.isnan()).to_event(1), obs=x.nan_to_num(-1.0)
                )
            if factor:
                pyro.factor("tilt", -0.1 * z.square())

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    return model, guide


EVERY_DOOR = {
    "log_weights": lambda model, guide, x: pv.log_weights(model, guide, x),
    "log_evidence": lambda model, guide, x: pv.log_evidence(model, guide, x, num_particles=30),
    "AIS": lambda model, guide, x: pv.log_evidence(model, guide, x, pv.AIS(30, 2)),
    "Defensive": lambda model, guide, x: pv.log_evidence(
        model, guide, x, num_particles=30, proposal=pv.Defensive()
    ),
    "sample_posterior": lambda model, guide, x: pv.sample_posterior(
        model, guide, x, sampler=pv.HMC(2, 2)
    ),
    "refine": lambda model, guide, x: pv.refine(
        model, guide, x, pv.GradientRefinement(num_steps=2)
    ),
}


@pytest.mark.parametrize("door", EVERY_DOOR)
def test_data_that_a_program_of_ones_own_cannot_take_are_named(door):
    x = torch.poisson(torch.full((6, 4), 2.0))
    beside, missing = x.clone(), x.clone()
    beside[2, 1], missing[3, 0] = 0.5, float("nan")
    for bad, message in (
        (beside, "row 2 of x lies outside the support of site 'x', Poisson"),
        (
            missing,
            r"site 'x' is NaN for row 3: x is missing there, which a custom program has to mask",
        ),
        (x[:, :1], r"site 'x' is for values of shape \(6, 4\) and observes \(6, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            EVERY_DOOR[door](*counts(), bad)
    EVERY_DOOR[door](*counts(factor=True), x)
    EVERY_DOOR[door](*counts(masked=True), missing)


def test_a_column_for_a_scalar_site_is_given_as_scalars():
    """obs of shape (B, 1) for a site of B scalars would be B^2 observations."""

    def program(x, obs=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.linspace(-1, 1, 5)
    found, expected = (
        pv.log_weights(program, sample_z(), each, seed=0) for each in (x[:, None], x)
    )
    assert torch.equal(found, expected)


def test_pyros_table_of_sites_is_not_in_the_message():
    (model, _), (_, guide) = vae(latent_dim=2), counts()
    for door in EVERY_DOOR.values():
        with pytest.raises((ValueError, RuntimeError)) as caught:
            door(model, guide, data_for("Bernoulli", 4))
        assert "\n" not in str(caught.value)
        assert "Trace Shapes" not in str(caught.value)
