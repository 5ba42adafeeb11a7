"""Entries of a row under p(x given z), block by block, and sums over their values."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.families.densities import Columnwise

__all__ = ["blocks_of", "side_by_side", "summed"]

Logit = Callable[[Tensor], Tensor]


def blocks_of(p: Any) -> Iterator[tuple[Any, list[int]]]:
    """The distributions of the entries of x, block by block, and the columns of each.

    Args:
        p: p(x given z), independent columns.

    Example:
        >>> p = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> [(type(block).__name__, columns) for block, columns in blocks_of(p)]
        [('Normal', [0, 1, 2])]
    """
    while isinstance(p, dist.Independent):
        p = p.base_dist
    if isinstance(p, Columnwise):
        yield from zip(p.parts, p.places, strict=True)
    else:
        yield p, list(range(p.batch_shape[-1]))


def summed(block: Any, logit: Logit) -> tuple[Tensor, Tensor]:
    """The log-odds of m = 1, summed over all values of x, and a draw of x given m = 1.

    p(m = 1 given z) = sum_x p(x given z) sigmoid(logit(x)), entry by entry.

    Args:
        block: A distribution of independent entries with few values.
        logit: From a value of each entry to logit p(m = 1 given x), which it broadcasts to.

    Example:
        >>> log_odds, x = summed(dist.Bernoulli(torch.tensor([0.25])), lambda x: 80 * x - 40)
        >>> log_odds.sigmoid(), x
        (tensor([0.2500]), tensor([1.]))
    """
    values = block.enumerate_support(expand=False)  # (S, 1, ..., 1)
    log_p = block.log_prob(values)
    values = values.to(log_p)
    at_values = logit(values)
    log_missing = log_p + logsigmoid(at_values)
    log_observed = log_p + logsigmoid(-at_values)
    log_odds = log_missing.logsumexp(0) - log_observed.logsumexp(0)
    place = dist.Categorical(logits=log_missing.detach().movedim(0, -1)).sample()
    return log_odds, values.flatten()[place]


def side_by_side(values: Sequence[Tensor], places: Sequence[list[int]]) -> Tensor:
    """Values of blocks, (*batch, columns), joined in the order of the columns.

    Args:
        values: The values of each block.
        places: The columns of each block.

    Example:
        >>> side_by_side([torch.tensor([1, 3]), torch.tensor([2])], [[0, 2], [1]])
        tensor([1, 2, 3])
    """
    batch = torch.broadcast_shapes(*(each.shape[:-1] for each in values))
    order = [column for columns in places for column in columns]
    wide = [each.expand(*batch, each.shape[-1]) for each in values]
    return torch.cat(wide, dim=-1)[..., [order.index(column) for column in range(len(order))]]
