"""Programs are found out: modules wherever they are held, their modes, their parameters and their state."""

import functools
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae import Training, fit, log_weights
from ppl_vae.programs import evaluating, module_of
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
    assert torch.equal(log_w, log_weights(functools.partial(body, net.eval()), guide, x, num_particles=5, seed=0))


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
    assert {id(parameter) for parameter in state.parameters} == {id(parameter) for parameter in net.parameters()}
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
    fit(program, guide, torch.ones(8, 3), training=Training(num_epochs=1, batch_size=4, progress=False))
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
