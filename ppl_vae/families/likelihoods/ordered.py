"""Likelihoods of ordered categories."""

from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import pad

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["Ordinal"]


class Ordinal(Likelihood):
    """Ordered categories 0 .. C-1: P(x_i <= k given z) = sigmoid(c_ik - eta_i), c_i0 = 0.

    Proportional odds: z moves the location eta_i, and the cutpoints 0 = c_i0 < c_i1 < ... are
    learned per feature, so that one parameter from z serves all categories; the first cutpoint is
    zero since the location has an intercept. Where z changes the spread of the answers as well, use
    `Categorical`.

    Args:
        event_shape: Shape of one observation.
        num_categories: Number of categories C, the same for every element.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: there are fewer than two categories.

    References:
        McCullagh (1980), Regression models for ordinal data, JRSS B 42.

    Example:
        >>> likelihood = Ordinal(3, num_categories=4)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).base_dist.probs.shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, event_shape: int | Sequence[int], num_categories: int = 2) -> None:
        super().__init__(event_shape)
        self.num_categories = whole_number(num_categories, "num_categories", at_least=2)
        require_memory(f"num_categories={num_categories}", *self.event_shape, num_categories)
        self.support = constraints.integer_interval(0, num_categories - 1)
        self.remedy = (
            f"categories are numbered 0 to {num_categories - 1}, in their order: give "
            "num_categories= their number"
        )
        self.log_gaps = nn.Parameter(torch.zeros(num_categories - 2, *self.event_shape))

    @property
    def cutpoints(self) -> Tensor:
        """c_ik, (*event_shape, C - 1)."""
        gaps = self.log_gaps.exp().movedim(0, -1)
        return pad(gaps.cumsum(-1), (1, 0))

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        self._check_shape(x)
        num_rows = (~x.isnan()).sum(0)
        upto = torch.stack([(x <= k).sum(0) for k in range(self.num_categories - 1)])
        # One further row is spread over all categories.
        further = torch.arange(1, self.num_categories).to(x) / self.num_categories
        further = further.reshape(-1, *[1] * len(self.event_shape))
        cutpoints = ((upto + further) / (num_rows + 1)).logit()
        self.start_link(x, -cutpoints[0])
        with torch.no_grad():
            found = cutpoints.diff(dim=0).log()
            self.log_gaps.copy_(torch.where(num_rows > 0, found, self.log_gaps))

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.OrderedCategorical(raw[0], self.log_gaps.movedim(0, -1))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_categories={self.num_categories}"
