"""Posteriors with several layers of latents."""

from collections.abc import Sequence
from typing import Literal, override

from torch import Tensor

from ppl_vae.families.densities.latents import NormalChain
from ppl_vae.families.layers import layer_blocks, layer_sizes, layer_steps
from ppl_vae.families.posteriors.posterior import Posterior, scale_of
from ppl_vae.runtime.checks import one_of

__all__ = ["Hierarchical"]


class Hierarchical(Posterior):
    """Layers drawn in turn, each normal given x and the layer before; z = (z_1, ..., z_L).

    Bottom-up, q(z given x) = q(z_1 given x) q(z_2 given z_1, x) ...; top-down, it begins with z_L.
    Layer l is N(m_l(x) + a_l(z_k), diag (s_l(x) b_l(z_k))^2), z_k the layer before. The posterior
    of the importance weighted autoencoder is bottom-up with m_l and s_l constant for l > 1. For
    models with `priors.Hierarchical` of the same layers. KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D of all layers together.
        layers: Dimensions of z_1, ..., z_L, which add up to D; None gives two layers, the upper one
            half as large.
        hidden_dims: Hidden layers of the networks a_l and b_l.
        order: "bottom-up" from z_1, or "top-down" from z_L.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    Raises:
        ValueError: the layers do not add up to `latent_dim`, or an unknown order.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5; Sønderby et al. (2016), Ladder variational autoencoders, arXiv:1602.02282
        (top-down).

    Example:
        >>> import torch
        >>> posterior = Hierarchical(5, layers=(3, 2))
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(4, 10)).rsample().shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        latent_dim: int,
        layers: Sequence[int] | None = None,
        *,
        hidden_dims: Sequence[int] = (64, 64),
        order: Literal["bottom-up", "top-down"] = "bottom-up",
    ) -> None:
        super().__init__(latent_dim)
        self.num_parameters = 2 * self.latent_dim
        self.layers = layer_sizes(self.latent_dim, layers)
        self.order = one_of(order, "Hierarchical(order)", ("bottom-up", "top-down"))
        self.steps = layer_steps(self._in_order(self.layers), hidden_dims)

    def _in_order[Item](self, layers: Sequence[Item]) -> Sequence[Item]:
        """What belongs to each layer, in the order of drawing."""
        return layers if self.order == "bottom-up" else layers[::-1]

    @override
    def distribution(self, raw: Tensor) -> NormalChain:
        loc, scale = raw.chunk(2, dim=-1)
        blocks = self._in_order(layer_blocks(self.layers))
        return NormalChain(loc, scale_of(scale, loc), blocks, list(self.steps))

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, layers={self.layers}, order={self.order!r}"
