"""Semi-amortised inference: variational parameters for each row, for a fixed model."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.families.posteriors import FLOOR, FullRankNormal, Posterior
from ppl_vae.guide import Guide
from ppl_vae.hmc import HMC, LogJoint
from ppl_vae.hmc.posterior import run_chains
from ppl_vae.objectives import Bound, StickingTheLanding, TraceELBO
from ppl_vae.programs.inference import Inference, progress_bar, rows_per_chunk
from ppl_vae.programs.traces import PLATE, Program, log_terms
from ppl_vae.refinement.guide import (
    Latents,
    Masks,
    RefinedGuide,
    join_masks,
    read_latents,
    read_masks,
)
from ppl_vae.runtime.checks import instance_of, real_number, whole_fields
from ppl_vae.runtime.seeding import seeded

__all__ = ["GradientRefinement", "SampledRefinement", "refine"]

DRAWS_FOR_START = 200  # from the guide, where the refined family is another one
BOUNDS_COMPARED = 10  # evaluations of the bound that decide between start and end
SMALLEST_SLOPE = 1e-4  # nats per unit of a parameter: Adam would amplify rounding below it


@runtime_checkable
class Refinement(Protocol):
    """How variational parameters are found for each row."""

    @property
    def chunk_size(self) -> int | None:
        """(particle, row) pairs held at once."""

    @property
    def num_particles(self) -> int:
        """Particles per row held at once."""

    @property
    def num_steps(self) -> int:
        """Ticks of the progress bar for each block of rows."""

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """The variational family."""

    def parameters(self, task: "Task", tick: Callable[[], Any]) -> Tensor:
        """The family's parameters for a block of rows, (B, P)."""


def refine(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: Refinement | HMC | None = None,
    *,
    seed: int | None = 0,
    progress: bool = True,
) -> RefinedGuide:
    """A guide with variational parameters for each row: semi-amortised inference for these rows.

    argmax_q ELBO(x; q) over a family, per row, for the model as it is (`GradientRefinement`), or a
    normal at the moments of draws from p(z given x) (`SampledRefinement`; `HMC(...)` is short for
    it). This closes the amortisation gap; the approximation gap of the family remains. Neither
    model nor guide is changed. The result is a guide for these rows only.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, any Pyro guide with the same latent sites, or an earlier result: where
            refinement starts.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        method: How; None is `GradientRefinement()`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        A guide for these rows, in any order and any part.

    Raises:
        ValueError: a latent is discrete, lies outside the plate "data" or in a further plate; the
            family has another dimension than the latents, or parameters that rows share; x outside
            the support.

    References:
        Kim et al. (2018), Semi-amortized variational autoencoders, arXiv:1802.02550; Cremer, Li and
        Duvenaud (2018), Inference suboptimality in VAEs, arXiv:1801.03558, section 5.2.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.importance import log_weights
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=0.5, guide_shift=1.0)
        >>> refined = refine(bed.model, bed.guide, bed.x, GradientRefinement(num_steps=200))
        >>> log_w = log_weights(bed.model, refined, bed.x, num_particles=100, seed=0)
        >>> bool((log_w.mean(0) - bed.log_evidence).abs().max() < 0.01)
        True
    """
    chosen = _method(method)
    inference = Inference(model, guide, data)
    inference.check_programs()
    latents = read_latents(inference)
    family = _own_copy(chosen.family(guide, latents.dim), guide, latents).to(
        inference.data.x.device
    )
    rows = rows_per_chunk(len(inference), chosen.num_particles, chosen.chunk_size)
    total = math.ceil(len(inference) / rows) * chosen.num_steps
    parts, masks = [], []
    with progress_bar(total, "refine", unit="steps", progress=progress) as bar:
        for block in inference.blocks(rows, seed=seed):
            with block.evaluating():
                masks.append(read_masks(model, guide, block.args, latents))
                task = Task(model, guide, block.args, latents, family, join_masks(masks[-1:]))
                parts.append(chosen.parameters(task, bar.update))
    return RefinedGuide(family, latents, torch.cat(parts), inference.data, join_masks(masks))


