"""Bits from grey values: at a threshold, or drawn as Bernoulli(grey value)."""

from typing import Any, Literal

import torch
from torch import Tensor

Binarize = Literal["dynamic", "static", "threshold"]
BINARIZE = ("dynamic", "static", "threshold", None)
# Odd 64-bit numbers of SplitMix64.
GAMMA = -7046029254386353131
FACTORS = (-4658895280553007687, -7723592293110705685)


def thresholded(grey: Tensor) -> Tensor:
    """1 where grey >= 0.5, 0 elsewhere, NaN where it is missing."""
    return torch.where(grey.isnan(), grey, (grey >= 0.5).to(grey.dtype))


def bernoulli(grey: Tensor, uniform: Tensor) -> Tensor:
    """1 where a float32 uniform number is below the grey value: the same bits in every dtype."""
    bits = uniform.to(grey.device).lt_(grey).to(grey.dtype)  # in place: images are many
    if grey.sum().isnan():  # rarely
        bits.masked_fill_(grey.isnan(), float("nan"))
    return bits


def drawn(grey: Tensor, generator: torch.Generator) -> Tensor:
    """Bits of these grey values from a torch generator."""
    options: dict[str, Any] = {"device": generator.device, "dtype": torch.float32}
    return bernoulli(grey, torch.rand(grey.shape, generator=generator, **options))


def uniforms(seed: int, rows: Tensor, num_values: int) -> Tensor:
    """U(0, 1), (rows, num_values): a function of seed, row and position alone.

    The stream of SplitMix64 has random access, so a row has the same bits in every batch, order,
    split, process and device. torch's generators would have to draw all preceding rows.

    References:
        Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators,
        doi:10.1145/2660193.2660195.

    Example:
        >>> bool((uniforms(0, torch.arange(5), 3)[4] == uniforms(0, torch.tensor([4]), 3)[0]).all())
        True
    """
    places = rows[:, None] * num_values + torch.arange(1, num_values + 1, device=rows.device)
    bits = places.mul_(GAMMA).add_(seed)  # modulo 2^64, as int64 wraps
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        bits = (bits ^ _shifted(bits, shift)).mul_(factor)
    return _shifted(bits ^ _shifted(bits, 31), 40).float().mul_(2**-24)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted to the right, with zeros from the left."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
