"""Samples from a trained run, as a picture, an array or a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.files import TABLES, Roles
from ppl_vae.diagnostics import plot_samples
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.results import plot_drawn, write_picture
from ppl_vae.experiment.rows.outputs import write_frame
from ppl_vae.experiment.rows.sources import errors_of, read_known
from ppl_vae.programs.modules import place
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.seeding import seeded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_samples"]

SUFFIXES = (".png", ".npz", ".npy", *TABLES)
NUM_SAMPLES = 64


def write_samples(
    experiment: Experiment,
    output: str | Path,
    *,
    num_samples: int | None = None,
    context: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Draw z from the prior, and write draws of x to an array or a table, or their means to a
    picture.

    A model with covariates uses those of the first evaluation rows, or of a file. In a table they
    are beside x.

    Args:
        experiment: From `load_run`.
        output: A file .npz (with `x`), .npy, .png, .csv or .parquet.
        num_samples: Number of samples; None is 64, or one for each row of the file of covariates.
        context: A table with covariates, .csv or .parquet.
        seed: Seed of the draws.

    Raises:
        ConfigError: the suffix is not one of these, or there are fewer rows of covariates than
            samples.

    Example:
        >>> import tempfile
        >>> from ppl_vae.experiment import build, read_config
        >>> experiment = build(read_config(changes=[("data.name", "digits")]))
        >>> np.load(write_samples(experiment, tempfile.mkdtemp() + "/x.npy", num_samples=2)).shape
        (2, 8, 8)
    """
    path = Path(output)
    model = experiment.model
    data = experiment.data
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: samples go to a file {', '.join(SUFFIXES)}, not "
            f"{path.suffix or 'one without suffix'}"
        )
    if path.suffix in TABLES and len(data.event_shape) != 1:
        raise ConfigError(f"{path}: rows of {data.name!r} are not a table: write .npz or .png")
    rows = _rows_with_covariates(experiment, num_samples, context)
    num_samples = NUM_SAMPLES if num_samples is None else num_samples
    covariates = None
    if rows is not None:
        num_samples = len(rows)
        covariates = place(rows, model).context
    if path.suffix == ".png" and "x" in data.columns:
        write_picture(path, lambda: plot_drawn(model, experiment.held_out))
        return path
    if path.suffix == ".png":
        options: dict[str, Any] = {"context": covariates, "seed": seed}
        write_picture(path, lambda: plot_samples(model, num_samples, data.image_shape, **options))
        return path
    with seeded(seed):
        x = model.sample(num_samples, covariates).cpu().numpy()
    if path.suffix in TABLES:
        return write_frame(_as_table(x, data, rows), path)
    write = {".npz": lambda p: np.savez(p, x=x), ".npy": lambda p: np.save(p, x)}
    return write_whole(path, write[path.suffix])


def _rows_with_covariates(
    experiment: Experiment, num_samples: int | None, context: str | Path | None
) -> Dataset | None:
    """Rows with the covariates of the samples; None if the model takes none."""
    data = experiment.data
    if data.context is None:
        if context is not None:
            raise ConfigError(f"{context}: the run has no covariates, so it takes no --context")
        return None
    rows = experiment.held_out
    source = "the evaluation rows"
    wanted = min(NUM_SAMPLES, len(rows)) if num_samples is None else num_samples
    if context is not None:
        rows = _with_context_of(context, rows, experiment.config.data.roles)
        source = str(context)
        wanted = len(rows) if num_samples is None else num_samples
    if wanted > len(rows):
        raise ConfigError(
            f"{wanted} samples need as many rows of covariates, and there are {len(rows)} in "
            f"{source}: draw fewer"
        )
    return rows[:wanted]


def _with_context_of(path: str | Path, rows: Dataset, roles: Roles) -> Dataset:
    """As many rows as the file has, with its covariates."""
    with errors_of(path):
        known = read_known(path, rows.schema)
        frame = Roles(columns=(), context=roles.context).fields(known, path)["context"]
        values = {name: column.to_numpy() for name, column in frame.items()}
        return rows[np.zeros(len(frame), int)].with_context(values)


def _as_table(x: np.ndarray, data: Dataset, rows: Dataset | None) -> "pd.DataFrame":
    """Draws in the columns of x, beside the covariates for which they were drawn."""
    frame = data.to_frame(x).reset_index(drop=True)
    if rows is None:
        return frame
    covariates = rows.context_frame().reset_index(drop=True)
    twice = {name: f"{name} (covariate)" for name in covariates if name in frame}
    return frame.join(covariates.rename(columns=twice))
