"""An interval for log p(x) of each row, with its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from ppl_vae.errors import DamagedFileError
from ppl_vae.evidence.errors import row_mean, sum_in_quadrature
from ppl_vae.evidence.result import Evidence
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.sealed import read_arrays, write_arrays
from ppl_vae.runtime.text import counted

__all__ = ["VERDICTS", "EvidenceInterval", "IntervalSummary"]

VERDICTS = ESTIMATE, INTERVAL, LOWER_BOUND = "estimate", "interval", "bound only"
PARTS = ("lower_bound", "upper_bound")
MISSED = " (of the modes that guide or prior reach)"


@dataclass(frozen=True)
class IntervalSummary(Shown):
    """Means over the rows, in nats per row, and the number of rows with each verdict.

    Args:
        lower: Mean lower bound; an estimate counts as both bounds.
        lower_se: Its Monte Carlo standard error.
        upper: Mean upper bound; infinite if a row has a lower bound only.
        upper_se: Its Monte Carlo standard error.
        data_se: Standard error of `lower` over the rows; NaN for one row.
        gap: Mean of upper - lower bound over the rows with an interval; NaN if there are none.
        num_estimates: Rows whose log p(x) is estimated.
        num_intervals: Rows whose log p(x) lies between two bounds.
        num_bounds: Rows with a lower bound only.

    Example:
        >>> print(IntervalSummary(-90.12, 0.01, -90.08, 0.02, 0.3, 0.08, 50, 50, 0))
        log p(x) between -90.120 (se 0.010) and -90.080 (se 0.020) nats per row, data se 0.300
        100 rows: 50 with an estimate ..., 50 with an interval (mean gap 0.080), 0 ...
    """

    lower: float
    lower_se: float
    upper: float
    upper_se: float
    data_se: float
    gap: float
    num_estimates: int
    num_intervals: int
    num_bounds: int

    def __str__(self) -> str:
        low = f"{self.lower:.3f} (se {self.lower_se:.3f})"
        high = f"{self.upper:.3f} (se {self.upper_se:.3f})"
        between = f"between {low} and {high}"
        if self.lower > self.upper:  # two bounds that meet, each with its error
            between = f"between {high} and {low}, bounds that cross within their errors,"
        where = f"at least {low}" if self.num_bounds else between
        gap = f" (mean gap {max(self.gap, 0.0):.3f})" if self.num_intervals else ""
        total = self.num_estimates + self.num_intervals + self.num_bounds
        return (
            f"log p(x) {where} nats per row, data se {self.data_se:.3f}\n{counted(total, 'row')}: "
            f"{self.num_estimates} with an estimate{MISSED * bool(self.num_estimates)}, "
            f"{self.num_intervals} with an interval{gap}, {self.num_bounds} with a lower bound only"
        )


@dataclass(frozen=True)
class EvidenceInterval(Shown):
    """An interval from `lower` to `upper` that contains log p(x) with probability `level`.

    Its meaning depends on the verdict. "estimate": log p(x) is estimated, and the interval is the
    estimate +- z standard errors; a mode of p(z given x) that neither guide nor prior reaches is
    missed, and the standard error does not include it. "interval": log p(x) lies between a lower
    and an upper bound in expectation, and the interval extends z standard errors beyond them.
    "bound only": there is no reliable upper bound, and `upper` is infinite. z is the normal
    quantile, 1.96 at 0.95. For any weights, P(lower bound > log p(x) + b) <= exp(-b) by Markov's
    inequality, b = 3.7 nats at 0.95; the interval does not include this much wider margin.

    Args:
        lower_bound: Evidence from importance sampling if that is reliable, else from annealing
            forwards, (N,).
        upper_bound: Evidence from annealing backwards, (N,); NaN if it was not needed.
        verdict: "estimate", "interval" or "bound only", (N,).
        level: Nominal probability that the interval contains log p(x).

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood, arXiv:1511.02543,
        section 3.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import evidence_interval
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=1.3)
        >>> interval = evidence_interval(bed.model, bed.guide, bed.x)
        >>> exact = bed.log_evidence.numpy()
        >>> bool(((interval.lower < exact) & (exact < interval.upper)).all())
        True
        >>> interval.verdict.tolist()
        ['estimate', 'estimate', 'estimate']
    """

    lower_bound: Evidence
    upper_bound: Evidence
    verdict: np.ndarray
    level: float = 0.95

    def __len__(self) -> int:
        return len(self.verdict)

    def __getitem__(self, rows: Any) -> "EvidenceInterval":
        verdict = np.atleast_1d(self.verdict[rows])
        return EvidenceInterval(self.lower_bound[rows], self.upper_bound[rows], verdict, self.level)

    @property
    def lower(self) -> np.ndarray:
        """The interval's lower end, nats, (N,); never above the upper one."""
        return np.minimum(*self._ends())

    @property
    def upper(self) -> np.ndarray:
        """The interval's upper end, nats, (N,): infinite if there is only a lower bound."""
        return np.maximum(*self._ends())

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Each bound with its standard errors; by rounding, exact bounds may cross."""
        z = num_se(self.level)
        value, se = self._above()
        return self.lower_bound.log_evidence - z * self.lower_bound.mc_se, value + z * se

    @property
    def gap(self) -> np.ndarray:
        """Upper minus lower bound, (N,): 0 for an estimate, infinite for a lower bound only."""
        return self._above()[0] - self.lower_bound.log_evidence

    @property
    def r_hat(self) -> np.ndarray:
        """Largest R-hat of the chains behind the upper bound, (N,); NaN without that bound."""
        return self.upper_bound.checks["r_hat"]

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """The upper end with its standard error: the estimate, the upper bound, or infinity."""
        cases = [self.verdict == ESTIMATE, self.verdict == INTERVAL]
        bounds = (self.lower_bound, self.upper_bound)
        value = np.select(cases, [bound.log_evidence for bound in bounds], np.inf)
        return value, np.select(cases, [bound.mc_se for bound in bounds], 0.0)

    def summary(self) -> IntervalSummary:
        """Means over the rows, their standard errors, and the number of each verdict."""
        below = self.lower_bound.summary()
        above, above_se = self._above()
        is_between = self.verdict == INTERVAL
        between = self.gap[is_between]
        weights = self.lower_bound.weights
        return IntervalSummary(
            lower=below.log_evidence,
            lower_se=below.mc_se,
            upper=float(row_mean(above, weights)),
            upper_se=sum_in_quadrature(above_se, weights),
            data_se=below.data_se,
            gap=_mean_gap(between, self.lower_bound[is_between].weights),
            num_estimates=int((self.verdict == ESTIMATE).sum()),
            num_intervals=len(between),
            num_bounds=int((self.verdict == LOWER_BOUND).sum()),
        )

    def __str__(self) -> str:
        return str(self.summary())

    def save(self, path: str | Path) -> Path:
        """Write everything to an .npz file, whole or not at all."""
        arrays: dict[str, Any] = {"verdict": self.verdict, "level": self.level}
        for part in PARTS:
            found = getattr(self, part).arrays()
            arrays |= {f"{part}.{name}": values for name, values in found.items()}
        return write_arrays(path, arrays)

    @staticmethod
    def load(path: str | Path) -> "EvidenceInterval":
        """Read a file that `save` wrote; it cannot execute code."""
        file = read_arrays(path)
        if "verdict" not in file:
            raise DamagedFileError(f"{path} holds no interval: it has no 'verdict'")
        lower, upper = (Evidence.from_arrays(_under(part, file)) for part in PARTS)
        return EvidenceInterval(lower, upper, file["verdict"], float(file["level"]))


def _mean_gap(gaps: np.ndarray, weights: np.ndarray | None) -> float:
    """Mean over the rows with an interval; NaN if there are none."""
    return float(row_mean(gaps, weights)) if len(gaps) else float("nan")


def _under(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with the name of the part."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def num_se(level: float) -> float:
    """z: the half-width of a normal interval of this level, in standard errors."""
    return float(ndtri((1 + level) / 2))
