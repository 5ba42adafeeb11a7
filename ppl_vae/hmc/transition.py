"""One transition of Hamiltonian Monte Carlo: leapfrog steps, then a Metropolis step."""

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.hmc.density import LogDensity, with_slope

__all__ = ["Outcome", "Point", "first_step", "transition"]

TOO_MUCH_ENERGY = 1000.0  # a trajectory whose energy grows by more has diverged
MOST_DOUBLINGS = 30


class Point(NamedTuple):
    """Where the chains are, (C, B, D), with the log-density there, (C, B), and its gradient.

    Example:
        >>> point = Point.at(lambda u: -0.5 * u.square().sum(-1), torch.ones(1, 1, 2))
        >>> point.density.item(), point.slope.tolist()
        (-1.0, [[[-1.0, -1.0]]])
    """

    position: Tensor
    density: Tensor
    slope: Tensor

    @classmethod
    def at(cls, log_density: LogDensity, position: Tensor) -> "Point":
        """Evaluate the density and its gradient."""
        density, slope = with_slope(log_density, position)
        return cls(position.detach(), density, slope.nan_to_num())

    def where(self, accepted: Tensor, proposal: "Point") -> "Point":
        """The proposal where it was accepted, else this point."""
        wide = accepted.unsqueeze(-1)
        return Point(
            torch.where(wide, proposal.position, self.position),
            torch.where(accepted, proposal.density, self.density),
            torch.where(wide, proposal.slope, self.slope),
        )


class Outcome(NamedTuple):
    """The result of a transition: positions of the chains, acceptance probabilities, divergences,
    (C, B).

    Example:
        >>> normal = lambda u: -0.5 * u.square().sum(-1)
        >>> start = Point.at(normal, torch.zeros(1, 1, 2))
        >>> outcome = transition(normal, start, torch.full((1, 1), 0.01), torch.ones(2), 3)
        >>> bool(outcome.accept > 0.999), outcome.diverged.item()
        (True, False)
    """

    point: Point
    accept: Tensor
    diverged: Tensor


def transition(
    log_density: LogDensity, point: Point, step: Tensor, scale: Tensor, num_leapfrog: int
) -> Outcome:
    """A trajectory of `num_leapfrog` steps from `point`, accepted or rejected.

    It leaves the density invariant, reversibly. The momentum is drawn afresh, with mass
    1 / scale^2, and the step is multiplied by a uniform draw from (0.8, 1.2). A trajectory that
    reaches NaN is rejected, and counts as divergent.

    Args:
        log_density: (C, B, D) -> (C, B).
        point: Where the chains are.
        step: Step size, in units of `scale`, broadcast to (C, B).
        scale: Approximate standard deviations of the target, broadcast to (C, B, D).
        num_leapfrog: Leapfrog steps.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 5.3.

    Example:
        See `Outcome`.
    """
    jittered = step * (0.8 + 0.4 * torch.rand_like(point.density))
    velocity = torch.randn_like(point.position)
    end, velocity_at_end = leapfrog(
        log_density, point, velocity, jittered.unsqueeze(-1) * scale, num_leapfrog
    )
    change = end.density - point.density + kinetic(velocity) - kinetic(velocity_at_end)
    change = change.nan_to_num(nan=-torch.inf)
    accept = change.clamp(max=0.0).exp()
    return Outcome(
        point.where(torch.rand_like(accept) < accept, end), accept, change < -TOO_MUCH_ENERGY
    )


def leapfrog(
    log_density: LogDensity, point: Point, velocity: Tensor, step: Tensor, num_steps: int
) -> tuple[Point, Tensor]:
    """Leapfrog steps; velocity in units where the mass is one, `step` multiplied by the scale."""
    velocity = velocity + 0.5 * step * point.slope
    for i in range(num_steps):
        point = Point.at(log_density, point.position + step * velocity)
        velocity = velocity + (1.0 if i < num_steps - 1 else 0.5) * step * point.slope
    return point, velocity


def kinetic(velocity: Tensor) -> Tensor:
    """Kinetic energy, (C, B)."""
    return 0.5 * velocity.square().sum(-1)


def first_step(log_density: LogDensity, point: Point, scale: Tensor, guess: Tensor) -> Tensor:
    """A first step size per chain and row, (C, B), with an acceptance probability of about 0.8.

    `guess` is doubled or halved until one leapfrog step has that probability.

    References:
        Hoffman and Gelman (2014), The no-U-turn sampler, arXiv:1111.4246, algorithm 4.

    Example:
        >>> normal = lambda u: -0.5 * u.square().sum(-1)
        >>> start = Point.at(normal, torch.zeros(1, 1, 1))
        >>> bool(first_step(normal, start, torch.ones(1), torch.full((1, 1), 1e-3)) > 0.1)
        True
    """
    velocity = torch.randn_like(point.position)
    step = guess.expand_as(point.density)
    moving = torch.ones_like(point.density, dtype=torch.bool)
    upwards = None
    for _ in range(MOST_DOUBLINGS):
        end, velocity_at_end = leapfrog(log_density, point, velocity, step.unsqueeze(-1) * scale, 1)
        change = end.density - point.density + kinetic(velocity) - kinetic(velocity_at_end)
        good = change.nan_to_num(nan=-torch.inf).exp() > 0.8
        upwards = good if upwards is None else upwards
        moving = moving & (good == upwards)
        if not moving.any():
            break
        step = torch.where(moving, step * torch.where(upwards, 2.0, 0.5).to(step), step)
    return step
