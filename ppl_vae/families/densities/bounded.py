"""Bits and values in [0, 1] by their logits; angles."""

import math
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.families.densities.series import (
    HALF_LOG_2PI,
    by_scipy,
    power_series,
    relative_deviance,
    stirling_error,
)

__all__ = ["HalfAngleVonMises", "LogitBernoulli", "LogitContinuousBernoulli", "LogitMeanBeta"]

CONCENTRATED = 50.0  # from where on the series of the Bessel function is exact to rounding
NORMAL = 1e8  # from where on draws are normal to rounding
# Of sqrt(2 pi k) exp(-k) I0(k), in 1 / k.
BESSEL = [1.0]
for j in range(1, 12):
    BESSEL.append(BESSEL[-1] * (2 * j - 1) ** 2 / (8 * j))
FLAT = 0.5  # up to this |logit| the terms of the series are exact to rounding in float64
# log(sinh(u / 2) / (u / 2)) / u^2, in u^2:
LOG_SINHC = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600)


class LogitBernoulli(dist.Bernoulli):
    """Bernoulli for all logits, infinite ones too: log p(x) = log sigmoid((2 x - 1) logit).

    Example:
        >>> LogitBernoulli(logits=torch.tensor(torch.inf)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-inf, 0.])
    """

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return logsigmoid((2 * value - 1) * self.logits)


class LogitContinuousBernoulli(dist.TorchDistribution):
    """Density proportional to exp(logit x) on [0, 1].

    With a = |logit| and t the distance of x from the likelier end,

        log p(x) = -a t + log(a / (1 - exp(-a))).

    That is an exponential distribution of t with rate a, truncated at 1. torch's version clamps the
    probability, which is wrong from |logit| = 16 on in float32.

    Args:
        logits: log(p / (1 - p)).

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845, eq. 4 to 9.

    Example:
        >>> LogitContinuousBernoulli(torch.tensor(100.0)).log_prob(torch.tensor(1.0)).exp()
        tensor(100.0000)
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "LogitContinuousBernoulli | None" = None
    ) -> "LogitContinuousBernoulli":
        new = self._get_checked_instance(LogitContinuousBernoulli, _instance)
        LogitContinuousBernoulli.__init__(new, self.logits.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _rate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the logit is near zero (series are used), the logit there, and a elsewhere."""
        flat = self.logits.abs() < FLAT
        return flat, torch.where(flat, self.logits, 0.0), torch.where(flat, 1.0, self.logits.abs())

    def _from_end(self, distance: Tensor) -> Tensor:
        """x at this distance from the likelier end, or the reverse."""
        return torch.where(self.logits > 0, 1 - distance, distance)

    @property
    def _mean_distance(self) -> Tensor:
        """E t where the density is not flat."""
        rate = self._rate[2]
        return rate.reciprocal() - torch.exp(-rate) / -torch.expm1(-rate)

    def _log_density(self, value: Tensor, distance: Tensor) -> Tensor:
        """log p(value), which lies at this distance from the likelier end."""
        flat, logit, rate = self._rate
        near = logit * (value - 0.5) - logit * logit * power_series(LOG_SINHC, logit * logit)
        return torch.where(flat, near, rate.log() - (-torch.expm1(-rate)).log() - rate * distance)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density(value, self._from_end(value))

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-logit)) - 1 / logit."""
        flat, logit, _ = self._rate
        first = [2 * (k + 1) * c for k, c in enumerate(LOG_SINHC)]
        return torch.where(
            flat,
            0.5 + logit * power_series(first, logit * logit),
            self._from_end(self._mean_distance),
        )

    @property
    def variance(self) -> Tensor:
        """1 / logit^2 - 1 / (2 sinh(logit / 2))^2."""
        flat, logit, rate = self._rate
        second = [2 * (k + 1) * (2 * k + 1) * c for k, c in enumerate(LOG_SINHC)]
        far = rate.pow(-2) - torch.exp(-rate) / torch.expm1(-rate).square()
        return torch.where(flat, power_series(second, logit * logit), far)

    def entropy(self) -> Tensor:
        """- E log p(x), which is linear in x."""
        return -self._log_density(self.mean, self._mean_distance)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        rate = self._positive_rate
        within = torch.expm1(-rate * value) / torch.expm1(-rate)
        return torch.where(self.logits > 0, within * torch.exp(-rate * (1 - value)), within)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at this probability."""
        rate = self._positive_rate
        beyond = torch.where(self.logits > 0, 1 - value, value)
        distance = -torch.log1p(beyond * torch.expm1(-rate)) / rate
        return self._from_end(distance.clamp(max=1.0))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by the quantile function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    @property
    def _positive_rate(self) -> Tensor:
        """a, or a value so small that the density is uniform."""
        return self.logits.abs().clamp(min=torch.finfo(self.logits.dtype).tiny * 2**30)


