"""The simplex: shares from unconstrained vectors."""

import math
from typing import Any, override

import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["IsometricLogRatio"]


class IsometricLogRatio(T.Transform):
    """z = softmax(V y), the columns of V orthonormal contrasts of the D shares: R^(D-1) to simplex.

    y = V' log z are isometric log-ratios; N(0, s^2 I) in y treats all shares alike. Densities on
    the simplex are with respect to z_1, ..., z_(D-1), as torch's are: log |dz / dy| = sum_d log z_d
    + log(D) / 2.

    References:
        Egozcue et al. (2003), Isometric logratio transformations for compositional data analysis,
        Mathematical Geology 35.

    Example:
        >>> IsometricLogRatio()(torch.zeros(2))
        tensor([0.3333, 0.3333, 0.3333])
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __init__(self, cache_size: int = 1) -> None:
        super().__init__(cache_size=cache_size)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, IsometricLogRatio)

    __hash__ = T.Transform.__hash__

    @override
    def forward_shape(self, shape: Any) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] + 1])

    @override
    def inverse_shape(self, shape: Any) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] - 1])

    def _log_shares(self, y: Tensor) -> Tensor:
        steps, weights = helmert(y.shape[-1], y)
        scaled = weights * y
        later = pad(scaled.flip(-1).cumsum(-1).flip(-1), (0, 1))
        return (later - pad(steps * scaled, (1, 0))).log_softmax(-1)

    def _call(self, x: Tensor) -> Tensor:
        # Shares that underflow stay positive, so that their logarithm and its gradient are finite.
        return self._log_shares(x).exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        steps, weights = helmert(y.shape[-1] - 1, y)
        log_shares = y.log()
        return weights * (log_shares.cumsum(-1)[..., :-1] - steps * log_shares[..., 1:])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_d log z_d + log(D) / 2."""
        return self._log_shares(x).sum(-1) + 0.5 * math.log(y.shape[-1])


def helmert(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """j and 1 / sqrt(j (j + 1)), j = 1 to `size`.

    Contrast j is (1, ..., 1, -j, 0, ..., 0), with j ones, times the latter.
    """
    steps = torch.arange(1, size + 1, dtype=like.dtype, device=like.device)
    return steps, (steps * (steps + 1)).rsqrt()
