"""Parameters that a program reads by the position of a row, as e[i] with i from its plate."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.programs.forms.keys import read_by_position

NUM_ROWS = 11
X = torch.linspace(-2.0, 2.0, NUM_ROWS, dtype=torch.float64) ** 3 / 4
EXACT = dist.Normal(0.0, 1.25**0.5).log_prob(X)
SD = 0.2**0.5  # of z given x


@pytest.fixture(autouse=True)
def own_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def data(**options):
    return pv.Dataset(X, dtype=torch.float64, **options)


def model(x):
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("obs", dist.Normal(z, 0.5), obs=x)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


def in_store():
    def guide(x):
        loc = pyro.param("loc", zeros(NUM_ROWS))
        with pyro.plate("n", len(x)) as i:
            pyro.sample("z", dist.Normal(loc[i], SD))

    return guide, lambda: pyro.param("loc").detach()


def made_of_the_rows():
    def guide(x):
        loc = pyro.param("loc", lambda: zeros(len(x)))
        with pyro.plate("n", len(x)) as i:
            pyro.sample("z", dist.Normal(loc[i], SD))

    return guide, lambda: pyro.param("loc").detach()


def constrained():
    def guide(x):
        loc = pyro.param("loc", zeros(NUM_ROWS), constraint=dist.constraints.interval(-4.0, 4.0))
        with pyro.plate("n", len(x), None) as i:
            pyro.sample("z", dist.Normal(loc[i], SD))

    return guide, lambda: pyro.param("loc").detach()


def sliced():
    def guide(x):
        loc = pyro.param("loc", zeros(NUM_ROWS))
        with pyro.plate("n", len(x)):
            pyro.sample("z", dist.Normal(loc[: len(x)], SD))

    return guide, lambda: pyro.param("loc").detach()


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(NUM_ROWS, 1, dtype=torch.float64)
        self.rows.weight.data.zero_()

    def forward(self, x):
        with pyro.plate("n", len(x)) as i:
            pyro.sample("z", dist.Normal(self.rows(i).squeeze(-1), SD))


def embedded():
    guide = Embedded()
    return guide, lambda: guide.rows.weight.detach().squeeze(-1)


@pytest.mark.parametrize("size", [4, 11])
@pytest.mark.parametrize("way", [in_store, made_of_the_rows, constrained, sliced, embedded])
def test_each_row_trains_its_own_entry(way, size):
    """The score of q left out, the gradient is exact: descent ends at E[z | x] = 0.8 x."""
    guide, locations = way()
    objective = objectives.TraceELBO(gradient=objectives.StickingTheLanding())
    training = pv.Training(
        num_epochs=60,
        batch_size=size,
        optimizer=lambda p: (
            torch.optim.Rprop(p, lr=0.1) if size == 11 else torch.optim.Adam(p, 0.1)
        ),
        progress=False,
    )
    pv.fit(model, guide, data(), objective=objective, training=training)
    torch.testing.assert_close(locations(), 0.8 * X, atol=0.05, rtol=0)
    found = pv.log_evidence(model, guide, data(), num_particles=100, progress=False)
    assert abs(found.log_evidence - EXACT.numpy()).max() < 0.02
    with pytest.raises(ValueError, match="row 0 of x is not among the 11 rows for which the guide"):
        pv.calibration(model, guide, data(), num_data=20, progress=False)


def by_number(x, number):
    """Rows that are given their numbers are found wherever they are."""
    loc = pyro.param("loc", zeros(NUM_ROWS))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(loc[number], SD))


def shared(x):
    """As many parameters as rows, of all rows."""
    weights = pyro.param("weights", torch.ones(NUM_ROWS, dtype=torch.float64))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(weights.sum() * x, SD))


def words(x):
    """As many words as rows."""
    table = pyro.param("table", zeros(NUM_ROWS, 2))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(table[(x.abs() * 3).long()].sum(-1), SD))


@pytest.mark.parametrize("guide", [by_number, shared, words])
def test_other_parameters_of_as_many_entries_are_left_alone(guide):
    rows = (X, torch.arange(NUM_ROWS)) if guide is by_number else (X,)
    assert read_by_position(guide, rows) is None


def effects(x):
    """A model with an effect of each row."""
    effect = pyro.param("effect", zeros(NUM_ROWS))
    with pyro.plate("n", len(x)) as i:
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("obs", dist.Normal(z + effect[i], 0.5), obs=x)


def by_x(x):
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.5))


@pytest.mark.parametrize("size", [3, 10])
def test_a_model_takes_all_rows_at_once(size):
    training = pv.Training(num_epochs=1, batch_size=size, progress=False)
    message = rf"parameter 'effect' of 11 entries .* all 11 rows .* given {size}: set batch_size=11"
    with pytest.raises(ValueError, match=message) as raised:
        pv.fit(effects, by_x, data(), training=training)
    assert "\n" not in str(raised.value)
    found = pv.log_evidence(effects, by_x, data(), num_particles=400, progress=False)
    assert (abs(found.log_evidence - EXACT.numpy()) <= 5 * found.mc_se + 1e-6).all()


@pytest.mark.parametrize("programs", [(model, in_store()[0]), (effects, by_x)])
def test_other_rows_are_told(programs):
    with pytest.warns(UserWarning, match="has 11 entries, read by the position .* 5 rows"):
        pv.from_pyro(*programs, data()[3:8])
