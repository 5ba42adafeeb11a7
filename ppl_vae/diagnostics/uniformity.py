"""Whether numbers in (0, 1) are uniform: a simultaneous band around their ordered values, and the
p-value with it.
"""

from functools import lru_cache

import numpy as np
from scipy import special

__all__ = ["effective_rows", "holm", "uniform_band", "uniformity_p_value", "widening"]

NUM_POSITIONS = 50  # ordered values that are looked at, the smallest and the largest among them
NUM_SIMULATIONS = 4999


def effective_rows(num_data: int, num_train: int | None) -> float:
    """How many rows N rows are worth against a model that was fitted to M other ones: N M / (N +
    M).

    The mean of a function of x over N rows has variance v / N. Its expectation under a model fitted
    by maximum likelihood has at most v / M, that of the mean over the training rows, and the two
    errors are independent. M = None stands for a model whose parameters are known: N.

    References:
        Durbin (1973), Weak convergence of the sample distribution function when parameters are
        estimated, Annals of Statistics 1 (which treats the rows that were fitted; new rows lose
        accuracy where those gain it).

    Example:
        >>> effective_rows(300, None), round(effective_rows(300, 1000))
        (300, 231)
    """
    return num_data if num_train is None else num_data * num_train / (num_data + num_train)


def widening(num_data: int, num_train: int | None) -> float:
    """By how much the error of parameters fitted to M other rows widens that of a mean over N rows,
    sqrt(1 + N / M).

    Example:
        >>> widening(300, None), widening(300, 100)
        (1.0, 2.0)
    """
    return (num_data / effective_rows(num_data, num_train)) ** 0.5


def uniformity_p_value(values: np.ndarray, num_train: int | None = None) -> np.ndarray:
    """P-value of uniformity on (0, 1): whether any of the ordered values is too small or too large.

    u_(i) of N uniform numbers is Beta(i, N + 1 - i); the statistic is the smallest two-sided
    probability over i, its distribution simulated once for each N, the p-value below 1 / 5000
    bounded by the union over i. It sees tails that Kolmogorov-Smirnov does not. Numbers must be
    independent. `uniform_band` is the same test as a picture. With `num_train`, N + 1 is replaced
    by n + 1 in the Beta distribution of each share i / (N + 1), n from `effective_rows`.

    Args:
        values: Numbers in [0, 1].
        num_train: Number of other rows that the distribution was fitted to; None where it is known.

    Shape:
        (*batch, N) -> (*batch,)

    Returns:
        P-values, uniform (to 1 / 5000) where the numbers are.

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
    ranks, null = _positions(num_data), _null(num_data, num_train)
    found = _statistic(np.sort(values, axis=-1)[..., ranks - 1], num_data, num_train)
    simulated = (1 + np.searchsorted(null, found, side="right")) / (len(null) + 1)
    return np.minimum(simulated, len(ranks) * found)


def uniform_band(
    num_data: int, level: float = 0.95, num_train: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which bounds ordered values of N uniform numbers lie, all of them at once, with this
    probability.

    Args:
        num_data: N.
        level: The probability.
        num_train: As in `uniformity_p_value`.

    Returns:
        Which of the ordered values (1 to N), lower bounds, upper bounds.

    References:
        As `uniformity_p_value`, which is below 1 - level where a value is outside.

    Example:
        >>> ranks, low, high = uniform_band(100)
        >>> bool((low < ranks / 101).all() and (ranks / 101 < high).all())
        True
    """
    ranks, null = _positions(num_data), _null(num_data, num_train)
    below, above = _counts(ranks, num_data, num_train)
    local = null[max(0, int((1 - level) * (len(null) + 1)) - 1)] / 2
    low, high = (
        inverse(below, above, local) for inverse in (special.betaincinv, special.betainccinv)
    )
    return ranks, low, high


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values after Holm's correction for their number: one below 0.05 by chance in at most 5 % of
    sets.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.

    Example:
        >>> holm(np.array([0.02, 0.5, 0.01])).tolist()
        [0.04, 0.5, 0.03]
    """
    order = p_values.argsort()
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(
        max=1.0
    )
    return adjusted


def _positions(num_data: int) -> np.ndarray:
    return np.unique(np.linspace(1, num_data, NUM_POSITIONS).round().astype(int))


def _counts(
    ranks: np.ndarray, num_data: int, num_train: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of the Beta distribution of the ordered values with these ranks."""
    below = ranks * (effective_rows(num_data, num_train) + 1) / (num_data + 1)
    return below, effective_rows(num_data, num_train) + 1 - below


def _statistic(ordered: np.ndarray, num_data: int, num_train: int | None) -> np.ndarray:
    """Smallest two-sided probability of the ordered values at the positions, (*batch,)."""
    counts = _counts(_positions(num_data), num_data, num_train)
    below, above = (tail(*counts, ordered) for tail in (special.betainc, special.betaincc))
    return 2 * np.minimum(below, above).min(-1)


@lru_cache(maxsize=16)
def _null(num_data: int, num_train: int | None) -> np.ndarray:
    """The statistic of uniform numbers, sorted: the spacings of their ordered values are those of
    gamma variables.
    """
    below, _ = _counts(_positions(num_data), num_data, num_train)
    steps = np.diff(np.concatenate([[0], below, [effective_rows(num_data, num_train) + 1]]))
    sums = np.random.default_rng(0).standard_gamma(steps, (NUM_SIMULATIONS, len(steps))).cumsum(-1)
    return np.sort(_statistic(sums[:, :-1] / sums[:, -1:], num_data, num_train))
