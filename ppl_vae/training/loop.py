"""The training loop; the next epoch needs only the state after the last, so training can resume."""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import in_turn
from ppl_vae.model import Model
from ppl_vae.objectives import Bound, Reparameterized
from ppl_vae.programs.forms.detection import adapted_for_fit
from ppl_vae.programs.forms.probe import probe
from ppl_vae.programs.modules import (
    evaluating,
    missing_values,
    place,
    remember_data,
)
from ppl_vae.programs.row_weights import weighted
from ppl_vae.programs.traces import Program
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.distributed import (
    check_share,
    from_main,
    gathered,
    is_main,
    num_processes,
    rank,
)
from ppl_vae.runtime.progress import progress_bar, show_step
from ppl_vae.runtime.seeding import derived_seed, seeded
from ppl_vae.training.monitoring.changes import Listener
from ppl_vae.training.monitoring.collapse_alarm import collapse_warning, shares_information
from ppl_vae.training.monitoring.monitor import Monitor
from ppl_vae.training.record import STOPPED, FitResult, NonFiniteLossError, Watchers
from ppl_vae.training.requirements import (
    check_batches,
    check_held_out,
    check_objective,
    check_programs_for,
    check_weights,
    continued,
    has_module,
    identity,
    in_words,
    rows_of,
    with_weights,
)
from ppl_vae.training.settings import Training
from ppl_vae.training.shared_latents import shared_among
from ppl_vae.training.state import Best, State, Weights, read_checkpoint, write_checkpoint
from ppl_vae.training.step import Step, batch_gradient, number, stepper, training_mode
from ppl_vae.training.updates import Updates
from ppl_vae.training.warnings import concerns, culprit, warn_after, warn_before

logger = logging.getLogger(__name__)