@dataclass(frozen=True)
class GradientRefinement:
    """Maximise the bound of each row over parameters of its own, by Adam from the encoder's values.

    The parameters are those that the encoder would give the family,
    `posterior.distribution(parameters)`, so every family can be refined; what rows share (a flow's
    networks) stays as it is. The learning rate falls to zero along a cosine. A row whose bound fell
    by more than chance keeps its start. Change the learning rate if the posterior sd of a latent is
    far below it, or far above 500 times it.

    Args:
        num_steps: Adam steps.
        learning_rate: Of the first step; parameters are in the units of z.
        posterior: A family of normals; None is the guide's own, or `FullRankNormal` in
            unconstrained space for a custom Pyro guide and for constrained latents. A family other
            than the guide's starts at mean and sd of the guide's draws.
        objective: What is maximised, with its particles and gradient; any `Bound`.
        chunk_size: (particle, row) pairs held at once.

    Raises:
        ValueError: fewer than one step, or a learning rate that is not positive.

    References:
        Kim et al. (2018), arXiv:1802.02550; Roeder, Wu and Duvenaud (2017), arXiv:1703.09194 (the
        default gradient).

    Example:
        >>> GradientRefinement(posterior=FullRankNormal(2)).num_particles
        10
    """

    num_steps: int = 500
    learning_rate: float = 0.05
    posterior: Posterior | None = None
    objective: Bound = field(default_factory=lambda: TraceELBO(10, gradient=StickingTheLanding()))
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_steps=1, chunk_size=1)
        real_number(self.learning_rate, "GradientRefinement(learning_rate)", above=0)
        instance_of(self.objective, "GradientRefinement(objective)", Bound)

    @property
    def num_particles(self) -> int:
        """The objective's."""
        return int(self.objective.num_particles)

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """The one given, or the guide's own."""
        if self.posterior is not None:
            return self.posterior
        return own_family(guide) or FullRankNormal(latent_dim)

    def parameters(self, task: "Task", tick: Callable[[], Any]) -> Tensor:
        """Adam, from the encoder's values."""
        start = None
        if self.posterior is None:
            start = task.start()
        if start is None:
            start = task.moments()
        raw = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=self.learning_rate, eps=SMALLEST_SLOPE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_steps)
        for _ in range(self.num_steps):
            with torch.enable_grad():
                loss = self.objective.differentiable_loss(task.model, task.program(raw), *task.args)
                # with respect to these alone: the model's own gradients stay untouched
                (slope,) = torch.autograd.grad(loss, raw)
            raw.grad = slope.nan_to_num(posinf=0.0, neginf=0.0)
            optimizer.step()
            schedule.step()
            tick()
        return self._better(task, start, raw.detach())

    def _better(self, task: "Task", start: Tensor, end: Tensor) -> Tensor:
        """The end of each row, or the start if its bound is better by 3 standard errors."""
        seed = int(torch.randint(2**62, ()))
        before, after = (self._bounds(task, raw, seed) for raw in (start, end))
        rise = (1 - 2 * self.objective.is_upper) * (after - before)
        # false for NaN, which returns to the start
        kept = rise.mean(0) >= -3 * rise.std(0) / BOUNDS_COMPARED**0.5
        return torch.where(kept.unsqueeze(-1), end, start)

    def _bounds(self, task: "Task", raw: Tensor, seed: int) -> Tensor:
        with seeded(seed):
            bounds = [
                self.objective.bound(task.model, task.program(raw), *task.args)
                for _ in range(BOUNDS_COMPARED)
            ]
        return torch.stack(bounds)


@dataclass(frozen=True)
class SampledRefinement:
    """A normal with mean and full covariance of HMC draws from p(z given x), slightly inflated.

    In unconstrained space. The covariance of S x C draws is shrunk towards its diagonal with the
    weight of D + 2 draws. Suits a posterior with one mode; with several modes, chains that start in
    one stay there.

    Args:
        sampler: The `HMC` that draws.
        num_chains: Chains C per row, started at the guide's draws.
        inflation: Factor on the standard deviations; above 1, so that importance weights stay
            bounded where the tails are normal.
        chunk_size: (chain, row) pairs held at once.

    Raises:
        ValueError: inflation that is not positive.

    References:
        Hoffman (2017), Learning deep latent Gaussian models with Markov chain Monte Carlo, ICML
        (HMC from an encoder's draws).

    Example:
        >>> SampledRefinement(HMC(num_samples=200), num_chains=2).inflation
        1.1
    """

    sampler: HMC = field(default_factory=HMC)
    num_chains: int = 4
    inflation: float = 1.1
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_chains=1, chunk_size=1)
        real_number(self.inflation, "SampledRefinement(inflation)", above=0)
        instance_of(self.sampler, "SampledRefinement(sampler)", HMC)

    @property
    def num_particles(self) -> int:
        """The chains."""
        return self.num_chains

    @property
    def num_steps(self) -> int:
        """One tick for each block of rows."""
        return 1

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """`FullRankNormal`."""
        return FullRankNormal(latent_dim)

    def parameters(self, task: "Task", tick: Callable[[], Any]) -> Tensor:
        """The normal at the draws' moments."""
        chains = run_chains(
            task.model, task.guide, *task.args, num_chains=self.num_chains, sampler=self.sampler
        )
        tick()
        u = chains.draws.flatten(0, 1)
        shrinkage = u.shape[-1] + 2
        mean = u.mean(0)
        residual = u - mean
        total = torch.einsum("sbi,sbj->bij", residual, residual)
        variance = residual.square().mean(0) + FLOOR**2
        covariance = (total + shrinkage * torch.diag_embed(variance)) / (len(u) + shrinkage)
        root = self.inflation * torch.linalg.cholesky(covariance)
        below = root[..., task.family.rows, task.family.columns]
        return torch.cat([mean, inverse_softplus(root.diagonal(dim1=-2, dim2=-1)), below], dim=-1)


