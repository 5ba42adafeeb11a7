"""Tables that are written, and the numbers that are told of them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.data import Dataset
from ppl_vae.data.tables.files import TABLES, read_cells
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.tables.schema import Schema
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.sources import read_known
from ppl_vae.runtime.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "methods_in_words",
    "original_table",
    "refuse_taken",
    "require_rows_of_table",
    "require_table",
    "row_names_of",
    "write_frame",
]

WHOLE = r"\s*[+-]?[0-9]+\s*"
LARGEST = 2**63 - 1


def require_table(path: str | Path, what: str) -> Path:
    """The path, if its suffix is that of a table.

    Args:
        path: A file.
        what: What is written to it, in the plural.

    Raises:
        ConfigError: It is another file, or a folder.

    Example:
        >>> require_table("scores.txt", "scores")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: scores.txt: scores go to a file .csv or .parquet
    """
    path = Path(path)
    if path.suffix not in TABLES or path.is_dir():
        raise ConfigError(f"{path}: {what} go to a file {' or '.join(TABLES)}")
    return path


def require_rows_of_table(rows: Any) -> None:
    """Refuse rows that are no table, whose other columns the result would keep.

    Args:
        rows: What was given.

    Raises:
        ConfigError: It is neither a file nor a frame.

    Example:
        >>> require_rows_of_table("rows.csv")
    """
    if isinstance(rows, Dataset) or not (is_frame(rows) or isinstance(rows, str | Path)):
        raise ConfigError(
            f"rows is of type {type(rows).__name__}; give a file .csv or .parquet, or a data frame"
        )


def refuse_taken(table: "pd.DataFrame", results: Iterable[str]) -> None:
    """Raise ConfigError if a table has a column of the name of a result, which it may itself be.

    Args:
        table: The table.
        results: Names of the columns that are to be added.

    Example:
        >>> import pandas as pd
        >>> refuse_taken(pd.DataFrame({"x": [1.5]}), ["x.lower"])
    """
    known = {str(name).strip() for name in table.columns}
    for name in results:
        if name in known:
            raise ConfigError(
                f"the rows have a column {name!r}, where a result would go: rename it, or leave it "
                "out"
            )


def write_frame(frame: "pd.DataFrame", path: str | Path, *, index: bool = False) -> Path:
    r"""Write a table.

    Args:
        frame: The table.
        path: A file .csv or .parquet.
        index: Whether the names of the rows are written.

    Example:
        >>> import pandas as pd, tempfile
        >>> path = write_frame(pd.DataFrame({"x": [1.5]}), tempfile.mkdtemp() + "/a.csv")
        >>> path.read_text()
        'x\n1.5\n'
    """
    write: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda p: frame.to_csv(p, index=index),
        ".parquet": lambda p: frame.to_parquet(p, index=index),
    }
    return write_whole(path, write[Path(path).suffix])


def original_table(rows: Any, output: str | Path, schema: Schema) -> "pd.DataFrame":
    r"""The table of new rows with all its columns, the rows numbered from 0.

    What is read from a .csv and written to one is text: no cell is changed by being read as a
    number. In a .parquet columns that are modelled have the types in which they were read, whole
    numbers beside empty cells a nullable one; so have others whose cells are told by them, and the
    rest are texts.

    Args:
        rows: A file .csv or .parquet, or a frame.
        output: The file that the table goes to; a folder has files .csv.
        schema: The columns of the model.

    Example:
        >>> import tempfile
        >>> from ppl_vae.data import Dataset
        >>> schema = Dataset([[1.5]], feature_names=["x"]).schema
        >>> path = Path(tempfile.mkdtemp()) / "codes.csv"
        >>> _ = path.write_text("code,x\n007,1.50\n")
        >>> [original_table(path, out, schema)["x"].tolist() for out in ("a.csv", "a.parquet")]
        [['1.50'], [1.5]]
    """
    require_rows_of_table(rows)
    if is_frame(rows):
        return rows.reset_index(drop=True)
    if Path(rows).suffix != ".csv":
        return read_known(rows, schema).reset_index(drop=True)
    cells = read_cells(rows)
    if Path(output).suffix != ".parquet":
        return cells
    frame = read_known(rows, schema).reset_index(drop=True)
    places = [str(name).strip() for name in cells.columns]
    for name in [each for each in frame if each in places]:
        texts = cells.iloc[:, places.index(name)]
        frame[name] = _exact(frame[name], texts)
        if name not in schema.names and not _tells(frame[name], texts):
            frame[name] = texts.where(texts.str.strip() != "")
    return frame


def _exact(column: "pd.Series", texts: "pd.Series") -> "pd.Series":
    """A column of numbers with all their digits: a hole makes floats of whole numbers."""
    import pandas as pd

    known = column.notna()
    if column.dtype.kind != "f" or not texts[known].str.fullmatch(WHOLE).all():
        return column
    numbers = [int(text) if is_known else None for text, is_known in zip(texts, known, strict=True)]
    if any(number is not None and abs(number) > LARGEST for number in numbers):
        return column
    return pd.Series(numbers, index=column.index, name=column.name, dtype="Int64")


def _tells(column: "pd.Series", texts: "pd.Series") -> bool:
    """Whether the values of a column, written as texts, are its cells."""
    known = column.notna()
    is_text = column.dtype.kind == "O"
    if is_text and bool((~known & (texts.str.strip() != "")).any()):
        return False  # "NA" may be a word
    return column[known].astype(str).equals(texts[known].astype(str))


def row_names_of(rows: Any) -> "pd.Index | None":
    """The names of the rows of a .parquet or a frame; None for numbers, and for a .csv.

    In a .csv they are a column, which is copied with the others.

    Args:
        rows: A file .csv or .parquet, or a frame.

    Example:
        >>> import pandas as pd
        >>> row_names_of(pd.DataFrame({"x": [1.5]}, index=["eve"])).tolist()
        ['eve']
    """
    import pandas as pd

    if not is_frame(rows):
        if Path(rows).suffix == ".csv":
            return None
        rows = pd.read_parquet(rows, columns=[])  # the index alone
    index = rows.index
    return None if index.equals(pd.RangeIndex(len(index))) and index.name is None else index


def methods_in_words(figures: Mapping[str, Any]) -> str:
    """How many rows each method served, and for how many the draws are not reliable.

    Args:
        figures: With rows_by_method and unreliable_rows.

    Example:
        >>> methods_in_words({"rows_by_method": {"refined": 5}, "unreliable_rows": 2})
        'refined 5, 2 of them not reliable'
    """
    methods = ", ".join(f"{name} {count}" for name, count in figures["rows_by_method"].items())
    poor = f", {figures['unreliable_rows']} of them not reliable" * bool(figures["unreliable_rows"])
    return f"{methods or 'none'}{poor}"
