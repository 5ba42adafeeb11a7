"""log p(x) by importance sampling, from the guide, the prior or a mixture of them."""

import copy
import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.defensive import Defensive, prior_guide
from ppl_vae.evidence.errors import bootstrap_se
from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES, defined, unresolved
from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.evidence.weights import Reduction, reduce_log_weights
from ppl_vae.importance import Compiled, Eager, iter_particles
from ppl_vae.programs.global_latents import GlobalDraws, conditionals
from ppl_vae.programs.inference import rows_per_chunk
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import one_of, real_number, warn_caller, whole_number
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.seeding import Stream, derived_seed
from ppl_vae.runtime.text import echoed

__all__ = ["ImportanceSampling", "SamplingOptions"]

PARTICLES_TO_COMPARE = 200  # with and without bfloat16: resolves 0.001 nats over a hundred rows
FEWEST_PAIRS_TO_COMPILE = 2_000_000  # compiling takes as long as about a million
BYTES_OF_A_PAIR = 40  # log w in float64, and copies of it
BYTES_OF_A_COUNT = 8  # of each resample
Proposal = Literal["guide", "prior"] | Defensive


class SamplingOptions(TypedDict, total=False):
    """Keywords of `ImportanceSampling`, as `log_evidence` takes them.

    Example:
        >>> ImportanceSampling(**SamplingOptions(num_particles=50)).num_particles
        50
    """

    num_particles: int
    proposal: Proposal
    target_se: float | None
    bootstrap: int
    chunk_size: int | None
    compile: Literal["auto"] | bool
    dtype: Literal["bfloat16"] | None


