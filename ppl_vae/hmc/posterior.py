"""Draws from p(z given x) for a fixed model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.hmc.chains import Chains, joined
from ppl_vae.hmc.density import recorded_density
from ppl_vae.hmc.sampler import HMC
from ppl_vae.hmc.shared import LogJointOfRows
from ppl_vae.hmc.target import LogJoint
from ppl_vae.programs.inference import Inference, rows_per_chunk, treat_alike
from ppl_vae.programs.modules import missing_values
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.runtime.checks import instance_of, whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["sample_posterior"]

COPIES = 3  # of all draws that are held at once: as a list, together, and in the sites' supports


def sample_posterior(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_chains: int = 4,
    sampler: HMC | None = None,
    seed: int | None = 0,
    chunk_size: int | None = None,
) -> Chains:
    """Draws from p(z given x) by Hamiltonian Monte Carlo, started at draws of the guide.

    Without latents outside the data plate the rows have independent posteriors

        p(z_b given x_b) proportional to p(z_b) p(x_b given z_b),

    and chains of their own, each with its own step size and scales. With latents g outside it, the
    rows are independent only given g, and the chains draw from the joint posterior of g and of all
    rows that are given,

        p(g, z_1, ..., z_B given x_1, ..., x_B) proportional to
        p(g) prod_b p(z_b given g) p(x_b given z_b, g),

    so that `chains["g"]`, and each z_b, is given all these rows, and nothing is conditional on a
    value of g. Acceptance, step sizes and divergences are then of all latents together. Parameters
    are fixed in both cases.

    All chains and rows run at once; the model is not changed. If the guide misses a mode, all
    chains stay outside it, and R-hat does not reveal this.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1 and continuous latents;
            discrete ones are summed out.
        guide: `Guide`, or any Pyro guide with the same latent sites, at whose draws the chains
            start.
        data: A `Dataset` (all its rows), or an array, tensor, DataFrame, DataArray.
        num_chains: Number of chains C, per row or of all rows.
        sampler: The sampler; None is `HMC(num_samples=500, num_warmup=200)`.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (chain, row) pairs held at once; with latents outside the data plate all are.

    Returns:
        `Chains`: `chains["z"]` has shape (S, C, B, *plates, *event), and (S, C, *shape) where it is
        outside the data plate; `chains.summary()` has the convergence diagnostics, and
        `chains.to_datatree()` all draws for ArviZ.

    Raises:
        ValueError: x is outside the support; a latent is discrete and has too many values to be
            summed out; a support depends on another latent.
        TooLargeError: the draws do not fit into memory.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.gamma_poisson(num_data=3)
        >>> short = HMC(num_samples=20, num_warmup=20)
        >>> chains = sample_posterior(bed.model, bed.guide, bed.x, sampler=short)
        >>> chains["z"].shape, bool((chains["z"] > 0).all())
        (torch.Size([20, 4, 3, 1]), True)
    """
    sampler = instance_of(sampler or HMC(num_samples=500, num_warmup=200), "sampler", HMC)
    settings: Any = {"num_chains": whole_number(num_chains, "num_chains"), "sampler": sampler}
    inference = Inference(model, guide, data)
    if inference.check_programs():
        return _of_all_rows(inference, seed=seed, **settings)
    return _by_row(inference, seed=seed, chunk_size=chunk_size, **settings)


def sample_posterior_by_row(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_chains: int,
    sampler: HMC,
    seed: int | None,
    chunk_size: int | None = None,
) -> Chains:
    """The same where the rows must have posteriors of their own: latents that they share are
    refused.
    """
    inference = Inference(model, guide, data)
    inference.check_programs()
    settings: Any = {"num_chains": num_chains, "sampler": sampler}
    return _by_row(inference, seed=seed, chunk_size=chunk_size, **settings)


def _by_row(
    inference: Inference, *, seed: int | None, chunk_size: int | None, num_chains: int, sampler: HMC
) -> Chains:
    """Chains for each row."""
    model, guide = inference.programs
    parts = []
    for block in inference.blocks(
        rows_per_chunk(len(inference), num_chains, chunk_size), seed=seed
    ):
        with block.evaluating(), missing_values(inference.data.has_missing, model):
            chains = run_chains(model, guide, *block.args, num_chains=num_chains, sampler=sampler)
            parts.append(chains)
    return replace(joined(parts, "rows"), rows=_rows(inference.data))


def _of_all_rows(
    inference: Inference, *, seed: int | None, num_chains: int, sampler: HMC
) -> Chains:
    """Chains for all rows together and for the latents that they share."""
    treat_alike(inference.data, "sample_posterior")
    model, guide = inference.programs
    [block] = inference.blocks(len(inference), seed=seed)
    with block.evaluating(), missing_values(inference.data.has_missing, model):
        log_joint = LogJointOfRows(model, guide, *block.args, num_chains=num_chains)
        require_memory(
            f"num_samples={sampler.num_samples} of {num_chains} chains over "
            f"{log_joint.start.shape[-1]:,} latents of {len(inference):,} rows together",
            *(COPIES, sampler.num_samples, log_joint.start.numel()),
            num_bytes=log_joint.start.element_size(),
        )
        chains = _run(log_joint, model, sampler)
    shared = (*log_joint.sites,)
    return replace(chains, shared=shared, rows=_rows(inference.data))


def _rows(data: Dataset) -> tuple[str, np.ndarray]:
    """The row dim of the data and the names of the rows."""
    return data.dims[0], np.asarray(data.coords[data.dims[0]])


def _run(log_joint: LogJoint | LogJointOfRows, model: Program, sampler: HMC) -> Chains:
    """Chains with their draws by site."""
    num_evaluations = sampler.num_transitions * sampler.num_leapfrog
    density = recorded_density(log_joint, model, log_joint.start, num_evaluations)
    chains = sampler.run(density, log_joint.start)
    return replace(chains, sites=log_joint.constrain(chains.draws))


def run_chains(model: Program, guide: Program, *args: Any, num_chains: int, sampler: HMC) -> Chains:
    """Chains for programs called with any arguments, in their present mode."""
    # without validation, for trajectories visit extremes, where they are rejected
    with torch.no_grad(), pyro.validation_enabled(False):
        terms = log_terms(model, guide, *args, num_particles=num_chains)
        return _run(LogJoint(terms, model, *args), model, sampler)


def last_draws(
    model: Program, guide: Program, *args: Any, num_chains: int, sampler: HMC
) -> dict[str, Tensor]:
    """The last draws of such chains by site, as a trace has them, (C, *plates, B, *event)."""
    with torch.no_grad(), pyro.validation_enabled(False):
        log_joint = LogJoint(log_terms(model, guide, *args, num_particles=num_chains), model, *args)
        return log_joint.values(sampler.run(log_joint, log_joint.start).draws[-1])
