"""Programs recorded as graphs of tensor operations, compiled and checked."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppl_vae.runtime.recording.draws import unused_draws, with_values, without_values
from ppl_vae.runtime.recording.outside import RecordingError, Unread
from ppl_vae.runtime.recording.private import through_compiler, traced
from ppl_vae.runtime.recording.products import replacements
from ppl_vae.runtime.recording.slimming import slim
from ppl_vae.runtime.seeding import seeded

__all__ = ["Graph", "check_agreement", "compiled", "first_line", "recorded"]

Graph = Callable[..., Any]

TOLERANCE = 1e-3


def recorded(function: Graph, *inputs: Any) -> torch.fx.GraphModule:
    """A function of tensors as the graph of operations that it performs on inputs of these shapes.

    Random draws are operations of the graph, in the same order on the same stream. Everything else
    that the function reads is frozen: tensors by reference, Python values as they are.

    Args:
        function: Of nested lists, tuples and dicts of tensors, to the same.
        inputs: An example of its inputs; the global random stream is left as it was.

    Raises:
        RecordingError: the function looks at a tensor's value to decide what to do, or fails.

    References:
        Reed et al. (2022), torch.fx: practical program capture and transformation,
        arXiv:2112.08429.

    Example:
        >>> double = recorded(lambda x: x + x, torch.ones(2))
        >>> double(torch.arange(2.0))
        tensor([0., 2.])
    """
    try:
        with seeded(0), Unread():
            graph = traced(function, inputs, replacements())
    except Exception as error:  # of many kinds; the unrecorded function will raise its own
        reason = first_line(error)
        if "value out of a tracing tensor" in reason or "data-dependent" in reason:
            reason = "its control flow depends on the data"
        raise RecordingError(reason) from error
    if any(map(_has_free_shape, graph.graph.nodes)):
        raise RecordingError("the shape of an intermediate result depends on the data")
    slim(graph.graph)
    graph.recompile()
    return graph


def compiled(graph: torch.fx.GraphModule, *inputs: Any) -> Graph:
    """The graph through torch's compiler, with the random stream of eager mode.

    Takes seconds; torch keeps the result on disk. The compiler changes its graph, so it works on a
    copy, which shares the tensors. Draws that nothing uses are results of the copy: the compiler
    would leave them out, and so shift the stream of the others. Raises RecordingError without a C++
    compiler or room on disk.
    Ansel et al. (2024), PyTorch 2: faster machine learning through dynamic bytecode transformation
    and graph compilation, doi:10.1145/3620665.3640366.

    Example:
        >>> graph = recorded(lambda x: x + x, torch.ones(2))
        >>> compiled(graph, torch.ones(2))(torch.ones(2))  # doctest: +SKIP
        tensor([2., 2.])
    """
    unused = unused_draws(graph.graph)
    try:
        with seeded(0), _quiet(), torch.no_grad():
            if unused:
                again = traced(partial(with_values, graph, unused), inputs, {})
            else:
                again = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
            run = through_compiler(again, list(inputs))
            run(*inputs)
    except Exception as error:
        raise RecordingError(first_line(error)) from error
    return partial(without_values, run, len(unused)) if unused else run


def check_agreement(found: Tensor | None, expected: Tensor | None, name: str) -> None:
    """Raise RecordingError unless two results agree within `TOLERANCE` of their norm.

    Example:
        >>> check_agreement(torch.ones(2), torch.ones(2), "loss")
    """
    if found is None or expected is None:
        agrees = found is expected
    else:
        slack = TOLERANCE * expected.norm() + torch.finfo(expected.dtype).eps
        agrees = bool((found - expected).norm() <= slack)
    if not agrees:
        raise RecordingError(
            f"the graph has another {name} on other rows: something besides its inputs changes"
        )


def _has_free_shape(node: torch.fx.Node) -> bool:
    """Whether an operation's output has a shape that the inputs' values decide."""
    tags = getattr(node.target, "tags", ())
    if node.target is torch.ops.aten.index.Tensor:  # by positions, or by a mask
        indices: Any = node.args[1]
        return any(index is not None and index.meta["val"].dtype == torch.bool for index in indices)
    return torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the compiler's remarks on other hardware."""
    chatter = logging.getLogger("torch.utils.cpp_extension")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.setLevel(level)


def first_line(error: Exception) -> str:
    """The first line of an error's message, without torch's frame around it.

    Example:
        >>> first_line(ValueError("too small" + chr(10) + "and more"))
        'too small'
    """
    lines = (line.strip() for line in str(error).splitlines())
    told = (line for line in lines if line and not line.endswith("raised:"))
    return next(told, type(error).__name__)
