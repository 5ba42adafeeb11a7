"""Graphs in the place of their functions: whether they agree, and one for each batch shape."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.runtime.recording.graphs import Graph, check_agreement, first_line, recorded
from ppl_vae.runtime.recording.outside import unchanged
from ppl_vae.runtime.seeding import seeded

__all__ = ["RecordedFunction", "require_agreement"]

logger = logging.getLogger(__name__)

Arguments = tuple[Tensor, ...]


class RecordedFunction:
    """A function of a batch to a tensor, without gradients, by a graph for each batch shape.

    Tensors that it reads besides its arguments, weights among them, are read where they are at each
    call. A graph is used if it agrees with the function twice: on other rows when it is recorded,
    and at its next call, by when a training has changed the weights. Else the function itself is
    called from then on.

    Args:
        function: Of tensors, to a tensor; it draws from torch's stream only.
        modules: What it may not change.
        name: Of the result, for the log.

    Example:
        >>> weight = torch.ones(2)
        >>> double = RecordedFunction(lambda x: 2 * weight * x, [], "product")
        >>> double(torch.ones(2))
        tensor([2., 2.])
        >>> _ = weight.mul_(3)
        >>> double(torch.ones(2))
        tensor([6., 6.])
    """

    def __init__(
        self, function: Callable[..., Tensor], modules: list[nn.Module], name: str
    ) -> None:
        self.function = function
        self.modules = modules
        self.name = name
        self.graphs: dict[Any, Graph | None] = {}
        self.confirmed: set[Any] = set()

    def __call__(self, *args: Tensor) -> Tensor:
        """The function's result."""
        args = tuple(arg.contiguous() for arg in args)
        kind = kind_of(args)
        if kind not in self.graphs:
            self.graphs[kind] = self._checked(None, args)
        elif kind not in self.confirmed:
            if (graph := self.graphs[kind]) is not None:
                self.graphs[kind] = self._checked(graph, args)
            self.confirmed.add(kind)
        graph = self.graphs[kind]
        if graph is None:
            return self.function(*args)
        with torch.no_grad():
            return graph(*args)

    def _checked(self, graph: Graph | None, args: Arguments) -> Graph | None:
        """The graph, by default a new one, if it agrees with the function on other rows."""
        others = tuple(arg.roll(1, 0) for arg in args)
        # Whatever it was: if it is the function's own, the function will raise it again.
        try:
            with unchanged(*self.modules):
                graph = graph or recorded(self.function, *args)
                require_agreement(graph, self.function, others, self.name)
        except Exception as error:
            logger.debug("%s not recorded: %s", self.name, first_line(error))
            return None
        return graph


def require_agreement(graph: Graph, function: Graph, inputs: tuple[Any, ...], name: str) -> None:
    """Raise RecordingError unless a graph gives what its function does, with the same draws.

    Args:
        graph: The graph.
        function: The function that was recorded; to a tensor, or to several.
        inputs: Other inputs than those of the recording.
        name: Of the result, for the error.

    Example:
        >>> graph = recorded(lambda x: x + torch.rand(2), torch.ones(2))
        >>> require_agreement(graph, lambda x: x + torch.rand(2), (torch.zeros(2),), "sum")
    """
    with seeded(1):  # the graph was recorded with other draws
        found = graph(*inputs)
    with seeded(1):
        expected = function(*inputs)
    if isinstance(expected, Tensor):
        found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
        check_agreement(one, other, name)


def kind_of(args: Arguments) -> tuple[Any, ...]:
    """What one graph serves: shapes, types and devices.

    Example:
        >>> kind_of((torch.ones(2),))
        ((torch.Size([2]), torch.float32, device(type='cpu')),)
    """
    return tuple((arg.shape, arg.dtype, arg.device) for arg in args)
