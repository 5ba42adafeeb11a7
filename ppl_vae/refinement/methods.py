"""Semi-amortised inference: variational parameters for each row, for a fixed model."""

import copy
import math
from typing import Any

import torch
from pyro.distributions import constraints

from ppl_vae.data import Dataset
from ppl_vae.families.posteriors import Posterior
from ppl_vae.hmc import HMC
from ppl_vae.programs.inference import Inference, rows_per_chunk
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.gradient import GradientRefinement
from ppl_vae.refinement.guide import (
    Latents,
    RefinedGuide,
    join_masks,
    read_latents,
    read_masks,
)
from ppl_vae.refinement.sampled import SampledRefinement
from ppl_vae.refinement.task import Refinement, Task
from ppl_vae.runtime.progress import progress_bar

__all__ = ["refine"]


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
    model, guide = inference.programs
    inference.check_programs()
    latents = read_latents(inference)
    family = _own_copy(chosen.family(guide, latents.dim), guide, latents).to(
        inference.data.x.device
    )
    rows = rows_per_chunk(len(inference), chosen.num_particles, chosen.chunk_size)
    total = math.ceil(len(inference) / rows) * chosen.num_ticks
    parts, masks = [], []
    with progress_bar(total, "refine", unit="steps", progress=progress) as bar:
        for block in inference.blocks(rows, seed=seed):
            with block.evaluating():
                masks.append(read_masks(model, guide, block.args, latents))
                task = Task(model, guide, block.args, latents, family, join_masks(masks[-1:]))
                parts.append(chosen.parameters(task, bar.update))
    return RefinedGuide(family, latents, torch.cat(parts), inference.data, join_masks(masks))


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
