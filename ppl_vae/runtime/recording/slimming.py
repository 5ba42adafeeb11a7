"""Recorded graphs with fewer and cheaper operations, and the same numbers to the bit.

A graph is run by Python, one call for each operation, and most operations of a step are on few
numbers: what counts is how many there are, and what a call costs. torch's own functions take half
of the time of `torch.ops`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

from ppl_vae.runtime.recording.private import Operation, arguments_of

aten = torch.ops.aten

COPIES = (aten.detach.default, aten.lift_fresh_copy.default)
SAME_IF_SAME_SHAPE = (aten.expand.default, aten.view.default)
# By the overload that is recorded, those whose function of the same name takes the same arguments.
NATIVE = {
    "Tensor": "add div mul sub",
    "Tensor_Scalar": "pow",
    "default": "abs addmm cat clamp empty_like exp expm1 isnan log log1p logsumexp mm neg ones "
    "reciprocal sqrt squeeze stack t unsqueeze zeros zeros_like",
    "dim": "squeeze",
    "dim_IntList": "sum",
    "int": "select",
    "memory_format": "empty",
    "self": "where",
}
MADE = {  # new tensors, by the operations that read their shape from another one
    getattr(aten, like).default: getattr(getattr(aten, name), overload)
    for name, overload in (("zeros", "default"), ("ones", "default"), ("empty", "memory_format"))
    for like in (f"{name}_like", f"new_{name}")
}
METHODS = {aten.expand.default: torch.Tensor.expand, aten.view.default: torch.Tensor.view}


def slim(graph: Graph) -> None:
    """Leave out copies, what is computed twice and what is not used; call torch's own functions.

    What shares memory with a tensor that an operation writes to, and random draws, stay as they
    are.

    Example:
        >>> from ppl_vae.runtime.recording import recorded
        >>> twice = recorded(lambda x: x.exp() + x.exp(), torch.ones(2))
        >>> [node.target.__name__ for node in twice.graph.nodes if node.op == 'call_function']
        ['exp', 'add']
    """
    for node in graph.nodes:
        _forget_values(node)
    written = _written(graph)
    known: dict[tuple[Any, ...], Node] = {}
    for node in graph.nodes:
        if not _is_pure(node, written):
            continue
        same = node.args[0] if _is_copy(node) else known.setdefault(_key(node), node)
        if same is not node and not _is_returned(node):
            node.replace_all_uses_with(same)
    graph.eliminate_dead_code(lambda node: node.is_impure() or is_random(node))
    functions = native()
    for node in graph.nodes:
        node.target = functions.get(node.target, node.target)


def native() -> dict[Any, Callable[..., Any]]:
    """torch's own functions by the operations of a graph."""
    found: dict[Any, Any] = {
        getattr(getattr(aten, name), overload): getattr(torch, name)
        for overload, names in NATIVE.items()
        for name in names.split()
    }
    return found | METHODS


def _forget_values(node: Node) -> None:
    """Make a new tensor of the shape of another one without the other one."""
    made = MADE.get(node.target)
    value = node.meta.get("val")
    if made is not None and value is not None and value.is_contiguous():
        node.target = made
        node.args = (list(value.shape),)
        node.kwargs = {"dtype": value.dtype, "device": value.device}


def _key(node: Node) -> tuple[Any, ...]:
    """What the operation computes: as text, in which 1, 1.0 and True differ."""
    return node.target, repr(node.args), repr(node.kwargs)


def _is_pure(node: Node, written: set[Node]) -> bool:
    """Whether it is a function of tensors that nothing writes to."""
    is_operation = node.op == "call_function" and isinstance(node.target, Operation)
    if not is_operation or is_random(node) or node.is_impure():
        return False
    return node not in written and not written.intersection(node.all_input_nodes)


def _is_copy(node: Node) -> bool:
    """Whether its result is its input."""
    if node.target in COPIES:
        return True
    if node.target not in SAME_IF_SAME_SHAPE:
        return False
    mine, theirs = (each.meta.get("val") for each in (node, node.all_input_nodes[0]))
    shapes = [(val.shape, val.stride()) for val in (mine, theirs) if val is not None]
    return len(shapes) == 2 and shapes[0] == shapes[1]


def is_random(node: Node) -> bool:
    """Whether an operation draws from the random stream."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_returned(node: Node) -> bool:
    return any(user.op == "output" for user in node.users)


def _written(graph: Graph) -> set[Node]:
    """The nodes that share memory with one that an operation writes to."""
    shared: dict[Node, set[Node]] = defaultdict(set)
    found: set[Node] = set()
    for node in graph.nodes:
        for argument, is_written in _aliases(node):
            shared[node].add(argument)
            shared[argument].add(node)
            if is_written:
                found |= {node, argument}
    ahead = list(found)
    while ahead:
        new = shared[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def _aliases(node: Node) -> Iterator[tuple[Node, bool]]:
    """The arguments whose memory an operation shares, and whether it writes to it."""
    if not isinstance(node.target, Operation):
        yield from ((argument, False) for argument in node.all_input_nodes)
        return
    schema = arguments_of(node.target)
    given = [*zip(schema, node.args, strict=False)]
    given += [(each, node.kwargs[each.name]) for each in schema if each.name in node.kwargs]
    for described, value in given:
        if described.alias_info is not None and isinstance(value, Node):
            yield value, described.alias_info.is_write
