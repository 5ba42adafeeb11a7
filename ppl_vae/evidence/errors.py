"""Errors of a mean: over rows, particles, strata, clusters that share a draw, by resampling."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp


def error_of_mean(values: np.ndarray) -> float:
    """Standard error of a mean over rows; NaN for one row, or where a value is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def cluster_errors(ratio: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Each cluster's contribution to the relative error of the mean weight, (K, B) -> (B, G)."""
    members = clusters[:, None] == np.unique(clusters)
    return (ratio - 1).T @ members / len(ratio)


def clustered_se(errors: np.ndarray) -> np.ndarray:
    """Standard error from the clusters' contributions, (..., G) -> (...); NaN for one cluster."""
    num_clusters = errors.shape[-1]
    if num_clusters == 1:
        return np.full(errors.shape[:-1], np.nan)
    return np.sqrt(num_clusters / (num_clusters - 1) * np.square(errors).sum(-1))


def deviations(ratio: np.ndarray, strata: Sequence[int]) -> np.ndarray:
    """Each particle's contribution to the relative error of the mean weight, (K, B)."""
    if len(ratio) == 1:
        return np.full_like(ratio, np.nan)
    parts = np.split(ratio, np.cumsum(strata)[:-1]) if strata and min(strata) > 1 else [ratio]
    apart = [(part - part.mean(0)) * np.sqrt(len(part) / (len(part) - 1)) for part in parts]
    return np.concatenate(apart) / len(ratio)


def interquartile_range(log_weights: np.ndarray) -> np.ndarray:
    """Interquartile range over particles, (K, B) -> (B,)."""
    quarter = len(log_weights) // 4
    ordered = np.partition(log_weights, (quarter, len(log_weights) - 1 - quarter), axis=0)
    with np.errstate(invalid="ignore"):  # half of the weights may be zero
        return ordered[-1 - quarter] - ordered[quarter]


def bootstrap_se(
    log_weights: np.ndarray, num_resamples: int, seed: int | None, strata: Sequence[int]
) -> np.ndarray:
    """Standard error of log mean_k w_k by resampling particles within each stratum, (B,).

    References:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 6.
    """
    log_w = np.asarray(log_weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    largest = log_w.max(0)
    ratio = np.exp(log_w - np.where(np.isneginf(largest), 0.0, largest))
    counts = np.hstack([rng.multinomial(n, np.full(n, 1 / n), num_resamples) for n in strata])
    se = np.log(np.maximum(counts @ ratio, np.finfo(float).tiny)).std(axis=0, ddof=1)
    return np.where(np.isneginf(largest), np.inf, se)


def cluster_means(log_weights: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """log mean w of each cluster, (K, B) -> (G, B), in the float type of the weights."""
    parts = [log_weights[clusters == cluster] for cluster in np.unique(clusters)]
    means = [logsumexp(part.astype(np.float64), axis=0) - np.log(len(part)) for part in parts]
    return np.stack(means).astype(log_weights.dtype)
