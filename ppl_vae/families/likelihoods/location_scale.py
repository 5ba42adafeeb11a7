"""A location and a scale for each element of x, in units of the training rows."""

import math
from collections.abc import Sequence
from typing import Literal, override

import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.units import Units
from ppl_vae.runtime.checks import one_of, real_number

Scale = float | Literal["global", "feature", "decoder"]

NEAR = 1.05  # times the floor: a scale that has reached it


class LocationScale(Likelihood):
    """A location and a scale for each x_i; the scale is fixed, global, per feature or decoded.

    Parameters are in units u_i about a centre c_i, those of the rows that the model starts from:
    location = c_i + u_i raw and scale = u_i (floor + softplus(raw)), so that training does not
    depend on the units of x, while densities are those of x as given. With a global scale all u_i
    are equal. The floor is there because a free scale makes the likelihood unbounded; `concerns`
    reports a scale at its floor.
    """

    measure = "lebesgue"
    support: constraints.Constraint = constraints.real
    remedy = "use NaN for missing values and drop infinite ones"
    num_locations = 1  # raw numbers that make a location

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
        self.floor = real_number(floor, "floor", above=0)
        self.units = Units(self.event_shape)
        self.num_parameters = self.num_locations + (scale == "decoder")
        if scale in ("global", "feature"):
            shape = self.event_shape if scale == "feature" else ()
            self.raw_scale = nn.Parameter(torch.full(shape, self._raw(1.0)))

    def marginal(self, x: Tensor) -> tuple[Tensor, ...]:
        """Location and scale of maximum likelihood for each x_i: 0 and 1 in its units."""
        zero = torch.zeros_like(self.units.centre)
        locations = (zero,) * self.num_locations
        return (*locations, torch.full_like(zero, self._raw(1.0)))[: self.num_parameters]

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
        location = x.nanmean(0)
        return location, self.pooled((x - location).square()).sqrt()

    def pooled(self, terms: Tensor) -> Tensor:
        """The mean of each feature's terms over the rows, or of all where the scale is global."""
        return terms.nanmean() if self.scale == "global" else terms.nanmean(0)

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

    def _relative_scale(self, *raw: Tensor) -> Tensor:
        return self.floor + softplus(raw[-1] if self.scale == "decoder" else self.raw_scale)

    def concerns(self, features: Tensor) -> list[str]:
        """A line where the scale has come within 5 % of its floor."""
        if not isinstance(self.scale, str):
            return []
        smallest = self._relative_scale(*self.parameters_of(features)).min().item()
        if smallest > NEAR * self.floor:
            return []
        return [
            f"{type(self).__name__}: scale {smallest:.3g} has reached its floor {self.floor:g}: "
            "the likelihood is unbounded there (Mattei and Frellsen 2018); raise floor=, fix "
            "scale=, or check for constant features"
        ]

    @override
    def at_floor(self, features: Tensor) -> Tensor:
        if not isinstance(self.scale, str):
            return super().at_floor(features)
        reached = self._relative_scale(*self.parameters_of(features)) <= NEAR * self.floor
        return reached.float().expand(len(features), *self.event_shape).mean(0).cpu()

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale!r}, floor={self.floor:g}"
