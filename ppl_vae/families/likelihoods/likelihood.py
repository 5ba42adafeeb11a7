"""Likelihoods: independent elements of x, each with parameters from the features."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.missing import outside_of
from ppl_vae.families.modules import shape_of
from ppl_vae.families.networks.readout import Readout
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import shown


class Likelihood(Part, nn.Module, ABC):
    """p(x given z) = prod_i p(x_i given parameters_i(features)); a family implements `elementwise`.

    Subclasses state the `support` of one element, its `num_parameters`, its `measure` ("counting":
    a probability; "lebesgue": a density; another word for another measure; only log p(x) of equal
    measures are compared), and the `remedy` for x outside the support. Those that `take_exposure`
    implement `exposed` as well: a number known for each row, such as a time at risk, then enters
    p(x given z).
    """

    num_parameters = 1
    measure: str = "counting"
    takes_exposure = False
    support: constraints.Constraint
    remedy = ""
    independent = True  # elements given z, and not one joint density of all
    names: Sequence[str] = ()  # of the elements of x, where they have any
    levels: Mapping[str, tuple[str, ...]] = {}  # of the categories among them

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = shape_of(event_shape)
        self.link: Readout | None = None

    @property
    def is_joint(self) -> bool:
        """Whether the entries of x lie in the support, and are missing, together."""
        return self.support.event_dim > 0

    def build(self, feature_shape: Sequence[int]) -> None:
        """Make the last linear map for features of this shape; `Model` calls it."""
        if self.link is not None:
            raise ValueError(f"this {type(self).__name__} is already in a Model: make another one")
        self.link = Readout(feature_shape, self.num_parameters, self.event_shape)

    def marginal(self, x: Tensor) -> tuple[Tensor, ...] | None:
        """The raw parameters under which each x_i has its mean; None leaves the link alone."""
        return None

    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        """Let features of zero give the marginal of each x_i ever observed; x (N, *event)."""
        self._check_shape(x)
        raw = self.marginal(x)
        if raw is not None:
            self.start_link(x, *raw)

    def start_link(self, x: Tensor, *raw: Tensor) -> None:
        """Let features of zero give these raw parameters of each x_i ever observed."""
        if self.link is not None:
            start = torch.stack([each.expand(self.event_shape) for each in raw])
            self.link.set_bias(start.masked_fill(x.isnan().all(0), torch.nan))

    @abstractmethod
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        """p(x_i), or of x_i that depend on each other, from `num_parameters` raw tensors.

        They are unconstrained, of shape (*batch, *event_shape).
        """

    def exposed(self, exposure: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        """p(x_i) of rows with this exposure, (B, 1, ...)."""
        raise NotImplementedError(f"{type(self).__name__} takes no exposure")

    def exposure_in(self, x: Tensor) -> Tensor | None:
        """The exposure of each row that x itself shows, (N, ...); None where it shows none."""
        return None

    def parameters_of(self, features: Tensor) -> tuple[Tensor, ...]:
        """The unconstrained parameters of each x_i."""
        if self.link is None:
            raise RuntimeError(
                f"{type(self).__name__} has no link yet: give it to a Model, or call "
                "build(feature_shape)"
            )
        return self.link(features).unbind(-1 - len(self.event_shape))

    def entries(self, features: Tensor, exposure: Tensor | None = None) -> dist.TorchDistribution:
        """The distributions of the x_i, which `forward` joins."""
        raw = self.parameters_of(features)
        if exposure is None or not self.takes_exposure:
            return self.elementwise(*raw)
        return self.exposed(exposure, *raw)

    def forward(self, features: Tensor, exposure: Tensor | None = None) -> dist.Independent:
        """p(x given features), and given the exposure of each row, (B, 1, ...), if it has one."""
        entries = self.entries(features, exposure)
        return entries.to_event(len(self.event_shape) - entries.event_dim)

    def check_exposure(self, x: Tensor, exposure: Tensor, name: str | int) -> None:
        """Raise ValueError unless the exposure of each row, (N, 1, ...), is a positive number."""
        wrong = ~((exposure > 0) & exposure.isfinite()).flatten()
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"exposure={name!r} is {shown(exposure.flatten()[row])} at row {row}: it must be "
                "positive, since it multiplies the mean; leave such rows out"
            )

    def check(self, x: Tensor) -> None:
        """Raise unless every observed value lies in the support (NaN is missing).

        Raises:
            ValueError: the event shape is wrong, or a value is outside the support; names value,
                row and feature.
        """
        self._check_shape(x)
        self._refuse(outside_of(self.support, x), x, self.remedy)

    def _refuse(self, wrong: Tensor, x: Tensor, why: str) -> None:
        """Raise ValueError for the first wrong value, by its row and feature."""
        if not wrong.any():
            return
        row, *feature = wrong.nonzero()[0].tolist()
        place = feature[0] if len(feature) == 1 else tuple(feature)
        if self.names and len(feature) == 1:
            place = self.names[feature[0]]
        raise ValueError(
            f"{type(self).__name__}: x is {shown(x[row, *feature])} at row {row}, "
            f"feature {place}; {why}"
        )

    def _check_shape(self, x: Tensor) -> None:
        if x.shape[-len(self.event_shape) :] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}({tuple(self.event_shape)}) was given x of shape "
                f"{tuple(x.shape)}: one observation must have shape {tuple(self.event_shape)}"
            )

    def concerns(self, features: Tensor) -> list[str]:
        """Concerns about the fitted parameters at these features; empty when there are none."""
        return []

    def at_floor(self, features: Tensor) -> Tensor:
        """Share of the rows in which the scale of each x_i, of a density, is at its floor."""
        return torch.zeros(self.event_shape)

    @override
    def extra_repr(self) -> str:
        return str(tuple(self.event_shape))
