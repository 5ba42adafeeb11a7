"""log p(x) of the rows of a new file."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.evidence import Evidence, log_evidence, pooled
from ppl_vae.experiment.rows.outputs import require_table, write_frame
from ppl_vae.experiment.saved.trained import TrainedRun

__all__ = ["figures_of", "judged_beside", "write_scores"]

ENOUGH = 100  # rows that show by themselves whether their errors are skewed
COLUMNS = ("log_evidence", "mc_se", "pareto_k", "is_estimate")


def write_scores(
    run: TrainedRun,
    rows: Any,
    output: str | Path,
    *,
    num_particles: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x) of each of further rows, and write a table with a row for each.

    Its columns are those of `Evidence`: log_evidence, mc_se, pareto_k, and is_estimate (else
    log p(x) is a lower bound). Columns and levels are matched by name. Fewer than 100 rows are
    judged together with held-out rows of the run, if it has its rows.

    Args:
        run: From `load_run`; its [evaluation] has the method.
        rows: A file .csv or .parquet in the columns of the training file, or other rows.
        output: A file .csv or .parquet.
        num_particles: Particles K per row; None is that of the method.
        seed: Seed of the draws; None is that of the run.
        progress: Whether to show a bar.

    Raises:
        ConfigError: A column is missing, a level was never seen, or a file has another suffix.

    Example:
        >>> COLUMNS[0]
        'log_evidence'
    """
    require_table(output, "scores")
    import pandas as pd

    data = run.read(rows)
    table = run.settings(num_particles=num_particles, seed=seed)
    options: dict[str, Any] = {"seed": table.seed, "progress": progress}
    method = table.method.build()

    def evaluate(rows: Dataset) -> Evidence:
        return log_evidence(run.model, run.guide, rows, method, **options)

    evidence = evaluate(data)
    if len(data) < ENOUGH and run.has_rows:
        evidence = judged_beside(evidence, evaluate(run.held_out[:ENOUGH].unweighted()))
    index = pd.Index(data.coords[data.dims[0]], name="row")
    scores = pd.DataFrame({name: getattr(evidence, name) for name in COLUMNS}, index)
    write_frame(scores, output, index=True)
    return evidence


def figures_of(evidence: Evidence) -> dict[str, Any]:
    """Means over the rows, as in `EvidenceSummary`.

    Args:
        evidence: Evidence of the rows.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> draws = np.random.default_rng(0).normal(0.0, 0.5, (500, 61))
        >>> figures_of(reduce_log_weights(draws))["num_data"]
        61
    """
    return asdict(evidence.summary())


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
    unlike: Any = {"checks": {}, "digests": None, "weights": None}  # the verdicts use none of these
    both = [replace(each, **unlike) for each in (evidence, others)]
    together = pooled(both).is_estimate[: len(evidence)]
    is_alike = evidence.spread <= others.spread.max()
    return replace(evidence, believed=np.where(is_alike, together, evidence.is_estimate))
