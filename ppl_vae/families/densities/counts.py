"""Counts: densities by their deviances, in which log x! and the log-mean's terms never meet."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.families.densities.series import FROM, HALF_LOG_2PI, power_series, stirling_error, stirling_series

__all__ = ["LogMeanNegativeBinomial", "LogRatePoisson"]

ATANH = (1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11)  # (atanh(s) / s - 1) / s^2, in s^2, s = u / (2 + u)
NEAR = 0.2  # |u| up to which these terms are all that float64 can tell


def log1p_of(u: Tensor, log_ratio: Tensor) -> Tensor:
    """log(1 + u); away from zero from a difference of logarithms, for near -1 u has lost its digits."""
    near = u.abs() < 0.5
    return torch.where(near, torch.where(near, u, 0.0).log1p(), log_ratio)


def shortfall_near_zero(u: Tensor) -> Tensor:
    """1 - log(1 + u) / u, which is u / 2 in the limit, for |u| < NEAR, by the series of atanh(u / (2 + u))."""
    s = u / (2 + u)
    q = s * s
    rest = q * power_series(ATANH, q)  # atanh(s) / s - 1
    return s + (s - 1) * rest


def shortfall(u: Tensor, log1p_u: Tensor) -> Tensor:
    """1 - log(1 + u) / u, given log(1 + u)."""
    near = u.abs() < NEAR
    return torch.where(near, shortfall_near_zero(u), 1 - log1p_u / torch.where(near, 1.0, u))


def log_saturated(x: Tensor) -> Tensor:
    """log Poisson(x; mean x) = x log x - x - log x!, the most that any mean gives."""
    log_x = torch.where(x > 0, x, 1.0).log()
    large = x >= FROM
    near = torch.where(large, 0.0, x)
    far = -stirling_series(torch.where(large, x, FROM)) - 0.5 * log_x - HALF_LOG_2PI
    return torch.where(large, far, near * log_x - near - (near + 1).lgamma())


class PoissonDeviance(torch.autograd.Function):
    """x log(x / mu) - x + mu, mu = exp(log_mean), by (mu - x) G((mu - x) / x) near x; its derivative is mu - x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_mean: Tensor, x: Tensor) -> Tensor:
        """The value."""
        positive = torch.where(x > 0, x, 1.0)
        gap = log_mean.exp() - x
        d = gap / positive
        near = (d.abs() < NEAR) & (x > 0)
        return torch.where(near, gap * shortfall_near_zero(d), x * (positive.log() - log_mean) + gap)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """For log_mean; counts have none."""
        log_mean, x = ctx.saved_tensors
        return (gradient * (log_mean.exp() - x)).sum_to_size(log_mean.shape), None


