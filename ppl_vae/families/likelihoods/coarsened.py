"""Likelihoods of values recorded coarsely: levels of a pixel, beyond a limit, rounded."""

import math
import zlib
from collections.abc import Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.likelihoods.location_scale import LocationScale, Scale
from ppl_vae.runtime.checks import instance_of, shown, whole_number

__all__ = ["Censored", "DiscretizedLogistic", "DiscretizedLogisticMixture"]

SLACK = 1e-3  # of a width, within which a value counts as one of the grid
MOST_NAMED = 4  # limits of features, beyond which the measure has a digest of them
UNIFORM = math.sqrt(1 / 12)  # standard deviation on [0, 1]
SCALE = math.sqrt(3) / math.pi  # of a logistic distribution with variance 1


class _Levels(LocationScale):
    """Values 0, 1 / (L - 1), ..., 1: logistic distributions, rounded, open-ended at 0 and 1.

    Units are those of a uniform distribution until there are rows.
    """

    measure = "counting"

    def __init__(
        self, event_shape: int | Sequence[int], num_levels: int, scale: Scale | None, floor: float
    ) -> None:
        super().__init__(event_shape, scale, floor=floor)
        self.num_levels = whole_number(num_levels, "num_levels", at_least=2)
        self.support = densities.Grid(self.num_levels)
        self.remedy = (
            f"the {num_levels} levels are k / {num_levels - 1}, k = 0, 1, ..., {num_levels - 1}: "
            "divide whole numbers by the largest, set num_levels, or use ContinuousBernoulli for "
            "other values in [0, 1]"
        )
        half = torch.full(self.event_shape, 0.5)
        self.units.set(half, SCALE * UNIFORM * torch.ones_like(half))

    @override
    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By moments; levels that do not vary have half a level's width for a spread."""
        mean, spread = super().fitted(x)
        least = 0.5 / (self.num_levels - 1)
        return mean.nan_to_num(0.5), SCALE * spread.nan_to_num(UNIFORM).clamp(min=least)

    @override
    def concerns(self, features: Tensor) -> list[str]:
        """None, since no probability is above 1."""
        return []

    @override
    def at_floor(self, features: Tensor) -> Tensor:
        return torch.zeros(self.event_shape)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_levels={self.num_levels}"


