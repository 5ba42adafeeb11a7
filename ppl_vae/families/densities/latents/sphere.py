"""Unit vectors: the uniform and the power spherical distribution."""

import math
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from ppl_vae.families.densities.series import stirling_error, stirling_slope

__all__ = ["SpherePower", "SphereUniform"]


class SphereUniform(dist.TorchDistribution):
    """The uniform distribution of unit vectors in R^D: density Gamma(D / 2) / (2 pi^(D / 2)).

    Args:
        centre: A tensor of the wanted shape (*batch, D), float type and device.

    Example:
        >>> SphereUniform(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0])).exp()  # 1 / (2 pi)
        tensor(0.1592)
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.sphere

    def __init__(self, centre: Tensor, *, validate_args: bool | None = None) -> None:
        self.centre = centre
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: "SphereUniform | None" = None) -> "SphereUniform":
        new = self._get_checked_instance(SphereUniform, _instance)
        SphereUniform.__init__(new, self.centre.expand(*batch_shape, -1), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def log_density(self) -> float:
        """Everywhere."""
        half = self.centre.shape[-1] / 2
        return math.lgamma(half) - math.log(2) - half * math.log(math.pi)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, self.log_density)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, by normals divided by their length."""
        return unit(torch.randn_like(self.centre.expand(self._extended_shape(sample_shape))))


class SpherePower(dist.TorchDistribution):
    """The power spherical distribution: density proportional to (1 + m'z)^kappa of unit vectors z.

    With b = (D - 1) / 2, a = b + kappa and u = |z - m|^2 / 4, which is Beta(b, a),

        log p(z) = kappa log(1 - u) + log Gamma(a + b) - log Gamma(a) - b log(4 pi);

    the Gamma functions enter by the errors of Stirling's formula, so that nothing cancels for large
    kappa. A draw is m'z = 1 - 2 u and a uniform direction around m, put in place by a reflection.

    Args:
        mean_direction: m, (*batch, D), unit vectors.
        concentration: kappa, (*batch), at least 0.

    References:
        De Cao and Aziz (2020), The power spherical distribution, arXiv:2006.04437.

    Example:
        >>> north = torch.tensor([0.0, 0.0, 1.0])
        >>> SpherePower(north, torch.tensor(0.0)).log_prob(north).exp()  # 1 / (4 pi)
        tensor(0.0796)
    """

    arg_constraints = {"concentration": constraints.nonnegative}
    support = constraints.sphere
    has_rsample = True

    def __init__(
        self, mean_direction: Tensor, concentration: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.mean_direction = mean_direction
        self.concentration = concentration
        super().__init__(
            mean_direction.shape[:-1], mean_direction.shape[-1:], validate_args=validate_args
        )

    @override
    def expand(self, batch_shape: Any, _instance: "SpherePower | None" = None) -> "SpherePower":
        new = self._get_checked_instance(SpherePower, _instance)
        mean_direction = self.mean_direction.expand(*batch_shape, -1)
        concentration = self.concentration.expand(batch_shape)
        SpherePower.__init__(new, mean_direction, concentration, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _shapes(self) -> tuple[Tensor, float]:
        """a and b."""
        b = (self.event_shape[0] - 1) / 2
        return self.concentration + b, b

    @property
    def mean(self) -> Tensor:
        """kappa / (kappa + D - 1) m."""
        a, b = self._shapes
        return (self.concentration / (a + b)).unsqueeze(-1) * self.mean_direction

    @property
    def log_normalizer(self) -> Tensor:
        """Minus the log-density at m."""
        a, b = self._shapes
        errors = stirling_error(a + b) - stirling_error(a)
        log_ratio = (a - 0.5) * torch.log1p(b / a) + b * (a + b).log() - b + errors
        return b * math.log(4 * math.pi) - log_ratio

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        m = self.mean_direction
        near = 0.25 * (value - m).square().sum(-1)
        far = 0.25 * (value + m).square().sum(-1)  # 1 - u, exact where u is near 1
        is_near = near < 0.5
        tiny = torch.finfo(value.dtype).tiny
        log_far = torch.where(is_near, 1.0, far).clamp(min=tiny).log()
        log_share = torch.where(is_near, torch.log1p(-near.clamp(max=0.5)), log_far)
        return self.concentration * log_share - self.log_normalizer

    def entropy(self) -> Tensor:
        """- E log p(z), with E log(1 - u) = psi(a) - psi(a + b)."""
        a, b = self._shapes
        slopes = stirling_slope(a) - stirling_slope(a + b)
        mean_log = slopes - torch.log1p(b / a) - b / (2 * a * (a + b))
        return self.log_normalizer - self.concentration * mean_log

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        a, b = self._shapes
        u = dist.Beta(torch.full_like(a, b), a).rsample(torch.Size(sample_shape))
        around = unit(a.new_empty((*shape[:-1], shape[-1] - 1)).normal_())
        across = 2 * (u * (1 - u)).sqrt().unsqueeze(-1) * around
        return unit(self._in_place(torch.cat([1 - 2 * u.unsqueeze(-1), across], dim=-1)))

    def _in_place(self, y: Tensor) -> Tensor:
        """Reflect the first axis to m, or to -m and all signs turned: the one that is stable."""
        m = self.mean_direction
        sign = torch.where(m[..., :1] > 0, 1.0, -1.0)
        axis = torch.cat([m[..., :1] + sign, m[..., 1:]], dim=-1)
        share = (axis * y).sum(-1, keepdim=True) / axis.square().sum(-1, keepdim=True)
        return -sign * (y - 2 * share * axis)


def unit(vectors: Tensor) -> Tensor:
    """Vectors divided by their length; the first axis for those of no length."""
    length = vectors.norm(dim=-1, keepdim=True)
    first = torch.arange(vectors.shape[-1], device=vectors.device) == 0
    return torch.where(length > 0, vectors / length.where(length > 0, 1.0), first.to(vectors.dtype))


@register_kl(SpherePower, SphereUniform)
def _kl_to_uniform(q: SpherePower, p: SphereUniform) -> Tensor:
    """Minus the entropy, and minus the log of the uniform density."""
    return -q.entropy() - p.log_density
