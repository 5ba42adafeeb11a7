"""Pareto-smoothed importance sampling: the one place that calls ArviZ's, whose sign convention is a trap."""

import numpy as np
from scipy.special import logsumexp

__all__ = ["SMALLEST_NUM_PARTICLES", "pareto_k", "smooth"]

SMALLEST_TAIL = 5  # draws that ArviZ fits the tail to, at least
SMALLEST_NUM_PARTICLES = 25  # of few draws the tail is a fifth


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat per datum: how heavy the tail of the importance weights is.

    The K largest weights are fitted by a generalised Pareto distribution of shape k; moments of order below 1/k exist.
    k < 0.5: finite variance, trust mean and standard error; k < 0.7: usable; k > 0.7: a bound, not an estimate.
    Two cases are defined here: where the largest weight is reached by five draws or more (the guide is exact, or z is
    discrete) the weights are bounded and k is -inf; with fewer than 25 particles k is NaN.

    Args:
        log_weights: log w, as they are: `arviz_stats` wants them negated, which is done here.

    Shape:
        (K, B) -> (B,)

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25(72), arXiv:1507.02646.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> z = rng.normal(size=(4000, 1))
        >>> target_sd = 2.0                                      # proposal N(0, 1): in theory k = 1 - 1 / sd^2 = 0.75
        >>> log_w = -0.5 * (z / target_sd) ** 2 + 0.5 * z**2
        >>> bool(abs(pareto_k(log_w)[0] - 0.75) < 0.15)
        True
    """
    return smooth(log_weights)[0]


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat, and log of the mean weight after Pareto smoothing of the tail, both (B,).

    The smoothed weights are ArviZ's; their normalisation is undone at the smallest one, which stays as it was.
    Bounded weights need no smoothing; with too few particles both are NaN.

    Args:
        log_weights: log w, (K, B).

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, arXiv:1507.02646, algorithm 1.

    Example:
        >>> smooth(np.zeros((100, 2)))[1].tolist()
        [0.0, 0.0]
    """
    log_weights = np.asarray(log_weights)
    num_particles, num_data = log_weights.shape
    if num_particles < SMALLEST_NUM_PARTICLES:
        return np.full(num_data, np.nan), np.full(num_data, np.nan)
    from arviz_stats.base import array_stats

    unbounded, log_w = ~_bounded(log_weights), log_weights.astype(np.float64)
    k_hat, smoothed = np.full(num_data, -np.inf), logsumexp(log_w, axis=0) - np.log(num_particles)
    if unbounded.any():
        raw = log_w[:, unbounded]
        normalised, k_hat[unbounded] = array_stats.psislw(-raw, axis=0)
        least, columns = raw.argmin(0), np.arange(raw.shape[1])
        refilled = raw[least, columns] - normalised[columns, least] - np.log(num_particles)
        smoothed[unbounded] = np.where(np.isfinite(refilled), refilled, smoothed[unbounded])
        k_hat[np.isnan(k_hat)] = np.inf  # a tail that cannot be fitted convicts
    return k_hat, smoothed


def k_standard_error(k_hat: np.ndarray, num_particles: np.ndarray) -> np.ndarray:
    """Standard error of k-hat, (1 + k) / sqrt(M), M the draws in the tail; that of the maximum-likelihood fit.

    References:
        Smith (1987), Estimating tails of probability distributions, Annals of Statistics 15.
    """
    tail = np.minimum(num_particles / 5, 3 * np.sqrt(num_particles))
    return (1 + np.maximum(k_hat, 0.0)) / np.sqrt(np.maximum(tail, 1.0))


def _bounded(log_weights: np.ndarray) -> np.ndarray:
    """Whether a datum's largest weight is reached by at least five draws, up to the rounding of the float type."""
    largest = log_weights.max(0)
    rounding = 64 * np.finfo(log_weights.dtype).eps * np.maximum(1.0, np.abs(log_weights).max(0))
    return (log_weights >= largest - rounding).sum(0) >= SMALLEST_TAIL
