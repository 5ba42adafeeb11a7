"""log p(x) beside that of plain models of the same rows."""

from ppl_vae.diagnostics import ModelComparison, baselines, compare_models
from ppl_vae.diagnostics.models.table import HEADER
from ppl_vae.report.attempts import NotApplicable
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table

MODEL = "this model"
SHOWN = ("model", "log p(x)", "difference", "95 % interval", "bounds")


def _baselines(found: Findings) -> ModelComparison:
    subject = found.subject
    likelihood = found.programs[0].likelihood
    data = subject.run.rows
    try:
        others = baselines(data, likelihood, rows=subject.evaluated, seed=subject.seed)
        return compare_models({MODEL: subject.evidence, **others}, reference=MODEL)
    except ValueError as error:
        raise NotApplicable(str(error)) from error


def _panel(found: Findings) -> Panel:
    comparison = found["baselines"]
    which = [HEADER.index(name) for name in SHOWN]
    rows = [[cells[i] for i in which] for cells in comparison.cells]
    what = (
        "Plain models, fitted to the training rows and evaluated on the same held-out rows; "
        "their log p(x) is exact. Their number of factors or components was chosen on a fifth of "
        "the "
        "training rows."
    )
    return Panel([_best_of(comparison), what], tables=[Table(SHOWN, rows)])


def _best_of(comparison: ModelComparison) -> str:
    """How far the model is from the best baseline, as far as the interval shows."""
    at = next(i for i, name in enumerate(comparison.names) if name != comparison.reference)
    name = comparison.names[at]
    low, high = comparison.interval[at]
    if high < 0:
        than = f"than {name}, the best of them, by at least {-high:.2f} nats"
        return f"The model is better than every baseline: {than}."
    if low > 0:
        return f"A baseline is better than the model: {name}, by at least {low:.2f} nats per row."
    why = "the interval contains 0"
    if comparison.share_bound.max() > 0:
        why = "log p(x) of the model is a lower bound for some rows"
    return f"No difference between the model and {name}, the best baseline, is shown: {why}."


BASELINES = Diagnosis(
    "baselines",
    "Baselines",
    "log p(x)",
    compute=_baselines,
    panel=_panel,
    page="howto/compare_models.md#is-8-5-good",
)
