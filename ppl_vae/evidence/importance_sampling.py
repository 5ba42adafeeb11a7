"""log p(x) by importance sampling from the guide, or from the prior."""

from typing import Any, Literal

from pyro import poutine
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.evidence import Evidence, concatenate, reduce_log_weights
from ppl_vae.importance import Program, iter_log_weights, place

__all__ = ["log_evidence"]


def log_evidence(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 1000,
    proposal: Literal["guide", "prior"] = "guide",
    seed: int | None = 0,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Evidence:
    """log p(x) = log E_q[p(x, z) / q(z given x)], estimated for every datum by log mean_k w_k.

    A lower bound in expectation for any K, tight as K grows; how tight is what mc_se, ess and pareto_k say.
    With `proposal="prior"` z is drawn from p(z): the naive estimator, for comparison; hopeless in many dimensions.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        num_particles: Number of particles K per datum.
        proposal: Where z is drawn from.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (particle, datum) pairs held at once; bounds the memory, whatever K and N.
        progress: Whether to show a bar.

    Returns:
        `Evidence` of the N data.

    Raises:
        ValueError: x outside the support, or an unknown proposal.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
        >>> bool(abs(evidence.log_evidence - bed.log_evidence.numpy()).max() < 1e-10)
        True
    """
    if proposal not in ("guide", "prior"):
        raise ValueError(f'proposal is {proposal!r}; it must be "guide" or "prior"')
    data = place(as_dataset(data), model, guide)
    chunks = iter_log_weights(
        model,
        guide if proposal == "guide" else prior_guide(model),
        data.x,
        data.context,
        num_particles=num_particles,
        seed=seed,
        chunk_size=chunk_size,
    )
    parts = []
    with tqdm(total=len(data), desc="log p(x)", unit=" data", disable=not progress) as bar:
        for chunk in chunks:
            parts.append(reduce_log_weights(chunk.cpu().numpy()))
            bar.update(chunk.shape[1])
    return concatenate(parts)


def prior_guide(model: Program) -> Program:
    """The model with its observed sites hidden: a guide that proposes from the prior, for any Pyro model."""
    return poutine.block(model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])
