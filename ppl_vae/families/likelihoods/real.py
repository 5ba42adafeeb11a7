"""Likelihoods of real values: a location and a scale for each."""

import math
from collections.abc import Sequence
from typing import Literal, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.units import Units
from ppl_vae.runtime.checks import one_of, real_number

__all__ = ["Gaussian", "StudentT"]

Scale = float | Literal["global", "feature", "decoder"]


class _LocationScale(Likelihood):
    """Real x_i; the scale is fixed, global, per feature or from the decoder.

    Parameters are in units u_i about a centre c_i, those of the rows that the model starts from:
    location = c_i + u_i raw and scale = u_i (floor + softplus(raw)), so that training does not
    depend on the units of x, while densities are those of x as given. With a global scale all u_i
    are one. The floor is there because a free scale makes the likelihood unbounded; `concerns`
    reports a scale at its floor.
    """

    measure = "lebesgue"
    support = constraints.real
    remedy = "use NaN for missing values and drop infinite ones"
    num_sweeps = 1  # over the data, until location and scale are those of maximum likelihood

    def __init__(
        self, event_shape: int | Sequence[int], scale: Scale | None = None, *, floor: float = 1e-3
    ) -> None:
        super().__init__(event_shape)
        if scale is None:
            scale = "feature" if len(self.event_shape) == 1 else "global"
        if isinstance(scale, str):
            one_of(scale, "scale, if not a number,", ("global", "feature", "decoder"))
        else:
            real_number(scale, "scale", above=0)
        self.scale = scale
        self.floor = floor
        self.units = Units(self.event_shape)
        self.num_parameters = 1 + (scale == "decoder")
        if scale in ("global", "feature"):
            shape = self.event_shape if scale == "feature" else ()
            self.raw_scale = nn.Parameter(torch.full(shape, self._raw(1.0)))

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """Location and scale of maximum likelihood for each x_i: 0 and 1 in its units."""
        zero = torch.zeros_like(self.units.centre)
        return (zero, torch.full_like(zero, self._raw(1.0)))[: self.num_parameters]

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        self._check_shape(x)
        self.units.set(*self.fitted(x.double()))
        super().start_at(x)
        if self.scale in ("global", "feature"):
            with torch.no_grad():
                self.raw_scale.fill_(self._raw(1.0))

    def fitted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale (one for all where it is global) of maximum likelihood."""
        weights = torch.ones_like(x).where(~x.isnan(), x)
        for _ in range(self.num_sweeps):
            location = (weights * x).nansum(0) / weights.nansum(0)
            squared = (x - location).square()
            terms = weights * squared
            variance = terms.nanmean() if self.scale == "global" else terms.nanmean(0)
            weights = self.weights(squared / torch.where(variance > 0, variance, 1.0))
        return location, variance.sqrt()

    def weights(self, squared: Tensor) -> Tensor:
        """Weight of an observation by its squared standardised residual; NaN where missing."""
        return torch.ones_like(squared).where(~squared.isnan(), squared)

    def _raw(self, scale: float) -> float:
        """The unconstrained value of this scale."""
        excess = max(scale - self.floor, self.floor)
        return excess + math.log(-math.expm1(-excess))

    def location_of(self, *raw: Tensor) -> Tensor:
        """Location of each x_i, in the units of x."""
        return self.units.centre + self.units.unit * raw[0]

    def scale_of(self, *raw: Tensor) -> Tensor:
        """Standard deviation (or scale) of each x_i, in the units of x."""
        if not isinstance(self.scale, str):
            return raw[0].new_tensor(self.scale)
        return self.units.unit * self._relative_scale(*raw)

    def _relative_scale(self, location: Tensor, *raw: Tensor) -> Tensor:
        return self.floor + softplus(raw[0] if raw else self.raw_scale)

    def concerns(self, features: Tensor) -> list[str]:
        """A line where the scale has come within 5 % of its floor."""
        if not isinstance(self.scale, str):
            return []
        smallest = self._relative_scale(*self.parameters_of(features)).min().item()
        if smallest > 1.05 * self.floor:
            return []
        return [
            f"{type(self).__name__}: scale {smallest:.3g} has reached its floor {self.floor:g}: "
            "the likelihood is unbounded there (Mattei and Frellsen 2018); raise floor=, fix "
            "scale=, or check for constant features"
        ]

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale!r}, floor={self.floor:g}"


class Gaussian(_LocationScale):
    """Real values: p(x_i given z) = N(location_i(z), scale_i^2).

    The floor bounds the likelihood, which a collapsed variance would make infinite.

    Args:
        event_shape: Shape of one observation.
        scale: A number (fixed), "global" (one, learned), "feature" (one per feature, learned) or
            "decoder" (from z). None is "feature" for vectors and "global" for images, whose
            pixels have one unit.
        floor: Smallest learned scale, in units of the spread of the rows that the model starts
            from; in those of x without such rows.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` is not positive or not one of the three words.

    References:
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable models,
        arXiv:1802.04826.

    Example:
        >>> likelihood = Gaussian(3, scale=0.5)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).batch_shape
        torch.Size([5])
    """

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedNormal(self.location_of(*raw), self.scale_of(*raw))


class StudentT(_LocationScale):
    """Real values with heavy tails: p(x_i given z) = StudentT(df, location_i(z), scale_i).

    Robust to outliers; df is learned per feature unless fixed, and stays above 2 so that the
    variance exists.

    Args:
        event_shape: Shape of one observation.
        scale: A number, "global", "feature" or "decoder", or None, as in `Gaussian`.
        floor: Smallest learned scale, in units of the spread of the rows that the model starts
            from; in those of x without such rows.
        df: Degrees of freedom; None learns one per feature (above 2).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `scale` or `df` is not positive.

    References:
        Takahashi et al. (2018), Student-t variational autoencoder for robust density estimation,
        IJCAI.

    Example:
        >>> likelihood = StudentT(3, scale="decoder")
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: Scale | None = None,
        *,
        floor: float = 1e-3,
        df: float | None = None,
    ) -> None:
        super().__init__(event_shape, scale, floor=floor)
        if df is not None:
            real_number(df, "df", above=0)
        self.df = df
        if df is None:
            self.raw_df = nn.Parameter(torch.full(self.event_shape, 3.0))

    num_sweeps = 30

    @override
    def weights(self, squared: Tensor) -> Tensor:
        df = self._df(squared).detach()  # the weights of the EM algorithm
        return (df + 1) / (df + squared)

    def _df(self, like: Tensor) -> Tensor:
        return 2 + softplus(self.raw_df) if self.df is None else like.new_tensor(self.df)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        return densities.StandardisedStudentT(
            self._df(raw[0]), self.location_of(*raw), self.scale_of(*raw)
        )
