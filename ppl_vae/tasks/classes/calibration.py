"""Calibration of class probabilities: whether 80 % of the classes said with 0.8 are right."""

from dataclasses import dataclass, replace

import numpy as np

from ppl_vae.diagnostics.predictive.reliability_curve import Reliability
from ppl_vae.evidence.errors import normalised
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.text import table

__all__ = ["ClassCalibration", "calibration_of"]

RESAMPLES = 1000


@dataclass(frozen=True)
class ClassCalibration:
    """The probability of the most probable class in bins, and how often that class is the true one.

    The expected calibration error is the mean over rows of |share that is right - mean
    probability| of their bin; rows with weights have weighted shares and means. It is above 0 by
    chance: `expected` is its mean over labels drawn from the probabilities themselves, and
    `p_value` the share of such draws with a larger error.

    Args:
        reliability: The bins: mean probability, share that is right, its standard error and count.
        error: Expected calibration error.
        se: Its standard error, by resampling rows.
        expected: Its mean if the probabilities were right.
        p_value: Probability of an error as large if they were.

    References:
        Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, eq. 3;
        Bröcker and Smith (2007), Increasing the reliability of reliability diagrams, Weather and
        Forecasting 22 (labels drawn from the probabilities).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.dirichlet(np.ones(3), size=500)
        >>> labels = np.array([rng.choice(3, p=each) for each in p])
        >>> calibration_of(p, labels).p_value > 0.01
        True
    """

    reliability: Reliability
    error: float
    se: float
    expected: float
    p_value: float

    def __str__(self) -> str:
        bins = self.reliability
        columns = (bins.predicted, bins.frequency, bins.se, bins.count)
        rows = [["mean probability", "share right", "se", "rows"]]
        for predicted, share, se, count in zip(*columns, strict=True):
            rows.append([f"{predicted:.3f}", f"{share:.3f}", f"{se:.3f}", f"{count}"])
        return (
            f"{table(rows)}\nexpected calibration error {self.error:.3f} (se {self.se:.3f}); "
            f"{self.expected:.3f} by chance, p = {self.p_value:.2g}"
        )


def calibration_of(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    num_bins: int = 10,
    seed: int = 0,
) -> ClassCalibration:
    """Calibration of these probabilities, in bins of equal width of the largest one.

    Args:
        probabilities: (N, C).
        labels: The true classes, 0 to C - 1, (N,).
        weights: Sampling weights of the rows, (N,), or None.
        num_bins: Number of bins of [0, 1].
        seed: Seed of resampling and of the labels drawn.

    Example:
        >>> found = calibration_of(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]))
        >>> round(found.error, 3)
        0.25
    """
    whole_number(num_bins, "num_bins")
    share = normalised(weights, len(labels))
    rows = Rows(probabilities.max(1), probabilities.argmax(1) == labels, share, num_bins)
    generator = np.random.default_rng(seed)
    places = generator.integers(len(labels), size=(RESAMPLES, len(labels)))
    resampled = [rows.taken(each).error() for each in places]
    drawn = generator.random((RESAMPLES, len(labels))) < rows.confidence
    by_chance = np.array([replace(rows, is_right=each).error() for each in drawn])
    error = rows.error()
    return ClassCalibration(
        reliability=rows.bins(),
        error=error,
        se=float(np.std(resampled, ddof=1)),
        expected=float(by_chance.mean()),
        p_value=float((1 + (by_chance >= error).sum()) / (1 + RESAMPLES)),
    )


@dataclass(frozen=True)
class Rows:
    """Rows with the largest probability, whether its class is right, and a share of the weights."""

    confidence: np.ndarray
    is_right: np.ndarray
    share: np.ndarray
    num_bins: int

    @property
    def place(self) -> np.ndarray:
        """The bin of each row."""
        return np.minimum(self.confidence * self.num_bins, self.num_bins - 1).astype(int)

    def taken(self, rows: np.ndarray) -> "Rows":
        """These of the rows."""
        return Rows(self.confidence[rows], self.is_right[rows], self.share[rows], self.num_bins)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of these values in each bin."""
        return np.bincount(self.place, values, self.num_bins)

    def error(self) -> float:
        """The expected calibration error."""
        excess = self.sums(self.share * (self.is_right - self.confidence))
        return float(np.abs(excess).sum() / self.share.sum())

    def bins(self) -> Reliability:
        """The bins that hold rows; a standard error is binomial, of the bin's probabilities."""
        p = self.confidence
        count = np.bincount(self.place, minlength=self.num_bins)
        held = count > 0
        total = self.sums(self.share)[held]
        mean = self.sums(self.share * p)[held] / total
        right = self.sums(self.share * self.is_right)[held] / total
        se = np.sqrt(self.sums(self.share**2 * p * (1 - p))[held]) / total
        return Reliability(mean, right, se, count[held], "of the most probable class")
