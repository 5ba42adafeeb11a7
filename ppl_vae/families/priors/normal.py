"""Normal priors."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.modules import require_module
from ppl_vae.families.networks import MLP
from ppl_vae.families.networks.readout import Readout
from ppl_vae.families.priors.prior import Prior, require_context
from ppl_vae.families.rows import example_rows, features_of, read_features
from ppl_vae.runtime.checks import whole_number

__all__ = ["ConditionalNormal", "LearnedNormal", "StandardNormal"]

LEAST_SCALE = 1e-3
UNIT = 0.5413  # softplus of it is 1


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


class ConditionalNormal(Prior):
    """p(z given c) = N(m(c), diag s(c)^2), m and s from a network of the covariates.

    `LearnedNormal` is the same with m and log s affine in c. Starts near N(0, I).

    Args:
        latent_dim: Number of latent dimensions D.
        context_dim: Number of covariates.
        network: Any module from the covariates to features; None gives an `MLP` of 2 x 64.

    Shape:
        context (B, context_dim) -> batch_shape (B,), event_shape (D,)

    Raises:
        ValueError: context is missing, or the network cannot read it.

    References:
        Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional
        generative models, NeurIPS.

    Example:
        >>> ConditionalNormal(2, context_dim=3)(torch.zeros(5, 3)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, latent_dim: int, context_dim: int, *, network: nn.Module | None = None
    ) -> None:
        super().__init__(latent_dim)
        self.context_dim = whole_number(context_dim, "context_dim")
        self.network = MLP(self.context_dim, (64, 64)) if network is None else network
        require_module(self.network, "prior's network")
        features = read_features(self.network, example_rows(self.context_dim), "prior's network")
        self.link = Readout(features, 2, (self.latent_dim,))
        with torch.no_grad():
            self.link.linear.weight.mul_(0.1)
            self.link.linear.bias.zero_()

    @override
    def forward(self, context: Tensor | None = None) -> dist.Independent:
        context = require_context(self, context)
        features = features_of(self.network, context, context.dim() - 1)
        loc, raw_scale = self.link(features).unbind(-2)
        return StandardisedNormal(loc, softplus(raw_scale + UNIT) + LEAST_SCALE).to_event(1)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, context_dim={self.context_dim}"


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
            shift, stretch = self.shift(require_context(self, context)).chunk(2, dim=-1)
            loc = loc + shift
            log_scale = log_scale + stretch
        return StandardisedNormal(loc, log_scale.exp()).to_event(1)
