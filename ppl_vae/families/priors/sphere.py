"""Priors over directions."""

from typing import override

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.densities.latents import SphereUniform
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import whole_number

__all__ = ["UniformSphere"]


class UniformSphere(Prior):
    """The uniform distribution of unit vectors in R^D: nothing to learn.

    For latents that are directions or have no centre (D = 2 is a circle, such as the time of day).
    The posterior is `posteriors.PowerSpherical`, with the KL in closed form.

    Args:
        latent_dim: D, at least 2; the sphere has D - 1 dimensions.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        Davidson et al. (2018), Hyperspherical variational auto-encoders, arXiv:1804.00891.

    Example:
        >>> UniformSphere(3)().sample().shape
        torch.Size([3])
    """

    support = constraints.sphere

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of a sphere", at_least=2))
        self.centre = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)

    @override
    def forward(self, context: Tensor | None = None) -> SphereUniform:
        return SphereUniform(self.centre)
