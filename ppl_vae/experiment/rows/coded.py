"""The rows of a file, compressed by a trained model, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.errors import DamagedFileError, OtherSettingsError
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.outputs import require_table, write_frame
from ppl_vae.experiment.rows.sources import errors_of, read_known
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.runtime.files import require_file, write_whole
from ppl_vae.runtime.text import counted
from ppl_vae.tasks.compression import CompressedRows, compress, decompress

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FileSizes", "compress_file", "decompress_file"]

SUFFIX = ".bits"


@dataclass(frozen=True, repr=False)
class FileSizes:
    """Sizes of compressed rows beside those of the file that they came from.

    Args:
        compressed: The compressed rows.
        num_bytes: Size of the compressed file.
        num_bytes_before: Size of the file of the rows.

    Example:
        >>> FileSizes.__dataclass_fields__["num_bytes"].name
        'num_bytes'
    """

    compressed: CompressedRows
    num_bytes: int
    num_bytes_before: int

    def figures(self) -> dict[str, Any]:
        """Bits of a row with and without header and initial bits, and sizes of the files."""
        num_rows = self.compressed.num_rows
        return {
            "rows": num_rows,
            "bytes": self.num_bytes,
            "bytes_before": self.num_bytes_before,
            "bits_per_row": 8 * self.num_bytes / num_rows,
            "net_bits_per_row": self.compressed.net_bits_per_row,
            "initial_bits": self.compressed.initial_bits,
        }

    @override
    def __repr__(self) -> str:
        found = self.figures()
        return (
            f"{counted(found['rows'], 'row')} in {found['bytes']:,} bytes (the table has "
            f"{found['bytes_before']:,}): {found['bits_per_row']:.1f} bits a row, "
            f"{found['net_bits_per_row']:.1f} without header and initial bits"
        )


def compress_file(run: TrainedRun, rows: Path, output: Path, **options: Any) -> FileSizes:
    """Compress the modelled columns of the rows of a file, and write them.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet in the columns of the training file.
        output: A file .bits.
        options: Keywords of `compress`.

    Raises:
        ConfigError: A column is missing, a level was never seen, or `output` is another file.
        ValueError: A value is missing, or the model has a density.

    Example:
        >>> compress_file.__name__
        'compress_file'
    """
    if output.suffix != SUFFIX or output.is_dir():
        raise ConfigError(f"{output}: compressed rows go to a file {SUFFIX}")
    data = run.read(rows)
    model: Any = run.model
    guide: Any = run.guide
    found = compress(model, guide, data, **options)
    write_whole(output, lambda path: path.write_bytes(found))
    return FileSizes(CompressedRows.from_bytes(found), len(found), rows.stat().st_size)


def decompress_file(
    run: TrainedRun, compressed: Path, output: Path, *, context: Path | None = None, **options: Any
) -> "pd.DataFrame":
    """Write the rows that `compress_file` compressed, as a table.

    Args:
        run: From `load_run`.
        compressed: The file .bits.
        output: A file .csv or .parquet.
        context: A table with the covariates of these rows, in their order.
        options: Keywords of `decompress`.

    Raises:
        ConfigError: There is no such file, or it has no covariates and the model needs some.
        DamagedFileError: It is damaged.
        OtherSettingsError: It was compressed by other weights, versions or covariates.

    Example:
        >>> decompress_file.__name__
        'decompress_file'
    """
    require_table(output, "decompressed rows")
    with errors_of(compressed):
        content = require_file(compressed).read_bytes()
    schema = run.schema
    covariates = None
    if schema.context:
        covariates = _covariates(run, context)
    elif context is not None:
        raise ConfigError(f"{context}: the run has no covariates, so it takes no --context")
    model: Any = run.model
    guide: Any = run.guide
    try:
        x = decompress(model, guide, content, context=covariates, **options)
    except (DamagedFileError, OtherSettingsError) as error:
        raise type(error)(f"{compressed}: {error}") from error
    levels = schema.columns.levels
    data = Dataset(x, feature_names=schema.names, levels=levels, dtype=x.dtype).with_schema(schema)
    frame = data.to_frame().reset_index(drop=True)
    write_frame(frame, output)
    return frame


def _covariates(run: TrainedRun, path: Path | None) -> Any:
    """The covariates of a table, as the networks are given them."""
    if path is None:
        names = ", ".join(run.schema.context)
        raise ConfigError(f"the model has covariates ({names}): give a table with them (--context)")
    frame = read_known(path, run.schema)
    others = {name: np.nan for name in run.schema.names if name not in frame}
    return run.read(frame.assign(**others)).context
