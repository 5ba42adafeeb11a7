"""The annealing path from q(z given x) or p(z) to p(x, z), and how its moves are tuned."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.hmc import HMC, LogJoint
from ppl_vae.hmc.density import LogDensity, RecordedDensity, recorded_slope
from ppl_vae.hmc.target import per_site
from ppl_vae.hmc.transition import Point, first_step, transition
from ppl_vae.programs.masks import with_all_entries
from ppl_vae.programs.sites import is_deterministic, per_datum, sample_sites
from ppl_vae.programs.traces import Program, log_terms

__all__ = ["Kernels", "Path"]

PILOT_CHAINS = 8
PILOT_MOVES = 60  # fewest transitions of the pilot run: short paths take several per temperature
GAIN = 0.5  # change of the log step size per unit of acceptance
SHORT = 0.5  # sd of the change of log w in one step of an exploring pilot
MOST_PILOT_STEPS = 5  # of an exploring pilot, per temperature of the path
MEMORY = 0.5  # weight of the previous scale, per temperature


class Path:
    """pi_beta(z) ~ q(z given x)^(1 - beta) p(x, z)^beta over unconstrained latents; q may be p(z).

    Args:
        model: The model.
        guide: The guide.
        args: Their arguments.
        num_chains: Number of chains C.
        start: Where the path starts: "guide" or "prior".
        num_evaluations: How often gradients will be needed; where that pays, a graph is recorded.

    Raises:
        ValueError: the guide has auxiliary sites, or a density that cannot be evaluated at points
            that it did not draw.

    References:
        Neal (2001), Annealed importance sampling, arXiv:physics/9803008, eq. 3.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> path = Path(bed.model, bed.guide, (bed.x,), 4, "guide")
        >>> bool(torch.allclose(path.log_ratio(path.start), bed.log_evidence))
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        num_chains: int,
        start: Literal["guide", "prior"],
        num_evaluations: int = 0,
    ) -> None:
        self.guide = None if start == "prior" else guide
        proposal = prior_guide(model, hides_marked=True) if start == "prior" else guide
        terms = log_terms(model, proposal, *args, num_particles=num_chains)
        self.log_joint = LogJoint(terms, model, *args)
        # A density may have factors and observations beside it, which are no part of it.
        sites = [s for s in sample_sites(terms.guide_trace) if not s["is_observed"]]
        self.guide_sites = [site for site in sites if not is_deterministic(site)]
        known = self.log_joint.sites.keys() | self.log_joint.cases[0].keys()
        for site in self.guide_sites:
            if site["name"] not in known:
                raise ValueError(
                    f"the guide's site {site['name']!r} is not a latent of the model, so q(z given "
                    'x) has no density: use AIS(start="prior")'
                )
        self.start = self.log_joint.start
        betas = torch.ones_like(self.start[0, :, 0])
        programs = model, proposal
        self.graph = recorded_slope(self._log_density, programs, num_evaluations, self.start, betas)

    def ends(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density at the start and at the end of the path, (C, B)."""
        parts = self.log_joint.parts(position)
        log_start = parts.log_prior if self.guide is None else self._log_q(parts.values)
        return log_start + parts.log_jacobian, parts.joint

    def log_ratio(self, position: Tensor) -> Tensor:
        """log p(x, z) - log q(z given x), (C, B)."""
        log_start, log_end = self.ends(position)
        return log_end - log_start

    def tempered(self, beta: Tensor) -> LogDensity:
        """log pi_beta; beta is (B,)."""
        log_density = partial(self._log_density, beta=beta)
        if self.graph is None:
            return log_density
        graph = self.graph
        beta = beta.contiguous()
        return RecordedDensity(log_density, lambda u: graph(u, beta), self.start.shape)

    def _log_density(self, position: Tensor, beta: Tensor) -> Tensor:
        """(C, B, D), (B,) -> (C, B)."""
        log_start, log_end = self.ends(position)
        return log_start + beta * (log_end - log_start)

    def _log_q(self, values: dict[str, Tensor]) -> Tensor:
        """The guide's density at these latents; for one site its distribution is already known."""
        try:
            if len(self.guide_sites) == 1:
                site = with_all_entries(self.guide_sites[0])
                return per_datum(site["fn"].log_prob(values[site["name"]]), site)
            totals = []
            for case in self.log_joint.cases:
                drawn = values | case
                trace = self.log_joint.trace(drawn, self.guide)
                totals.append(torch.stack([log_q for _, log_q in per_site(trace, drawn)]).sum(0))
            return torch.stack(totals).logsumexp(0)
        except (NotImplementedError, KeyError) as error:
            raise ValueError(
                "the guide's density cannot be evaluated at points that it did not draw "
                f'({error}): use AIS(start="prior")'
            ) from error


@dataclass(frozen=True)
class Kernels:
    """Temperatures, step sizes and scales of a path, fixed before any weight is drawn.

    Args:
        betas: Temperatures from 0 to 1, (T + 1, B).
        steps: Step size of the moves at each temperature, in units of the scale, (T, B).
        scales: Scale of each dimension, (T, B, D).

    Example:
        >>> betas = torch.linspace(0, 1, 3)[:, None]
        >>> kernels = Kernels(betas, torch.ones(2, 1), torch.ones(2, 1, 1))
        >>> [kernels.increase(t).item() for t in range(2)]
        [0.5, 0.5]
    """

    betas: Tensor
    steps: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.steps)

    def increase(self, t: int) -> Tensor:
        """From temperature t to the next, (B,)."""
        return self.betas[t + 1] - self.betas[t]

    def move(self, path: Path, position: Tensor, t: int, sampler: HMC) -> Tensor:
        """Transitions that leave pi at temperature t invariant, reversibly."""
        log_density = path.tempered(self.betas[t])
        settings = self.steps[t], self.scales[t], sampler.num_leapfrog
        point = Point.at(log_density, position)
        for _ in range(sampler.num_samples):
            point = transition(log_density, point, *settings).point
        return point.position


