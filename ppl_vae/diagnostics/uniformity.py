"""Whether numbers in (0, 1) are uniform: a test of their ordered values, and its band for plots."""

from functools import lru_cache

import numpy as np
from scipy import special

__all__ = ["effective_rows", "holm", "uniform_band", "uniformity_p_value", "widening"]

NUM_POSITIONS = 50  # ordered values that are tested, the smallest and the largest among them
NUM_SIMULATIONS = 4999


def effective_rows(num_data: int, num_train: int | None) -> float:
    """Effective number of N new rows if the model was fitted to M other rows: N M / (N + M).

    The mean of a function of x over N rows has variance v / N. Its expectation under a model that
    was fitted by maximum likelihood has variance at most v / M, which is that of the mean over the
    training rows, and the two errors are independent. For M = None the parameters are known, and
    the result is N.

    References:
        Durbin (1973), Weak convergence of the sample distribution function when parameters are
        estimated, Annals of Statistics 1. It treats the fitted rows themselves; new rows lose
        accuracy where those gain it.

    Example:
        >>> effective_rows(300, None), round(effective_rows(300, 1000))
        (300, 231)
    """
    return num_data if num_train is None else num_data * num_train / (num_data + num_train)


def widening(num_data: int, num_train: int | None) -> float:
    """The factor by which fitting to M other rows widens the error of a mean over N rows.

    It is sqrt(1 + N / M), and 1 if the parameters are known (M = None).

    Example:
        >>> widening(300, None), widening(300, 100)
        (1.0, 2.0)
    """
    return (num_data / effective_rows(num_data, num_train)) ** 0.5


def uniformity_p_value(values: np.ndarray, num_train: int | None = None) -> np.ndarray:
    """P-value of uniformity on (0, 1): whether any ordered value is too small or too large.

    u_(i) of N uniform numbers is Beta(i, N + 1 - i). The statistic is the smallest two-sided
    probability over i. Its distribution is simulated once for each N; a p-value below 1 / 5000 is
    bounded by the union over i. Unlike the Kolmogorov-Smirnov test, it is sensitive in the tails.
    The numbers must be independent. `uniform_band` shows the same test as a band. With `num_train`,
    N + 1 is replaced by n + 1 in the Beta distribution of each share i / (N + 1), where n is
    `effective_rows`.

    Args:
        values: Numbers in [0, 1].
        num_train: Number of other rows that the distribution was fitted to; None if the
            distribution is known.

    Shape:
        (*batch, N) -> (*batch,)

    Returns:
        P-values, uniform (to 1 / 5000) if the numbers are.

    References:
        Aldor-Noiman et al. (2013), The power to see: a new graphical test of normality, Am.
        Statistician 67; Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete
        uniformity, arXiv:2103.10522.

    Example:
        >>> even = (np.arange(100) + 0.5) / 100
        >>> uniformity_p_value(np.stack([even, even**1.5])).round(4).tolist()
        [1.0, 0.0128]
    """
    num_data = values.shape[-1]
    ranks, *counts = _ordered_uniforms(num_data, num_train)
    null = _null(num_data, num_train)
    found = _statistic(np.sort(values, axis=-1)[..., ranks - 1], *counts)
    simulated = (1 + np.searchsorted(null, found, side="right")) / (len(null) + 1)
    return np.minimum(simulated, len(ranks) * found)


def uniform_band(
    num_data: int, level: float = 0.95, num_train: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds that contain all ordered values of N uniform numbers at once with this probability.

    Args:
        num_data: N.
        level: The probability.
        num_train: As in `uniformity_p_value`.

    Returns:
        Ranks of the ordered values that are bounded (from 1 to N), lower bounds, upper bounds.

    References:
        As in `uniformity_p_value`, which is at most 1 - level if a value is outside.

    Example:
        >>> ranks, low, high = uniform_band(100)
        >>> bool((low < ranks / 101).all() and (ranks / 101 < high).all())
        True
    """
    ranks, below, above = _ordered_uniforms(num_data, num_train)
    null = _null(num_data, num_train)
    tail = null[max(0, int((1 - level) * (len(null) + 1)) - 1)] / 2
    return ranks, special.betaincinv(below, above, tail), special.betainccinv(below, above, tail)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values after Holm's correction for their number.

    If all hypotheses are true, the smallest is below 0.05 with probability at most 5 %. NaN is a
    hypothesis that was not tested.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.

    Example:
        >>> holm(np.array([0.02, 0.5, 0.01])).tolist()
        [0.04, 0.5, 0.03]
    """
    order = p_values.argsort()  # NaN last
    num_tested = len(order) - np.isnan(p_values).sum()
    scaled = p_values[order] * (num_tested - np.arange(len(order)))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1.0)
    return adjusted


def _ordered_uniforms(
    num_data: int, num_train: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of the ordered values that are tested, and both parameters of their Beta laws."""
    ranks = np.unique(np.linspace(1, num_data, NUM_POSITIONS).round().astype(int))
    total = effective_rows(num_data, num_train) + 1
    below = ranks * total / (num_data + 1)
    return ranks, below, total - below


def _statistic(ordered: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Smallest two-sided probability of these ordered values, (*batch,)."""
    low = special.betainc(below, above, ordered)
    high = special.betaincc(below, above, ordered)
    return 2 * np.minimum(low, high).min(-1)


@lru_cache(maxsize=16)
def _null(num_data: int, num_train: int | None) -> np.ndarray:
    """The statistic of simulated uniform numbers, sorted; their spacings are gamma variables."""
    _, below, above = _ordered_uniforms(num_data, num_train)
    steps = np.append(np.diff(below, prepend=0), above[-1])
    sums = np.random.default_rng(0).standard_gamma(steps, (NUM_SIMULATIONS, len(steps))).cumsum(-1)
    return np.sort(_statistic(sums[:, :-1] / sums[:, -1:], below, above))
