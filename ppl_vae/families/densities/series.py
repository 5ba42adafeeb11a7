"""Power series, and the error of Stirling's formula, which stay exact where plain forms cancel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)  # of z times the error, in 1 / z^2
FROM = 16.0  # where these terms are all that float64 can tell


def power_series(coefficients: Sequence[float], q: Tensor) -> Tensor:
    """sum_k c_k q^k, by Horner's rule."""
    *lower, last = coefficients
    total = last * q + lower.pop()
    for coefficient in reversed(lower):
        total = total * q + coefficient
    return total


def stirling_series(z: Tensor) -> Tensor:
    """`stirling_error` from `FROM` on."""
    inverse = z.reciprocal()
    return inverse * power_series(STIRLING, inverse * inverse)


def stirling_error(z: Tensor) -> Tensor:
    """log Gamma(z) less Stirling's (z - 1/2) log z - z + log(2 pi) / 2, for z > 0; 1 / (12 z) for large z."""
    large = z >= FROM
    near = torch.where(large, 1.0, z)
    exact = near.lgamma() - (near - 0.5) * near.log() + near - HALF_LOG_2PI
    return torch.where(large, stirling_series(torch.where(large, z, FROM)), exact)
