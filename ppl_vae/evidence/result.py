"""Evidence: log p(x) per row with errors and diagnostics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data import Dataset
from ppl_vae.data.splits import rows_at
from ppl_vae.data.validation import as_array, same_rows
from ppl_vae.errors import DamagedFileError
from ppl_vae.evidence.errors import clustered_se, error_of_mean, row_mean, sum_in_quadrature
from ppl_vae.evidence.fingerprints import digests, quantity_of, row_weights
from ppl_vae.evidence.pareto import (
    GOOD_K,
    SMALLEST_NUM_PARTICLES,
    k_standard_error,
    share_of_bad,
)
from ppl_vae.evidence.summary import EvidenceSummary
from ppl_vae.evidence.verdict import judge
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.sealed import read_arrays, write_arrays
from ppl_vae.runtime.text import counted, echoed

__all__ = ["Evidence", "EvidenceSummary"]

FINITE_VARIANCE_K = 0.5
# leading term of each bound's bias, in halves of its variance; the chi bound's depends on its order
BIAS = {
    "lower": -1.0,
    "upper in the limit": float("nan"),
    "upper if converged": 1.0,
}
ARRAYS = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo", "smoothed", "num_used")
OPTIONAL = ("digests", "shared_errors", "skewness", "spread", "asymmetry", "believed", "weights")
PER_ROW = ("weights", "digests")  # without which the rows of all parts would lose theirs
WORDS = ("bound", "measure")
TAKEN = (*ARRAYS, *OPTIONAL, *WORDS, "format", "num_data")  # names in a file
CHECKS = "checks."  # before the name of each, in a file
ROUNDING_OF_X = "rounding_of_x"  # the name of a check


@dataclass(frozen=True, repr=False)
class Evidence(Shown):
    """Estimates of log p(x), or of a bound on it, one per row, from importance weights.

    `bound` is the kind of bound: "lower" is a lower bound in expectation for any K; "upper in the
    limit" is an upper bound as K grows, but biased low, so that it may lie below log p(x) for small
    K; "upper if converged" is an upper bound in expectation if the chains behind it have reached
    the posterior, and too low by the mass that they miss.

    Args:
        log_evidence: log mean_k w_k, nats, (N,).
        mc_se: Its standard error, by the delta method sd(w) / (mean(w) sqrt(K)), (N,). Meaningless
            if k-hat > 0.5; infinite if all weights are zero, NaN if they are `unresolved`. All
            numbers of a row are NaN if a log-weight is NaN or +inf.
        ess: Effective sample size, (sum w)^2 / sum w^2, between 1 and K, (N,); NaN if the weights
            are `unresolved`. With latents outside the data plate at most 1 / (1 / K + mc_se^2).
        pareto_k: Pareto k-hat, (N,): above 0.7 log_evidence is only a lower bound in expectation.
        elbo: mean_k log w_k, (N,).
        smoothed: log mean_k w_k with the largest weights Pareto-smoothed, (N,): less variable if
            k-hat is below 0.7; NaN above, because there it is more biased than the plain value.
        num_used: Particles of each row, (N,).
        bound: "lower", "upper in the limit" or "upper if converged".
        checks: Further diagnostics by name, (N,) each: "r_hat", "chain_ess" and "divergences"
            (their share of transitions) of the chains behind an upper bound; "rounding", the change
            of log p(x) by bfloat16; "rounding_of_x", the visible share of a column's standard
            deviation that the float type of x rounds away: log p(x) is that of the rounded rows.
        digests: A number that identifies each x, (N,), by which `compare_models` matches the rows;
            None if unknown.
        measure: "counting" for a probability of x, "lebesgue" for a density, other words for other
            measures, "" if the model does not say.
        shared_errors: With latents outside the data plate, the contribution of each of their draws
            to the relative error, (N, G). The errors of the rows are then correlated, and the error
            of their mean is computed from these. None without such latents.
        skewness: Skewness of the error of log p(x), in [-1, 1], (N,); 0 if all weights are equal.
            None if unknown.
        spread: Interquartile range of log w, (N,); None if unknown.
        asymmetry: Quartile skewness of log w, in [-1, 1], (N,); None if unknown.
        believed: `is_estimate`, as judged from all rows of the evaluation, (N,), so that a subset
            keeps its verdicts; None if it was never judged.
        weights: Sampling weights of the rows, (N,), by which means over rows are weighted; None
            weights them equally. Numbers of rows stay unweighted.

    References:
        Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519; Vehtari et al. (2024),
        arXiv:1507.02646.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> evidence = reduce_log_weights(np.log([[0.5, 1.0]] * 30))
        >>> evidence.log_evidence.round(3).tolist(), evidence.is_estimate.tolist()
        ([-0.693, 0.0], [True, True])
    """

    log_evidence: np.ndarray
    mc_se: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray
    elbo: np.ndarray
    smoothed: np.ndarray
    num_used: np.ndarray
    bound: str = field(default="lower", kw_only=True)
    checks: Mapping[str, np.ndarray] = field(default_factory=dict, kw_only=True)
    digests: np.ndarray | None = field(default=None, kw_only=True)
    measure: str = field(default="", kw_only=True)
    shared_errors: np.ndarray | None = field(default=None, kw_only=True)
    skewness: np.ndarray | None = field(default=None, kw_only=True)
    spread: np.ndarray | None = field(default=None, kw_only=True)
    asymmetry: np.ndarray | None = field(default=None, kw_only=True)
    believed: np.ndarray | None = field(default=None, kw_only=True)
    weights: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.bound not in BIAS:
            kinds = ", ".join(map(repr, BIAS))
            raise ValueError(f"bound is {echoed(self.bound)}; it must be one of {kinds}")

    def __len__(self) -> int:
        return len(self.log_evidence)

    def __repr__(self) -> str:
        brief = f", {self.summary().brief()}" if len(self) else ""
        return f"Evidence({counted(len(self), 'row')}{brief})"

    @property
    def num_particles(self) -> int:
        """The largest number of particles of any row."""
        return int(self.num_used.max())

    @property
    def is_estimate(self) -> np.ndarray:
        """Whether log p(x) and its standard error are reliable, (N,), judged from similar rows.

        The error must not be skewed (Cochran's rule): the mean squared skewness of about 50 rows
        with a similar interquartile range of log w, and of those of them that lean to the same
        side, must be below 1/16. The limit is lower if there are fewer rows, or if they share draws
        of a latent outside the data plate. A row's own skewness would select the rows that missed
        their tail. A row whose own k-hat is above 0.7 is never an estimate; if a third of similar
        rows are such, none of them is. If a row is not an estimate, log_evidence is a lower bound
        in expectation; an upper bound is never an estimate. Only the draws are judged: a mode that
        none of them reaches is missed, and the standard error does not include it.
        docs/believability.md has the measured coverage. With fewer than 30
        particles no row is an estimate. Evidence that was never judged (from a file of an earlier
        version) is judged row by row: k-hat must be below 0.5 at 90 % confidence.
        """
        if self.bound != "lower":
            return np.zeros(len(self), dtype=bool)
        if self.believed is not None:
            return self.believed & ~(self.pareto_k > GOOD_K)
        margin = 1.28 * k_standard_error(self.pareto_k, self.num_used)
        return self.pareto_k + margin < FINITE_VARIANCE_K

    def judged(self) -> "Evidence":
        """The same evidence, judged again from these rows together."""
        if self.skewness is None or self.spread is None:
            return self
        known = np.isfinite(self.mc_se) & ~np.isnan(self.pareto_k)
        skewness = np.where(known, self.skewness, np.nan)
        shared = self.shared_errors is not None
        heavy = self.pareto_k > GOOD_K
        found = judge(skewness, self.spread, self.asymmetry, heavy, shared=shared)
        return replace(self, believed=found)

    @staticmethod
    def exact(log_p: Any, x: Any, *, measure: str, weights: Any = None) -> "Evidence":
        """Evidence of a model whose log p(x) is known, one finite number for each row, for
        `compare_models`.

        Args:
            log_p: Nats, (N,), as scikit-learn's `score_samples` gives it.
            x: The rows, in the units of the other models, (N, *event): a `Dataset`, whose weights
                are kept, or anything that is one's x.
            measure: "lebesgue" if p(x) is a density, "counting" if it is a probability; that of
                the likelihood (`likelihood.measure`) for mixed columns.
            weights: Sampling weights of the rows, positive, (N,), or None.

        Raises:
            ValueError: log_p or weights do not fit x: their number, their values, or the index of
                an object of pandas; or x is a `Dataset` and weights are given beside it.

        Example:
            >>> evidence = Evidence.exact([-1.0, -2.0], [[0.0], [1.0]], measure="lebesgue")
            >>> evidence.is_estimate.tolist()
            [True, True]
        """
        values = as_array(log_p, np.float64).copy()
        rows = _rows_of_exact(log_p, x, weights)
        if values.shape != (len(rows),) or not np.isfinite(values).all():
            raise ValueError(
                f"log_p has shape {values.shape} and x {len(rows)} rows: give a finite number for "
                "each row"
            )
        if not ("counting" in measure or "lebesgue" in measure):
            raise ValueError(
                f"measure is {echoed(measure)}; it must be 'counting' or 'lebesgue', or the "
                "measure of a likelihood"
            )
        zero, one = np.zeros(len(rows)), np.ones(len(rows))
        arrays = (values, zero, one, zero - np.inf, values, values, one.astype(int))
        known: dict[str, Any] = {"skewness": zero, "spread": zero, "believed": one.astype(bool)}
        known |= {"digests": digests(rows.x), "weights": row_weights(rows)}
        return Evidence(*arrays, measure=measure, **known)

    @property
    def unresolved(self) -> np.ndarray:
        """Whether log w is rounded by more than 0.02 nats, or the draws of z to a few numbers, so
        that errors are unknown, (N,).
        """
        unknown = np.isnan(self.mc_se) & np.isnan(self.pareto_k)
        return unknown & ~self.is_undefined & (self.num_used >= SMALLEST_NUM_PARTICLES)

    @property
    def is_undefined(self) -> np.ndarray:
        """Whether a log-weight is NaN or +inf, so that there is no log p(x), (N,)."""
        return np.isnan(self.log_evidence)

    @property
    def num_needed(self) -> np.ndarray:
        """Particles that k-hat requires, 10^(1 / (1 - max(k, 0))), infinite from k = 1 on, (N,).

        Reference: Vehtari et al. (2024), arXiv:1507.02646, eq. 13.
        """
        room = 1 - np.maximum(self.pareto_k, 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.where(room > 0, 10.0 ** (1 / np.maximum(room, 0.0)), np.inf)

    @property
    def mean_mc_se(self) -> float:
        """Monte Carlo standard error of the mean over the rows, nats."""
        if self.shared_errors is None:
            return sum_in_quadrature(self.mc_se, self.weights)
        return float(clustered_se(row_mean(self.shared_errors, self.weights)))

    def __getitem__(self, rows: Any) -> "Evidence":
        some = rows_at(rows, len(self), "evidence")
        return _mapped(lambda values: values[some], self)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name, as `save` writes it."""
        checks = {f"{CHECKS}{name}": values for name, values in self.checks.items()}
        words = {name: np.array(getattr(self, name)) for name in WORDS}
        rows = {name: getattr(self, name) for name in OPTIONAL if getattr(self, name) is not None}
        return {name: getattr(self, name) for name in ARRAYS} | words | rows | checks

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Evidence":
        """Undo `arrays`; fields that an earlier version did not write have their defaults."""
        checks = {
            name.removeprefix(CHECKS): arrays[name] for name in arrays if name.startswith(CHECKS)
        }
        words: dict[str, Any] = {name: str(arrays[name]) for name in WORDS if name in arrays}
        words |= {name: arrays[name] for name in OPTIONAL if name in arrays}
        return Evidence(*(arrays[name] for name in ARRAYS), checks=checks, **words)

    def save(self, path: str | Path, **labels: str | np.ndarray) -> Path:
        """Write all arrays, and labels beside them, to an .npz file, whole or not at all.

        Raises:
            ValueError: A label has a name that the file needs.
        """
        taken = [name for name in labels if name in TAKEN or name.startswith(CHECKS)]
        if taken:
            raise ValueError(f"the file needs the name {taken[0]!r} itself: choose another label")
        arrays: dict[str, Any] = self.arrays() | labels
        return write_arrays(path, arrays)

    @staticmethod
    def load(path: str | Path) -> "Evidence":
        """Read a file that `save` wrote; it cannot execute code.

        Raises:
            ValueError: it is another kind of file, or the checkpoint of an unfinished call.
        """
        file = read_arrays(path)
        missing = [name for name in ARRAYS if name not in file]
        if missing:
            raise DamagedFileError(f"{path} holds no evidence: it has no {missing[0]!r}")
        found = Evidence.from_arrays(file)
        wanted = int(file.get("num_data", len(found)))
        if len(found) < wanted:
            raise ValueError(
                f"{path} is a checkpoint with {len(found)} of {wanted} rows done: call "
                f"log_evidence again with checkpoint={str(path)!r} to resume it"
            )
        return found

    def summary(self) -> EvidenceSummary:
        """Means over the rows and their standard errors."""
        if not len(self):
            raise ValueError("there is no row: a summary needs one at least")
        return EvidenceSummary(
            log_evidence=float(row_mean(self.log_evidence, self.weights)),
            mc_se=self.mean_mc_se,
            data_se=error_of_mean(self.log_evidence, self.weights),
            mc_bias=float(0.5 * BIAS[self.bound] * row_mean(np.square(self.mc_se), self.weights)),
            elbo=float(row_mean(self.elbo, self.weights)),
            mean_ess=float(row_mean(self.ess, self.weights)),
            share_bad_k=share_of_bad(self.pareto_k, self.weights),
            num_data=len(self),
            num_particles=self.num_particles,
            bound=self.bound,
            num_unresolved=int(self.unresolved.sum()),
            share_estimate=float(row_mean(self.is_estimate, self.weights)),
            rounding_of_x=float(np.max(self.checks.get(ROUNDING_OF_X, 0.0))),
            weighted=self.weights is not None,
            quantity=quantity_of(self.measure),
        )


def _rows_of_exact(log_p: Any, x: Any, weights: Any) -> Dataset:
    """The rows of exact log p(x), with their weights."""
    is_data = isinstance(x, Dataset)
    if is_data and weights is not None:
        raise ValueError(f"{x.name!r} is a Dataset: give its weights as Dataset(x, weights=...)")
    rows = x.in_memory() if is_data else Dataset(x, weights=weights, dtype=torch.float64)
    rows.refuse_other_index(log_p, "log_p")
    same_rows(None, log_p=log_p, weights=weights)
    return rows


def concatenate(parts: list[Evidence]) -> Evidence:
    """Evidence of all rows from the evidence of parts, in order."""
    wrong = [part for part in parts if not isinstance(part, Evidence)]
    if wrong or not parts:
        given = "no part" if not parts else f"a {type(wrong[0]).__name__}"
        raise ValueError(f"given {given}: evidence of all rows needs the `Evidence` of each part")
    kinds = sorted({part.bound for part in parts})
    if len(kinds) > 1:
        raise ValueError(f"evidence of two kinds cannot be joined: {kinds[0]!r} and {kinds[1]!r}")
    measures = sorted({part.measure for part in parts} - {""})
    if len(measures) > 1:
        raise ValueError(
            f"log p(x) of two measures cannot be joined: {measures[0]!r} and {measures[1]!r}"
        )
    for name in PER_ROW:
        known = [getattr(part, name) is not None for part in parts]
        if any(known) and not all(known):
            raise ValueError(
                f"evidence with and without {name} of its rows cannot be joined: part "
                f"{known.index(True)} has them and part {known.index(False)} has none"
            )
    return joined(parts)


def joined[Result](parts: Sequence[Result]) -> Result:
    """One dataclass of arrays (N,) from several, in order; None if one of them has None."""
    return _mapped(lambda *values: np.concatenate(values), *parts)


def _mapped[Result](function: Callable[..., np.ndarray], *parts: Result) -> Result:
    """The dataclass with the function of each array of these parts."""
    record: Any = parts[0]

    def of(values: Sequence[Any]) -> Any:
        first = values[0]
        if any(value is None for value in values):
            return None
        if isinstance(first, str):
            return first if len(set(values)) == 1 else ""
        if isinstance(first, Mapping):
            return {name: of([value[name] for value in values]) for name in first}
        return function(*values)

    names = [each.name for each in fields(record)]
    return replace(record, **{name: of([getattr(part, name) for part in parts]) for name in names})
