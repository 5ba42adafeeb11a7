"""Texts: tables for a terminal or as Markdown, and values in messages."""

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["as_markdown", "counted", "cut", "echoed", "percent", "table", "without_address"]

ECHOED = 80  # characters of a value in an error
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object, in its repr
ESCAPED = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def as_markdown(text: object) -> str:
    r"""Text that Markdown takes as it is, on one line.

    Args:
        text: The text.

    Example:
        >>> print(as_markdown("a_b | c"))
        a\_b \| c
    """
    return ESCAPED.sub(r"\\\1", " ".join(str(text).split()))


def counted(number: int, what: str) -> str:
    """A number and what is counted, in the plural unless it is one.

    Args:
        number: The number.
        what: A noun whose plural ends in s.

    Example:
        >>> counted(1, "row"), counted(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def table(rows: Sequence[Sequence[str]], *, markdown: bool = False, numbers: bool = True) -> str:
    """Rows of cells as aligned columns, or as a Markdown table.

    The first row is the header. The first column is flush left, the others are flush right, or
    flush left too where they hold words. Where a row has fewer cells than the header, its last cell
    runs on over the remaining columns.

    Args:
        rows: The header and the rows below it.
        markdown: Whether to write a Markdown table.
        numbers: Whether the further columns hold numbers.

    Example:
        >>> rows = [("model", "log p(x)"), ("vae", "-81.20"), ("iwae", "-79.95")]
        >>> print(table(rows))
        model  log p(x)
        vae      -81.20
        iwae     -79.95
        >>> print(table(rows, markdown=True))
        | model | log p(x) |
        | --- | ---: |
        | vae | -81.20 |
        | iwae | -79.95 |
    """
    header, *body = rows
    num_columns = len(header)
    if markdown:
        rule = ["---", *["---:" if numbers else "---"] * (num_columns - 1)]
        padded = ([*row, *[""] * (num_columns - len(row))] for row in (header, rule, *body))
        return "\n".join(
            f"| {' | '.join(cell.replace('|', '\\|') for cell in row)} |" for row in padded
        )
    complete = [row for row in rows if len(row) == num_columns]
    widths = [max(len(row[i]) for row in complete) for i in range(1, num_columns)]
    width = max(len(row[0]) for row in rows)
    flush = str.rjust if numbers else str.ljust
    lines = []
    for first, *rest in rows:
        aligned = rest if len(rest) < len(widths) else map(flush, rest, widths)
        lines.append("  ".join([first.ljust(width), *aligned]).rstrip())
    return "\n".join(lines)


def cut(text: str, longest: int = ECHOED) -> str:
    """A text, without its middle where it is longer.

    Args:
        text: The text.
        longest: Number of characters.

    Example:
        >>> cut("abcdefghij", 7)
        'abc...j'
    """
    if len(text) <= longest:
        return text
    head = (longest - 3) * 3 // 4
    return f"{text[:head]}...{text[len(text) - (longest - 3 - head) :]}"


def echoed(value: Any) -> str:
    """A wrong value as an error shows it: its repr, in one line that is not too long.

    Args:
        value: The value.

    Example:
        >>> len(echoed("a" * 1000)), echoed([0, 1])
        (80, '[0, 1]')
    """
    if isinstance(value, int) and value.bit_length() > 4 * ECHOED:
        return f"a number of {value.bit_length()} bits"  # Python does not write very long ones
    if isinstance(value, str | bytes | list | tuple):
        value = value[: 2 * ECHOED] if len(value) > 4 * ECHOED else value
    return cut(" ".join(repr(value).split()))


def without_address(shown: str) -> str:
    """The repr of an object as it is in every process.

    Args:
        shown: The repr.

    Example:
        >>> without_address("<function rate at 0x7fa68ef42340>")
        '<function rate>'
    """
    return ADDRESS.sub("", shown)


def percent(share: float) -> str:
    """A share in words: neither none nor all unless it is 0 or 1.

    Args:
        share: From 0 to 1.

    Example:
        >>> percent(0.97), percent(0.001), percent(0.999)
        ('97 %', 'less than 1 %', 'more than 99 %')
    """
    share = round(share, 9)
    if 0 < share < 0.01:
        return "less than 1 %"
    if 0.99 < share < 1:
        return "more than 99 %"
    return f"{100 * share:.0f} %"
