"""Every use that recording makes of torch beyond its public interface.

Another version of torch may lack some of it, or call it otherwise. Then recording and compiling
raise RecordingError, so that Pyro's handlers run, and products of matrices stay with torch.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ppl_vae.runtime.recording.outside import RecordingError

Operation = type(torch.ops.aten.mm.default)  # of a graph; the class has no public name


def traced(
    function: Callable[..., Any], inputs: tuple[Any, ...], replacements: dict[Any, Any]
) -> torch.fx.GraphModule:
    """The operations that a function performs on these inputs, some of them replaced."""
    tracer = private("torch.fx.experimental.proxy_tensor")
    with shapes_in_one_mode():
        # A lambda, since make_fx does not take bound methods.
        return tracer.make_fx(lambda *tensors: function(*tensors), replacements)(*inputs)


def through_compiler(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """The graph through torch's compiler, with the random stream of eager mode."""
    compiler = private("torch._inductor")
    symbolic = private("torch.fx.experimental.symbolic_shapes")
    # torch keeps a compiled graph on disk only if there is such an environment, though none of
    # these shapes is a symbol.
    with shapes_in_one_mode(shape_env=symbolic.ShapeEnv(), static_shapes=True):
        return compiler.compile(graph, inputs, options={"fallback_random": True})


def shapes_in_one_mode(**settings: Any) -> AbstractContextManager[Any]:
    """One mode for the shapes of all results; torch makes one for each, which takes longer."""
    guards = private("torch._guards")
    subclasses = private("torch._subclasses")
    return guards.tracing(guards.TracingContext(subclasses.FakeTensorMode(**settings)))


def product_by_onednn(one: Tensor, other: Tensor) -> Tensor:
    """The product of two matrices by oneDNN; AttributeError or RuntimeError where it is absent."""
    return torch.ops.mkldnn._linear_pointwise(one, other.t(), None, "none", [], "")


def arguments_of(operation: Any) -> list[Any]:
    """Names of an operation's arguments, and which of them share memory with its result."""
    return operation._schema.arguments


def private(name: str) -> Any:
    """A module of torch that is not public."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RecordingError(f"torch {torch.__version__} has no {name}") from error
