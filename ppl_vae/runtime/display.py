"""How a result looks: one short line in a console, and in a notebook what `print` shows."""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from itertools import groupby
from typing import Any

from ppl_vae.runtime.text import cut, without_address

__all__ = ["Shown"]

LONGEST = 300  # characters of a repr
FIELD = 60  # of one field in it
GAP = re.compile(r" {2,}")  # between the columns of a table in text
ARRAY = re.compile(r"\b(array|tensor)\(")
IN_COLUMNS = re.compile(r"\S {2,}\S")
WRAPPED = '<div style="white-space: pre-wrap; max-width: 60em">'
FIXED = '<div style="white-space: pre; overflow-x: auto; font-family: monospace">'
NEWLINE = "\n"
SCROLLED = '<div style="overflow-x: auto"><table>'


class Shown:
    """A result with a short repr, and with tables where a notebook shows it.

    A class that defines `__repr__` keeps its own. In a notebook a result is what `print` shows, and
    its tables are tables.

    Example:
        >>> from dataclasses import dataclass
        >>> import numpy as np
        >>> @dataclass
        ... class Errors(Shown):
        ...     se: np.ndarray
        ...     num_rows: int
        >>> Errors(np.ones(1000), 1000)
        Errors(se=float64 (1000,), num_rows=1000)
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Give the class its repr before `dataclass` would."""
        super().__init_subclass__(**options)
        if cls.__repr__ is Shown.__repr__:
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        parts = [f"{each.name}={_short(getattr(self, each.name))}" for each in known if each.repr]
        return cut(f"{type(self).__name__}({', '.join(parts)})", LONGEST)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return "".join(_blocks(str(self)))


def _short(value: Any) -> str:
    """An array by its type and shape, a container by its size, anything else by its repr."""
    if isinstance(value, float):
        return f"{value:.6g}"
    shape = getattr(value, "shape", None)
    if shape is not None and shape != ():
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(shape)}"
    shown = f"{len(value)} entries" if isinstance(value, Mapping) else ""
    shown = shown or without_address(" ".join(repr(value).split()))
    is_long = len(shown) > FIELD or ARRAY.search(shown)
    if is_long and hasattr(value, "__len__") and not isinstance(value, str):
        return f"{len(value)} entries"
    return cut(shown, FIELD)


def _blocks(text: str) -> Iterator[str]:
    """Lines that form a table as a table, others as text."""
    lines = text.splitlines()
    for is_table, numbered in groupby(enumerate(lines), key=lambda each: _in_table(lines, each[0])):
        block = [line for _, line in numbered]
        rows = [[each.strip() for each in GAP.split(line)] for line in block]
        if is_table and len(block) > 1 and len({len(row) for row in rows}) == 1:
            yield f"{SCROLLED}{''.join(map(_row, rows, range(len(rows))))}</table></div>"
        else:
            style = FIXED if is_table else WRAPPED
            yield f"{style}{html.escape(NEWLINE.join(block))}</div>"


def _in_table(lines: list[str], i: int) -> bool:
    """Whether a line has columns; a header may have an empty cell and one more."""
    below = lines[i + 1] if i + 1 < len(lines) else ""
    is_header = lines[i].startswith("  ") and bool(IN_COLUMNS.search(below))
    return is_header or bool(IN_COLUMNS.search(lines[i]))


def _row(cells: list[str], number: int) -> str:
    """A row of a table, the first one of headings."""
    tag = "th" if number == 0 else "td"
    first, *rest = map(html.escape, cells)
    names = f'<{tag} style="text-align: left">{first}</{tag}>'
    return f"<tr>{names}{''.join(f'<{tag}>{cell}</{tag}>' for cell in rest)}</tr>"
