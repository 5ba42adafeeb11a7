"""Normalising flows as posteriors."""

from collections.abc import Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.modules import near_identity
from ppl_vae.families.posteriors.posterior import FLOOR, Posterior
from ppl_vae.runtime.checks import whole_number

__all__ = ["FlowPosterior"]


class FlowPosterior(Posterior):
    """N(loc(x), diag scale(x)^2) pushed through couplings that also see x.

    A flexible posterior: affine couplings with reversed dimensions between them (D >= 2), or one
    monotone spline (D = 1). All of them invert in closed form, so that q can be scored at points
    that it did not draw (VampPrior, calibration). KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.
        num_transforms: Number of couplings.
        hidden_dims: Hidden layers of each coupling's network.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, arXiv:1505.05770;
        Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.

    Example:
        >>> posterior = FlowPosterior(2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    conditioner_dim = 32  # numbers about x that each coupling sees
    layers: Any  # nn.ModuleList of Pyro's conditional transforms

    def __init__(
        self, latent_dim: int, num_transforms: int = 4, *, hidden_dims: Sequence[int] = (64,)
    ) -> None:
        super().__init__(latent_dim)
        latent_dim = self.latent_dim
        self.num_parameters = 2 * latent_dim + self.conditioner_dim
        hidden = [whole_number(width, "hidden_dims") for width in hidden_dims]
        make = T.conditional_spline if latent_dim == 1 else T.conditional_affine_coupling
        self.layers = nn.ModuleList(
            near_identity(make(latent_dim, self.conditioner_dim, hidden))
            for _ in range(whole_number(num_transforms, "num_transforms"))
        )
        self.reverse = nn.Buffer(torch.arange(latent_dim).flip(0), persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        D = self.latent_dim
        loc, scale, conditioner = raw.split([D, D, self.conditioner_dim], dim=-1)
        base = StandardisedNormal(loc, FLOOR + softplus(scale)).to_event(1)
        transforms: list[T.Transform] = []
        for layer in self.layers:
            transforms += [layer.condition(conditioner), T.Permute(self.reverse)]
        return dist.TransformedDistribution(base, transforms)
