"""How to train: one value object, checked when it is made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.runtime.checks import one_line, one_of, real_number, whole_number

__all__ = ["Training"]

COUNTS = {
    "num_epochs": 0,
    "batch_size": 1,
    "num_parts": 1,
    "kl_warmup_epochs": 0,
    "patience": 1,
    "seed": 0,
}
OBJECTS: dict[str, tuple[Any, str]] = {
    "optimizer": (
        Callable,
        "a function of the parameters, as in lambda ps: torch.optim.SGD(ps, lr=0.1)",
    ),
    "scheduler": (
        Callable,
        "a function of the optimiser, as in lambda o: torch.optim.lr_scheduler.StepLR(o, 30)",
    ),
    "kl_schedule": (
        Callable,
        "a function of the fraction of training done, as in schedules.Linear()",
    ),
    "device": ((str, torch.device), 'a name, as in "cuda"'),
    "checkpoint": ((str, Path), "a path"),
}


@dataclass(frozen=True)
class Training:
    """Settings of `fit`.

    Args:
        num_epochs: Passes over the training data.
        batch_size: Data per step.
        num_parts: Parts that a batch is taken in, one after the other, their gradients added: for
            batches that the memory does not hold. What an objective takes over the batch (free
            bits, `InfoVAE`) it takes over the part.
        learning_rate: A number, or a schedule: any function of the fraction of training done
            (`training.schedules`). None leaves the optimiser its own rates, and is 1e-3 for the
            default Adam. A number is the rate of the first parameter group; the other groups keep
            their ratio to it.
        optimizer: From parameters to a torch optimiser; None is Adam (fused where the device has
            it). An optimiser that evaluates the loss itself (L-BFGS) sees the same draws at each
            evaluation of one step.
        scheduler: From optimiser to one of `torch.optim.lr_scheduler`. It is stepped after each
            epoch, `OneCycleLR` and `CyclicLR` after each batch. `ReduceLROnPlateau` is given the
            held-out bound of epochs at full KL weight (the training bound where nothing is held
            out): as it is with mode="max", its negative, a loss, with torch's default mode="min". A
            bound may have either sign, which threshold_mode="abs" is for.
        clip_norm: Largest gradient norm; None does not clip.
        kl_warmup_epochs: Epochs over which the KL's weight grows from 0 to 1.
        kl_schedule: Any other course of the KL's weight, as a function of the fraction of training
            done (`schedules.Linear`, `schedules.Cyclic`); instead of `kl_warmup_epochs`.
        patience: Stop after this many epochs at full KL weight without a better held-out
            (unannealed) bound, and go back to the best weights; None never stops early.
        seed: Seed of batches, draws and binarisation; the same seed gives the same result on the
            same machine.
        device: Where to train, e.g. "cuda"; None leaves model and guide where they are.
        compile: Whether Pyro's handlers run once and the graph of operations that they leave runs
            ever after, compiled:
            True; False; or "auto": a graph from 1,000 steps on, compiled from 10,000 steps on. The
            same draws and, within float tolerance, the same losses either way. "cudagraphs"
            compiles and launches all kernels of a step on a GPU as one (not with `num_parts`).
            Where it cannot be done the log says why.
        dtype: "bfloat16" takes matrix products of networks in it, forwards and backwards;
            parameters, draws, densities and the held-out bound stay in their own float type, which
            None takes for all.
        checkpoint: File that holds the whole state after each epoch; if it exists, training goes on
            from there.
        progress: Whether to show a bar.

    Raises:
        ValueError: a setting is out of range, or of another kind; a schedule gives what is none,
            when it does.

    Example:
        >>> Training(num_epochs=3).batch_size
        128
    """

    num_epochs: int = 100
    batch_size: int = 128
    num_parts: int = 1
    learning_rate: float | Callable[[float], float] | None = None
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    clip_norm: float | None = None
    kl_warmup_epochs: int = 0
    kl_schedule: Callable[[float], float] | None = None
    patience: int | None = None
    seed: int = 0
    device: str | None = None
    compile: Literal["auto", "cudagraphs"] | bool = "auto"
    dtype: Literal["bfloat16"] | None = None
    checkpoint: str | Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if value is not None or name != "patience":
                object.__setattr__(self, name, whole_number(value, f"Training({name})", least))
        if self.learning_rate is not None and not callable(self.learning_rate):
            real_number(self.learning_rate, "Training(learning_rate)", above=0)
        if self.clip_norm is not None:
            real_number(self.clip_norm, "Training(clip_norm)", above=0)
        one_of(self.compile, "Training(compile)", ("auto", True, False, "cudagraphs"))
        one_of(self.dtype, "Training(dtype)", ("bfloat16", None))
        one_of(self.progress, "Training(progress)", (True, False))
        for name, (kinds, example) in OBJECTS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise ValueError(
                    f"Training({name}) is {one_line(repr(value))}; it must be {example}"
                )
        if 0 < self.num_epochs < self.kl_warmup_epochs:
            raise ValueError(
                f"Training(kl_warmup_epochs={self.kl_warmup_epochs}): longer than "
                f"num_epochs={self.num_epochs}, it "
                "would never end, and the bound itself would not be trained for: shorten it"
            )
        if self.compile == "cudagraphs" and self.num_parts > 1:
            raise ValueError(
                f'Training(compile="cudagraphs", num_parts={self.num_parts}): a CUDA graph writes '
                "the gradient of each "
                "part over that of the one before: take compile=True, or one part"
            )
        if self.kl_warmup_epochs and self.kl_schedule is not None:
            raise ValueError(
                "kl_warmup_epochs and kl_schedule both set the KL's weight: give one of them"
            )
        if self.scheduler is not None and callable(self.learning_rate):
            raise ValueError(
                "scheduler and a learning_rate that is a schedule both set the rate: give one of "
                "them"
            )

    def rate(self, fraction: float) -> float:
        """The learning rate after this fraction of training, where it is given."""
        rate = self.learning_rate(fraction) if callable(self.learning_rate) else self.learning_rate
        return real_number(
            rate, f"Training(learning_rate) after {fraction:.0%} of training", at_least=0
        )

    @property
    def anneals(self) -> bool:
        """Whether the KL's weight is ever anything but 1."""
        return bool(self.kl_warmup_epochs) or self.kl_schedule is not None

    def kl_weight(self, epoch: float) -> float:
        """Weight of the KL at this (fractional) epoch."""
        if self.kl_schedule is not None:
            weight = self.kl_schedule(epoch / max(1, self.num_epochs))
            return real_number(weight, f"Training(kl_schedule) after {epoch:g} epochs", at_least=0)
        return min(1.0, epoch / self.kl_warmup_epochs) if self.kl_warmup_epochs else 1.0
