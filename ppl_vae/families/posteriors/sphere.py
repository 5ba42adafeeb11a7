"""Posteriors over directions."""

from typing import override

from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.families.densities.latents import SpherePower
from ppl_vae.families.densities.latents.sphere import unit
from ppl_vae.families.posteriors.posterior import Posterior
from ppl_vae.runtime.checks import whole_number

__all__ = ["PowerSpherical"]


class PowerSpherical(Posterior):
    """q(z given x) proportional to (1 + m(x)'z)^kappa(x), unit vectors z, |m| = 1.

    Like the von Mises-Fisher distribution, but with draws by a Beta variable and a reflection. For
    `priors.UniformSphere`, with the KL in closed form.

    Args:
        latent_dim: D, at least 2; the sphere has D - 1 dimensions.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        De Cao and Aziz (2020), The power spherical distribution, arXiv:2006.04437; Davidson et al.
        (2018), Hyperspherical variational auto-encoders, arXiv:1804.00891.

    Example:
        >>> import torch
        >>> posterior = PowerSpherical(3)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 3])
    """

    support = constraints.sphere

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of a sphere", at_least=2))
        self.num_parameters = self.latent_dim + 1

    @override
    def distribution(self, raw: Tensor) -> SpherePower:
        direction, concentration = raw.split([self.latent_dim, 1], dim=-1)
        # In units of D, since it takes a concentration of order D for a mean of order one.
        return SpherePower(unit(direction), self.latent_dim * softplus(concentration.squeeze(-1)))
