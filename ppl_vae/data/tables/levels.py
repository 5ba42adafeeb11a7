"""Levels of categories: their names, in the order of their codes 0, 1, ..."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import row_at
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, shown, suggestion

__all__ = [
    "Levels",
    "check_codes",
    "check_names",
    "given_levels",
    "level_name",
    "listed",
    "recoded",
]

Levels = Mapping[str, tuple[str, ...]]

LISTED = 20  # levels shown in an error


def level_name(level: Any) -> str:
    """The name of a level: a whole number has no decimals, for any type it was read as.

    Args:
        level: A category as pandas has it.

    Example:
        >>> level_name(2.0), level_name(2), level_name("low"), level_name(True)
        ('2', '2', 'low', 'True')
    """
    if isinstance(level, Tensor):
        return shown(level)
    is_number = isinstance(level, Real) and not isinstance(level, bool | np.bool_)
    return shown(float(level)) if is_number else str(level)


def listed(names: Sequence[str]) -> str:
    """Levels in an error, the first 20 of many.

    Args:
        names: The names.

    Example:
        >>> listed(("low", "high"))
        "'low', 'high'"
    """
    rest = f", ... ({len(names)} levels)" * (len(names) > LISTED)
    return ", ".join(map(repr, names[:LISTED])) + rest


def given_levels(levels: Mapping[str, Sequence[Any]] | None) -> dict[str, tuple[str, ...]]:
    """Levels as a user gives them, each by its name.

    Args:
        levels: Levels in their order, by column.

    Raises:
        ValueError: Two levels of a column have the same name.

    Example:
        >>> given_levels({"dose": [1, 2]})
        {'dose': ('1', '2')}
    """
    if not isinstance(levels, Mapping | None):
        raise ArgumentError(
            f"levels is {echoed(levels)}; it must be a dict of lists by column: "
            '{"dose": ["low", "high"]}'
        )
    found = {str(name): tuple(map(level_name, each)) for name, each in (levels or {}).items()}
    for name, names in found.items():
        twice = next((each for i, each in enumerate(names) if each in names[:i]), None)
        if twice is not None:
            raise ValueError(f"column {name!r} has two levels {twice!r}: give each its own name")
    return found


def check_names(levels: Levels, *names: Sequence[Any]) -> None:
    """Refuse levels of a column that does not exist.

    Args:
        levels: Levels by column.
        names: Names of columns, of x and of context.

    Raises:
        ValueError: A name is not among these.

    Example:
        >>> check_names({"gender": ("female", "male")}, ["sex", "age"])
        Traceback (most recent call last):
        ValueError: levels name 'gender': Allowed: sex, age
    """
    known = [str(name) for each in names for name in each]
    for name in levels:
        if name not in known:
            raise ValueError(f"levels name {name!r}: {suggestion(name, known)}")


def recoded(
    codes: Tensor, found: Sequence[str], known: Sequence[str], place: str, rows: Any = None
) -> Tensor:
    """Codes of the known levels for codes of levels found, by name; NaN stays NaN.

    Args:
        codes: Numbers of the levels found, (N,).
        found: Their names.
        known: The names of the levels whose numbers are wanted.
        place: The column, for the message.
        rows: Names of the rows, for the message.

    Raises:
        ValueError: An observed level is not among the known ones; value and row are named.

    Example:
        >>> recoded(torch.tensor([0.0, 1.0]), ("b", "c"), ("a", "b", "c"), "column 'grade' of x")
        tensor([1., 2.])
    """
    numbers = {name: float(i) for i, name in enumerate(known)}
    new = torch.tensor([numbers.get(name, torch.nan) for name in found] or [torch.nan]).to(codes)
    missing = codes.isnan()
    values = torch.where(missing, codes, new[codes.nan_to_num().long()])
    unseen = values.isnan() & ~missing
    if unseen.any():
        row = int(unseen.nonzero()[0])
        raise ValueError(
            f"{place} is {found[int(codes[row])]!r} at {row_at(row, rows)}, which is none of its "
            f"known levels {listed(known)}: give one of these, leave the row out, or train on a "
            "column of type category with this level"
        )
    return values


def check_codes(values: Tensor, levels: Sequence[str], place: str) -> None:
    """Refuse numbers that are not codes of these levels.

    Args:
        values: Codes, NaN where missing.
        levels: The levels.
        place: The column, for the message.

    Raises:
        ValueError: A number is not one of 0, 1, ..., C - 1.

    Example:
        >>> check_codes(torch.tensor([2.0]), ("low", "high"), "column 'dose' of x")
        Traceback (most recent call last):
        ValueError: column 'dose' of x is 2 at row 0: its levels 'low', 'high' have codes 0 to 1
    """
    seen = values.nan_to_num().flatten()
    bad = (seen != seen.round()) | (seen < 0) | (seen >= len(levels))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{place} is {shown(seen[row])} at row {row}: its levels {listed(levels)} have codes 0 "
            f"to {len(levels) - 1}"
        )
