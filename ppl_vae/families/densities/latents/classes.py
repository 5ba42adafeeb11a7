"""Classes as unit vectors."""

from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["ScatteredOneHot"]


class ScatteredOneHot(dist.OneHotCategorical):
    """`OneHotCategorical` whose draws read no values, so that a training step can be recorded.

    Example:
        >>> ScatteredOneHot(logits=torch.tensor([0.0, 99.0])).sample()
        tensor([0., 1.])
    """

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        classes = self._categorical.sample(torch.Size(sample_shape)).unsqueeze(-1)
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.logits.new_zeros(shape).scatter(-1, classes, 1.0)
