"""A file with noisy numbers replaced by their posterior means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.frames import as_pandas
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
from ppl_vae.runtime.checks import suggestion
from ppl_vae.tasks.denoising import (
    Denoised,
    Dropout,
    GaussianNoise,
    Noise,
    PoissonNoise,
    SaltAndPepper,
    denoise,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NOISES", "DenoisedTable", "denoise_file", "noise_of"]

NOISES: dict[str, tuple[type[Noise], str]] = {
    "gaussian": (GaussianNoise, "sd"),
    "salt-and-pepper": (SaltAndPepper, "probability"),
    "dropout": (Dropout, "probability"),
    "poisson": (PoissonNoise, "peak"),
}
RELIABLE = "reliable"  # the last column
SUFFIXES = (".sd", ".lower", ".upper")  # of the columns beside a denoised one


@dataclass(frozen=True, repr=False)
class DenoisedTable:
    """The table of a file, and the posterior of the clean values of its noisy columns.

    Args:
        original: The table as it was read, with all its columns.
        denoised: The posterior.
        columns: The noisy columns.
        names: Names of the rows that are no column of the table, as a .parquet has them.

    Example:
        >>> DenoisedTable.__dataclass_fields__["original"].name
        'original'
    """

    original: "pd.DataFrame"
    denoised: Denoised
    columns: tuple[str, ...]
    names: "pd.Index | None" = None

    def table(self, level: float = 0.95) -> "pd.DataFrame":
        """The table with posterior means in the noisy columns, and sd and interval beside them.

        A value that is missing in such a column stays missing. A last column says whether the draws
        of the row are reliable.

        Args:
            level: Probability of the intervals, at most 0.99.
        """
        found = self.denoised
        low, high = found.interval(level)
        names = list(found.posterior.data.feature_names)
        frame = self.original.copy()
        for name in self.columns:
            place = names.index(name)
            where = [str(each).strip() for each in frame.columns].index(name)
            known = ~np.isnan(found.posterior.data.exact[:, place])
            summaries = {
                "": found.mean[:, place],
                ".sd": found.sd[:, place],
                ".lower": low[:, place],
                ".upper": high[:, place],
            }
            frame = frame.iloc[:, [i for i in range(frame.shape[1]) if i != where]].copy()
            for number, (suffix, values) in enumerate(summaries.items()):
                frame.insert(where + number, f"{name}{suffix}", values)
                frame.loc[~known, f"{name}{suffix}"] = None
        frame[RELIABLE] = found.posterior.served.is_reliable
        return frame if self.names is None else frame.set_axis(self.names)

    def write(self, output: str | Path, level: float = 0.95) -> Path:
        """Write the table.

        Args:
            output: A file .csv or .parquet.
            level: Probability of the intervals.
        """
        return write_frame(self.table(level), output, index=self.names is not None)

    def figures(self) -> dict[str, Any]:
        """Number of rows, the noisy columns, and for how many rows the draws are not reliable."""
        served = self.denoised.posterior.served
        return {
            "rows": len(self.original),
            "columns": list(self.columns),
            "rows_by_method": self.denoised.rows["method"].value_counts().to_dict(),
            "unreliable_rows": served.num_unreliable,
        }

    @override
    def __repr__(self) -> str:
        found = self.figures()
        return (
            f"{found['rows']} rows cleaned in {', '.join(self.columns)}; rows by method: "
            f"{methods_in_words(found)}"
        )


def noise_of(name: str, **settings: float | None) -> Noise:
    """The noise of this name, with its number.

    Args:
        name: One of `NOISES`.
        settings: sd, probability or peak; None is not given.

    Raises:
        ConfigError: There is no such noise, or another number was given.

    Example:
        >>> noise_of("gaussian", sd=0.1, peak=None)
        GaussianNoise(sd=0.1)
    """
    if name not in NOISES:
        raise ConfigError(f"noise is {name!r}: {suggestion(name, NOISES)}")
    kind, wanted = NOISES[name]
    given = {key: value for key, value in settings.items() if value is not None}
    if list(given) != [wanted]:
        said = ", ".join(f"--{key}" for key in given) or "nothing"
        raise ConfigError(f"{name} noise takes --{wanted}, and {said} was given")
    make: Any = kind
    return make(**given)


def denoise_file(
    run: TrainedRun,
    rows: Any,
    noise: Noise,
    output: str | Path,
    columns: Sequence[str] | None = None,
    **options: Any,
) -> DenoisedTable:
    """The clean rows behind the noisy ones of a file.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet in the columns of the training file, or a frame.
        noise: The noise of each noisy column.
        output: Where the table is to go, which is checked before.
        columns: The noisy columns; None is all columns of numbers.
        options: Keywords of `denoise`.

    Raises:
        ConfigError: A column is missing, has categories, or a value is none of its levels.

    Example:
        >>> denoise_file.__name__
        'denoise_file'
    """
    require_table(output, "denoised rows")
    rows = as_pandas(rows, "rows")
    data = run.read(rows)
    noisy = _noisy(data, columns)
    original = original_table(rows, output, run.schema)
    names = [f"{name}{suffix}" for name in noisy for suffix in SUFFIXES]
    refuse_taken(original, [*names, RELIABLE])
    each = dict.fromkeys(noisy, noise)
    model: Any = run.model
    guide: Any = run.guide
    found = denoise(model, guide, data, each, **options)
    return DenoisedTable(original, found, noisy, row_names_of(rows))


def _noisy(data: Dataset, columns: Sequence[str] | None) -> tuple[str, ...]:
    """The noisy columns, all of numbers."""
    numbers = [name for name in data.feature_names if name not in data.levels]
    if columns is None:
        return tuple(numbers)
    for name in columns:
        if name not in numbers:
            what = "holds categories" if name in data.levels else "is not modelled"
            raise ConfigError(f"column {name!r} {what}: {suggestion(name, numbers)}")
    return tuple(columns)
