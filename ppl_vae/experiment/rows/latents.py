"""Latents of the rows of a new file."""

from pathlib import Path
from typing import Any

from ppl_vae.diagnostics.latents.means import LatentMeans, latent_means
from ppl_vae.experiment.rows.outputs import require_table, write_frame
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.programs.validation import check_data

__all__ = ["write_latents"]


def write_latents(
    run: TrainedRun, rows: Any, output: str | Path, *, seed: int = 0, progress: bool = True
) -> LatentMeans:
    """Write the mean and the sd of q(z given x) of each row, in a table with a row for each.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet in the columns of the training file, or other rows.
        output: A file .csv or .parquet.
        seed: Seed of the draws, where a family has no mean in closed form.
        progress: Whether to show a bar.

    Raises:
        ConfigError: A column is missing, a level was never seen, or a file has another suffix.
        ValueError: A value lies outside the support of its likelihood.

    Example:
        >>> write_latents.__name__
        'write_latents'
    """
    require_table(output, "latents")
    data = run.read(rows)
    check_data(run.model, data.x, data.context, run.guide)
    found = latent_means(run.guide, data, seed=seed, progress=progress)
    write_frame(found.to_frame(), output, index=True)
    return found
