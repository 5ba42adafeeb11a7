"""Where refinement starts: an encoder of clean rows may be far off for noisy ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.families.posteriors import FullRankNormal, Posterior
from ppl_vae.objectives import TraceELBO
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.task import Task

__all__ = ["BetterStart"]

ELBO = TraceELBO(50)


@dataclass(frozen=True)
class BetterStart:
    """For each row a normal at the moments of the guide or of another one, by the larger ELBO.

    Args:
        other: The other guide.
        chunk_size: (particle, row) pairs held at once.

    Example:
        >>> BetterStart(None).num_ticks
        1
    """

    other: Program
    chunk_size: int | None = None

    @property
    def num_particles(self) -> int:
        """Those of the ELBO."""
        return int(ELBO.num_particles)

    @property
    def num_ticks(self) -> int:
        """One for each block of rows."""
        return 1

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """`FullRankNormal`, with a diagonal covariance."""
        return FullRankNormal(latent_dim)

    def parameters(self, task: Task, tick: Callable[[], Any]) -> Tensor:
        """The better of both starts, row by row."""
        starts = [replace(task, guide=guide).moments() for guide in (task.guide, self.other)]
        with torch.no_grad():
            bounds = [ELBO.bound(task.model, task.program(raw), *task.args) for raw in starts]
        tick()
        own, other = (bound.nan_to_num(nan=-torch.inf) for bound in bounds)
        return torch.where((own >= other).unsqueeze(-1), starts[0], starts[1])
