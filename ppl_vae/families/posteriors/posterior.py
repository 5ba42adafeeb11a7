"""Variational families q(z given x): encoder features in, a distribution over z out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.networks.readout import Readout
from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory

FLOOR = 1e-6  # smallest posterior sd; z is of order one
SPACINGS = 64  # smallest posterior sd over the distance between floats at its mean
UNIT = 0.5413  # softplus of it is 1


def resolved(scale: Tensor, loc: Tensor) -> Tensor:
    """The sd of a latent, or a wider one that its float type needs at this mean.

    Far from the rows of training an encoder may give N(-40, 1e-6^2): in float32 all its draws are
    one number, their weights are equal, and k-hat would be that of an exact guide.
    """
    return torch.maximum(scale, SPACINGS * torch.finfo(loc.dtype).eps * loc.abs())


def scale_of(raw: Tensor, loc: Tensor) -> Tensor:
    """The sd of a latent from an unconstrained number."""
    return resolved(FLOOR + softplus(raw), loc)


def inverse_softplus(scale: Tensor) -> Tensor:
    """log(exp(scale) - 1) after the floor is subtracted: what a family maps to this scale."""
    y = (scale - FLOOR).clamp(min=FLOOR)
    return y + torch.log(-torch.expm1(-y))


class Posterior(Part, nn.Module, ABC):
    """q(z given x) from features; families implement `distribution` of `num_parameters` numbers.

    A family states its `support`, which must be that of the model's prior.
    """

    num_parameters: int
    support: constraints.Constraint = constraints.real_vector

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole_number(latent_dim, "latent_dim")
        require_memory(f"latent_dim={latent_dim}", self.latent_dim)
        self.link: Readout | None = None

    def build(self, feature_shape: Sequence[int]) -> None:
        """Make the last linear map for features of this shape; `Guide` calls it."""
        if self.link is not None:
            raise ValueError(f"this {type(self).__name__} is already in a Guide: make another one")
        self.link = Readout(feature_shape, 1, (self.num_parameters,))

    def shared(self) -> dict[str, dist.TorchDistribution]:
        """Latents that all rows share, by name: q(z given features) takes each as a keyword."""
        return {}

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """q from unconstrained numbers of shape (*batch, num_parameters)."""

    def units(self, raw: Tensor) -> Tensor:
        """The unit of each number, in which `refine` takes its steps: sd of z for a location, 1."""
        return torch.ones_like(raw)

    def units_of_location_and_scale(self, raw: Tensor) -> Tensor:
        """The same where raw begins with locations and scales: the sd for the first, 1 else."""
        locs, scales, others = raw.tensor_split([self.latent_dim, 2 * self.latent_dim], dim=-1)
        scale = scale_of(scales, locs)
        return torch.cat([scale, torch.ones_like(scales), torch.ones_like(others)], dim=-1)

    def forward(self, features: Tensor, *given: Tensor, **shared: Tensor) -> dist.TorchDistribution:
        """q(z given features), and given covariates and shared latents where a family has them."""
        if self.link is None:
            raise RuntimeError(
                f"{type(self).__name__} has no link yet: give it to a Guide, or call "
                "build(feature_shape)"
            )
        return self.distribution(self.link(features).squeeze(-2), *given, **shared)

    @override
    def extra_repr(self) -> str:
        return str(self.latent_dim)
