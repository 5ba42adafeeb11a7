"""Discrete latents of each row, with a table of log-probabilities over all their values."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.programs.discrete.cases import discrete_latents
from ppl_vae.programs.traces import LogTerms
from ppl_vae.refinement.latents import Masks, Values, require_no_plates

__all__ = ["DiscreteLatents", "Listed"]


class Listed(dist.TorchDistribution):
    """A distribution over listed values.

    Args:
        values: The values, (C, *event).
        logits: Their log-probabilities up to a constant, (*batch, C).

    Example:
        >>> fair = Listed(torch.eye(2), torch.zeros(3, 2))
        >>> fair.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.5000, 0.5000, 0.5000])
    """

    arg_constraints: Any = {}
    has_enumerate_support = True

    def __init__(self, values: Tensor, logits: Tensor) -> None:
        self.values = values
        self.log_p = logits.log_softmax(-1)
        self.has_rsample = len(values) == 1  # which follows no parameter
        super().__init__(logits.shape[:-1], values.shape[1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Whole numbers from the smallest to the largest."""
        whole = constraints.integer_interval(self.values.min(), self.values.max())
        return constraints.independent(whole, len(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.values[dist.Categorical(logits=self.log_p).sample(sample_shape)]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The single value."""
        return self.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability; minus infinity of a value that is not listed."""
        found = self.positions(value)
        log_p = self.log_p.expand(*found.shape[:-1], -1)
        return torch.where(found, log_p, -math.inf).amax(-1)

    def positions(self, value: Tensor) -> Tensor:
        """Which of the values each value is, (..., C)."""
        batch = value.dim() - len(self.event_shape)
        equal = value.unsqueeze(batch) == self.values
        shape = torch.broadcast_shapes(equal.shape[: batch + 1], self.log_p.shape)
        return equal.reshape(*equal.shape[: batch + 1], -1).all(-1).expand(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Listed":
        """The same for more rows."""
        return Listed(self.values, self.log_p.expand(*batch_shape, -1))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values, the first dim."""
        values = self.values.reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values


@dataclass(frozen=True)
class DiscreteLatent:
    """One discrete latent, its values (C, *event)."""

    name: str
    values: Tensor

    def draw(self, logits: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """A draw, and which of the values it is; it counts for the rows that the model counts."""
        q = Listed(self.values, logits)
        if self.name in masks:
            mask = masks[self.name]
            rows: Any = mask.reshape(*mask.shape[: mask.dim() - len(q.event_shape)], -1).any(-1)
            with poutine.mask(mask=rows):
                value = pyro.sample(self.name, q)
        else:
            value = pyro.sample(self.name, q)
        return value, q.positions(value).to(torch.uint8).argmax(-1)


@dataclass(frozen=True)
class DiscreteLatents:
    """Discrete latents, and the cases: all combinations of their values.

    Args:
        sites: The latents, in the order in which the guide draws them.

    Example:
        >>> DiscreteLatents(()).cases
        [{}]
    """

    sites: tuple[DiscreteLatent, ...]

    @property
    def cases(self) -> list[Values]:
        """Each combination of values, each (1, *event), by site."""
        values = itertools.product(*(site.values.split(1) for site in self.sites))
        names = [site.name for site in self.sites]
        return [dict(zip(names, each, strict=True)) for each in values]

    def fix(self, case: Values, like: Tensor) -> Values:
        """Draw the values of one case for all rows, with probability one."""
        logits = like.new_zeros(len(like), 1)
        return {name: pyro.sample(name, Listed(each, logits)) for name, each in case.items()}

    def sample(self, logits: Tensor, masks: Masks) -> tuple[Values, Tensor]:
        """Draw all sites, one given those before it, from a table over the cases, (B, cases).

        Returns:
            The values, and the number of the case.
        """
        sizes = [len(site.values) for site in self.sites]
        table = logits.reshape(len(logits), *sizes)
        values: Values = {}
        number = torch.zeros((), dtype=torch.long, device=logits.device)
        for site, size in zip(self.sites, sizes, strict=True):
            batch = table.dim() - len(sizes) + len(values)
            own = table.reshape(*table.shape[: batch + 1], -1).logsumexp(-1)
            values[site.name], position = site.draw(own, masks)
            number = number * size + position
            table = _at(table, position, batch)
        return values, number


def _at(table: Tensor, position: Tensor, batch: int) -> Tensor:
    """A table (*batch, C, ...) at these positions of C, (*positions, ...)."""
    lead = torch.broadcast_shapes(table.shape[:batch], position.shape)
    table = table.expand(*lead, *table.shape[batch:])
    index = position.expand(lead).reshape(*lead, *[1] * (table.dim() - len(lead)))
    return table.take_along_dim(index, len(lead)).squeeze(len(lead))


def read_discrete(terms: LogTerms) -> DiscreteLatents:
    """The discrete latents of a run on the first rows that have few values."""
    nodes: Any = terms.model_trace.nodes
    latents = [nodes[name] for name in terms.posterior_sites if name in terms.prior_sites]
    found = discrete_latents(latents)
    for name in found:
        require_no_plates(nodes[name])
    return DiscreteLatents(
        tuple(DiscreteLatent(name, values.squeeze(1)) for name, values in found.items())
    )
