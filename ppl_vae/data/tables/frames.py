"""Frames of pandas as numbers: categories become codes, and their levels keep their names."""

import logging
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_vae.data.arrays import (
    as_pandas,
    is_frame,
    labels_along,
    refuse_dataset,
    with_named_columns,
)
from ppl_vae.data.tables.levels import given_levels, tell_levels
from ppl_vae.data.tables.strings import refuse_no_category
from ppl_vae.runtime.checks import suggestion

__all__ = ["apart", "as_pandas", "coded", "is_frame", "with_named_columns"]

logger = logging.getLogger(__name__)

LARGEST_EXACT = 2**53  # of the integers up to which float64 has each
TYPES = {"b": "bool", "i": "integer", "u": "integer", "f": "float"}  # by NumPy's kind
OBJECTS = {  # by pandas' name for what a column of objects holds
    "boolean": "bool",
    "integer": "integer",
    "floating": "float",
    "mixed-integer-float": "float",
    "decimal": "float",
    "empty": "float",
    "string": "string",
}
TIMES = {"datetime", "datetime64", "date", "time", "timedelta", "timedelta64", "period"}


class Coded(NamedTuple):
    """A frame of numbers, the levels of its categories by place, and the type of each column.

    Types are "bool", "integer", "float", "category", "ordered". An array has one for all columns.
    """

    numbers: Any
    levels: dict[int, tuple[str, ...]]
    types: tuple[str, ...]


def coded(source: Any, known: Container[str] = (), what: str = "x") -> Coded:
    """A frame with numbers in every column; anything else as it is.

    Booleans become 0 and 1. Categories become codes in the order of their levels, and so do
    strings, in alphabetical order.

    Args:
        source: A frame or Series of pandas, or anything else.
        known: Columns whose levels are known; their numbers are names of levels.
        what: The name of the source in error messages.

    Raises:
        TypeError: A column holds times, as text too, values of several types, or anything else that
            is neither a number nor a category.
        ValueError: The strings of a column are no category, but an identifier or numbers, and its
            levels are not known.

    Example:
        >>> import pandas
        >>> coded(pandas.DataFrame({"sex": ["male", "female", "male"]})).numbers["sex"].tolist()
        [1.0, 0.0, 1.0]
    """
    refuse_dataset(source, what)
    if hasattr(source, "to_frame"):  # a Series
        source = source.to_frame()
    if not is_frame(source):
        return Coded(source, {}, (_type_of_array(source),))
    numbers = source.copy(deep=False)
    levels: dict[int, tuple[str, ...]] = {}
    types = []
    for i, name in enumerate(map(str, labels_along(source.columns))):
        place = f"column {name!r} of {what}"
        column = source.iloc[:, i]
        kind = _type_of(column, place)
        if kind == "string" and name not in known:
            refuse_no_category(column, place)
            tell_levels(column, place)
        if kind in ("string", "category", "ordered") or name in known:
            codes, levels[i] = _codes(column, name)
            kind = kind if kind == "ordered" else "category"
            numbers.isetitem(i, codes)
        elif column.dtype.kind not in TYPES:  # objects that are numbers
            numbers.isetitem(i, column.to_numpy(np.float64, na_value=np.nan))
        if kind == "integer":
            _tell_equal(column, place)
        types.append(kind)
    return Coded(numbers, levels, tuple(types))


def apart(x: Any, context: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """A frame without the columns that have another role, and these columns.

    Args:
        x: A frame of pandas; no columns are taken from anything else.
        context: Names of columns of x, or covariates.
        labels: Name of a column of x, or labels.
        weights: Name of a column of x, or weights.

    Raises:
        ValueError: x has no such column.
        TypeError: x is a `Dataset`.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [1], "dose": [2]})
        >>> rest, context, _, _ = apart(frame, "age", None, None)
        >>> list(rest.columns), list(context.columns)
        (['dose'], ['age'])
    """
    if hasattr(x, "given_index"):
        raise TypeError(
            "x is a Dataset already: make one from what it was made from, with all arguments at "
            "once, or use its methods (with_context, with_splits, unweighted)"
        )
    context = as_pandas(context, "context")
    labels, weights = as_pandas(labels, "labels"), as_pandas(weights, "weights")
    if not is_frame(x):
        return x, context, labels, weights
    names = [context] if isinstance(context, str | int) else context
    taken: list[str | int] = []
    if _are_names(names, x):
        taken += _columns(x, names, "context")
        context = x[taken]
    if isinstance(labels, str | int):
        taken += _columns(x, [labels], "labels")
        labels = x[labels]
    if isinstance(weights, str | int):
        taken += _columns(x, [weights], "weights")
        weights = x[weights]
    return x.drop(columns=taken), context, labels, weights


def _are_names(names: Any, frame: Any) -> bool:
    """Whether these are names of columns: strings, or whole numbers, not one for each row."""
    if not isinstance(names, list | tuple) or not names:
        return False
    if all(isinstance(each, str) for each in names):
        return True
    return len(names) != len(frame) and all(type(each) in (int, str) for each in names)


def _columns(frame: Any, names: Sequence[str | int], what: str) -> list[str | int]:
    """These names, if the frame has such columns."""
    for name in names:
        if name not in frame.columns:
            known = list(map(str, frame.columns))
            raise ValueError(f"x has no column {name!r} for {what}: {suggestion(str(name), known)}")
    return list(names)


def _type_of(column: Any, place: str) -> str:
    """The type of a column; a column that is neither numbers nor categories is refused."""
    dtype = column.dtype
    if hasattr(dtype, "categories"):
        return ("category", "ordered")[bool(dtype.ordered)]
    if dtype.kind in TYPES:
        return TYPES[dtype.kind]
    from pandas.api.types import infer_dtype

    inferred = infer_dtype(column, skipna=True)
    if inferred in TIMES:
        raise TypeError(
            f"{place} holds times ({dtype}): give a number instead, such as the days since the "
            "first, (t - t.min()).dt.days, or drop it"
        )
    if inferred not in OBJECTS:
        raise TypeError(
            f"{place} holds {dtype} ({inferred}), neither numbers nor categories: drop it, or, if "
            f"it is a category, say so (frame.astype({{{column.name!r}: 'category'}}))"
        )
    return OBJECTS[inferred]


def _tell_equal(column: Any, place: str) -> None:
    """Warn, in one line, of different integers that are one number in float64."""
    values = column.dropna()
    if not len(values) or max(-int(values.min()), int(values.max())) <= LARGEST_EXACT:
        return
    different = values.drop_duplicates()
    is_repeated = different.astype(np.float64).duplicated(keep=False)
    if is_repeated.any():
        value = int(different[is_repeated].iloc[0])
        logger.warning(
            f"{place} has integers above 2^53, of which {int(is_repeated.sum()):,} are not told "
            f"apart as numbers (the first is {value}): drop it, or, if it is a category, say so "
            f"(frame.astype({{{column.name!r}: 'category'}}))"
        )


def _codes(column: Any, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes of a column, NaN where missing, and its levels."""
    categories = column.astype("category").cat
    codes = np.array(categories.codes, dtype=np.float64)
    codes[codes < 0] = np.nan
    return codes, given_levels({name: categories.categories})[name]


def _type_of_array(source: Any) -> str:
    """The type of all columns of an array or tensor; lists and files of numbers are "float"."""
    name = str(getattr(source, "dtype", "")).removeprefix("torch.")
    if name == "bool":
        return "bool"
    return "integer" if name.startswith(("int", "uint")) else "float"
