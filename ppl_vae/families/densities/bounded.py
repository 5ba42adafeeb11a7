"""Bits, and values in [0, 1], by their logits."""

from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.families.densities.series import power_series

__all__ = ["LogitBernoulli", "LogitContinuousBernoulli"]

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
