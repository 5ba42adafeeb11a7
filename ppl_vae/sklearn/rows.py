"""Rows as scikit-learn gives them, and as the library reads them."""

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight, validate_data

from ppl_vae.data import Dataset
from ppl_vae.data.tables.frames import is_frame

FLOATS = [np.float64, np.float32]
FEWEST = 2  # rows to fit to
LARGEST = 1e30  # value in a row of training, since squares and float32 end at 1e38


def training_rows(estimator: Any, X: Any, weights: Any = None) -> Dataset:
    """The rows that an estimator is fitted to; those of weight zero are left out."""
    table, weights = with_positive_weights(estimator, checked(estimator, X, reset=True), weights)
    return require_size(read(estimator, table, weights))


def require_size(data: Dataset) -> Dataset:
    """The rows, unless a value is too large to be squared."""
    far = (data.x.abs() > LARGEST).nonzero()
    if len(far):
        row, place = far[0].tolist()
        raise ValueError(
            f"X is {data.x[row, place].item():g} at row {row}, column "
            f"{data.feature_names[place]}, beyond {LARGEST:g}: use NaN if it stands for a missing "
            "value, or another unit"
        )
    return data


def with_positive_weights(estimator: Any, table: Any, weights: Any) -> tuple[Any, Any]:
    """The rows of positive weight, with these weights; all rows without weights."""
    if weights is None:
        return table, None
    weights = _check_sample_weight(weights, table, dtype=np.float64, ensure_non_negative=True)
    kept = weights > 0
    require_rows(estimator, kept.sum(), FEWEST)
    return table[kept], weights[kept]


def new_rows(estimator: Any, X: Any) -> Dataset:
    """Rows in the columns that a fitted estimator knows."""
    return read(estimator, checked(estimator, X, reset=False))


def checked(estimator: Any, X: Any, *, reset: bool) -> Any:
    """An array of numbers, or a frame with columns of categories, after scikit-learn's checks."""
    least = FEWEST if reset else 1
    if is_frame(X) and has_categories(X):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        require_rows(estimator, len(X), least)
        return X
    settings: dict[str, Any] = {"ensure_all_finite": "allow-nan", "ensure_min_samples": least}
    return validate_data(estimator, X, reset=reset, dtype=FLOATS, **settings)


def read(estimator: Any, table: Any, weights: Any = None) -> Dataset:
    """The library's data set, in float64; NaN is missing."""
    if is_frame(table):
        return Dataset(table, weights=weights, dtype=torch.float64)
    names = getattr(estimator, "feature_names_in_", None)
    return Dataset(table, weights=weights, feature_names=names, dtype=torch.float64)


def has_categories(frame: Any) -> bool:
    """Whether a column of a frame holds no numbers."""
    from pandas.api.types import is_numeric_dtype

    return not all(is_numeric_dtype(kind) for kind in frame.dtypes)


def require_rows(estimator: Any, num_rows: int, least: int) -> None:
    """Raise ValueError, in scikit-learn's words, where there are fewer rows."""
    if num_rows < least:
        raise ValueError(
            f"Found array with {num_rows} sample(s) while a minimum of {least} is required by "
            f"{type(estimator).__name__}."
        )


def in_type_of(X: Any, values: np.ndarray) -> np.ndarray:
    """Values in float32 if X is, else in float64."""
    is_single = getattr(X, "dtype", None) == np.float32
    return values.astype(np.float32 if is_single else np.float64)
