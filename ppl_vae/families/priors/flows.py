"""Normalising flows as priors."""

from collections.abc import Callable, Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.modules import near_identity, shape_of
from ppl_vae.families.networks.dense import MOST_DIMS, MOST_LAYERS
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import echoed, whole_number

__all__ = ["FlowPrior"]


SCORES_EXTERNAL_POINTS = (
    "affine_autoregressive",
    "affine_coupling",
    "spline",
    "spline_autoregressive",
    "spline_coupling",
)


class FlowPrior(Prior):
    """p(z) = N(T^-1(z); 0, I) |det dT^-1/dz|, T a learned flow.

    T must score points that it did not draw (the guide's z), so its inverse must be in closed form
    or cheap. Couplings, splines and affine autoregressive transforms have one; planar, radial,
    Sylvester, block and neural autoregressive flows do not and are refused. No closed-form KL.

    Args:
        latent_dim: Number of latent dimensions D.
        transform: Name of the Pyro transform: "spline_coupling", "affine_coupling", "spline",
            "affine_autoregressive", "spline_autoregressive"; D = 1 always takes "spline".
        num_transforms: Number of transforms, dimensions reversed between them.
        hidden_dims: Hidden layers of each transform's network; those of an autoregressive one have
            at least D units.

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: the transform cannot score external points, or Pyro has none of that name.

    References:
        Durkan et al. (2019), Neural spline flows, arXiv:1906.04032; Papamakarios et al. (2021),
        Normalizing flows for probabilistic modeling and inference, arXiv:1912.02762.

    Example:
        >>> FlowPrior(2)().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        transform: str = "spline_coupling",
        num_transforms: int = 2,
        *,
        hidden_dims: Sequence[int] = (32, 32),
    ) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim", at_most=MOST_DIMS))
        latent_dim = self.latent_dim
        self.transform = "spline" if latent_dim == 1 else transform
        if self.transform not in SCORES_EXTERNAL_POINTS:
            raise ValueError(
                f"transform {echoed(transform)} cannot score points that it did not draw, or "
                f"does not exist; as a prior use one of {', '.join(SCORES_EXTERNAL_POINTS)}"
            )
        make: Callable[..., nn.Module] = getattr(T, self.transform)
        options: dict[str, Any] = {}
        if self.transform != "spline":
            narrowest = latent_dim if self.transform.endswith("autoregressive") else 1
            widths = shape_of(hidden_dims, "hidden_dims")
            options["hidden_dims"] = [max(narrowest, width) for width in widths]
        self.layers = nn.ModuleList(
            near_identity(make(latent_dim, **options))
            for _ in range(whole_number(num_transforms, "num_transforms", at_most=MOST_LAYERS))
        )
        self.loc = nn.Buffer(torch.zeros(latent_dim), persistent=False)
        self.reverse = nn.Buffer(torch.arange(latent_dim).flip(0), persistent=False)

    @override
    def forward(self, context: Tensor | None = None) -> dist.TransformedDistribution:
        base = StandardisedNormal(self.loc, torch.ones_like(self.loc)).to_event(1)
        transforms = [t for layer in self.layers for t in (layer, T.Permute(self.reverse))]
        return dist.TransformedDistribution(base, transforms)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, transform={self.transform!r}, num_transforms={len(self.layers)}"
