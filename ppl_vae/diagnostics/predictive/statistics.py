"""Statistics that compare a data set with replicated ones."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

__all__ = ["FEATURE_STATISTICS", "STATISTICS"]

Statistic = Callable[..., Any]
ROUNDING = 1e-9  # relative; smaller differences count as none
MOST_FEATURES = 50  # in the matrix that is inverted for every replicate
TINY = 1e-12


def zero_fraction(x: np.ndarray, axis: int | None = None) -> Any:
    """Share of the observed values that are 0."""
    return np.nanmean(np.where(np.isnan(x), np.nan, x == 0), axis)


def correlation(x: np.ndarray) -> float:
    """Root mean square correlation over pairs of features.

    Missing entries count as the mean of their feature, and constant features as uncorrelated; NaN
    for a single feature.
    """
    scaled = _standardised(x.reshape(len(x), -1))
    num_features = scaled.shape[1]
    if num_features == 1:
        return np.nan
    # X'X and XX' have the same Frobenius norm: take the smaller one.
    products = scaled.T @ scaled if len(scaled) > num_features else scaled @ scaled.T
    total = np.square(products).sum() - scaled.any(0).sum()
    return float(np.sqrt(max(total, 0.0) / (num_features * (num_features - 1))))


def partial_correlation(x: np.ndarray) -> np.ndarray:
    """Partial correlation of each pair of features given all the others, (D, D), diagonal zero.

    -P_ij / sqrt(P_ii P_jj), where P is the pseudo-inverse of the correlation matrix. Of more than
    50 features, 50 evenly spaced ones are used. Missing entries and constant features count as in
    `correlation`.

    References:
        Whittaker (1990), Graphical models in applied multivariate statistics, section 5.8.
    """
    columns = x.reshape(len(x), -1)
    taken = np.linspace(0, columns.shape[1] - 1, MOST_FEATURES).round().astype(int)
    scaled = _standardised(columns[:, np.unique(taken)])
    precision = np.linalg.pinv(scaled.T @ scaled, hermitian=True)
    scale = np.sqrt(np.diag(precision).clip(min=TINY))
    partial = -precision / scale / scale[:, None]
    np.fill_diagonal(partial, 0.0)
    varies = scaled.any(0)
    return np.where(varies & varies[:, None], partial, 0.0)  # without what rounding leaves


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and norm 1; 0 where one is constant."""
    centred = np.nan_to_num(columns - np.nanmean(columns, 0))
    norms = np.linalg.norm(centred, axis=0)
    varies = norms > ROUNDING * np.linalg.norm(np.nan_to_num(columns), axis=0)
    return np.where(varies, centred / np.where(varies, norms, 1.0), 0.0)


def of_numbers(statistic: Statistic, categories: Sequence[int], x: np.ndarray) -> Any:
    """The statistic with the columns at these places missing, whose codes are no numbers."""
    is_category = np.isin(np.arange(x.shape[1]), categories)
    return statistic(np.where(is_category, np.nan, x))


def frequencies(x: np.ndarray, place: int, size: int) -> np.ndarray:
    """Share of each of `size` levels among the observed values of a column."""
    column = x[:, place]
    observed = column[~np.isnan(column)].astype(int)
    return np.bincount(observed, minlength=size) / max(1, len(observed))


OF_ENTRIES: dict[str, Statistic] = {
    "mean": np.nanmean,
    "variance": np.nanvar,
    "zero_fraction": zero_fraction,
    "max": np.nanmax,
}
STATISTICS: dict[str, Statistic] = OF_ENTRIES | {
    "correlation": correlation,
    "partial_correlation": partial_correlation,
}
FEATURE_STATISTICS: dict[str, Statistic] = {
    name: partial(f, axis=0) for name, f in OF_ENTRIES.items()
}
