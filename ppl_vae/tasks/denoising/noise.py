"""Noise: p(y given x) of each entry, and what it makes of p(x given z)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, override

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from ppl_vae.errors import ArgumentError
from ppl_vae.families.missing import discrete_entries, stand_in
from ppl_vae.runtime.checks import real_fields

__all__ = ["Dropout", "GaussianNoise", "Noise", "PoissonNoise", "SaltAndPepper"]


NORMALS = (torch.distributions.Normal, torch.distributions.StudentT)
ROUNDED = 0.1  # of a photon: what a file of few digits may have lost
NODES = 64  # of the trapezoidal rule: six digits at df = 2, more above


class Noise(ABC):
    """p(y given x), independent for each entry; a noise implements `corrupt` and `log_prob`.

    With few values of x, p(y given z) = sum_x p(x given z) p(y given x) is a sum over all of them.
    Noises that know an integral over continuous x too override `marginal` and `clean`.

    Example:
        >>> class Flips(Noise):
        ...     def corrupt(self, x):
        ...         return (x - torch.bernoulli(0.1 * torch.ones_like(x))).abs()
        ...     def log_prob(self, y, x):
        ...         return dist.Bernoulli(0.1 + 0.8 * x).log_prob(y)
        >>> Flips().marginal(dist.Bernoulli(torch.tensor(0.5)), torch.tensor(1.0)).exp()
        tensor(0.5000)
    """

    @abstractmethod
    def corrupt(self, x: Tensor) -> Tensor:
        """A draw of y given x, from torch's global stream.

        Args:
            x: Clean values.
        """

    @abstractmethod
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y given x), entry by entry.

        Args:
            y: Noisy values.
            x: Clean values.
        """

    def takes(self, base: Any) -> bool:
        """Whether x can be integrated out of p(x given z) p(y given x).

        Args:
            base: p(x given z), elementwise.
        """
        return base.has_enumerate_support or type(self).marginal is not Noise.marginal

    def keeps(self, y: Tensor) -> Tensor:
        """Whether y is x for certain, entry by entry; not where y is missing.

        Args:
            y: Noisy values.
        """
        return torch.zeros_like(y, dtype=torch.bool)

    def marginal(self, base: Any, y: Tensor) -> Tensor:
        """log p(y given z), with x integrated out, entry by entry.

        Args:
            base: p(x given z), elementwise.
            y: Noisy values.
        """
        return self._joint(base, y)[0].logsumexp(0)

    def clean(self, base: Any, y: Tensor) -> Tensor:
        """A draw of x from p(x given z, y), entry by entry.

        Args:
            base: p(x given z), elementwise.
            y: Noisy values.
        """
        log_joint, values = self._joint(base, y)
        place = dist.Categorical(logits=log_joint.detach().movedim(0, -1)).sample()
        return values.flatten()[place]

    def _joint(self, base: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, y given z) of each value x, in a first dim, and the values."""
        values = base.enumerate_support(expand=False)
        log_p = base.log_prob(values)
        values = values.to(log_p)
        return log_p + self.log_prob(y, values), values


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """y ~ N(x, sd^2).

    With a Gaussian x of mean mu and standard deviation s, y ~ N(mu, s^2 + sd^2), and x given y is
    normal with mean mu + (y - mu) s^2 / (s^2 + sd^2). Student's t is a mixture of such Gaussians
    over their precision, whose integral is taken by the trapezoidal rule.

    Args:
        sd: Standard deviation.

    Raises:
        ValueError: `sd` is not positive.

    Example:
        >>> GaussianNoise(1.0).marginal(dist.Normal(0.0, 1.0), torch.tensor(0.0))
        tensor(-1.2655)
    """

    sd: float

    def __post_init__(self) -> None:
        real_fields(self, "sd", above=0)

    @override
    def corrupt(self, x: Tensor) -> Tensor:
        x = floats(x)
        return x + self.sd * torch.randn_like(x)

    @override
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return dist.Normal(x, self.sd).log_prob(y)

    @override
    def takes(self, base: Any) -> bool:
        return base.has_enumerate_support or isinstance(base, NORMALS)

    @override
    def marginal(self, base: Any, y: Tensor) -> Tensor:
        if not isinstance(base, NORMALS):
            return super().marginal(base, y)
        return self._components(base, y)[0].logsumexp(0)

    @override
    def clean(self, base: Any, y: Tensor) -> Tensor:
        if not isinstance(base, NORMALS):
            return super().clean(base, y)
        log_p, variance = self._components(base, y)
        chosen = dist.Categorical(logits=log_p.movedim(0, -1)).sample().unsqueeze(0)
        variance = variance.expand_as(log_p).gather(0, chosen).squeeze(0)
        share = variance / (variance + self.sd**2)
        mean = base.loc + share * (y - base.loc)
        return dist.Normal(mean, share.sqrt() * self.sd).sample()

    def _components(self, base: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y, component given z), and the variances of x, of the normals that x is made of."""
        precision = torch.ones_like(base.loc).unsqueeze(0)
        log_w = torch.zeros_like(precision)
        if isinstance(base, torch.distributions.StudentT):
            log_w, precision = _precisions(base.df, (y - base.loc) / base.scale)
        variance = base.scale.square() / precision
        sd = (variance + self.sd**2).sqrt()
        return log_w + dist.Normal(base.loc, sd).log_prob(y), variance


