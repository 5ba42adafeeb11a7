"""Variational families q(z given x): encoder features in, a distribution over z out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import ResidualLowRankNormal, StandardisedNormal
from ppl_vae.families.networks import Readout, near_identity
from ppl_vae.runtime.checks import whole_number

__all__ = ["FlowPosterior", "FullRankNormal", "LowRankNormal", "MeanFieldNormal"]

FLOOR = 1e-6  # smallest posterior sd; z is of order one


class Posterior(nn.Module, ABC):
    """q(z given x) from features; families implement `distribution` of `num_parameters` numbers."""

    num_parameters: int

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole_number(latent_dim, "latent_dim")
        self.link: Readout | None = None

    def build(self, feature_shape: Sequence[int]) -> None:
        """Make the last linear map for features of this shape; `Guide` calls it."""
        if self.link is not None:
            raise ValueError(f"this {type(self).__name__} is already in a Guide: make another one")
        self.link = Readout(feature_shape, 1, (self.num_parameters,))

    @abstractmethod
    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """q from unconstrained numbers of shape (*batch, num_parameters)."""

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """q(z given features)."""
        if self.link is None:
            raise RuntimeError(
                f"{type(self).__name__} has no link yet: give it to a Guide, or call "
                "build(feature_shape)"
            )
        return self.distribution(self.link(features).squeeze(-2))

    @override
    def extra_repr(self) -> str:
        return str(self.latent_dim)


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


class FlowPosterior(Posterior):
    """N(loc(x), diag scale(x)^2) pushed through couplings that also see x.

    A flexible posterior: affine couplings with reversed dimensions between them (D >= 2), or one
    monotone spline (D = 1). All of them invert in closed form, so that q can be scored at points
    that it did not draw (VampPrior, calibration). KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.
        num_transforms: Number of couplings.
        hidden_dims: Hidden layers of each coupling's network.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Rezende and Mohamed (2015), Variational inference with normalizing flows, arXiv:1505.05770;
        Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.

    Example:
        >>> posterior = FlowPosterior(2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    conditioner_dim = 32  # numbers about x that each coupling sees
    layers: Any  # nn.ModuleList of Pyro's conditional transforms

    def __init__(
        self, latent_dim: int, num_transforms: int = 4, *, hidden_dims: Sequence[int] = (64,)
    ) -> None:
        super().__init__(latent_dim)
        latent_dim = self.latent_dim
        self.num_parameters = 2 * latent_dim + self.conditioner_dim
        hidden = [whole_number(width, "hidden_dims") for width in hidden_dims]
        make = T.conditional_spline if latent_dim == 1 else T.conditional_affine_coupling
        self.layers = nn.ModuleList(
            near_identity(make(latent_dim, self.conditioner_dim, hidden))
            for _ in range(whole_number(num_transforms, "num_transforms"))
        )
        self.reverse = nn.Buffer(torch.arange(latent_dim).flip(0), persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        D = self.latent_dim
        loc, scale, conditioner = raw.split([D, D, self.conditioner_dim], dim=-1)
        base = StandardisedNormal(loc, FLOOR + softplus(scale)).to_event(1)
        transforms: list[T.Transform] = []
        for layer in self.layers:
            transforms += [layer.condition(conditioner), T.Permute(self.reverse)]
        return dist.TransformedDistribution(base, transforms)
