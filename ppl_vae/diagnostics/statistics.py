"""Statistics of a data set by which replicated ones are told from it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Statistic = Callable[..., Any]
ROUNDING = 1e-9  # relative; less is no difference


def zero_fraction(x: np.ndarray, axis: int | None = None) -> Any:
    """Share of the observed values that are 0."""
    return np.nanmean(np.where(np.isnan(x), np.nan, x == 0), axis)


def correlation(x: np.ndarray) -> float:
    """Root mean square correlation of pairs of features: what they have to do with each other, whatever the sign.

    Missing entries count as the mean of their feature, constant features as uncorrelated; NaN for a single feature.
    """
    columns = x.reshape(len(x), -1)
    centred = np.nan_to_num(columns - np.nanmean(columns, 0))
    norms, sizes = (np.linalg.norm(values, axis=0) for values in (centred, np.nan_to_num(columns)))
    varies = norms > ROUNDING * sizes
    scaled = np.where(varies, centred / np.where(varies, norms, 1.0), 0.0)
    products = scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T  # of equal norm
    num_pairs = len(varies) * (len(varies) - 1)
    return float(np.sqrt(max((products**2).sum() - varies.sum(), 0.0) / num_pairs)) if num_pairs else np.nan


OF_ENTRIES: dict[str, Statistic] = {
    "mean": np.nanmean,
    "variance": np.nanvar,
    "zero_fraction": zero_fraction,
    "max": np.nanmax,
}
STATISTICS: dict[str, Statistic] = OF_ENTRIES | {"correlation": correlation}
FEATURE_STATISTICS: dict[str, Statistic] = {name: partial(f, axis=0) for name, f in OF_ENTRIES.items()}
