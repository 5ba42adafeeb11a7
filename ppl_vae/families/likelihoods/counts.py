"""Likelihoods of counts without an upper end."""

from collections.abc import Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood

__all__ = ["NegativeBinomial", "Poisson"]


DISPERSIONS = 1e-2, 1e3  # range of the starting values of a dispersion or a concentration


class CountMoments:
    """Sums over rows of the counts and exposures, by which each x_i has a rate and a dispersion.

    Zeros are weighted apart, since a law may own only a part of them, or have lost some. Rows are
    counted by exposure: all together where they have the same one.
    """

    def __init__(self, x: Tensor, exposure: Tensor | None) -> None:
        x = x.double()
        observed = (~x.isnan()).double()
        counts = x.nan_to_num()
        self.above = (counts > 0).double()
        self.zeros = observed - self.above
        if exposure is None:
            self.exposure = torch.ones_like(x[:1])
            self.above = self.above.sum(0, keepdim=True)
            self.zeros = self.zeros.sum(0, keepdim=True)
        else:
            self.exposure = exposure.double()
        self.num_rows = observed.sum(0)
        self.sum_x = counts.sum(0)
        self.sum_squares = counts.square().sum(0)
        self.sum_products = (counts * self.exposure).sum(0)

    def rate(self, num_zeros: Tensor) -> Tensor:
        """sum x / sum exposure, with one further count in one further row."""
        exposed = ((self.above + num_zeros) * self.exposure).sum(0)
        return (self.sum_x + 1) / (exposed + self.exposure.mean(0))

    def dispersion(self, rate: Tensor, num_zeros: Tensor) -> Tensor:
        """r by moments: sum mean^2 / sum ((x - mean)^2 - mean)."""
        rows = self.above + num_zeros
        squares = rate.square() * (rows * self.exposure.square()).sum(0)
        means = rate * (rows * self.exposure).sum(0)
        excess = self.sum_squares - 2 * rate * self.sum_products + squares - means
        # Near-Poisson counts start at the largest.
        return torch.where(excess > 0, squares / excess, torch.inf).clamp(*DISPERSIONS)


class Counts(Likelihood):
    """Whole counts whose law has the mean exposure * exp(eta_i); the exposure is one by default."""

    support = constraints.nonnegative_integer
    remedy = "counts are whole numbers 0, 1, 2, ...; use Gaussian or StudentT for measurements"
    takes_exposure = True

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        self._check_shape(x)
        moments = CountMoments(x, exposure)
        rate = moments.rate(moments.zeros)
        self.start_dispersion(moments, rate, moments.zeros)
        self.start_link(x, rate.log())

    def start_dispersion(self, moments: CountMoments, rate: Tensor, num_zeros: Tensor) -> None:
        """Take the dispersion from the moments, where the law has one."""

    def law(self, log_mean: Tensor) -> Any:
        """The law of counts with this log-mean."""
        return densities.LogRatePoisson(log_mean)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return self.law(raw[0])

    @override
    def exposed(self, exposure: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        return self.elementwise(raw[0] + exposure.log(), *raw[1:])


class DispersedCounts(Counts):
    """Counts with the variance mu_i + mu_i^2 / r_i, r_i learned."""

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(self.event_shape))

    @override
    def start_dispersion(self, moments: CountMoments, rate: Tensor, num_zeros: Tensor) -> None:
        found = moments.dispersion(rate, num_zeros).log().to(self.log_dispersion)
        with torch.no_grad():
            self.log_dispersion.copy_(torch.where(moments.sum_x > 0, found, self.log_dispersion))

    @override
    def law(self, log_mean: Tensor) -> Any:
        return densities.LogMeanNegativeBinomial(log_mean, self.log_dispersion)


class Poisson(Counts):
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


class NegativeBinomial(DispersedCounts):
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
