"""Tables in text files: their separator, what is missing, and what pandas would change silently."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.data.tables.levels import NUMBER
from ppl_vae.errors import DataError
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.runtime.text import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SEPARATORS",
    "Missing",
    "cells_of",
    "first_lines",
    "missing_by_name",
    "read_text",
    "refuse_one_column",
    "separator_of",
    "with_codes",
]

LONGEST_LINE = 2**24  # bytes
MOST_BLANK = 1_000  # lines that are searched for the first two with text
SEPARATORS = (",", ";", "\t")
OTHER_SEPARATORS = ("|", " ")  # of other kinds of files
NA_NAMES = (  # those of pandas.read_csv, an empty cell apart
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Missing:
    """Which cells of a text file are missing: the one place that says so.

    An empty cell always is, and so are the names of `pandas.read_csv` (NA, N/A, NaN, None, null,
    NULL, n/a, nan, <NA>, #N/A and others), in columns of numbers and of categories. Spaces around a
    cell do not count. A file .parquet says itself what is missing.

    Args:
        na_values: Further texts that are missing, such as "-" or "?".
        keep_default_na: Whether the names of pandas are missing; False makes them levels.

    Example:
        >>> "NA" in Missing().texts, Missing(("?",), keep_default_na=False).texts
        (True, ('', '?'))
    """

    na_values: tuple[str, ...] = ()
    keep_default_na: bool = True

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of missing cells."""
        names = NA_NAMES if self.keep_default_na else ()
        return tuple(dict.fromkeys(["", *names, *self.na_values]))

    def require_text(self, path: str | Path) -> None:
        """Raise ValueError if texts are given for a file that says itself what is missing."""
        if self != Missing() and Path(path).suffix != ".csv":
            raise ValueError(
                f"{path} says itself what is missing: na_values and keep_default_na are for .csv"
            )


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
    of the row. If none fits, it is the first that splits the header, and that line is refused.

    Args:
        lines: The header and the line below it.

    Raises:
        DataError: Another one fits too, and splits them into more cells: the first may be a decimal
            comma, or part of a text.

    Example:
        >>> [separator_of(each) for each in (["may;june", "1,5;2,0"], ["a;b", "1"], ['"a;b"', "1"])]
        [';', ';', ',']
    """
    splits = []
    fit: dict[str, int] = {}
    for separator in SEPARATORS:
        try:
            header, *rows = (len(cells) for cells in csv.reader(lines, delimiter=separator))
        except (csv.Error, ValueError):  # no header, or a cell that is longer than csv reads
            return ","
        if header > 1 and all(row - header in (0, 1) for row in rows):
            fit[separator] = header
        splits += [separator] * (header > 1)
    if not fit:
        return splits[0] if splits else ","
    first, *others = fit
    more = next((other for other in others if fit[other] > fit[first]), None)
    if more is not None:
        raise DataError(
            f"the header has {fit[first]} cells if {first!r} separates them, and {fit[more]} if "
            f"{more!r} does, and so has the line below it: write quotation marks around cells that "
            "hold one of these"
        )
    return first


def refuse_one_column(path: Path, separator: str, lines: list[str]) -> None:
    """Refuse a table of one column that bars or spaces divide into more.

    Args:
        path: The file.
        separator: What separates its columns.
        lines: The header and the line below it.

    Raises:
        DataError: Header and line have as many cells if bars or spaces separate them.

    Example:
        >>> refuse_one_column(Path("a.csv"), ",", ["a|b", "1|2"])
        Traceback (most recent call last):
        ppl_vae.errors.DataError: a.csv seems to have 2 columns that '|' separates: write a comma, \
a semicolon or a tab there, or quotation marks around a text of one column
    """
    with suppress(csv.Error):
        if any(len(cells) > 1 for cells in csv.reader(lines, delimiter=separator)):
            return
        for other in OTHER_SEPARATORS:
            header, *rows = (len(cells) for cells in csv.reader(lines, delimiter=other))
            if header > 1 and rows == [header]:
                break
        else:
            return
    raise DataError(
        f"{path} seems to have {header} columns that {other!r} separates: write a comma, a "
        "semicolon or a tab there, or quotation marks around a text of one column"
    )


def read_text(
    path: Path,
    separator: str,
    lines: list[str],
    missing: Missing | None = None,
    as_text: Collection[str] = (),
) -> "pd.DataFrame":
    r"""The table in a text file.

    Args:
        path: The file.
        separator: What separates its columns.
        lines: Its header and the line below it.
        missing: Which cells are missing; None is `Missing()`.
        as_text: Columns whose cells are read as they are written, though they may be numbers.

    Raises:
        DataError: Two columns have the same name, of which pandas would rename one; a separator at
            the end of each row moves the columns; a row has more or fewer cells than the header, or
            one more of which the first is no name.
        ValueError: The file is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text("may;june\n1.5;2.0\n")
        >>> list(read_text(path, ";", first_lines(path)))
        ['may', 'june']
    """
    import pandas as pd

    missing = missing or Missing()
    header = pd.read_csv(
        path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False
    )
    stripped = [name.strip() for name in header.iloc[0]]
    names = [name for name in stripped if name]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}: rename one of them")
    _warn_of_numbers(path, names)
    columns, *cells = (len(each) for each in csv.reader(lines, delimiter=separator))
    has_row_names = bool(cells) and cells[0] == columns + 1
    _refuse_ragged(path, separator, columns + has_row_names)
    wanted = [name for name in header.iloc[0] if name.strip() in as_text]
    frame = pd.read_csv(
        path,
        sep=separator,
        low_memory=False,  # one type for each column
        na_values=list(missing.texts),
        keep_default_na=False,
        dtype=dict.fromkeys(wanted, str),
    )
    if has_row_names:
        _refuse_numbers_as_names(path, separator, frame.index)
    if has_row_names and frame.iloc[:, -1].isna().all():
        raise DataError(
            f"{path} has rows that end with {separator!r}, or row names and no value in its last "
            f"column {frame.columns[-1]!r}: remove the separators, or the column"
        )
    frame.columns = frame.columns.str.strip()
    for place, name in enumerate(frame.columns):
        if frame.dtypes.iloc[place].kind == "O":
            column = _stripped(frame.iloc[:, place], missing, is_text=name in as_text)
            frame.isetitem(place, column)
    return frame


def _refuse_numbers_as_names(path: Path, separator: str, names: "pd.Index") -> None:
    """Refuse names of rows that are parts of numbers: 1,57 is one cell with a decimal comma."""
    are_numbers = names.dtype.kind in "iuf"
    if are_numbers and (names.has_duplicates or (names.to_numpy() % 1 != 0).any()):
        raise DataError(
            f"{path} has rows of one cell more than its header, and numbers before it that name no "
            f"rows, {names[0]:g} first: if {separator!r} is a decimal or thousands separator, "
            "write quotation marks around such numbers or separate columns by semicolons"
        )


def cells_of(path: Path, separator: str, lines: list[str]) -> "pd.DataFrame":
    r"""The cells of a text file as they are written, under its header; row names are a column.

    Args:
        path: The file.
        separator: What separates its columns.
        lines: Its header and the line below it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "codes.csv"
        >>> _ = path.write_text("code,x\n007,1.50\n,NA\n")
        >>> cells_of(path, ",", first_lines(path)).to_numpy().tolist()
        [['007', '1.50'], ['', 'NA']]
    """
    import pandas as pd

    width = max(len(each) for each in csv.reader(lines, delimiter=separator))
    cells = pd.read_csv(
        path, sep=separator, header=None, names=range(width), dtype=str, na_filter=False
    )
    header = list(cells.iloc[0])
    first = next(csv.reader(lines, delimiter=separator))
    if len(first) < width:  # the names of the rows have none
        header = ["", *header[:-1]]
    return cells.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)


def with_codes(
    frame: "pd.DataFrame", written: "pd.DataFrame", names: Iterable[str]
) -> "pd.DataFrame":
    """The table with codes as they are written where numbers would merge some (01 and 1).

    Args:
        frame: The table.
        written: The same with these columns as texts.
        names: Columns of codes; those that the table lacks are left out.

    Example:
        >>> import pandas as pd
        >>> numbers, texts = pd.DataFrame({"site": [1, 1]}), pd.DataFrame({"site": ["01", "1"]})
        >>> with_codes(numbers, texts, ["site"])["site"].tolist()
        ['01', '1']
    """
    known = [name for name in names if name in frame]
    merged = [name for name in known if written[name].nunique() > frame[name].nunique()]
    return frame.assign(**{name: written[name] for name in merged})


def missing_by_name(
    cells: "pd.DataFrame", frame: "pd.DataFrame", columns: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The names that were read as missing in columns of categories, with their numbers of cells.

    Args:
        cells: From `cells_of`.
        frame: The same rows as they were read.
        columns: Names of the columns of categories.

    Example:
        >>> import pandas as pd
        >>> cells = pd.DataFrame({"a": ["u", "NA", "", "NA"]})
        >>> missing_by_name(cells, pd.DataFrame({"a": ["u", None, None, None]}), ["a"])
        {'a': {'NA': 2}}
    """
    found: dict[str, dict[str, int]] = {}
    names = [str(name).strip() for name in cells.columns]
    for name in columns:
        is_missing = frame[name].isna().to_numpy()
        texts: Any = cells.iloc[:, names.index(name)].str.strip()[is_missing]
        counts = Counter(text for text in texts if text)
        if counts:
            found[name] = dict(counts.most_common())
    return found


def _refuse_ragged(path: Path, separator: str, width: int) -> None:
    """Refuse rows with more or fewer cells than this, which pandas would pad, and hidden blanks."""
    is_header = True
    blank = 0
    for line, cells in _lines(path, separator):
        # A blank line has no cell, or one of spaces; quotation marks make it a row.
        if len(cells) <= 1 and cells != [""] and not "".join(cells).strip():
            blank = blank or line * (not is_header)
            continue
        if not is_header and len(cells) != width:
            raise DataError(
                f"line {line} of {path} has {counted(len(cells), 'cell')}, not {width}: write all "
                "cells of a row, an empty one for a missing value, and remove lines that are no "
                "rows"
            )
        if blank and width == 1:
            raise DataError(
                f"line {blank} of {path} is blank, and its rows have one column: write NA for a "
                "missing value, or remove the line"
            )
        is_header = False


def _warn_of_numbers(path: Path, names: Sequence[str]) -> None:
    """Warn of a header of numbers with decimals, which may be a row; whole ones may be years."""
    if all(map(NUMBER.fullmatch, names)) and any("." in name for name in names):
        warn_caller(
            f"the header of {path} holds numbers ({', '.join(names[:3])}): if it is a row, write "
            "the names of the columns above it"
        )


def _lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record of a text file, and the number of its last line."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file, delimiter=separator)
        # What csv cannot read, pandas refuses, or reads as longer cells.
        with suppress(csv.Error):
            for cells in reader:
                yield reader.line_num, cells


def _stripped(column: "pd.Series", missing: Missing, *, is_text: bool) -> "pd.Series":
    """A column of strings without spaces around them; numbers and Booleans if they were in the way.

    pandas takes ' NA' for a text, and with it a column of numbers for one of texts.
    """
    import pandas as pd

    if not all(isinstance(each, str) for each in column.dropna().head(1)):
        return column
    texts = column.str.strip()
    if texts.equals(column):
        return column
    texts = texts.where(~texts.isin(missing.texts))
    if is_text:
        return texts
    numbers = pd.to_numeric(texts, errors="coerce")
    if numbers.notna().equals(texts.notna()):
        return numbers
    booleans = texts.str.lower().map(BOOLEANS)
    if booleans.notna().equals(texts.notna()):
        return booleans.astype(object if booleans.isna().any() else bool)
    return texts
