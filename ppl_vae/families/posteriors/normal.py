"""Normal posteriors: independent, low rank, full rank."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import ResidualLowRankNormal, StandardisedNormal
from ppl_vae.families.posteriors.posterior import FLOOR, Posterior
from ppl_vae.runtime.checks import whole_number

__all__ = ["FullRankNormal", "LowRankNormal", "MeanFieldNormal"]


class MeanFieldNormal(Posterior):
    """Independent normals: q(z given x) = prod_d N(loc_d(x), scale_d(x)^2).

    Cannot hold posterior correlation: too narrow where the true posterior is correlated.

    Args:
        latent_dim: Number of latent dimensions D.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, eq. 9.

    Example:
        >>> posterior = MeanFieldNormal(2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.num_parameters = 2 * self.latent_dim

    @override
    def distribution(self, raw: Tensor) -> dist.Independent:
        loc, scale = raw.chunk(2, dim=-1)
        return StandardisedNormal(loc, FLOOR + softplus(scale)).to_event(1)

    @override
    def units(self, raw: Tensor) -> Tensor:
        sd = FLOOR + softplus(raw[..., self.latent_dim :])
        return torch.cat([sd, torch.ones_like(sd)], dim=-1)


class LowRankNormal(Posterior):
    """Normal with covariance diag(s^2) + F F', F of shape (D, rank).

    Between mean field and full rank: D (rank + 2) numbers per row.

    Args:
        latent_dim: Number of latent dimensions D.
        rank: Number of columns of F.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance
        structure, arXiv:1701.03208.

    Example:
        >>> posterior = LowRankNormal(4, rank=2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).covariance_matrix.shape
        torch.Size([5, 4, 4])
    """

    def __init__(self, latent_dim: int, rank: int = 1) -> None:
        super().__init__(latent_dim)
        self.rank = whole_number(rank, "rank")
        self.num_parameters = self.latent_dim * (self.rank + 2)

    @override
    def distribution(self, raw: Tensor) -> dist.LowRankMultivariateNormal:
        D = self.latent_dim
        loc, scale, factor = raw.split([D, D, D * self.rank], dim=-1)
        variance = (FLOOR + softplus(scale)).square() + FLOOR
        factor = factor.unflatten(-1, (D, self.rank)) / self.rank**0.5
        return ResidualLowRankNormal(loc, factor, variance)

    @override
    def units(self, raw: Tensor) -> Tensor:
        D = self.latent_dim
        sd = FLOOR + softplus(raw[..., D : 2 * D])
        return torch.cat([sd, torch.ones_like(sd), sd.repeat_interleave(self.rank, -1)], dim=-1)


class FullRankNormal(Posterior):
    """Normal with any covariance L L', L lower triangular.

    Exact for a linear-Gaussian model; D (D + 3) / 2 numbers per row, so for small D.

    Args:
        latent_dim: Number of latent dimensions D.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference, arXiv:1603.00788,
        section 2.4.

    Example:
        >>> posterior = FullRankNormal(3)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).event_shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        D = self.latent_dim
        self.num_parameters = D * (D + 3) // 2
        rows, columns = torch.tril_indices(D, D, offset=-1)
        self.rows = nn.Buffer(rows, persistent=False)
        self.columns = nn.Buffer(columns, persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.MultivariateNormal:
        D = self.latent_dim
        loc, scale, below = raw.split([D, D, D * (D - 1) // 2], dim=-1)
        factor = torch.diag_embed(FLOOR + softplus(scale))
        factor[..., self.rows, self.columns] = below
        return dist.MultivariateNormal(loc, scale_tril=factor)

    @override
    def units(self, raw: Tensor) -> Tensor:
        D = self.latent_dim
        sd = FLOOR + softplus(raw[..., D : 2 * D])
        return torch.cat([sd, torch.ones_like(sd), sd[..., self.rows]], dim=-1)
