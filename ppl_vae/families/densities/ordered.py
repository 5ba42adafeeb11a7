"""Ordered categories by their location and the gaps between cutpoints."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

__all__ = ["OrderedCategorical"]


def log_probabilities(location: Tensor, log_gaps: Tensor) -> Tensor:
    """log P(x = k) for all categories, (*batch, C).

    With a < b the cutpoints of a category minus the location,

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)).
    """
    gaps = log_gaps.exp()
    cutpoints = pad(gaps.cumsum(-1), (1, 0)) - location[..., None]
    below = pad(logsigmoid(cutpoints), (0, 1))
    above = pad(logsigmoid(-cutpoints), (1, 0))
    within = pad((-torch.expm1(-gaps)).log(), (1, 1))
    return below + above + within


class OrderedCategorical(dist.Categorical):
    """P(x <= k) = sigmoid(c_k - location), c_0 = 0, c_k = c_{k-1} + exp(log_gaps_k).

    The mean and variance are those of the category numbers. Pyro's `OrderedLogistic` subtracts the
    cumulative probabilities from each other, which are equal floats far from the location.

    Args:
        location: The location, (*batch).
        log_gaps: Logarithms of the gaps between the cutpoints, (*batch, C - 2).

    Example:
        >>> law = OrderedCategorical(torch.tensor(-40.0), torch.zeros(1))
        >>> law.log_prob(torch.tensor([1, 2]))
        tensor([-40.4587, -41.0000])
    """

    def __init__(
        self, location: Tensor, log_gaps: Tensor, *, validate_args: bool | None = None
    ) -> None:
        logits = log_probabilities(location, log_gaps)
        super().__init__(logits=logits, validate_args=validate_args)
        # They sum to one already: to normalise them again only rounds their gradients.
        self._param = logits
        self.logits = logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OrderedCategorical":
        """The same with other batch dims."""
        new = self._get_checked_instance(OrderedCategorical, _instance)
        return super().expand(batch_shape, _instance=new)

    @property
    def mean(self) -> Tensor:
        """sum_k k P(x = k)."""
        return (self.probs * self._numbers).sum(-1)

    @property
    def variance(self) -> Tensor:
        """sum_k (k - mean)^2 P(x = k)."""
        return (self.probs * (self._numbers - self.mean[..., None]).square()).sum(-1)

    @property
    def _numbers(self) -> Tensor:
        return torch.arange(self.probs.shape[-1]).to(self.probs)
