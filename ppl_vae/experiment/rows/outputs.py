"""Tables that are written, and the numbers that are told of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.data.tables.files import TABLES
from ppl_vae.experiment.config import ConfigError
from ppl_vae.runtime.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["require_table", "write_frame"]


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
