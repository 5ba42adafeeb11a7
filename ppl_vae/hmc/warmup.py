"""The adaptation in warm-up: step sizes by dual averaging, and the scale of each dimension."""

import torch
from torch import Tensor

from ppl_vae.hmc.density import LogDensity
from ppl_vae.hmc.transition import Point, first_step

# shares of the warm-up at which earlier positions are dropped, the scale is set, and set again
WINDOWS = (0.1, 0.25, 0.6)
SMALLEST_WINDOW = 10  # fewest positions, over chains, from which the scale is learnt
# Stan's 0.05 is for means over whole trees; here it would settle at 0.9 where 0.8 is the target
GAMMA = 0.2


class DualAveraging:
    """Step sizes per chain and row by dual averaging, as in Stan except for gamma.

    Args:
        step: Initial step size, (C, B).
        target: Target of the acceptance probability.

    References:
        Hoffman and Gelman (2014), The no-U-turn sampler, arXiv:1111.4246, section 3.2.1.
    """

    def __init__(self, step: Tensor, target: float) -> None:
        self.step = step
        self.target = target
        self.count = 0
        self.centre = (10 * step).log()
        self.error = self.average = torch.zeros_like(step)

    def update(self, accept: Tensor) -> None:
        """Update by the acceptance probabilities of a transition."""
        self.count += 1
        weight, decay = 1 / (self.count + 10), self.count**-0.75
        self.error = (1 - weight) * self.error + weight * (self.target - accept)
        log_step = self.centre - self.count**0.5 / GAMMA * self.error
        self.average = decay * log_step + (1 - decay) * self.average
        self.step = log_step.exp()

    @property
    def settled(self) -> Tensor:
        """The step size for sampling: the average of the later ones."""
        return self.average.exp() if self.count else self.step


class Warmup:
    """Step sizes per chain and row, scales per row from the positions of all chains.

    Args:
        log_density: The target.
        point: Where the chains start.
        target_accept: Target of the acceptance probability.
        length: Number of transitions.
    """

    def __init__(
        self, log_density: LogDensity, point: Point, target_accept: float, length: int
    ) -> None:
        self.log_density = log_density
        self.target_accept = target_accept
        self.drop, *self.boundaries = (round(share * length) for share in WINDOWS)
        self.scale = torch.ones_like(point.position[:1])  # (1, B, D)
        self.kept: list[Tensor] = []
        self._restart(point, torch.full_like(point.density, 0.1))

    def _restart(self, point: Point, guess: Tensor) -> None:
        self.steps = DualAveraging(
            first_step(self.log_density, point, self.scale, guess), self.target_accept
        )

    def update(self, point: Point, accept: Tensor, t: int) -> None:
        """Update by transition t; after a window, set the scale and restart the step sizes."""
        self.steps.update(accept)
        if t >= self.drop:
            self.kept.append(point.position)
        if t + 1 in self.boundaries and len(self.kept) * len(accept) >= SMALLEST_WINDOW:
            self.scale = pooled_scale(torch.stack(self.kept))
            self.kept = []
            self._restart(point, torch.ones_like(accept))


def pooled_scale(positions: Tensor) -> Tensor:
    """Standard deviation over draws and chains, shrunk as in Stan, (T, C, B, D) -> (1, B, D)."""
    n = positions.shape[0] * positions.shape[1]
    variance = positions.flatten(0, 1).var(0)
    floor = 1e-3 * variance.mean(-1, keepdim=True) + torch.finfo(variance.dtype).tiny
    return ((n * variance + 5 * floor) / (n + 5)).sqrt().unsqueeze(0)
