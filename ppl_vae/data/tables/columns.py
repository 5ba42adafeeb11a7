"""Checks of columns by name, since their numbers have other meanings in another order."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ppl_vae.data.arrays import with_named_columns
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.tables.levels import Levels, listed
from ppl_vae.data.tables.schema import Schema

__all__ = ["check_booleans", "check_columns", "check_levels", "in_order"]

LISTED = 20  # longer lists of columns are not shown in an error


def check_columns(
    trained: dict[str, tuple[str, ...]], found: dict[str, tuple[str, ...]], name: str
) -> None:
    """Refuse named columns other than those of training, in their order.

    Args:
        trained: Names of the training columns, by "x" and "context".
        found: Names of the present columns; columns without names pass.
        name: "Model" or "Guide", for the message.

    Raises:
        ValueError: The names, or their order, differ; the first difference is named.

    Example:
        >>> check_columns({"x": ("a", "b")}, {"x": ("b", "a")}, "Model")
        Traceback (most recent call last):
        ValueError: column 0 of x is 'b'; the Model was trained with 'a' there: give x[['a', 'b']]
    """
    for what, names in trained.items():
        given = found.get(what, names)
        if given == names:
            continue
        order = f"{what}[{list(names)}]"
        if len(names) > LISTED:
            order = f'{what}[list(model.columns["{what}"])]'
        others = [each for each in given if each not in names]
        if what == "x" and others and "context" in trained and "context" not in found:
            order = f"pv.Dataset(x, context={others}), if these are its covariates"
        lacking = [each for each in names if each not in given]
        if lacking:
            raise ValueError(
                f"{what} has no column {lacking[0]!r}, which the {name} was trained with: give "
                f"{order}"
            )
        pairs = zip_longest(given, names)
        place, (ours, theirs) = next((i, pair) for i, pair in enumerate(pairs) if len({*pair}) > 1)
        if place >= len(names):
            raise ValueError(
                f"{what} has a column {ours!r} that the {name} was not trained with: give {order}"
            )
        raise ValueError(
            f"column {place} of {what} is {ours!r}; the {name} was trained with "
            f"{theirs!r} there: give {order}"
        )


def check_levels(
    trained: dict[str, tuple[str, ...]], known: Levels, found: Levels, name: str
) -> None:
    """Refuse categories in columns that were numbers in training.

    Args:
        trained: Names of the columns of training, as in `check_columns`.
        known: Levels of training by column.
        found: Levels of the present columns.
        name: "Model" or "Guide", for the message.

    Raises:
        ValueError: A column that was trained on as numbers has levels.

    Example:
        >>> check_levels({"x": ("age",)}, {}, {"age": ("old",)}, "Model")
        Traceback (most recent call last):
        ValueError: column 'age' of x has levels 'old'; the Model was trained with numbers there
    """
    for column in trained.get("x", ()):
        if column in found and column not in known:
            raise ValueError(
                f"column {column!r} of x has levels {listed(found[column])}; the {name} was "
                "trained with numbers there"
            )


def check_booleans(known: Schema, found: Schema) -> None:
    """Refuse True and False in columns that were other numbers than 0 and 1 in training.

    Args:
        known: The columns of training.
        found: The present ones.

    Raises:
        ValueError: There is such a column.

    Example:
        >>> import numpy as np
        >>> from ppl_vae.data import Dataset
        >>> known = Dataset(np.array([[1.5], [2.5]])).schema
        >>> check_booleans(known, Dataset(np.array([[True], [False]])).schema)
        Traceback (most recent call last):
        ValueError: column '0' of x has True and False; the run was trained with other numbers there
    """
    names = map(str, known.columns.names)
    columns = zip(names, found.columns.types, known.columns.types, known.kinds, strict=False)
    for name, given, trained, kind in columns:
        if given == "bool" and trained != "bool" and kind != "boolean":
            raise ValueError(
                f"column {name!r} of x has True and False; the run was trained with other numbers "
                "there"
            )


def in_order(given: Any, names: Sequence[str], what: str) -> Any:
    """The values of a table with these columns, in their order; anything else unchanged.

    Args:
        given: Entries of a table.
        names: The columns of the table.
        what: What is given, for messages.

    Raises:
        ValueError: A frame has other columns.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"dose": [True], "age": [False]})
        >>> in_order(frame, ["age", "dose"], "hidden")
        array([[False,  True]])
    """
    given = with_named_columns(given, what)
    if not is_frame(given):
        return given
    columns = list(map(str, given.columns))
    if sorted(columns) != sorted(names):
        raise ValueError(
            f"{what} has the columns {columns}: give one for each column of x, {list(names)}"
        )
    given = given.iloc[:, [columns.index(name) for name in names]]
    are_flags = all(dtype.kind == "b" for dtype in given.dtypes)
    return given.to_numpy(dtype=bool) if are_flags else given.to_numpy()
