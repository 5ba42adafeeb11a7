"""Anomalies among the rows of a new file."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, override

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.outputs import require_table, write_frame
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.runtime.checks import real_number, suggestion, warn_caller
from ppl_vae.runtime.text import echoed
from ppl_vae.tasks.anomaly import AnomalyPValues, anomaly_pvalues
from ppl_vae.tasks.anomaly.split_conformal import SCORES

__all__ = ["FileAnomalies", "calibration_rows", "file_anomalies"]


@dataclass(frozen=True, repr=False)
class FileAnomalies:
    """P-values of the rows of a file, and the rows that are marked at a false discovery rate.

    Args:
        p_values: The p-values.
        level: The false discovery rate.

    Example:
        >>> found = FileAnomalies(AnomalyPValues.from_scores(range(99), [50.0, 200.0]), 0.05)
        >>> found.figures()["anomalies"]
        1
    """

    p_values: AnomalyPValues
    level: float

    @cached_property
    def is_anomaly(self) -> np.ndarray:
        """The rows that are marked, (m,)."""
        return self.p_values.discoveries(self.level)

    def figures(self) -> dict[str, Any]:
        """Numbers of rows, and of the marked ones."""
        return {
            "rows": len(self.p_values),
            "calibration_rows": len(self.p_values.calibration_scores),
            "score": self.p_values.score,
            "level": self.level,
            "anomalies": int(self.is_anomaly.sum()),
            "smallest_p_value": float(self.p_values.p_values.min()),
        }

    def write(self, output: str | Path) -> Path:
        """Write score, p-value, adjusted p-value and mark of each row.

        Args:
            output: A file .csv or .parquet.

        Returns:
            The file.
        """
        frame = self.p_values.to_frame().assign(anomaly=self.is_anomaly)
        return write_frame(frame, require_table(output, "anomalies"), index=True)

    @override
    def __repr__(self) -> str:
        found = self.figures()
        return (
            f"{found['anomalies']} of {found['rows']} rows are marked at a false discovery rate of "
            f"{self.level:g} ({found['score']}, calibrated by {found['calibration_rows']} rows)"
        )


def file_anomalies(
    run: TrainedRun,
    rows: Any,
    calibration: Dataset,
    *,
    score: str = "log_evidence",
    level: float = 0.05,
    refine: bool = True,
    progress: bool = True,
    **settings: int | None,
) -> FileAnomalies:
    """P-values of further rows among rows of calibration; see `anomaly_pvalues`.

    Args:
        run: From `load_run`.
        rows: A file .csv or .parquet in the columns of the training file, or other rows.
        calibration: From `calibration_rows`.
        score: Name of the score.
        level: The false discovery rate.
        refine: Whether the guide is refined for each row; else the encoder's serves all rows.
        progress: Whether to show a bar.
        settings: Keywords of the score: seed, num_particles; None leaves its own.

    Raises:
        ConfigError: A column is missing, a level was never seen, or there is no such score.
        ValueError: Rows of calibration were used in training.

    Example:
        >>> sorted(SCORES)
        ['log_evidence', 'lower_end', 'regret', 'typicality']
    """
    real_number(level, "level", above=0, below=1)
    if score not in SCORES:
        raise ConfigError(f"score is {echoed(score)}: {suggestion(score, SCORES)}")
    kind: Any = SCORES[score]
    given: dict[str, Any] = {name: each for name, each in settings.items() if each is not None}
    if not refine:
        given["refinement"] = None
    known = [each.name for each in fields(kind)]
    for name in given:
        if name not in known:
            raise ConfigError(f"the score {score!r} takes no {name}: {suggestion(name, known)}")
    used = run.rows if run.has_rows else None
    if used is None:
        warn_caller(
            "the run does not hold its rows, so it was not checked whether training used those of "
            "calibration"
        )
    options: dict[str, Any] = {"score": kind(**given), "trained_on": used, "progress": progress}
    found = anomaly_pvalues(run.model, run.guide, calibration, run.read(rows), **options)
    return FileAnomalies(replace(found, score=score), level)


def calibration_rows(run: TrainedRun, path: str | Path | None, split: str = "test") -> Dataset:
    """The rows of calibration: those of a file, or a split of the run.

    Args:
        run: From `load_run`.
        path: A file .csv or .parquet; None takes the split.
        split: Name of the split.

    Raises:
        ConfigError: The file cannot be read, or the run has no such split or no rows.

    Example:
        >>> calibration_rows.__name__
        'calibration_rows'
    """
    if path is not None:
        return run.read(path)
    if not run.has_rows:
        raise ConfigError(
            "the run does not hold its rows: give rows of calibration in a file (--calibration)"
        )
    return run.part(split).unweighted()
