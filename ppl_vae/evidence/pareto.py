"""Pareto-smoothed importance sampling: the one place that calls ArviZ's, whose sign convention is a trap."""

import numpy as np

__all__ = ["SMALLEST_NUM_PARTICLES", "pareto_k"]

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
    log_weights = np.asarray(log_weights)
    num_particles, num_data = log_weights.shape
    if num_particles < SMALLEST_NUM_PARTICLES:
        return np.full(num_data, np.nan)
    from arviz_stats.base import array_stats

    k_hat, unbounded = np.full(num_data, -np.inf), ~_bounded(log_weights)
    if unbounded.any():
        k_hat[unbounded] = array_stats.psislw(-log_weights[:, unbounded].astype(np.float64), axis=0)[1]
    return k_hat


def _bounded(log_weights: np.ndarray) -> np.ndarray:
    """Whether a datum's largest weight is reached by at least five draws, up to the rounding of the float type."""
    largest = log_weights.max(0)
    rounding = 64 * np.finfo(log_weights.dtype).eps * np.maximum(1.0, np.abs(log_weights).max(0))
    return (log_weights >= largest - rounding).sum(0) >= SMALLEST_TAIL
