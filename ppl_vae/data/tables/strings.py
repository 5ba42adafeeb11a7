"""Columns of strings that are no categories: dates, numbers as text, identifiers."""

import re
from typing import Any

import numpy as np

from ppl_vae.data.arrays import labels_along, row_at
from ppl_vae.data.tables.levels import first_alike
from ppl_vae.runtime.text import counted

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
COMMA = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+\.\d+|\d*,\d+)")  # 1,178.6 or 1,5
NUMBER = re.compile(r"[-+]?\d*\.?\d+")
CODE = re.compile(r"0\d")
LISTED = 3  # texts shown in an error


def refuse_no_category(column: Any, place: str) -> None:
    """Refuse strings that are dates, numbers, numbers with a few texts among them, identifiers, or
    levels that differ in spaces alone.

    Args:
        column: The strings; missing ones are passed over.
        place: The column, for the message.

    Raises:
        TypeError: More than half of the different strings are dates or times.
        ValueError: All strings are numbers, some with a comma; numbers are in more than half of the
            cells, or are more than half of the different strings, but not all; two levels are equal
            but for spaces; or there are more than ten strings, and fewer than two rows for each, or
            more than a thousand, or all are numbers that are no codes with leading zeros.

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
    _refuse_texts_among_numbers(column, place)
    _refuse_spaces(column, different, place)
    if len(different) <= ALWAYS_TAKEN:
        return
    _refuse_numbers_as_text(column, different, place)
    is_name = len(different) >= len(rows) / ROWS_A_LEVEL
    if not is_name and len(different) <= MOST_LEVELS:
        return
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


def _refuse_texts_among_numbers(column: Any, place: str) -> None:
    """Refuse a column of numbers with a few texts, such as '-' or a row of units."""
    from pandas import to_numeric

    rows = column.dropna()
    texts = rows[to_numeric(rows, errors="coerce").isna()]
    share = min(len(texts) / len(rows), texts.nunique() / rows.nunique()) if len(texts) else 0.0
    if not 0 < share < MOST_TEXT:
        return
    found = texts.value_counts(sort=False)
    shown = [f"{text!r} in {counted(n, 'row')}" for text, n in found.items()][:LISTED]
    more = f" and {len(found) - LISTED:,} other texts" * (len(found) > LISTED)
    first = _first(column, texts.iloc[0]).rpartition(" at ")[2]
    row = " (of units?)" if len(texts) == 1 and texts.index[0] == column.index[0] else ""
    raise ValueError(
        f"{place} is {', '.join(shown)}{more}, and a number in {len(rows) - len(texts):,} others; "
        f"the first is {first}{row}: correct what is wrong, remove rows that are none, read the "
        f"text as missing (na_values=[{texts.iloc[0]!r}]), or, if it is a category, say so "
        f"(frame.astype({{{column.name!r}: 'category'}}))"
    )


def _refuse_spaces(column: Any, different: list[str], place: str) -> None:
    """Refuse levels that are equal but for spaces at their ends."""
    pair = first_alike(different, str.strip)
    if pair is not None:
        one, other = pair
        raise ValueError(
            f"{place} has the levels {one!r} and {other!r}, which differ in spaces alone: "
            f"remove them (frame[{column.name!r}].str.strip())"
        )


def _refuse_numbers_as_text(column: Any, different: list[str], place: str) -> None:
    """Refuse numbers that are strings, unless they are codes such as 007."""
    from pandas import to_numeric

    if any(CODE.match(each.strip()) for each in different):
        return
    if not to_numeric(column, errors="coerce").isna().equals(column.isna()):
        return
    raise ValueError(
        f"{place} holds numbers as text: make them numbers "
        f"(frame.astype({{{column.name!r}: float}})), or categories "
        f"(frame.astype({{{column.name!r}: 'category'}}))"
    )
