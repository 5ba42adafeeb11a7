"""The difference between two models on the same rows, and its interval."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ppl_vae.diagnostics.models.simultaneous import Pair, Parts
from ppl_vae.diagnostics.models.trained_model import TrainedModel, variance_of_mean
from ppl_vae.evidence.errors import effective_rows, row_mean


@dataclass(frozen=True)
class Difference:
    """log p(x) of a model minus that of the baseline, on the same rows."""

    model: TrainedModel
    baseline: TrainedModel

    @property
    def both(self) -> tuple[TrainedModel, ...]:
        """The two models; none if a model is compared with itself."""
        return () if self.model is self.baseline else (self.model, self.baseline)

    @cached_property
    def paired(self) -> np.ndarray:
        """Differences of the rows, (N,)."""
        return self.model.mean - self.baseline.mean

    @property
    def mean(self) -> float:
        """Mean difference over the rows."""
        return float(row_mean(self.paired, self.model.weights))

    @property
    def data_variance(self) -> float:
        """Variance of the mean difference over draws of the rows."""
        return variance_of_mean(self.paired, self.model.weights)

    def variance(self, part: str) -> float:
        """A part of the variance of the mean, such as "mc_variance", summed over both models."""
        return sum(getattr(each, part) for each in self.both)

    @property
    def matched(self) -> bool:
        """Whether both were trained once or both several times; otherwise no error is known."""
        return len({each.trained_once for each in self.both}) < 2

    def interval(self, reach: Callable[[Pair, Parts], float]) -> np.ndarray:
        """Both ends, (2,), each proved by a pair of bounds; infinite if a bound is missing."""
        if not self.both:
            return np.zeros(2)
        if not self.matched:
            return np.full(2, np.nan)
        pair = frozenset(each.name for each in self.both)
        ends = np.array([-np.inf, np.inf])
        bounds = (
            (self.model.lower, self.baseline.upper),
            (self.model.upper, self.baseline.lower),
        )
        for i, (one, other) in enumerate(bounds):
            if np.isfinite(one).all() and np.isfinite(other).all():
                distance = reach(pair, self._parts(one, other))
                middle = row_mean(one.mean(0) - other.mean(0), self.model.weights)
                ends[i] = middle + np.copysign(distance, ends[i])
        return ends

    def _parts(self, one: np.ndarray, other: np.ndarray) -> Parts:
        """Each part of the variance of the mean with its degrees of freedom, the rows' first."""
        paired = one.mean(0) - other.mean(0)
        parts = [
            (
                variance_of_mean(paired, self.model.weights),
                effective_rows(self.model.weights, len(paired)) - 1,
            ),
            (self.variance("shared_variance"), np.inf),
        ]
        for each in (one, other):
            if len(each) > 1:
                means = row_mean(each.T, self.model.weights)
                parts.append((variance_of_mean(means), len(each) - 1.0))
        return parts
