"""Changes that `after_epoch` makes to the programs in training, which a graph would not follow."""

import logging
from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.traces import Program
from ppl_vae.runtime.recording import RecordingError, check_agreement
from ppl_vae.training.monitoring.monitor import Monitor
from ppl_vae.training.record import Watchers
from ppl_vae.training.state import State
from ppl_vae.training.step import RecordedStep, Step

logger = logging.getLogger(__name__)

MOST_RECORDINGS = 3  # of one training; a program that changes more often is left to the handlers

Outcome = list[Tensor | None] | None


class Listener:
    """Calls `after_epoch`, and looks at what it changed before training goes on.

    A graph holds the numbers that the programs read from Python when it was recorded. What Pyro's
    handlers compute is therefore compared before and after the call, with equal weights, rows and
    draws. If it differs, all graphs are recorded afresh.

    Args:
        watchers: Who is called.
        state: The tensors of the programs.
        step: The training's step.
        monitor: What is computed after an epoch.
    """

    def __init__(self, watchers: Watchers, state: State, step: Step, monitor: Monitor) -> None:
        self.watchers = watchers
        self.state = state
        self.step = step
        self.monitor = monitor
        self.trained = state.trainable
        self.epoch = 0  # after which the function was called
        self.inputs: Any = None
        self.before: Outcome = None
        self.num_recordings = 1
        if watchers.after_epoch is not None and isinstance(step, RecordedStep):
            step.keeps_batch = True

    def stop(self, row: dict[str, float], *programs: Program) -> bool:
        """Whether the function asks to stop."""
        if self.watchers.after_epoch is None:
            return False
        self.epoch = int(row["epoch"])
        if isinstance(self.step, RecordedStep) and self.step.ways:
            self.inputs = self.step.example()
            self.before = self._outcome(self.step)
            if self.before is None:  # nothing to compare with: such programs are rarely recorded
                self._renew(self.step, ())
        return self.watchers.stop(row, *programs)

    def go_on(self) -> None:
        """Adapt to what the last call changed.

        Raises:
            ValueError: it changed which parameters can be trained.
        """
        if not self.epoch:
            return
        self._require_same_parameters()
        step = self.step
        if isinstance(step, RecordedStep) and step.ways and not self._is_unchanged(step):
            self._record_afresh(step)
        self.inputs = None
        self.before = None

    def _require_same_parameters(self) -> None:
        """Raise if the optimiser would miss a parameter, or has one that is no longer trained."""
        now = self.state.trainable
        for name in {**self.trained, **now}:
            if now.get(name) is self.trained.get(name):
                continue
            done = "replaced"
            if name not in now:
                done = "froze or removed"
            elif name not in self.trained:
                done = "added or made trainable"
            raise ValueError(
                f"after_epoch {done} the parameter {name} after epoch {self.epoch}, and fit trains "
                "those that were trainable at its start: let it return True to stop, and call fit "
                "again"
            )

    def _record_afresh(self, step: RecordedStep) -> None:
        """Discard the graphs; after some such changes the handlers run for good."""
        changed = "after_epoch changed what model or guide computes after epoch %d: %s"
        self.num_recordings += 1
        if self.num_recordings <= MOST_RECORDINGS:
            logger.info(changed, self.epoch, "graphs are recorded afresh")
            self._renew(step, step.ways)
        else:
            logger.log(step.level, changed, self.epoch, "no graph is used from now on")
            self._renew(step, ())

    def _renew(self, step: RecordedStep, ways: tuple[str, ...]) -> None:
        """Record step and monitor afresh in these ways, if there are any."""
        step.renew(ways)
        self.monitor.renew(bool(ways))

    def _outcome(self, step: RecordedStep) -> Outcome:
        return step.outcome(self.inputs, self.monitor.loss_of)

    def _is_unchanged(self, step: RecordedStep) -> bool:
        """Whether the handlers give the same as before, to the bit where they repeat themselves."""
        now = self._outcome(step)
        if _are_equal(self.before, now):
            return True
        again = self._outcome(step)
        if now is None or _are_equal(now, again):
            return False
        try:  # the order of a GPU's sums may vary
            for one, other in zip(self.before or [], now, strict=True):
                check_agreement(one, other, "outcome")
        except RecordingError:
            return False
        return True


def _are_equal(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are the same to the bit."""
    if one is None or other is None:
        return one is other
    return all(
        torch.equal(a, b) if a is not None and b is not None else a is b
        for a, b in zip(one, other, strict=True)
    )
