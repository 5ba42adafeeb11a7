"""Likelihoods of values in an interval."""

from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.missing import smoothed_mean

__all__ = ["ContinuousBernoulli"]

NEWTON_STEPS = 40  # each doubles a logit that is too small


class ContinuousBernoulli(Likelihood):
    """Values in [0, 1] with density C(p) p^x (1 - p)^(1 - x): Bernoulli made a normalised density.

    A density on [0, 1]: its log-likelihood is not comparable with that of binarised data.

    Args:
        event_shape: Shape of one observation.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845, eq. 4.

    Example:
        >>> import torch
        >>> likelihood = ContinuousBernoulli(3)
        >>> likelihood.build((4,))
        >>> likelihood(torch.zeros(5, 4)).log_prob(torch.full((5, 3), 0.5)).shape
        torch.Size([5])
    """

    measure = "lebesgue"
    support = constraints.unit_interval
    remedy = "scale the data into [0, 1]"

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        mean = smoothed_mean(x.double(), 0.5)
        logit = torch.zeros_like(mean)
        for _ in range(NEWTON_STEPS):  # the mean bends one way on each side of 1/2: no overshoot
            found = densities.LogitContinuousBernoulli(logit)
            logit = logit + (mean - found.mean) / found.variance
        return (logit.to(x),)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitContinuousBernoulli(raw[0])
