"""Semi-amortised inference: variational parameters for each row, for a fixed model."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.families.posteriors import Posterior
from ppl_vae.families.shared import shared_latents
from ppl_vae.hmc import HMC
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.discrete import read_discrete
from ppl_vae.refinement.gradient import GradientRefinement
from ppl_vae.refinement.guide import RefinedGuide
from ppl_vae.refinement.latents import Latents, Masks, Values, read_latents, read_masks
from ppl_vae.refinement.sampled import SampledRefinement
from ppl_vae.refinement.task import Refinement, Task
from ppl_vae.runtime.checks import object_or_options
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.text import echoed

__all__ = ["refine"]

FLOOR = 100.0  # nats below the best value of a discrete latent, where log p is minus infinity


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

    For each row and a fixed model it maximises the ELBO, and then the IWAE bound, over q in a
    family (`GradientRefinement`), or takes a normal with the mean and covariance of draws from p(z
    given x) (`SampledRefinement`; `HMC(...)` is short for it). This closes the amortisation gap;
    the approximation gap of the family remains. Neither model nor guide is changed. The result is a
    guide for these rows only.

    Discrete latents y get a table q(y given x), from an estimate of p(x, y) for each y, and z
    parameters for each y. Latents outside the plate "data" keep the guide's distribution: z is
    refined under new draws of them at each step, and does not depend on them.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, any Pyro guide with the same latent sites, or an earlier result, at which
            refinement starts.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        method: The method; None is `GradientRefinement()`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show a bar after two seconds.

    Returns:
        A guide for these rows, in any order and any subset.

    Raises:
        ValueError: a latent lies in a further plate, or is discrete with more than 1,000 values;
            the family has another dimension than the latents, or parameters that rows share; x
            outside the support.

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
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.check_programs()
    if shared := shared_latents(getattr(guide, "posterior", None)):
        raise ValueError(
            f"the posterior of z follows latents that rows share, {', '.join(map(repr, shared))}: "
            "it cannot be refined for single rows"
        )
    plan = Plan(inference, chosen)
    rows = rows_per_chunk(len(inference), chosen.num_particles, chosen.chunk_size)
    total = math.ceil(len(inference) / rows) * chosen.num_ticks * len(plan.discrete.cases)
    blocks = []
    with progress_bar(total, "refine", unit="steps", progress=progress) as bar:
        for block in inference.blocks(rows, seed=seed):
            with block.evaluating():
                cases = [plan.refined(block, case, bar.update) for case in plan.discrete.cases]
            blocks.append(joined(cases, 1) if plan.discrete.sites else cases[0])
    return plan.guide(joined(blocks, 0))


class Refined(NamedTuple):
    """What was found for some rows, or for some cases of them."""

    raw: Tensor
    masks: Masks
    logits: Tensor


def joined(parts: list[Refined], dim: int) -> Refined:
    """Cases side by side (dim 1), or rows one after the other (dim 0)."""
    join = torch.cat if dim == 0 else torch.stack
    masks = {name: join([part.masks[name] for part in parts], dim) for name in parts[0].masks}
    raw, logits = (join([getattr(part, key) for part in parts], dim) for key in ("raw", "logits"))
    return Refined(raw, masks, logits)


class Plan:
    """The latents of a program, and how they are refined.

    Args:
        inference: Model, guide and rows.
        method: The method.
    """

    def __init__(self, inference: Inference, method: Refinement) -> None:
        self.inference = inference
        self.method = method
        terms = inference.block(slice(2), seed=0).terms(2)
        self.is_shared = bool(terms.global_latents)
        self.discrete = read_discrete(terms)
        found = {site.name for site in self.discrete.sites}
        self.latents = read_latents(terms, [n for n in terms.prior_sites if n not in found])
        if not (self.latents.sites or self.discrete.sites or self.is_shared):
            raise ValueError(
                "the model has no latent site, so nothing can be refined: any guide's ELBO is log "
                "p(x)"
            )
        self.family = self._family() if self.latents.sites else None

    def _family(self) -> Any:
        """A frozen copy of the method's family."""
        guide = self.inference.guide
        family = self.method.family(guide, self.latents.dim)
        return _own_copy(family, guide, self.latents).to(self.inference.data.x.device)

    def refined(self, block: Block, case: Values, tick: Callable[[], Any]) -> Refined:
        """Parameters of the rows of a block for these values of the discrete latents."""
        programs = self.inference.programs
        sites = (*self.discrete.sites, *self.latents.sites)
        masks = read_masks(*programs, block.args, sites, case)
        own = {s.name: masks[s.name] for s in self.latents.sites if not masks[s.name].all()}
        task = Task(
            *programs,
            block.args,
            self.latents,
            self.family,
            own,
            self.discrete,
            case,
            self.is_shared,
        )
        raw = block.args[0].new_zeros(len(block), 0)
        if self.latents.sites:
            raw = self.method.parameters(task, tick)
        return Refined(raw, masks, task.log_evidence(raw) if case else raw)

    def guide(self, found: Refined) -> RefinedGuide:
        """The guide with these parameters."""
        masks = {name: mask for name, mask in found.masks.items() if not mask.all()}
        table = None
        if self.discrete.sites:
            # A row that no case explains keeps them all.
            logits = found.logits.clamp(min=found.logits.amax(-1, keepdim=True) - FLOOR)
            table = self.discrete, logits.nan_to_num(0.0)
        data = self.inference.data
        shared = self.inference.guide if self.is_shared else None
        raw = found.raw
        return RefinedGuide(
            self.family, self.latents, raw, data, masks, discrete=table, shared=shared
        )


def _method(method: Refinement | HMC | None) -> Refinement:
    object_or_options(method, (), "method")
    if isinstance(method, HMC):
        return SampledRefinement(method)
    method = method or GradientRefinement()
    if not isinstance(method, Refinement) or isinstance(method, type):
        raise ValueError(
            f"method is {echoed(method)}; pass an instance of GradientRefinement, "
            "SampledRefinement or HMC"
        )
    return method


def _own_copy(family: Posterior, guide: Program, latents: Latents) -> Any:
    """A frozen copy of the family, without the encoder's last linear map."""
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
            f"{family!r} has parameters that all rows share, which refinement would leave at "
            "their random starting values: use a family of normals, or a guide trained with this "
            "family"
        )
    return own
