"""Affine Gaussian likelihoods, and conditioning on them with missing entries."""

import math
from dataclasses import dataclass
from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.beds.bed import BedModel

__all__ = ["Affine"]


@dataclass(frozen=True)
class Affine:
    """The likelihood x = W z + b + noise.

    Args:
        loading: W, shape (D, L).
        offset: b, shape (D,).
        noise: Noise sd of every feature, shape (D,).

    Example:
        >>> affine = Affine(torch.ones(3, 1), torch.zeros(3), torch.full((3,), 2.0))
        >>> affine.marginal(torch.zeros(1), torch.eye(1))[1].diagonal()
        tensor([5., 5., 5.])
    """

    loading: Tensor
    offset: Tensor
    noise: Tensor

    def marginal(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x where z has this mean (*batch, L) and covariance."""
        spread = self.loading @ covariance @ self.loading.mT
        return mean @ self.loading.mT + self.offset, spread + torch.diag(self.noise.square())


class AffineModel(BedModel):
    """x given z ~ N(W z + b, noise^2); subclasses have a prior of Gaussian `moments`."""

    def __init__(self, num_data: int, affine: Affine) -> None:
        super().__init__(num_data)
        self.register_buffer("loading", affine.loading)
        self.register_buffer("mean", affine.offset)
        self.register_buffer("noise", affine.noise)

    @property
    def affine(self) -> Affine:
        """W, b and the noise, where the buffers now are."""
        return Affine(self.loading, self.mean, self.noise)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (*C, L) and covariances (*C, L, L) of z, of each component in a mixture."""
        raise NotImplementedError

    @override
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(z @ self.loading.mT + self.mean, self.noise)


def masked_normal(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(x_o; mean_o, covariance_oo) over the observed entries o of every row.

    A missing entry becomes an independent N(0, 1) at 0, whose density is then subtracted.
    Reference: Little and Rubin (2002), Statistical Analysis with Missing Data.

    Shape:
        x (*batch, D), mean (*batch, D), covariance (*batch, D, D) -> (*batch,)
    """
    seen = (~x.isnan()).to(covariance.dtype)
    residual = (x - mean).nan_to_num(nan=0.0)
    observed = covariance * seen[..., :, None] * seen[..., None, :] + torch.diag_embed(1 - seen)
    root = torch.linalg.cholesky(observed)
    white = torch.linalg.solve_triangular(root, residual[..., None], upper=False)[..., 0]
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_det - 0.5 * math.log(2 * math.pi) * seen.sum(-1)


def posterior(x: Tensor, affine: Affine, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of z given the observed entries of x, when z ~ N(mean, covariance).

    P = covariance^-1 + sum_o W_o W_o' / noise_o^2; the posterior is N(P^-1 (...), P^-1).
    Reference: Bishop (2006), Pattern Recognition and Machine Learning, eq. 2.116.

    Shape:
        x (*batch, D), mean (*batch, L), covariance (*batch, L, L) -> (*batch, L), (*batch, L, L)
    """
    weight = (~x.isnan()).to(mean.dtype) / affine.noise.square()
    prior_precision = torch.linalg.inv(covariance)
    information = torch.einsum("...d,dk,dl->...kl", weight, affine.loading, affine.loading)
    residual = (x - affine.offset).nan_to_num(nan=0.0)
    pull = (prior_precision @ mean[..., None])[..., 0] + (residual * weight) @ affine.loading
    root = torch.linalg.cholesky(prior_precision + information)
    location = torch.cholesky_solve(pull[..., None], root)[..., 0]
    return location, torch.cholesky_inverse(root.expand(*location.shape, -1))
