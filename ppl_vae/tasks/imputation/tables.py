"""A frame as it was given, with its missing entries filled in the types of its columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.levels import level_name

if TYPE_CHECKING:
    import pandas as pd


def completed_frame(data: Dataset, asked: np.ndarray, values: np.ndarray) -> "pd.DataFrame":
    """The frame that x was read from, with these values of the entries that were asked for."""
    source: Any = data.source
    frame = source.frame()
    filled = np.full(asked.shape, np.nan)
    filled[asked] = values
    for place, name in enumerate(data.feature_names):
        where = asked[:, place]
        if where.any():
            there = int(source.places[place])
            drawn = filled[where, place]
            column = _typed(frame.iloc[:, there].copy(), data, place)
            if name in data.levels:
                new = _with_levels(column, where, drawn, data.levels[name])
            else:
                new = _with_numbers(column, where, drawn)
            frame.isetitem(there, new)
    return frame


def _typed(column: "pd.Series", data: Dataset, place: int) -> "pd.Series":
    """The column, in the type that it had in training if it holds no value."""
    if hasattr(column.dtype, "categories") or column.notna().any():
        return column
    import pandas as pd

    name = data.feature_names[place]
    kind = data.types[place]
    if kind == "bool":
        return column.astype("boolean")
    if name in data.levels:
        levels = pd.CategoricalDtype(list(data.levels[name]), ordered=kind == "ordered")
        return column.astype(levels)
    return column


def _with_levels(
    column: "pd.Series", where: np.ndarray, codes: np.ndarray, levels: Sequence[str]
) -> "pd.Series":
    """The column with the levels of these codes, each as the column writes it."""
    if not hasattr(column.dtype, "categories"):
        known = {level_name(value): value for value in column.dropna().unique()}
        named = [_like(name, known) for name in levels]
        return _put(column, where, [named[int(code)] for code in codes])
    known = {level_name(value): value for value in column.dtype.categories}
    if not set(levels) <= set(known):
        # The levels of training, in their order, then what the column has besides.
        everything = [_like(name, known) for name in levels]
        everything += [value for name, value in known.items() if name not in levels]
        column = column.cat.set_categories(everything, ordered=column.dtype.ordered)
        known = {level_name(value): value for value in everything}
    numbers = {name: number for number, name in enumerate(known)}
    found = column.cat.codes.to_numpy().astype(np.int64)
    found[where] = [numbers[levels[int(code)]] for code in codes]
    import pandas as pd

    return pd.Series(pd.Categorical.from_codes(found, dtype=column.dtype), index=column.index)


def _like(name: str, known: dict[str, Any]) -> Any:
    """The level of this name, in the type of the known ones where it is not among them."""
    if name in known or not known:
        return known.get(name, name)
    kind = type(next(iter(known.values())))
    if kind in (bool, np.bool_):
        return name == "True"
    try:
        return kind(name)
    except ValueError:
        return name


def _with_numbers(column: "pd.Series", where: np.ndarray, drawn: np.ndarray) -> "pd.Series":
    """The column with these numbers, in its own type if that holds them."""
    if hasattr(column.dtype, "fill_value"):  # a sparse column, to whose entries nothing is written
        import pandas as pd

        dense = _with_numbers(column.sparse.to_dense(), where, drawn)
        return dense.astype(pd.SparseDtype(dense.dtype, column.dtype.fill_value))
    kind = column.dtype.kind
    if kind == "f" and np.abs(drawn).max() > np.finfo(f"f{column.dtype.itemsize}").max:
        column = column.astype("float64")
    if kind == "O":
        return _put(column, where, _as_objects(column, drawn))
    if kind == "b" and not np.isin(drawn, (0, 1)).all():
        column = column.astype("Float64")
    elif kind == "b":
        drawn = drawn.astype(bool)
    elif kind == "f":
        drawn = drawn.astype(f"f{column.dtype.itemsize}")
    elif kind in "iu" and (drawn != np.round(drawn)).any():
        column = column.astype("Float64")
    elif kind in "iu":
        limits = np.iinfo(np.dtype(f"{kind}{column.dtype.itemsize}"))
        drawn = drawn.astype(np.int64)
        if drawn.min() < limits.min or drawn.max() > limits.max:
            column = column.astype("Int64")
    return _put(column, where, drawn)


def _as_objects(column: "pd.Series", drawn: np.ndarray) -> list[Any]:
    """Booleans or whole numbers of Python where the column holds such, else floats."""
    types = {type(value) for value in column.dropna()}
    if types <= {bool, np.bool_} and np.isin(drawn, (0, 1)).all():
        return [bool(value) for value in drawn]
    if types <= {int, np.int64} and (drawn == np.round(drawn)).all():
        return [int(value) for value in drawn]
    return [float(value) for value in drawn]


def _put(column: "pd.Series", where: np.ndarray, values: Any) -> "pd.Series":
    """The column with these values where they are missing."""
    new = column.copy()
    new[where] = values
    return new
