"""Priors over shares, which are positive and add up to one."""

from typing import override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.densities.latents import IsometricLogRatio
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["Dirichlet", "LogisticNormal"]


class Dirichlet(Prior):
    """p(z) proportional to prod_d z_d^(alpha - 1) on the simplex.

    alpha = 1 is uniform; small alpha favours a few large shares. The posterior is
    `posteriors.LogisticNormal`; KL is Monte Carlo.

    Args:
        latent_dim: Number of shares D, at least 2.
        concentration: alpha, the same for all shares; None learns one for each, from 1.

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: `concentration` is not positive.

    References:
        Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3; Srivastava and Sutton
        (2017), Autoencoding variational inference for topic models, arXiv:1703.01488.

    Example:
        >>> Dirichlet(3)().log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()
        tensor(2.)
    """

    support = constraints.simplex

    def __init__(self, latent_dim: int, concentration: float | None = 1.0) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of a simplex", at_least=2))
        self.concentration = concentration
        self.ones = nn.Buffer(torch.ones(self.latent_dim), persistent=False)
        if concentration is None:
            self.raw_concentration = nn.Parameter(torch.full((self.latent_dim,), 0.5413))
        else:
            real_number(concentration, "concentration", above=0)

    @override
    def forward(self, context: Tensor | None = None) -> dist.Dirichlet:
        if self.concentration is None:
            return dist.Dirichlet(1e-3 + softplus(self.raw_concentration))
        return dist.Dirichlet(self.concentration * self.ones)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, concentration={self.concentration}"


class LogisticNormal(Prior):
    """z = softmax(V y), y ~ N(m, diag s^2) with m and s learned, V orthonormal contrasts.

    Starts at m = 0, s = 1, which treats all shares alike. The KL from `posteriors.LogisticNormal`
    is that of the normals, in closed form.

    Args:
        latent_dim: Number of shares D, at least 2.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        Aitchison and Shen (1980), Logistic-normal distributions, Biometrika 67; Egozcue et al.
        (2003), Isometric logratio transformations, Mathematical Geology 35.

    Example:
        >>> LogisticNormal(3)().sample().shape
        torch.Size([3])
    """

    support = constraints.simplex

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim of a simplex", at_least=2))
        self.loc = nn.Parameter(torch.zeros(self.latent_dim - 1))
        self.log_scale = nn.Parameter(torch.zeros(self.latent_dim - 1))

    @override
    def forward(self, context: Tensor | None = None) -> dist.TransformedDistribution:
        normal = StandardisedNormal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.TransformedDistribution(normal, [IsometricLogRatio()])