def _precisions(df: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Log-weights and precisions t ~ Gamma(df / 2, df / 2) on a grid of log t, (nodes, *batch).

    With a residual r, p(t, y) falls like t^((df + 1) / 2) below (df + 1) / (df + r^2), and doubly
    exponentially above 1; near its mode log t has about the variance 2 / df.
    """
    width = (9 * (2 / df).sqrt()).clamp(max=4)
    mode = (df + 1).log() - (df + residual.detach().square()).log()
    low = mode.clamp(max=0) - 40 / (df + 1) - width
    high = torch.log1p(80 / df + width)
    step = (high - low) / (NODES - 1)
    places = torch.arange(NODES).to(step).reshape(-1, *[1] * step.dim())
    log_t = low + places * step
    half = df / 2
    log_w = half * (half.log() + log_t - log_t.exp()) - torch.lgamma(half) + step.log()
    return log_w, log_t.exp()


class _Replacing(Noise):
    """y is x, or with some probability one of a few values that have nothing to do with x."""

    probability: float

    @property
    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """The values, equally probable."""

    @override
    def corrupt(self, x: Tensor) -> Tensor:
        x = floats(x)
        chosen = torch.randint(len(self.values), x.shape, device=x.device)
        replaced = torch.tensor(self.values, dtype=x.dtype, device=x.device)[chosen]
        return torch.where(torch.rand_like(x) < self.probability, replaced, x)

    @override
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        same = (y - x).abs() < 1e-6
        return ((1 - self.probability) * same + self._replaced(y)).log()

    @override
    def keeps(self, y: Tensor) -> Tensor:
        return (self._replaced(y) == 0) & ~y.isnan()

    @override
    def marginal(self, base: Any, y: Tensor) -> Tensor:
        return torch.logaddexp(*self._ways(base, y))

    @override
    def clean(self, base: Any, y: Tensor) -> Tensor:
        kept, replaced = self._ways(base, y)
        share = (replaced - torch.logaddexp(kept, replaced)).exp()
        return torch.where(torch.rand_like(share) < share, base.sample(), y)

    def _ways(self, base: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y given z) where x was kept, and where it was replaced."""
        replaced = self._replaced(y).log()
        inside = base.support.check(y)
        other = stand_in(base.support, y)
        # Where x has a density, y equals one of these values only if it was replaced.
        is_sure = (replaced > -torch.inf) & ~_has_mass(base, torch.where(inside, y, other))
        may_be_kept = inside & ~is_sure
        # at a pole of the density, or outside its support, gradients are NaN behind a mask too
        log_p = base.log_prob(torch.where(may_be_kept, y, other))
        kept = math.log1p(-self.probability) + log_p
        return kept.masked_fill(~may_be_kept, -torch.inf), replaced.expand_as(kept)

    def _replaced(self, y: Tensor) -> Tensor:
        """Probability that y is what x was replaced by; 0.1 in single and double precision."""
        each = self.probability / len(self.values)
        equal = [(y - value).abs() <= 1e-6 * abs(value) for value in self.values]
        return each * torch.stack(equal).sum(0).to(y)


def floats(x: Any) -> Tensor:
    """Clean values as a tensor of floats."""
    if not isinstance(x, Tensor | np.ndarray):
        raise ArgumentError(
            f"corrupt takes a tensor of clean values, and x is a {type(x).__name__}: give "
            "torch.tensor(x) of its numbers"
        )
    x = torch.as_tensor(x)
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _has_mass(base: Any, x: Tensor) -> Tensor:
    """Whether x, in the support, has a probability above zero, entry by entry."""
    if discrete_entries(base.support, 1)[0]:
        return torch.ones_like(x, dtype=torch.bool)
    if hasattr(base, "point_mass"):
        return base.point_mass(x) > 0
    return torch.zeros_like(x, dtype=torch.bool)


@dataclass(frozen=True)
class SaltAndPepper(_Replacing):
    """y = x, or with a given probability `low` or `high`, equally often.

    Args:
        probability: Share of the entries that are replaced.
        low: Value of pepper.
        high: Value of salt.

    Raises:
        ValueError: `probability` is not between 0 and 1, or a value is not a finite number.

    Example:
        >>> noise = SaltAndPepper(0.2)
        >>> noise.marginal(dist.Bernoulli(torch.tensor(0.9)), torch.tensor(1.0)).exp()
        tensor(0.8200)
    """

    probability: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        real_fields(self, "probability", above=0, below=1)
        real_fields(self, "low", "high")

    @property
    def values(self) -> tuple[float, ...]:
        """Pepper and salt."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Dropout(_Replacing):
    """y = x, or with a given probability `value`: entries that were lost without a mark.

    Entries known to be lost are missing values: make them NaN.

    Args:
        probability: Share of the entries that are lost.
        value: What stands there instead.

    Raises:
        ValueError: `probability` is not between 0 and 1, or `value` is not a finite number.

    Example:
        >>> Dropout(0.5).marginal(dist.Bernoulli(torch.tensor(0.5)), torch.tensor(0.0)).exp()
        tensor(0.7500)
    """

    probability: float
    value: float = 0.0

    def __post_init__(self) -> None:
        real_fields(self, "probability", above=0, below=1)
        real_fields(self, "value")

    @property
    def values(self) -> tuple[float, ...]:
        """The value of lost entries."""
        return (self.value,)


@dataclass(frozen=True)
class PoissonNoise(Noise):
    """Photons: y = n / peak with n ~ Poisson(peak x).

    Args:
        peak: Mean number of photons at x = 1.

    Raises:
        ValueError: `peak` is not positive.

    Example:
        >>> PoissonNoise(2.0).log_prob(torch.tensor(0.5), torch.tensor(1.0)).exp()
        tensor(0.2707)
    """

    peak: float

    def __post_init__(self) -> None:
        real_fields(self, "peak", above=0)

    @override
    def corrupt(self, x: Tensor) -> Tensor:
        return torch.poisson(self.peak * floats(x)) / self.peak

    @override
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        rate = (self.peak * x).expand(torch.broadcast_shapes(x.shape, y.shape))
        counts = (self.peak * y).round()
        is_count = (self.peak * y - counts).abs() < ROUNDED
        log_p = torch.xlogy(counts, rate) - rate - torch.lgamma(counts + 1)
        return log_p.masked_fill(~is_count, -torch.inf)
