"""Likelihoods of bits and of categories."""

from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.missing import smoothed_mean
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["Bernoulli", "Categorical"]


class Bernoulli(Likelihood):
    """Independent bits: p(x_i given z) = Bernoulli(sigmoid(logit_i)).

    Refuses grey pixels: a Bernoulli "likelihood" of a value between 0 and 1 is not a density.

    Args:
        event_shape: Shape of one observation.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix C.1.

    Example:
        >>> likelihood = Bernoulli((28, 28))
        >>> likelihood.build((200,))
        >>> likelihood(torch.zeros(5, 200)).event_shape
        torch.Size([28, 28])
    """

    support = constraints.boolean
    remedy = (
        'binarise the data (Dataset(..., binarize="dynamic")), or use ContinuousBernoulli for '
        "values in [0, 1]"
    )

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (smoothed_mean(x, 0.5).logit(),)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitBernoulli(logits=raw[0])


class Categorical(Likelihood):
    """Unordered categories 0 .. C-1: p(x_i = c given z) = softmax(logits_i)_c.

    x holds category numbers, not indicators (one column per variable).

    Args:
        event_shape: Shape of one observation.
        num_categories: Number of categories C, the same for every element. A single one has
            probability 1.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Agresti (2013), Categorical data analysis, chapter 8 (the multinomial logit).

    Example:
        >>> likelihood = Categorical(3, num_categories=4)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).base_dist.probs.shape
        torch.Size([5, 3, 4])
    """

    def __init__(self, event_shape: int | Sequence[int], num_categories: int = 2) -> None:
        super().__init__(event_shape)
        num_categories = whole_number(num_categories, "num_categories")
        require_memory(f"num_categories={num_categories}", *self.event_shape, num_categories)
        self.num_parameters = num_categories
        self.support = constraints.integer_interval(0, num_categories - 1)
        self.remedy = (
            f"categories are numbered 0 to {num_categories - 1}: give num_categories= their number"
        )

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        indicators = [(x == c).to(x).where(~x.isnan(), x) for c in range(self.num_parameters)]
        return tuple(smoothed_mean(each, 1 / self.num_parameters).log() for each in indicators)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=torch.stack(raw, dim=-1))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_categories={self.num_parameters}"
