"""Normal priors."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import whole_number

__all__ = ["LearnedNormal", "StandardNormal"]


class StandardNormal(Prior):
    """p(z) = N(0, I): nothing to learn.

    Args:
        latent_dim: Number of latent dimensions D.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, section 3.

    Example:
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)

    @override
    def forward(self, context: Tensor | None = None) -> dist.Independent:
        return StandardisedNormal(self.loc, torch.ones_like(self.loc)).to_event(1)


class LearnedNormal(Prior):
    """p(z) = N(m, diag s^2) with m and s learned; with covariates, m and log s are affine in c.

    With a free decoder it adds nothing to `StandardNormal`; with covariates it is the prior of a
    conditional VAE.

    Args:
        latent_dim: Number of latent dimensions D.
        context_dim: Number of covariates; 0 for p(z).

    Shape:
        batch_shape () or, with context (B, context_dim), (B,); event_shape (D,)

    Raises:
        ValueError: context is missing though `context_dim` > 0.

    References:
        Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional
        generative models, NeurIPS.

    Example:
        >>> LearnedNormal(2, context_dim=3)(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
    """

    def __init__(self, latent_dim: int, context_dim: int = 0) -> None:
        super().__init__(latent_dim)
        self.context_dim = whole_number(context_dim, "context_dim", at_least=0)
        self.loc = nn.Parameter(torch.zeros(self.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.latent_dim))
        if context_dim:
            self.shift = nn.Linear(self.context_dim, 2 * self.latent_dim, bias=False)

    @override
    def forward(self, context: Tensor | None = None) -> dist.Independent:
        loc = self.loc
        log_scale = self.log_scale
        if self.context_dim:
            if context is None:
                raise ValueError(
                    f"LearnedNormal(context_dim={self.context_dim}) got no context: pass context="
                )
            shift, stretch = self.shift(context).chunk(2, dim=-1)
            loc = loc + shift
            log_scale = log_scale + stretch
        return StandardisedNormal(loc, log_scale.exp()).to_event(1)
