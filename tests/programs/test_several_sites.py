"""PIT values and predictive checks of models that observe x at several sites."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guides import GUIDES
from kinds import KINDS, dataset

import ppl_vae as pv
from ppl_vae.diagnostics import plot_reconstructions

LENGTHS = torch.tensor([3, 2, 1, 3] * 50)
QUIET = {"progress": False}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def whole(x, lengths):
    """z, and three steps that are observed up to each row's length, at one site."""
    mask = torch.arange(3) < lengths.unsqueeze(-1)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).mask(mask).to_event(1), obs=x)


def steps(x, lengths):
    """The same with a site for each step, in another order than in x."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))[..., 0]
        for t in (1, 0, 2):
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0).mask(t < lengths), obs=x[:, t])


def plates(x, lengths):
    """The same with a plate of steps inside the rows."""
    mask = (torch.arange(3) < lengths.unsqueeze(-1)).T
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))[..., 0]
        with pyro.plate("steps", 3, dim=-2):
            loc = z if z.dim() == 1 else z.unsqueeze(-2)
            pyro.sample("x", dist.Normal(loc, 1.0).mask(mask), obs=x.T)


def guide(x, lengths):
    mask = (torch.arange(3) < lengths.unsqueeze(-1)).to(x)
    precision = 1 + lengths.to(x).unsqueeze(-1)
    with pyro.plate("rows", len(x)):
        loc = (x * mask).sum(-1, keepdim=True) / precision
        pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


def sequences(scale=1.0):
    torch.manual_seed(0)
    x = scale * (torch.randn(len(LENGTHS), 1) + torch.randn(len(LENGTHS), 3))
    x = torch.where(torch.arange(3) < LENGTHS.unsqueeze(-1), x, 7.0)  # padding
    return dataset(x, args={"lengths": LENGTHS})


@pytest.mark.parametrize("model", [whole, steps, plates], ids=lambda model: model.__name__)
def test_marginal_pit_of_several_sites_is_exact(model):
    data = sequences()
    pit = pv.marginal_pit(model, data, num_samples=4_000, **QUIET)
    counted = (torch.arange(3) < LENGTHS.unsqueeze(-1)).numpy()
    assert (np.isnan(pit.values) == ~counted).all()
    exact = dist.Normal(0.0, 2**0.5).cdf(data.x).numpy()
    assert np.abs(pit.values - exact)[counted].max() < 5 * 0.5 / 4_000**0.5 + 1e-3
    assert pit.p_value > 0.001
    assert pv.marginal_pit(model, sequences(2.0), num_samples=500, **QUIET).p_value < 0.001


@pytest.mark.parametrize("model", [whole, steps, plates], ids=lambda model: model.__name__)
def test_predictive_checks_of_several_sites(model):
    check = pv.predictive_check(model, guide, sequences(), num_samples=199, **QUIET)
    assert min(check.joint_p_values().values()) > 0.002
    wide = pv.predictive_check(model, guide, sequences(2.0), num_samples=199, **QUIET)
    assert wide.joint_p_values()["variance"] <= 0.02


def test_entries_that_no_site_observes_have_no_value():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("second", dist.Normal(z, 1.0), obs=x[:, 1])

    x = torch.randn(100, 3) * 2**0.5
    pit = pv.marginal_pit(model, x, num_samples=200, **QUIET)
    assert np.isnan(pit.values).mean(0).tolist() == [1.0, 0.0, 1.0]
    assert pit.p_value > 0.001


def test_conditional_pit_of_several_sites():
    """A site for each entry of x, of which two are one kind and one is another."""

    def table(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))[..., 0]
            for name, entries in (("last", x[:, 2]), ("first", x[:, 0]), ("second", x[:, 1])):
                seen = ~entries.isnan()
                fn = dist.Normal(z, 1.0).mask(seen)
                pyro.sample(name, fn, obs=entries.nan_to_num())

    def of_table(x):
        seen = (~x.isnan()).to(x)
        precision = 1 + seen.sum(-1, keepdim=True)
        with pyro.plate("rows", len(x)):
            loc = (x.nan_to_num() * seen).sum(-1, keepdim=True) / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))

    torch.manual_seed(1)
    x = torch.randn(150, 1) + torch.randn(150, 3)
    pit = pv.conditional_pit(table, of_table, x, num_folds=3, num_particles=1_000, **QUIET)
    others = x.sum(-1, keepdim=True) - x
    exact = dist.Normal(others / 3, (4 / 3) ** 0.5).cdf(x).numpy()
    assert np.abs(pit.values - exact).max() < 0.1
    assert pit.p_value > 0.001


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["causal", "deep_markov", "conditional", "words", "labelled"])
def test_kinds_with_several_observed_sites_or_arguments(name):
    kind = (KINDS | GUIDES)[name]()
    pit = pv.marginal_pit(kind.model, kind.data, num_samples=50, **QUIET)
    assert pit.values.shape == kind.data.x.shape
    check = pv.predictive_check(kind.model, kind.guide, kind.data, num_samples=20, **QUIET)
    assert np.isfinite(list(check.joint_p_values().values())).all()


def test_conditional_pit_of_a_hidden_markov_model_is_refused_in_words():
    """Its steps have one joint density, in which none can be hidden; marginal_pit draws them."""

    def program(x, observe):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            logits = torch.stack([z, -z], -1)[..., None, None, :] * torch.eye(2)[:, :1]
            emission = dist.Categorical(logits=logits)
            if observe:
                hmm = dist.DiscreteHMM(x.new_zeros(2), x.new_zeros(2, 2), emission, duration=4)
                pyro.sample("x", hmm, obs=x)

    x = torch.tensor([[0.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    programs = (lambda x: program(x, True)), (lambda x: program(x, False))
    with pytest.raises(ValueError, match="cannot evaluate a row with hidden entries") as raised:
        pv.conditional_pit(*programs, x, num_folds=2, num_particles=40, progress=False)
    assert "use marginal_pit or predictive_check" in str(raised.value)
    assert "\n" not in str(raised.value)
    pit = pv.marginal_pit(programs[0], x, num_samples=40, progress=False)
    assert pit.values.shape == (3, 4)


def in_items(x):
    with pyro.plate("rows", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("items", 4, dim=-1):
            likelihood = dist.Normal(z, 1.0).mask(~x.isnan())
            pyro.sample("y", likelihood, obs=x.nan_to_num())


def in_parts(x):
    known, x = ~x.isnan(), x.nan_to_num()
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        first = dist.Normal(z[..., None] + x.new_zeros(3), 1.0).mask(known[:, :3])
        pyro.sample("a", first.to_event(1), obs=x[:, :3])
        pyro.sample("b", dist.Normal(z, 1.0).mask(known[:, 3]), obs=x[:, 3])


WITHOUT_X = {
    "a plate": (in_items, -2, r"site 'y' has the 4 values .* plate 'items', .* \.to_event\(1\)"),
    "parts": (in_parts, -1, r"4 values of a row are observed in parts, at 'a' \(3\), 'b' \(1\)"),
}
TASKS = {
    "impute": lambda *each: pv.impute(*each, num_imputations=2, progress=False),
    "plot": plot_reconstructions,
    "columns": lambda *each: pv.odd_columns(*each, each[-1], progress=False),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", WITHOUT_X)
def test_tasks_that_need_x_at_one_site_say_where_it_is(kind, task):
    program, dim, message = WITHOUT_X[kind]

    def by_mean(x):
        with pyro.plate("rows", len(x), dim=dim):
            loc = x.nan_to_num().mean(-1, keepdim=dim == -2)
            pyro.sample("z", dist.Normal(loc, 0.5))

    x = torch.randn(40, 4)
    x[1, 1] = torch.nan if task == "impute" else 0.0
    with pytest.raises(ValueError, match=message) as raised:
        TASKS[task](program, by_mean, pv.Dataset(x))
    assert "\n" not in str(raised.value)