class Run:
    """One call of `fit`."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: Dataset,
        objective: Any,
        training: Training,
        watchers: Watchers | None = None,
    ) -> None:
        check_objective(objective, training)
        self.watchers = watchers or Watchers()
        self.training = training
        data = place(data, model, guide, device=training.device)
        model, guide = adapted_for_fit(model, guide, data.train)
        check_data(model, data.x, data.context, guide)
        remember_data(data, model, guide)
        self.model = model
        self.guide = guide
        self.any_missing = data.has_missing
        self.train = data.train
        self.all_rows = self.train  # of which `restart` takes some
        self.valid = data.valid if "valid" in data.splits else None
        check_held_out(training, self.valid is not None)
        self.data = data
        self.identity: dict[str, str] = {}
        if training.checkpoint is not None:
            self.identity = identity(data, model=model, guide=guide)
        check_share(training.batch_size)
        self.batch_size = min(training.batch_size, len(self.train))
        check_batches(objective, self.batch_size, training.num_parts, (model, guide))
        check_weights(objective, self.train)
        batch = self._first_batch()
        check_programs_for(objective, model, guide, batch)
        # `Any`, since Pyro's base class declares none of the methods that its subclasses share.
        self.objective: Any
        self.objective, *self.programs = shared_among(self.train, objective, model, guide, batch)
        if self.train.weights is not None:
            self.programs = [weighted(program) for program in self.programs]
        args = self._args(torch.arange(self.batch_size))
        self.state = State(model, guide, lambda: self.objective.loss(*self.programs, *args))
        self.start = self.state.take() if training.refit else None
        self.parameters = self.state.parameters
        if not self.parameters:
            raise ValueError(
                "neither model nor guide has a trainable parameter: there is nothing to fit"
            )
        self.updates = Updates(training, self.state.trainable, self.batch_size)
        self.num_steps = training.num_epochs * math.ceil(len(self.train) / self.batch_size)
        self.step = self.stepper(self.num_steps)
        num_epochs = training.num_epochs
        num_losses = num_epochs * math.ceil(len(self.valid or ()) / self.batch_size)
        self.monitor = Monitor(self.step, self.model, self.guide, num_losses, num_epochs)
        self.gradient = objective.gradient if isinstance(objective, Bound) else Reparameterized()
        self.gradient.restore({})  # forgets an earlier training
        self.result = FitResult(
            seed=training.seed, objective=repr(objective), settings=training.in_words()
        )
        self.best = Best()
        self.bar: Any = None

    def stepper(self, num_steps: int) -> Step:
        """How the gradient is computed if it is needed this many times."""
        programs = self.objective, *self.programs
        return stepper(self.training, num_steps, *programs, self.parameters, self.batch_size)

    def go(self, last: int | None = None) -> FitResult:
        """Train until the last epoch, by default of the schedule, or until early stopping."""
        if last is None:
            warn_before(self.model, self.data)
            last = self.training.num_epochs
        self._resume(last)
        done = self.result.num_epochs
        self.watchers.begin(self.training, last, self.result)
        start = latest = done, self.state.take()
        listener = Listener(self.watchers, self.state, self.step, self.monitor)
        is_shown = self.training.progress and is_main()
        self.bar = bar = progress_bar(last, "fit", unit="epochs", done=done, progress=is_shown)
        programs = self.model, self.guide
        with training_mode(*programs), missing_values(self.any_missing, *programs), bar:
            for epoch in range(done + 1, last + 1):
                if self._out_of_patience():
                    break
                listener.go_on()
                try:
                    row = self._epoch(epoch)
                except NonFiniteLossError as error:
                    error.args = (f"{error}; {self._put_back(latest, start)}",)
                    raise
                self.watchers.log(row)  # before the checkpoint: a failure repeats the epoch
                latest = epoch, self._record(row)
                ends = {k: f"{row[k]:.2f}" for k in ("train", "valid") if k in row}
                bar.set_postfix(ends, refresh=False)
                bar.update()
                if self._asks_to_stop(listener, row):
                    self.result.stopped = STOPPED
                    break
        return self._finish()

    def restart(self, weights: Weights, rows: np.ndarray, seed: int) -> None:
        """Start again from these weights on as many rows; a recorded step stays in use."""
        self.state.put(weights)
        self.train = self.all_rows[rows]
        self.training = replace(self.training, seed=seed)
        self.updates = Updates(self.training, self.state.trainable, self.batch_size)
        self.gradient.restore({})

    def steps(self, epoch: int) -> tuple[float, Tensor, Tensor]:
        """Train on every row once; returns the loss of all rows, x as drawn, and the last batch."""
        generator = torch.Generator().manual_seed(self._seed(epoch, 0))
        x = self.train.draw(generator)
        order = torch.randperm(len(x), generator=generator)
        if len(x) <= self.batch_size:
            # A guide may have parameters for each row, in the order of the rows.
            order = torch.arange(len(x))
        batches = self._batches(order)
        mine = [rows[rank() :: num_processes()] for rows in batches]
        ahead = in_turn(x, mine)
        total = 0.0
        with seeded(self._seed(epoch, 1, *([rank()] if rank() else []))):
            for i, rows in enumerate(batches):
                loss = self._step(ahead, mine[i], done=epoch - 1 + i / len(batches))
                if i == 0 and len(self.state.parameters) != len(self.parameters):
                    raise ValueError(
                        "model or guide made parameters at the first step: call both once before "
                        "fit, as in guide(x)"
                    )
                if not math.isfinite(loss):
                    site = culprit(self.model, self.guide, self._rows(rows, x))
                    raise NonFiniteLossError(
                        f"the loss is {loss} at epoch {epoch}, batch {i}, {site}"
                    )
                total += loss
                if self.bar is not None:
                    show_step(self.bar, i + 1, len(batches))
        return total, x, rows

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train on every row once; returns this epoch's row of the history."""
        start = time.perf_counter()
        total, x, rows = self.steps(epoch)
        batch = self._rows(rows, x)
        weights = self._args(rows, x)[len(batch) :]  # those of these rows, if there are any
        row = {
            "epoch": epoch,
            "train": -total / len(x),
            "kl_weight": self.training.kl_weight(epoch),
            "rate": self.monitor.rate(batch, self._seed(0, 4), *weights),
        }
        if self.valid is not None:
            row["valid"] = self._mean_bound(self.valid)
        self._check_weights(row, rows)
        row["learning_rate"] = self.updates.rate
        self.updates.end_epoch(row.get("valid", row["train"]), row["kl_weight"])
        return row | {"seconds": time.perf_counter() - start}

    def _batches(self, order: Tensor) -> list[Tensor]:
        """Rows of each batch; a last one too small for batch normalisation joins its neighbour."""
        batches = list(order.split(self.batch_size))
        fewest = 2 * self.training.num_parts * num_processes()
        if len(batches) > 1 and len(batches[-1]) < fewest:
            if has_module(nn.modules.batchnorm._BatchNorm, self.model, self.guide):
                batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _check_weights(self, row: dict[str, float], rows: Tensor) -> None:
        """Raise if the weights after an epoch are not finite, or the last weights give no bound."""
        epoch = row["epoch"]
        name = self.state.broken()
        if name is not None:
            raise NonFiniteLossError(f"{name} holds NaN or infinity after epoch {epoch}")
        if epoch < self.training.num_epochs or math.isfinite(row.get("valid", math.nan)):
            return
        if not self._is_finite([self._args(rows)]):
            site = culprit(self.model, self.guide, self._rows(rows))
            raise NonFiniteLossError(f"the bound is not finite after epoch {epoch}, {site}")

    def _step(self, x: Tensor, rows: Tensor, done: float) -> float:
        """One gradient step after `done` epochs; returns the loss summed over the batch."""
        args = self._args(rows, x)
        kl_weight = self.training.kl_weight(done)
        num_parts = self.training.num_parts
        try:
            return self.updates.step(
                done / self.training.num_epochs,
                lambda: batch_gradient(self.step, args, kl_weight, num_parts),
            )
        except RuntimeError as error:
            # A matrix factorisation fails where other operations would give NaN.
            if not isinstance(error, torch.linalg.LinAlgError) and self.state.broken() is None:
                raise
            raise NonFiniteLossError(
                f"a step failed after {done:.2f} epochs ({one_line(error)})"
            ) from error

    def _mean_bound(self, data: Dataset) -> float:
        """Mean of the unannealed objective per row, in evaluation mode, with the same draws."""
        batches = torch.arange(len(data)).split(self.batch_size)
        total = 0.0
        for i in range(rank(), len(batches), num_processes()):
            args = with_weights(rows_of(data, batches[i]), data, batches[i])
            total -= self.monitor.loss(args, self._seed(0, 2, i))
        return sum(gathered(total)) / len(data)

    def _is_finite(self, batches: Iterable[tuple[Tensor, ...]] | None = None) -> bool:
        """Whether the loss of each of these batches is finite; None takes all training rows."""
        if batches is None:
            batches = map(self._args, torch.arange(len(self.train)).split(self.batch_size))
        try:
            with evaluating(self.model, self.guide), seeded(self._seed(0, 5)):
                losses = (self.objective.loss(*self.programs, *args) for args in batches)
                return all(math.isfinite(number(loss)) for loss in losses)
        except (ValueError, RuntimeError):  # programs may fail on such numbers
            return False

    def _put_back(self, latest: tuple[int, Weights], start: tuple[int, Weights]) -> str:
        """Put back the latest weights, or those at the start if the latest give no finite bound."""
        epoch, weights = latest
        self.state.put(weights)
        if not self._is_finite():
            epoch, weights = start
            self.state.put(weights)
        which = f"weights after epoch {epoch}" if epoch else "starting weights"
        return (
            f"the {which} were put back: lower learning_rate, set clip_norm, or look for extreme "
            "values in x"
        )

    def _record(self, row: dict[str, float]) -> Weights:
        """Record an epoch and whether it is the best, and write the checkpoint; returns weights."""
        history = self.result.history
        for name, value in row.items():
            history.setdefault(name, []).append(value)
        self.result.wall_time += row["seconds"]
        patience = max(5, self.training.num_epochs // 5)
        message = collapse_warning(history["rate"], history["kl_weight"], patience=patience)
        if message is not None:
            batch = self._first_batch()
            if not shares_information(self.model, self.guide, batch, self._seed(0, 4)):
                logger.warning(message)
        weights = self.state.take()
        if self.valid is None:
            self.best = Best(epoch=int(row["epoch"]))
        elif row["kl_weight"] >= 1.0 and row["valid"] > self.best.value:
            kept = weights if self.training.patience else None
            self.best = Best(row["valid"], int(row["epoch"]), kept)
        self._write(weights)
        return weights

    def _write(self, weights: Weights) -> None:
        """Write the checkpoint, if there is one."""
        path = self.training.checkpoint
        if path is None or not is_main():
            return
        memory = self.updates.state() | {"gradient": self.gradient.state(), "start": self.start}
        memory["probe"] = probe(self.model, self.guide, *self._first_batch())
        write_checkpoint(path, self._settings(), weights, memory, self.result, self.best)

    def _asks_to_stop(self, listener: Listener, row: dict[str, float]) -> bool:
        """Whether `after_epoch` does; what it changes in the weights goes into the checkpoint."""
        if self.watchers.after_epoch is None:
            return False
        before = self.state.versions
        try:
            return listener.stop(row, self.model, self.guide)
        finally:
            if self.state.versions != before:
                self._write(self.state.take())

    def _out_of_patience(self) -> bool:
        """Whether enough epochs at full KL weight have passed since the best one."""
        if self.training.patience is None or self.valid is None:
            return False
        weights = self.result.history.get("kl_weight", [])[self.best.epoch :]
        return sum(weight >= 1.0 for weight in weights) >= self.training.patience

    def _finish(self) -> FitResult:
        """Put the best weights back, and give the warnings about the result."""
        if self._out_of_patience():
            self.result.stopped = "early stopping"
        if self.best.weights is not None:
            self.state.put(self.best.weights)
        self.result.best_epoch = self.best.epoch
        warn_after(self.result)
        if isinstance(self.model, Model) and not self.training.refit:
            batch = self._first_batch()
            for concern in concerns(self.model, self.guide, batch, self._seed(0, 3)):
                logger.warning(concern)
        return self.result

    def _resume(self, last: int) -> None:
        """Continue from the checkpoint, if there is one; all processes start from equal weights."""
        before = from_main(self.state.take())
        self.state.put(before)
        path = self.training.checkpoint
        state = None
        if path is not None and is_main():
            state = read_checkpoint(path, self._settings(), last)
        state = from_main(state)
        if state is None:
            return
        self.state.put(state["weights"])
        try:
            self.state.check_resumed(path, state, self.model, self.guide, *self._first_batch())
        except ValueError:
            self.state.put(before)
            raise
        self.updates.restore(state)
        self.gradient.restore(state["gradient"])
        self.start = state.get("start")
        self.result = continued(self.training, state["result"])
        self.best = Best(**state["best"])

    def _settings(self) -> dict[str, str]:
        """Settings that a checkpoint must share to be continued; the number of epochs may grow."""
        objective = {"objective": in_words(self.objective)}
        return self.training.described() | objective | self.identity | self.updates.described

    def _first_batch(self) -> tuple[Tensor, ...]:
        """The arguments of model and guide for the first rows."""
        return self._rows(torch.arange(self.batch_size))

    def _seed(self, *keys: int) -> int:
        return derived_seed(self.training.seed, *keys)

    def _args(self, rows: Tensor, x: Tensor | None = None) -> tuple[Tensor, ...]:
        """The arguments of the objective's programs: the same, and weights if there are any."""
        return with_weights(self._rows(rows, x), self.train, rows)

    def _rows(self, rows: Tensor, x: Tensor | None = None) -> tuple[Tensor, ...]:
        """The arguments of model and guide for these training rows, by default of their x."""
        return rows_of(self.train, rows, x)
