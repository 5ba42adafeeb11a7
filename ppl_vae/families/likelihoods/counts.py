"""Likelihoods of counts."""

from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.missing import smoothed_mean

__all__ = ["NegativeBinomial", "Poisson"]


DISPERSIONS = 1e-2, 1e3  # range of the starting values of a negative binomial


class _Counts(Likelihood):
    """Whole counts with the mean exp(eta_i)."""

    support = constraints.nonnegative_integer
    remedy = "counts are whole numbers 0, 1, 2, ...; use Gaussian or StudentT for measurements"

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        return (smoothed_mean(x, 1.0).log(),)


class Poisson(_Counts):
    """Counts with the canonical link: p(x_i given z) = Poisson(exp(eta_i)).

    Variance equals the mean; overdispersed counts need `NegativeBinomial`.

    Args:
        event_shape: Shape of one observation.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 6.

    Example:
        >>> likelihood = Poisson(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogRatePoisson(raw[0])


class NegativeBinomial(_Counts):
    """Overdispersed counts: mean mu_i = exp(eta_i), variance mu_i + mu_i^2 / r_i, r_i learned.

    A Gamma-Poisson mixture; r to infinity is `Poisson`.

    Args:
        event_shape: Shape of one observation.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
        doi:10.1038/s41592-018-0229-2.

    Example:
        >>> likelihood = NegativeBinomial(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(self.event_shape))

    @override
    def start_at(self, x: Tensor) -> None:
        super().start_at(x)
        mean = x.nanmean(0)
        excess = (x - mean).square().nanmean(0) - mean
        # r = mu^2 / (variance - mu) by moments; near-Poisson counts start at the largest.
        dispersion = torch.where(excess > 0, mean.square() / excess, torch.inf).clamp(*DISPERSIONS)
        with torch.no_grad():
            self.log_dispersion.copy_(torch.where(mean > 0, dispersion.log(), self.log_dispersion))

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogMeanNegativeBinomial(raw[0], self.log_dispersion)
