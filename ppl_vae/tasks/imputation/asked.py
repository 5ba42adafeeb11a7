"""Which entries are imputed, and why some cannot be."""

from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.columns import in_order
from ppl_vae.data.validation import as_array
from ppl_vae.model import Model
from ppl_vae.programs.traces import Program

__all__ = ["entries_asked", "marked"]


def entries_asked(model: Program, data: Dataset, do_not_impute: Any = None) -> np.ndarray:
    """The missing entries that are imputed, (N, *event), as booleans.

    Args:
        model: The model.
        data: The rows.
        do_not_impute: Entries that stay missing, as `marked` takes them.

    Raises:
        ValueError: The model was trained without a single value of a column; the total of a missing
            row of parts is not known.

    Example:
        >>> data = Dataset([[0.0, np.nan], [np.nan, np.nan]])
        >>> entries_asked(None, data, [[False, False], [False, True]]).tolist()
        [[False, True], [True, False]]
    """
    asked = data.x.isnan().cpu().numpy()
    asked = asked & ~marked(do_not_impute, data)
    if isinstance(model, Model):
        _refuse_never_observed(model, data, asked)
        _refuse_unknown_totals(model, data, asked)
    return asked


def marked(given: Any, data: Dataset) -> np.ndarray:
    """The entries that `do_not_impute` marks, as booleans in the shape of x.

    Args:
        given: Names of columns, booleans in the shape of x, a frame of booleans with its columns,
            or None.
        data: The rows.

    Raises:
        ValueError: It has another shape, other columns or rows, or is not of booleans.

    Example:
        >>> marked(["dose"], Dataset([[0.0, 1.0]], feature_names=["age", "dose"])).tolist()
        [[False, True]]
    """
    if given is None:
        return np.zeros(tuple(data.x.shape), dtype=bool)
    names = _names(given)
    if names is not None and data.feature_names:
        mask = np.zeros(tuple(data.x.shape), dtype=bool)
        mask[:, data.places_of(names)] = True
        return mask
    data.refuse_other_index(given, "do_not_impute")
    mask = as_array(in_order(given, data.feature_names, "do_not_impute"))
    shape = tuple(data.x.shape)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"do_not_impute holds {mask.dtype} of shape {mask.shape}: give names of columns, or "
            f"booleans of shape {shape}, True where a missing entry stays missing"
        )
    return mask


def _names(given: Any) -> list[str] | None:
    """These names of columns; None if it is something else."""
    listed = np.atleast_1d(np.asarray(given, dtype=object))
    are_names = listed.ndim == 1 and all(type(each) in (str, int) for each in listed)
    return [str(each) for each in listed] if are_names else None


def _refuse_never_observed(model: Model, data: Dataset, asked: np.ndarray) -> None:
    """Refuse columns that were missing in all training rows."""
    names = data.feature_names or [str(place) for place in np.ndindex(*data.event_shape)]
    columns = asked.reshape(len(asked), -1).any(0)
    for name, is_asked in zip(names, columns, strict=True):
        if is_asked and name in model.unobserved:
            raise ValueError(
                f"column {name!r} was missing in all rows that the model was trained on, so that "
                f"nothing is known of its values: give do_not_impute=[{name!r}], or leave it out "
                "of x"
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
            f"{data.row_at(int(unknown.argmax()))} has no part observed, and so no total: give "
            f"Model(..., exposure=), the column of context that holds it, or {kind}(total=)"
        )