class Pilot:
    """Chains that follow a path once to learn step sizes and scales per row; their weights are not
    used.

    Args:
        path: The path, under `PILOT_CHAINS` chains.
        sampler: The moves' settings.
        num_moves: Transitions per temperature.
    """

    def __init__(self, path: Path, sampler: HMC, num_moves: int) -> None:
        self.path = path
        self.sampler = sampler
        self.num_moves = num_moves
        self.position = path.start
        self.log_scale = _log_spread(path.start)
        self.log_step: Tensor | None = None

    def speed(self) -> Tensor:
        """sd over chains of log p(x, z) - log q(z given x), (B,): the speed of log w in beta."""
        return self.path.log_ratio(self.position).std(0).nan_to_num(nan=torch.inf)

    def move(self, beta: Tensor) -> Tensor:
        """Move to this temperature, and learn from the acceptance."""
        self.log_scale = MEMORY * self.log_scale + (1 - MEMORY) * _log_spread(self.position)
        density, scale = self.path.tempered(beta), self.log_scale.exp()
        point = Point.at(density, self.position)
        if self.log_step is None:
            guess = torch.full_like(point.density, 0.5)
            self.log_step = first_step(density, point, scale, guess).log().mean(0)
        for _ in range(self.num_moves):
            point, accept, _ = transition(
                density, point, self.log_step.exp(), scale, self.sampler.num_leapfrog
            )
            self.log_step = self.log_step + GAIN * (accept.mean(0) - self.sampler.target_accept)
        self.position = point.position
        return self.log_step.exp()


def tune(path: Path, betas: Tensor, sampler: HMC) -> Kernels:
    """Kernels for these temperatures, (T + 1, B), from one pilot run."""
    num_moves = sampler.num_samples * math.ceil(PILOT_MOVES / (sampler.num_samples * len(betas)))
    pilot = Pilot(path, sampler, num_moves)
    steps = [torch.ones_like(betas[0])]
    scales = [_log_spread(path.start).exp()]
    for beta in betas[1:-1]:
        steps.append(pilot.move(beta))
        scales.append(pilot.log_scale.exp())
    return Kernels(betas, torch.stack(steps), torch.stack(scales))


def explore(path: Path, sampler: HMC, num_temperatures: int) -> Tensor:
    """Temperatures of equal conditional effective sample size, (T + 1, B), from one pilot run.

    Each step of the pilot changes log w by `SHORT` standard deviations; then they are respaced.
    """
    pilot = Pilot(path, sampler, 2)
    betas, speeds = [torch.zeros_like(path.start[0, :, 0])], []
    for _ in range(MOST_PILOT_STEPS * num_temperatures):
        speeds.append(pilot.speed())
        betas.append((betas[-1] + SHORT / speeds[-1].clamp(min=SHORT / 10)).clamp(max=1.0))
        if (betas[-1] == 1).all():
            break
        pilot.move(betas[-1])
    betas[-1] = torch.ones_like(betas[-1])
    return even_lengths(torch.stack(betas), torch.stack(speeds), num_temperatures)


def _log_spread(position: Tensor) -> Tensor:
    """log of the standard deviation over chains, (B, D)."""
    return position.std(0).clamp(min=1e-6).log()


def temperatures(schedule: str, num_temperatures: int, num_data: int) -> Tensor:
    """From 0 to 1, (T + 1, B): evenly, or dense at both ends.

    References:
        Wu et al. (2017), arXiv:1611.04273, appendix (sigmoidal schedule with delta = 4).
    """
    even = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule != "linear":
        curve = torch.sigmoid(4 * (2 * even - 1))
        even = (curve - curve[0]) / (curve[-1] - curve[0])
    return even[:, None].expand(-1, num_data)


def even_lengths(betas: Tensor, speeds: Tensor, num_temperatures: int) -> Tensor:
    """Temperatures at equal steps of thermodynamic length, int sd_beta(log w) d beta, (T + 1, B).

    To second order each step has the same conditional effective sample size, 1 / (1 + step^2).

    References:
        Zhou, Johansen and Aston (2016), arXiv:1303.3123, section 3.3.2; Gelman and Meng (1998),
        section 4.4.
    """
    speeds = torch.cat([speeds, speeds[-1:]]).clamp(min=1e-6, max=1e30)
    pieces = (speeds[1:] * speeds[:-1]).sqrt() * betas.diff(dim=0)
    length = torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])
    wanted = torch.linspace(0, 1, num_temperatures + 1).to(length)[1:-1, None] * length[-1]
    index = torch.searchsorted(length.mT.contiguous(), wanted.mT.contiguous()).mT.clamp(
        1, len(pieces)
    )
    low, start = betas.gather(0, index - 1), length.gather(0, index - 1)
    slope = (betas.gather(0, index) - low) / (length.gather(0, index) - start).clamp(min=1e-30)
    return torch.cat([betas[:1], (low + slope * (wanted - start)).clamp(0, 1), betas[-1:]])
