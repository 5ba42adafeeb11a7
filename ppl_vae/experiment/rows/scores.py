"""log p(x) of the rows of a new file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.files import TABLES
from ppl_vae.evidence import Evidence, log_evidence, pooled
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.samples import write_frame
from ppl_vae.experiment.rows.sources import new_rows

__all__ = ["judged_beside", "write_scores"]

ENOUGH = 100  # rows that show by themselves whether their errors are skewed
COLUMNS = ("log_evidence", "mc_se", "pareto_k", "is_estimate")


def write_scores(
    experiment: Experiment, path: str | Path, output: str | Path, *, progress: bool = True
) -> Evidence:
    """Estimate log p(x) of each row of a file, and write a table with a row for each.

    Its columns are those of `Evidence`: log_evidence, mc_se, pareto_k, and is_estimate (else
    log p(x) is a lower bound). Columns and levels of the file are matched by name. Fewer than 100
    rows are judged together with held-out rows of the run.

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
    method = table.method.build()

    def evaluate(rows: Dataset) -> Evidence:
        return log_evidence(experiment.model, experiment.guide, rows, method, **options)

    evidence = evaluate(data)
    if len(data) < ENOUGH:
        evidence = judged_beside(evidence, evaluate(experiment.held_out[:ENOUGH].unweighted()))
    index = pd.Index(data.coords[data.dims[0]], name="row")
    scores = pd.DataFrame({name: getattr(evidence, name) for name in COLUMNS}, index)
    write_frame(scores, output, index=True)
    return evidence


def judged_beside(evidence: Evidence, others: Evidence) -> Evidence:
    """Evidence of few rows, whose reliability is judged together with that of other rows.

    Few rows cannot show whether their errors are skewed, but similar rows, of the same model and
    method, can. A row whose log-weights have a wider spread than those of all others keeps its own
    verdict.

    Args:
        evidence: Evidence of the few rows.
        others: Evidence of held-out rows of the run.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> draws = np.random.default_rng(0).normal(0.0, 0.5, (500, 61))
        >>> few = reduce_log_weights(draws[:, :1]).judged()
        >>> others = reduce_log_weights(draws[:, 1:])
        >>> few.is_estimate, judged_beside(few, others).is_estimate
        (array([False]), array([ True]))
    """
    if evidence.spread is None or others.spread is None:
        return evidence
    together = pooled([evidence, others]).is_estimate[: len(evidence)]
    is_alike = evidence.spread <= others.spread.max()
    return replace(evidence, believed=np.where(is_alike, together, evidence.is_estimate))
