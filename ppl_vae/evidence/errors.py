"""Errors of a mean over rows, particles, strata or clusters that share a draw; resampling."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from ppl_vae.runtime.seeding import generator

__all__ = [
    "covariance_of_means",
    "effective_rows",
    "normalised",
    "row_mean",
    "sum_in_quadrature",
]


def row_mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over the rows, (N, ...) -> (...), weighted if the rows have weights.

    Args:
        values: A value for each row.
        weights: Weights of the rows, (N,).

    Example:
        >>> float(row_mean(np.array([0.0, 1.0]), np.array([1.0, 3.0])))
        0.75
    """
    return np.average(values, axis=0, weights=weights)


def sum_in_quadrature(errors: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Standard error of the mean of rows whose errors are independent.

    Args:
        errors: Standard error of each row, (N,).
        weights: Weights of the rows, (N,).

    Example:
        >>> sum_in_quadrature(np.array([3.0, 4.0]))
        2.5
    """
    shares = normalised(weights, len(errors))
    return float(np.sqrt(np.square(shares * errors).sum()))


def error_of_mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Standard error of a mean over rows; NaN for one row, or if a value is not finite.

    Weights are sampling weights: the error is that of the linearised ratio, which does not count a
    weight of 2 as two observations.

    References:
        Särndal, Swensson and Wretman (1992), Model assisted survey sampling, section 5.7.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(np.sqrt(covariance_of_means(values[:, None], weights)[0, 0]))


def covariance_of_means(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Covariance of the means of several columns over independent rows, (N, M) -> (M, M).

    sum_i s_i^2 e_i e_i' / (1 - 2 s_i + sum_j s_j^2), where e are the deviations from the mean and
    s_i is the row's share of the weights: unbiased, as a row of a large share lies near the mean
    that it makes. With equal weights it is the sample covariance over N.

    Args:
        values: Values of each row, (N, M).
        weights: Sampling weights of the rows, (N,).

    References:
        MacKinnon and White (1985), Some heteroskedasticity-consistent covariance matrix estimators,
        Journal of Econometrics 29 (HC2).

    Example:
        >>> covariance_of_means(np.array([[0.0], [2.0]])).round(9).tolist()
        [[1.0]]
    """
    shares = normalised(weights, len(values))
    squares = np.square(shares)
    others = squares.sum() - squares
    largest = squares.argmax()
    others[largest] = np.delete(squares, largest).sum()  # which the difference may round to 0
    scale = shares / np.sqrt(np.square(1 - shares) + others)
    parts = scale[:, None] * (values - row_mean(values, weights))
    return parts.T @ parts


def effective_rows(weights: np.ndarray | None, num_rows: int) -> float:
    """Number of rows of equal weight whose mean is as precise, 1 / sum_i s_i^2.

    Args:
        weights: Weights of the rows; None weights them equally.
        num_rows: Number of rows N.

    References:
        Kish (1965), Survey sampling, section 11.7.

    Example:
        >>> effective_rows(np.array([1.0, 1.0, 0.0]), 3)
        2.0
    """
    return float(1 / np.square(normalised(weights, num_rows)).sum())


def normalised(weights: np.ndarray | None, num_rows: int) -> np.ndarray:
    """Each row's share of the weights, (N,).

    Args:
        weights: Weights of the rows; None weights them equally.
        num_rows: Number of rows N.

    Example:
        >>> normalised(None, 4).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    if weights is None:
        return np.full(num_rows, 1 / num_rows)
    return weights / weights.sum()


def clustered_se(errors: np.ndarray) -> np.ndarray:
    """Standard error from the clusters' contributions, (..., G) -> (...); NaN for one cluster."""
    num_clusters = errors.shape[-1]
    if num_clusters == 1:
        return np.full(errors.shape[:-1], np.nan)
    return np.sqrt(num_clusters / (num_clusters - 1) * np.square(errors).sum(-1))


def quartiles(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interquartile range over particles, and quartile skewness in [-1, 1], (B, K) -> (B,).

    References:
        Bowley (1920), Elements of statistics, 4th edition, part 1, chapter 6.
    """
    number = log_weights.shape[1]
    places = [number // 4, number // 2, number - 1 - number // 4]
    lower, middle, upper = np.partition(log_weights, places, axis=1)[:, places].T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # half of the weights may be zero
        spread = upper - lower
        return spread, np.nan_to_num((lower + upper - 2 * middle) / spread)


def bootstrap_se(
    log_weights: np.ndarray, num_resamples: int, seed: int | None, strata: Sequence[int]
) -> np.ndarray:
    """Standard error of log mean_k w_k by resampling particles within each stratum, (B,).

    References:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 6.
    """
    log_w = np.asarray(log_weights, dtype=np.float64)
    rng = generator(seed)
    largest = log_w.max(0)
    ratio = np.exp(log_w - np.where(np.isneginf(largest), 0.0, largest))
    counts = np.hstack([rng.multinomial(n, np.full(n, 1 / n), num_resamples) for n in strata])
    se = np.log(np.maximum(counts @ ratio, np.finfo(float).tiny)).std(axis=0, ddof=1)
    return np.where(np.isneginf(largest), np.inf, se)


def cluster_means(log_weights: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """log mean w of each cluster, (K, B) -> (G, B)."""
    parts = [log_weights[clusters == cluster] for cluster in np.unique(clusters)]
    means = [logsumexp(part.astype(np.float64), axis=0) - np.log(len(part)) for part in parts]
    return np.stack(means)
