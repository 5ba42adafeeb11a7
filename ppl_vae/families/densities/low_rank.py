"""Vectors of normals whose covariance is a low-rank matrix plus a diagonal one."""

from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families.densities.real import StandardisedNormal
from ppl_vae.families.densities.series import HALF_LOG_2PI

__all__ = ["FactorNormal", "ResidualLowRankNormal"]


class ResidualLowRankNormal(dist.LowRankMultivariateNormal):
    """N(loc, F F' + D), its quadratic form as a ridge regression.

    With y = D^(-1/2) (x - loc) and A = D^(-1/2) F,

        (x - loc)' (F F' + D)^-1 (x - loc) = min_c |y - A c|^2 + |c|^2.

    Woodbury's formula, used by torch, is |y|^2 minus the part that A explains: both are of order
    10^6 where D is 10^-6.

    References:
        Woodbury (1950), Inverting modified matrices; Björck (1996), Numerical methods for least
        squares problems.

    Example:
        >>> one = torch.ones(1, 1)
        >>> ResidualLowRankNormal(torch.zeros(1), one, 1e-6 * one[0]).log_prob(one[0])
        tensor(-1.4189)
    """

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        sd = self._unbroadcasted_cov_diag.sqrt()
        factor = self._unbroadcasted_cov_factor / sd.unsqueeze(-1)
        root = self._capacitance_tril
        residual = (value - self.loc) / sd
        squares = ridge_loss(residual, factor, ridge_weights(residual, factor, root))
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + sd.log().sum(-1)
        return -0.5 * squares - log_det - HALF_LOG_2PI * self.event_shape.numel()


def ridge_weights(residual: Tensor, factor: Tensor, root: Tensor) -> Tensor:
    """argmin_c |y - A c|^2 + |c|^2, given the Cholesky root of I + A'A."""
    with _all_digits(factor):
        target = factor.mT @ residual.unsqueeze(-1)
        return torch.cholesky_solve(target, root.expand(*target.shape[:-2], -1, -1)).squeeze(-1)


def ridge_loss(residual: Tensor, factor: Tensor, weight: Tensor) -> Tensor:
    """|y - A c|^2 + |c|^2."""
    left = residual - _times(factor, weight)
    return left.square().sum(-1) + weight.square().sum(-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """The product."""
    with _all_digits(matrix):
        return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _all_digits(like: Tensor) -> torch.autocast:
    """Products in the operands' own type also where networks run in bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


class FactorNormal(dist.TorchDistribution):
    """x = loc + F c + scale e, c and e independent N(0, 1): one joint density of all entries.

    Where some entries are missing, the density of the others is that of their rows of F and scale.

    Args:
        loc: Means, (*batch, *event).
        factor: F, (*event, rank) with any batch dims to the left.
        scale: Standard deviations of e, broadcast to loc.
        observed: A row's values and which of them are observed; None is all of them.

    References:
        Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47.

    Example:
        >>> p = FactorNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
        >>> p.covariance_matrix
        tensor([[2., 1.],
                [1., 2.]])
        >>> p.given(torch.ones(2), torch.tensor([True, False])).marginals.mean
        tensor([0.5000, 0.5000])
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        factor: Tensor,
        scale: Tensor,
        observed: tuple[Tensor, Tensor] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc = loc
        self.factor = factor
        self.scale = scale
        self.observed = observed
        event = factor.shape[:-1]
        mask = () if observed is None else observed[1].shape
        shape = torch.broadcast_shapes(loc.shape, scale.shape, mask, event)
        super().__init__(shape[: -len(event)], event, validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = self._get_checked_instance(FactorNormal, _instance)
        loc = self.loc.expand(*batch_shape, *self.event_shape)
        parts = loc, self.factor, self.scale, self.observed
        FactorNormal.__init__(new, *parts, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """All real values."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def given(self, value: Tensor, observed: Tensor) -> "FactorNormal":
        """The density of these entries of each row; `marginals` is then conditional on them."""
        return FactorNormal(self.loc, self.factor, self.scale, (value, observed))

    def completed(self) -> Tensor:
        """A draw of the entries that are not observed, given the others, which stay as they are.

        An unconditional draw, moved by what its observed entries lack: its c by E[c given x_obs] -
        E[c given the drawn x_obs] (Matheron's rule), which is exact.

        References:
            Journel and Huijbregts (1978), Mining geostatistics, section VII.A (conditional
            simulation).
        """
        drawn = self.rsample()
        if self.observed is None:
            return drawn
        values, observed = self.observed
        residual, relative, root = self._standardised(values)
        lacking = residual - self._standardised(drawn)[0]
        moved = _times(self.factor.flatten(0, -2), ridge_weights(lacking, relative, root))
        return torch.where(observed, values, drawn + moved.reshape(drawn.shape))

    @property
    def marginals(self) -> StandardisedNormal:
        """The law of each entry alone, or given the entries that are observed."""
        factor = self.factor.flatten(0, -2)
        location = self._flat(self.loc)
        variance = self._flat(self.scale).square()
        if self.observed is None:
            spread = factor
        else:
            residual, relative, root = self._standardised(self.observed[0])
            location = location + _times(factor, ridge_weights(residual, relative, root))
            spread = torch.linalg.solve_triangular(root, factor.mT, upper=False).mT
        variance = variance + spread.square().sum(-1)
        shape = torch.broadcast_shapes(location.shape, variance.shape)
        loc, scale = (
            each.expand(shape).unflatten(-1, self.event_shape)
            for each in (location, variance.sqrt())
        )
        return StandardisedNormal(loc, scale)

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of each entry."""
        variance = self.scale.square() + self.factor.square().sum(-1)
        return variance.expand(self.batch_shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """Of the entries in a row, (*batch, P, P)."""
        factor = self.factor.flatten(0, -2)
        return factor @ factor.mT + torch.diag_embed(self._flat(self.scale).square())

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual, factor, root = self._standardised(value)
        squares = ridge_loss(residual, factor, ridge_weights(residual, factor, root))
        log_scale = self._flat(self.scale).log() + HALF_LOG_2PI
        if self.observed is not None:
            log_scale = log_scale.where(self._flat(self.observed[1]), 0.0)
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * squares - log_det - log_scale.sum(-1)

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        like: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        shared = torch.randn(*batch, self.factor.shape[-1], **like)
        noise = torch.randn(shape, **like)
        joint = _times(self.factor.flatten(0, -2), shared).reshape(shape)
        return self.loc + joint + self.scale * noise

    def _flat(self, values: Tensor) -> Tensor:
        """With all entries of a row in the last dim."""
        shape = torch.broadcast_shapes(values.shape, self.event_shape)
        return values.expand(shape).flatten(-len(self.event_shape))

    def _standardised(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y and A in units of the scale, zero where not observed, and the root of I + A'A."""
        scale = self._flat(self.scale)
        residual = (self._flat(value) - self._flat(self.loc)) / scale
        factor = self.factor.flatten(0, -2) / scale.unsqueeze(-1)
        if self.observed is not None:
            observed = self._flat(self.observed[1])
            residual = residual.where(observed, 0.0)
            factor = factor.where(observed.unsqueeze(-1), 0.0)
        one = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        with _all_digits(factor):
            return residual, factor, torch.linalg.cholesky(one + factor.mT @ factor)
