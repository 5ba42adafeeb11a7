"""Means over all particles but one, for each of them, in O(K B); or with that one replaced.

Sums over the others are those of the particles before and of the particles after: a difference from
the sum over all would cancel where one weight dominates, and is undefined where one is -inf.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

MOST_NUMBERS = 100_000_000  # that the direct form may hold: 400 MB of float32


def mean_of_others(values: Tensor, instead: Tensor | None = None) -> Tensor:
    """For each k the mean over j != k, or over all with values_k replaced by instead_k, (K,
    ...).
    """
    before, after = _before_and_after(values, torch.cumsum, nothing=0.0)
    if instead is None:
        return (before + after) / (len(values) - 1)
    return (before + after + instead) / len(values)


def log_mean_exp_of_others(values: Tensor, instead: Tensor | None = None) -> Tensor:
    """The same of log mean exp."""
    before, after = _before_and_after(values, torch.logcumsumexp, nothing=-torch.inf)
    total = torch.logaddexp(before, after)
    if instead is None:
        return total - math.log(len(values) - 1)
    return torch.logaddexp(total, instead) - math.log(len(values))


def both(
    function: Function, values: Tensor, instead: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A function of each value, and of what is to stand instead of it."""
    return function(values), None if instead is None else function(instead)


def directly(
    reduce: Function, values: Tensor, instead: Tensor | None = None, *, name: str
) -> Tensor:
    """The same of any function of (K, ...), one call on K copies of the particles.

    Raises:
        ValueError: K^2 B is so large that the copies might not fit into memory.
    """
    num_particles = len(values)
    if num_particles * values.numel() > MOST_NUMBERS:
        shape = " x ".join(map(str, (num_particles, *values.shape)))
        raise ValueError(
            f"leaving out each particle of {name} in turn takes {shape} numbers, more than "
            f"{MOST_NUMBERS:,}: "
            "give fewer particles or a smaller batch, or override reduce_others"
        )
    if instead is None:
        return reduce(others(values))
    own = torch.eye(num_particles, dtype=torch.bool, device=values.device)
    own = own.reshape(num_particles, num_particles, *[1] * (values.dim() - 1))
    return reduce(torch.where(own, instead, values.unsqueeze(1)))


def others(values: Tensor) -> Tensor:
    """For each particle k all the others: (K, ...) -> (K - 1, K, ...)."""
    num_particles = len(values)
    index = torch.arange(num_particles, device=values.device)
    distance = torch.arange(1, num_particles, device=values.device).unsqueeze(1)
    return values[(index + distance) % num_particles]


def _before_and_after(values: Tensor, accumulated: Any, nothing: float) -> tuple[Tensor, Tensor]:
    """For each k what accumulates over j < k, and over j > k."""
    empty = torch.full_like(values[:1], nothing)
    before = torch.cat([empty, accumulated(values[:-1], dim=0)])
    after = torch.cat([empty, accumulated(values[1:].flip(0), dim=0)]).flip(0)
    return before, after
