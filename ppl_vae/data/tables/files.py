"""Tables in files, .csv and .parquet, and the roles of their columns."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data.tables.levels import in_order, known_level, listed, written_level
from ppl_vae.data.tables.parquet_files import read_parquet, require_few_columns
from ppl_vae.data.tables.text_files import (
    SEPARATORS,
    Missing,
    cells_of,
    first_lines,
    missing_by_name,
    read_text,
    refuse_one_column,
    separator_of,
    with_codes,
)
from ppl_vae.errors import DamagedFileError, DataError, PplVaeError
from ppl_vae.runtime.checks import one_line, suggestion
from ppl_vae.runtime.files import require_file
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.text import counted, echoed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLES", "Roles", "present", "read_cells", "read_frame", "told_missing"]

TABLES = (".csv", ".parquet")
PARTS = ("train", "valid", "test")
ROW_NAMES = {"id", "index"}  # names of a first column that names the rows
SMALL = re.compile(rb"[eE]-[0-9]{3}|[.]0{300}")  # in every number that is so near to 0
NOT_ZERO = "^[^eE]*[1-9]"  # the text of a number other than 0
UNNAMED = "Unnamed: 0"  # pandas' name for a first column without one


@dataclass(frozen=True)
class Roles:
    """The roles of the columns of a table.

    A first column of distinct values names the rows if it has no name, as pandas writes its index,
    or if it is called id or index and has no fractions, unless it has one of these roles.

    Args:
        columns: Columns of x, in this order; None takes all that have no other role.
        context: Columns of covariates.
        label: Column of labels.
        weights: Column of weights of the rows.
        split: Column that holds train, valid or test.
        drop: Columns that are left out.
        ordered: Levels of ordered categories, from the lowest, by column.
        categories: Columns whose numbers or strings are categories without an order; in a text file
            their levels are what is written there (007 is another level than 7).
        na_values: Texts of missing cells in a text file, as in `Missing`.
        keep_default_na: As in `Missing`.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"age": [41, 39], "dose": [1.5, 2.0], "fold": ["test", "train"]})
        >>> fields = Roles(context=("dose",), split="fold").fields(frame, "a.csv")
        >>> list(fields["x"]), list(fields["context"]), fields["splits"]["test"].tolist()
        (['age'], ['dose'], [0])
    """

    columns: tuple[str, ...] | None = None
    context: tuple[str, ...] = ()
    label: str | None = None
    weights: str | None = None
    split: str | None = None
    drop: tuple[str, ...] = ()
    ordered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    keep_default_na: bool = True

    @property
    def missing(self) -> Missing:
        """Which cells of a text file are missing."""
        return Missing(tuple(self.na_values), self.keep_default_na)

    def read(self, path: str | Path) -> dict[str, Any]:
        """The arguments of `Dataset` that the columns of a file are.

        Args:
            path: The file, .csv or .parquet.

        Raises:
            ValueError: A .parquet, which says itself what is missing, is given other texts for it.
        """
        self.missing.require_text(path)
        texts = [*self.categories, *self.ordered]
        frame = read_frame(path, self.missing, texts)
        codes = [name for name in frame if name == self.label and frame[name].dtype.kind in "iuf"]
        if codes:
            frame = with_codes(frame, read_frame(path, self.missing, [*texts, *codes]), codes)
        return self.fields(frame, path)

    def fields(self, frame: "pd.DataFrame", path: str | Path) -> dict[str, Any]:
        """The arguments of `Dataset` that these columns are.

        Args:
            frame: The table.
            path: The file of the table, for messages.

        Raises:
            KeyError: There is no such column.
            ValueError: A row is in no split, or a value is none of the levels of its column.
        """
        named = {"label": self.label, "weights": self.weights, "split": self.split}
        others = {what: name for what, name in named.items() if name is not None}
        taken = [*self.context, *others.values(), *self.drop]
        columns = self.columns
        several = {
            "x": columns or (),
            "context": self.context,
            "drop": self.drop,
            "ordered": self.ordered,
            "categories": self.categories,
        }
        for what, names in several.items():
            _require(frame, names, what, path)
        for what, name in others.items():
            _require(frame, [name], what, path)
        if both := [name for name in self.context if name in (columns or ())]:
            raise ValueError(
                f"column {both[0]!r} of {path} is modelled and a covariate of itself: leave it out "
                "of columns or of context"
            )
        single = {what: (name,) for what, name in others.items()}
        roles = {"columns": columns or (), "context": self.context, **single, "drop": self.drop}
        _refuse_two_roles(roles, path)
        known = {name: _ordered(frame[name], each, path) for name, each in self.ordered.items()}
        known |= {name: _category(frame[name]) for name in self.categories}
        frame = frame.assign(**known)
        frame = _with_row_names(frame, [*taken, *(columns or ())])
        fields: dict[str, Any] = {
            "x": frame.drop(columns=taken) if columns is None else frame[list(columns)]
        }
        if self.context:
            fields["context"] = frame[list(self.context)]
        if self.label is not None:
            fields["labels"] = frame[self.label]
        if self.weights is not None:
            fields["weights"] = frame[self.weights]
        if self.split is not None:
            fields["splits"] = _splits(frame[self.split], path)
        return fields


def present(path: str | Path) -> Path:
    """The path, if it exists.

    Args:
        path: A file.

    Raises:
        FileNotFoundError: No such file.

    Example:
        >>> present(".")
        PosixPath('.')
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file (from folder {Path.cwd()})")
    return Path(path)


