"""Pareto-smoothed importance sampling of all rows at once; ArviZ's `psislw` fits one at a time."""

import numpy as np
from scipy.special import boxcox1p, logsumexp, softmax

__all__ = [
    "GOOD_K",
    "RESOLUTION",
    "SMALLEST_NUM_PARTICLES",
    "defined",
    "pareto_k",
    "share_of_bad",
    "smooth",
    "unresolved",
]

GOOD_K = 0.7  # above it log p(x) is only a bound, and smoothing does harm
TIES = 5  # with so many draws at the largest weight, the weights count as bounded
CLOSER = 8  # the rounding of one z at several places is less than that of several z
FAR = 20  # ties are closer to each other than to the end of the tail by this factor
SMALLEST_NUM_PARTICLES = 30  # a fifth, six draws, is the shortest tail with a quartile of its own
RESOLUTION = 0.02  # nats between floats; coarser log-weights give neither k-hat nor standard error
PRIOR_K, PRIOR_DRAWS = 0.5, 10  # k is shrunk towards this, with the weight of so many draws


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat per row: how heavy the tail of the importance weights is.

    The K largest weights are fitted by a generalised Pareto distribution of shape k; moments of
    order below 1/k exist. k < 0.5: finite variance, trust mean and standard error; k < 0.7: usable;
    k > 0.7: a bound, not an estimate. Three cases are defined here. If five draws or more have the
    largest weight (the guide is exact, or z is discrete), the weights are bounded and k is -inf. A
    tail that cannot be fitted, because its smallest weights are equal or beyond the range of
    floating point, has k = inf. With fewer than 30 particles, or if the weights are `unresolved` or
    one of them is NaN or infinite, k is NaN.

    Args:
        log_weights: log w, not negated as in `arviz_stats`.

    Shape:
        (K, B) -> (B,)

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25(72), arXiv:1507.02646.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> z = rng.normal(size=(4000, 1))
        >>> target_sd = 2.0  # proposal N(0, 1): in theory k = 1 - 1 / sd^2 = 0.75
        >>> log_w = -0.5 * (z / target_sd) ** 2 + 0.5 * z**2
        >>> bool(abs(pareto_k(log_w)[0] - 0.75) < 0.15)
        True
    """
    return smooth(log_weights)[0]


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat, and log of the mean weight after Pareto smoothing of the tail, both (B,).

    The M largest weights are replaced by the quantiles (i - 1/2) / M of the fitted tail, truncated
    at the largest weight. Bounded weights, and tails that cannot be fitted, are left unchanged.
    With too few particles both results are NaN; if the weights are `unresolved`, k-hat is NaN.

    Args:
        log_weights: log w, (K, B).

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, arXiv:1507.02646, algorithm 1.

    Example:
        >>> smooth(np.zeros((100, 2)))[1].tolist()
        [0.0, 0.0]
    """
    log_weights, is_undefined = defined(np.asarray(log_weights))
    num_particles = len(log_weights)
    log_mean = logsumexp(log_weights.astype(np.float64), axis=0) - np.log(num_particles)
    num_tail = tail_size(num_particles) + 1
    top = np.partition(log_weights, -num_tail, axis=0)[-num_tail:]
    k_hat, smoothed = smoothed_mean(top, log_mean, num_particles)
    return np.where(is_undefined, np.nan, k_hat), np.where(is_undefined, np.nan, smoothed)