@dataclass(frozen=True)
class ImportanceSampling:
    """log p(x) ~ log mean_k p(x, z_k) / proposal(z_k): a lower bound in expectation for any K,
    tight as K grows.

    With `proposal="prior"` z is drawn from p(z): the naive estimator, for comparison, which fails
    in many dimensions. With a `Defensive` proposal some draws come from a wider component, which
    bounds the weights of a narrow guide. With `target_se` a pilot run doubles the particles of each
    row until its standard error is reliable (`Evidence.is_estimate`) and meets the target, or
    `num_particles` are used. The estimate then takes as many new draws, so that the stopping rule
    does not bias it, at twice the cost; `num_used` counts the new draws. Particles that share a
    draw of a latent outside the data plate are one cluster of the standard error, which is then
    never bootstrapped.

    Args:
        num_particles: Number of particles K per row; with `target_se`, the most that the pilot, and
            then the estimate, may take.
        proposal: Where z is drawn from: "guide", "prior" or `Defensive(...)`.
        target_se: Target of the Monte Carlo standard error, nats; None uses `num_particles` for
            every row.
        bootstrap: Number of resamples for a bootstrap standard error; 0 is the delta method.
        chunk_size: (particle, row) pairs drawn at once. It bounds the memory for any K and N, but
            for at most a million log-weights of a row; with `bootstrap`, `target_se` or latents
            outside the data plate all log-weights of a block of rows are held. The same seed gives
            the same draws at the same chunk_size.
        compile: Whether `log_evidence` compiles the log-weights, once for all blocks of rows: True,
            False, or "auto", from two million (particle, row) pairs on. The draws are the same;
            float rounding may differ.
        dtype: "bfloat16" computes the model's matrix products in that type: up to twice as fast on
            processors that support it. The guide is left as it is. The effect on log p(x) is
            measured per row on up to 200 of its particles, and kept in
            `Evidence.checks["rounding"]`: log p(x) with it minus log p(x) without it, in nats. None
            is the parameters' own type.

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
        >>> method = ImportanceSampling(50, proposal="prior")
        >>> bool(log_evidence(bed.model, bed.guide, bed.x, method).ess.max() < 50)
        True
    """

    num_particles: int = 1000
    proposal: Proposal = "guide"
    target_se: float | None = None
    bootstrap: int = 0
    chunk_size: int | None = None
    compile: Literal["auto"] | bool = "auto"
    dtype: Literal["bfloat16"] | None = None
    evaluator: Eager = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_mixture = isinstance(self.proposal, Defensive)
        if not is_mixture and self.proposal not in ("guide", "prior"):
            raise ValueError(
                f'proposal is {echoed(self.proposal)}; it must be "guide", "prior" or '
                "Defensive(...)"
            )
        sizes = {"num_particles": 1, "bootstrap": 0}
        if self.chunk_size is not None:
            sizes["chunk_size"] = 1
        for name, least in sizes.items():
            object.__setattr__(self, name, whole_number(getattr(self, name), name, least))
        if self.num_particles == 1 and is_mixture:
            raise ValueError("num_particles is 1; a mixture of two components needs at least 2")
        if self.bootstrap == 1:
            raise ValueError(
                "bootstrap is 1; a standard error needs at least 2 resamples, and 0 is the delta "
                "method"
            )
        if self.target_se is not None:
            real_number(self.target_se, "target_se", above=0)
        one_of(self.compile, "compile", ("auto", True, False))
        if one_of(self.dtype, "dtype", ("bfloat16", None)) and is_mixture:
            raise ValueError(
                'dtype is "bfloat16", which a Defensive proposal does not support: leave one of '
                "them out"
            )
        object.__setattr__(self, "evaluator", Eager(half=self.dtype is not None))

    def evaluated_by(self, evaluator: Eager) -> "ImportanceSampling":
        """The same method with its log-weights from this evaluator."""
        other = copy.copy(self)
        object.__setattr__(other, "evaluator", evaluator)
        return other

    def compiled_for(self, guide: Program, num_data: int) -> "ImportanceSampling":
        """The same method, compiled if all blocks have one shape and there are enough of them."""
        each_is_new = self.target_se is not None or isinstance(guide, GlobalDraws)
        enough = num_data * self.num_particles >= FEWEST_PAIRS_TO_COMPILE
        if each_is_new or not self.compile or (self.compile == "auto" and not enough):
            return self
        level = logging.INFO if self.compile == "auto" else logging.WARNING
        return self.evaluated_by(Compiled(level, half=self.dtype is not None))

    def rows(self, num_data: int) -> int:
        """Number of rows that `estimate` should be given at once."""
        return rows_per_chunk(num_data, self.num_particles, self.chunk_size)

    def warn(self) -> None:
        """Warn if these settings leave a diagnostic unknown."""
        warn_of_few(self.num_particles, "particles")

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """Evidence of a block of rows."""
        if self.target_se is None:
            evidence = self._drawn_and_reduced(model, guide, data, self.num_particles, seed)
        else:
            evidence = self._until_target(model, guide, data, seed)
        if self.dtype is None:
            return evidence
        return replace(evidence, checks={"rounding": self._rounding(model, guide, data, seed)})

    def _rounding(
        self, model: Program, guide: Program, data: Dataset, seed: int | None
    ) -> np.ndarray:
        """log p(x) with bfloat16 minus log p(x) without it, with the same draws, (N,)."""
        num_particles = min(self.num_particles, PARTICLES_TO_COMPARE)
        seed = derived_seed(seed or 0, Stream.ROUNDING)
        rounded, exact = (
            self.evaluated_by(Eager(half)).log_weights(model, guide, data, num_particles, seed)
            for half in (True, False)
        )
        return logsumexp(rounded, axis=0) - logsumexp(exact, axis=0)

    def log_weights(
        self, model: Program, guide: Program, data: Dataset, num_particles: int, seed: int | None
    ) -> np.ndarray:
        """The tensor that everything is reduced from, (K, B)."""
        what = f"num_particles={num_particles:,} for {len(data)} rows at once"
        num_bytes = BYTES_OF_A_PAIR + BYTES_OF_A_COUNT * self.bootstrap
        require_memory(what, num_particles, len(data), num_bytes=num_bytes)
        parts = []
        given = conditionals(model, guide, num_particles, seed)
        for given_model, given_guide, count, part_seed in given:
            blocks = self._drawn(given_model, given_guide, data, count, part_seed)
            parts.append(torch.cat([torch.cat(list(block)) for block in blocks], dim=1))
        return torch.cat(parts).cpu().numpy()

    def _drawn(
        self, model: Program, guide: Program, data: Dataset, num_particles: int, seed: int | None
    ) -> Iterator[Generator[Tensor]]:
        """Log-weights at draws from the proposal: of each block of rows, (k, rows) after (k, rows).

        Before the next block the last one has to be drawn to its end, or closed.
        """
        sizes: Any = {
            "num_particles": num_particles,
            "seed": seed,
            "chunk_size": self.chunk_size,
        }
        if isinstance(self.proposal, Defensive):
            return iter([self.proposal.iter_log_weights(model, guide, data, **sizes)])
        proposal = guide if self.proposal == "guide" else prior_guide(model)
        evaluator = self.evaluator
        return iter_particles(model, proposal, arguments(data), evaluator=evaluator, **sizes)

    def _drawn_and_reduced(
        self, model: Program, guide: Program, data: Dataset, num_particles: int, seed: int | None
    ) -> Evidence:
        """Evidence from that many draws, of which few are held where their errors need few."""
        if self.bootstrap or isinstance(guide, GlobalDraws):
            log_w = self.log_weights(model, guide, data, num_particles, seed)
            return self._reduce(log_w, guide, seed)
        parts = []
        for block in self._drawn(model, guide, data, num_particles, seed):
            reduction = Reduction(num_particles, self._strata(num_particles))
            with closing(block):
                for part in block:
                    reduction.add(part.cpu().numpy())
            parts.append(reduction.evidence())
        return concatenate(parts).judged()

    def _strata(self, num_particles: int) -> list[int]:
        """Number of draws from each component of the proposal."""
        if isinstance(self.proposal, Defensive):
            return self.proposal.strata(num_particles)
        return [num_particles]

    def _reduce(
        self, log_w: np.ndarray, guide: Program, seed: int | None, *earlier: int
    ) -> Evidence:
        """Evidence from log-weights that were drawn in batches, the `earlier` ones and the last."""
        batches = [*earlier, len(log_w) - sum(earlier)]
        strata = [size for batch in batches for size in self._strata(batch)]
        clusters = None
        if isinstance(guide, GlobalDraws):
            clusters = np.concatenate([guide.clusters(batch) for batch in batches])
        evidence = reduce_log_weights(log_w, strata, clusters)
        if not self.bootstrap or clusters is not None:
            return evidence
        log_w, is_undefined = defined(log_w)
        errors = bootstrap_se(log_w, self.bootstrap, seed, strata)
        return replace(evidence, mc_se=np.where(unresolved(log_w) | is_undefined, np.nan, errors))

    def _until_target(
        self, model: Program, guide: Program, data: Dataset, seed: int | None
    ) -> Evidence:
        """Estimates from as many new draws as each row's pilot took."""
        needed = self._pilot(model, guide, data, seed)
        found, order = [], []
        for count in np.unique(needed).tolist():
            rows = np.flatnonzero(needed == count)
            part_seed = derived_seed(seed, count, Stream.FRESH_DRAWS)
            found.append(self._drawn_and_reduced(model, guide, data[rows], count, part_seed))
            order.append(rows)
        return concatenate(found)[np.argsort(np.concatenate(order))].judged()

    def _pilot(self, model: Program, guide: Program, data: Dataset, seed: int | None) -> np.ndarray:
        """Number of particles that meet the target, (N,): doubled until it is met."""
        needed = np.full(len(data), self.num_particles)
        open_rows = np.arange(len(data))
        weights = np.empty((0, len(data)))
        batches: list[int] = []
        while len(open_rows) and (drawn := sum(batches)) < self.num_particles:
            more = min(max(drawn, 100), self.num_particles - drawn)
            part_seed = derived_seed(seed, drawn)
            fresh = self.log_weights(model, guide, data[open_rows], more, part_seed)
            weights = np.concatenate([weights, fresh], dtype=fresh.dtype)
            evidence = self._reduce(weights, guide, seed, *batches)
            met = (evidence.mc_se < self.target_se) & evidence.is_estimate
            batches.append(more)
            needed[open_rows[met]] = drawn + more
            open_rows = open_rows[~met]
            weights = weights[:, ~met]
        return needed


def warn_of_few(count: int, what: str) -> None:
    """Warn, at the caller's line, if there are too few draws for k-hat."""
    if count < SMALLEST_NUM_PARTICLES:
        warn_caller(
            f"k-hat needs at least {SMALLEST_NUM_PARTICLES} {what} and was given {count}: it is NaN"
        )
