"""The results of a study: the numbers of each cell, the failures, and the models compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.diagnostics import ModelComparison, compare_models, plot_models
from ppl_vae.evidence import Evidence
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Metrics, finite, records
from ppl_vae.experiment.results import write_picture
from ppl_vae.experiment.studies.grid import Cell, Study
from ppl_vae.runtime import text
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.sealed import write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StudyResult", "read_results", "write_study"]

SHOWN = {  # metrics in the table of cells, with heading and format
    "log_evidence": ("log p(x)", "{:.3f}"),
    "mc_se": ("particles se", "{:.3f}"),
    "data_se": ("data se", "{:.3f}"),
    "elbo": ("ELBO", "{:.3f}"),
    "kl": ("KL", "{:.3f}"),
    "active_units": ("active units", "{}"),
    "share_estimate": ("estimated", "{:.1%}"),
    "share_bad_k": ("k-hat > 0.7", "{:.1%}"),
    "num_epochs": ("epochs", "{}"),
    "seconds": ("seconds", "{:.0f}"),
}
APART = (
    "Models of different data are not compared, nor are densities with probabilities: they have "
    "separate tables."
)


@dataclass(frozen=True)
class StudyResult(Shown):
    """The numbers of the cells, the failures, and a comparison for each set of comparable models.

    Cells that differ only in the training seed are trainings of one model.

    Args:
        study: The study.
        metrics: Metrics of each finished cell, by name.
        failures: Why the other cells failed, by name.
        comparisons: Comparisons of models on the same rows, all probabilities or all densities.
        notes: The models that were not compared, and why.

    Example:
        >>> StudyResult(Study(()), {}, {}, ()).table.shape
        (0, 0)
    """

    study: Study
    metrics: Mapping[str, Metrics]
    failures: Mapping[str, str]
    comparisons: tuple[ModelComparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> "pd.DataFrame":
        """One row per cell: its values in the grid, its metrics, and why it failed."""
        import pandas as pd

        rows = {}
        for cell in self.study.cells:
            found = self.metrics.get(cell.name)
            numbers = {name: getattr(found, name, None) for name in SHOWN}
            failed = {"failed": self.failures.get(cell.name, "")}
            rows[cell.name] = cell.row() | numbers | failed
        return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="cell"))

    def figures(self) -> dict[str, Any]:
        """The tables as plain values."""
        comparisons = [records(each.table) for each in self.comparisons]
        found = {"cells": records(self.table), "comparisons": comparisons, "notes": self.notes}
        return dict(finite(found))

    def to_markdown(self) -> str:
        """The comparisons with their pictures, the cells and the failures as Markdown."""
        parts = ["# Models"]
        for each, stem in zip(self.comparisons, self.stems, strict=True):
            picture = f"![Differences of log p(x) with their intervals]({stem}.png)"
            parts += [each.to_markdown(), picture]
        parts += [*self.notes, "# Cells", self._cells()]
        if self.failures:
            failed = [f"- `{name}`: {reason}" for name, reason in self.failures.items()]
            parts += ["# Failed", "\n".join(failed)]
        return "\n\n".join(parts) + "\n"

    @property
    def stems(self) -> list[str]:
        """Names of the files of each comparison, without suffix."""
        count = len(self.comparisons)
        return ["comparison"] if count == 1 else [f"comparison-{i + 1}" for i in range(count)]

    def _cells(self) -> str:
        rows = [["cell", *(heading for heading, _ in SHOWN.values())]]
        for name, found in self.metrics.items():
            cells = [_cell(found, key, style) for key, (_, style) in SHOWN.items()]
            rows.append([f"`{name}`", *cells])
        return text.table(rows, markdown=True)

    def __str__(self) -> str:
        failed = [f"failed: {name}: {reason}" for name, reason in self.failures.items()]
        parts = [*map(str, self.comparisons), "\n".join(self.notes), "\n".join(failed)]
        count = f"{len(self.metrics)} of {len(self.study.cells)} cells are finished"
        return "\n\n".join([*filter(None, parts), count])


def _cell(metrics: Metrics, key: str, style: str) -> str:
    """A number of a run; a bound is marked, without its Monte Carlo error."""
    value = getattr(metrics, key)
    if value is None or key == "mc_se" and metrics.is_bound:
        return "-"
    sign = ">= " if key == "log_evidence" and metrics.is_bound else ""
    return sign + style.format(value)


def read_results(study: Study, output: str | Path, failures: Mapping[str, str]) -> StudyResult:
    """The results of the finished cells of a study.

    Example:
        >>> read_results(Study(()), "runs/none", {}).comparisons
        ()
    """
    folders = {name: folder for name, folder in study.folders(output).items() if folder.finished}
    done = [cell for cell in study.cells if cell.name in folders]
    comparisons, notes = _compared(done, folders)
    metrics = {cell.name: folders[cell.name].read_metrics() for cell in done}
    return StudyResult(study, metrics, failures, tuple(comparisons), tuple(notes))


def write_study(result: StudyResult, output: str | Path) -> list[str]:
    """Write study.md, study.json, cells.csv and files of each comparison; returns the names.

    Example:
        >>> import tempfile
        >>> write_study(StudyResult(Study(()), {}, {}, ()), tempfile.mkdtemp())
        ['study.md', 'study.json', 'cells.csv']
    """
    output = Path(output)
    write_whole(output / "study.md", lambda p: p.write_text(result.to_markdown(), encoding="utf-8"))
    write_json(output / "study.json", result.figures())
    write_whole(output / "cells.csv", lambda p: result.table.to_csv(p))
    names = ["study.md", "study.json", "cells.csv"]
    for stem, each in zip(result.stems, result.comparisons, strict=True):
        write_whole(output / f"{stem}.csv", each.table.to_csv)
        write_picture(output / f"{stem}.png", partial(plot_models, each))
        names += [f"{stem}.csv", f"{stem}.png"]
    return names


def _compared(
    cells: list[Cell], folders: Mapping[str, Folder]
) -> tuple[list[ModelComparison], list[str]]:
    """Comparisons of models with the same rows and the same measure, and notes on the others."""
    groups: dict[tuple[Any, ...], dict[str, list[Evidence]]] = {}
    for cell in cells:
        evidence = Evidence.load(folders[cell.name].evidence)
        rows = b"" if evidence.digests is None else evidence.digests.tobytes()
        groups.setdefault((evidence.measure, rows), {}).setdefault(cell.model, []).append(evidence)
    comparisons, notes = [], [APART] * (len(groups) > 1)
    for models in groups.values():
        if len(models) == 1:
            notes += [_alone(*each) for each in models.items()]
            continue
        try:
            comparisons.append(compare_models(models))
        except ValueError as error:  # a single row, upper bounds
            notes.append(f"Not compared: {error}.")
    return comparisons, notes


def _alone(name: str, trainings: list[Evidence]) -> str:
    """A note on a model that cannot be compared with any other."""
    said = "; ".join(str(each.summary()) for each in trainings)
    return f"Not compared, since no other model has the same rows and kind: {name}, {said}."
