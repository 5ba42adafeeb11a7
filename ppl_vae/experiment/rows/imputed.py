"""A file with its missing entries filled in, once or several times."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.files import TABLES
from ppl_vae.data.tables.frames import as_pandas, is_frame
from ppl_vae.data.tables.levels import level_name
from ppl_vae.data.validation import storable
from ppl_vae.errors import TooLargeError
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.outputs import (
    methods_in_words,
    original_table,
    refuse_taken,
    require_table,
    row_names_of,
    write_frame,
)
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.runtime.files import write_folder
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.text import counted
from ppl_vae.tasks.imputation import Imputations, MultipleImputation, impute

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImputedTable", "impute_file"]

MOST_FILES = 10_000
IMPUTATION = ".imp"  # the columns that mice puts before a long table
ROW = ".id"


@dataclass(frozen=True, repr=False)
class ImputedTable:
    """The table of a file, and the imputations of what is missing in the columns of x.

    Args:
        original: The table with all its columns; texts if the file is a .csv and becomes one.
        imputations: The imputations.
        is_text: Whether the table holds texts.
        names: Names of the rows that are no column of the table, as a .parquet has them.
        is_single: Whether the table is to be completed once, as by `single`.

    Example:
        >>> ImputedTable.__dataclass_fields__["original"].name
        'original'
    """

    original: "pd.DataFrame"
    imputations: Imputations
    is_text: bool = False
    names: "pd.Index | None" = None
    is_single: bool = False

    def table(self, i: int) -> "pd.DataFrame":
        """The table with imputation i, counted from 0, in the order of the columns of the file."""
        return self._named(self._filled(self.imputations.complete(i)))

    def long(self, *, with_original: bool = False) -> "pd.DataFrame":
        """All completed tables below each other, as R's mice has them.

        Column .imp counts the imputations from 1, and .id has the names of the rows, or else counts
        them from 1; the original is imputation 0.

        Args:
            with_original: Whether the original comes first, as mice needs it to read the table.
        """
        import pandas as pd

        tables = [self.table(i) for i in range(len(self.imputations))]
        first = 1 - with_original
        if with_original:
            first_table = self.original
            if not self.is_text:
                first_table = first_table.astype(tables[0].dtypes.to_dict())
            tables.insert(0, first_table)
        together = pd.concat(tables, ignore_index=True)
        numbers = np.repeat(np.arange(len(tables)) + first, len(self.original))
        rows = np.arange(len(self.original)) + 1 if self.names is None else storable(self.names)
        together.insert(0, IMPUTATION, numbers)
        together.insert(1, ROW, np.tile(rows, len(tables)))
        return together

    def single(self, level: float = 0.95) -> "pd.DataFrame":
        """The table completed once, with an interval or a probability for each imputed entry.

        Missing numbers become their mean, categories and Booleans the most probable value. Beside
        each imputed column are its lower and upper ends; beside one of categories or Booleans the
        probability of the value. They are empty where the entry was observed.

        Args:
            level: Probability of the intervals, at most 0.99.
        """
        found = self.imputations
        data = found.data
        ends = found.interval(level)
        frame = self._filled(found.single)
        for place, name in enumerate(data.feature_names):
            asked = found.asked[:, place]
            if not asked.any():
                continue
            if data.kinds[place] in ("boolean", "category", "ordered"):
                chances = found.probabilities(name).to_numpy().max(1)
                beside = {"probability": chances}
            else:
                beside = {"lower": ends[0, :, place], "upper": ends[1, :, place]}
            for number, (what, values) in enumerate(beside.items(), start=1):
                where = _names(frame).index(name) + number
                frame.insert(where, f"{name}.{what}", np.where(asked, values, np.nan))
        return self._named(frame)

    def write_single(self, output: str | Path, level: float = 0.95) -> list[Path]:
        """Write the table completed once, as in `single`.

        Args:
            output: A file .csv or .parquet.
            level: Probability of the intervals.

        Returns:
            The file.
        """
        return [write_frame(self.single(level), output, index=self.names is not None)]

    def write(self, output: str | Path, *, with_original: bool = False) -> list[Path]:
        """Write the long table, or each completed table to a file of a new folder.

        Args:
            output: A file .csv or .parquet, or a folder.
            with_original: Whether a long table has the original as imputation 0.

        Returns:
            The files.
        """
        path = Path(output)
        if path.suffix in TABLES:
            return [write_frame(self.long(with_original=with_original), path)]
        width = len(str(len(self.imputations)))
        names = [f"imputation-{i + 1:0{width}}.csv" for i in range(len(self.imputations))]

        def write(folder: Path) -> None:
            for i, name in enumerate(names):
                write_frame(self.table(i), folder / name, index=self.names is not None)

        write_folder(path, write)
        return [path / name for name in names]

    def figures(self) -> dict[str, Any]:
        """What was imputed, how, and for how many rows the draws are not reliable."""
        found = self.imputations
        names, counts = np.unique(found.served.method[found.asked.any(1)], return_counts=True)
        return {
            "rows": len(self.original),
            "missing": int(found.asked.sum()),
            "share_missing": float(found.asked.mean()),
            "num_imputations": 1 if self.is_single else len(found),
            "rows_by_method": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "unreliable_rows": found.served.num_unreliable,
        }

    @override
    def __repr__(self) -> str:
        found = self.figures()
        times = "once" if self.is_single else f"{found['num_imputations']} times"
        return (
            f"{found['missing']} of {self.imputations.asked.size} cells imputed "
            f"({found['share_missing']:.1%}), {times}; rows by method: {methods_in_words(found)}"
        )

    def _named(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """The table with the names of its rows, if they are no column."""
        return frame if self.names is None else frame.set_axis(self.names)

    def _filled(self, completed: "pd.DataFrame") -> "pd.DataFrame":
        """The table of the file with these columns; whole numbers stay whole."""
        frame = self.original.copy()
        names = _names(frame)
        data = self.imputations.data
        for place, name in enumerate(data.feature_names):
            asked = self.imputations.asked[:, place]
            if not asked.any():
                continue
            column = completed[name].reset_index(drop=True)
            cells = frame.iloc[:, names.index(name)]
            is_whole = self.is_text or cells.dtype.kind in "iu"
            if is_whole and column.dtype.kind == "f" and _are_whole(column):
                column = column.astype("Int64")
                if not self.is_text:
                    column[~asked] = cells[~asked]  # with all digits
            if self.is_text:
                is_level = data.kinds[place] in ("boolean", "category", "ordered")
                column = _written(cells, column, asked, is_level)
            frame.isetitem(names.index(name), column)
        return frame


def impute_file(
    run: TrainedRun, rows: Any, output: str | Path, *, single: bool = False, **options: Any
) -> ImputedTable:
    """Imputations of the missing entries of a file.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet in the columns of the training file, or a frame.
        output: Where the imputations are to go, which is checked before they are drawn.
        single: Whether the table is to be completed once.
        options: Keywords of `impute`.

    Raises:
        ConfigError: A column is missing, a level was never seen, the rows are no table, or
            `output` cannot be written.

    Example:
        >>> impute_file.__name__
        'impute_file'
    """
    path = Path(output)
    if single or path.suffix in TABLES:
        require_table(path, "imputations")
    else:
        _require_new_folder(path)
    rows = as_pandas(rows, "rows")
    data = run.read(rows)
    original = original_table(rows, path, run.schema)
    refuse_taken(original, _results(data, path, is_single=single))
    num_tables = options.get("num_imputations", MultipleImputation.num_imputations)
    _require_room(original, 1 if single else num_tables, path)
    found = impute(run.model, run.guide, data, **options)
    is_text = not is_frame(rows) and Path(rows).suffix == ".csv" and path.suffix != ".parquet"
    return ImputedTable(original, found, is_text, row_names_of(rows), single)


def _results(data: Dataset, output: Path, *, is_single: bool) -> list[str]:
    """Names of the columns that the imputations add to a table."""
    if is_single:
        missing = data.x.isnan().any(0).tolist()
        names = [name for name, some in zip(data.feature_names, missing, strict=True) if some]
        return [f"{name}.{what}" for name in names for what in ("lower", "upper", "probability")]
    return [IMPUTATION, ROW] if output.suffix in TABLES else []


def _names(frame: "pd.DataFrame") -> list[str]:
    """The names of the columns, without the spaces that a header may have."""
    return [str(name).strip() for name in frame.columns]


def _written(
    cells: "pd.Series", completed: "pd.Series", asked: np.ndarray, is_level: bool
) -> "pd.Series":
    """The cells of a column with the imputed values in its holes, levels spelled as elsewhere."""
    spelled: dict[str, str] = {}
    if is_level:
        seen = zip(completed[~asked], cells[~asked], strict=True)
        for value, text in seen:
            spelled.setdefault(level_name(value), text.strip())
    names = [level_name(value) for value in completed[asked]]
    filled = cells.copy()
    filled[asked] = [spelled.get(name, name) for name in names]
    return filled


def _require_room(original: "pd.DataFrame", num_tables: int, output: Path) -> None:
    """Refuse more tables than fit into memory below each other, or into a folder."""
    what = f"{output} with {counted(num_tables, 'table')} of {counted(len(original), 'row')}"
    if output.suffix in TABLES:
        require_memory(what, num_tables, *original.shape, num_bytes=8)
    elif num_tables > MOST_FILES:
        raise TooLargeError(f"{what} is a folder of more than {MOST_FILES:,} files: ask for less")


def _require_new_folder(path: Path) -> None:
    """Refuse a folder that holds something, or a file."""
    if path.suffix or path.is_file():
        raise ConfigError(
            f"{path}: imputations go to a file {' or '.join(TABLES)}, or to a folder without suffix"
        )
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty: choose another folder")


def _are_whole(column: "pd.Series") -> bool:
    """Whether all observed values are whole numbers of 64 bits."""
    values = column.to_numpy(np.float64, na_value=np.nan)
    seen = values[~np.isnan(values)]
    return bool((seen == np.round(seen)).all() and (abs(seen) < 2.0**63).all())
