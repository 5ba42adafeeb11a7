"""Functions that torch lacks, or that cancel in their plain forms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["by_scipy"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Coefficients of z S(z) in 1 / z^2, S the error of Stirling's formula, and of z^2 S'(z).
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
EXPONENTIAL = tuple(1 / math.factorial(k) for k in range(2, 14))  # (exp(t) - 1 - t) / t^2
SLOPE = tuple(-(2 * k + 1) * c for k, c in enumerate(STIRLING))


def power_series(coefficients: Sequence[float], q: Tensor) -> Tensor:
    """sum_k c_k q^k, by Horner's rule."""
    *lower, last = coefficients
    total = last * q + lower.pop()
    for coefficient in reversed(lower):
        total = total * q + coefficient
    return total


def stirling_terms(z: Tensor) -> tuple[int, int]:
    """The least z for the series, and its number of terms: 10^-12 in float64, else float32's."""
    return (8, 6) if z.dtype == torch.float64 else (3, 3)


def stirling_value(z: Tensor, least: int = 0) -> Tensor:
    """The error S(z), z > `least`, shifted to z + n where the series converges."""
    # S(z) = S(z + n) + (z + 1/2) log(1 + n / z) - n - sum_k log((z + k) / (z + n))
    start, terms = stirling_terms(z)
    n = start - least
    inverse = (z + n).reciprocal()
    series = inverse * power_series(STIRLING[:terms], inverse * inverse)
    product = 1 - inverse  # of (z + k) / (z + n), k = 1 to n - 1
    for k in range(2, n):
        product = product * (1 - k * inverse)
    return series + (z + 0.5) * (n * z.reciprocal()).log1p() - product.log() - n


def stirling_slope(z: Tensor) -> Tensor:
    """S'(z), by the same shift from z to z + n."""
    # S'(z) = S'(z + n) + log(1 + n / z) - 1 / (2 z) - 1 / (2 (z + n)) - sum_k 1 / (z + k)
    n, terms = stirling_terms(z)
    inverse = z.reciprocal()
    last = (z + n).reciprocal()
    slope = last**2 * power_series(SLOPE[:terms], last**2)
    slope = slope + (n * inverse).log1p() - 0.5 * (inverse + last)
    for k in range(1, n):
        slope = slope - (z + k).reciprocal()
    return slope


class StirlingError(torch.autograd.Function):
    """The error of Stirling's formula, whose derivative is found without branches."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        """The value."""
        return stirling_value(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """For z."""
        return gradient * stirling_slope(*ctx.saved_tensors)


def stirling_error(z: Tensor) -> Tensor:
    """log Gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), z > 0; 1 / (12 z) for large z."""
    return StirlingError.apply(z)


def relative_deviance(t: Tensor) -> Tensor:
    """exp(t) - 1 - t >= 0: half the deviance of a value exp(t) times its mean, over that mean."""
    near = t.abs() < 0.5
    small = torch.where(near, t, 0.0)
    # Bounded, so that the exponential is finite in float32.
    large = torch.where(near, 0.0, t.clamp(max=80.0))
    return torch.where(near, small * small * power_series(EXPONENTIAL, small), large.expm1() - t)


def by_scipy(function: Callable[..., np.ndarray], *values: Tensor) -> Tensor:
    """A SciPy function of tensors, in float64 and without gradient, where the first tensor is.

    Args:
        function: A function of arrays that broadcast.
        values: Its arguments.

    Example:
        >>> from scipy import special
        >>> by_scipy(special.stdtr, torch.tensor(3.0), torch.zeros(2))
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    found = function(*(value.detach().double().cpu().numpy() for value in values))
    return torch.as_tensor(found, device=values[0].device)
