"""Counts: densities by their deviances, in which log x! and the log-mean's terms never meet."""

import math
from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.families.densities.series import (
    HALF_LOG_2PI,
    power_series,
    stirling_error,
    stirling_value,
)

__all__ = ["LogMeanNegativeBinomial", "LogRatePoisson"]

ATANH = (1 / 3, 1 / 5, 1 / 7, 1 / 9)  # (atanh(s) / s - 1) / s^2, in s^2, s = u / (2 + u)
# Up to this |u| these terms, half of them in float32, are exact to rounding.
NEAR = 0.1

# In an autograd Function a branch of `where` that is not taken may be infinite: no derivative
# passes through it.


def log1p_of(u: Tensor, size: Tensor, log_ratio: Tensor) -> Tensor:
    """log(1 + u) given |u|; away from zero from a difference of logarithms."""
    return torch.where(size < 0.5, u.log1p(), log_ratio)


def shortfall_near_zero(u: Tensor) -> Tensor:
    """G(u) = 1 - log(1 + u) / u for |u| < NEAR, by the series of atanh(u / (2 + u))."""
    terms = ATANH if u.dtype == torch.float64 else ATANH[:2]
    s = u / (2 + u)
    q = s * s
    return torch.addcmul(s, s - 1, q * power_series(terms, q))


def log_saturated(x: Tensor, log_x: Tensor) -> Tensor:
    """log Poisson(x; mean x) = x log x - x - log x!, given log max(x, 1)."""
    positive = x.clamp(min=1)
    return -x.clamp(max=1) * (stirling_value(positive, least=1) + 0.5 * log_x + HALF_LOG_2PI)


class PoissonDeviance(torch.autograd.Function):
    """x log(x / mu) - x + mu by t = log(mu / x); its derivative for log mu is mu - x.

    With max(x, 1) for x in the exponential's terms, it is mu at 0 too. Only t matters: `log_mean`
    and `log_x`, log max(x, 1), may both be relative to a total.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_mean: Tensor, x: Tensor, log_x: Tensor) -> Tensor:
        """The value."""
        t = log_mean - log_x
        return beyond(t, x) - x * t

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """For log_mean; counts have none."""
        log_mean, x, log_x = ctx.saved_tensors
        slope = beyond(log_mean - log_x, x)
        return (gradient * slope).sum_to_size(log_mean.shape), None, None


def beyond(t: Tensor, x: Tensor) -> Tensor:
    """mu - x, mu = max(x, 1) exp(t)."""
    positive = x.clamp(min=1)
    return torch.addcmul(positive - x, positive, t.expm1())


def dispersed(mean: Tensor, r: Tensor, x: Tensor, log_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g = w (x - mu), log(1 + e) and g G(e), e = (x - mu) / (r + mu), w = r / (r + mu)."""
    total = r + mean
    difference = x - mean
    e = difference / total
    gap = difference * (r / total)
    size = e.abs()
    log_e = log1p_of(e, size, log_sum - total.log())
    return gap, log_e, torch.where(size < NEAR, gap * shortfall_near_zero(e), gap - r * log_e)


class NegativeBinomialDeviance(torch.autograd.Function):
    """x log(x / mu) - (r + x) log((r + x) / (r + mu)) = g (G(e) - G(d)), d = -g / x.

    Its derivative is -g for log mu and g G(e) for log r. mu = total exp(log_mean + log_share) and r
    = exp(log_dispersion + log_share), so that it is -r log(1 + e) for log_share, where g may be
    large. `log_x` is log(max(x, 1) / total).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        log_mean: Tensor,
        log_dispersion: Tensor,
        log_share: Tensor,
        x: Tensor,
        total: Tensor,
        log_x: Tensor,
        log_sum: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The value, and what its derivatives are made of: g, g G(e) and r log(1 + e)."""
        shared = log_mean + log_share
        r = bounded(log_dispersion + log_share).exp()
        gap, log_e, part = dispersed(total * shared.exp(), r, x, log_sum)
        d = gap / -x
        size = d.abs()
        far = torch.addcmul(gap, x, log1p_of(d, size, shared - log_x + log_e))
        value = part - torch.where(size < NEAR, gap * shortfall_near_zero(d), far)
        return value, gap, part, r * log_e

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """What the derivatives need."""
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:5], *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        """For the mean, the dispersion and the share; counts have none."""
        log_mean, log_dispersion, log_share, x, total, gap, part, shared = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted
            r = bounded(log_dispersion + log_share).exp()
            mean = total * (log_mean + log_share).exp()
            gap, log_e, part = dispersed(mean, r, x, (r + x).log())
            shared = r * log_e
        slopes = (-gap, log_mean), (part, log_dispersion), (-shared, log_share)
        found = [(gradient * slope).sum_to_size(of.shape) for slope, of in slopes]
        return *found, None, None, None, None


