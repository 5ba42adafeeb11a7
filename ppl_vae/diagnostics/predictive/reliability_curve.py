"""Calibration of binary predictions: whether 30 % of those with probability 0.3 come true."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ppl_vae.diagnostics.predictive.pit import PIT
from ppl_vae.diagnostics.uniformity import holm, widening
from ppl_vae.runtime.checks import shown, whole_number
from ppl_vae.runtime.display import Shown

__all__ = ["Reliability", "reliability"]

FEWEST_EXPECTED = 5  # of ones and of zeros in a bin, for the normal approximation


@dataclass(frozen=True)
class Reliability(Shown):
    """Predicted probabilities of a 1 in bins, and the observed frequencies of ones.

    Args:
        predicted: Mean predicted probability of a 1 in each bin, (bins,); bins without entries are
            left out.
        frequency: Share of ones in each bin, (bins,).
        se: Standard error of frequency - predicted from the spread over the rows, (bins,): the
            entries of one row depend on each other, so a binomial error would be too small.
        count: Number of entries in each bin, (bins,).
        kind: "marginal" or "conditional" predictions.

    References:
        Murphy and Winkler (1977), Reliability of subjective probability forecasts, JRSS C 26.

    Example:
        >>> half = np.array([0.5])
        >>> print(Reliability(half, half, 0.1 * half, np.array([100]), "conditional"))
        conditional predictions of 100 entries in 1 bin: off by 0.000 on average,
        p = 1 (Holm over bins)
    """

    predicted: np.ndarray
    frequency: np.ndarray
    se: np.ndarray
    count: np.ndarray
    kind: str

    @property
    def error(self) -> float:
        """Mean of |frequency - predicted| over the entries; by chance it is above 0."""
        return float(np.average(np.abs(self.frequency - self.predicted), weights=self.count))

    @property
    def p_values(self) -> np.ndarray:
        """P-value of each bin by the normal approximation, (bins,), for many rows per bin."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(self.frequency - self.predicted) / self.se
        return 2 * stats.norm.sf(np.nan_to_num(distance))

    @property
    def p_value(self) -> float:
        """The smallest of them after Holm's correction."""
        return float(holm(self.p_values).min())

    def __str__(self) -> str:
        bins = f"{len(self.count)} bin{'s' * (len(self.count) > 1)}"
        errors = f"off by {self.error:.3f} on average, p = {self.p_value:.2g} (Holm over bins)"
        return f"{self.kind} predictions of {self.count.sum()} entries in {bins}: {errors}"


def reliability(pit: PIT, num_bins: int = 10) -> Reliability:
    """Frequencies of ones in bins of predicted probability, of equal width.

    r_n is the sum of x - P(X = 1) over the entries of row n in the bin; se^2 = sum_n r_n^2 /
    count^2, or that of independent entries if it is larger, times 1 + N / M if the model was fitted
    to M other rows. One half of the draws decides the bin and the other half P(X = 1): predictions
    sorted by their own errors would look overconfident. Neighbouring bins are merged until 5 ones
    and 5 zeros are expected in each.

    Args:
        pit: Result of `conditional_pit` (or `marginal_pit`) for binary x.
        num_bins: Number of bins of [0, 1] to start from.

    Returns:
        Predicted probability, frequency and its standard error by bin.

    Raises:
        ValueError: x is not binary.

    References:
        Murphy and Winkler (1977), Reliability of subjective probability forecasts, JRSS C 26; Liang
        and Zeger (1986), Longitudinal data analysis using generalized linear models, Biometrika 73
        (errors by cluster).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics.predictive.pit import conditional_pit
        >>> bed = beds.beta_bernoulli(num_data=100)
        >>> pit = conditional_pit(bed.model, bed.guide, bed.x, num_particles=100)
        >>> reliability(pit).p_value > 0.01
        True
    """
    whole_number(num_bins, "num_bins")
    x = pit.observed.reshape(len(pit), -1)
    seen = ~np.isnan(x)
    other = x[seen & ~np.isin(x, (0.0, 1.0))]
    if len(other):
        raise ValueError(
            f"x contains {shown(other[0])}; reliability is for 0 and 1, use marginal_pit for "
            "other values"
        )
    sorting, predicted = (np.where(x == 1, at, 1 - at) for at in pit.at_halves.reshape(2, *x.shape))
    label = np.where(seen, np.minimum(sorting * num_bins, num_bins - 1), -1).astype(int)
    bins = [_bin(inside, x, predicted) for inside in _merged(label, predicted, num_bins)]
    means, frequency, se, count = (np.array(each) for each in zip(*bins, strict=True))
    return Reliability(means, frequency, widening(len(pit), pit.num_train) * se, count, pit.kind)


def _merged(label: np.ndarray, predicted: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Masks of bins, merged from the left until large enough; the remainder joins the last."""
    bins: list[np.ndarray] = []
    inside = np.zeros(label.shape, dtype=bool)
    for i in range(num_bins):
        inside = inside | (label == i)
        ones = predicted[inside].sum()
        if min(ones, inside.sum() - ones) >= FEWEST_EXPECTED:
            bins.append(inside)
            inside = np.zeros_like(inside)
    return [*bins[:-1], bins[-1] | inside] if bins else [inside]


def _bin(
    inside: np.ndarray, x: np.ndarray, predicted: np.ndarray
) -> tuple[float, float, float, int]:
    """Mean prediction, frequency, standard error by row, and count."""
    count = int(inside.sum())
    p = predicted[inside]
    by_row = np.where(inside, x - predicted, 0.0).sum(1)
    variance = max(np.square(by_row).sum(), (p * (1 - p)).sum())
    return p.mean(), x[inside].mean(), float(np.sqrt(variance)) / count, count
