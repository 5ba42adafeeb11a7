"""Which intervals for log p(x) cover: Cochran's rule, averaged over similar rows."""

import numpy as np

__all__ = ["MOST_SQUARED_SKEWNESS", "NEIGHBOURS", "judge"]

# of the error; docs/believability.md has the coverage of 95 % intervals at this limit
MOST_SQUARED_SKEWNESS = 1 / 16
MOST_HEAVY = 1 / 3
NEIGHBOURS = 50  # rows whose skewness is averaged, since a single row's is as random as its value


def skewness_of_sum(squares: np.ndarray, cubes: np.ndarray) -> np.ndarray:
    """Skewness of a sum of independent centred parts, sum d^3 / (sum d^2)^(3/2), (B,).

    With d = w / mean(w) - 1 it is the skewness of the weights over sqrt(K): 0 for equal weights, 1
    if one weight dominates. Cochran's rule, K > 25 skewness^2, requires less than 1/5.

    References:
        Cochran (1977), Sampling techniques, section 2.15.
    """
    return np.divide(cubes, squares**1.5, out=np.zeros_like(squares), where=squares > 0)


def judge(
    skewness: np.ndarray,
    spread: np.ndarray,
    asymmetry: np.ndarray | None = None,
    heavy: np.ndarray | None = None,
    *,
    shared: bool = False,
) -> np.ndarray:
    """Whether log p(x) and its standard error are reliable, (N,), from all rows of one evaluation.

    Intervals of rows with skewed errors miss log p(x), and a row that has missed its tail does not
    look skewed. So the squared skewness is averaged over about 50 rows whose log-weights have
    similar interquartile ranges, and again over those of them that lean to the same side, neither
    of which the tail affects: similar rows pass or fail together, without selection by chance. (For
    a normal posterior a guide that is too narrow leans to the right, and one that is too wide to
    the left.) Half of the standard error of a proportion is added to the mean. With fewer than 50
    rows the limit shrinks as the square root of their number, because chance then selects among
    evaluations. Unknown skewness (NaN) never passes. Rows that share draws of a latent outside the
    data plate have dependent errors, and count as one row. A group of which a third has heavy tails
    has no estimate: the others are those whose draws happened to miss the tail. Rows whose weights
    are equal (skewness 0) are exact, unless other rows with as small a spread are not estimates:
    draws of a discrete latent that are all the same have equal weights too.

    Args:
        skewness: Of the error of log p(x), as `skewness_of_sum`, (N,).
        spread: Interquartile range of log w, (N,).
        asymmetry: Quartile skewness of log w, (N,); None takes all rows for alike.
        heavy: Whether k-hat is above 0.7, (N,); None leaves it out.
        shared: Whether the rows share draws.

    References:
        Cochran (1977), Sampling techniques, section 2.15; Johnson (1978), Modified t tests and
        confidence intervals for asymmetrical populations, JASA 73.

    Example:
        >>> judge(np.array([0.0, 0.05, 0.9, np.nan]), np.array([0.0, 1.0, 9.0, 1.0])).tolist()
        [True, False, False, False]
    """
    known = (skewness != 0) & np.isfinite(skewness)
    taken = [known]
    if asymmetry is not None:
        taken += [known & (asymmetry > 0), known & ~(asymmetry > 0)]
    believed = np.ones(len(skewness), dtype=bool)
    for some in taken:
        for alike in _groups(np.flatnonzero(some), spread):
            is_light = heavy is None or heavy[alike].mean() < MOST_HEAVY
            believed[alike] &= is_light and _is_small(np.square(skewness[alike]), shared=shared)
    is_equal = skewness == 0
    alike = known & (spread <= spread[is_equal].max(initial=-np.inf))
    return (believed & known) | (is_equal & believed[alike].all())


def _groups(rows: np.ndarray, spread: np.ndarray) -> list[np.ndarray]:
    """The rows in groups of about 50 of similar spread."""
    if not len(rows):
        return []
    order = rows[np.argsort(spread[rows], kind="stable")]
    return np.array_split(order, max(1, len(rows) // NEIGHBOURS))


def _is_small(squared: np.ndarray, *, shared: bool) -> bool:
    """Whether the squared skewness of a group is below the limit on average."""
    mean = squared.mean()
    number = 1 if shared else len(squared)
    margin = 0.5 * np.sqrt(mean * (1 - mean) / number)
    limit = MOST_SQUARED_SKEWNESS * min(1.0, number / NEIGHBOURS) ** 0.5
    return bool(mean + margin < limit)
