"""log p(x) beside that of plain models of the same rows, and beside that of another run."""

import math
from collections.abc import Sequence

import numpy as np

from ppl_vae.diagnostics import ModelComparison, baselines, compare_models
from ppl_vae.diagnostics.models.table import HEADER
from ppl_vae.experiment.result_table import floor_of
from ppl_vae.report.attempts import reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table
from ppl_vae.report.rules import Measured, Rule

MODEL = "this model"
PROVED = 1e-3  # nats per row
SHOWN = ("model", "log p(x)", "difference", "95 % interval", "bounds")


def _baselines(found: Findings) -> ModelComparison:
    subject = found.subject
    likelihood = found.part("likelihood")
    data = subject.run.fitted_rows
    with reasons(ValueError):
        others = baselines(data, likelihood, rows=subject.evaluated, seed=subject.seed)
        return compare_models({MODEL: subject.evidence, **others}, reference=MODEL)


def _panel(found: Findings) -> Panel:
    comparison = found["baselines"]
    what = (
        "Plain models, fitted to the rows that the model was fitted to and evaluated on the same "
        "held-out rows; their log p(x) is exact. Their number of factors or components was chosen "
        "on a fifth of the former."
    )
    return Panel([what], tables=[_table(comparison)])


def _table(comparison: ModelComparison) -> Table:
    which = [HEADER.index(name) for name in SHOWN]
    return Table(SHOWN, [[cells[i] for i in which] for cells in comparison.cells])


def proved(comparison: ModelComparison, at_floor: Sequence[str] = ()) -> Measured:
    """How much better the model is than the best other one, as far as the interval proves.

    It is negative if the other one is better, and 0 if the interval proves neither, or if a scale
    at its floor sets log p(x).
    """
    at = next(i for i, name in enumerate(comparison.names) if name != comparison.reference)
    name = comparison.names[at]
    low, high = comparison.interval[at]
    if at_floor:
        return Measured(0.0, f"beside {name}: {floor_of(at_floor)} sets log p(x)")
    if high < 0:
        return Measured(-high, f"at least {-high:.2f} nats per row above {name}")
    if low > 0:
        return Measured(-low, f"at least {low:.2f} nats per row below {name}")
    why = "the interval contains 0"
    if np.isnan(low) or comparison.share_bound.max() > 0:
        why = "log p(x) is a lower bound for some rows"
    return Measured(0.0, f"beside {name}: {why}")


def _another(found: Findings) -> ModelComparison:
    """The run beside another one, on the same rows."""
    evidence = {MODEL: found.subject.evidence, **found.subject.against}
    with reasons(ValueError):
        return compare_models(evidence, reference=MODEL)


def _beside(found: Findings) -> Panel:
    """The paired difference, with its interval."""
    comparison = found["against"]
    says = ["Both runs are evaluated on the same rows, so that differences are paired by row."]
    return Panel([*says, *comparison.notes], tables=[_table(comparison)])


BASELINES = Diagnosis(
    "baselines",
    "Baselines",
    "log p(x)",
    compute=_baselines,
    panel=_panel,
    page="howto/compare_models.md#is-8-5-good",
    about="Plain models",
    rules=[
        Rule(
            "Better than plain models",
            lambda found: proved(found["baselines"], found.subject.metrics.at_floor),
            "Difference of log p(x) from that of the best baseline, as far as its 95 % interval "
            "proves one, in nats per row",
            passes=PROVED,
            fails=0.0,
            words=(
                "The model is better than each of them.",
                "No difference from the best of them is proved.",
                "One of them is better than this model.",
            ),
            better="more",
            remedy="Use the plain model, or give the VAE more epochs, more latents, or another "
            "likelihood.",
        )
    ],
)
AGAINST = Diagnosis(
    "against",
    "Another run",
    "log p(x)",
    compute=_another,
    panel=_beside,
    page="howto/compare_models.md",
    about="Other run",
    rules=[
        Rule(
            "Better than the other run",
            lambda found: proved(found["against"], found.subject.metrics.at_floor),
            "Difference of log p(x) from that of the other run, as far as its 95 % interval proves "
            "one, in nats per row",
            passes=PROVED,
            fails=-math.inf,
            words=(
                "This run is better than the other one.",
                "This run is not shown to be better than the other one.",
                "",
            ),
            better="more",
            remedy="Train each several times before choosing (`compare_models`).",
        )
    ],
)
