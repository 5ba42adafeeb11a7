"""Random draws of a graph that nothing uses: the random stream moves on for them all the same."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node

from ppl_vae.runtime.recording.slimming import is_random


def unused_draws(graph: Graph) -> list[Node]:
    """The random operations of a slim graph whose values nothing uses.

    Example:
        >>> import torch
        >>> from ppl_vae.runtime.recording import recorded
        >>> graph = recorded(lambda x: (torch.rand(2), x + torch.rand(2))[1], torch.ones(2)).graph
        >>> unused_draws(graph)
        [rand]
    """
    return [node for node in graph.nodes if is_random(node) and not node.users]


def with_values(graph: GraphModule, nodes: Sequence[Node], *inputs: Any) -> list[Any]:
    """The results of a graph, and after them the values of some of its nodes."""
    values = []

    class Keeping(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if n in nodes:
                values.append(value)
            return value

    found = Keeping(graph).run(*inputs)
    return [*([found] if isinstance(found, Tensor) else found), *values]


def without_values(run: Callable[..., Any], num_values: int, *inputs: Any) -> Any:
    """The results alone of a graph of one result, or of several."""
    found = run(*inputs)[:-num_values]
    return found[0] if len(found) == 1 else found
