"""Draws that belong to the contents of a row, whatever other rows are evaluated with it."""

from collections.abc import Callable
from typing import Any, override

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.refinement import RefinedGuide
from ppl_vae.runtime.digests import row_digests
from ppl_vae.runtime.seeding import derived_seed, seeded

SEED_BYTES = 7  # torch takes seeds below 2^63


def row_seeds(seed: int, *args: Tensor) -> list[int]:
    """A seed for each row, which depends on its values and covariates alone."""
    shift = derived_seed(seed, 0)
    values = torch.cat(args, dim=1)
    return [int.from_bytes(each) ^ (shift >> 8) for each in row_digests(values, SEED_BYTES)]


class KeyedGuide(nn.Module):
    """A `Guide` or `RefinedGuide` whose draws for a row come from a stream of the row's own."""

    def __init__(self, guide: Any, seed: int) -> None:
        super().__init__()
        self.guide = guide
        self.seed = seed

    def forward(self, *args: Tensor) -> Tensor:
        """The Pyro guide."""
        guide = self.guide
        if isinstance(guide, RefinedGuide):
            family: Any = guide.posterior.distribution
            numbers = guide.parameters_of(*args)
        else:
            family = guide.posterior
            numbers = guide.features(*args)
        seeds = row_seeds(self.seed, *args)

        def draw(shape: torch.Size) -> Tensor:
            draws = []
            with seeded(0):  # the caller's stream is put back
                for row, seed in zip(numbers.split(1), seeds, strict=True):
                    torch.default_generator.manual_seed(seed)
                    draws.append(family(row).sample(shape))
            return torch.cat(draws, dim=len(shape))

        with pyro.plate("data", len(args[0]), dim=-1):
            return pyro.sample("z", DrawnByRow(family(numbers), draw))


class DrawnByRow(dist.TorchDistribution):
    """q of all rows, with draws from a function of their shape, (...) -> (..., B, D)."""

    arg_constraints = {}

    def __init__(self, q: Any, draw: Callable[[torch.Size], Tensor]) -> None:
        self.q = q
        self.draw = draw
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of q."""
        return self.q.support

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> "DrawnByRow":
        new = DrawnByRow(self.q, self.draw)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.draw(torch.Size(sample_shape) + self.batch_shape[:-1])

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        return self.q.log_prob(value)
