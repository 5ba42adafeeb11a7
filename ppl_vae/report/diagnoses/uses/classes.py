"""Classes of rows: those of a semi-supervised model, or the clusters of a mixture prior."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import plot_reliability
from ppl_vae.diagnostics.axes import BLUE
from ppl_vae.families.priors import GaussianMixture
from ppl_vae.report.attempts import NotApplicable
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import SIZE, Panel, Picture, Table, draw
from ppl_vae.runtime.text import counted, percent
from ppl_vae.semi_supervised import SemiSupervisedModel
from ppl_vae.tasks.classes import ClassCalibration, ClassProbabilities, class_probabilities

NUM_PARTICLES = 1000  # for each class


@dataclass(frozen=True)
class Classes:
    """p(y given x) of rows whose classes were hidden, and these classes; None if unknown."""

    rows: Dataset
    found: ClassProbabilities
    truth: np.ndarray | None


def _has_classes(found: Findings) -> bool:
    model = found.programs[0]
    is_mixture = isinstance(getattr(model, "prior", None), GaussianMixture)
    return is_mixture or isinstance(model, SemiSupervisedModel)


def _classes(found: Findings) -> Classes:
    if not _has_classes(found):
        raise NotApplicable("the model has neither classes nor clusters")
    model, guide = found.programs
    rows = found.subject.rows
    truth = None
    if isinstance(model, SemiSupervisedModel):
        known = ~rows.x[:, -1].isnan().cpu().numpy()
        if known.any():
            rows = rows[known]
            truth = rows.x[:, -1].long().cpu().numpy()
        x = rows.x.clone()
        x[:, -1] = torch.nan
        rows = rows.with_x(x)
    options: dict[str, Any] = {"num_particles": NUM_PARTICLES, **found.options}
    return Classes(rows, class_probabilities(model, guide, rows, **options), truth)


def _panel(found: Findings) -> Panel | None:
    """How sure the classes are, and how often they are right."""
    if not _has_classes(found):
        return None
    classes = found["classes"]
    probabilities = classes.found
    share = np.mean(probabilities.is_estimate)
    says = [
        f"p(y | x) of {probabilities.probabilities.shape[1]} classes for "
        f"{counted(len(probabilities), 'row')}; weights are reliable for {percent(share)} of them."
    ]
    pictures = draw(
        lambda ax: _sureness(probabilities, ax),
        "Histogram of the probability of the most probable class.",
        size=SIZE,
    )
    if classes.truth is not None:
        calibration = probabilities.calibration(classes.truth)
        error, se = probabilities.error(classes.truth)
        says += [
            f"Their classes were hidden: {error:.1%} (standard error {se:.1%}) of the most "
            "probable ones are wrong.",
            f"Expected calibration error {calibration.error:.3f} (standard error "
            f"{calibration.se:.3f}; {calibration.expected:.3f} by chance, p = "
            f"{calibration.p_value:.2g}).",
        ]
        pictures += _reliability(calibration)
    return Panel(says, pictures=pictures, tables=[_table(classes)])


def _reliability(calibration: ClassCalibration) -> list[Picture]:
    """Share that is right against probability."""
    alt = (
        "Share of right classes against the probability of the most probable one, with a diagonal."
    )

    def plot(ax: Any) -> None:
        axes = plot_reliability(calibration.reliability, ax)
        axes.set(title="", xlabel="predicted probability", ylabel="share that is right")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))

    return draw(plot, alt, size=SIZE)


def _sureness(found: ClassProbabilities, ax: Any) -> None:
    ax.hist(found.probabilities.max(1), bins=20, range=(0, 1), color=BLUE)
    ax.set(xlabel="probability of the most probable class", ylabel="rows")


def _table(classes: Classes) -> Table:
    """Each class: its mean probability, its rows, and the label that most of these have."""
    rows = classes.rows
    predicted = classes.found.predict()
    label = [f"most frequent {rows.label_name}"] * (rows.labels is not None)
    cells = []
    for number, mean in enumerate(classes.found.probabilities.mean(0)):
        inside = predicted == number
        line = [str(number), f"{mean:.3f}", counted(int(inside.sum()), "row")]
        if rows.labels is not None:
            line.append(_most_frequent(np.asarray(rows.labels, dtype=object)[inside]))
        cells.append(line)
    return Table(["class", "mean probability", "most probable for", *label], cells)


def _most_frequent(labels: np.ndarray) -> str:
    """The most frequent label and its share."""
    import pandas as pd

    counts = pd.Series(labels).value_counts()
    return f"{counts.index[0]} ({counts.iloc[0] / len(labels):.0%})" if len(counts) else "none"


def _tree(found: Findings) -> dict[str, xr.Dataset]:
    """Probabilities and their errors by row and class."""
    classes = found["classes"]
    probabilities = classes.found
    values = {
        "probability": (("row", "class"), probabilities.probabilities),
        "se": (("row", "class"), probabilities.se),
        "is_estimate": ("row", probabilities.is_estimate),
    }
    labels = list(map(str, classes.rows.row_labels))
    return {"classes": xr.Dataset(values, {"row": labels})}


CLASSES = Diagnosis(
    "classes",
    "Classes",
    "What it can be used for",
    compute=_classes,
    panel=_panel,
    page="howto/classes.md",
    tree=_tree,
)
