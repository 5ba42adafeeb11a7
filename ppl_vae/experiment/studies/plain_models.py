"""The best model of a study on test rows, which it was not chosen by, beside plain models."""

from pathlib import Path

from ppl_vae.diagnostics import baselines, compare_models
from ppl_vae.evidence import Evidence
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.run import evaluate_run, load_experiment
from ppl_vae.experiment.studies.table import StudyResult
from ppl_vae.runtime.files import write_whole

__all__ = ["write_baselines"]

HEADING = "Held-out rows"


def write_baselines(result: StudyResult, output: str | Path) -> tuple[str, list[str]]:
    """Evaluate the best model of each comparison on test rows, beside baselines.

    The text is also in baselines.md. Only the first training of the model is used, since baselines
    have no training seeds. A study that compares models on test rows takes these again.

    Returns:
        The text and the names of the files.

    Example:
        >>> from ppl_vae.experiment.studies.grid import Study
        >>> write_baselines(StudyResult(Study(()), {}, {}, ()), "runs/none")
        ('', [])
    """
    parts = []
    marked = []
    for comparison in result.comparisons:
        name = comparison.names[0]
        folder = _first(result, name, Path(output))
        experiment, evidence = _held_out(folder)
        rows = f"{len(evidence):,} {experiment.config.evaluation.split} rows"
        head = f"{name} is the best model. On {rows}: {evidence.summary()}."
        if experiment.data.context is not None:
            head += " It is given covariates, which plain models ignore."
        parts.append(head)
        marked.append(head)
        try:
            others = baselines(
                experiment.fitted_rows, experiment.model.likelihood, rows=experiment.held_out
            )
            beside = compare_models({name: evidence, **others}, reference=name)
        except ValueError as reason:  # missing values, few rows
            parts.append(f"No baselines for {name}: {reason}.")
            marked.append(parts[-1])
            continue
        parts.append(str(beside))
        marked.append(beside.to_markdown())
    if not parts:
        return "", []
    text = "\n\n".join([f"# {HEADING}", *marked]) + "\n"
    write_whole(Path(output) / "baselines.md", lambda p: p.write_text(text, encoding="utf-8"))
    return "\n\n".join(["", HEADING, *parts]), ["baselines.md"]


def _first(result: StudyResult, name: str, output: Path) -> Folder:
    """The folder of the first training of a model."""
    finished = [cell for cell in result.study.cells if cell.name in result.metrics]
    cell = next(cell for cell in finished if cell.model == name)
    return result.study.folders(output)[cell.name]


def _held_out(folder: Folder) -> tuple[Experiment, Evidence]:
    """The run with the test rows to be evaluated, and their log p(x), which is estimated once."""
    experiment = load_experiment(folder.path)
    if experiment.config.evaluation.split != "valid" or "test" not in experiment.data.splits:
        return experiment, Evidence.load(folder.evidence)
    experiment = experiment.with_evaluation(split="test")
    file = folder.evaluation(experiment.config.evaluation)
    if not file.is_file():
        evaluate_run(experiment, file, progress=False)
    return experiment, Evidence.load(file.with_suffix(".npz"))
