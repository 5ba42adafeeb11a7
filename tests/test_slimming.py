"""Recorded graphs without what is computed twice: the same numbers to the bit, and nothing that is
written to or drawn is shared."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.runtime.recording import compiled, recorded
from ppl_vae.runtime.recording.slimming import native


def repeated(x):
    """Equal terms, copies, and numbers that differ by type alone."""
    one = torch.tensor([1.0, 2.0])
    return x.exp() * one + x.exp().detach() * one, x + 1, x + 1.0, x.expand(2).view(2), x.detach()


def written_to(x):
    """Equal operations before and after their argument is written to, directly and by a view."""
    a, b = torch.zeros(2), torch.zeros(2)
    before = a.exp()
    a.view(2, 1)[0].add_(x[0])
    constant = torch.tensor([1.0, 2.0])
    constant.mul_(x)
    return before, a.exp(), b, constant, torch.tensor([1.0, 2.0]).exp()


def drawn(x):
    """Draws that are not used and draws that look alike."""
    torch.rand_like(x)
    mask = torch.empty_like(x).bernoulli_(0.5)
    other = torch.empty_like(x).bernoulli_(0.5)
    return mask + torch.randn_like(x), other + torch.randn_like(x)


def unused(x):
    """Draws that nothing uses, or only for their shape, between draws that are used."""
    torch.multinomial(x.abs(), 1)
    spare = torch.empty_like(x).normal_()
    first = torch.empty_like(x).normal_()
    shapes = torch.zeros_like(spare.exp()) + spare.new_ones(x.shape)
    return first * x + shapes, torch.rand_like(x) + torch.empty_like(spare).bernoulli_(0.5)


@pytest.mark.parametrize("function", [repeated, written_to, drawn, unused])
def test_a_slim_graph_has_the_numbers_of_the_whole_one(function):
    x = torch.tensor([0.3, 0.7])
    slim = recorded(function, x)
    whole = make_fx(function)(x)
    for seed in range(5):
        other = x.roll(1) + seed
        torch.manual_seed(seed)
        expected = whole(other)
        torch.manual_seed(seed)
        for one, two in zip(slim(other), expected, strict=True):
            assert torch.equal(one, two)


def test_what_is_computed_twice_is_computed_once():
    nodes = [node.name for node in recorded(repeated, torch.ones(2)).graph.nodes]
    assert nodes.count("exp") == 1
    assert "exp_1" not in nodes
    assert "add_2" in nodes  # x + 1 and x + 1.0 are of other types where x is whole


def test_what_gives_its_shape_alone_is_not_computed():
    nodes = [node.name for node in recorded(unused, torch.ones(2)).graph.nodes]
    assert "exp" not in nodes
    assert [name for name in nodes if "normal" in name] == ["normal_", "normal__1"]  # the stream


def test_a_compiled_graph_draws_what_it_does_not_use(compiler):
    x = torch.tensor([0.3, 0.7])
    graph = recorded(unused, x)
    run = compiled(graph, x)
    for seed in range(5):
        found = []
        for each in (graph, run):
            torch.manual_seed(seed)
            found.append([*each(x), torch.rand(2)])  # and leaves the stream where it was
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two)


def test_torch_s_own_functions_take_the_arguments_of_the_operations():
    given = {
        "addmm": (torch.ones(2), torch.ones(2, 2), torch.ones(2, 2)),
        "cat": ([torch.ones(2), torch.ones(2)], -1),
        "clamp": (torch.ones(2), 0, 0.5),
        "expand": (torch.ones(1), [2]),
        "logsumexp": (torch.ones(2, 2), [0], True),
        "mm": (torch.ones(2, 2), torch.ones(2, 2)),
        "pow": (torch.ones(2), 2),
        "select": (torch.ones(2, 2), 0, 1),
        "empty": ([2, 3],),
        "ones": ([2, 3],),
        "stack": ([torch.ones(2)], 0),
        "sum": (torch.ones(2, 2), [0], True),
        "t": (torch.ones(2, 2),),
        "unsqueeze": (torch.ones(2), 0),
        "view": (torch.ones(2, 2), [4]),
        "zeros": ([2, 3],),
        "where": (torch.ones(2) > 0, torch.ones(2), torch.ones(2)),
    }
    two = {"add", "div", "mul", "sub"}
    for operation, function in native().items():
        name = operation._schema.name.removeprefix("aten::")
        arguments = given.get(name, (torch.full((2,), 0.5),) * (1 + (name in two)))
        if "squeeze.dim" in str(operation):
            arguments = (torch.ones(2, 1), 1)
        one, other = operation(*arguments), function(*arguments)
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert name in ("empty", "empty_like") or torch.equal(one, other)
