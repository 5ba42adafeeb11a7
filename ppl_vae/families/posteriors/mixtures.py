"""Mixtures as posteriors."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.densities.latents import EqualNormalMixture
from ppl_vae.families.posteriors.posterior import FLOOR, UNIT, Posterior, resolved, scale_of
from ppl_vae.runtime.checks import whole_number

__all__ = ["Mixture"]


class Mixture(Posterior):
    """q(z given x) = sum_c N(m_c(x), diag s_c(x)^2) / C: several modes, skewness, correlation.

    The weights are equal, so that draws have a path derivative of small variance (that of learned
    weights has none); a mode with more mass takes more components. A component has the mean
    m + s (a_c + t_c) and a scale proportional to s, with constants a_c that spread the components
    at the start. Like every family that is fitted to the ELBO, it can miss modes that no component
    is near at the start. KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.
        num_components: Number of components C.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Kviman et al. (2023), Cooperation in the latent space: the benefits of adding mixture
        components in variational autoencoders, arXiv:2209.15514; Jankowiak and Karaletsos (2019),
        Pathwise derivatives for multivariate distributions, arXiv:1806.01856.

    Example:
        >>> posterior = Mixture(2, num_components=3)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int, num_components: int = 5) -> None:
        super().__init__(latent_dim)
        self.num_components = whole_number(num_components, "num_components")
        shape = self.num_components, self.latent_dim
        self.num_parameters = 2 * self.latent_dim * (1 + self.num_components)
        spread = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.spread = nn.Buffer(spread - spread.mean(0), persistent=False)

    @override
    def distribution(self, raw: Tensor) -> EqualNormalMixture:
        D = self.latent_dim
        loc, scale, own = raw.split([D, D, raw.shape[-1] - 2 * D], dim=-1)
        shift, width = own.unflatten(-1, (2, self.num_components, D)).unbind(-3)
        unit = scale_of(scale, loc).unsqueeze(-2)
        means = loc.unsqueeze(-2) + unit * (shift + self.spread)
        scales = resolved(unit * softplus(width + UNIT) + FLOOR, means)
        normals = StandardisedNormal(means, scales)
        weights = dist.Categorical(logits=torch.zeros_like(means[..., 0]))
        return EqualNormalMixture(weights, normals.to_event(1))

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, num_components={self.num_components}"
