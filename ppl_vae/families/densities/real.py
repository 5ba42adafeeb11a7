"""Real and positive values: residuals in units of a scale, tails by their logarithms."""

import math
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.families.densities.series import HALF_LOG_2PI, relative_deviance, stirling_error

__all__ = [
    "LogMeanGamma",
    "Logistic",
    "StandardisedLaplace",
    "StandardisedLogNormal",
    "StandardisedNormal",
    "StandardisedStudentT",
]

LOG_2 = math.log(2)
NARROW = 0.5  # |m| h up to which the rule below is exact to rounding
# Positive nodes and weights of the Gauss-Legendre rule of 6 points on [-1, 1], weights over 2.
LEGENDRE = (
    (0.2386191860831969, 0.4679139345726910),
    (0.6612093864662645, 0.3607615730481386),
    (0.9324695142031521, 0.1713244923791704),
)


class LogNormalTail(torch.autograd.Function):
    """log P(Z <= t), Z ~ N(0, 1); torch's derivative has lost its digits at t = -100."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        """The value."""
        return torch.special.log_ndtr(t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """phi(t) / Phi(t), by the scaled complementary error function."""
        (t,) = ctx.saved_tensors
        return gradient * math.sqrt(2 / math.pi) / torch.special.erfcx(-t * math.sqrt(0.5))


def log_ndtr(t: Tensor) -> Tensor:
    """log P(Z <= t), Z ~ N(0, 1)."""
    return LogNormalTail.apply(t)


class StandardisedNormal(dist.Normal):
    """N(loc, scale^2) by its standardised residual; torch squares the scale, which underflows.

    Example:
        >>> StandardisedNormal(torch.zeros(()), torch.tensor(1e-30)).log_prob(torch.tensor(1e-30))
        tensor(67.6586)
    """

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual = (value - self.loc) / self.scale
        return -0.5 * residual * residual - self.scale.log() - HALF_LOG_2PI

    def log_cdf(self, value: Tensor) -> Tensor:
        """log P(X <= value)."""
        return log_ndtr((value - self.loc) / self.scale)

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(X > value)."""
        return log_ndtr((self.loc - value) / self.scale)

    def log_around(self, value: Tensor, half: Tensor) -> Tensor:
        """log P(value - half < X <= value + half), half > 0, of any size beside the scale.

        With m = |value - loc| / scale and h = half / scale, an average of the density over narrow
        intervals, and a difference of tails over wide ones.
        """
        m = ((value - self.loc) / self.scale).abs()
        h = half / self.scale
        narrow = h * m.clamp(min=1) < NARROW
        return torch.where(
            narrow,
            _log_average(torch.where(narrow, m, 0.0), torch.where(narrow, h, 0.1)),
            _log_between_tails(torch.where(narrow, 0.0, m), torch.where(narrow, 1.0, h)),
        )


def _log_average(m: Tensor, h: Tensor) -> Tensor:
    """log P(|Z - m| < h) = log(2 h phi(m)) + log of the mean of phi(m + h t) / phi(m), |t| < 1."""
    ratios = [w * torch.cosh(m * h * t) * torch.exp(-0.5 * (h * t) ** 2) for t, w in LEGENDRE]
    return -0.5 * m * m - HALF_LOG_2PI + (2 * h).log() + torch.stack(ratios).sum(0).log()


def _log_between_tails(m: Tensor, h: Tensor) -> Tensor:
    """log(P(Z > m - h) - P(Z > m + h)), m >= 0."""
    larger = log_ndtr(h - m)
    return larger + (-torch.exp(log_ndtr(-m - h) - larger)).log1p()


