"""One model less another on the same rows: what is proved of it, and how surely."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ppl_vae.diagnostics.models.trained_model import TrainedModel, variance_of_mean


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
    def shared_variance(self) -> float:
        """Of the mean, by draws of latents outside the data plate, which all rows share."""
        return sum(each.shared_variance for each in self.both)

    @property
    def parts(self) -> list[tuple[float, float]]:
        """Each part of the variance of the mean, with its degrees of freedom; trainings count where
        there are some.
        """
        return self._parts(self.model.lower, self.baseline.lower)

    @property
    def matched(self) -> bool:
        """Whether both were trained once, or both several times: else one spread is unknown, and
        there is no error.
        """
        return len({each.trained_once for each in self.both}) < 2

    def interval(self, reach: Callable[[list[tuple[float, float]]], float]) -> np.ndarray:
        """Its two ends, (2,): each of the bounds that prove it, and infinite where a bound is
        missing.
        """
        if not self.both:
            return np.zeros(2)
        if not self.matched:
            return np.full(2, np.nan)
        low = self._end(self.model.lower, self.baseline.upper, -1, reach)
        high = self._end(self.model.upper, self.baseline.lower, 1, reach)
        return np.array([low, high])

    def _end(
        self,
        one: np.ndarray,
        other: np.ndarray,
        side: int,
        reach: Callable[[list[tuple[float, float]]], float],
    ) -> float:
        if not np.isfinite(one).all() or not np.isfinite(other).all():
            return side * np.inf
        return float(one.mean() - other.mean() + side * reach(self._parts(one, other)))

    def _parts(self, one: np.ndarray, other: np.ndarray) -> list[tuple[float, float]]:
        paired = one.mean(0) - other.mean(0)
        parts = [(variance_of_mean(paired), len(paired) - 1.0), (self.shared_variance, np.inf)]
        parts += [
            (variance_of_mean(each.mean(1)), len(each) - 1.0)
            for each in (one, other)
            if len(each) > 1
        ]
        return [part for part in parts if part[0] > 0]
