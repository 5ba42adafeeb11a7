"""Rows as scikit-learn gives them, and as the library reads them."""

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.tables.columns import check_columns
from ppl_vae.data.tables.frames import is_frame, with_named_columns
from ppl_vae.data.validation import filled, refuse_dataset, same_rows

FLOATS = [np.float64, np.float32]
FEWEST = 2  # rows to fit to
MOST_NAMES = 10  # of covariates in a message
LARGEST = 1e30  # value in a row of training, since squares and float32 end at 1e38


def training_rows(estimator: Any, X: Any, weights: Any = None, context: Any = None) -> Dataset:
    """The rows that an estimator is fitted to; those of weight zero are left out."""
    same_rows(X, sample_weight=weights)
    table = checked(estimator, X, reset=True)
    covariates = checked_context(X, context)
    rows = with_positive_weights(estimator, table, covariates, weights)
    return require_size(read(estimator, *rows))


def require_size(data: Dataset) -> Dataset:
    """The rows, unless a value is too large to be squared."""
    parts = {"X": (data.x, data.feature_names), "context": (data.context, data.context_names)}
    for what, (values, names) in parts.items():
        if values is None:
            continue
        far = (values.abs() > LARGEST).nonzero()
        if len(far):
            row, place = far[0].tolist()
            raise ValueError(
                f"{what} is {values[row, place].item():g} at row {row}, column {names[place]}, "
                f"beyond {LARGEST:g}: use NaN if it stands for a missing value, or another unit"
            )
    return data


def with_positive_weights(
    estimator: Any, table: Any, context: Any, weights: Any
) -> tuple[Any, Any, Any]:
    """The rows of positive weight, their covariates and weights; all rows without weights."""
    if weights is None:
        return table, context, None
    weights = checked_weights(table, weights)
    kept = weights > 0
    require_rows(estimator, kept.sum(), FEWEST)
    return table[kept], None if context is None else context[kept], weights[kept]


def checked_weights(rows: Any, weights: Any) -> np.ndarray:
    """Weights of these rows, none negative, after scikit-learn's checks."""
    return _check_sample_weight(filled(weights), rows, dtype=np.float64, ensure_non_negative=True)


def new_rows(estimator: Any, X: Any, context: Any = None) -> Dataset:
    """Rows in the columns and covariates that a fitted estimator knows."""
    table = checked(estimator, X, reset=False)
    return known_rows(estimator, read(estimator, table, checked_context(X, context)))


def known_rows(estimator: Any, data: Dataset) -> Dataset:
    """Rows in the codes of the levels of the fit, unless they have other covariates."""
    name = type(estimator).__name__
    expected = estimator.model_.context_dim
    require_covariates(estimator, has_some=data.context is not None)
    known = estimator.model_.levels
    new = [column for column in data.levels if column not in known]
    if new:
        raise ValueError(f"column {new[0]!r} holds categories, and {name} was fitted to numbers")
    data = data.with_levels(known)
    check_columns(estimator.model_.columns, data.columns, name)
    if data.context_dim != expected:
        raise ValueError(
            f"context has {data.context_dim} columns, and {name} was fitted with {expected}: "
            f"{', '.join(estimator.data_.context_names[:MOST_NAMES])}"
        )
    return data


def require_covariates(estimator: Any, *, has_some: bool) -> None:
    """Raise ValueError unless covariates are given where the fit had some, and nowhere else."""
    expected = estimator.model_.context_dim
    name = type(estimator).__name__
    if expected and not has_some:
        raise ValueError(
            f"{name} was fitted with covariates: give context= here too, in pipelines and searches "
            "by set_transform_request(context=True) and the like"
        )
    if has_some and not expected:
        raise ValueError(f"{name} was fitted without covariates: leave context out, or fit with it")


def checked_context(X: Any, context: Any) -> Any:
    """Covariates beside X: a frame, or an array (N, C); None if there are none."""
    if context is None:
        return None
    refuse_dataset(context, "context")
    context = with_named_columns(context, "context")
    context = context.to_frame() if hasattr(context, "to_frame") else context
    if not is_frame(context):
        context = np.asanyarray(context)  # masked values stay masked
        if context.dtype.kind not in "biuf":
            raise ValueError(
                f"context holds {context.dtype}: give numbers, or a frame with a column for each "
                "covariate, as X[['age', 'sex']] is"
            )
        context = context.reshape(-1, 1) if context.ndim < 2 else context
    if len(context) != len(X):
        raise ValueError(
            f"context has {len(context)} rows and X {len(X)}: give one for each row of X"
        )
    same_rows(X, context=context)
    return context


def checked(estimator: Any, X: Any, *, reset: bool) -> Any:
    """An array of numbers, or a frame with columns of categories, after scikit-learn's checks."""
    least = FEWEST if reset else 1
    X = with_named_columns(X, "X")
    if not (reset or is_frame(X)):
        refuse_codes(estimator)
    X = filled(X)  # scikit-learn reads what is under a mask
    if is_frame(X) and not len(X.columns):
        raise ValueError("X has no columns")
    if is_frame(X) and not X.columns.is_unique:
        name = X.columns[X.columns.duplicated()][0]
        raise ValueError(f"X has two columns {name!r}: rename one of them")
    if is_frame(X) and (has_categories(X) or (not reset and expects_categories(estimator, X))):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        require_rows(estimator, len(X), least)
        is_missing = X.isna().to_numpy()
    else:
        settings: dict[str, Any] = {"ensure_all_finite": "allow-nan", "ensure_min_samples": least}
        X = validate_data(estimator, X, reset=reset, dtype=FLOATS, **settings)
        is_missing = np.isnan(X)
    if reset and is_missing.all():
        raise ValueError("X holds no value: every entry is missing")
    return X


def read(estimator: Any, table: Any, context: Any = None, weights: Any = None) -> Dataset:
    """The library's data set, in float64; NaN is missing."""
    if is_frame(table) and is_frame(context):
        context = context.set_axis(table.index)  # their order was compared with that of X
    names = None if is_frame(table) else getattr(estimator, "feature_names_in_", None)
    options: dict[str, Any] = {"feature_names": names, "dtype": torch.float64}
    return Dataset(table, context=context, weights=weights, **options)


def covariates(estimator: Any, context: Any, rows: Any) -> Tensor | None:
    """Covariates of these rows, in the codes of the fit: what networks are given."""
    require_covariates(estimator, has_some=context is not None)
    if context is None:
        return None
    nothing = np.full((len(rows), estimator.n_features_in_), np.nan)
    return known_rows(estimator, read(estimator, nothing, checked_context(rows, context))).context


def has_categories(frame: Any) -> bool:
    """Whether a column of a frame holds no numbers."""
    from pandas.api.types import is_numeric_dtype

    return not all(is_numeric_dtype(kind) for kind in frame.dtypes)


def expects_categories(estimator: Any, frame: Any) -> bool:
    """Whether a column of a frame held categories in the fit, so that numbers are no codes."""
    return not estimator.data_.feature_levels.keys().isdisjoint(map(str, frame.columns))


def refuse_codes(estimator: Any) -> None:
    """Refuse an array after a fit to levels, whose numbers could be taken for codes of levels."""
    known = getattr(estimator, "feature_names_in_", ())
    held = [name for name in estimator.data_.feature_levels if name in known]
    if held:
        raise ValueError(
            f"X is an array, and column {held[0]!r} held categories in the fit: give a "
            "frame with the columns of the fit, in pipelines by set_output(transform='pandas')"
        )


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