class StandardisedLaplace(dist.Laplace):
    """Laplace(loc, scale), with the logarithms of its distribution function.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> StandardisedLaplace(zero, one).log_survival(torch.tensor(200.0))
        tensor(-200.6931)
    """

    def log_cdf(self, value: Tensor) -> Tensor:
        """log P(X <= value)."""
        return _log_laplace((value - self.loc) / self.scale)

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(X > value)."""
        return _log_laplace((self.loc - value) / self.scale)

    def log_around(self, value: Tensor, half: Tensor) -> Tensor:
        """log P(value - half < X <= value + half), half > 0."""
        m = ((value - self.loc) / self.scale).abs()
        h = half / self.scale
        aside = h - m - LOG_2 + (-torch.expm1(-2 * h)).log()
        around = -0.5 * (torch.expm1(-(h - m).clamp(min=0)) + torch.expm1(-h - m))
        return torch.where(h < m, aside, around.log())


def _log_laplace(t: Tensor) -> Tensor:
    """log P(X <= t) of Laplace(0, 1)."""
    return torch.where(t < 0, t - LOG_2, (-0.5 * torch.exp(-t.clamp(min=0))).log1p())


class Logistic(dist.TorchDistribution):
    """Logistic distribution: P(X <= x) = sigmoid((x - loc) / scale).

    Args:
        loc: Mean and median.
        scale: Standard deviation times sqrt(3) / pi.

    Example:
        >>> Logistic(torch.zeros(()), torch.ones(())).log_cdf(torch.tensor(-100.0))
        tensor(-100.)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(self, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: "Logistic | None" = None) -> "Logistic":
        new = self._get_checked_instance(Logistic, _instance)
        scale = self.scale.expand(batch_shape)
        Logistic.__init__(new, self.loc.expand(batch_shape), scale, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(pi scale)^2 / 3."""
        return (math.pi * self.scale).square() / 3

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        return logsigmoid(t) + logsigmoid(-t) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        return torch.sigmoid((value - self.loc) / self.scale)

    def log_cdf(self, value: Tensor) -> Tensor:
        """log P(X <= value)."""
        return logsigmoid((value - self.loc) / self.scale)

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(X > value)."""
        return logsigmoid((self.loc - value) / self.scale)

    def log_around(self, value: Tensor, half: Tensor) -> Tensor:
        """log P(value - half < X <= value + half), half > 0."""
        t = (value - self.loc) / self.scale
        h = half / self.scale
        return logsigmoid(t + h) + logsigmoid(h - t) + (-torch.expm1(-2 * h)).log()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: the logits of uniform numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            tiny = torch.finfo(self.loc.dtype).tiny
            return self.loc + self.scale * (uniform.clamp(min=tiny).log() - (-uniform).log1p())


class StandardisedStudentT(dist.StudentT):
    """Student's t, with its normaliser by the errors of Stirling's formula.

    With a = df / 2, t = (x - loc) / (scale sqrt(df)) and S that error, log p(x) is

        a log(1 + 1 / (2 a)) - 1/2 + S(a + 1/2) - S(a)
        - (a + 1/2) log(1 + t^2) - log scale - log(2 pi) / 2,

    whose first four terms vanish as df grows.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> StandardisedStudentT(torch.tensor(1e8), zero, one).log_prob(zero)
        tensor(-0.9189)
    """

    def __init__(
        self, df: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.degrees = df  # not broadcast: their functions are computed once for all particles
        super().__init__(df, loc, scale, validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "StandardisedStudentT | None" = None
    ) -> "StandardisedStudentT":
        new = self._get_checked_instance(StandardisedStudentT, _instance)
        new.degrees = self.degrees
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a = 0.5 * self.degrees
        larger, smaller = stirling_error(torch.stack([a + 0.5, a]))
        normaliser = a * (0.5 / a).log1p() - 0.5 + larger - smaller - HALF_LOG_2PI
        gap = value - self.loc
        log_scale = self.scale.log()
        width = self.scale * self.degrees.sqrt()
        far = gap.abs() > width  # by logarithms, since the square would overflow
        near = (torch.where(far, 0.0, gap) / width).square().log1p()
        log_t = torch.where(far, gap, 1.0).abs().log() - log_scale - 0.5 * self.degrees.log()
        log_t = torch.where(far, log_t, 0.0)
        log_sum = torch.where(far, 2 * log_t + torch.exp(-2 * log_t).log1p(), near)
        return normaliser - (a + 0.5) * log_sum - log_scale


class StandardisedLogNormal(dist.LogNormal):
    """exp(Y), Y ~ N(loc, scale^2), with the logarithms of its distribution function.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> StandardisedLogNormal(zero, one).log_cdf(torch.tensor(1.0))
        tensor(-0.6931)
    """

    base_dist: StandardisedNormal

    def __init__(self, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.base_dist = StandardisedNormal(loc, scale, validate_args=False)

    @override
    def expand(
        self, batch_shape: Any, _instance: "StandardisedLogNormal | None" = None
    ) -> "StandardisedLogNormal":
        new = self._get_checked_instance(StandardisedLogNormal, _instance)
        return super().expand(batch_shape, _instance=new)

    def log_cdf(self, value: Tensor) -> Tensor:
        """log P(X <= value), value > 0."""
        return self.base_dist.log_cdf(value.log())

    def log_survival(self, value: Tensor) -> Tensor:
        """log P(X > value), value > 0."""
        return self.base_dist.log_survival(value.log())

    def log_around(self, value: Tensor, half: Tensor) -> Tensor:
        """log P(value - half < X <= value + half), value >= 0, half > 0."""
        # On the scale of logarithms, from the ratio, since their difference would cancel.
        ratio = half / value
        inside = ratio < 1
        ratio = torch.where(inside, ratio, 0.5)
        middle = torch.where(inside, value, 1.0).log() + 0.5 * (-ratio * ratio).log1p()
        between = self.base_dist.log_around(middle, torch.atanh(ratio))
        return torch.where(inside, between, self.log_cdf(value + half))


class LogMeanGamma(dist.Gamma):
    """Gamma with mean m = exp(log_mean) and shape a = exp(log_shape): variance m^2 / a.

    With t = log(x / m) and S the error of Stirling's formula,

        log p(x) = -a (exp(t) - 1 - t) + log(a) / 2 - S(a) - log x - log(2 pi) / 2,

    in which no large terms cancel where a is large.

    Args:
        log_mean: log of the mean.
        log_shape: log a.

    Example:
        >>> zero = torch.zeros(())
        >>> LogMeanGamma(zero, torch.tensor(1e10).log()).log_prob(torch.tensor(1.0))
        tensor(10.5940)
    """

    def __init__(
        self, log_mean: Tensor, log_shape: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.log_mean = log_mean
        self.log_shape = log_shape
        shape = log_shape.exp()
        super().__init__(shape, shape * torch.exp(-log_mean), validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: "LogMeanGamma | None" = None) -> "LogMeanGamma":
        new = self._get_checked_instance(LogMeanGamma, _instance)
        new.log_mean = self.log_mean
        new.log_shape = self.log_shape
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = self.log_shape.exp()
        log_value = value.log()
        deviance = relative_deviance(log_value - self.log_mean)
        normaliser = 0.5 * self.log_shape - stirling_error(shape) - HALF_LOG_2PI
        return normaliser - shape * deviance - log_value
