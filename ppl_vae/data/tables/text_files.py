"""Tables in text files: their separator, and headers that pandas would change without a word."""

import csv
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_vae.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["first_lines", "read_text", "separator_of"]

LONGEST_LINE = 2**24  # bytes
MOST_BLANK = 1_000  # lines that are searched for the first two with text
SEPARATORS = (",", ";", "\t")


def first_lines(path: Path) -> list[str]:
    r"""The header of a text file and the line below it.

    Args:
        path: The file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text("may;june\n1.5;2.0\n")
        >>> first_lines(path)
        ['may;june', '1.5;2.0']
    """
    with path.open("rb") as file:
        read = (file.readline(LONGEST_LINE) for _ in range(MOST_BLANK))
        lines = (line.decode("utf-8-sig", errors="replace").strip("\r\n") for line in read)
        return list(islice((line for line in lines if line.strip()), 2))


def separator_of(lines: list[str]) -> str:
    r"""What separates the columns: a comma, or else a semicolon or tab that fits.

    One fits if it splits the header, and the line below it into as many cells or one more, the name
    of the row.

    Args:
        lines: The header and the line below it.

    Example:
        >>> separator_of(["may;june", "1,5;2,0"]), separator_of(["a;b", "1"])
        (';', ',')
    """
    for separator in SEPARATORS:
        try:
            header, *rows = (len(cells) for cells in csv.reader(lines, delimiter=separator))
        except (csv.Error, ValueError):  # no header, or a cell that is longer than csv reads
            return ","
        if header > 1 and all(row - header in (0, 1) for row in rows):
            return separator
    return ","


def read_text(path: Path, separator: str, lines: list[str]) -> "pd.DataFrame":
    r"""The table in a text file.

    Args:
        path: The file.
        separator: What separates its columns.
        lines: Its header and the line below it.

    Raises:
        DataError: Two columns have the same name, of which pandas would rename one; a separator at
            the end of each row moves the columns.
        ValueError: The file is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text("may;june\n1.5;2.0\n")
        >>> list(read_text(path, ";", first_lines(path)))
        ['may', 'june']
    """
    import pandas as pd

    header = pd.read_csv(
        path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False
    )
    names = [name for name in header.iloc[0] if name]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}: rename one of them")
    frame = pd.read_csv(path, sep=separator, low_memory=False)  # one type for each column
    columns, *cells = (len(each) for each in csv.reader(lines, delimiter=separator))
    has_row_names = bool(cells) and cells[0] > columns
    if has_row_names and frame.iloc[:, -1].isna().all():
        raise DataError(
            f"{path} has rows that end with {separator!r}, or row names and no value in its last "
            f"column {frame.columns[-1]!r}: remove the separators, or the column"
        )
    return frame