class DiscretizedLogistic(_Levels):
    """Levels 0, 1 / (L - 1), ..., 1: a logistic distribution rounded to the nearest level.

    The lowest and the highest level have what lies beyond them too. Bits per dimension are
    -log p(x) / (P log 2) for P elements.

    Args:
        event_shape: Shape of one observation.
        num_levels: Number of levels L.
        scale: Scale of the logistic distribution: a number, "global", "feature" or "decoder", or
            None, as in `Gaussian`.
        floor: Smallest learned scale, in units of that of the rows that the model starts from;
            without such rows, of a uniform distribution.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `num_levels` is below 2, or `scale` is as in `Gaussian`.

    References:
        Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
        arXiv:1606.04934, appendix C.

    Example:
        >>> likelihood = DiscretizedLogistic((8, 8), num_levels=17)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        num_levels: int = 256,
        *,
        scale: Scale | None = None,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(event_shape, num_levels, scale, floor)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        logistic = densities.Logistic(self.location_of(*raw), self.scale_of(*raw))
        return densities.Levels(logistic, self.num_levels)


class DiscretizedLogisticMixture(_Levels):
    """Levels 0, 1 / (L - 1), ..., 1: a mixture of rounded logistic distributions for each element.

    Weights, locations and scales come from z. Elements are independent given z: the channels of a
    pixel too, other than in PixelCNN++.

    Args:
        event_shape: Shape of one observation.
        num_levels: Number of levels L.
        num_components: Number of components.
        floor: Smallest scale, in units of that of the rows that the model starts from; without such
            rows, of a uniform distribution.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `num_levels` is below 2 or `num_components` below 1.

    References:
        Salimans et al. (2017), PixelCNN++, arXiv:1701.05517, section 2.1.

    Example:
        >>> likelihood = DiscretizedLogisticMixture((8, 8), num_levels=17, num_components=3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        num_levels: int = 256,
        *,
        num_components: int = 5,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(event_shape, num_levels, "decoder", floor)
        self.num_components = whole_number(num_components, "num_components")
        self.num_parameters = 3 * self.num_components

    @override
    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """Equal weights; half of the variance is that between the components."""
        num = self.num_components
        places = torch.arange(num) - 0.5 * (num - 1)
        places = (places / places.square().mean().sqrt()).nan_to_num()  # of variance 1, or 0
        share = 0.5 * (num > 1)
        locations = math.sqrt(share) / SCALE * places
        scale = self._raw(math.sqrt(1 - share))
        one = torch.ones_like(self.units.centre)
        return (*(0 * one,) * num, *(one * place for place in locations), *(scale * one,) * num)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        logits, locations, scales = torch.stack(raw, dim=-1).chunk(3, dim=-1)
        unit = self.units.unit.unsqueeze(-1)
        location = self.units.centre.unsqueeze(-1) + unit * locations
        logistic = densities.Logistic(location, unit * (self.floor + softplus(scales)))
        levels = densities.Levels(logistic, self.num_levels)
        return densities.LevelsMixture(dist.Categorical(logits=logits), levels)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_components={self.num_components}"


class Censored(Likelihood):
    """Values known only to lie beyond a limit, or rounded: p(x given z) is that of what is known.

    With F the distribution function of the base at z, h half the width and 0 without,

        P(x) = F(lower + h) where x <= lower,    1 - F(upper - h) where x >= upper,
               F(x + h) - F(x - h) between them, or the density of the base without a width.

    So a tobit model, a limit of detection, or ages in whole years. Draws are rounded to steps of
    the width from a limit, or else from 0, and clamped to the limits; `mean` is that of the base,
    of what would have been recorded in full. A value less than a width from a limit is refused: its
    interval would overlap that of the limit. log p(x) is compared only with that of equal limits
    and width.

    Args:
        base: A likelihood whose distribution function has a derivative: `Gaussian`, `Laplace` or
            `LogNormal`.
        lower: Lower limit, a number or one for each feature (-inf for none): values at or below it
            are left-censored.
        upper: Upper limit, likewise (inf for none): values at or above it are right-censored.
        width: Width of the intervals around x that the values lie in.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape of the base

    Raises:
        ValueError: the base has no such distribution function, the limits or the width do not fit,
            or no whole number of widths lies between the limits.

    References:
        Tobin (1958), Estimation of relationships for limited dependent variables, Econometrica 26;
        Heitjan and Rubin (1991), Ignorability and coarse data, Annals of Statistics 19.

    Example:
        >>> from ppl_vae.families.likelihoods.real import Gaussian
        >>> likelihood = Censored(Gaussian(3), lower=0.0)
        >>> likelihood.build((2,))
        >>> bool((likelihood(torch.zeros(5, 2)).sample() >= 0).all())
        True
    """

    lower: Tensor
    upper: Tensor
    width: Tensor | None

    def __init__(
        self, base: Likelihood, lower: Any = None, upper: Any = None, width: Any = None
    ) -> None:
        super().__init__(instance_of(base, "Censored(base)", Likelihood).event_shape)
        refuse_without_log_cdf(base)
        limits = {"lower": lower, "upper": upper, "width": width}
        self.given = {name: value for name, value in limits.items() if value is not None}
        if not self.given:
            raise ValueError("Censored needs lower=, upper= or width=: without, use its base alone")
        self.base = base
        self.num_parameters = base.num_parameters
        self.remedy = base.remedy
        for name in limits:
            # In float64, so that they are rounded as x is, whatever its type.
            self.register_buffer(name, self._values(name), persistent=False)
        if (self.lower >= self.upper).any():
            raise ValueError(f"Censored: lower {lower} must lie below upper {upper}")
        half = torch.zeros(()) if self.width is None else 0.5 * self.width
        if self.width is not None and not ((half > 0) & half.isfinite()).all():
            raise ValueError(f"Censored: width is {width}; it must be finite, above 0")
        self._refuse_partial_widths()
        self.support = densities.Recorded(base.support, self.lower, self.upper, half)
        self.measure = self._measure(half)

    def _values(self, name: str) -> Tensor | None:
        """A limit or a width for each feature; infinite limits where there is none."""
        default = {"lower": -torch.inf, "upper": torch.inf, "width": None}[name]
        value = self.given.get(name, default)
        if value is None:
            return None
        values = torch.as_tensor(value, dtype=torch.float64)
        try:
            values = values.expand(self.event_shape).clone()
        except RuntimeError:
            raise ValueError(
                f"Censored: {name} has shape {tuple(values.shape)}; give a number, or one for each "
                f"feature, {tuple(self.event_shape)}"
            ) from None
        if values.isnan().any():
            raise ValueError(f"Censored: {name} is NaN; infinite limits are none")
        return values

    def _refuse_partial_widths(self) -> None:
        """Raise ValueError unless a whole number of widths lies between finite limits."""
        if self.width is None:
            return
        steps = (self.upper - self.lower) / self.width
        if (steps.isfinite() & ((steps - steps.round()).abs() > SLACK)).any():
            raise ValueError(
                f"Censored: between lower {self.given['lower']} and upper {self.given['upper']} "
                f"lies no whole number of widths of {self.given['width']}, so that their intervals "
                "overlap: move a limit"
            )

    @override
    def check(self, x: Tensor) -> None:
        """Raise unless every value could have been recorded.

        Raises:
            ValueError: a value is outside the support, or so near a limit that their intervals
                overlap; names value, row and feature.
        """
        super().check(x)
        if self.width is None:
            return
        lower, upper, width = (each.to(x.device) for each in (self.lower, self.upper, self.width))
        for name, distance in (("lower", x - lower), ("upper", upper - x)):
            steps = distance / width
            why = (
                f"that is less than the width of {self.given['width']} from {name} "
                f"{self.given.get(name)}, so that their intervals overlap: move the limit"
            )
            self._refuse((steps > SLACK) & (steps < 1 - SLACK), x, why)

    def _measure(self, half: Tensor) -> str:
        """What log p(x) is that of, in words."""
        parts = ["a density of x"]
        if self.width is not None:
            parts = [f"the probability of x within {written(half)}"]
        for name, sign in (("lower", "<="), ("upper", ">=")):
            if name in self.given:
                parts.append(f"P(x {sign} {written(getattr(self, name))})")
        return " and ".join(parts)

    @override
    def build(self, feature_shape: Sequence[int]) -> None:
        self.base.build(feature_shape)

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        """The base at the marginals of what was recorded, as if it were in full."""
        self._check_shape(x)
        recorded = x.clamp(self.lower.to(x), self.upper.to(x))
        if self.width is not None:  # a positive value may have been rounded to zero
            inside = self.base.support.check(recorded)
            recorded = torch.where(inside, recorded, recorded + 0.5 * self.width.to(x))
        self.base.start_at(recorded)

    @override
    def parameters_of(self, features: Tensor) -> tuple[Tensor, ...]:
        return self.base.parameters_of(features)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        width = None if self.width is None else self.width.to(raw[0])
        lower, upper = (limit.to(raw[0]) for limit in (self.lower, self.upper))
        return densities.Coarsened(self.base.elementwise(*raw), lower, upper, width)

    @override
    def concerns(self, features: Tensor) -> list[str]:
        return self.base.concerns(features)

    @override
    def at_floor(self, features: Tensor) -> Tensor:
        if self.width is None:
            return self.base.at_floor(features)
        return super().at_floor(features)

    @override
    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.given.items())


def refuse_without_log_cdf(base: Likelihood) -> None:
    """Raise ValueError unless the elements have the distribution functions that are needed."""
    raw = [torch.zeros(base.event_shape)] * base.num_parameters
    with torch.no_grad():
        element = base.elementwise(*raw)
    if not hasattr(element, "log_around"):
        raise ValueError(
            f"Censored({type(base).__name__}(...)): its distribution function has no derivative "
            "here; use Gaussian or Laplace for real values, LogNormal for positive ones"
        )


def written(values: Tensor) -> str:
    """The number, a few numbers, or the digest of many: equal for equal values alone."""
    different = values.unique()
    if len(different) == 1:
        return shown(different[0])
    if values.numel() <= MOST_NAMED:
        return f"({', '.join(map(shown, values.flatten()))})"
    return f"{values.numel()} numbers {zlib.crc32(values.numpy().tobytes()):08x}"
