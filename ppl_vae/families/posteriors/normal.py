"""Normal posteriors: independent, low rank, full rank."""

from typing import override

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families.densities import ResidualLowRankNormal, StandardisedNormal
from ppl_vae.families.posteriors.posterior import FLOOR, Posterior, inverse_softplus, scale_of
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import NUM_BYTES, require_memory

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
        return StandardisedNormal(loc, scale_of(scale, loc)).to_event(1)

    @override
    def units(self, raw: Tensor) -> Tensor:
        return self.units_of_location_and_scale(raw)


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
        variance = scale_of(scale, loc).square() + FLOOR
        factor = factor.unflatten(-1, (D, self.rank)) / self.rank**0.5
        return ResidualLowRankNormal(loc, factor, variance)

    @override
    def units(self, raw: Tensor) -> Tensor:
        D = self.latent_dim
        first = self.units_of_location_and_scale(raw[..., : 2 * D])
        return torch.cat([first, first[..., :D].repeat_interleave(self.rank, -1)], dim=-1)


class FullRankNormal(Posterior):
    """Normal with any covariance L L', L = diag(s) B with B lower triangular of diagonal one.

    Exact for a linear-Gaussian model; D (D + 3) / 2 numbers per row, so for small D. Entries below
    the diagonal are relative to s: with free ones, L^-1 grows like s^-D as s falls, and in float32
    the density of a draw is lost at D = 10 and s = 0.03.

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
        require_memory(f"a covariance of latent_dim={D}", D, D, num_bytes=2 * NUM_BYTES)
        rows, columns = torch.tril_indices(D, D, offset=-1)
        self.rows = nn.Buffer(rows, persistent=False)
        self.columns = nn.Buffer(columns, persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.MultivariateNormal:
        D = self.latent_dim
        loc, scale, below = raw.split([D, D, D * (D - 1) // 2], dim=-1)
        unit = torch.diag_embed(torch.ones_like(scale))
        unit[..., self.rows, self.columns] = below
        factor = scale_of(scale, loc).unsqueeze(-1) * unit
        return dist.MultivariateNormal(loc, scale_tril=factor)

    @override
    def units(self, raw: Tensor) -> Tensor:
        return self.units_of_location_and_scale(raw)

    def raw_of(self, loc: Tensor, root: Tensor) -> Tensor:
        """The numbers that `distribution` maps to this mean and lower triangular root."""
        scale = root.diagonal(dim1=-2, dim2=-1)
        below = (root / scale.unsqueeze(-1))[..., self.rows, self.columns]
        return torch.cat([loc, inverse_softplus(scale), below], dim=-1)
