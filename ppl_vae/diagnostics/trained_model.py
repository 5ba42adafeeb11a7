"""A model as `compare_models` sees it: what is known of log p(x), from below and from above, by training and row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ppl_vae.evidence import Evidence, EvidenceInterval
from ppl_vae.evidence.interval import ESTIMATE

FEWEST_TRAININGS = 3  # whose spread has enough degrees of freedom for Satterthwaite's rule


@dataclass(frozen=True)
class TrainedModel:
    """One model, trained once or several times."""

    name: str
    found: tuple[Evidence | EvidenceInterval, ...]

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What bounds log p(x) from below, or estimates it, of each training."""
        return tuple(each.lower_bound if isinstance(each, EvidenceInterval) else each for each in self.found)

    @property
    def labelled(self) -> dict[str, Evidence]:
        """The trainings by name."""
        several = len(self.found) > 1
        return {f"{self.name}[{i}]" if several else self.name: each for i, each in enumerate(self.evidence)}

    @cached_property
    def lower(self) -> np.ndarray:
        """Estimate or lower bound of each training and row, (R, N)."""
        return np.stack([each.log_evidence for each in self.evidence])

    @cached_property
    def upper(self) -> np.ndarray:
        """The same estimate, or an upper bound, infinite where there is none, (R, N)."""
        return np.stack([_from_above(each) for each in self.found])

    @cached_property
    def mean(self) -> np.ndarray:
        """Estimate or lower bound of each row, mean over trainings, (N,)."""
        return self.lower.mean(0)

    @property
    def trained_once(self) -> bool:
        """Whether nothing is known of how trainings differ."""
        return len(self.found) == 1

    @property
    def training_variance(self) -> float:
        """Variance of the mean over trainings, from their spread; NaN for one."""
        return np.nan if self.trained_once else variance_of_mean(self.lower.mean(1))

    @property
    def mc_variance(self) -> float:
        """Monte Carlo variance of the mean over trainings and rows."""
        return sum(each.mean_mc_se**2 for each in self.evidence) / len(self.evidence) ** 2

    @property
    def shared_variance(self) -> float:
        """The part of it that does not show in how the rows differ: that of draws which all rows share."""
        shared = [each.mean_mc_se**2 for each in self.evidence if each.shared_errors is not None]
        return sum(shared) / len(self.evidence) ** 2

    @property
    def share_bound(self) -> float:
        """Share of the rows without an estimate, mean over trainings."""
        return float(np.mean([_share_bound(each) for each in self.found]))

    @property
    def share_bad_k(self) -> float:
        """Share of the rows with k-hat > 0.7, mean over trainings."""
        return float(np.mean([each.summary().share_bad_k for each in self.evidence]))


@dataclass(frozen=True)
class Difference:
    """One model less another, on the same rows."""

    model: TrainedModel
    baseline: TrainedModel

    @property
    def both(self) -> tuple[TrainedModel, ...]:
        """The two; none where a model is held against itself."""
        return () if self.model is self.baseline else (self.model, self.baseline)

    @cached_property
    def paired(self) -> np.ndarray:
        """Differences of the rows, (N,)."""
        return self.model.mean - self.baseline.mean

    @property
    def training_variance(self) -> float:
        """Of the mean over trainings; NaN where one of the two was trained once."""
        return sum(each.training_variance for each in self.both)

    @property
    def mc_variance(self) -> float:
        """Of the mean over trainings and rows."""
        return sum(each.mc_variance for each in self.both)

    @property
    def parts(self) -> list[tuple[float, float]]:
        """Each part of the variance of the mean, with its degrees of freedom; trainings count where there are some."""
        return self._parts(self.model.lower, self.baseline.lower)

    @property
    def matched(self) -> bool:
        """Whether both were trained once, or both several times: else one spread is unknown, and there is no error."""
        return len({each.trained_once for each in self.both}) < 2

    def interval(self, reach: Callable[[list[tuple[float, float]]], float]) -> np.ndarray:
        """Its two ends, (2,): each of the bounds that prove it, and infinite where a bound is missing."""
        if not self.both:
            return np.zeros(2)
        if not self.matched:
            return np.full(2, np.nan)
        low = self._end(self.model.lower, self.baseline.upper, -1, reach)
        high = self._end(self.model.upper, self.baseline.lower, 1, reach)
        return np.array([low, high])

    def _end(
        self, one: np.ndarray, other: np.ndarray, side: int, reach: Callable[[list[tuple[float, float]]], float]
    ) -> float:
        if not np.isfinite(one).all() or not np.isfinite(other).all():
            return side * np.inf
        return float(one.mean() - other.mean() + side * reach(self._parts(one, other)))

    def _parts(self, one: np.ndarray, other: np.ndarray) -> list[tuple[float, float]]:
        paired = one.mean(0) - other.mean(0)
        shared = sum(each.shared_variance for each in self.both)
        parts = [(variance_of_mean(paired), len(paired) - 1.0), (shared, np.inf)]
        parts += [(variance_of_mean(each.mean(1)), len(each) - 1.0) for each in (one, other) if len(each) > 1]
        return [part for part in parts if part[0] > 0]


def variance_of_mean(values: np.ndarray) -> float:
    """Of independent values, from their own spread."""
    return float(values.var(ddof=1)) / len(values)


def _from_above(found: Evidence | EvidenceInterval) -> np.ndarray:
    """What log p(x) is at most, (N,)."""
    if isinstance(found, EvidenceInterval):
        return found.lower_bound.log_evidence + np.maximum(found.gap, 0.0)
    return np.where(found.is_estimate, found.log_evidence, np.inf)


def _share_bound(found: Evidence | EvidenceInterval) -> float:
    estimated = found.verdict == ESTIMATE if isinstance(found, EvidenceInterval) else found.is_estimate
    return float(1 - estimated.mean())
