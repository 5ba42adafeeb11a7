"""Programs are found out: modules wherever they are held, their modes, their parameters and their
state."""

import functools
import logging
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae import (
    HMC,
    Training,
    calibration,
    elbo_surgery,
    fit,
    from_pyro,
    log_evidence,
    log_weights,
    objectives,
    refine,
    sample_posterior,
    to_datatree,
)
from ppl_vae.evidence import Defensive, ImportanceSampling
from ppl_vae.programs.modules import evaluating, module_of
from ppl_vae.training.state import State


def body(net, x):
    """x ~ N(net(z), 1), z ~ N(0, 1)."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :1], 1.0).to_event(1))


class Object:
    """Holds something, and gives the network out of it."""

    def __init__(self, held, get=lambda held: held):
        self.held, self.get = held, get

    def __call__(self, x):
        body(self.get(self.held), x)

    def run(self, x):
        self(x)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        body(self.net, x)


@dataclass(frozen=True)
class Record:
    net: nn.Module

    def __call__(self, x):
        body(self.net, x)


def class_attribute(net):
    class Program:
        shared = net

        def __call__(self, x):
            body(self.shared, x)

    return Program()


def from_record(net):
    record = Record(net)
    return lambda x: body(record.net, x)


def from_inner_function(net):
    holder = SimpleNamespace(nets={"decoder": net})

    def program(x):
        def decode(z):
            return holder.nets["decoder"](z)

        body(decode, x)

    return program


def keyword_default(net):
    def program(x, *, decoder=net):
        body(decoder, x)

    return program


def wrapped(net):
    plain = Object(net)

    @functools.wraps(body)
    def program(*args):
        return plain(*args)

    return program


HOLDERS = {
    "object": Object,
    "bound method": lambda net: Object(net).run,
    "list": lambda net: Object([net], lambda held: held[0]),
    "tuple in a dict": lambda net: Object({"nets": (net,)}, lambda held: held["nets"][0]),
    "object in an object": lambda net: Object(Slotted(net), lambda held: held.net),
    "slots": Slotted,
    "dataclass": Record,
    "class attribute": class_attribute,
    "partial of an object": lambda net: functools.partial(Object(net)),
    "argument of a partial": lambda net: functools.partial(body, net),
    "object in a partial": lambda net: functools.partial(lambda held, x: held(x), Object(net)),
    "closure over a dataclass": from_record,
    "function in a function": from_inner_function,
    "default of a keyword": keyword_default,
    "wrapper": wrapped,
    "handler": lambda net: pyro.poutine.scale(Object(net), scale=1.0),
}


@pytest.fixture(params=HOLDERS)
def held(request):
    """A network with dropout, and a program that holds it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 50), nn.Dropout(0.9), nn.Linear(50, 3))
    return net, HOLDERS[request.param](net)


def test_evaluation_is_without_dropout(held):
    net, program = held
    x = torch.ones(4, 3)
    log_w = log_weights(program, guide, x, num_particles=5, seed=0)
    assert net.training
    assert torch.equal(
        log_w, log_weights(functools.partial(body, net.eval()), guide, x, num_particles=5, seed=0)
    )


def test_modes_come_back_after_evaluation(held):
    net, program = held
    net[1].training = False
    before = [part.training for part in net.modules()]
    with evaluating(program, guide):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == before


def test_parameters_are_trained_with_dropout_and_their_state_is_kept(held):
    net, program = held
    modes = []
    net.register_forward_hook(lambda module, *_: modes.append(module.training))
    x = torch.ones(8, 3)
    state = State(program, guide, lambda: program(x))
    weights = state.take()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    assert {id(parameter) for parameter in state.parameters} == {
        id(parameter) for parameter in net.parameters()
    }
    modes.clear()
    fit(program, guide, x, training=Training(num_epochs=2, batch_size=4, progress=False))
    assert True in modes, "dropout is on in a gradient step"
    after = list(net.parameters())
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))
    state.put(weights)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_parameters_held_without_a_module_are_found():
    weight = nn.Parameter(torch.zeros(3))
    program = Object(weight, lambda held: lambda z: z + held)
    assert list(module_of(program).parameters()) == [weight]
    fit(
        program,
        guide,
        torch.ones(8, 3),
        training=Training(num_epochs=1, batch_size=4, progress=False),
    )
    assert (weight != 0).all()


def test_long_lists_and_foreign_objects_are_not_searched():
    net = nn.Linear(1, 1)
    assert module_of(Object([net] * 2_000)) is None
    assert module_of(Object(logging.getLogger("any"))) is None
    circle = Object(None)
    circle.held = circle
    assert module_of(circle) is None


def test_nothing_found_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="ppl_vae"):
        log_weights(functools.partial(body, torch.tanh), guide, torch.ones(2, 1))
    assert "no torch module was found behind the model" in caplog.text


