"""Columns of strings that are no categories: dates, numbers as text, identifiers."""

import re
from typing import Any

import numpy as np

from ppl_vae.data.arrays import labels_along, row_at

__all__ = ["refuse_no_category"]

MOST_TEXT = 0.5  # share of the values of a column of numbers or dates that are none
ALWAYS_TAKEN = 10  # levels of a column of strings; more must repeat
ROWS_A_LEVEL = 2  # an identifier has fewer rows for each of its strings, or as many
MOST_LEVELS = 1_000

DAY = r"(?:0?[1-9]|[12]\d|3[01])"
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
CLOCK = r"\d\d:[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?: ?[ap]m)?"
DATES = (
    rf"\d{{4}}([-/.]){DAY}\1{DAY}",  # 2007-11-16
    rf"{DAY}([-/.]){DAY}\2\d{{4}}",  # 16.11.2007, 11/16/2007
    rf"{DAY}/{DAY}/\d\d|\d\d([-.])\d\d\3\d\d",  # 11/16/07
    r"\d{4}[-/](?:0[1-9]|1[0-2])",  # 2007-11
    rf"{DAY}(?:st|nd|rd|th)?[- ]?{MONTH}[- ,]*\d{{2,4}}",  # 16 November 2007
    rf"{MONTH}[- ](?:{DAY}(?:st|nd|rd|th)?,? )?\d{{4}}",  # November 16, 2007
)
TIME = re.compile(
    rf"(?:{'|'.join(DATES)})(?:[T ]{CLOCK} ?(?:Z|UTC|[-+]\d\d:?\d\d)?)?|{CLOCK}", re.IGNORECASE
)
COMMA = re.compile(r"[-+]?\d*,\d+")
NUMBER = re.compile(r"[-+]?\d+")


def refuse_no_category(column: Any, place: str) -> None:
    """Refuse strings that are dates, numbers with a comma, numbers as text, or an identifier.

    Args:
        column: The strings; missing ones are passed over.
        place: The column, for the message.

    Raises:
        TypeError: More than half of the different strings are dates or times.
        ValueError: All strings are numbers, some with a comma; or there are more than ten, and
            fewer than two rows for each, or more than a thousand.

    Example:
        >>> import pandas
        >>> refuse_no_category(pandas.Series(["2007-11-16", "2007-11-17"]), "column 'day' of x")
        Traceback (most recent call last):
        TypeError: column 'day' of x is '2007-11-16' at row 0, a date or time as text: give a number
        instead, such as the days since the first, (t - t.min()).dt.days, or drop it
    """
    rows = column.dropna()
    different = [str(each) for each in rows.unique()]
    are_times = [TIME.fullmatch(each.strip()) is not None for each in different]
    if sum(are_times) > MOST_TEXT * len(different):
        where = _first(column, different[are_times.index(True)])
        raise TypeError(
            f"{place} is {where}, a date or time as text: give a number instead, such as the days "
            "since the first, (t - t.min()).dt.days, or drop it"
        )
    _refuse_decimal_commas(column, different, place)
    if len(different) <= ALWAYS_TAKEN:
        return
    is_name = len(different) >= len(rows) / ROWS_A_LEVEL
    if not is_name and len(different) <= MOST_LEVELS:
        return
    _refuse_numbers_as_text(column, place)
    why = ", like an identifier" if is_name else f", and a category has at most {MOST_LEVELS:,}"
    raise ValueError(
        f"{place} has {len(different):,} different strings in {len(rows):,} rows{why}: drop it, "
        f"make it the index (frame.set_index({column.name!r})), or, if it is a category, say so "
        f"(frame.astype({{{column.name!r}: 'category'}}))"
    )


def _first(column: Any, value: str) -> str:
    """A value and the row that it is first found in."""
    row = int(np.flatnonzero((column.astype(object) == value).to_numpy())[0])
    return f"{value!r} at {row_at(row, labels_along(column.index))}"


def _refuse_decimal_commas(column: Any, different: list[str], place: str) -> None:
    """Refuse numbers with a comma, which would be levels in alphabetical order."""
    with_comma = [each for each in different if COMMA.fullmatch(each.strip())]
    others = [each for each in different if not COMMA.fullmatch(each.strip())]
    if with_comma and all(NUMBER.fullmatch(each.strip()) for each in others):
        raise ValueError(
            f"{place} is {_first(column, with_comma[0])}, a number with a comma: write "
            "a point for a decimal comma and nothing for a separator of thousands, or, if it is a "
            f"category, say so (frame.astype({{{column.name!r}: 'category'}}))"
        )


def _refuse_numbers_as_text(column: Any, place: str) -> None:
    """Name the first text in a column of numbers, such as one wrong cell of a file."""
    from pandas import to_numeric

    is_text = (to_numeric(column, errors="coerce").isna() & column.notna()).to_numpy()
    if not is_text.any():
        raise ValueError(
            f"{place} holds numbers as text: make them numbers "
            f"(frame.astype({{{column.name!r}: float}})), or categories "
            f"(frame.astype({{{column.name!r}: 'category'}}))"
        )
    if is_text.mean() < MOST_TEXT:
        row = int(is_text.argmax())
        raise ValueError(
            f"{place} is {column.iloc[row]!r} at {row_at(row, labels_along(column.index))}, and "
            "numbers elsewhere: correct it, or leave the cell empty if it is missing"
        )
