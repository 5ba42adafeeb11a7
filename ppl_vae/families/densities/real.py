"""Real values: normals and Student's t by residuals in units of their scale."""

from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.families.densities.series import HALF_LOG_2PI, stirling_error

__all__ = ["ResidualLowRankNormal", "StandardisedNormal", "StandardisedStudentT"]


class StandardisedNormal(dist.Normal):
    """N(loc, scale^2) by its standardised residual; torch squares the scale, which underflows.

    Example:
        >>> StandardisedNormal(torch.zeros(()), torch.tensor(1e-30)).log_prob(torch.tensor(1e-30))
        tensor(67.6586)
    """

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual = (value - self.loc) / self.scale
        return -0.5 * residual * residual - self.scale.log() - HALF_LOG_2PI


class StandardisedStudentT(dist.StudentT):
    """Student's t, with its normaliser by the errors of Stirling's formula.

    With a = df / 2, t = (x - loc) / (scale sqrt(df)) and S that error, log p(x) is

        a log(1 + 1 / (2 a)) - 1/2 + S(a + 1/2) - S(a)
        - (a + 1/2) log(1 + t^2) - log scale - log(2 pi) / 2,

    whose first four terms vanish as df grows.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> StandardisedStudentT(torch.tensor(1e8), zero, one).log_prob(zero)
        tensor(-0.9189)
    """

    def __init__(
        self, df: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.degrees = df  # not broadcast: their functions are computed once for all particles
        super().__init__(df, loc, scale, validate_args=validate_args)

    @override
    def expand(
        self, batch_shape: Any, _instance: "StandardisedStudentT | None" = None
    ) -> "StandardisedStudentT":
        new = self._get_checked_instance(StandardisedStudentT, _instance)
        new.degrees = self.degrees
        return super().expand(batch_shape, _instance=new)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a = 0.5 * self.degrees
        normaliser = (
            a * (0.5 / a).log1p() - 0.5 + stirling_error(a + 0.5) - stirling_error(a) - HALF_LOG_2PI
        )
        gap = value - self.loc
        log_scale = self.scale.log()
        width = self.scale * self.degrees.sqrt()
        far = gap.abs() > width  # by logarithms, since the square would overflow
        near = (torch.where(far, 0.0, gap) / width).square().log1p()
        log_t = torch.where(far, gap, 1.0).abs().log() - log_scale - 0.5 * self.degrees.log()
        log_t = torch.where(far, log_t, 0.0)
        log_sum = torch.where(far, 2 * log_t + torch.exp(-2 * log_t).log1p(), near)
        return normaliser - (a + 0.5) * log_sum - log_scale


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
        residual = ((value - self.loc) / sd).unsqueeze(-1)
        root = self._capacitance_tril
        weight = torch.cholesky_solve(
            factor.mT @ residual, root.expand(*residual.shape[:-2], -1, -1)
        )
        residual = residual - factor @ weight
        squares = residual.square().sum((-2, -1)) + weight.square().sum((-2, -1))
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + sd.log().sum(-1)
        return -0.5 * squares - log_det - HALF_LOG_2PI * self.event_shape.numel()
