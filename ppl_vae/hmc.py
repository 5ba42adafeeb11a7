"""Hamiltonian Monte Carlo on p(z given x), for all chains and data at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.terms import PARTICLES, LogTerms, Program, log_terms, per_datum, sample_sites

__all__ = ["HMC", "Chains"]

TOO_MUCH_ENERGY = 1000.0  # a trajectory whose energy grows by more has diverged


@dataclass(frozen=True)
class Chains:
    """Draws of C chains for each of B data, in unconstrained space.

    Args:
        draws: (S, C, B, D).
        accept: Mean acceptance probability after warm-up, (C, B).
        step_size: Adapted step size, (C, B).
        divergences: Number of diverged trajectories after warm-up, (C, B).

    References:
        No paper: a container.

    Example:
        >>> standard_normal = lambda u: -0.5 * u.square().sum(-1)
        >>> chains = HMC(num_samples=10).run(standard_normal, torch.zeros(2, 3, 1))
        >>> chains.draws.shape
        torch.Size([10, 2, 3, 1])
    """

    draws: Tensor
    accept: Tensor
    step_size: Tensor
    divergences: Tensor


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: leapfrog trajectories, a step size per chain and datum by dual averaging.

    The mass matrix is diagonal, per datum, pooled over chains from the second half of the warm-up. Step sizes are
    jittered, so that no trajectory closes on itself. Multimodal posteriors need chains that start in each mode.

    Args:
        num_samples: Draws S per chain after warm-up.
        num_warmup: Transitions that adapt step size and mass.
        num_leapfrog: Leapfrog steps per transition.
        target_accept: Acceptance probability that the step size aims at.

    Raises:
        ValueError: a size below one, or a target outside (0, 1).

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901;
        Hoffman and Gelman (2014), The no-U-turn sampler, arXiv:1111.4246, section 3.2 (dual averaging).

    Example:
        >>> HMC(num_samples=500).num_leapfrog
        10
    """

    num_samples: int = 100
    num_warmup: int = 100
    num_leapfrog: int = 10
    target_accept: float = 0.8

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("num_warmup", 0), ("num_leapfrog", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"HMC({name}={getattr(self, name)}): it must be at least {least}")
        if not 0 < self.target_accept < 1:
            raise ValueError(f"HMC(target_accept={self.target_accept}): it must lie between 0 and 1")

    def run(self, log_density: Callable[[Tensor], Tensor], start: Tensor) -> Chains:
        """Sample from `log_density`, (C, B, D) -> (C, B), starting at `start`, on torch's present random stream."""
        state = _State(log_density, start.detach())
        for t in range(self.num_warmup):
            state.adapt(self._transition(state), t, self.num_warmup, self.target_accept)
        draws, accepts = [], []
        divergences = torch.zeros_like(state.step_size, dtype=torch.long)
        state.freeze()
        for _ in range(self.num_samples):
            accept, diverged = self._transition(state)
            draws.append(state.position)
            accepts.append(accept)
            divergences += diverged
        return Chains(torch.stack(draws), torch.stack(accepts).mean(0), state.step_size, divergences)

    def _transition(self, state: "_State") -> tuple[Tensor, Tensor]:
        """One trajectory and its Metropolis step; returns acceptance probabilities and divergences, (C, B)."""
        jitter = 0.8 + 0.4 * torch.rand_like(state.step_size)
        step = (state.step_size * jitter).unsqueeze(-1)
        momentum = torch.randn_like(state.position) / state.scale
        energy = kinetic(momentum, state.scale) - state.density
        position, slope = state.position, state.slope
        for _ in range(self.num_leapfrog):
            momentum = momentum + 0.5 * step * slope
            position = position + step * state.scale.square() * momentum
            density, slope = state.evaluate(position)
            momentum = momentum + 0.5 * step * slope
        change = (energy - kinetic(momentum, state.scale) + density).nan_to_num(nan=-torch.inf)
        accept = change.clamp(max=0.0).exp()
        state.move(torch.rand_like(accept) < accept, position, density, slope)
        return accept, change < -TOO_MUCH_ENERGY


def kinetic(momentum: Tensor, scale: Tensor) -> Tensor:
    """Kinetic energy with mass 1 / scale^2, (C, B)."""
    return 0.5 * (momentum * scale).square().sum(-1)


