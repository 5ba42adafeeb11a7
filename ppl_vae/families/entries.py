"""The entries of x under a distribution of whole rows."""

from collections.abc import Iterator
from math import prod
from typing import Any

from torch.distributions import Independent

from ppl_vae.families.densities import Columnwise

__all__ = ["blocks_of", "entries_of"]


def entries_of(distribution: Any) -> tuple[Any, int]:
    """The distribution of single entries, and how many of its batch dims are those of a row.

    Args:
        distribution: A distribution of rows, as `to_event` makes it.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> entries_of(dist.Normal(torch.zeros(5, 3), 1.0).to_event(1))
        (Normal(loc: torch.Size([5, 3]), scale: torch.Size([5, 3])), 1)
    """
    num_dims = 0
    while isinstance(distribution, Independent):
        num_dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, num_dims


def blocks_of(p: Any) -> Iterator[tuple[Any, list[int]]]:
    """The distributions of the entries of x, block by block, and where these are in a row.

    Args:
        p: p(x given z), independent entries.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> p = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> [(type(block).__name__, places) for block, places in blocks_of(p)]
        [('Normal', [0, 1, 2])]
    """
    entries, num_dims = entries_of(p)
    if isinstance(entries, Columnwise):
        yield from zip(entries.parts, entries.places, strict=True)
    else:
        yield entries, list(range(prod(entries.batch_shape[len(entries.batch_shape) - num_dims :])))
