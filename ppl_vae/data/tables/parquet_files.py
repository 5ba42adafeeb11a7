"""Tables in .parquet files, with what they would need in memory, and types that pandas noted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.errors import TooLargeError
from ppl_vae.runtime.memory import require_memory, require_unpacked

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_parquet", "require_few_columns"]

MOST_COLUMNS = 100_000


def read_parquet(path: Path) -> "pd.DataFrame":
    """The table in a .parquet file, if it is read to its end with the memory there is.

    Categories whose levels are numbers, which the file holds as numbers, are categories again.

    Example:
        >>> import pandas as pd, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.parquet"
        >>> pd.DataFrame({"site": pd.Categorical([10, 20])}).to_parquet(path)
        >>> str(read_parquet(path)["site"].dtype)
        'category'
    """
    import pandas as pd

    require_few_columns(path, _num_columns(path))
    frame = pd.read_parquet(path)
    for name, is_ordered in _categories_of_numbers(path).items():
        if name in frame and frame[name].dtype.kind in "iuf":
            levels = np.sort(frame[name].dropna().unique()).tolist()
            frame[name] = pd.Categorical(frame[name], levels, ordered=is_ordered)
    return frame


def _categories_of_numbers(path: Path) -> dict[str, bool]:
    """Categories with numbers for levels, and whether they are ordered, as pandas noted them.

    The file holds these numbers alone, in no order but their own.
    """
    from pyarrow.parquet import read_schema

    noted = (read_schema(path).pandas_metadata or {}).get("columns", [])
    return {
        each["name"]: bool((each["metadata"] or {}).get("ordered"))
        for each in noted
        if each["pandas_type"] == "categorical"
    }


def require_few_columns(path: Path, num_columns: int) -> None:
    """Raise TooLargeError for a table with more columns than a model takes.

    Example:
        >>> require_few_columns(Path("a.csv"), 10)
    """
    if num_columns > MOST_COLUMNS:
        raise TooLargeError(
            f"{path} has {num_columns:,} columns or more, and a table has at most "
            f"{MOST_COLUMNS:,}: give arrays in an .npy or .npz file"
        )


def _num_columns(path: Path) -> int:
    """The number of columns of a .parquet file, whose values fit into memory."""
    try:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            found = file.metadata
            num_rows, num_columns = found.num_rows, found.num_columns
            schema = [found.schema.column(i) for i in range(min(num_columns, MOST_COLUMNS))]
    except Exception:  # reading the table says what is wrong
        return 0
    what = f"{path} with {num_rows:,} rows of {num_columns:,} columns"
    require_memory(what, num_rows, num_columns, num_bytes=8)
    require_unpacked(path, 8 * num_rows * num_columns)
    texts = [each.path for each in schema if _is_text(each)]
    if texts and num_columns <= MOST_COLUMNS:
        _require_texts(path, texts)
    return num_columns


def _is_text(column: Any) -> bool:
    """Whether a column holds texts or bytes, whose length the file does not declare."""
    return column.physical_type == "BYTE_ARRAY" and column.path == column.name


def _require_texts(path: Path, names: list[str]) -> None:
    """Raise TooLargeError for texts that are stored once and repeated without end.

    They are read as numbers of the texts stored, in parts; the file is opened again for it.
    """
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    num_bytes = 0
    try:
        with ParquetFile(path, read_dictionary=names) as file:
            for batch in file.iter_batches(columns=names):
                for column in batch.columns:
                    lengths = pc.binary_length(column.dictionary).take(column.indices)
                    num_bytes += pc.sum(lengths).as_py() or 0
                require_unpacked(path, num_bytes)
    except TooLargeError:
        raise
    except Exception:  # reading the table says what is wrong
        return
