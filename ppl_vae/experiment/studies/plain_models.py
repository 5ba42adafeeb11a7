"""The best model of a study compared with plain models of the same rows."""

from pathlib import Path

from ppl_vae.diagnostics import ModelComparison, baselines, compare_models
from ppl_vae.evidence import Evidence
from ppl_vae.experiment.assemble import build
from ppl_vae.experiment.studies.table import StudyResult
from ppl_vae.runtime.files import write_whole

__all__ = ["write_baselines"]


def write_baselines(result: StudyResult, output: str | Path) -> tuple[str, list[str]]:
    """Compare the best model of each comparison with baselines; returns the text and file names.

    The text is also in baselines.md. Only the first training of the model is used, since baselines
    have no training seeds.

    Example:
        >>> from ppl_vae.experiment.studies.grid import Study
        >>> write_baselines(StudyResult(Study(()), {}, {}, ()), "runs/none")
        ('', [])
    """
    found: list[ModelComparison] = []
    notes: list[str] = []
    for comparison in result.comparisons:
        try:
            found.append(_beside(result, comparison.names[0], Path(output)))
        except ValueError as reason:  # missing values, few rows
            notes.append(f"No baselines for {comparison.names[0]}: {reason}.")
    if not found and not notes:
        return "", []
    parts = ["# Baselines", *(each.to_markdown() for each in found), *notes]
    write_whole(
        Path(output) / "baselines.md",
        lambda p: p.write_text("\n\n".join(parts) + "\n", encoding="utf-8"),
    )
    return "\n\n".join(["", *map(str, found), *notes]), ["baselines.md"]


def _beside(result: StudyResult, name: str, output: Path) -> ModelComparison:
    """The first training of this model, and the baselines."""
    cell = next(
        cell for cell in result.study.cells if cell.model == name and cell.name in result.metrics
    )
    experiment = build(cell.config)
    evidence = Evidence.load(result.study.folders(output)[cell.name].evidence)
    others = baselines(experiment.data, experiment.model.likelihood, rows=experiment.held_out)
    return compare_models({name: evidence, **others}, reference=name)
