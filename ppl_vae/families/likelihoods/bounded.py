"""Likelihoods of values with bounds: positive ones, shares in an interval, angles."""

import math
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.likelihoods.location_scale import LocationScale
from ppl_vae.families.missing import smoothed_mean

__all__ = ["Beta", "ContinuousBernoulli", "Gamma", "LogNormal", "VonMises"]

SHORTEST = 1e-3  # mean vector, below which angles are uniform
NEWTON_STEPS = 40  # each doubles a logit that is too small
POSITIVE_REMEDY = (
    "values must be above 0: for those below a limit of detection use Censored(LogNormal(...), "
    "lower=limit), for counts NegativeBinomial, for real values Gaussian"
)
SHAPE_STEPS = 8  # of a shape from where the error is below 2 %


class LogNormal(LocationScale):
    """Positive values with a normal logarithm: log x_i given z ~ N(location(z), scale^2).

    The median is exp(location), the mean exp(location + scale^2 / 2): a right tail heavier than
    that of `Gamma`.

    Args:
        event_shape: Shape of one observation.
        scale: Standard deviation of log x: a number, "global", "feature" or "decoder", or None, as
            in `Gaussian`.
        floor: Smallest learned scale, in units of the spread of log x in the rows that the model
            starts from; 1 without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Limpert, Stahel and Abbt (2001), Log-normal distributions across the sciences, BioScience
        51.

    Example:
        >>> likelihood = LogNormal(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    support = constraints.positive
    remedy = POSITIVE_REMEDY

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of log x."""
        return super().fitted(x.log())

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedLogNormal(self.location_of(*raw), self.scale_of(*raw))


class Gamma(LocationScale):
    """Positive values with a constant coefficient of variation: mean exp(location(z)), log link.

    The shape is 1 / scale^2, so that the standard deviation is scale times the mean; scale 1 is
    the exponential distribution.

    Args:
        event_shape: Shape of one observation.
        scale: Coefficient of variation: a number, "global", "feature" or "decoder", or None, as
            in `Gaussian`.
        floor: Smallest learned scale, in units of the coefficient of variation of the rows that the
            model starts from; 1 without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 8.

    Example:
        >>> likelihood = Gamma(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """

    support = constraints.positive
    remedy = POSITIVE_REMEDY

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the mean, and 1 / sqrt(shape) by Newton's method.

        References:
            Minka (2002), Estimating a Gamma distribution.
        """
        log_mean = x.nanmean(0).log()
        gap = self.pooled(log_mean - x.log()).clamp(min=0)
        shape = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
        for _ in range(SHAPE_STEPS):
            slope = shape - shape.square() * torch.polygamma(1, shape)
            excess = shape.log() - torch.digamma(shape) - gap
            shape = (shape.reciprocal() + excess / slope).reciprocal()
        return log_mean, shape.rsqrt()

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogMeanGamma(self.location_of(*raw), -2 * self.scale_of(*raw).log())


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


class OpenUnitInterval(constraints.Constraint):
    """0 < x < 1: at the ends a Beta density is zero or infinite."""

    @override
    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


class Beta(LocationScale):
    """Shares in (0, 1): Beta with mean sigmoid(location(z)) and concentration 1 / scale^2.

    The variance is mean (1 - mean) / (1 + concentration). A density: its log-likelihood is not
    comparable with that of bits or levels.

    Args:
        event_shape: Shape of one observation.
        scale: 1 / sqrt(concentration): a number, "global", "feature" or "decoder", or None, as
            in `Gaussian`.
        floor: Smallest learned scale, in units of that of the rows that the model starts from; 1
            without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Ferrari and Cribari-Neto (2004), Beta regression for modelling rates and proportions, J.
        Appl. Statist. 31.

    Example:
        >>> likelihood = Beta(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    support = OpenUnitInterval()
    remedy = (
        "values must lie between 0 and 1, both excluded: use ContinuousBernoulli where 0 and 1 "
        "occur, or move n values inwards by (x (n - 1) + 1/2) / n"
    )

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logit of the mean, and 1 / sqrt(concentration), by moments."""
        mean = x.nanmean(0)
        share = self.pooled((x - mean).square() / (mean * (1 - mean)))  # 1 / (1 + concentration)
        return mean.logit(), (share / (1 - share)).sqrt()

    @override
    def location_of(self, *raw: Tensor) -> Tensor:
        """Logit of each mean."""
        centre = self.units.centre
        # About half the standard deviation of logit x.
        spread = self.units.unit * torch.cosh(0.5 * centre)
        return centre + spread * raw[0]

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.LogitMeanBeta(self.location_of(*raw), -2 * self.scale_of(*raw).log())


class VonMises(LocationScale):
    """Angles in radians, -pi to pi: von Mises around location(z), concentration 1 / scale^2.

    The location is the direction of (1 + u a, u b), a and b from the features, about the mean
    direction of the rows that the model starts from and in units u of their spread: no jump at pi.

    Args:
        event_shape: Shape of one observation.
        scale: 1 / sqrt(concentration), the standard deviation of concentrated angles: a number,
            "global", "feature" or "decoder", or None, as in `Gaussian`.
        floor: Smallest learned scale, in units of that of the rows that the model starts from; 1
            without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Mardia and Jupp (2000), Directional statistics, sections 3.5.4 and 5.3.

    Example:
        >>> likelihood = VonMises(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    support = constraints.interval(-math.pi, math.pi)
    remedy = (
        "angles are in radians from -pi to pi: wrap them by (x + pi) % (2 pi) - pi, after "
        "x pi / 180 where they are degrees"
    )
    num_locations = 2

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean direction, and 1 / sqrt(concentration) by the length of the mean vector.

        References:
            Banerjee et al. (2005), Clustering on the unit hypersphere, JMLR 6, eq. 4.4.
        """
        direction = torch.atan2(x.sin().nanmean(0), x.cos().nanmean(0))
        length = self.pooled((x - direction).cos()).clamp(min=SHORTEST)
        share = 1 - length.square()
        return direction, (share / (length * (1 + share))).sqrt()

    @override
    def location_of(self, *raw: Tensor) -> Tensor:
        """Direction of each x_i, an angle."""
        unit = self.units.unit.clamp(max=1)
        return self.units.centre + torch.atan2(unit * raw[1], 1 + unit * raw[0])

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        concentration = self.scale_of(*raw).pow(-2)
        return densities.HalfAngleVonMises(self.location_of(*raw), concentration)
