"""Priors with several layers of latents."""

from collections.abc import Sequence
from typing import override

import torch
from torch import Tensor, nn

from ppl_vae.families.densities.latents import NormalChain
from ppl_vae.families.layers import layer_blocks, layer_sizes, layer_steps
from ppl_vae.families.priors.prior import Prior

__all__ = ["Hierarchical"]


class Hierarchical(Prior):
    """p(z) = N(z_L; 0, I) prod_l N(z_l; m_l(z_(l+1)), diag s_l(z_(l+1))^2), z = (z_1, ..., z_L).

    The decoder reads z_1 alone, the first entries of z. m_l and s_l are networks with tanh. Any
    posterior over all D dimensions fits; `posteriors.Hierarchical` follows the layers. No
    closed-form KL.

    Args:
        latent_dim: Number of latent dimensions D of all layers together.
        layers: Dimensions of z_1, ..., z_L, which add up to D; None gives two layers, the upper one
            half as large.
        hidden_dims: Hidden layers of each network.

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: the layers do not add up to `latent_dim`.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5 (two stochastic layers, of 100 and 50 dimensions); Rezende, Mohamed and Wierstra
        (2014), Stochastic backpropagation, arXiv:1401.4082.

    Example:
        >>> Hierarchical(5, layers=(3, 2))().sample().shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        layers: Sequence[int] | None = None,
        *,
        hidden_dims: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(latent_dim)
        self.layers = layer_sizes(self.latent_dim, layers)
        self.steps = layer_steps(self.layers[::-1], hidden_dims)
        self.loc = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)

    @property
    def decoded_dim(self) -> int:
        """Dimensions of z_1."""
        return self.layers[0]

    @override
    def forward(self, context: Tensor | None = None) -> NormalChain:
        blocks = layer_blocks(self.layers)[::-1]
        return NormalChain(self.loc, torch.ones_like(self.loc), blocks, list(self.steps))

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, layers={self.layers}"
