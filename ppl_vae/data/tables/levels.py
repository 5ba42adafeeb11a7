"""Levels of categories: their names, in the order of their codes 0, 1, ..."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import row_at
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, shown, suggestion, warn_caller

__all__ = [
    "Levels",
    "check_codes",
    "check_names",
    "first_alike",
    "given_levels",
    "in_order",
    "known_level",
    "level_name",
    "listed",
    "recoded",
    "refuse_alike",
    "tell_levels",
    "written_level",
]

Levels = Mapping[str, tuple[str, ...]]

LISTED = 20  # levels shown in an error
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
DECIMAL = re.compile(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?")
WHOLE = re.compile(r"([-+]?\d+)\.0*")
FEW = 3  # levels shown in a warning
MARKS = r"[-+\u2212\u2013~\u2248<>\u2264\u2265\u00b1()%\u2030\u00b0$\u20ac\u00a3\u00a5\u20b9\s]*"
MARKED = re.compile(
    rf"{MARKS}\d+(?:[\s'\u2019_,.]\d{{3}})*(?:[.,]\d+)?{MARKS}"
    r"|0[xX][0-9a-fA-F]+"
    r"|[-+]?\d+\.?\d*[dD][-+]?\d+"  # Fortran's
)
PLAIN = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


def level_name(level: Any) -> str:
    """The name of a level: a whole number has all its digits and no decimals, for any type.

    Args:
        level: A category as pandas has it.

    Example:
        >>> level_name(2.0), level_name(2), level_name("low"), level_name(True)
        ('2', '2', 'low', 'True')
    """
    if isinstance(level, Tensor):
        return str(int(level)) if level.double().item().is_integer() else shown(level)
    if not isinstance(level, Real) or isinstance(level, bool | np.bool_):
        return str(level)
    if isinstance(level, Integral):
        return str(int(level))
    number = float(level)
    return str(int(number)) if number.is_integer() else shown(number)


def written_level(level: Any) -> str:
    """The name of a level of a file: a text is its own name, but for decimals that are all zero.

    pandas writes whole numbers with decimals if some are missing.

    Args:
        level: A text or number.

    Example:
        >>> written_level("7.0"), written_level("007"), written_level("1.50"), written_level(7.0)
        ('7', '007', '1.50', '7')
    """
    if not isinstance(level, str):
        return level_name(level)
    found = WHOLE.fullmatch(level)
    return found[1] if found else level


def known_level(level: Any, known: Sequence[str]) -> str:
    """The one of the known levels that a text or number is, or its own name.

    Args:
        level: A text or number.
        known: Names of levels.

    Example:
        >>> [known_level(each, ("7", "0.5")) for each in ("7.0", "0.50", "007", 7.0)]
        ['7', '0.5', '007', '7']
    """
    if str(level) in known:
        return str(level)
    name = written_level(level)
    if name in known or not DECIMAL.fullmatch(name):
        return name
    number = level_name(float(name))
    return number if number in known else name


def in_order(names: Iterable[str]) -> list[str]:
    """Levels in the order of their numbers if all are numbers, else in that of the alphabet.

    Args:
        names: Their names.

    Example:
        >>> in_order(["10", "9"]), in_order(["b", "10", "9"])
        (['9', '10'], ['10', '9', 'b'])
    """
    ordered = sorted(names)
    if all(NUMBER.fullmatch(name) for name in ordered):
        ordered.sort(key=Decimal)
    return ordered


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


def first_alike(levels: Iterable[Any], key: Callable[[Any], str]) -> tuple[Any, Any] | None:
    """The first two different levels that a key makes equal, or None.

    Args:
        levels: Names of levels.
        key: What is compared.

    Example:
        >>> first_alike(["a", "b", "a "], str.strip)
        ('a', 'a ')
    """
    known: dict[str, Any] = {}
    for each in levels:
        other = known.setdefault(key(each), each)
        if other != each:
            return other, each
    return None


def refuse_alike(labels: Iterable[Any], what: str) -> None:
    """Refuse different labels that are one text, and would be merged or not told apart.

    Args:
        labels: The labels, none missing.
        what: Their name, for the message.

    Raises:
        ArgumentError: There are such labels.

    Example:
        >>> refuse_alike([1, 2, "1"], "groups")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: groups holds 1 and '1', different labels that are one text: \
give all labels one type
    """
    pair = first_alike(labels, str)
    if pair is not None:
        one, other = map(echoed, pair)
        raise ArgumentError(
            f"{what} holds {one} and {other}, different labels that are one text: give all labels "
            "one type"
        )


def tell_levels(column: Any, place: str) -> None:
    """Warn of levels that differ in case alone, and of numbers with marks, which become levels.

    Letters of one look and two encodings (Unicode) count as different in case.

    Args:
        column: The strings; missing ones are passed over.
        place: The column, for the message.

    Example:
        >>> import pandas
        >>> tell_levels(pandas.Series(["a", "b", "3"]), "column 'code' of x")
    """
    levels = [str(each) for each in column.dropna().unique()]
    pair = first_alike(levels, lambda each: unicodedata.normalize("NFKC", each).casefold())
    if pair is not None:
        one, other = map(echoed, pair)
        warn_caller(
            f"{place} has the levels {one} and {other}, which differ in case or encoding alone: "
            f"make them one (frame[{column.name!r}].str.lower())"
        )
    marked = [each for each in levels if MARKED.fullmatch(each) and not PLAIN.fullmatch(each)]
    if marked and all(MARKED.fullmatch(each) for each in levels):
        shown = ", ".join(map(repr, marked[:FEW]))
        warn_caller(
            f"{place} holds numbers with other characters ({shown}), which become categories in "
            "the order of the alphabet: remove the characters, or, if it is a category, say so "
            f"(frame.astype({{{column.name!r}: 'category'}}))"
        )
