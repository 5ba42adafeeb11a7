"""The columns of a table: groups of elements, each group with a distribution of its own."""

from collections.abc import Callable, Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Columnwise"]


class ColumnwiseSupport(constraints.Constraint):
    """Each group of columns in the support of its own distribution."""

    def __init__(
        self, supports: Sequence[constraints.Constraint], places: Sequence[list[int]]
    ) -> None:
        self.supports = tuple(supports)
        self.places = tuple(places)
        self.is_discrete = all(support.is_discrete for support in self.supports)
        super().__init__()

    @override
    def check(self, value: Tensor) -> Tensor:
        inside = torch.empty_like(value, dtype=torch.bool)
        for support, place in zip(self.supports, self.places, strict=True):
            inside[..., place] = support.check(value[..., place])
        return inside


class Columnwise(dist.TorchDistribution):
    """Independent columns x_i, in groups: group g holds the columns `places[g]` of x.

    Each x_i is one element of the batch shape (*batch, P), so that missing ones can be masked.

    Args:
        parts: One distribution for each group, elementwise, with batch shape (*batch, columns).
        places: The columns of each group; together 0, ..., P - 1.

    Example:
        >>> parts = [dist.Bernoulli(torch.full((2,), 0.5)), dist.Normal(torch.zeros(1), 1.0)]
        >>> Columnwise(parts, [[0, 2], [1]]).log_prob(torch.tensor([1.0, 0.0, 0.0]))
        tensor([-0.6931, -0.9189, -0.6931])
    """

    arg_constraints = {}

    def __init__(
        self, parts: Sequence[Any], places: Sequence[list[int]], *, validate_args: Any = None
    ) -> None:
        self.parts = tuple(parts)
        self.places = tuple(places)
        order = [column for place in self.places for column in place]
        self.order = [order.index(column) for column in range(len(order))]
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in self.parts))
        super().__init__(torch.Size([*batch, len(order)]), validate_args=validate_args)

    @property
    def support(self) -> ColumnwiseSupport:
        """The support of each column."""
        return ColumnwiseSupport([part.support for part in self.parts], self.places)

    @property
    def mean(self) -> Tensor:
        """E x_i."""
        return self.joined([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """Var x_i."""
        return self.joined([part.variance for part in self.parts])

    @override
    def expand(self, batch_shape: Any, _instance: "Columnwise | None" = None) -> "Columnwise":
        new = self._get_checked_instance(Columnwise, _instance)
        sizes = [len(place) for place in self.places]
        pairs = zip(self.parts, sizes, strict=True)
        parts = [part.expand(torch.Size([*batch_shape[:-1], size])) for part, size in pairs]
        Columnwise.__init__(new, parts, self.places, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        return self.each(lambda part, x: part.log_prob(x), value)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return self.joined([part.sample(shape) for part in self.parts])

    def each(self, function: Callable[[Any, Tensor], Tensor], value: Tensor) -> Tensor:
        """A function of each group's distribution and its columns of x, in the order of x."""
        pairs = zip(self.parts, self.places, strict=True)
        return self.joined([function(part, value[..., place]) for part, place in pairs])

    def joined(self, values: Sequence[Tensor]) -> Tensor:
        """Values by group, side by side in the order of the columns."""
        sizes = [len(place) for place in self.places]
        batch = torch.broadcast_shapes(*(each.shape[:-1] for each in values))
        pairs = zip(values, sizes, strict=True)
        wide = [each.expand(*batch, size) for each, size in pairs]
        return torch.cat(wide, dim=-1)[..., self.order]
