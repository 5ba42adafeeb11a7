"""How to train: one value object, checked when it is made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.training.schedules import Constant

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """Settings of `fit`.

    No paper.

    Args:
        num_epochs: Passes over the training data.
        batch_size: Data per step.
        num_parts: Parts that a batch is taken in, one after the other, their gradients added: for batches that the
            memory does not hold. What an objective takes over the batch (free bits, `InfoVAE`) it takes over the part.
        learning_rate: A number, or a schedule: any function of the fraction of training done (`training.schedules`).
        optimizer: From parameters to a torch optimiser; None is Adam (fused where the device has it).
        clip_norm: Largest gradient norm; None does not clip.
        kl_warmup_epochs: Epochs over which the KL's weight grows from 0 to 1.
        kl_schedule: Any other course of the KL's weight, as a function of the fraction of training done
            (`schedules.Linear`, `schedules.Cyclic`); instead of `kl_warmup_epochs`.
        patience: Stop after this many epochs at full KL weight without a better held-out (unannealed) bound, and go
            back to the best weights; None never stops early.
        seed: Seed of batches, draws and binarisation; the same seed gives the same result on the same machine.
        device: Where to train, e.g. "cuda"; None leaves model and guide where they are.
        compile: Whether Pyro's handlers run once and the graph of operations that they leave runs ever after, compiled:
            True; False; or "auto": a graph from 1,000 steps on, compiled from 10,000 steps on. The same draws and,
            within float tolerance, the same losses either way. Where it cannot be done the log says why.
        checkpoint: File that holds the whole state after each epoch; if it exists, training goes on from there.
        progress: Whether to show a bar.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> Training(num_epochs=3).batch_size
        128
    """

    num_epochs: int = 100
    batch_size: int = 128
    num_parts: int = 1
    learning_rate: float | Callable[[float], float] = 1e-3
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None = None
    clip_norm: float | None = None
    kl_warmup_epochs: int = 0
    kl_schedule: Callable[[float], float] | None = None
    patience: int | None = None
    seed: int = 0
    device: str | None = None
    compile: Literal["auto"] | bool = "auto"
    checkpoint: str | Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("num_epochs", 0),
            ("batch_size", 1),
            ("num_parts", 1),
            ("kl_warmup_epochs", 0),
            ("patience", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Training({name}={value}): it must be at least {least}")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"Training({name}={value}): it must be positive")
        if 0 < self.num_epochs < self.kl_warmup_epochs:
            raise ValueError(
                f"Training(kl_warmup_epochs={self.kl_warmup_epochs}): longer than num_epochs={self.num_epochs}, it "
                "would never end, and the bound itself would not be trained for: shorten it"
            )
        if self.compile not in ("auto", True, False):
            raise ValueError(f'Training(compile={self.compile!r}): it must be "auto", True or False')
        if self.kl_warmup_epochs and self.kl_schedule is not None:
            raise ValueError("kl_warmup_epochs and kl_schedule both set the KL's weight: give one of them")

    @property
    def schedule(self) -> Callable[[float], float]:
        """The learning rate as a function of the fraction of training done."""
        rate = self.learning_rate
        return rate if callable(rate) else Constant(rate)

    @property
    def anneals(self) -> bool:
        """Whether the KL's weight is ever anything but 1."""
        return bool(self.kl_warmup_epochs) or self.kl_schedule is not None

    def kl_weight(self, epoch: float) -> float:
        """Weight of the KL at this (fractional) epoch."""
        if self.kl_schedule is not None:
            return self.kl_schedule(epoch / max(1, self.num_epochs))
        return min(1.0, epoch / self.kl_warmup_epochs) if self.kl_warmup_epochs else 1.0
