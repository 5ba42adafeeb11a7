"""log p(x) by importance sampling from the guide, or from the prior."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pyro import poutine
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.evidence import Evidence, concatenate, reduce_log_weights
from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES
from ppl_vae.importance import iter_log_weights, place
from ppl_vae.terms import Program

__all__ = ["ImportanceSampling", "log_evidence"]


@dataclass(frozen=True)
class ImportanceSampling:
    """log p(x) ~ log mean_k p(x, z_k) / proposal(z_k): a lower bound in expectation for any K, tight as K grows.

    With `proposal="prior"` z is drawn from p(z): the naive estimator, for comparison; hopeless in many dimensions.

    Args:
        num_particles: Number of particles K per datum.
        proposal: Where z is drawn from, "guide" or "prior".
        chunk_size: (particle, datum) pairs held at once; bounds the memory, whatever K and N.

    Raises:
        ValueError: an unknown proposal, or fewer than one particle.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> log_evidence(bed.model, bed.guide, bed.x, ImportanceSampling(50, proposal="prior")).ess.max() < 50
        True
    """

    num_particles: int = 1000
    proposal: Literal["guide", "prior"] = "guide"
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.proposal not in ("guide", "prior"):
            raise ValueError(f'proposal is {self.proposal!r}; it must be "guide" or "prior"')
        if self.num_particles < 1:
            raise ValueError(f"num_particles is {self.num_particles}; there must be at least 1 particle")

    def estimate(self, model: Program, guide: Program, data: Dataset, *, seed: int | None) -> Iterator[Evidence]:
        """Evidence of some data at a time, in their order."""
        if self.num_particles < SMALLEST_NUM_PARTICLES:
            message = (
                f"k-hat needs at least {SMALLEST_NUM_PARTICLES} particles and was given {self.num_particles}: it is NaN"
            )
            warnings.warn(message, stacklevel=3)
        proposal = guide if self.proposal == "guide" else prior_guide(model)
        sizes: Any = {"num_particles": self.num_particles, "chunk_size": self.chunk_size}
        for log_w in iter_log_weights(model, proposal, data.x, data.context, seed=seed, **sizes):
            yield reduce_log_weights(log_w.cpu().numpy())


def log_evidence(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: ImportanceSampling | None = None,
    *,
    seed: int | None = 0,
    progress: bool = True,
    **options: Any,
) -> Evidence:
    """log p(x) of every datum, with what says whether to believe it.

    `log_evidence(model, guide, data.test, num_particles=5000)` is short for `method=ImportanceSampling(5000)`.
    See the method for its formula and when it fails.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        method: How; None is `ImportanceSampling(**options)`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `ImportanceSampling`, when no method is given.

    Returns:
        `Evidence` of the N data.

    Raises:
        ValueError: x outside the support; options beside a method.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
        >>> bool(abs(evidence.log_evidence - bed.log_evidence.numpy()).max() < 1e-10)
        True
    """
    if method is not None and options:
        raise ValueError(f"{', '.join(options)} was given beside method={method}: set it in the method")
    method, data = method or ImportanceSampling(**options), place(as_dataset(data), model, guide)
    parts = []
    with tqdm(total=len(data), desc="log p(x)", unit=" data", disable=not progress, delay=2) as bar:
        for part in method.estimate(model, guide, data, seed=seed):
            parts.append(part)
            bar.update(len(part))
    return concatenate(parts)


def prior_guide(model: Program) -> Program:
    """The model with its observed sites hidden: a guide that proposes from the prior, for any Pyro model."""
    return poutine.block(model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])
