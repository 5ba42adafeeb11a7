"""What is computed after each epoch: the bound of held-out rows, and the rate of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ppl_vae.objectives import Bound
from ppl_vae.programs.modules import evaluating, modules_of
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.recording import RecordedFunction
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training.monitoring.collapse_alarm import mean_rate, rate_of_rows
from ppl_vae.training.step import RecordedStep, Step, number, repays_recording

Arguments = tuple[Tensor, ...]


class Monitor:
    """The loss and the rate of batches in evaluation mode.

    Both come from recorded graphs if the training's step does, and they are needed often enough:
    for small data they cost more than the steps of an epoch.

    Args:
        step: The training's step, whose objective and programs they are of.
        model: The model without what the objective adds to it, such as weights of rows.
        guide: The guide, likewise.
        num_losses: How many losses will be needed, in all epochs.
        num_rates: How many rates.
    """

    def __init__(
        self, step: Step, model: Program, guide: Program, num_losses: int, num_rates: int
    ) -> None:
        self.step = step
        self.programs = model, guide
        self.num_losses = num_losses
        self.num_rates = num_rates
        self.renew(isinstance(step, RecordedStep))

    def renew(self, may_record: bool) -> None:
        """Record afresh, as the programs are now, if graphs may be used and that pays."""
        self.may_record = may_record
        rates = partial(rate_of_rows, *self.programs)
        self.losses = self._often_called(self.loss_of, self.num_losses, "held-out loss")
        self.rates = self._often_called(rates, self.num_rates, "rate")

    def loss(self, args: Arguments, seed: int) -> float:
        """The loss of these rows, without annealing."""
        with seeded(seed):
            return number(self.losses(*args))

    def rate(self, args: Arguments, seed: int, weights: Tensor | None = None) -> float:
        """Mean rate of these rows; see `mean_rate`."""
        return mean_rate(*self.programs, args, seed, weights, self.rates)

    def loss_of(self, *args: Tensor) -> Any:
        """The objective's loss by Pyro's handlers, a tensor where it has one."""
        step = self.step
        with evaluating(*self.programs):
            if isinstance(step.objective, Bound):
                return step.objective.total_loss(step.model, step.guide, *args)
            return step.objective.loss(step.model, step.guide, *args)

    def _often_called(
        self, function: Callable[..., Tensor], num_calls: int, name: str
    ) -> Callable[..., Tensor]:
        """The function, recorded if that pays."""
        if self.may_record and repays_recording(num_calls):
            return RecordedFunction(function, modules_of(*self.programs), name)
        return function
