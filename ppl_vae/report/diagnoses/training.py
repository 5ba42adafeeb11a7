"""How the run was trained."""

import numpy as np

from ppl_vae.diagnostics import plot_training
from ppl_vae.report.attempts import NotApplicable, Undecided
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, draw, number
from ppl_vae.report.rules import Measured, Rule
from ppl_vae.runtime.text import counted
from ppl_vae.training import FitResult
from ppl_vae.training.monitoring.trend import settled, trend

FEWEST_EPOCHS = 5  # whose best bound is that of the end


def gain(found: Findings) -> Measured:
    """Change of the bound in a tenth of the epochs, at the end, unless it is within its noise."""
    change = trend(_bounds_at_full_weight(found))
    if change is None:
        raise Undecided("too few epochs were trained at full KL weight to see a trend")
    shown = f"{change.gain:+.2f} nats in {counted(change.num_epochs, 'epoch')}"
    if change.low <= 0 <= change.high:
        return Measured(0.0, f"{shown}, within its noise")
    return Measured(max(change.gain, 0.0) if _restored(found) else abs(change.gain), shown)


def loss(found: Findings) -> Measured:
    """How far the bound ends below its best, in nats per row."""
    bound = _bounds_at_full_weight(found)
    lost = float(bound.max() - bound[-FEWEST_EPOCHS:].max())
    shown = f"{lost:.2f} nats below the best epoch"
    if not _restored(found):
        return Measured(lost, shown)
    best = found.subject.metrics.best_epoch
    return Measured(
        0.0,
        f"the last epochs are {shown}",
        instead=f"The weights are those of epoch {best}, the best.",
    )


def _bounds_at_full_weight(found: Findings) -> np.ndarray:
    """The bound after each epoch at full KL weight, on validation rows if there are any."""
    history = found.subject.metrics.history
    bound = settled(history.get("valid", history.get("train", [])), history.get("kl_weight", []))
    if len(bound) < 2:
        raise Undecided("no training history of two epochs at full KL weight is known")
    return bound


def _restored(found: Findings) -> bool:
    """Whether the weights are those of the best epoch, not of the last."""
    return found.subject.run.patience is not None and "valid" in found.subject.metrics.history


def _training(found: Findings) -> Panel:
    """The bound by epoch."""
    metrics = found.subject.metrics
    result = FitResult(
        dict(metrics.history),
        metrics.best_epoch,
        metrics.stopped,
        objective=metrics.run["objective"],
    )
    if not result.num_epochs:
        raise NotApplicable("no epoch was trained")
    ends = {name: result.history[name][-1] for name in ("train", "valid") if name in result.history}
    said = ", ".join(f"{name} {number(value, 2)}" for name, value in ends.items())
    alt = f"Lines of the bound by epoch; after {result.num_epochs} epochs: {said} nats per row."
    return Panel(pictures=draw(lambda ax: plot_training(result, ax), alt, size=(6.4, 3.4)))


TRAINING = Diagnosis(
    "training",
    "Training",
    "What it learned",
    panel=_training,
    about="Training",
    rules=[
        Rule(
            "Training has levelled off",
            gain,
            "Change of the bound in a tenth of the epochs, at the end, in nats per row",
            passes=0.1,
            fails=1.0,
            words=(
                "More epochs would change little.",
                "The bound was still changing.",
                "The bound was changing fast.",
            ),
            remedy="Train longer, or end with a lower learning rate.",
            page="howto/report.md#training",
        ),
        Rule(
            "Training has not diverged",
            loss,
            "How far the bound ends below its best, in nats per row",
            passes=0.5,
            fails=2.0,
            words=(
                "The bound does not end below its best.",
                "The bound was better earlier.",
                "The bound has fallen far.",
            ),
            remedy="Set patience, lower the learning rate, or use a smaller network.",
            page="howto/report.md#training",
        ),
    ],
)
