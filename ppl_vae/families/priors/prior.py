"""Priors p(z) or p(z given c): one latent, without batch shape unless c is given."""

from abc import ABC, abstractmethod
from typing import override

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.part import Part
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory


def require_context(prior: nn.Module, context: Tensor | None) -> Tensor:
    """The covariates; ValueError without any."""
    if context is None:
        raise ValueError(f"{type(prior).__name__} takes covariates and got none: pass context=")
    return context


class Prior(Part, nn.Module, ABC):
    """A prior over z of shape (D,); a family implements `forward` and states its `support`."""

    support: constraints.Constraint = constraints.real_vector

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole_number(latent_dim, "latent_dim")
        require_memory(f"latent_dim={latent_dim}", self.latent_dim)

    def shared(self) -> dict[str, dist.TorchDistribution]:
        """Latents that all rows share, by name: `forward` takes each as a keyword."""
        return {}

    @abstractmethod
    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """p(z) or p(z given context)."""

    @override
    def extra_repr(self) -> str:
        return str(self.latent_dim)
