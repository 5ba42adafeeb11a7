"""Two groups among the rows of a file, told apart by one of its columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from ppl_vae.data.tables.frames import as_pandas, is_frame
from ppl_vae.data.tables.schema import Schema
from ppl_vae.data.tables.text_files import with_codes
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.outputs import require_rows_of_table, write_frame
from ppl_vae.experiment.rows.sources import errors_of, new_rows, read_known
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.runtime.checks import one_of, real_number, suggestion
from ppl_vae.tasks.contrasts import Contrast, contrast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FileContrast", "contrast_file"]


@dataclass(frozen=True, repr=False)
class FileContrast:
    """A contrast of the rows of a file, and what it finds at a level.

    Args:
        contrast: The differences.
        level: Level of discoveries.
        method: How p-values of features are adjusted, "bh" or "by".

    Example:
        >>> FileContrast.__dataclass_fields__["level"].name
        'level'
    """

    contrast: Contrast
    level: float
    method: Any

    def table(self) -> "pd.DataFrame":
        """One row for each latent and each feature, with its adjusted p-value and mark."""
        frame = self.contrast.to_frame()
        features = self.contrast.features.adjusted(self.method)
        frame["adjusted"] = [*self.contrast.latents.adjusted(), *features]
        return frame.assign(discovery=frame["adjusted"] <= self.level)

    def write(self, output: str | Path) -> Path:
        """Write the table.

        Args:
            output: A file .csv or .parquet.
        """
        return write_frame(self.table(), output, index=True)

    def figures(self) -> dict[str, Any]:
        """Numbers of rows and subjects of each group, and of discoveries."""
        design = self.contrast.design
        marks = self.table()["discovery"]
        return {
            "rows": len(design.unit),
            "groups": list(design.names),
            "units": list(design.counts),
            "permutations": self.contrast.latents.test.num_permutations,
            "level": self.level,
            "method": self.method,
            "latents": len(self.contrast.latents),
            "latent_discoveries": int(marks["latent"].sum()),
            "features": len(self.contrast.features),
            "feature_discoveries": int(marks["feature"].sum()),
        }

    @override
    def __repr__(self) -> str:
        found = self.figures()
        return (
            f"{self.contrast}\n\n{found['latent_discoveries']} of {found['latents']} latents "
            f"(max-t) and {found['feature_discoveries']} of {found['features']} features "
            f"({self.method}) differ at {self.level:g}"
        )


def contrast_file(
    run: TrainedRun,
    rows: Any,
    groups: str,
    *,
    strata: Sequence[str] | None = None,
    subjects: str | None = None,
    level: float = 0.05,
    method: Any = "bh",
    **options: Any,
) -> FileContrast:
    """Differences between two groups of the rows of a file; see `contrast`.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet with the columns of the training file, and those that follow.
        groups: Column with the group of each row; the model must not have been trained with it.
        strata: Columns within whose values rows are compared.
        subjects: Column with the subject of each row.
        level: Level of discoveries.
        method: How p-values of features are adjusted, "bh" or "by".
        options: Keywords of `contrast`.

    Raises:
        ConfigError: A column is missing, a level was never seen, or the model was trained with the
            column of the groups.

    Example:
        >>> contrast_file.__name__
        'contrast_file'
    """
    rows = as_pandas(rows, "rows")
    require_rows_of_table(rows)
    real_number(level, "level", above=0, below=1)
    one_of(method, "method", ("bh", "by"))
    wanted = {"groups": [groups], "strata": strata, "subjects": subjects and [subjects]}
    known = (*run.schema.names, *run.schema.context)
    codes = [name for names in wanted.values() for name in names or () if name not in known]
    table, coded = _tables(rows, run.schema, codes)
    coded = coded.reset_index(drop=True).rename(columns=str)
    parts = {what: _columns(coded, names, what) for what, names in wanted.items() if names}
    if groups in known:
        raise ConfigError(
            f"the model was trained with column {groups!r}, so that its latents know the groups: "
            f"train without it (ppl-vae fit --drop {groups})"
        )
    data = new_rows(table, run.schema, place=_place_of(rows))
    parts = {what: part.set_axis(data.index) for what, part in parts.items()}
    found = contrast(run.model, run.guide, data, **parts, **options)
    # for the warning where there are too few labellings for any discovery
    found.latents.discoveries(level)
    found.features.discoveries(level, method)
    return FileContrast(found, level, method)


def _place_of(rows: Any) -> str:
    """The rows, in messages."""
    return "the rows" if is_frame(rows) else str(rows)


def _tables(rows: Any, schema: Schema, codes: Sequence[str]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The table, and the same with codes as they are written where numbers would merge some."""
    if is_frame(rows):
        return rows, rows
    with errors_of(rows):
        written = read_known(rows, schema, codes)
    if Path(rows).suffix != ".csv":
        return written, written
    numbers = {name: _numbers(written[name]) for name in codes if name in written}
    table = written.assign(**numbers)
    return table, with_codes(table, written, codes)


def _numbers(texts: "pd.Series") -> "pd.Series":
    """Texts as numbers where all of them are some."""
    import pandas as pd

    found = pd.to_numeric(texts, errors="coerce")
    return found if found.isna().equals(texts.isna()) else texts


def _columns(frame: "pd.DataFrame", names: Sequence[str], what: str) -> "pd.DataFrame":
    """These columns of the table."""
    for name in names:
        if name not in frame:
            raise ConfigError(f"{what}: no column {name!r}: {suggestion(name, list(frame))}")
    return frame[list(names)]