def rows_of_their_own(num_rows):
    """A guide with a mean and a log sd for each row."""
    loc = nn.Parameter(torch.zeros(num_rows, 1))
    log_sd = nn.Parameter(torch.zeros(num_rows, 1))

    def by_row(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, log_sd.exp()).to_event(1))

    return by_row, loc, log_sd


def test_full_batches_keep_the_order_of_the_rows():
    x = torch.linspace(-3, 3, 16)[:, None]
    program, loc, log_sd = rows_of_their_own(len(x))
    objective = objectives.TraceELBO(8, gradient=objectives.StickingTheLanding())
    training = Training(num_epochs=400, batch_size=100, learning_rate=0.05, progress=False)
    fit(functools.partial(body, nn.Identity()), program, x, objective=objective, training=training)
    torch.testing.assert_close(
        loc.detach(), x / 2, atol=0.02, rtol=0.0
    )  # z given x ~ N(x / 2, 1 / 2)
    torch.testing.assert_close(
        log_sd.detach(), torch.full_like(x, -0.5 * math.log(2)), atol=0.02, rtol=0.0
    )


def test_parameters_of_each_row_are_found_by_its_values():
    x = torch.linspace(-3, 3, 16)[:, None]
    program, loc, log_sd = rows_of_their_own(len(x))
    loc.data = x / 2
    log_sd.data.fill_(-0.5 * math.log(2))
    model, guide = from_pyro(functools.partial(body, nn.Identity()), program, x)
    rows = x[[9, 3, 5]]
    found = log_weights(model, guide, rows, num_particles=2)
    expected = dist.Normal(0.0, math.sqrt(2)).log_prob(rows[:, 0])
    torch.testing.assert_close(found, expected.expand(2, 3))
    objectives.TraceELBO().differentiable_loss(model, guide, rows).backward()
    assert loc.grad.flatten().nonzero().flatten().tolist() == [3, 5, 9]


def test_parameters_of_each_row_are_for_their_rows():
    program, _, _ = rows_of_their_own(16)
    with pytest.raises(ValueError, match="a guide with parameters for each row|row 0 of x is not"):
        log_evidence(functools.partial(body, nn.Identity()), program, torch.zeros(6, 1))


def by_plate(kind):
    """A model and a guide whose data plate has no size, or without latents, or without
    parameters."""

    def model(x):
        with (
            pyro.plate("data", dim=-1) if kind == "no size" else pyro.plate("data", len(x), dim=-1)
        ):
            if kind != "no latents":
                pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    def by_rows(x):
        if kind != "no latents":
            with (
                pyro.plate("data", dim=-1)
                if kind == "no size"
                else pyro.plate("data", len(x), dim=-1)
            ):
                pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return model, by_rows


USES = {
    "log_evidence": lambda *given: log_evidence(*given, ImportanceSampling(2000)).log_evidence,
    "defensive": lambda *given: (
        log_evidence(*given, ImportanceSampling(2000, proposal=Defensive())).log_evidence
    ),
    "HMC": lambda *given: sample_posterior(*given, sampler=HMC(num_samples=2, num_warmup=2)),
    "refine": lambda *given: refine(*given),
    "to_datatree": lambda *given: (
        to_datatree(*given, num_samples=30, progress=False).importance.log_evidence
    ),
    "fit": lambda *given: fit(*given, training=Training(num_epochs=1, progress=False)),
    "calibration": lambda *given: calibration(*given),
    "surgery": lambda *given: elbo_surgery(*given),
}
SAID = {
    "HMC": "no latent site",
    "refine": "no latent site",
    "calibration": "no latent",
    "surgery": "no latent site",
}
SAID |= {"fit": "neither model nor guide has a trainable parameter"}


@pytest.mark.parametrize("name", ["log_evidence", "defensive", "to_datatree"])
def test_a_data_plate_without_a_size_is_that_of_the_rows(name):
    x = torch.linspace(-1, 1, 5)[:, None]
    found, expected = (USES[name](*by_plate(kind), x) for kind in ("no size", "of a size"))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", USES)
def test_a_model_without_latents_is_exact_or_refused(name):
    model, by_rows = by_plate("no latents")
    x = torch.linspace(-1, 1, 5)[:, None]
    if name in SAID:
        with pytest.raises(ValueError, match=SAID[name]):
            USES[name](model, by_rows, x)
    else:
        np.testing.assert_allclose(
            USES[name](model, by_rows, x), dist.Normal(0.0, 1.0).log_prob(x[:, 0]), rtol=1e-5
        )


def test_a_model_without_latents_is_fitted():
    loc = nn.Parameter(torch.zeros(1))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    training = Training(num_epochs=300, learning_rate=0.05, progress=False)
    fit(model, lambda x: None, torch.tensor([[1.0], [2.0], [4.5]]), training=training)
    assert abs(loc.item() - 2.5) < 0.01  # the mean
