"""How to train: settings, checked when they are given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, file_path, one_line, one_of, real_number, whole_fields
from ppl_vae.runtime.text import without_address

__all__ = ["Training"]

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
RESUMED = (
    "seed",
    "batch_size",
    "num_parts",
    "refit",
    "learning_rate",
    "kl_warmup_epochs",
    "kl_schedule",
    "clip_norm",
    "weight_decay",
    "patience",
    "dtype",
)


@dataclass(frozen=True)
class Training:
    """Settings of `fit`.

    Args:
        num_epochs: Passes over the training rows.
        batch_size: Rows per step.
        num_parts: Number of parts in which a batch is computed, one after the other, with their
            gradients added: for batches that do not fit into memory. Objectives that use the batch
            as a whole (free bits, `InfoVAE`) use each part instead.
        learning_rate: A number, or a schedule: any function of the fraction of training done
            (`training.schedules`). None keeps the optimiser's own rates; for the default Adam it is
            1e-3. A number is the rate of the first parameter group; the other groups keep their
            ratio to it.
        optimizer: A function from parameters to a torch optimiser; None is Adam (fused if the
            device supports it). An optimiser that evaluates the loss several times (L-BFGS) has the
            same draws at each evaluation within a step.
        scheduler: A function from the optimiser to one of `torch.optim.lr_scheduler`. It is stepped
            after each epoch, `OneCycleLR` and `CyclicLR` after each batch. `ReduceLROnPlateau` is
            given the held-out bound of epochs at full KL weight (the training bound if there are no
            held-out rows): the bound itself with mode="max", its negative, a loss, with torch's
            default mode="min". Use threshold_mode="abs", because a bound may have either sign.
        weight_decay: Weight decay of AdamW, which is then the default optimiser: each step shrinks
            the weights of linear maps and convolutions (parameters called "weight", of two dims or
            more) by this share times the learning rate, and leaves all others unchanged: biases,
            scales, dispersions, components of a prior. It regularises networks fitted to few rows.
        clip_norm: Largest gradient norm; None does not clip.
        kl_warmup_epochs: Epochs over which the KL's weight grows from 0 to 1.
        kl_schedule: Any other schedule of the KL's weight, as a function of the fraction of
            training done (`schedules.Linear`, `schedules.Cyclic`); instead of `kl_warmup_epochs`.
        patience: Number of epochs at full KL weight without a better held-out (unannealed) bound
            after which training stops and the best weights are restored; None never stops early.
        refit: Whether to train again, from the same starting weights, on training and validation
            rows together, for as many epochs of the same schedule as had the best held-out bound:
            nothing is then held out from the weights but the test rows.
        seed: Seed of batches, draws and binarisation; the same seed gives the same result on the
            same machine.
        device: Where to train, e.g. "cuda"; None leaves model and guide where they are.
        compile: Whether Pyro's handlers run at the first step only, and a recorded graph of their
            operations runs thereafter. "auto" uses a graph from 300 steps on and compiles it from
            10,000 steps on; True compiles it; False uses none. The draws are the same and, within
            float tolerance, so are the losses. "cudagraphs" compiles, and launches all kernels of a
            step on a GPU as one (not with `num_parts`). If a graph is not possible, the log gives
            the reason.
        dtype: "bfloat16" computes the matrix products of networks in that type, forwards and
            backwards; parameters, draws, densities and the held-out bound keep their own float
            type. None keeps it throughout.
        checkpoint: File for the whole state after each epoch; if it exists, training resumes from
            it. With another `num_epochs` than before, a schedule of the fraction of training has
            other values than in one training of as many epochs, and a warning says so.
        progress: Whether to show a bar.

    Raises:
        ValueError: a setting is out of range or has the wrong type; later, a schedule gives such a
            value.

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
    weight_decay: float = 0.0
    clip_norm: float | None = None
    kl_warmup_epochs: int = 0
    kl_schedule: Callable[[float], float] | None = None
    patience: int | None = None
    refit: bool = False
    seed: int = 0
    device: str | None = None
    compile: Literal["auto", "cudagraphs"] | bool = "auto"
    dtype: Literal["bfloat16"] | None = None
    checkpoint: str | Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        whole_fields(
            self, num_epochs=0, batch_size=1, num_parts=1, kl_warmup_epochs=0, patience=1, seed=0
        )
        if self.learning_rate is not None and not callable(self.learning_rate):
            real_number(self.learning_rate, "Training(learning_rate)", above=0)
        real_number(self.weight_decay, "Training(weight_decay)", at_least=0)
        if self.clip_norm is not None:
            real_number(self.clip_norm, "Training(clip_norm)", above=0)
        one_of(self.compile, "Training(compile)", ("auto", True, False, "cudagraphs"))
        one_of(self.dtype, "Training(dtype)", ("bfloat16", None))
        for name in ("progress", "refit"):
            one_of(getattr(self, name), f"Training({name})", (True, False))
        for name, (kinds, example) in OBJECTS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise ArgumentError(f"Training({name}) is {echoed(value)}; it must be {example}")
        if self.checkpoint is not None:
            file_path(self.checkpoint, "Training(checkpoint)")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Raise ValueError if two settings exclude each other."""
        if 0 < self.num_epochs < self.kl_warmup_epochs:
            raise ValueError(
                f"Training(kl_warmup_epochs={self.kl_warmup_epochs}) is longer than "
                f"num_epochs={self.num_epochs}, so the bound itself would never be maximised: "
                "shorten it"
            )
        if self.compile == "cudagraphs" and self.num_parts > 1:
            raise ValueError(
                f'Training(compile="cudagraphs", num_parts={self.num_parts}): a CUDA graph writes '
                "the gradient of each part over that of the one before: use compile=True, or one "
                "part"
            )
        if self.kl_warmup_epochs and self.kl_schedule is not None:
            raise ValueError(
                "kl_warmup_epochs and kl_schedule both set the KL's weight: give one of them"
            )
        if self.weight_decay and self.optimizer is not None:
            raise ValueError(
                "optimizer and weight_decay both set the optimiser: give the decay to the optimiser"
            )
        if self.scheduler is not None and callable(self.learning_rate):
            raise ValueError(
                "scheduler and a learning_rate that is a schedule both set the rate: give one of "
                "them"
            )

    @property
    def anneals(self) -> bool:
        """Whether the KL's weight is ever anything but 1."""
        return bool(self.kl_warmup_epochs) or self.kl_schedule is not None

    def rate(self, fraction: float) -> float:
        """The learning rate after this fraction of training, if one is given."""
        rate = self.learning_rate(fraction) if callable(self.learning_rate) else self.learning_rate
        name = f"Training(learning_rate) after {fraction:.0%} of training"
        return real_number(rate, name, at_least=0)

    def kl_weight(self, epoch: float) -> float:
        """Weight of the KL at this (fractional) epoch."""
        if self.kl_schedule is not None:
            weight = self.kl_schedule(epoch / max(1, self.num_epochs))
            return real_number(weight, f"Training(kl_schedule) after {epoch:g} epochs", at_least=0)
        return min(1.0, epoch / self.kl_warmup_epochs) if self.kl_warmup_epochs else 1.0

    def in_words(self) -> dict[str, str]:
        """All settings that have a part in the result, each as text."""
        names = [each.name for each in fields(self) if each.name not in ("checkpoint", "progress")]
        return {name: without_address(one_line(repr(getattr(self, name)))) for name in names}

    def described(self) -> dict[str, str]:
        """The settings that a resumed training must share, with a schedule by its values."""
        values = {name: getattr(self, name) for name in RESUMED}
        return {
            name: " ".join(str(value(i / 8)) for i in range(9)) if callable(value) else repr(value)
            for name, value in values.items()
        }
