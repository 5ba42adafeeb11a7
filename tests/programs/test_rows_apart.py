"""Rows that depend on each other are refused, and what is no log p(x) is named."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from kinds import KINDS
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

import ppl_vae as pv

torch.manual_seed(0)
X = 1.1 * torch.randn(8, dtype=torch.float64) + 0.3
EXACT = dist.Normal(0.0, 1.25**0.5).log_prob(X)
QUIET = {"num_particles": 400, "progress": False}


def data():
    return pv.Dataset(X, dtype=torch.float64)


def model(x, loc=lambda x, z: z, scale=lambda x: 0.5, observed=lambda x: x):
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("obs", dist.Normal(loc(x, z), scale(x)), obs=observed(x))


def guide(x, shift=lambda x: 0.0):
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x + shift(x), 0.45))


def previous(z):
    return torch.cat([torch.zeros_like(z[..., :1]), z[..., :-1]], -1)


DEPENDENT = {
    "mean of x": {"loc": lambda x, z: z + 0.9 * x.mean()},
    "standardised x": {"observed": lambda x: (x - x.mean()) / x.std()},
    "mean of z": {"loc": lambda x, z: z - z.mean(-1, keepdim=True)},
    "number of rows": {"scale": lambda x: 0.5 * (len(x) / 30) ** 0.5},
    "the previous z": {"loc": lambda x, z: z + 0.5 * previous(z)},
    "the next x": {"loc": lambda x, z: z + 0.5 * torch.roll(x, -1)},
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_model_whose_rows_depend_on_each_other_is_refused(name):
    def dependent(x):
        return model(x, **DEPENDENT[name])

    with pytest.raises(ValueError, match="model's log-density of a row at site 'obs' depends on"):
        pv.log_evidence(dependent, guide, data(), **QUIET)
    with pytest.raises(ValueError, match="depends on the other rows"):
        pv.log_weights(dependent, guide, data(), num_particles=5)


def test_a_guide_whose_rows_depend_on_each_other_is_refused():
    def dependent(x):
        return guide(x, shift=lambda x: 0.3 * x.mean())

    with pytest.raises(ValueError, match="guide's log-density of a row at site 'z' depends on"):
        pv.refine(model, dependent, data(), progress=False)


def test_a_statistic_of_all_rows_as_an_argument_is_taken():
    def given(x, centre):
        return model(x, loc=lambda x, z: z + centre)

    rows = pv.Dataset(X, dtype=torch.float64, args={"centre": 0.9})
    found = pv.log_evidence(given, guide, rows, **QUIET)
    assert (found.mc_se < 10).all()


def test_a_model_with_parameters_for_each_row_takes_all_at_once(caplog):
    def by_row(x):
        effects = pyro.param("effects", torch.zeros(len(x), dtype=x.dtype))
        return model(x, loc=lambda x, z: z + effects)

    with caplog.at_level("INFO"):
        found = pv.log_evidence(by_row, guide, data(), **QUIET)
    pyro.clear_param_store()
    assert (abs(found.log_evidence - EXACT.numpy()) <= 5 * found.mc_se + 1e-6).all()
    assert "model takes 6 rows only together with others" in caplog.text


@pytest.mark.parametrize("task", ["log_evidence", "fit"])
@pytest.mark.parametrize("as_module", [False, True])
def test_a_parameter_for_each_row_that_does_not_fit_a_block_is_named(task, as_module):
    """The site, the shapes and the remedy in one line; with the remedy the result is exact."""
    size = len(X)

    class Effects(PyroModule):
        def __init__(self):
            super().__init__()
            self.effects = torch.nn.Parameter(torch.zeros(size, dtype=X.dtype))

        def forward(self, x):
            return model(x, loc=lambda x, z: z + self.effects)

    def by_row(x):
        effects = pyro.param("effects", lambda: torch.zeros(size, dtype=X.dtype))
        return model(x, loc=lambda x, z: z + effects)

    program = Effects() if as_module else by_row
    message = (
        r"parameter 'effects' of shape \(8,\) does not fit 3 rows after site 'z': .* chunk_size"
    )
    options = {"training": pv.Training(num_epochs=1, batch_size=3)}
    if task == "log_evidence":
        options = {"chunk_size": 3 * 400, **QUIET}
    with pytest.raises(ValueError, match=message) as raised:
        getattr(pv, task)(program, guide, data(), **options)
    assert "\n" not in str(raised.value)
    found = pv.log_evidence(program, guide, data(), chunk_size=8 * 400, **QUIET)
    pyro.clear_param_store()
    assert (abs(found.log_evidence - EXACT.numpy()) <= 5 * found.mc_se + 1e-6).all()


def test_an_automatic_guide_names_new_rows():
    automatic = AutoNormal(model)
    automatic(X)
    pv.log_evidence(model, automatic, data(), **QUIET)
    trained, _ = pv.from_pyro(model, automatic, data())
    _, known = pv.from_pyro(model, automatic, data())
    new = pv.Dataset(torch.cat([X[:2], X[:1] + 1]), dtype=torch.float64)
    message = "row 2 of x is not among the 8 rows for which the guide has parameters: give the rows"
    with pytest.raises(ValueError, match=message):
        pv.log_evidence(trained, known, new, **QUIET)


@pytest.mark.parametrize("name", ["labelled", "causal"])
def test_kinds_whose_guide_observes_are_taken_with_a_warning(name):
    kind = KINDS[name]()
    with pytest.warns(UserWarning, match="the guide observes"):
        pv.log_evidence(kind.model, kind.guide, kind.data, num_particles=300, progress=False)


def test_what_the_guide_observes_is_named():
    def observing(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(0.8 * x, 0.45))
            pyro.sample("aux", dist.Normal(z, 0.5), obs=x)

    with pytest.warns(UserWarning, match="guide observes 'aux'.* no estimate and no bound"):
        pv.log_evidence(model, observing, data(), **QUIET)
    hidden = poutine.block(observing, hide=["aux"])
    found = pv.log_evidence(model, hidden, data(), **QUIET)
    assert (abs(found.log_evidence - EXACT.numpy()) <= 5 * found.mc_se + 1e-6).all()


@pytest.mark.parametrize("function", [lambda x: 2 * x, lambda x: x.abs().log()])
@pytest.mark.parametrize("task", [pv.log_evidence, pv.to_datatree])
def test_a_function_of_x_is_named(function, task):
    def transformed(x):
        return model(x, observed=function)

    options = QUIET if task is pv.log_evidence else {"num_samples": 400, "progress": False}
    with pytest.warns(UserWarning, match="'obs' observes .* where x is .* without the Jacobian"):
        task(transformed, lambda x: guide(function(x)), data(), **options)


class Dropping(torch.nn.Module):
    """A decoder whose dropout does not know of evaluation mode."""

    def __init__(self, share):
        super().__init__()
        self.linear = torch.nn.Linear(2, 8)
        self.share = share

    def forward(self, z):
        return torch.nn.functional.dropout(self.linear(z), self.share)


@pytest.mark.parametrize("is_random", [True, False])
def test_a_random_density_is_named(is_random):
    """Without it there is no warning, which would be an error."""

    def noisy(x):
        return model(x, loc=lambda x, z: z + is_random * torch.randn(()))

    torch.manual_seed(0)
    decoder = Dropping(0.5 if is_random else 0.0)
    pair = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), decoder)
    encoder = pv.Guide(pv.posteriors.MeanFieldNormal(2), 3)
    calls = {
        "obs": lambda: pv.log_evidence(noisy, guide, data(), **QUIET),
        "x": lambda: pv.log_evidence(pair, encoder, torch.randn(8, 3), **QUIET),
    }
    for site, call in calls.items():
        said = f"log-density at site '{site}' is itself random at given latents"
        with pytest.warns(UserWarning, match=said) if is_random else nullcontext():
            call()


def test_equal_rows_of_an_automatic_guide_are_taken():
    """Their parameters are taken in turn, which is no dependence on other rows."""
    x = X[[0, 0, 0, 1, 1, 2, 2, 3]]
    automatic = AutoNormal(model, init_scale=0.45)
    rows = pv.Dataset(x, dtype=torch.float64)
    automatic(x)
    with torch.no_grad():  # the parameters of equal rows differ
        automatic.locs.z.copy_(0.8 * x + torch.linspace(-0.3, 0.3, 8))
    found = pv.log_evidence(model, automatic, rows, **QUIET)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x)
    assert (abs(found.log_evidence - exact.numpy()) <= 5 * found.mc_se + 1e-6).all()