class LogitMeanBeta(dist.Beta):
    """Beta with mean m = sigmoid(logit) and variance m (1 - m) / (1 + c), c = exp(log_precision).

    With t = log(x / m), u = log((1 - x) / (1 - m)), G(t) = exp(t) - 1 - t and S the error of
    Stirling's formula, log p(x) is

        -c m G(t) - c (1 - m) G(u) + log(c m (1 - m)) / 2 - log(2 pi) / 2
        + S(c) - S(c m) - S(c (1 - m)) - log x - log(1 - x),

    in which no large terms cancel where c is large.

    Args:
        logit: log(m / (1 - m)).
        log_precision: log c.

    Example:
        >>> zero = torch.zeros(())
        >>> LogitMeanBeta(zero, torch.tensor(1e10).log()).log_prob(torch.tensor(0.5))
        tensor(11.2871)
    """

    support = constraints.unit_interval

    def __init__(
        self, logit: Tensor, log_precision: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logit, self.log_precision = torch.broadcast_tensors(logit, log_precision)
        # The least number of which the reciprocal is finite.
        least = 4 * math.log(2) + math.log(torch.finfo(logit.dtype).tiny)
        self.log_first = (log_precision + logsigmoid(logit)).clamp(min=least)
        self.log_second = (log_precision + logsigmoid(-logit)).clamp(min=least)
        super().__init__(self.log_first.exp(), self.log_second.exp(), validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: "LogitMeanBeta | None" = None) -> "LogitMeanBeta":
        new = self._get_checked_instance(LogitMeanBeta, _instance)
        for name in ("logit", "log_precision", "log_first", "log_second"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        found = self._towards(value.log(), self.logit, self.log_first)
        other = self._towards((-value).log1p(), -self.logit, self.log_second)
        precision = self.log_precision.exp()
        return found + other + stirling_error(precision) - 0.5 * self.log_precision + HALF_LOG_2PI

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), without gradient."""
        from scipy.special import betainc  # a quarter of a second of every import otherwise

        first, second = self.concentration1, self.concentration0
        return by_scipy(lambda x, a, b: betainc(a, b, x), value, first, second).to(value)

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        info = torch.finfo(self.logit.dtype)
        return super().rsample(sample_shape).clamp(info.tiny, 1 - 0.5 * info.eps)

    def _towards(self, log_value: Tensor, logit: Tensor, log_shape: Tensor) -> Tensor:
        """The terms of x, its mean and shape, or those of 1 - x."""
        shape = log_shape.exp()
        deviance = relative_deviance(log_value - logsigmoid(logit))
        return 0.5 * log_shape - stirling_error(shape) - HALF_LOG_2PI - shape * deviance - log_value


class HalfAngleVonMises(dist.VonMises):
    """Von Mises on [-pi, pi]: density exp(-2 k sin^2((x - loc) / 2)) / (2 pi exp(-k) I0(k)).

    torch's terms k cos(x - loc) and log I0(k), each of size k, cancel: they leave no digit at k =
    10^7 in float32.

    Args:
        loc: The mean direction, any real number.
        concentration: k.

    References:
        Mardia and Jupp (2000), Directional statistics, section 3.5.4.

    Example:
        >>> HalfAngleVonMises(torch.zeros(()), torch.tensor(1e10)).log_prob(torch.tensor(0.0))
        tensor(10.5940)
    """

    support = constraints.interval(-math.pi, math.pi)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        sine = torch.sin(0.5 * (value - self.loc))
        return -2 * self.concentration * sine * sine - _log_normaliser(self.concentration)

    @property
    def mean(self) -> Tensor:
        """The mean direction, in [-pi, pi]."""
        return wrapped(self.loc)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), without gradient."""
        from scipy.stats import vonmises  # half a second of every import otherwise

        parameters = self.concentration, self.loc
        lower = by_scipy(vonmises.cdf, torch.full_like(value, -math.pi), *parameters)
        return (by_scipy(vonmises.cdf, value, *parameters) - lower).to(value)

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1 - I1(k) / I0(k)."""
        k = self.concentration
        return 1 - torch.special.i1e(k) / torch.special.i0e(k)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            bounded = dist.VonMises(self.loc, self.concentration.clamp(max=NORMAL))
            angle = bounded.sample(sample_shape)
            normal = self.loc + torch.randn_like(angle) * self.concentration.rsqrt()
            angle = torch.where(self.concentration > NORMAL, normal, angle)
            return wrapped(angle)


def wrapped(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _log_normaliser(k: Tensor) -> Tensor:
    """log(2 pi exp(-k) I0(k))."""
    far = k > CONCENTRATED
    large = torch.where(far, k, CONCENTRATED)
    series = power_series(BESSEL, large.reciprocal()).log() - 0.5 * large.log() + HALF_LOG_2PI
    near = torch.special.i0e(torch.where(far, 1.0, k)).log() + 2 * HALF_LOG_2PI
    return torch.where(far, series, near)