def read_frame(
    path: str | Path, missing: Missing | None = None, as_text: Collection[str] = ()
) -> "pd.DataFrame":
    r"""The table in a .csv or .parquet file.

    Args:
        path: The file.
        missing: Which cells of a text file are missing; None is `Missing()`.
        as_text: Columns of a text file whose cells are read as they are written.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An unknown suffix, a damaged file, no rows, or two columns of one name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text("may,june\n1.5,2.0\n")
        >>> list(read_frame(path))
        ['may', 'june']
    """
    path = Path(path)
    if path.suffix not in TABLES:
        raise ValueError(
            f"{path}: a table is a file {' or '.join(TABLES)}: write one, a column for each feature"
        )
    try:
        import pandas as pd  # noqa: F401
    except ImportError:
        raise ImportError(
            f"{path}: {path.suffix} files are read with pandas: pip install pandas"
        ) from None
    require_file(path)
    try:
        if path.suffix == ".csv":
            frame = read_text(path, *_beginning(path), missing, as_text)
            _refuse_underflow(frame, path)
        else:
            frame = read_parquet(path)
    except PplVaeError:
        raise
    except ImportError:
        raise ImportError(f"{path}: .parquet files need pyarrow: pip install pyarrow") from None
    except (ValueError, OSError, OverflowError, RecursionError) as error:
        raise DamagedFileError(f"{path} cannot be read: {one_line(error)}") from None
    if not frame.columns.size:
        raise DataError(f"{path} has no columns")
    if not len(frame):
        head = "a header" if path.suffix == ".csv" else "columns"
        raise DataError(f"{path} has {head} and no rows")
    return frame


def read_cells(path: str | Path) -> "pd.DataFrame":
    r"""The cells of a .csv as they are written, as `cells_of` has them.

    Args:
        path: The file, which `read_frame` can read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "codes.csv"
        >>> _ = path.write_text("code\n007\n")
        >>> read_cells(path)["code"].tolist()
        ['007']
    """
    return cells_of(Path(path), *_beginning(Path(path)))


def told_missing(path: str | Path, roles: Roles) -> str | None:
    r"""What was read as missing in columns of categories by its name, in a line; None if nothing.

    Args:
        path: The file.
        roles: The roles of its columns, and which cells are missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "codes.csv"
        >>> _ = path.write_text("code\nA\nNA\n")
        >>> told_missing(path, Roles())
        "missing in 'code': 'NA' (1 cell); keep_default_na = false would make it a level"
    """
    if Path(path).suffix != ".csv":
        return None
    frame = read_frame(path, roles.missing, [*roles.categories, *roles.ordered])
    texts = [name for name in frame if frame[name].dtype.kind == "O" and frame[name].hasnans]
    found = missing_by_name(read_cells(path), frame, texts) if texts else {}
    if not found:
        return None
    said = [
        f"in {name!r}: " + ", ".join(f"{text!r} ({counted(n, 'cell')})" for text, n in each.items())
        for name, each in found.items()
    ]
    which = "it a level" if sum(map(len, found.values())) == 1 else "these levels"
    return f"missing {'; '.join(said)}; keep_default_na = false would make {which}"


