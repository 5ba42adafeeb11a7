"""log p(x) by importance sampling: from the guide, the prior, or both; until K is spent or a target
is met.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import logsumexp

from ppl_vae.data import Dataset
from ppl_vae.evidence.defensive import Defensive, prior_guide
from ppl_vae.evidence.errors import bootstrap_se
from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES, unresolved
from ppl_vae.evidence.result import Evidence, concatenate, reduce_log_weights
from ppl_vae.importance import Kernels, iter_log_weights, rows_per_chunk, using
from ppl_vae.programs.global_latents import GlobalDraws, conditionals
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import one_of, real_number, warn_caller, whole_number
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["ImportanceSampling"]

FRESH = 1  # what a part of one seed is for, beside the pilot
PARTICLES_TO_COMPARE = (
    200  # with bfloat16 and without: enough to tell a bias of 0.001 nats over a hundred data
)


@dataclass(frozen=True)
class ImportanceSampling:
    """log p(x) ~ log mean_k p(x, z_k) / proposal(z_k): a lower bound in expectation for any K,
    tight as K grows.

    With `proposal="prior"` z is drawn from p(z): the naive estimator, for comparison; hopeless in
    many dimensions. With a `Defensive` proposal some draws come from a wider component, which
    bounds the weights of a narrow guide. With `target_se` a pilot run of each datum goes on,
    doubling its particles, until its standard error is met where it may be believed
    (`Evidence.is_estimate`), or `num_particles` are spent; the estimate then takes as many draws of
    its own, so that nothing of it is chosen by luck, at twice the cost: `num_used` counts its own.
    Particles that share a draw of a latent outside the data plate are one cluster of the standard
    error, which then is never a bootstrap's.

    Args:
        num_particles: Number of particles K per datum; with `target_se`, the most, of the pilot and
            once more.
        proposal: Where z is drawn from: "guide", "prior" or `Defensive(...)`.
        target_se: Monte Carlo standard error to aim at, nats; None spends `num_particles` on every
            datum.
        bootstrap: Resamples for a bootstrap standard error; 0 is the delta method.
        chunk_size: (particle, datum) pairs held at once; bounds the memory, whatever K and N. The
            same seed gives the same draws at the same chunk_size.
        compile: Whether `log_evidence` compiles the log-weights, once for all blocks of data: True,
            False, or "auto", from two million (particle, datum) pairs on. The draws are the same;
            float rounding is not.
        dtype: "bfloat16" takes the model's matrix products in it: up to twice as fast where the
            processor has it, and with the guide as it is. What that does to log p(x) is measured
            per datum on up to 200 of its particles, and kept in `Evidence.checks["rounding"]`: with
            it less without it, nats. None is the parameters' own type.

    Raises:
        ValueError: an unknown proposal, fewer than one particle, a target that is not positive, a
            single resample.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8; Veach and Guibas (1995), Optimally combining sampling techniques for Monte Carlo
        rendering (balance heuristic).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool(log_evidence(bed.model, bed.guide, bed.x, ImportanceSampling(50, proposal="prior")).ess.max() < 50)
        True
    """

    num_particles: int = 1000
    proposal: Literal["guide", "prior"] | Defensive = "guide"
    target_se: float | None = None
    bootstrap: int = 0
    chunk_size: int | None = None
    compile: Literal["auto"] | bool = "auto"
    dtype: Literal["bfloat16"] | None = None

    def __post_init__(self) -> None:
        if self.proposal not in ("guide", "prior") and not isinstance(self.proposal, Defensive):
            raise ValueError(
                f'proposal is {self.proposal!r}; it must be "guide", "prior" or Defensive(...)'
            )
        sizes = {"num_particles": 1, "bootstrap": 0} | (
            {} if self.chunk_size is None else {"chunk_size": 1}
        )
        for name, least in sizes.items():
            object.__setattr__(self, name, whole_number(getattr(self, name), name, least))
        if self.num_particles == 1 and isinstance(self.proposal, Defensive):
            raise ValueError(
                "num_particles is 1; a mixture of two components takes two particles at least"
            )
        if self.bootstrap == 1:
            raise ValueError(
                "bootstrap is 1; a standard error takes two resamples at least, or 0 for the delta "
                "method"
            )
        if self.target_se is not None:
            real_number(self.target_se, "target_se", above=0)
        one_of(self.compile, "compile", ("auto", True, False))
        if one_of(self.dtype, "dtype", ("bfloat16", None)) and isinstance(self.proposal, Defensive):
            raise ValueError(
                'dtype is "bfloat16", which a mixture of proposals does not know: leave one of '
                "them out"
            )

    def rows(self, num_data: int) -> int:
        """How many data `estimate` should be given at once."""
        return rows_per_chunk(num_data, self.num_particles, self.chunk_size)

    def warn(self) -> None:
        """Warn of what these settings cannot tell."""
        warn_of_few(self.num_particles, "particles")

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """Evidence of a block of data."""
        if self.target_se is None:
            log_w = self.log_weights(model, guide, data, self.num_particles, seed)
            evidence = self._reduce(
                log_w, self._strata(self.num_particles), _clusters(guide, self.num_particles), seed
            )
        else:
            evidence = self._until_target(model, guide, data, seed)
        if self.dtype is None:
            return evidence
        return replace(evidence, checks={"rounding": self._rounding(model, guide, data, seed)})

    def _rounding(
        self, model: Program, guide: Program, data: Dataset, seed: int | None
    ) -> np.ndarray:
        """log p(x) with bfloat16 less log p(x) without, by the same draws, (N,)."""
        num_particles, same, found = (
            min(self.num_particles, PARTICLES_TO_COMPARE),
            derived_seed(seed or 0, 1),
            [],
        )
        for half in (True, False):
            with using(Kernels(half)):
                found.append(
                    logsumexp(self.log_weights(model, guide, data, num_particles, same), axis=0)
                )
        return found[0] - found[1]

    def log_weights(
        self, model: Program, guide: Program, data: Dataset, num_particles: int, seed: int | None
    ) -> np.ndarray:
        """The tensor that everything is reduced from, (K, B)."""
        parts = [
            self._drawn(given_model, given_guide, data, count, part_seed)
            for given_model, given_guide, count, part_seed in conditionals(
                model, guide, num_particles, seed
            )
        ]
        return np.concatenate(parts)

    def _drawn(
        self, model: Program, guide: Program, data: Dataset, num_particles: int, seed: int | None
    ) -> np.ndarray:
        """Log-weights at draws from the proposal, (K, B)."""
        if isinstance(self.proposal, Defensive):
            return self.proposal.log_weights(model, guide, data, num_particles, seed).cpu().numpy()
        program = guide if self.proposal == "guide" else prior_guide(model)
        sizes: Any = {"num_particles": num_particles, "chunk_size": self.chunk_size, "seed": seed}
        return (
            torch.cat(list(iter_log_weights(model, program, data.x, data.context, **sizes)), dim=1)
            .cpu()
            .numpy()
        )

    def _strata(self, num_particles: int) -> list[int]:
        """How many draws come from each component of the proposal."""
        return (
            self.proposal.strata(num_particles)
            if isinstance(self.proposal, Defensive)
            else [num_particles]
        )

    def _reduce(
        self, log_w: np.ndarray, strata: list[int], clusters: np.ndarray | None, seed: int | None
    ) -> Evidence:
        evidence = reduce_log_weights(log_w, strata, clusters)
        if not self.bootstrap or clusters is not None:
            return evidence
        errors = bootstrap_se(log_w, self.bootstrap, seed, strata)
        return replace(evidence, mc_se=np.where(unresolved(log_w), np.nan, errors))

    def _until_target(
        self, model: Program, guide: Program, data: Dataset, seed: int | None
    ) -> Evidence:
        """Estimates of as many draws as a pilot run of each datum took, and none of the pilot's."""
        found, order = [], []
        needed = self._pilot(model, guide, data, seed)
        for count in np.unique(needed):
            rows = np.flatnonzero(needed == count)
            part = None if seed is None else derived_seed(seed, int(count), FRESH)
            log_w = self.log_weights(model, guide, data[torch.as_tensor(rows)], int(count), part)
            found.append(
                self._reduce(log_w, self._strata(int(count)), _clusters(guide, int(count)), part)
            )
            order.append(rows)
        return concatenate(found)[np.argsort(np.concatenate(order))].judged()

    def _pilot(self, model: Program, guide: Program, data: Dataset, seed: int | None) -> np.ndarray:
        """How many particles meet the target, (N,): doubled until it is, the earlier draws kept."""
        open_rows, needed = np.arange(len(data)), np.zeros(len(data), dtype=int)
        weights, strata, clusters = None, list[int](), None
        while len(open_rows):
            drawn = sum(strata)
            more = min(max(drawn, 100), self.num_particles - drawn)
            part = None if seed is None else derived_seed(seed, drawn)
            fresh = self.log_weights(model, guide, data[torch.as_tensor(open_rows)], more, part)
            weights = fresh if weights is None else np.concatenate([weights, fresh])
            strata = strata + self._strata(more)
            if (ids := _clusters(guide, more)) is not None:
                clusters = ids if clusters is None else np.concatenate([clusters, ids])
            evidence = self._reduce(weights, strata, clusters, seed)
            met = (evidence.mc_se < self.target_se) & evidence.is_estimate | (
                drawn + more >= self.num_particles
            )
            needed[open_rows[met]] = drawn + more
            open_rows, weights = open_rows[~met], weights[:, ~met]
        return needed


def _clusters(guide: Program, num_particles: int) -> np.ndarray | None:
    """Which draw of the global latents each particle has, (K,); None where there are no such
    latents.
    """
    return guide.clusters(num_particles) if isinstance(guide, GlobalDraws) else None


def warn_of_few(count: int, what: str) -> None:
    """Warn, at the caller's line, where k-hat cannot be told from so few."""
    if count < SMALLEST_NUM_PARTICLES:
        few = (
            f"k-hat needs at least {SMALLEST_NUM_PARTICLES} {what} and was given {count}: it is NaN"
        )
        warn_caller(few)
