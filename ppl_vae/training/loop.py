"""The training loop: its state after one epoch is all that the next one needs, so it can stop and
go on anywhere.
"""

import hashlib
import logging
import math
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import blocks, in_turn, taken
from ppl_vae.model import Model
from ppl_vae.objectives import Bound, Reparameterized
from ppl_vae.programs.modules import (
    arguments,
    evaluating,
    missing_values,
    modules_of,
    own_parameters,
    place,
    remember_data,
)
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.programs.validation import check_data, check_programs
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.distributed import (
    add_up,
    check_share,
    from_main,
    gathered,
    is_main,
    num_processes,
    rank,
)
from ppl_vae.runtime.seeding import derived_seed, seeded
from ppl_vae.training.collapse_alarm import collapse_warning, mean_rate
from ppl_vae.training.failure import REMEDY, Fallback, culprit
from ppl_vae.training.result import FitResult, NonFiniteLossError
from ppl_vae.training.settings import Training
from ppl_vae.training.shared_latents import shared_among
from ppl_vae.training.state import Best, State, Weights, read_checkpoint, write_checkpoint
from ppl_vae.training.step import WAYS, RecordedStep, Step, number, unrecordable
from ppl_vae.training.updates import Updates
from ppl_vae.training.warnings import warn_after, warn_before

logger = logging.getLogger(__name__)

FEWEST_STEPS_TO_RECORD = 1_000  # recording costs what it saves in some hundred steps
FEWEST_STEPS_TO_COMPILE = 10_000  # and compiling in some thousands
NOTHING_ENUMERATED = (
    "no site is marked for enumeration, so TraceEnum_ELBO sums none out: wrap the guide in "
    "pyro.infer.config_enumerate "
    '(or the model, where the guide leaves the site to it), or say infer={"enumerate": "parallel"} '
    "at the site"
)


