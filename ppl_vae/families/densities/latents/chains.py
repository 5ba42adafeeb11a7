"""Blocks of a vector, each normal given the one before."""

from collections.abc import Iterator, Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities.real import StandardisedNormal

__all__ = ["NormalChain"]

UNIT = 0.5413  # softplus of it is 1


class NormalChain(dist.TorchDistribution):
    """Blocks drawn in turn: N(m_l + a_l(z_k), diag (s_l b_l(z_k))^2), z_k the block drawn before.

    The first block is N(m, diag s^2). A step is a network from one block to a and log b of the
    next, b = 1 and a = 0 where its outputs are zero.

    Args:
        loc: m of all blocks, (*batch, D).
        scale: s of all blocks, (*batch, D).
        blocks: Where each block lies among the D dimensions, in the order of drawing.
        steps: The networks, one fewer than blocks.

    Example:
        >>> zeros, step = torch.zeros(3), nn.Linear(1, 4)
        >>> NormalChain(zeros, zeros + 1, [slice(2, 3), slice(0, 2)], [step]).sample((5,)).shape
        torch.Size([5, 3])
    """

    arg_constraints = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        blocks: Sequence[slice],
        steps: Sequence[nn.Module],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc = loc
        self.scale = scale
        self.blocks = tuple(blocks)
        self.steps = tuple(steps)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @override
    def expand(self, batch_shape: Any, _instance: "NormalChain | None" = None) -> "NormalChain":
        new = self._get_checked_instance(NormalChain, _instance)
        loc, scale = (each.expand(*batch_shape, -1) for each in (self.loc, self.scale))
        NormalChain.__init__(new, loc, scale, self.blocks, self.steps, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def inflated(self, factor: float) -> "NormalChain":
        """The same with `factor` times the scales."""
        return NormalChain(self.loc, factor * self.scale, self.blocks, self.steps)

    def _given(self, i: int, before: Tensor | None) -> StandardisedNormal:
        """The i-th block given the one before."""
        loc = self.loc[..., self.blocks[i]]
        scale = self.scale[..., self.blocks[i]]
        if before is None:
            return StandardisedNormal(loc, scale)
        shift, stretch = self.steps[i - 1](before).chunk(2, dim=-1)
        return StandardisedNormal(loc + shift, scale * softplus(stretch + UNIT))

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        drawn: dict[int, Tensor] = {}
        before = None
        for i, block in enumerate(self.blocks):
            normal = self._given(i, before)
            size = len(range(*block.indices(shape[-1])))
            before = normal.loc + normal.scale * self.loc.new_empty((*shape[:-1], size)).normal_()
            drawn[block.start] = before
        return torch.cat([drawn[start] for start in sorted(drawn)], dim=-1)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return sum(self._log_densities(value), torch.zeros_like(value[..., 0]))

    def _log_densities(self, value: Tensor) -> Iterator[Tensor]:
        before = None
        for i, block in enumerate(self.blocks):
            here = value[..., block]
            yield self._given(i, before).log_prob(here).sum(-1)
            before = here
