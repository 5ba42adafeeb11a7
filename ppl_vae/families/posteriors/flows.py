"""Normalising flows as posteriors."""

from collections.abc import Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.modules import near_identity, shape_of
from ppl_vae.families.networks.dense import MOST_DIMS, MOST_LAYERS
from ppl_vae.families.posteriors.posterior import FLOOR, UNIT, Posterior, scale_of
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["FlowPosterior", "InverseAutoregressive"]


class ConditionedFlow(Posterior):
    """A flow of N(loc(x), diag scale(x)^2) whose layers see some numbers about x."""

    conditioner_dim = 32

    def __init__(self, latent_dim: int) -> None:
        super().__init__(whole_number(latent_dim, "latent_dim", at_most=MOST_DIMS))
        self.num_parameters = 2 * self.latent_dim + self.conditioner_dim

    def parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """loc, scale, and the numbers that the layers see."""
        D = self.latent_dim
        loc, scale, conditioner = raw.split([D, D, self.conditioner_dim], dim=-1)
        return loc, scale_of(scale, loc), conditioner


class FlowPosterior(ConditionedFlow):
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

    layers: Any  # nn.ModuleList of Pyro's conditional transforms

    def __init__(
        self, latent_dim: int, num_transforms: int = 4, *, hidden_dims: Sequence[int] = (64,)
    ) -> None:
        super().__init__(latent_dim)
        hidden = list(shape_of(hidden_dims, "hidden_dims"))
        make = T.conditional_spline if self.latent_dim == 1 else T.conditional_affine_coupling
        self.layers = nn.ModuleList(
            near_identity(make(self.latent_dim, self.conditioner_dim, hidden))
            for _ in range(whole_number(num_transforms, "num_transforms", at_most=MOST_LAYERS))
        )
        self.reverse = nn.Buffer(torch.arange(self.latent_dim).flip(0), persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        loc, scale, conditioner = self.parts(raw)
        transforms: list[T.Transform] = []
        for layer in self.layers:
            transforms += [layer.condition(conditioner), T.Permute(self.reverse)]
        return dist.TransformedDistribution(StandardisedNormal(loc, scale).to_event(1), transforms)


class InverseAutoregressive(ConditionedFlow):
    """N(loc(x), diag scale(x)^2) pushed through autoregressive layers that also see x (IAF).

    A layer maps e to m(e) + s(e) e, m_d and s_d functions of e_1 .. e_(d-1); dimensions are
    reversed between layers. Its own draws it scores at once. Other points (VampPrior, calibration,
    `StickingTheLanding`) take D passes for each layer: use `FlowPosterior` there. For D = 1 it is
    the normal. KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.
        num_transforms: Number of layers.
        hidden_dims: Hidden layers of each layer's network; none is narrower than D.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    References:
        Kingma et al. (2016), Improving variational inference with inverse autoregressive flow,
        arXiv:1606.04934.

    Example:
        >>> posterior = InverseAutoregressive(2)
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(
        self, latent_dim: int, num_transforms: int = 2, *, hidden_dims: Sequence[int] = (64,)
    ) -> None:
        super().__init__(latent_dim)
        D = self.latent_dim
        hidden = [max(D, width) for width in shape_of(hidden_dims, "hidden_dims")]
        count = whole_number(num_transforms, "num_transforms", at_most=MOST_LAYERS)
        require_memory(f"latent_dim={D} and num_transforms={count}", count, D, hidden[0])
        order: Any = torch.arange(D)
        sizes = D, self.conditioner_dim, hidden
        self.layers = nn.ModuleList(
            near_identity(ConditionalAutoRegressiveNN(*sizes, permutation=order))
            for _ in range(count if D > 1 else 0)
        )
        self.reverse = nn.Buffer(torch.arange(D).flip(0), persistent=False)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        loc, scale, conditioner = self.parts(raw)
        transforms: list[T.Transform] = []
        for network in self.layers:
            transforms += [Autoregressive(network, conditioner), T.Permute(self.reverse)]
        return dist.TransformedDistribution(StandardisedNormal(loc, scale).to_event(1), transforms)


class Autoregressive(T.Transform):
    """z = m(e) + s(e) e, a network's m_d and s_d functions of e_1 .. e_(d-1)."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, network: nn.Module, conditioner: Tensor) -> None:
        super().__init__(cache_size=1)
        self.network = network
        self.conditioner = conditioner
        self.last: tuple[Tensor | None, Tensor | None] = None, None  # e, and s there

    def _parameters(self, e: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw_scale = self.network(e, self.conditioner.expand(*e.shape[:-1], -1))
        return loc, FLOOR + softplus(raw_scale + UNIT)

    def _call(self, x: Tensor) -> Tensor:
        loc, scale = self._parameters(x)
        self.last = x, scale
        return loc + scale * x

    def _inverse(self, y: Tensor) -> Tensor:
        e = torch.zeros_like(y)
        for _ in range(y.shape[-1]):  # each pass makes one more dimension exact
            loc, scale = self._parameters(e)
            e = (y - loc) / scale
        self.last = e, scale
        return e

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_d log s_d."""
        last, scale = self.last
        if scale is None or last is not x:
            scale = self._parameters(x)[1]
        return scale.log().sum(-1)
