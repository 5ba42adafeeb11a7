"""Draws from p(z given x) for a fixed model."""

from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.hmc.chains import Chains, joined
from ppl_vae.hmc.sampler import HMC
from ppl_vae.hmc.target import LogJoint
from ppl_vae.programs.inference import Inference, rows_per_chunk
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.runtime.checks import instance_of, whole_number

__all__ = ["sample_posterior"]


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

    All chains and rows run at once; the model is not changed. If the guide misses a mode, all
    chains stay outside it, and R-hat does not reveal this.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1 and continuous latents.
        guide: `Guide`, or any Pyro guide with the same latent sites, at whose draws the chains
            start.
        data: A `Dataset` (all its rows), or an array, tensor, DataFrame, DataArray.
        num_chains: Number of chains C per row.
        sampler: The sampler; None is `HMC(num_samples=500, num_warmup=200)`.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (chain, row) pairs held at once.

    Returns:
        `Chains`: `chains["z"]` has shape (S, C, B, *plates, *event); `chains.summary()` has
        the convergence diagnostics.

    Raises:
        ValueError: x is outside the support; a latent is discrete or outside the data plate.

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
    model, guide = inference.programs
    inference.check_programs()
    parts = []
    for block in inference.blocks(
        rows_per_chunk(len(inference), num_chains, chunk_size), seed=seed
    ):
        with block.evaluating():
            parts.append(run_chains(model, guide, *block.args, **settings))
    return joined(parts, "rows")


def run_chains(model: Program, guide: Program, *args: Any, num_chains: int, sampler: HMC) -> Chains:
    """Chains for programs called with any arguments, in their present mode."""
    # without validation, for trajectories visit extremes, where they are rejected
    with torch.no_grad(), pyro.validation_enabled(False):
        log_joint = LogJoint(log_terms(model, guide, *args, num_particles=num_chains), model, *args)
        chains = sampler.run(log_joint, log_joint.start)
        return replace(chains, sites=log_joint.constrain(chains.draws))


def last_draws(
    model: Program, guide: Program, *args: Any, num_chains: int, sampler: HMC
) -> dict[str, Tensor]:
    """The last draws of such chains by site, as a trace has them, (C, *plates, B, *event)."""
    with torch.no_grad(), pyro.validation_enabled(False):
        log_joint = LogJoint(log_terms(model, guide, *args, num_particles=num_chains), model, *args)
        return log_joint.values(sampler.run(log_joint, log_joint.start).draws[-1])