class Run:
    """One call of `fit`."""

    def __init__(
        self, model: Program, guide: Program, data: Dataset, objective: Any, training: Training
    ) -> None:
        if not isinstance(objective, ELBO):
            name = (
                f"the class {objective.__name__}"
                if isinstance(objective, type)
                else type(objective).__name__
            )
            raise TypeError(
                f"objective is {name}; it must be one of ppl_vae.objectives, made, or a pyro.infer "
                "ELBO"
            )
        if training.anneals and not isinstance(objective, Bound):
            raise ValueError(
                f"the KL of {type(objective).__name__} cannot be annealed: use one of ppl_vae's "
                "objectives"
            )
        self.model, self.guide, self.training = model, guide, training
        self.objective: Any = (
            objective  # Pyro's base class declares none of the methods that its subclasses share
        )
        data = place(data, model, guide, device=training.device)
        check_data(model, data.x, data.context, guide)
        remember_data(data, model, guide)
        self.any_missing = data.has_missing
        self.train, self.valid = data.train, data.valid if "valid" in data.splits else None
        if training.patience is not None and self.valid is None:
            raise ValueError(
                f"patience={training.patience} needs held-out data: use data.split(valid=0.1), or "
                "leave it out"
            )
        warn_before(model, data)
        self.data_digest = _digest(data, model, guide) if training.checkpoint is not None else ""
        check_share(training.batch_size)
        self.batch_size = min(training.batch_size, len(self.train))
        _check_rows(objective, self.batch_size // training.num_parts)
        if self.batch_size < 2 * training.num_parts * num_processes() and self._holds(
            nn.BatchNorm1d
        ):
            raise ValueError(
                "batch normalisation needs 2 rows in each part of a batch, not "
                f"batch_size={self.batch_size} in "
                f"{training.num_parts} parts: raise batch_size, or lower num_parts"
            )
        first = self._rows(self.train.x, self.train.context, torch.arange(min(2, len(self.train))))
        if isinstance(objective, TraceEnum_ELBO) and not _enumerates(model, guide, first):
            logger.warning(NOTHING_ENUMERATED)
        batch = self._rows(self.train.x, self.train.context, torch.arange(self.batch_size))
        if isinstance(objective, Bound):
            check_programs(model, guide, *batch)
            if training.anneals:
                objective.annealed(1.0)  # MCEM refuses
        self.objective, *self.programs = shared_among(
            len(self.train), objective, model, guide, batch
        )
        self.state = State(model, guide, lambda: self.objective.loss(*self.programs, *batch))
        self.parameters = self.state.parameters
        if not self.parameters:
            raise ValueError(
                "neither model nor guide has a trainable parameter: there is nothing to fit"
            )
        self.updates = Updates(training, self.parameters, self.batch_size)
        self.step = self._stepper()
        self.gradient = objective.gradient if isinstance(objective, Bound) else Reparameterized()
        self.gradient.restore({})  # nothing of an earlier training
        self.result = FitResult(seed=training.seed, objective=repr(objective))
        self.best = Best()

    def go(self) -> FitResult:
        """Train until the last epoch, or until patience ends."""
        self._resume()
        fallback = Fallback(self.state, self.result.num_epochs)
        total, is_quiet = self.training.num_epochs, not (self.training.progress and is_main())
        bar = tqdm(
            desc="fit",
            unit=" epochs",
            total=total,
            initial=self.result.num_epochs,
            disable=is_quiet,
        )
        programs = self.model, self.guide
        with _training_mode(*programs), missing_values(self.any_missing, *programs), bar:
            for epoch in range(self.result.num_epochs + 1, self.training.num_epochs + 1):
                if self._out_of_patience():
                    break
                try:
                    row = self._epoch(epoch)
                except NonFiniteLossError as error:
                    error.args = (f"{error}; {fallback.put_back(self._is_finite)}: {REMEDY}",)
                    raise
                fallback.keep(epoch, self._record(row))
                bar.set_postfix({k: f"{row[k]:.2f}" for k in ("train", "valid") if k in row})
                bar.update()
        return self._finish()

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train on every row once; returns this epoch's row of the history."""
        start, generator = time.perf_counter(), torch.Generator().manual_seed(self._seed(epoch, 0))
        x = self.train.draw(generator)
        order = torch.randperm(len(x), generator=generator)
        if (
            len(x) <= self.batch_size
        ):  # a guide may have parameters for each row, in the order of the rows
            order = torch.arange(len(x))
        batches = self._batches(order)
        mine = [rows[rank() :: num_processes()] for rows in batches]
        total, ahead = 0.0, in_turn(x, mine)
        with seeded(self._seed(epoch, 1, *([rank()] if rank() else []))):
            for i, rows in enumerate(batches):
                loss = self._step(ahead, mine[i], done=epoch - 1 + i / len(batches))
                if i == 0:
                    self._check_parameters()
                if not math.isfinite(loss):
                    site = culprit(self.model, self.guide, self._rows(x, self.train.context, rows))
                    raise NonFiniteLossError(
                        f"the loss is {loss} at epoch {epoch}, batch {i}, {site}"
                    )
                total += loss
        row = {
            "epoch": epoch,
            "train": -total / len(x),
            "kl_weight": self.training.kl_weight(epoch),
        }
        row["rate"] = mean_rate(
            self.model, self.guide, self._rows(x, self.train.context, rows), self._seed(0, 4)
        )
        if self.valid is not None:
            row["valid"] = self._mean_bound(self.valid)
        self._check_weights(row, last=self._rows(x, self.train.context, rows))
        row["learning_rate"] = self.updates.rate
        self.updates.end_epoch(row.get("valid", row["train"]), row["kl_weight"])
        return row | {"seconds": time.perf_counter() - start}

    def _batches(self, order: Tensor) -> list[Tensor]:
        """Rows of each batch; a last one that is too small for batch normalisation joins the one
        before.
        """
        batches = list(order.split(self.batch_size))
        fewest = 2 * self.training.num_parts * num_processes()
        if (
            len(batches) > 1
            and len(batches[-1]) < fewest
            and self._holds(nn.modules.batchnorm._BatchNorm)
        ):
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _holds(self, kind: type[nn.Module]) -> bool:
        """Whether model or guide has a module of this kind."""
        parts = (part for module in modules_of(self.model, self.guide) for part in module.modules())
        return any(isinstance(part, kind) for part in parts)

    def _check_weights(self, row: dict[str, float], last: tuple[Tensor, ...]) -> None:
        """Raise where an epoch does not count; of the last one's weights no later loss tells."""
        name = self.state.broken()
        if name is not None:
            raise NonFiniteLossError(f"{name} holds NaN or infinity after epoch {row['epoch']}")
        is_told_later = row["epoch"] < self.training.num_epochs
        if (
            not is_told_later
            and not math.isfinite(row.get("valid", math.nan))
            and not self._is_finite([last])
        ):
            site = culprit(self.model, self.guide, last)
            raise NonFiniteLossError(f"the bound is not finite after epoch {row['epoch']}, {site}")

    def _check_parameters(self) -> None:
        if len(self.state.parameters) != len(self.parameters):
            raise ValueError(
                "model or guide made parameters at the first step: call both once before, guide(x)"
            )

    def _step(self, x: Tensor, rows: Tensor, done: float) -> float:
        """One gradient step after `done` epochs; returns the loss summed over the batch."""
        args, kl_weight = self._rows(x, self.train.context, rows), self.training.kl_weight(done)
        try:
            return self.updates.step(
                done / self.training.num_epochs, lambda: self._gradient(args, kl_weight)
            )
        except (
            RuntimeError
        ) as error:  # a factorisation fails where the others' numbers stop being finite
            if not isinstance(error, torch.linalg.LinAlgError) and self.state.broken() is None:
                raise
            raise NonFiniteLossError(
                f"a step failed after {done:.2f} epochs ({one_line(error)})"
            ) from error

    def _gradient(self, args: tuple[Tensor, ...], kl_weight: float) -> float:
        """Loss of a batch, its gradient in `.grad`: of its rows part by part, then of all
        processes' rows.
        """
        parts = [
            part
            for part in zip(
                *(arg.tensor_split(self.training.num_parts) for arg in args), strict=True
            )
            if len(part[0])
        ]
        loss, gradients = 0.0, [None if parts else torch.zeros_like(p) for p in self.parameters]
        for part in parts:
            loss += self.step(part, kl_weight)
            gradients = [
                sum_of(old, p.grad) for old, p in zip(gradients, self.parameters, strict=True)
            ]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return across_processes(loss, self.parameters)

    def _stepper(self) -> Step:
        """How a step's gradient is computed."""
        training, programs = self.training, (self.objective, *self.programs)
        parts = (*programs, self.parameters, self.batch_size, training.dtype is not None)
        num_steps = training.num_epochs * math.ceil(len(self.train) / self.batch_size)
        if (
            training.compile is False
            or training.compile == "auto"
            and num_steps < FEWEST_STEPS_TO_RECORD
        ):
            return Step(*parts)
        level = logging.INFO if training.compile == "auto" else logging.WARNING
        reason = unrecordable(*programs)
        if reason is not None:
            logger.log(level, "training step not recorded: %s", reason)
            return Step(*parts)
        num_ways = {True: 2, "cudagraphs": 3}.get(
            training.compile, 2 if num_steps >= FEWEST_STEPS_TO_COMPILE else 1
        )
        return RecordedStep(*parts, ways=WAYS[:num_ways], level=level)

    def _mean_bound(self, data: Dataset) -> float:
        """Mean of the unannealed objective per datum, in evaluation mode, with the same draws at
        every call.
        """
        total, batches = 0.0, torch.arange(len(data)).split(self.batch_size)
        for i in range(rank(), len(batches), num_processes()):
            with evaluating(self.model, self.guide), seeded(self._seed(0, 2, i)):
                loss = self.objective.loss(
                    *self.programs, *self._rows(data.x, data.context, batches[i])
                )
                total -= number(loss)
        return sum(gathered(total)) / len(data)

    def _is_finite(self, batches: Iterable[tuple[Tensor, ...]] | None = None) -> bool:
        """Whether the loss of each of these batches is finite; None takes all training rows."""
        order = torch.arange(len(self.train)).split(self.batch_size)
        everything = (self._rows(self.train.x, self.train.context, rows) for rows in order)
        try:
            with evaluating(self.model, self.guide), seeded(self._seed(0, 5)):
                losses = (
                    self.objective.loss(*self.programs, *args) for args in batches or everything
                )
                return all(math.isfinite(number(loss)) for loss in losses)
        except (ValueError, RuntimeError):  # with such numbers a program may also fail
            return False

    def _record(self, row: dict[str, float]) -> Weights:
        """Note an epoch, remember it if it is the best, write the checkpoint; returns its
        weights.
        """
        for name, value in row.items():
            self.result.history.setdefault(name, []).append(value)
        self.result.wall_time += row["seconds"]
        history, patience = self.result.history, max(5, self.training.num_epochs // 5)
        message = collapse_warning(history["rate"], history["kl_weight"], patience=patience)
        if message is not None:
            logger.warning(message)
        weights = self.state.take()
        if self.valid is None:
            self.best = Best(epoch=int(row["epoch"]))
        elif row["kl_weight"] >= 1.0 and row["valid"] > self.best.value:
            self.best = Best(
                row["valid"], int(row["epoch"]), weights if self.training.patience else None
            )
        if self.training.checkpoint is not None and is_main():
            memory = self.updates.state() | {"gradient": self.gradient.state()}
            write_checkpoint(
                self.training.checkpoint, self._settings(), weights, memory, self.result, self.best
            )
        return weights

    def _out_of_patience(self) -> bool:
        """Whether enough epochs at full KL weight have passed since the best one."""
        if self.training.patience is None or self.valid is None:
            return False
        weights = self.result.history.get("kl_weight", [])[self.best.epoch :]
        return sum(weight >= 1.0 for weight in weights) >= self.training.patience

    def _finish(self) -> FitResult:
        if self._out_of_patience():
            self.result.stopped = "early stopping"
        if self.best.weights is not None:
            self.state.put(self.best.weights)
        self.result.best_epoch = self.best.epoch
        warn_after(self.result)
        if isinstance(self.model, Model):
            self._log_concerns(self.model)
        return self.result

    def _log_concerns(self, model: Model) -> None:
        args = self._rows(self.train.x, self.train.context, torch.arange(self.batch_size))
        try:
            with evaluating(self.model, self.guide), seeded(self._seed(0, 3)):
                z: Any = log_terms(self.model, self.guide, *args).guide_trace.nodes["z"]["value"]
                concerns = model.concerns(z, *args[1:])
        except Exception as error:  # a diagnostic never ends a training
            concerns = [f"the fitted likelihood could not be looked at: {one_line(error)}"]
        for concern in concerns:
            logger.warning(concern)

    def _resume(self) -> None:
        self.state.put(from_main(self.state.take()))  # all processes start from the same weights
        path = self.training.checkpoint
        state = from_main(
            read_checkpoint(path, self._settings()) if is_main() and path is not None else None
        )
        if state is not None:
            self.state.put(state["weights"])
            self.updates.restore(state)
            self.gradient.restore(state["gradient"])
            self.result, self.best = FitResult(**state["result"]), Best(**state["best"])

    def _settings(self) -> dict[str, str]:
        """What must agree for a checkpoint to go on; the number of epochs may grow."""
        names = (
            "seed",
            "batch_size",
            "learning_rate",
            "kl_warmup_epochs",
            "kl_schedule",
            "clip_norm",
            "patience",
            "dtype",
        )
        values = {name: getattr(self.training, name) for name in names}
        told = {name: _told(value) for name, value in values.items()}
        told |= {"objective": repr(self.objective), "data and model": self.data_digest}
        return told | self.updates.told

    def _seed(self, *keys: int) -> int:
        return derived_seed(self.training.seed, *keys)

    @staticmethod
    def _rows(x: Tensor, context: Tensor | None, rows: Tensor) -> tuple[Tensor, ...]:
        return arguments(taken(x, rows), None if context is None else taken(context, rows))


def _digest(data: Dataset, *programs: Program) -> str:
    """A hash of the training data and of how the modules are built."""
    digest = hashlib.sha256()
    for part in blocks(data.train.x):
        digest.update(part.cpu().numpy().tobytes())
    for program in programs:
        digest.update(repr(program).encode() if isinstance(program, nn.Module) else b"")
    return digest.hexdigest()[:16]


def _told(setting: Any) -> str:
    """A setting in words; a schedule by its values, for two of them may have one name."""
    return " ".join(str(setting(i / 8)) for i in range(9)) if callable(setting) else repr(setting)


def _check_rows(objective: Any, num_rows: int) -> None:
    """Raise ValueError where every batch, or part of one, has too few rows for what an objective
    takes over it.
    """
    fewest = getattr(objective, "fewest_rows", 1)
    if num_rows < fewest and fewest > 1:
        raise ValueError(
            f"{type(objective).__name__} compares data with each other: it needs {fewest} rows in "
            "each batch, and in "
            f"each of its parts, not {num_rows}: raise batch_size, or lower num_parts"
        )


def _enumerates(model: Program, guide: Program, args: tuple[Tensor, ...]) -> bool:
    """Whether a site of model or guide is marked for enumeration."""
    with evaluating(model, guide), seeded(0):
        traces: Any = [poutine.trace(program).get_trace(*args) for program in (model, guide)]
    sites = [site for trace in traces for site in trace.nodes.values() if site["type"] == "sample"]
    return any((site["infer"] or {}).get("enumerate") for site in sites)


def sum_of(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Where both are; else the one that is."""
    return other if one is None else one if other is None else one + other


def across_processes(loss: float, parameters: list[Tensor]) -> float:
    """Sum of all processes' losses, and of their gradients in `.grad`."""
    if num_processes() == 1:
        return loss
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    total = parameters[0].new_tensor([loss])
    add_up([total, *(p.grad for p in parameters if p.grad is not None)])
    return total.item()


@contextmanager
def _training_mode(*programs: Program) -> Iterator[None]:
    """Training mode, no validation, out of Pyro's store, denormals flushed (Adam's moments decay
    into them).

    Afterwards evaluation mode, for what is fitted is looked at.
    """
    modules = [part for module in modules_of(*programs) for part in module.modules()]
    flushed = bool(torch.tensor(1e-40) * 0.5 == 0)
    torch.set_flush_denormal(True)
    for module in modules:
        module.training = True
    try:
        with own_parameters(*programs), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".* was not registered in the param store"
            )  # it is frozen
            yield
    finally:
        torch.set_flush_denormal(flushed)
        for module in modules:
            module.training = False