@dataclass(frozen=True)
class Task:
    """A block of rows to be refined."""

    model: Program
    guide: Program
    args: tuple[Tensor, ...]
    latents: Latents
    family: Any
    masks: Masks

    def program(self, raw: Tensor) -> Program:
        """The guide with these parameters for the block's rows."""

        def refined(x: Tensor, context: Tensor | None = None) -> Any:
            with pyro.plate(PLATE, len(x), dim=-1):
                return self.latents.sample(self.family.distribution(raw), self.masks)

        return refined

    def start(self) -> Tensor | None:
        """The guide's own parameters, where it has any in unconstrained space."""
        if isinstance(self.guide, RefinedGuide):
            return self.guide.parameters_of(*self.args)
        family = own_family(self.guide)
        if isinstance(self.guide, Guide) and family is not None and family.link is not None:
            return family.link(self.guide.features(*self.args)).squeeze(-2)
        return None

    def moments(self) -> Tensor:
        """Parameters at mean and sd of the guide's draws, which come first in every family."""
        terms = log_terms(self.model, self.guide, *self.args, num_particles=DRAWS_FOR_START)
        u = LogJoint(terms, self.model, *self.args).start
        raw = torch.cat([u.mean(0), inverse_softplus(u.std(0))], dim=-1)
        # The rest is small and unequal: at zero itself a low-rank factor has no gradient.
        rest = torch.arange(self.family.num_parameters - raw.shape[-1]).to(raw).cos() / 100
        return torch.cat([raw, rest.expand(len(raw), -1)], dim=-1)


def _method(method: Refinement | HMC | None) -> Refinement:
    if isinstance(method, HMC):
        return SampledRefinement(method)
    method = method or GradientRefinement()
    if not isinstance(method, Refinement) or isinstance(method, type):
        raise ValueError(
            f"method is {method!r}; pass an instance of GradientRefinement, SampledRefinement or "
            "HMC"
        )
    return method


def own_family(guide: Any) -> Posterior | None:
    """The guide's posterior, where it has one of unconstrained vectors."""
    if isinstance(guide, Guide | RefinedGuide):
        if guide.posterior.support is constraints.real_vector:
            return guide.posterior
    return None


def _own_copy(family: Posterior, guide: Program, latents: Latents) -> Any:
    """A frozen copy of the family, without the encoder's last map."""
    if family.support is not constraints.real_vector:
        raise ValueError(
            f"{family!r} is not a family of unconstrained vectors, in which latents are refined: "
            f"use FullRankNormal({latents.dim})"
        )
    if family.latent_dim != latents.dim:
        raise ValueError(
            f"{family!r} does not fit latents of {latents.dim} unconstrained dimensions: "
            f"use {type(family).__name__}({latents.dim})"
        )
    own = copy.deepcopy(family).requires_grad_(False)
    own.link = None
    if list(own.parameters()) and getattr(guide, "posterior", None) is not family:
        raise ValueError(
            f"{family!r} has parameters that all rows share, which refinement would leave at their "
            "random start: use a family of normals, or a guide trained with this family"
        )
    return own


def inverse_softplus(scale: Tensor) -> Tensor:
    """log(exp(scale) - 1) after the floor is subtracted: what a family maps to this scale."""
    y = (scale - FLOOR).clamp(min=FLOOR)
    return y + torch.log(-torch.expm1(-y))
