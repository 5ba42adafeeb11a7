"""Latents that all rows share: a prior or posterior may have some, drawn outside the data plate."""

from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["draw_shared", "shared_latents"]


def shared_latents(part: Any) -> dict[str, TorchDistribution]:
    """Distributions of the latents that rows share, by name; none where the part has no `shared`.

    Args:
        part: A prior or a posterior.

    Example:
        >>> from ppl_vae.families.priors import StandardNormal
        >>> shared_latents(StandardNormal(2))
        {}
    """
    return part.shared() if hasattr(part, "shared") else {}


def draw_shared(part: Any) -> dict[str, Tensor]:
    """Sample them as sites of a Pyro program, before the data plate.

    Args:
        part: A prior or a posterior.

    Example:
        >>> from ppl_vae.families.priors import GaussianProcess
        >>> draw_shared(GaussianProcess(2, context_dim=1, num_inducing=7))["inducing"].shape
        torch.Size([2, 7])
    """
    return {name: pyro.sample(name, each) for name, each in shared_latents(part).items()}