def defined(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights with zeros for the rows where one is NaN or +inf, and which rows those are, (B,).

    A density that is infinite, or not a number, is an error of the model: no mean of weights with
    it is defined.

    Args:
        log_weights: log w, (K, B).

    Example:
        >>> found, rows = defined(np.array([[-1.0, np.inf, -np.inf]]))
        >>> found.tolist(), rows.tolist()
        ([[-1.0, 0.0, -inf]], [False, True, False])
    """
    rows = ~(log_weights.max(0) < np.inf)
    if rows.any():
        log_weights = np.where(rows, log_weights.dtype.type(0), log_weights)
    return log_weights, rows


def smoothed_mean(
    top: np.ndarray, log_mean: np.ndarray, num_particles: int
) -> tuple[np.ndarray, np.ndarray]:
    """`smooth` by the largest `tail_size(K) + 1` log-weights, (M + 1, B), and log mean_k w_k."""
    if num_particles < SMALLEST_NUM_PARTICLES:
        return np.full_like(log_mean, np.nan), np.full_like(log_mean, np.nan)
    largest = top.max(0).astype(np.float64)
    largest[np.isneginf(largest)] = 0.0  # all weights are zero
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        below = largest[:, None] - np.ascontiguousarray(top.T)
        weights = np.exp(-below)
        unbounded = ~_are_bounded(below, rounding_of(top))
        k_hat = np.full(len(log_mean), -np.inf)
        k_hat[unbounded], added = _fitted(weights[unbounded])
        total = num_particles * np.exp(log_mean - largest)
        total[unbounded] += np.where(np.isfinite(added), added, 0.0)
        k_hat[unresolved(top)] = np.nan
        return k_hat, largest + np.log(total / num_particles)


def _are_bounded(below: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """Whether the tail is equal, or some of its draws are tied at the largest weight, (B,).

    Draws of a continuous z are close to each other where rounding is coarse; ties are those that
    are also close in comparison with the tail.

    Args:
        below: How far the log-weights of the tail lie below the largest, (B, M + 1).
        rounding: The largest difference by rounding alone, (B,).
    """
    spread = below.max(1)
    tie = rounding / CLOSER
    ties = (below <= tie[:, None]).sum(1)
    return (spread <= rounding) | ((ties >= TIES) & (tie <= spread / FAR))


def rounding_of(log_weights: np.ndarray) -> np.ndarray:
    """Largest difference between log-weights of a row due to rounding alone, (K, B) -> (B,)."""
    largest = log_weights.max(0).astype(np.float64)
    scale = np.where(np.isneginf(largest), 1.0, np.maximum(1.0, np.abs(largest)))
    return 64 * np.finfo(log_weights.dtype).eps * scale


def unresolved(log_weights: np.ndarray) -> np.ndarray:
    """Whether log w is too large for its float type to resolve log p(x) to `RESOLUTION` nats, (B,).

    log w = log p(x, z) - log q(z given x) is a sum whose largest term is at least as large as the
    sum itself, so its rounding error is about eps |log w|, where eps is the spacing of its float
    type at one. The limit is 1.7 10^5 nats in float32, 9 10^13 in float64. The error has the same
    sign for all particles, or hides their differences: all weights may be equal, as if the guide
    were exact. Below the limit an exact guide keeps k = -inf. Standardise x, or use float64.

    Args:
        log_weights: log w, (K, B), in the float type that they were computed in.

    References:
        Higham (2002), Accuracy and stability of numerical algorithms, chapter 4.

    Example:
        >>> unresolved(np.full((50, 2), [-1e4, -1e6], dtype=np.float32)).tolist()
        [False, True]
    """
    largest = log_weights.max(0)
    spacing = np.finfo(log_weights.dtype).eps * np.abs(largest.astype(np.float64))
    return np.isfinite(largest) & (spacing > RESOLUTION)


def k_standard_error(k_hat: np.ndarray, num_particles: np.ndarray) -> np.ndarray:
    """Standard error of k-hat by maximum likelihood, (1 + k) / sqrt(M), M the number of draws in
    the tail.

    References:
        Smith (1987), Estimating tails of probability distributions, Annals of Statistics 15.
    """
    return (1 + np.maximum(k_hat, 0.0)) / np.sqrt(np.maximum(_tail(num_particles), 1.0))


def tail_size(num_particles: int) -> int:
    """The number of weights in the tail."""
    return int(_tail(num_particles))


def _tail(num_particles: np.ndarray | int) -> np.ndarray:
    return np.minimum(num_particles / 5, 3 * np.sqrt(num_particles))


def _fitted(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat, and what smoothing adds to the sum of the weights, from the M + 1 largest.

    The largest one is 1; (B, M + 1) -> (B,).
    """
    ordered = np.sort(weights)
    cutoff, tail = ordered[:, :1], ordered[:, 1:]
    num_tail = tail.shape[1]
    k_hat, scale = _generalised_pareto(tail - cutoff)
    below = -np.arange(0.5, num_tail) / num_tail
    quantiles = cutoff - scale[:, None] * boxcox1p(below, -k_hat[:, None])
    return k_hat, (np.minimum(quantiles, 1.0) - tail).sum(1)


def _generalised_pareto(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape k, shrunk towards 1/2, and scale of sorted excesses, (B, M), by a mean over a grid.

    References:
        Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto
        distribution, Technometrics 51; Vehtari et al. (2024), arXiv:1507.02646, appendix G.
    """
    num_tail = x.shape[1]
    num_points = 30 + int(num_tail**0.5)
    first_quartile = x[:, int(num_tail / 4 + 0.5) - 1]
    points = (1 - np.sqrt(num_points / np.arange(0.5, num_points)))[:, None]
    grid = points / (3 * first_quartile) + 1 / x[:, -1]
    k = np.log1p(-grid[..., None] * x).mean(-1)
    posterior = softmax(num_tail * (np.log(-grid / k) - k - 1), axis=0)
    posterior[posterior < 10 * np.finfo(float).eps] = 0.0
    b = (grid * posterior).sum(0) / posterior.sum(0)
    k = np.log1p(-b[:, None] * x).mean(-1)
    k_hat = (num_tail * k + PRIOR_DRAWS * PRIOR_K) / (num_tail + PRIOR_DRAWS)
    fits = (first_quartile > x[:, 0]) & np.isfinite(k_hat)
    return np.where(fits, k_hat, np.inf), -k / b


def share_of_bad(pareto_k: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of the rows with a k-hat above 0.7, or of their weight; NaN if one is unknown.

    Example:
        >>> share_of_bad(np.array([0.2, 0.8])), share_of_bad(np.array([0.2, np.nan]))
        (0.5, nan)
    """
    if np.isnan(pareto_k).any():
        return float("nan")
    return float(np.average(pareto_k > GOOD_K, weights=weights))
