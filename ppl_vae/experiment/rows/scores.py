"""log p(x) of the rows of a new file."""

from pathlib import Path
from typing import Any

from ppl_vae.data.tables.files import TABLES
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.samples import write_frame
from ppl_vae.experiment.rows.sources import new_rows

__all__ = ["write_scores"]

COLUMNS = ("log_evidence", "mc_se", "pareto_k", "is_estimate")


def write_scores(
    experiment: Experiment, path: str | Path, output: str | Path, *, progress: bool = True
) -> Evidence:
    """Estimate log p(x) of each row of a file, and write a table with a row for each.

    Its columns are those of `Evidence`: log_evidence, mc_se, pareto_k, and is_estimate (else
    log p(x) is a lower bound). Columns and levels of the file are matched by name.

    Args:
        experiment: From `load_run`; its [evaluation] has the method.
        path: The new rows, .csv or .parquet, in the columns of the training file.
        output: A file .csv or .parquet.
        progress: Whether to show a bar.

    Raises:
        ConfigError: A column is missing, a level was never seen, or a file has another suffix.

    Example:
        >>> COLUMNS[0]
        'log_evidence'
    """
    if Path(output).suffix not in TABLES:
        raise ConfigError(f"{output}: scores go to a file {' or '.join(TABLES)}")
    import pandas as pd

    data = new_rows(path, experiment.data, experiment.config.data.roles)
    table = experiment.config.evaluation
    options: dict[str, Any] = {"seed": table.seed, "progress": progress}
    model, guide = experiment.model, experiment.guide
    evidence = log_evidence(model, guide, data, table.method.build(), **options)
    index = pd.Index(data.coords[data.dims[0]], name="row")
    scores = pd.DataFrame({name: getattr(evidence, name) for name in COLUMNS}, index)
    write_frame(scores, output, index=True)
    return evidence
