"""Mixtures of distributions over vectors."""

from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["BroadcastMixture", "EqualNormalMixture"]


class BroadcastMixture(dist.MixtureSameFamily):
    """`MixtureSameFamily` for components whose parameters do not broadcast (conditional flows).

    Example:
        >>> normals = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
        >>> BroadcastMixture(dist.Categorical(logits=torch.zeros(3)), normals).event_shape
        torch.Size([2])
    """

    @property
    def support(self) -> Any:
        """That of the components: torch's own constraint for mixtures has no transform to it."""
        return self.component_distribution.support

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        components = self.component_distribution
        shape = torch.broadcast_shapes(value.shape[:-1] + (1,), components.batch_shape)
        log_prob = components.log_prob(value.unsqueeze(-2).expand(*shape, value.shape[-1]))
        return torch.logsumexp(log_prob + self.mixture_distribution.logits, dim=-1)


class EqualNormalMixture(BroadcastMixture):
    """sum_c N(m_c, diag s_c^2) / C, reparameterised; the weights are constants.

    A change of the parameters moves the mass at z by

        dz = sum_c r_c(z) (d m_c + (z - m_c) / s_c d s_c),  r_c(z) = N_c(z) / sum_j N_j(z),

    which solves the continuity equation. Learned weights would move mass from one component to
    another through the region between them, where draws are few and the derivative is divided by a
    small density: its variance grows without bound as the components separate.

    References:
        Jankowiak and Karaletsos (2019), Pathwise derivatives for multivariate distributions,
        arXiv:1806.01856, section 4.2.

    Example:
        >>> normals = dist.Normal(torch.zeros(3, 2, requires_grad=True), 1.0).to_event(1)
        >>> mixture = EqualNormalMixture(dist.Categorical(logits=torch.zeros(3)), normals)
        >>> mixture.rsample().requires_grad
        True
    """

    has_rsample = True

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        components = self.component_distribution
        normal: Any = components.base_dist
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            loc, scale = (
                each.expand(*shape[:-1], *each.shape[-2:]) for each in (normal.loc, normal.scale)
            )
            which = torch.randint(loc.shape[-2], shape[:-1], device=loc.device)
            which = which[..., None, None].expand(*shape[:-1], 1, shape[-1])
            z = loc.gather(-2, which) + scale.gather(-2, which) * torch.randn_like(loc[..., :1, :])
            share = components.log_prob(z).softmax(-1).unsqueeze(-1)
            residual = (z - loc) / scale
        return (share * (normal.loc + residual * normal.scale)).sum(-2)
