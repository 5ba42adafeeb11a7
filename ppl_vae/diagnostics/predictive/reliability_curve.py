"""Calibration of binary predictions: of the pixels given probability 0.3, are 30 % on?"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ppl_vae.diagnostics.predictive.pit import PIT
from ppl_vae.diagnostics.uniformity import holm, widening
from ppl_vae.runtime.checks import shown, whole_number

__all__ = ["Reliability", "reliability"]

FEWEST_EXPECTED = 5  # of ones and of zeros in a bin, for the normal approximation


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities in bins, and how often what was predicted came true.

    Args:
        predicted: Mean predicted probability of a 1 in each bin, (bins,); bins without entries are
            left out.
        frequency: Share of ones in each bin, (bins,).
        se: Standard error of frequency - predicted from the spread over the data, (bins,): the
            entries of one datum depend on each other, so a binomial error would be too small.
        count: Number of entries in each bin, (bins,).
        kind: "marginal" or "conditional" predictions.

    References:
        Murphy and Winkler (1977), Reliability of subjective probability forecasts, JRSS C 26.

    Example:
        >>> half = np.array([0.5])
        >>> print(Reliability(half, half, 0.1 * half, np.array([100]), "conditional"))
        conditional predictions of 100 entries in 1 bin: off by 0.000 on average, p = 1 (Holm over bins)
    """

    predicted: np.ndarray
    frequency: np.ndarray
    se: np.ndarray
    count: np.ndarray
    kind: str

    @property
    def error(self) -> float:
        """Mean of |frequency - predicted| over the entries, which is above 0 by chance alone."""
        return float(np.average(np.abs(self.frequency - self.predicted), weights=self.count))

    @property
    def p_values(self) -> np.ndarray:
        """P-value of each bin by the normal approximation, (bins,): for many data per bin."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(self.frequency - self.predicted) / self.se
        return 2 * stats.norm.sf(np.nan_to_num(distance))

    @property
    def p_value(self) -> float:
        """The smallest of them after Holm's correction."""
        return float(holm(self.p_values).min())

    def __str__(self) -> str:
        bins = f"{len(self.count)} bin{'s' * (len(self.count) > 1)}"
        return (
            f"{self.kind} predictions of {self.count.sum()} entries in {bins}: off by "
            f"{self.error:.3f} on average, "
            f"p = {self.p_value:.2g} (Holm over bins)"
        )


def reliability(pit: PIT, num_bins: int = 10) -> Reliability:
    """Frequencies of ones among the entries with about the same predicted probability, in bins of
    equal width.

    r_n = sum over the bin's entries of row n of x - P(X = 1); se^2 = sum_n r_n^2 / count^2, or that
    of independent entries if it is larger, times 1 + N / M where the model was fitted to M other
    rows. Bins are by one half of the draws and P(X = 1) by the other: sorted by their own errors,
    predictions would look too bold. Neighbouring bins are put together until 5 ones and 5 zeros are
    expected in each.

    Args:
        pit: What `conditional_pit` (or `marginal_pit`) gave for binary x.
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
        >>> reliability(conditional_pit(bed.model, bed.guide, bed.x, num_particles=100)).p_value > 0.01
        True
    """
    x = pit.observed.reshape(len(pit), -1)
    seen = ~np.isnan(x)
    if not np.isin(x[seen], (0.0, 1.0)).all():
        value = x[seen][~np.isin(x[seen], (0.0, 1.0))][0]
        raise ValueError(
            f"x is {shown(value)} somewhere; reliability is for 0 and 1, marginal_pit for "
            "everything else"
        )
    sorting, predicted = (np.where(x == 1, at, 1 - at) for at in pit.at_halves.reshape(2, *x.shape))
    which = np.minimum((sorting[seen] * num_bins).astype(int), num_bins - 1)
    merged = np.full(x.shape, -1)
    merged[seen] = _merged(which, predicted[seen], whole_number(num_bins, "num_bins"))
    bins = [_bin(merged == i, x, predicted) for i in range(merged.max() + 1)]
    predicted, frequency, se, count = (np.array(each) for each in zip(*bins, strict=True))
    return Reliability(
        predicted, frequency, widening(len(pit), pit.num_train) * se, count, pit.kind
    )


def _merged(which: np.ndarray, predicted: np.ndarray, num_bins: int) -> np.ndarray:
    """Bins put together from the left until enough ones and zeros are expected; what is left over
    joins the last.
    """
    label, found, ones, zeros = np.zeros(num_bins, dtype=int), 0, 0.0, 0.0
    for i in range(num_bins):
        label[i] = found
        ones, zeros = ones + predicted[which == i].sum(), zeros + (1 - predicted[which == i]).sum()
        if min(ones, zeros) >= FEWEST_EXPECTED:
            found, ones, zeros = found + 1, 0.0, 0.0
    return np.minimum(label, max(found - 1, 0))[which]


def _bin(
    inside: np.ndarray, x: np.ndarray, predicted: np.ndarray
) -> tuple[float, float, float, int]:
    """Mean prediction, frequency, standard error by datum, and count."""
    count, p = int(inside.sum()), predicted[inside]
    by_datum = np.where(inside, x - predicted, 0.0).sum(1)
    variance = max(np.square(by_datum).sum(), (p * (1 - p)).sum())
    return p.mean(), x[inside].mean(), float(np.sqrt(variance)) / count, count
