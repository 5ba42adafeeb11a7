"""Statistics of a data set by which replicated ones are told from it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Statistic = Callable[..., Any]
ROUNDING = 1e-9  # relative; less is no difference
MOST_FEATURES = 100  # of which a matrix is inverted for every replicate
TINY = 1e-12


def zero_fraction(x: np.ndarray, axis: int | None = None) -> Any:
    """Share of the observed values that are 0."""
    return np.nanmean(np.where(np.isnan(x), np.nan, x == 0), axis)


def correlation(x: np.ndarray) -> float:
    """Root mean square correlation of pairs of features: what they have to do with each other,
    whatever the sign.

    Missing entries count as the mean of their feature, constant features as uncorrelated; NaN for a
    single feature.
    """
    scaled = _standardised(x.reshape(len(x), -1))
    varies = scaled.any(0)
    products = (
        scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T
    )  # of equal norm
    num_pairs = len(varies) * (len(varies) - 1)
    return (
        float(np.sqrt(max((products**2).sum() - varies.sum(), 0.0) / num_pairs))
        if num_pairs
        else np.nan
    )


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and norm 1; 0 where one is constant."""
    centred = np.nan_to_num(columns - np.nanmean(columns, 0))
    norms, sizes = (np.linalg.norm(values, axis=0) for values in (centred, np.nan_to_num(columns)))
    varies = norms > ROUNDING * sizes
    return np.where(varies, centred / np.where(varies, norms, 1.0), 0.0)


def partial_correlation(x: np.ndarray) -> float:
    """Largest absolute partial correlation of a pair of features: what the others leave
    unexplained.

    -P_ij / sqrt(P_ii P_jj), P the inverse of the correlation matrix, by its pseudo-inverse. Of more
    than 100 features, 100 that are evenly spaced. Missing entries and constant features as in
    `correlation`.

    References:
        Whittaker (1990), Graphical models in applied multivariate statistics, section 5.8.
    """
    columns = x.reshape(len(x), -1)
    columns = columns[
        :, np.unique(np.linspace(0, columns.shape[1] - 1, MOST_FEATURES).round().astype(int))
    ]
    scaled = _standardised(columns)
    scaled = scaled[:, scaled.any(0)]
    if scaled.shape[1] < 2:
        return np.nan
    precision = np.linalg.pinv(scaled.T @ scaled, hermitian=True)
    scale = np.sqrt(np.diag(precision).clip(min=TINY))
    partial = precision / scale / scale[:, None]
    return float(np.abs(partial[np.triu_indices(len(partial), 1)]).max())


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