def dispersed(log_mean: Tensor, log_dispersion: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w (x - mu), log(1 + e) and G(e), e = (x - mu) / (r + mu) and w = r / (r + mu), of a negative binomial."""
    mean, r = log_mean.exp(), log_dispersion.exp()
    total = r + mean
    e = (x - mean) / total
    log_e = log1p_of(e, (r + x).log() - total.log())
    gap = torch.where(mean < 1, (x - mean) * (r / total), r * e)
    gap = torch.where(r > mean, (x - mean) * torch.sigmoid(log_dispersion - log_mean), gap)
    return gap, log_e, shortfall(e, log_e)


class NegativeBinomialDeviance(torch.autograd.Function):
    """x log(x / mu) - (r + x) log((r + x) / (r + mu)), by w (x - mu) (G(e) - G(d)), d = -w (x - mu) / x.

    Its derivative is -w (x - mu) for log mu and w (x - mu) G(e) for log r.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_mean: Tensor, log_dispersion: Tensor, x: Tensor) -> Tensor:
        """The value."""
        gap, log_e, share_e = dispersed(log_mean, log_dispersion, x)
        positive = torch.where(x > 0, x, 1.0)
        d = -gap / positive
        share = shortfall(d, log1p_of(d, log_mean - positive.log() + log_e))
        return gap * (share_e - torch.where(x > 0, share, 1.0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """What the derivatives need."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """For log_mean and log_dispersion; counts have none."""
        log_mean, log_dispersion, x = ctx.saved_tensors
        gap, _, share_e = dispersed(log_mean, log_dispersion, x)
        slope = gradient * gap
        return -slope.sum_to_size(log_mean.shape), (slope * share_e).sum_to_size(log_dispersion.shape), None


class LogRatePoisson(dist.Poisson):
    """Poisson with mean mu = exp(log_rate): log p(x) = log p(x; mean x) - deviance / 2.

    deviance / 2 = x log(x / mu) - x + mu = (mu - x) (1 - log(1 + d) / d), d = (mu - x) / x: x log mu, mu and log x!,
    each of them 10^8 at a count of 10^7, never meet.

    Args:
        log_rate: log of the mean.

    References:
        Loader (2000), Fast and accurate computation of binomial probabilities.

    Example:
        >>> mean = torch.tensor(1e7)
        >>> LogRatePoisson(mean.log()).log_prob(mean)
        tensor(-8.9780)
    """

    def __init__(self, log_rate: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: "LogRatePoisson | None" = None) -> "LogRatePoisson":
        """The same with a larger batch shape."""
        new = self._get_checked_instance(LogRatePoisson, _instance)
        new.log_rate = self.log_rate.expand(batch_shape)
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        return log_saturated(value) - PoissonDeviance.apply(self.log_rate, value)


class LogMeanNegativeBinomial(dist.NegativeBinomial):
    """Negative binomial with mean mu = exp(log_mean) and variance mu + mu^2 / r, r = exp(log_dispersion).

    With the Poisson's saturated term, w = r / (r + mu), e = (x - mu) / (r + mu), d = -w (x - mu) / x,
    G(u) = 1 - log(1 + u) / u and S the error of Stirling's formula,

        log p(x) = log Poisson(x; mean x) - w (x - mu) (G(e) - G(d)) + S(r + x) - S(r) - log(1 + x / r) / 2.

    G(e) and -G(d) have one sign, so that nothing cancels, and the Poisson is reached as r grows.

    Args:
        log_mean: log of the mean.
        log_dispersion: log r.

    References:
        Loader (2000), Fast and accurate computation of binomial probabilities.

    Example:
        >>> x = torch.tensor(1000.0)
        >>> LogMeanNegativeBinomial(x.log(), torch.tensor(1e8).log()).log_prob(x)
        tensor(-4.3729)
    """

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_mean = log_mean
        # Not broadcast, so that what depends on it alone is computed once for all particles; a copy, so that
        # a distribution that was made without gradients holds no parameter.
        self.log_dispersion = log_dispersion.clone()
        super().__init__(log_dispersion.exp(), logits=log_mean - log_dispersion, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: "LogMeanNegativeBinomial | None" = None) -> "LogMeanNegativeBinomial":
        """The same with a larger batch shape."""
        new = self._get_checked_instance(LogMeanNegativeBinomial, _instance)
        new.log_mean = self.log_mean
        new.log_dispersion = self.log_dispersion
        return super().expand(batch_shape, _instance=new)

    @property
    def mean(self) -> Tensor:
        """mu."""
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """mu + mu^2 / r."""
        return self.mean * (1 + self.logits.exp())

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        log_ratio = torch.where(value > 0, value, 1.0).log() - self.log_dispersion  # log(x / r)
        spread = torch.where(value > 0, softplus(log_ratio, threshold=40), 0.0)
        r = self.log_dispersion.exp()
        errors = stirling_error(r + value) - stirling_error(r)
        deviance = NegativeBinomialDeviance.apply(self.log_mean, self.log_dispersion, value)
        found = log_saturated(value) + errors - 0.5 * spread - deviance
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