def _beginning(path: Path) -> tuple[str, list[str]]:
    """The separator of a text file and its first lines, if it fits into memory and has some."""
    require_memory(f"{path}", path.stat().st_size, num_bytes=1)
    lines = first_lines(path)
    if not lines:
        raise DamagedFileError(f"{path} is empty")
    if "\r" in lines[0]:
        raise DataError(f"{path} has lines that end with a carriage return alone: write \\n there")
    if "\0" in lines[0]:
        raise DataError(f"{path} has zero bytes, as UTF-16 has: save it with encoding UTF-8")
    have_several = [any(each in line for each in SEPARATORS) for line in lines]
    if lines[0].startswith("#") and have_several == [False, True]:
        raise DataError(f"{path} begins with {lines[0]!r}, no header: remove this line")
    separator = separator_of(lines)
    refuse_one_column(path, separator, lines)
    # pandas takes the surplus of the first row for an index of as many levels
    require_few_columns(path, max(line.count(separator) for line in lines) + 1)
    return separator, lines


def _require(frame: "pd.DataFrame", names: Iterable[str], what: str, path: str | Path) -> None:
    """Refuse names that are no columns."""
    known = list(map(str, frame.columns))
    for name in names:
        if name not in frame.columns:
            hint = suggestion(name, known)
            raise KeyError(f"{path}: no column {name!r} for {what}: {hint}")


def _with_row_names(frame: "pd.DataFrame", taken: list[str]) -> "pd.DataFrame":
    """The table with its first column as the index, if that column names the rows."""
    name, first = next(frame.items())
    named = str(name).lower() in ROW_NAMES and first.dtype.kind != "f"
    names_rows = (named or name == UNNAMED) and first.is_unique and name not in taken
    return frame.set_index(name).rename_axis(None) if names_rows else frame


def _refuse_underflow(frame: "pd.DataFrame", path: Path) -> None:
    """Refuse numbers nearer to 0 than any in floating point, which are read as 0: 1e-400."""
    with path.open("rb") as lines:
        if not any(SMALL.search(line) for line in lines):
            return
    cells = read_cells(path).iloc[:, -frame.shape[1] :]  # without names of rows
    for place, name in enumerate(frame.columns):
        zero = (frame.iloc[:, place] == 0).to_numpy(bool, na_value=False)
        texts = cells.iloc[:, place][zero]
        lost = texts[texts.str.contains(NOT_ZERO)]
        if len(lost):
            raise DataError(
                f"column {name!r} of {path} has {lost.iloc[0].strip()[:80]}, which is 0 in "
                "floating point: write it in other units, or as a logarithm"
            )


def _refuse_two_roles(roles: Mapping[str, tuple[str, ...]], path: str | Path) -> None:
    """Raise ValueError where a column has two roles; labels may be modelled columns too."""
    for one, other in combinations(roles, 2):
        both = [name for name in roles[one] if name in roles[other]]
        if both and other != "label":
            raise ValueError(
                f"column {both[0]!r} of {path} is in {one} and in {other}: leave it out of one"
            )


def _ordered(column: "pd.Series", levels: tuple[str, ...], path: str | Path) -> "pd.Series":
    """A column as ordered categories."""
    import pandas as pd

    names = column.map(partial(known_level, known=levels), na_action="ignore")
    unknown = (column.notna() & ~names.isin(levels)).to_numpy()
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise ValueError(
            f"{path}: column {column.name!r} is {echoed(names.iloc[row])} at row {row}, which is "
            f"none of its levels {listed(levels)}: list all of them in ordered"
        )
    return names.astype(pd.CategoricalDtype(list(levels), ordered=True))


def _category(column: "pd.Series") -> "pd.Series":
    """A column as categories without an order; those of numbers are in the order of the numbers."""
    import pandas as pd

    if not column.notna().any():
        return column.astype(object)
    names = column.map(written_level, na_action="ignore")
    return names.astype(pd.CategoricalDtype(in_order(names.dropna().unique())))


def _splits(column: "pd.Series", path: str | Path) -> dict[str, np.ndarray]:
    """Row numbers of each split."""
    known = column.isin(PARTS).to_numpy()
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        found = str(column.iloc[row])
        raise ValueError(
            f"{path}: column {column.name!r} is {echoed(found)} at row {row}: write train, valid "
            "or test"
        )
    rows_of = {part: np.flatnonzero(column == part) for part in PARTS}
    return {part: rows for part, rows in rows_of.items() if rows.size}
