"""Layers of latents, side by side in one vector: sizes, places, and the networks between them."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ppl_vae.families.networks import MLP
from ppl_vae.runtime.checks import whole_number, whole_numbers

__all__ = ["layer_blocks", "layer_sizes", "layer_steps"]


def layer_sizes(latent_dim: int, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Latent dimensions of each layer, z_1 first; two layers by default, z_2 half as large as z_1.

    Args:
        latent_dim: Dimensions of all layers together.
        layers: Those of each, or None.

    Raises:
        ValueError: the layers do not add up, or one dimension is to make two layers.

    Example:
        >>> layer_sizes(150, None)
        (100, 50)
    """
    if layers is None:
        upper = whole_number(latent_dim, "latent_dim of two layers", at_least=2) // 3
        return (latent_dim - max(1, upper), max(1, upper))
    sizes = whole_numbers(layers, "layers")
    if sum(sizes) != latent_dim:
        raise ValueError(
            f"layers {sizes} have {sum(sizes)} dimensions together, and latent_dim is "
            f"{latent_dim}: give their sum"
        )
    return sizes


def layer_blocks(sizes: Sequence[int]) -> list[slice]:
    """Where each layer lies in the vector z = (z_1, ..., z_L).

    Args:
        sizes: Latent dimensions of each layer.

    Example:
        >>> layer_blocks((3, 2))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    ends = itertools.accumulate(sizes)
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def layer_steps(sizes: Sequence[int], hidden_dims: Iterable[int]) -> nn.ModuleList:
    """Networks from each layer to shift and stretch of the next, which start near zero.

    Args:
        sizes: Latent dimensions of each layer, in the order of drawing.
        hidden_dims: Hidden layers of each network; none for an affine map.

    Example:
        >>> [step(torch.zeros(1, 3)).shape for step in layer_steps((3, 2), [8])]
        [torch.Size([1, 4])]
    """
    hidden = whole_numbers(hidden_dims, "hidden_dims")
    steps = nn.ModuleList()
    for size, following in zip(sizes, sizes[1:], strict=False):
        last = nn.Linear([size, *hidden][-1], 2 * following)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        steps.append(nn.Sequential(MLP(size, hidden, activation=nn.Tanh), last))
    return steps
