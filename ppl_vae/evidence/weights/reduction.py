"""Log-weights reduced to `Evidence`, whole or block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_vae.data.validation import as_array
from ppl_vae.evidence.errors import cluster_means, clustered_se, quartiles
from ppl_vae.evidence.pareto import (
    GOOD_K,
    defined,
    rounding_of,
    smooth,
    smoothed_mean,
    tail_size,
    unresolved,
)
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.verdict import skewness_of_sum
from ppl_vae.evidence.weights.moments import Moments

__all__ = ["Reduction", "reduce_log_weights"]

PAIRS_AT_ONCE = 500_000  # of log-weights in float64, which take about 40 bytes each
ROUNDINGS = 4  # log p(x, z) and log q(z given x) are sums whose errors do not cancel
MOST_FOR_SPREAD = 1_000_000  # particles of a row whose interquartile range is taken


def reduce_log_weights(
    log_weights: np.ndarray, strata: Sequence[int] = (), clusters: np.ndarray | None = None
) -> Evidence:
    """Evidence from log-weights, in float64.

    Args:
        log_weights: log w, shape (K, B), in the float type that they were computed in (see
            `pareto.unresolved`).
        strata: Number of draws from each part of a mixture, in the order of the particles, if those
            numbers were fixed beforehand: the standard error then excludes differences between the
            parts. Empty is one part.
        clusters: The draw of a global latent that each particle shares, (K,): the standard error is
            then that between clusters, (G / (G - 1) sum_g (sum_{k in g} (w_k / mean(w) -
            1))^2)^(1/2) / K. None without such latents.

    Returns:
        Evidence of the B rows.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapters 8 (strata) and 9; Liang and
        Zeger (1986), Longitudinal data analysis using generalized linear models, Biometrika 73
        (clusters).

    Example:
        >>> reduce_log_weights(np.zeros((50, 2))).ess.tolist()
        [50.0, 50.0]
    """
    log_weights = as_array(log_weights)
    reduction = Reduction(len(log_weights), strata)
    reduction.add(log_weights)
    if clusters is None:
        return reduction.evidence()
    return _between_clusters(reduction, log_weights, clusters)


class Reduction:
    """The log-weights of some rows, reduced block by block to what their evidence is made of.

    Of each row it holds sums, the largest weights (k-hat needs at most 3 sqrt(K) + 1 of them) and
    every n-th log-weight, all of them up to K = 1,000,000, for the interquartile range. The result
    does not depend on the blocks but for rounding.

    Args:
        num_particles: Number of particles K of all blocks together.
        strata: As in `reduce_log_weights`.

    Example:
        >>> reduction = Reduction(100)
        >>> for block in np.split(np.zeros((100, 2)), 4):
        ...     reduction.add(block)
        >>> reduction.evidence().ess.tolist()
        [100.0, 100.0]
    """

    def __init__(self, num_particles: int, strata: Sequence[int] = ()) -> None:
        self.num_particles = num_particles
        self.num_tail = tail_size(num_particles) + 1
        self.step = -(-num_particles // MOST_FOR_SPREAD)
        self.strata = list(strata) if strata and min(strata) > 1 else [num_particles]
        self.num_added = 0
        self.moments: dict[int, Moments] = {}  # by stratum, of w / exp(largest)
        self.is_undefined = np.zeros(1, dtype=bool)  # which rows have a log-weight of NaN or +inf

    def add(self, log_weights: np.ndarray) -> None:
        """Take in the next particles, (k, B), in the float type that they were computed in."""
        log_weights, is_undefined = defined(log_weights)
        self.is_undefined = self.is_undefined | is_undefined
        for stratum, part in self._parts(log_weights):
            self._add(stratum, np.ascontiguousarray(part.T))
            self.num_added += len(part)

    def _parts(self, log_weights: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of a few particles of one stratum, with its number."""
        num_particles, num_data = log_weights.shape
        most = max(1, PAIRS_AT_ONCE // max(1, num_data))
        ends = np.cumsum(self.strata)
        start = 0
        while start < num_particles:
            stratum = int(np.searchsorted(ends, self.num_added, side="right"))
            size = min(most, int(ends[stratum]) - self.num_added)
            yield stratum, log_weights[start : start + size]
            start += size

    def _add(self, stratum: int, log_w: np.ndarray) -> None:
        """Take in some particles of one stratum, (B, k)."""
        is_first = not self.num_added
        wide = log_w.astype(np.float64)
        largest = wide.max(1)
        if is_first:
            self.largest, self.least, self.total = largest, wide.min(1), wide.sum(1)
            self.top, self.some = log_w, []
        else:
            self.total = self.total + wide.sum(1)
            self.least = np.minimum(self.least, wide.min(1))
            self.top = np.concatenate([self.top, log_w], axis=1)
            self._rescale(np.maximum(self.largest, largest))
        if self.top.shape[1] > self.num_tail:
            self.top = np.partition(self.top, -self.num_tail, axis=1)[:, -self.num_tail :].copy()
        self.some.append(log_w[:, -self.num_added % self.step :: self.step].copy())
        found = Moments.of(np.exp(wide - _origin(self.largest)[:, None]))
        earlier = self.moments.get(stratum)
        self.moments[stratum] = found if earlier is None else earlier + found

    def _rescale(self, largest: np.ndarray) -> None:
        """Divide all weights so far by the largest of them and of the new ones."""
        factor = np.exp(_origin(self.largest) - _origin(largest))
        factor[np.isneginf(self.largest)] = 0.0
        self.largest = largest
        self.moments = {name: each.scaled(factor) for name, each in self.moments.items()}

    @property
    def mean(self) -> np.ndarray:
        """Mean weight over the largest one, (B,); 0 if all weights are zero."""
        weighted = (each.number * each.mean for each in self.moments.values())
        return sum(weighted, np.zeros_like(self.largest)) / self.num_particles

    @property
    def log_evidence(self) -> np.ndarray:
        """log mean_k w_k, (B,)."""
        with np.errstate(divide="ignore"):
            return _origin(self.largest) + np.log(self.mean)

    @property
    def are_equal(self) -> np.ndarray:
        """Whether all weights of a row are equal and not zero, but for rounding, (B,)."""
        with np.errstate(invalid="ignore"):
            spread = self.log_evidence - self.least
        return ~np.isneginf(self.largest) & (spread <= ROUNDINGS * rounding_of(self.top.T))

    def evidence(self) -> Evidence:
        """Evidence of the rows, (B,), once all particles are added."""
        num_particles, log_evidence = self.num_particles, self.log_evidence
        nothing = np.isneginf(self.largest)  # all weights are zero, and those of others unknown
        per_mean = 1 / np.where(nothing, 1.0, self.mean)
        moments = [each.scaled(per_mean) for each in self.moments.values()]  # of w / mean(w)
        raw_squares = np.sum([each.raw_squares for each in moments], axis=0)
        squares, cubes = np.sum([each.errors() for each in moments], axis=0)
        k_hat, smoothed = smoothed_mean(self.top.T, log_evidence, num_particles)
        unknown = unresolved(self.top.T)
        se = np.sqrt(squares) / num_particles
        ess = num_particles**2 / np.maximum(raw_squares, 1.0)
        spread, asymmetry = quartiles(np.concatenate(self.some, axis=1))
        found = Evidence(
            log_evidence=log_evidence,
            mc_se=np.where(unknown, np.nan, np.where(nothing, np.inf, se)),
            ess=np.where(unknown, np.nan, np.where(nothing, 0.0, ess)),
            pareto_k=k_hat,
            elbo=self.total / num_particles,
            smoothed=np.where(k_hat > GOOD_K, np.nan, smoothed),
            num_used=np.full(len(log_evidence), num_particles),
            skewness=np.where(self.are_equal, 0.0, skewness_of_sum(squares, cubes)),
            spread=spread,
            asymmetry=asymmetry,
        )
        return without(found, self.is_undefined).judged()


def without(evidence: Evidence, rows: np.ndarray) -> Evidence:
    """The evidence with NaN for some rows, whose weights have no mean, (N,)."""
    names = (
        *("log_evidence", "mc_se", "ess", "pareto_k", "elbo", "smoothed"),
        *("skewness", "spread", "asymmetry"),
    )
    known: dict[str, Any] = {name: getattr(evidence, name) for name in names}
    known = {name: np.where(rows, np.nan, values) for name, values in known.items()}
    return replace(evidence, **known) if rows.any() else evidence


def _between_clusters(
    reduction: Reduction, log_weights: np.ndarray, clusters: np.ndarray
) -> Evidence:
    """The evidence with the errors of particles that share draws of a global latent."""
    evidence = reduction.evidence()
    log_weights, is_undefined = defined(log_weights)
    nothing = np.isneginf(evidence.log_evidence)
    means = cluster_means(log_weights, clusters)
    sizes = np.unique_counts(clusters).counts
    origin = np.where(nothing | is_undefined, 0.0, evidence.log_evidence)
    relative = np.expm1(means - origin)
    errors = (sizes[:, None] * relative / len(log_weights)).T
    se = clustered_se(errors)
    unknown = np.isnan(evidence.ess)
    skewness = skewness_of_sum(np.square(errors).sum(1), (errors**3).sum(1))
    # no better than the draws of the global latent: as few, and with as heavy a tail
    k_hat = np.maximum(evidence.pareto_k, smooth(means.astype(log_weights.dtype))[0])
    found = replace(
        evidence,
        mc_se=np.where(unknown, np.nan, np.where(nothing, np.inf, se)),
        ess=np.minimum(evidence.ess, 1 / (1 / len(log_weights) + np.square(se))),
        pareto_k=k_hat,
        smoothed=np.where(k_hat > GOOD_K, np.nan, evidence.smoothed),
        shared_errors=np.where(unknown[:, None], np.nan, errors),
        skewness=np.where(reduction.are_equal, 0.0, skewness),
    )
    return without(found, is_undefined).judged()


def _origin(largest: np.ndarray) -> np.ndarray:
    """What is subtracted from log-weights before they are exponentiated, (B,)."""
    return np.where(np.isneginf(largest), 0.0, largest)
