"""Parameters for each row by gradient steps on its bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.families.modules import require_module
from ppl_vae.families.posteriors import FullRankNormal, Posterior
from ppl_vae.objectives import (
    IWAE,
    Bound,
    DoublyReparameterized,
    StickingTheLanding,
    TraceELBO,
)
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.task import Task, own_family
from ppl_vae.runtime.checks import instance_of, real_number, whole_fields
from ppl_vae.runtime.seeding import seeded

__all__ = ["GradientRefinement"]

BOUNDS_COMPARED = 10  # evaluations of the bound that decide between start and end
ELBO = TraceELBO(10, gradient=StickingTheLanding())
COVERING = IWAE(10, gradient=DoublyReparameterized())  # its q covers the tails of the posterior
SMALLEST_SLOPE = 1e-4  # nats per unit of a parameter: Adam would amplify rounding below it


@dataclass(frozen=True)
class GradientRefinement:
    """Maximise the bound of each row over its own parameters, by Adam from the encoder's values.

    The parameters are those that the encoder gives the family,
    `posterior.distribution(parameters)`, so every family can be refined; parameters that rows share
    (a flow's networks) are not changed. Steps are in units of the current posterior sd for the
    normal families. The learning rate falls to zero along a cosine. A row whose bound fell by more
    than its Monte Carlo error keeps its start. The ELBO alone gives the member of the family that
    is nearest in KL(q || p(z given x)), whose tails are often too light for importance weights.

    Args:
        num_steps: Adam steps for each objective.
        learning_rate: Learning rate of the first step.
        posterior: A family of normals; None is the guide's own, or `FullRankNormal` in
            unconstrained space for a custom Pyro guide and for constrained latents. A family other
            than the guide's starts at mean and sd of the guide's draws.
        objective: The objective, with its particles and gradient: any `Bound`, or several,
            maximised in turn; None is the ELBO, which is quick, then the IWAE bound of ten
            particles, whose q covers the tails of the posterior.
        chunk_size: (particle, row) pairs held at once.

    Raises:
        ValueError: there is no step, or the learning rate is not positive.

    References:
        Kim et al. (2018), arXiv:1802.02550; Roeder, Wu and Duvenaud (2017), arXiv:1703.09194 (the
        default gradient).

    Example:
        >>> GradientRefinement(posterior=FullRankNormal(2)).num_particles
        10
    """

    num_steps: int = 300
    learning_rate: float = 0.05
    posterior: Posterior | None = None
    objective: Bound | Sequence[Bound] | None = None
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_steps=1, chunk_size=1)
        real_number(self.learning_rate, "GradientRefinement(learning_rate)", above=0)
        if self.posterior is not None:
            require_module(self.posterior, "posterior", "distribution")
        for objective in self.objectives:
            instance_of(objective, "GradientRefinement(objective)", Bound)

    @property
    def objectives(self) -> tuple[Bound, ...]:
        """The objectives, in turn."""
        if self.objective is None:
            return (ELBO, COVERING)
        if isinstance(self.objective, Sequence) and not isinstance(self.objective, str):
            return tuple(self.objective)
        return (self.objective,)

    @property
    def num_particles(self) -> int:
        """The largest number of particles of the objectives."""
        return max(int(objective.num_particles) for objective in self.objectives)

    @property
    def num_ticks(self) -> int:
        """One for each step."""
        return self.num_steps * len(self.objectives)

    def from_near(self) -> "GradientRefinement":
        """The same for a start near the end: the last objective alone, in a third of the steps.

        Example:
            >>> GradientRefinement(num_steps=300).from_near().num_ticks
            100
        """
        steps = -(-self.num_steps // 3)
        return replace(self, objective=self.objectives[-1], num_steps=steps)

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """The one given, or the guide's own."""
        if self.posterior is not None:
            return self.posterior
        return own_family(guide) or FullRankNormal(latent_dim)

    def parameters(self, task: Task, tick: Callable[[], Any]) -> Tensor:
        """Adam, from the encoder's values."""
        start = None
        if self.posterior is None:
            start = task.start()
        if start is None:
            start = task.moments()
        raw = start
        for objective in self.objectives:
            end = self._maximise(objective, task, raw, tick)
            raw = _better(objective, task, raw, end)
        return raw

    def _maximise(
        self, objective: Bound, task: Task, start: Tensor, tick: Callable[[], Any]
    ) -> Tensor:
        raw = start.clone()
        step = torch.zeros_like(raw, requires_grad=True)
        optimizer = torch.optim.Adam([step], lr=self.learning_rate, eps=SMALLEST_SLOPE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_steps)
        for _ in range(self.num_steps):
            units = task.family.units(raw)
            with torch.enable_grad():
                q = task.program(raw + units * step)
                loss = objective.differentiable_loss(task.given()[0], q, *task.args)
                # with respect to these alone: the model's own gradients stay untouched
                (slope,) = torch.autograd.grad(loss, step)
            step.grad = slope.nan_to_num(posinf=0.0, neginf=0.0)
            optimizer.step()
            raw += units * step.detach()
            step.data.zero_()
            schedule.step()
            tick()
        return raw


def _better(objective: Bound, task: Task, start: Tensor, end: Tensor) -> Tensor:
    """The end of each row, or the start if the bound fell or became much noisier.

    It fell if it is lower by 3 standard errors. A diverged row may hide behind its own noise, so
    three times the spread at the start, and 0.1 nats, are the most that the end may have.
    """
    seed = int(torch.randint(2**62, ()))
    before, after = (_bounds(objective, task, raw, seed) for raw in (start, end))
    rise = (1 - 2 * objective.is_upper) * (after - before)
    # false for NaN, which returns to the start
    has_not_fallen = rise.mean(0) >= -3 * rise.std(0) / BOUNDS_COMPARED**0.5
    is_stable = after.std(0) <= 3 * before.std(0) + 0.1
    return torch.where((has_not_fallen & is_stable).unsqueeze(-1), end, start)


def _bounds(objective: Bound, task: Task, raw: Tensor, seed: int) -> Tensor:
    with seeded(seed):
        bounds = [
            objective.bound(task.given()[0], task.program(raw), *task.args)
            for _ in range(BOUNDS_COMPARED)
        ]
    return torch.stack(bounds)
