"""A log-density with its gradient: by Pyro's handlers, or by a graph recorded from them."""

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ppl_vae.programs.modules import modules_of
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.recording import (
    Graph,
    first_line,
    recorded,
    require_agreement,
    unchanged,
)

__all__ = ["LogDensity", "RecordedDensity"]

logger = logging.getLogger(__name__)

LogDensity = Callable[[Tensor], Tensor]  # (C, B, D) -> (C, B)

FEWEST_EVALUATIONS = 300  # for which recording, worth tens of evaluations, pays


class RecordedDensity:
    """A log-density whose gradient is a graph for positions of one shape.

    Args:
        log_density: (C, B, D) -> (C, B).
        graph: Its values and gradients at positions of that shape.
        shape: The shape.

    Example:
        >>> normal = lambda u: -0.5 * u.square().sum(-1)
        >>> graph = lambda u: (normal(u), -u)
        >>> RecordedDensity(normal, graph, torch.Size([1, 1, 1]))(torch.ones(1, 1, 1)).item()
        -0.5
    """

    def __init__(self, log_density: LogDensity, graph: Graph, shape: torch.Size) -> None:
        self.log_density = log_density
        self.graph = graph
        self.shape = shape

    def __call__(self, position: Tensor) -> Tensor:
        """The density, (C, B)."""
        return self.log_density(position)


def with_slope(log_density: LogDensity, position: Tensor) -> tuple[Tensor, Tensor]:
    """The density, (C, B), and its gradient, (C, B, D)."""
    if isinstance(log_density, RecordedDensity) and position.shape == log_density.shape:
        density, slope = log_density.graph(position.contiguous())
        return density, slope
    return _by_handlers(log_density, position)


def _by_handlers(
    log_density: Callable[..., Tensor], position: Tensor, *others: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = position.detach().requires_grad_()
        density = log_density(leaf, *others)
        (slope,) = torch.autograd.grad(density.sum(), leaf)
    return density.detach(), slope


def recorded_density(
    log_density: LogDensity, model: Program, start: Tensor, num_evaluations: int
) -> LogDensity:
    """The density as a graph, if it is evaluated often enough and a graph gives the same."""
    graph = recorded_slope(log_density, (model,), num_evaluations, start)
    return log_density if graph is None else RecordedDensity(log_density, graph, start.shape)


def recorded_slope(
    log_density: Callable[..., Tensor],
    programs: tuple[Program, ...],
    num_evaluations: int,
    start: Tensor,
    *others: Tensor,
) -> Graph | None:
    """A graph from a position, and whatever else the density takes, to the density and its
    gradient; None if it is evaluated too seldom, or a graph gives other values.
    """
    if num_evaluations < FEWEST_EVALUATIONS:
        return None
    begin = time.perf_counter()
    by_handlers = partial(_by_handlers, log_density)
    start = start.contiguous()  # as every position that the graph is given
    moved = start + 0.01 * start.flip(0), *(0.5 * other for other in others)
    # Whatever goes wrong: if it is the program's fault, the handlers will raise it again.
    try:
        with unchanged(*modules_of(*programs)):
            graph = recorded(by_handlers, start, *others)
            require_agreement(graph, by_handlers, moved, "log p(x, z)")
    except Exception as error:
        logger.info("log p(x, z) not recorded: %s", first_line(error))
        return None
    logger.info("log p(x, z) recorded (%.1f s)", time.perf_counter() - begin)
    return graph
