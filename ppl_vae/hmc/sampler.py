"""The sampler: warm-up, then draws."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_vae.hmc.chains import Chains
from ppl_vae.hmc.density import LogDensity
from ppl_vae.hmc.transition import Point, transition
from ppl_vae.hmc.warmup import Warmup
from ppl_vae.runtime.checks import real_number, whole_fields
from ppl_vae.runtime.progress import progress_bar

__all__ = ["HMC"]


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo with step sizes per chain and row, adapted by dual averaging.

    The mass matrix is diagonal, per row, pooled over chains from two windows of the warm-up, each
    followed by a fresh adaptation of the step sizes. Each transition takes a random number of steps
    between 0.5 and 1.5 times `num_leapfrog`, and step sizes are jittered by 20 %: on a normal
    target, trajectories of a fixed length may return to their start or its mirror image, and so mix
    slowly. Multimodal posteriors need chains that start in each mode; a funnel causes divergences
    and a large R-hat.

    Args:
        num_samples: Number of draws S per chain after warm-up.
        num_warmup: Number of transitions that adapt step size and mass.
        num_leapfrog: Mean number of leapfrog steps per transition.
        target_accept: Target of the acceptance probability.
        progress: Whether to show a bar after two seconds.

    Raises:
        ValueError: a size is below one, or the target is outside (0, 1).

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 3.2 (random
        trajectory lengths); Hoffman and Gelman (2014), The no-U-turn sampler, arXiv:1111.4246,
        section 3.2 (dual averaging).

    Example:
        >>> HMC(num_samples=500).num_leapfrog
        10
    """

    num_samples: int = 100
    num_warmup: int = 100
    num_leapfrog: int = 10
    target_accept: float = 0.8
    progress: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        whole_fields(self, num_samples=1, num_warmup=0, num_leapfrog=1)
        real_number(self.target_accept, "HMC(target_accept)", above=0, below=1)

    @property
    def num_transitions(self) -> int:
        """Transitions of a chain, warm-up included."""
        return self.num_warmup + self.num_samples

    def run(self, log_density: LogDensity, start: Tensor) -> Chains:
        """Sample from `log_density`, (C, B, D) -> (C, B), starting at `start`, on torch's present
        random stream.

        Raises:
            ValueError: the density is zero or NaN where a chain starts.
        """
        point = _checked(Point.at(log_density, start))
        warmup = Warmup(log_density, point, self.target_accept, self.num_warmup)
        fewest, most = math.ceil(self.num_leapfrog / 2), 3 * self.num_leapfrog // 2
        outcomes = []
        total = self.num_transitions
        with progress_bar(total, "HMC", unit="draws", progress=self.progress) as bar:
            for t in range(total):
                is_warmup = t < self.num_warmup
                step = warmup.steps.step if is_warmup else warmup.steps.settled
                num_leapfrog = int(torch.randint(fewest, most + 1, ()))
                outcome = transition(log_density, point, step, warmup.scale, num_leapfrog)
                point = outcome.point
                if is_warmup:
                    warmup.update(point, outcome.accept, t)
                else:
                    outcomes.append((point.position, outcome.accept, outcome.diverged))
                bar.update()
        draws, accepts, diverged = (torch.stack(parts) for parts in zip(*outcomes, strict=True))
        return Chains(draws, accepts.mean(0), warmup.steps.settled, diverged.sum(0))


def _checked(point: Point) -> Point:
    """The starting point, unless it is outside the support."""
    outside = (~point.density.isfinite()).nonzero()
    if len(outside):
        chain, row = outside[0].tolist()
        value = point.density[chain, row].item()
        raise ValueError(
            f"the log-density is {value} where chain {chain} of row {row} starts: choose another "
            "start"
        )
    return point
