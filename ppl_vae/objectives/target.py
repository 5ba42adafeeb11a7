"""A function f of each row's log-weights, and its values without each particle in turn.

A sum over the other particles is that over those before plus that over those after, in O(K B). The
sum over all minus the particle itself would cancel if one weight dominates, and is undefined if one
is -inf.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.traces import LogTerms

Function = Callable[[Tensor], Tensor]

MOST_NUMBERS = 100_000_000  # in the direct form: 400 MB of float32


class Target:
    """f(log w) of the K particles of each row; a subclass implements `reduce`.

    Log-weights, slopes and rewards have shape (K, B). A subclass implements `curvatures` if doubly
    reparameterised gradients are defined. It sets `linear` if its slopes do not depend on the
    weights, `splits` if model and guide follow different targets, and `of_log_weights = False` if
    the value is not a function of the log-weights alone.
    """

    num_particles: int
    kl_weight: float | Tensor = 1.0
    linear = False
    splits = False
    of_log_weights = True

    def reduce(self, log_weights: Tensor) -> Tensor:
        """f(log w), over the first dim: (K, ..., B) -> (..., B)."""
        raise NotImplementedError

    def value(self, terms: LogTerms) -> Tensor:
        """The bound per observation, unscaled, shape (B,)."""
        return self.reduce(self.log_weights(terms))

    def log_joint(self, terms: LogTerms) -> Tensor:
        """log p(x given z) + kl_weight log p(z)."""
        return terms.log_likelihood + self.kl_weight * terms.log_prior

    def log_weights(self, terms: LogTerms) -> Tensor:
        """log p(x given z) + kl_weight (log p(z) - log q(z given x))."""
        return self.log_joint(terms) - self.kl_weight * terms.log_q

    def slopes(self, log_weights: Tensor) -> Tensor:
        """df / d log w_k."""
        with torch.enable_grad():
            leaf = log_weights.detach().requires_grad_()
            return torch.autograd.grad(self.reduce(leaf).sum(), leaf)[0]

    def model_slopes(self, log_weights: Tensor) -> Tensor:
        """The slopes that the model's parameters follow; the same unless the target `splits`."""
        return self.slopes(log_weights)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """d^2 f / d log w_k^2, the diagonal."""
        raise NotImplementedError

    def has_curvatures(self) -> bool:
        """Whether the class implements them."""
        return type(self).curvatures is not Target.curvatures

    def rewards(self, log_weights: Tensor) -> Tensor:
        """The factor of a particle's score, before any baseline."""
        return self.reduce(log_weights).expand_as(log_weights)

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """For each particle, the reward of the others alone."""
        return self.reduce_others(log_weights)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """For each k, f without particle k, or with its log w replaced by that of `instead`.

        A subclass whose f is a function of means overrides it in O(K B), by `mean_of_others`.
        """
        return directly(self.reduce, log_weights, instead, name=type(self).__name__)


def mean_of_others(values: Tensor, instead: Tensor | None = None) -> Tensor:
    """For each k the mean over j != k, or over all with values_k replaced by instead_k."""
    before, after = _before_and_after(values, torch.cumsum, nothing=0.0)
    if instead is None:
        return (before + after) / (len(values) - 1)
    return (before + after + instead) / len(values)


def log_mean_exp_of_others(values: Tensor, instead: Tensor | None = None) -> Tensor:
    """For each k the log of the mean of exp(values) over j != k, or with values_k replaced."""
    before, after = _before_and_after(values, torch.logcumsumexp, nothing=-torch.inf)
    total = torch.logaddexp(before, after)
    if instead is None:
        return total - math.log(len(values) - 1)
    return torch.logaddexp(total, instead) - math.log(len(values))


def both(
    function: Function, values: Tensor, instead: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A function of the values, and of their replacements if there are any."""
    return function(values), None if instead is None else function(instead)


def directly(
    reduce: Function, values: Tensor, instead: Tensor | None = None, *, name: str
) -> Tensor:
    """`reduce` of (K, ...) without each k in turn, by one call on K copies of the particles.

    Raises:
        ValueError: K^2 B is so large that the copies might not fit into memory.
    """
    num_particles = len(values)
    if num_particles * values.numel() > MOST_NUMBERS:
        shape = " x ".join(map(str, (num_particles, *values.shape)))
        raise ValueError(
            f"leaving out each particle of {name} in turn takes {shape} numbers, more than "
            f"{MOST_NUMBERS:,}: give fewer particles or a smaller batch, or override reduce_others"
        )
    index = torch.arange(num_particles, device=values.device)
    if instead is None:
        distance = torch.arange(1, num_particles, device=values.device).unsqueeze(1)
        return reduce(values[(index + distance) % num_particles])  # (K - 1, K, ...)
    is_own = index == index.unsqueeze(1)
    is_own = is_own.reshape(num_particles, num_particles, *[1] * (values.dim() - 1))
    return reduce(torch.where(is_own, instead, values.unsqueeze(1)))


def _before_and_after(values: Tensor, accumulated: Any, nothing: float) -> tuple[Tensor, Tensor]:
    """For each k, the accumulated values over j < k and over j > k."""
    empty = torch.full_like(values[:1], nothing)
    before = torch.cat([empty, accumulated(values[:-1], dim=0)])
    after = torch.cat([empty, accumulated(values[1:].flip(0), dim=0)]).flip(0)
    return before, after