class _State:
    """Position of all chains, and what warm-up has learnt."""

    def __init__(self, log_density: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self.log_density, self.position = log_density, start
        self.density, self.slope = self.evaluate(start)
        self.scale = torch.ones_like(start[:1])  # posterior sd per datum, (1, B, D)
        self.step_size = torch.full_like(self.density, 0.1)
        self._restart()
        self.kept: list[Tensor] = []

    def evaluate(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient."""
        with torch.enable_grad():
            leaf = position.detach().requires_grad_()
            density = self.log_density(leaf)
            (slope,) = torch.autograd.grad(density.sum(), leaf)
        return density.detach(), slope.nan_to_num()

    def move(self, accepted: Tensor, position: Tensor, density: Tensor, slope: Tensor) -> None:
        """Go where the Metropolis step accepted."""
        self.position = torch.where(accepted.unsqueeze(-1), position, self.position)
        self.slope = torch.where(accepted.unsqueeze(-1), slope, self.slope)
        self.density = torch.where(accepted, density, self.density)

    def _restart(self) -> None:
        self.centre, self.error, self.count = (10 * self.step_size).log(), torch.zeros_like(self.step_size), 0
        self.average = self.step_size.log()

    def adapt(self, outcome: tuple[Tensor, Tensor], t: int, num_warmup: int, target: float) -> None:
        """Dual averaging of the step size; at three quarters of the warm-up the scale is set and averaging restarts."""
        accept, _ = outcome
        self.count += 1
        weight = 1 / (self.count + 10)
        self.error = (1 - weight) * self.error + weight * (target - accept)
        log_step = self.centre - self.count**0.5 / 0.05 * self.error
        self.average = self.count**-0.75 * log_step + (1 - self.count**-0.75) * self.average
        self.step_size = log_step.exp()
        if t >= num_warmup // 4:
            self.kept.append(self.position)
        if t == (3 * num_warmup) // 4 and len(self.kept) * self.position.shape[0] >= 10:
            pooled = torch.stack(self.kept).flatten(0, 1)
            n = len(pooled)
            variance = (n * pooled.var(0) + 1e-3 * 5) / (n + 5)  # Stan's shrinkage towards a small unit
            self.scale = variance.sqrt().unsqueeze(0)
            self.step_size = torch.full_like(self.step_size, 0.5)
            self._restart()

    def freeze(self) -> None:
        """Sample at the averaged step size."""
        if self.count:
            self.step_size = self.average.exp()


class LogJoint:
    """log p(x, z) of any Pyro model as a function of unconstrained (C, B, D) latents, with the Jacobian of the support.

    Args:
        terms: One run with as many particles as chains, which tells sites, shapes and supports.
        model: The model.
        args: Its arguments.
    """

    def __init__(self, terms: LogTerms, model: Program, *args: Any) -> None:
        self.model, self.args, self.guide_trace = model, args, terms.guide_trace
        self.sites = {name: terms.model_trace.nodes[name] for name in terms.prior_sites}
        self.transforms = {name: biject_to(site["fn"].support) for name, site in self.sites.items()}
        self.shape = terms.log_q.shape

    def start(self) -> Tensor:
        """The run's own draws, unconstrained, (C, B, D)."""
        parts = [self.transforms[name].inv(site["value"].detach()) for name, site in self.sites.items()]
        return torch.cat([part.reshape(*self.shape, -1) for part in parts], dim=-1)

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """Values of the sites."""
        return {name: value for name, value, _ in self._constrain(position)}

    def replay(self, guide: Program, position: Tensor) -> Program:
        """The guide, drawing these latents instead of its own."""
        trace = self.guide_trace.copy()
        for name, value in self.constrain(position).items():
            trace.nodes[name] = {**trace.nodes[name], "value": value}
        return poutine.replay(guide, trace=trace)

    def _constrain(self, position: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        used = 0
        for name, site in self.sites.items():
            transform = self.transforms[name]
            shape = transform.inv(site["value"].detach()).shape[len(self.shape) :]
            u = position[..., used : used + shape.numel()].reshape(*position.shape[:-1], *shape)
            used += shape.numel()
            value = transform(u)
            jacobian = transform.log_abs_det_jacobian(u, value)
            yield (
                name,
                value,
                jacobian.flatten(len(self.shape)).sum(-1) if jacobian.dim() > len(self.shape) else jacobian,
            )

    def __call__(self, position: Tensor) -> Tensor:
        """log p(x, z) + log |dz / du| per chain and datum, (C, B)."""
        sites = list(self._constrain(position))
        values = {name: value for name, value, _ in sites}
        particles = pyro.plate(PARTICLES, len(position), dim=-2)
        trace = poutine.trace(particles(poutine.condition(self.model, data=values))).get_trace(*self.args)
        total = torch.stack([jacobian for _, _, jacobian in sites]).sum(0)
        for site in sample_sites(trace):
            total = total + per_datum(site["fn"].log_prob(site["value"]), site)
        return total


def sample_posterior(
    model: Program, guide: Program, *args: Any, num_chains: int = 4, sampler: HMC | None = None
) -> tuple[LogJoint, Chains]:
    """Chains on p(z given x) that start at the guide's draws; the first result turns positions into sites' values."""
    with torch.no_grad():
        terms = log_terms(model, guide, *args, num_particles=num_chains)
    target = LogJoint(terms, model, *args)
    with pyro.validation_enabled(False):  # trajectories visit extremes, where they are rejected
        return target, (sampler or HMC()).run(target, target.start())
