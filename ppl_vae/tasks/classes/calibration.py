"""Calibration of class probabilities: whether 80 % of the classes said with 0.8 are right."""

from dataclasses import dataclass

import numpy as np

from ppl_vae.diagnostics.predictive.reliability_curve import Reliability
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.text import table

__all__ = ["ClassCalibration", "calibration_of"]

RESAMPLES = 1000


@dataclass(frozen=True)
class ClassCalibration:
    """The probability of the most probable class in bins, and how often that class is the true one.

    The expected calibration error is the mean over rows of |share that is right - mean
    probability| of their bin. It is above 0 by chance: `expected` is its mean over labels drawn
    from the probabilities themselves, and `p_value` the share of such draws with a larger error.

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
    probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 10, seed: int = 0
) -> ClassCalibration:
    """Calibration of these probabilities, in bins of equal width of the largest one.

    Args:
        probabilities: (N, C).
        labels: The true classes, 0 to C - 1, (N,).
        num_bins: Number of bins of [0, 1].
        seed: Seed of resampling and of the labels drawn.

    Example:
        >>> found = calibration_of(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]))
        >>> round(found.error, 3)
        0.25
    """
    whole_number(num_bins, "num_bins")
    confidence = probabilities.max(1)
    is_right = probabilities.argmax(1) == labels
    place = np.minimum(confidence * num_bins, num_bins - 1).astype(int)
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(labels), size=(RESAMPLES, len(labels)))
    resampled = [_error(place[each], confidence[each], is_right[each], num_bins) for each in rows]
    drawn = generator.random((RESAMPLES, len(labels))) < confidence
    by_chance = np.array([_error(place, confidence, each, num_bins) for each in drawn])
    error = _error(place, confidence, is_right, num_bins)
    return ClassCalibration(
        reliability=_bins(place, confidence, is_right, num_bins),
        error=error,
        se=float(np.std(resampled, ddof=1)),
        expected=float(by_chance.mean()),
        p_value=float((1 + (by_chance >= error).sum()) / (1 + RESAMPLES)),
    )


def _error(place: np.ndarray, confidence: np.ndarray, is_right: np.ndarray, num_bins: int) -> float:
    """The expected calibration error."""
    excess = np.bincount(place, is_right - confidence, num_bins)
    return float(np.abs(excess).sum() / len(place))


def _bins(
    place: np.ndarray, confidence: np.ndarray, is_right: np.ndarray, num_bins: int
) -> Reliability:
    """The bins that hold rows; a standard error is binomial, of the probabilities in the bin."""
    count = np.bincount(place, minlength=num_bins)
    held = count > 0
    sums = [
        np.bincount(place, values, num_bins)[held]
        for values in (confidence, is_right, confidence * (1 - confidence))
    ]
    count = count[held]
    mean, share, variance = sums[0] / count, sums[1] / count, sums[2]
    return Reliability(mean, share, np.sqrt(variance) / count, count, "of the most probable class")
