"""What was run, and how it is built."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.experiment.result_table import floor_of
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.report.architecture import chain, layers, plot_graph
from ppl_vae.report.attempts import NotApplicable
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, draw
from ppl_vae.report.rules import Measured, Rule
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import counted


def use_of_the_rows(found: Findings) -> Measured:
    """0 for rows that training never saw, 1 for rows that chose the epoch, 2 for fitted rows."""
    run = found.subject.run
    uses = ("", "the choice of the epoch", "training")
    return Measured(float(uses.index(run.used_rows_for)), f"{run.evaluation.split} split")


def concerns(found: Findings) -> Measured:
    """Number of scales at their floor."""
    said = found["concerns"]
    features = found.subject.metrics.at_floor
    if features and not said:
        said = [f"log p(x) is set by {floor_of(features)}."]
    return Measured(float(len(said)), "", " ".join(said))


def _concerns(found: Findings) -> list[str]:
    """Warnings of the likelihood about its fitted parameters."""
    model, guide = found.pair
    likelihood = model.likelihood
    parts = getattr(likelihood, "parts", [likelihood])
    if not any(isinstance(getattr(part, "scale", None), str) for part in parts):
        raise NotApplicable(f"{type(likelihood).__name__} has no scale to learn")
    rows = place(found.subject.rows, model, guide)
    with evaluating(model, guide), seeded(found.subject.seed):
        z = guide.encode(rows.x, rows.context).sample()
        return model.concerns(z, rows.context)


def _data(found: Findings) -> Panel:
    """What was observed, and which rows the page is about."""
    subject = found.subject
    split = subject.run.evaluation.split
    facts = subject.run.rows.describe()
    size = facts["event_shape"]
    shape = f"of {counted(size[0], 'column')}" if len(size) == 1 else f"of shape {_times(size)}"
    values = {"values": "{:g} to {:g}".format(*facts["range"])}
    if "x" in subject.run.rows.columns:
        values = {"repeated": f"{counted(_num_repeated(subject.run.rows), 'row')} like another"}
    where = f"{len(subject.run.part(split)):,} {split} rows"
    rows = {
        "name": facts["name"],
        "size": f"{facts['num_data']:,} rows {shape}",
        **values,
        "missing": f"{facts['missing']:.1%} of all rows' values",
        "binarised": facts["binarize"] or "no",
        "covariates": ", ".join(facts["context"]) or "none",
        "labels": f"{facts['labels']} classes" if facts["labels"] else "none",
        "splits": ", ".join(f"{name} {count:,}" for name, count in facts["splits"].items()),
        "log p(x) on": f"{len(subject.evidence):,} of the {where}",
        "diagnosed": f"the first {len(subject.rows):,} of the {where}",
        "digest": subject.digest,
    }
    return Panel(tables=[_facts(rows)])


def _num_repeated(rows: Dataset) -> int:
    """Number of rows of a table that equal an earlier one in all columns of x."""
    values = np.nan_to_num(rows.exact + 0.0, nan=np.inf)  # no negative zeros, no observed infinity
    return len(values) - len({row.tobytes() for row in values})


def _times(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


def _provenance(found: Findings) -> Panel:
    metrics = found.subject.metrics
    seconds = {
        "training": metrics.training_seconds,
        "evaluation": metrics.evaluation_seconds,
        "all": metrics.seconds,
    }
    epochs = {
        "trained": metrics.num_epochs,
        "best": metrics.best_epoch,
        "ended by": metrics.stopped,
    }
    tables = [
        _facts({**metrics.seeds, "this page": found.subject.seed}, "Seeds"),
        _facts(metrics.versions, "Versions"),
        _facts({name: f"{value:.1f}" for name, value in seconds.items()}, "Seconds"),
        _facts(epochs, "Epochs"),
    ]
    return Panel(tables=tables)


def _facts(rows: Any, caption: str = "") -> Table:
    return Table(("", ""), list(rows.items()), caption, kind="facts")


def _graph(found: Findings) -> Panel:
    """Model and guide as Pyro sees them."""
    model, guide = found.programs
    rows = found.subject.rows
    alts = (
        "The model: arrows from the latents to the observations they generate, in a plate over "
        "the rows.",
        "The guide: arrows from the observations to the latents it infers, in a plate over the "
        "rows.",
    )

    def plot(axes: Any) -> None:
        plot_graph(model, rows, [], axes[0]).set_title("model p")
        plot_graph(guide, rows, ["x"], axes[1]).set_title("guide q")

    says = "Grey: observed or given. Left: the model. Right: the guide."
    return Panel([says], pictures=draw(plot, alts, size=(4.2, 2.4)))


def _architecture(found: Findings) -> Panel:
    """The layers that x goes through."""
    model, guide = found.pair
    rows = found.subject.rows
    says = f"{found.subject.metrics.num_parameters:,} parameters."
    return Panel([says], chain=chain(model, guide, rows), tables=[layers(model, guide, rows)])


RUN = "What was run"
BUILT = "How it is built"
CONFIGURATION = Diagnosis(
    "configuration",
    "Configuration",
    RUN,
    panel=lambda found: Panel(code=found.subject.run.listing),
)
DATA = Diagnosis(
    "data",
    "Data",
    RUN,
    panel=_data,
    about="log p(x)",
    rules=[
        Rule(
            "Held-out data",
            use_of_the_rows,
            "What the evaluated rows were used for",
            passes=0,
            fails=1,
            words=(
                "The evaluated rows were not used in training.",
                "The evaluated rows chose the epoch, so log p(x) is a little too high.",
                "The model was trained on the evaluated rows, so log p(x) of new rows is not "
                "known.",
            ),
            limits="passes if for nothing, fails if for training",
            remedy="Evaluate test rows (`ppl-vae evaluate RUN --split test`).",
            page="concepts.md",
        )
    ],
)
PROVENANCE = Diagnosis("provenance", "Seeds, versions, times", RUN, panel=_provenance)
GRAPH = Diagnosis("graph", "Graphical model", BUILT, panel=_graph)
ARCHITECTURE = Diagnosis("architecture", "Architecture", BUILT, panel=_architecture)
SCALE = Diagnosis(
    "concerns",
    compute=_concerns,
    about="Model",
    rules=[
        Rule(
            "The likelihood's scale",
            concerns,
            "Number of scales at their floor",
            passes=0,
            fails=0,
            words=(
                "The scale is above its floor.",
                "",
                "The likelihood is unbounded here:",
            ),
            remedy="Raise the floor, or fix the scale.",
            panel="Architecture",
            page="howto/report.md#scale",
        )
    ],
)
