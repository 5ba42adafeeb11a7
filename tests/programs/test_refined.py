"""Refinement beside discrete latents and latents that rows share, against exact log p(x)."""

import itertools
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch import nn

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.refinement.discrete import DiscreteLatent, DiscreteLatents

X = torch.tensor([[-3.0], [-1.0], [0.2], [1.0], [3.5]])
SHARES = torch.tensor([0.3, 0.7])
CENTRES = torch.tensor([-3.0, 3.0])
GIVEN = "ignore:.*lies outside the data plate"
QUICK = pv.GradientRefinement(num_steps=60)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def refine(model, guide, x, method=QUICK):
    return pv.refine(model, guide, x, method, progress=False)


def evidence(model, guide, x):
    return pv.log_evidence(model, guide, x, num_particles=100, progress=False)


def mixture(x):
    """z is normal around one of two centres; the labels of rows are latent."""
    x, centres = x.double(), CENTRES.double()
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(SHARES.double()))
        z = pyro.sample("z", dist.Normal(centres[y].unsqueeze(-1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def poor(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("z", dist.Normal(CENTRES.double()[y].unsqueeze(-1), 2.0).to_event(1))


def test_a_mixture_is_refined_to_its_exact_posterior():
    x = X.double()
    log_joint = SHARES.double().log() + dist.Normal(CENTRES.double(), 2**0.5).log_prob(x)
    refined = refine(mixture, poor, x)
    found = evidence(mixture, refined, x)
    np.testing.assert_allclose(found.log_evidence, log_joint.logsumexp(-1), atol=0.01)
    np.testing.assert_allclose(found.elbo, log_joint.logsumexp(-1), atol=0.01)
    torch.testing.assert_close(refined.logits.softmax(-1), log_joint.softmax(-1), atol=0.01, rtol=0)
    with seeded_draws(refined, x[[3, 1]], 4_000) as (y, z):  # in another order
        share = y.double().mean(0)
        expected = log_joint.softmax(-1)[[3, 1], 1]
        assert (share - expected).abs().max() < 4 * 0.5 / 4_000**0.5
        mean = (CENTRES.double()[y] + x[[3, 1], 0]) / 2  # of z given y and x
        assert ((z[..., 0] - mean).mean(0)).abs().max() < 4 * 0.5**0.5 / 4_000**0.5


class seeded_draws:
    """Draws of y and z of a refined guide."""

    def __init__(self, guide, x, count):
        torch.manual_seed(0)
        with pyro.plate("draws", count, dim=-2):
            values = guide(x)
        self.found = values["y"], values["z"]

    def __enter__(self):
        return self.found

    def __exit__(self, *_):
        pass


def test_labels_that_are_known_for_some_rows_are_kept():
    labels = torch.tensor([0, 1, 1, 0, 1])
    known = torch.tensor([True, False, True, False, False])

    def model(x):
        with pyro.plate("data", len(x)):
            rows = x[:, 1].long()
            fn = dist.Categorical(SHARES.double())
            y = pyro.sample("y", fn, obs=labels[rows], obs_mask=known[rows])
            z = pyro.sample("z", dist.Normal(CENTRES.double()[y].unsqueeze(-1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        with pyro.plate("data", len(x)):
            rows = x[:, 1].long()
            with poutine.mask(mask=~known[rows]):
                y = pyro.sample("y_unobserved", dist.Categorical(torch.ones(2) / 2))
            y = torch.where(known[rows], labels[rows], y)
            pyro.sample("z", dist.Normal(CENTRES.double()[y].unsqueeze(-1), 2.0).to_event(1))

    x = torch.cat([X.double(), torch.arange(5.0).unsqueeze(-1).double()], -1)
    log_joint = SHARES.double().log() + dist.Normal(CENTRES.double(), 2**0.5).log_prob(x[:, :1])
    exact = torch.where(known, log_joint[torch.arange(5), labels], log_joint.logsumexp(-1))
    found = evidence(model, refine(model, guide, x), x)
    np.testing.assert_allclose(found.log_evidence, exact, atol=0.01)


def shared(x):
    """Rows around a centre that they share."""
    centre = pyro.sample("centre", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(centre, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def of_shared(x, scale=0.05):
    pyro.sample("centre", dist.Normal(0.4 * x.new_ones(1), scale).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 2.0).to_event(1))


@pytest.mark.filterwarnings(GIVEN)
@pytest.mark.parametrize(
    "method",
    [QUICK, pv.refinement.SampledRefinement(pv.HMC(100, 50), num_chains=10)],
    ids=["gradient", "sampled"],
)
def test_rows_are_refined_under_draws_of_what_they_share(method):
    """log p(x) given a centre that is nearly known, and a bound that is nearly tight."""
    x = X.double()
    refined = refine(shared, of_shared, x, method)
    found = evidence(shared, refined, x)
    exact = dist.Normal(0.4, (2 + 0.05**2) ** 0.5).log_prob(x[:, 0])
    np.testing.assert_allclose(found.log_evidence, exact, atol=0.05)
    assert (found.log_evidence - found.elbo < 0.05).all()
    assert (evidence(shared, of_shared, x).elbo < found.elbo - 0.3).all()


@pytest.mark.filterwarnings(GIVEN)
def test_a_guide_without_latents_of_rows_stays_as_it_is():
    def alone(x):
        centre = pyro.sample("centre", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(centre, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("centre", dist.Normal(0.4 * x.new_ones(1), 0.5).to_event(1))

    x = X.double()
    before, after = (evidence(alone, each, x) for each in (guide, refine(alone, guide, x)))
    np.testing.assert_allclose(before.log_evidence, after.log_evidence)


def test_a_condition_holds_beside_auxiliary_sites():
    guide = AutoGuideList(shared)
    guide.append(AutoMultivariateNormal(poutine.block(shared, expose=["centre"])))
    guide.append(AutoNormal(poutine.block(shared, expose=["z"])))
    x = X.double()
    guide(x)
    given = {"centre": torch.tensor([0.4]).double()}
    programs = [pyro.condition(each, data=given) for each in (shared, guide)]
    refined = refine(*programs, x, pv.GradientRefinement(num_steps=120, learning_rate=0.1))
    found = evidence(programs[0], refined, x)
    exact = dist.Normal(0.4, 2**0.5).log_prob(x[:, 0])
    np.testing.assert_allclose(found.log_evidence, exact, atol=0.02)
    assert pv.active_units(programs[0], refined, pv.Dataset(x)) is not None


def test_a_condition_on_what_rows_share_serves_every_function():
    x = X.double()
    given = {"centre": torch.tensor([0.4]).double()}
    model, guide = (pyro.condition(each, data=given) for each in (shared, of_shared))
    exact = dist.Normal(0.4, 2**0.5).log_prob(x[:, 0])
    interval = pv.evidence_interval(model, guide, x, progress=False)
    inside = (interval.lower - 0.1 <= exact.numpy()) & (exact.numpy() <= interval.upper + 0.1)
    assert inside.all()
    ranks = pv.calibration(model, guide, x, num_data=50, num_samples=20, progress=False)
    assert len(ranks) == 50
    pit = pv.marginal_pit(model, x, num_samples=200, progress=False)
    assert pit.values.shape == (5, 1)


@pytest.mark.parametrize("sizes", [(3,), (2, 3), (2, 2, 3)])
def test_tables_of_discrete_latents(sizes):
    """The sites' conditional probabilities multiply to the table, and number its cases."""
    torch.manual_seed(0)
    sites = [DiscreteLatent(f"y{i}", torch.eye(size)) for i, size in enumerate(sizes)]
    latents = DiscreteLatents(tuple(sites))
    logits = torch.randn(4, len(latents.cases))
    expected = logits.log_softmax(-1)
    for number, positions in enumerate(itertools.product(*map(range, sizes))):
        case = latents.cases[number]
        values = {name: value.expand(4, -1) for name, value in case.items()}
        assert [int(values[site.name][0].argmax()) for site in sites] == list(positions)
        conditioned = poutine.condition(latents.sample, data=values)
        trace = poutine.trace(conditioned).get_trace(logits, {})
        total = sum(trace.nodes[site.name]["fn"].log_prob(values[site.name]) for site in sites)
        torch.testing.assert_close(total, expected[:, number])
        assert (trace.nodes["_RETURN"]["value"][1] == number).all()


def test_a_guide_of_points_is_told_and_refined():
    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = X.double()
    free = {"progress": False}
    for call in (
        evidence,
        pv.evidence_interval,
        pv.to_datatree,
        pv.rate_distortion,
        pv.elbo_surgery,
        pv.inference_gaps,
        pv.predictive_check,
        pv.impute,
        partial(pv.contrast, groups=np.arange(len(x)) % 2),
        partial(pv.log_evidence, method=pv.AIS(10, 10)),
    ):
        options = {} if call is evidence else free
        with pytest.raises(ValueError, match="the guide sets 'z' to a point, without a density"):
            call(model, point, x, **options)
    found = evidence(model, refine(model, point, x, pv.GradientRefinement(num_steps=200)), x)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x[:, 0])
    np.testing.assert_allclose(found.log_evidence, exact, atol=0.02)


def test_a_saved_refined_guide_knows_its_rows(tmp_path):
    """Parameters are those of rows: in another order they would be those of other rows."""
    bed = beds.linear_gaussian(num_data=6, guide_shift=1.0)
    model = nn.Linear(1, 1)  # stands for the model's weights
    steps = pv.GradientRefinement(num_steps=20)
    one, same, other = (
        refine(bed.model, bed.guide, x, steps) for x in (bed.x, bed.x, bed.x.flip(0))
    )
    pv.save_weights(tmp_path / "weights.pt", model, one)
    pv.load_weights(tmp_path / "weights.pt", model, same)
    assert same.encode(bed.x).mean.equal(one.encode(bed.x).mean)
    before = other.raw.clone()
    with pytest.raises(ValueError, match="refined for other rows, or for these in another order"):
        pv.load_weights(tmp_path / "weights.pt", model, other)
    assert other.raw.equal(before)
