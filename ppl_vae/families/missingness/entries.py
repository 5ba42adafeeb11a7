"""Entries of a row under p(x given z), sums over their values, and blocks side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["side_by_side", "summed"]

Logit = Callable[[Tensor], Tensor]


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
