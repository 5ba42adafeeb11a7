"""Which entries are imputed, and why some cannot be."""

from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.model import Model
from ppl_vae.programs.traces import Program

__all__ = ["entries_asked"]


def entries_asked(model: Program, data: Dataset, do_not_impute: Any = None) -> np.ndarray:
    """The missing entries that are imputed, (N, *event), as booleans.

    Args:
        model: The model.
        data: The rows.
        do_not_impute: Entries that stay missing, in the shape of x, or a frame with its columns.

    Raises:
        ValueError: `do_not_impute` has another shape, other columns, or is not of booleans; the
            model was trained without a single value of a column; the total of a missing row of
            parts is not known.

    Example:
        >>> data = Dataset([[0.0, np.nan], [np.nan, np.nan]])
        >>> entries_asked(None, data, [[False, False], [False, True]]).tolist()
        [[False, True], [True, False]]
    """
    asked = data.x.isnan().cpu().numpy()
    if do_not_impute is not None:
        asked = asked & ~_mask(do_not_impute, data)
    if isinstance(model, Model):
        _refuse_never_observed(model, data, asked)
        _refuse_unknown_totals(model, data, asked)
    return asked


def _mask(given: Any, data: Dataset) -> np.ndarray:
    """Booleans in the shape of x."""
    if is_frame(given):
        columns = list(map(str, given.columns))
        if sorted(columns) != sorted(data.feature_names):
            raise ValueError(
                f"do_not_impute has the columns {columns}: give a boolean for each column of x, "
                f"{list(data.feature_names)}"
            )
        if data.is_frame and not given.index.equals(data.index):
            raise ValueError("do_not_impute has other rows than x: reindex it like x")
        given = given.iloc[:, [columns.index(name) for name in data.feature_names]]
        if all(dtype.kind == "b" for dtype in given.dtypes):
            given = given.to_numpy(dtype=bool)
    mask = np.asarray(given)
    shape = tuple(data.x.shape)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"do_not_impute holds {mask.dtype} of shape {mask.shape}: give booleans of shape "
            f"{shape}, True where a missing entry stays missing"
        )
    return mask


def _refuse_never_observed(model: Model, data: Dataset, asked: np.ndarray) -> None:
    """Refuse columns that were missing in all training rows."""
    names = data.feature_names or [str(place) for place in np.ndindex(*data.event_shape)]
    columns = asked.reshape(len(asked), -1).any(0)
    for name, is_asked in zip(names, columns, strict=True):
        if is_asked and name in model.unobserved:
            raise ValueError(
                f"column {name!r} was missing in all rows that the model was trained on, so that "
                "nothing is known of its values: leave it out of x, or name it in do_not_impute"
            )


def _refuse_unknown_totals(model: Model, data: Dataset, asked: np.ndarray) -> None:
    """Refuse missing parts whose total is missing with them."""
    totals = None if model.exposure is not None else model.likelihood.exposure_in(data.x)
    if totals is None:
        return
    unknown = (asked & (totals == 0).cpu().numpy()).reshape(len(asked), -1).any(1)
    if unknown.any():
        kind = type(model.likelihood).__name__
        raise ValueError(
            f"row {unknown.argmax()} has no part observed, and so no total: give "
            f"Model(..., exposure=), the column of context that holds it, or {kind}(total=)"
        )
