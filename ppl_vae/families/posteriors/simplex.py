"""Posteriors over shares, which are positive and add up to one."""

from typing import override

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.densities.latents import IsometricLogRatio
from ppl_vae.families.posteriors.posterior import Posterior, scale_of
from ppl_vae.runtime.checks import whole_number

__all__ = ["LogisticNormal"]


class LogisticNormal(Posterior):
    """z = softmax(V y), y ~ N(loc(x), diag scale(x)^2), V orthonormal contrasts of the shares.

    For `priors.LogisticNormal`, with the KL in closed form, and for `priors.Dirichlet`.

    Args:
        latent_dim: Number of shares D, at least 2.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Aitchison and Shen (1980), Logistic-normal distributions, Biometrika 67; Srivastava and
        Sutton (2017), Autoencoding variational inference for topic models, arXiv:1703.01488.

    Example:
        >>> import torch
        >>> posterior = LogisticNormal(3)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 3])
    """

    support = constraints.simplex

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of a simplex", at_least=2))
        self.num_parameters = 2 * (self.latent_dim - 1)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        loc, scale = raw.chunk(2, dim=-1)
        normal = StandardisedNormal(loc, scale_of(scale, loc)).to_event(1)
        return dist.TransformedDistribution(normal, [IsometricLogRatio()])
