"""Pareto-smoothed importance sampling: the one place that calls ArviZ's, whose sign convention is a trap."""

import warnings

import numpy as np

__all__ = ["SMALLEST_NUM_PARTICLES", "pareto_k"]

SMALLEST_NUM_PARTICLES = 25  # ArviZ fits the tail to a fifth of the draws and needs five


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Pareto k-hat per datum: how heavy the tail of the importance weights is.

    The K largest weights are fitted by a generalised Pareto distribution of shape k; moments of order below 1/k exist.
    k < 0.5: finite variance, trust mean and standard error; k < 0.7: usable; k > 0.7: a bound, not an estimate.
    All weights equal (the guide is exact) is -inf by definition; fewer than 25 particles is NaN, with a warning.

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
        warnings.warn(
            f"k-hat needs at least {SMALLEST_NUM_PARTICLES} particles and was given {num_particles}: it is NaN",
            stacklevel=2,
        )
        return np.full(num_data, np.nan)
    from arviz_stats.base import array_stats

    exact = _all_equal(log_weights)
    k_hat = np.full(num_data, -np.inf)
    if not exact.all():
        k_hat[~exact] = array_stats.psislw(-log_weights[:, ~exact].astype(np.float64), axis=0)[1]
    return k_hat


def _all_equal(log_weights: np.ndarray) -> np.ndarray:
    """Whether a datum's log-weights agree up to the rounding of their float type."""
    size = np.maximum(1.0, np.abs(log_weights).max(0))
    return np.ptp(log_weights, axis=0) <= 64 * np.finfo(log_weights.dtype).eps * size