def log_poisson(log_mean: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """log Poisson(x; mean total exp(log_mean)); no total is one."""
    log_x = x.clamp(min=1).log()
    return log_saturated(x, log_x) - PoissonDeviance.apply(log_mean, x, share(log_x, x, total))


def share(log_x: Tensor, x: Tensor, total: Tensor | None) -> Tensor:
    """log(max(x, 1) / total), rounded at its own size and not at that of log x."""
    return log_x if total is None else (x.clamp(min=1) / total).log()


def log_negative_binomial(
    log_mean: Tensor,
    log_dispersion: Tensor,
    x: Tensor,
    total: Tensor | None = None,
    log_share: Tensor | None = None,
) -> Tensor:
    """log p(x) of a negative binomial with mean total exp(log_mean); no total is one.

    The share is a factor of both the mean and the dispersion; no share is one.
    """
    if log_share is None:
        log_share = x.new_zeros(())
    log_r = bounded(log_dispersion + log_share)
    r = log_r.exp()
    log_x = x.clamp(min=1).log()
    joined = r + x
    log_sum = joined.log()
    errors = stirling_error(joined) - stirling_error(r)
    scale = x.new_ones(()) if total is None else total
    deviance, *_ = NegativeBinomialDeviance.apply(
        log_mean, log_dispersion, log_share, x, scale, share(log_x, x, total), log_sum.detach()
    )
    return log_saturated(x, log_x) + errors - 0.5 * (log_sum - log_r) - deviance


def bounded(log_r: Tensor) -> Tensor:
    """log r such that r and 1 / r are finite; to every finite mean r is infinite, or 0, beyond."""
    largest = math.log(torch.finfo(log_r.dtype).max) - 1
    return log_r.clamp(min=1.5 - largest, max=largest)


class LogRatePoisson(dist.Poisson):
    """Poisson with mean mu = exp(log_rate): log p(x) = log p(x; mean x) - deviance / 2.

    deviance / 2 = x log(x / mu) - x + mu = (mu - x) (1 - log(1 + d) / d), d = (mu - x) / x: x log
    mu, mu and log x!, each of them 10^8 at a count of 10^7, never meet.

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

    @override
    def expand(
        self, batch_shape: Any, _instance: "LogRatePoisson | None" = None
    ) -> "LogRatePoisson":
        new = self._get_checked_instance(LogRatePoisson, _instance)
        new.log_rate = self.log_rate.expand(batch_shape)
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_poisson(self.log_rate, value)

    @property
    def hazard(self) -> Tensor:
        """-log p(0), with its digits where it is small."""
        return self.rate

    @staticmethod
    def after_first(left: Tensor) -> "LogRatePoisson":
        """The number of events after the first, where this hazard is left."""
        return LogRatePoisson(left.log())


class LogMeanNegativeBinomial(dist.NegativeBinomial):
    """Negative binomial: mean mu = exp(log_mean), variance mu + mu^2 / exp(log_dispersion).

    With the Poisson's saturated term, w = r / (r + mu), e = (x - mu) / (r + mu), d = -w (x - mu) /
    x, G(u) = 1 - log(1 + u) / u and S the error of Stirling's formula,

        log p(x) = log Poisson(x; mean x) - w (x - mu) (G(e) - G(d))
                   + S(r + x) - S(r) - log(1 + x / r) / 2.

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

    def __init__(
        self, log_mean: Tensor, log_dispersion: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.log_mean = log_mean
        # Not broadcast, so that its functions are computed once for all particles; a copy, so that
        # a distribution without gradients does not hold the parameter.
        self.log_dispersion = log_dispersion.clone()
        super().__init__(
            log_dispersion.exp(), logits=log_mean - log_dispersion, validate_args=validate_args
        )

    @override
    def expand(
        self, batch_shape: Any, _instance: "LogMeanNegativeBinomial | None" = None
    ) -> "LogMeanNegativeBinomial":
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

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        found = log_negative_binomial(self.log_mean, self.log_dispersion, value)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @property
    def hazard(self) -> Tensor:
        """-log p(0), with its digits where it is small."""
        # r log(1 + mu / r), which is mu to rounding where mu / r is below it.
        log_ratio = self.log_mean - self.log_dispersion
        is_poisson = log_ratio < math.log(torch.finfo(log_ratio.dtype).eps)
        r = torch.where(is_poisson, 0.0, self.log_dispersion).exp()
        dispersed = r * softplus(torch.where(is_poisson, 0.0, log_ratio))
        return torch.where(is_poisson, self.log_mean.exp(), dispersed)

    def after_first(self, left: Tensor) -> "LogMeanNegativeBinomial":
        """The number of events after the first, where this hazard is left.

        As a pure birth process with the hazard r + y after y events.
        """
        r = self.log_dispersion.exp()
        log_mean = ((r + 1) * torch.expm1(left / r)).log()
        return LogMeanNegativeBinomial(log_mean, r.log1p())
