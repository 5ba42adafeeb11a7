"""How a gradient moves the parameters: torch's optimisers and schedulers, and their rates."""

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed
from ppl_vae.training.settings import Training

logger = logging.getLogger(__name__)

DEFAULT_RATE = 1e-3  # of the default Adam
EACH_BATCH = OneCycleLR, CyclicLR  # which torch steps after a batch; all others after an epoch


class Updates:
    """The optimiser with its scheduler.

    `learning_rate` is the rate of the first group with one above zero; the other groups keep their
    ratio to it.
    """

    def __init__(self, training: Training, trained: dict[str, Tensor], batch_size: int) -> None:
        self.training = training
        self.parameters = list(dict.fromkeys(trained.values()))
        self.batch_size = batch_size
        self.optimizer = _optimizer(training, trained)
        rates = [float(group.get("lr", 0.0)) for group in self.optimizer.param_groups]
        unit = next((rate for rate in rates if rate > 0), 1.0)
        self.shares = [rate / unit for rate in rates]
        if training.learning_rate is not None:
            self._set_rates(training.rate(0.0))
        self.scheduler: Any = None
        if training.scheduler is not None:
            self.scheduler = _scheduler(training.scheduler, self.optimizer)
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        self.takes_closure = closure is not None and closure.default is inspect.Parameter.empty
        # As they start, in words: what a checkpoint must agree with.
        self.described = {
            "optimizer": _optimizer_in_words(self.optimizer),
            "scheduler": _scheduler_in_words(self.scheduler),
        }

    @property
    def rate(self) -> float:
        """The first group's learning rate."""
        return float(self.optimizer.param_groups[0].get("lr", math.nan))

    def step(self, fraction: float, gradient: Callable[[], float]) -> float:
        """One update after this fraction of training; nothing changes if the loss is not finite.

        `gradient` returns the loss and leaves the gradient in `.grad`.
        """
        if callable(self.training.learning_rate):
            self._set_rates(self.training.rate(fraction))
        if self.takes_closure:
            loss = self._step_with_closure(gradient)
        else:
            loss = gradient()
            if math.isfinite(loss):
                self._clip()
                self.optimizer.step()
        if isinstance(self.scheduler, EACH_BATCH):
            self.scheduler.step()
        return loss

    def end_epoch(self, bound: float, kl_weight: float) -> None:
        """Step the scheduler; ReduceLROnPlateau is given only the bounds at full KL weight."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if kl_weight >= 1.0:
                self._step_plateau(self.scheduler, bound)
        elif self.scheduler is not None and not isinstance(self.scheduler, EACH_BATCH):
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """The state that the next step needs."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from an earlier state."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def _step_with_closure(self, gradient: Callable[[], float]) -> float:
        """For an optimiser that evaluates the loss several times (L-BFGS), with equal draws."""
        seed = int(torch.randint(2**62, ()))
        losses = []

        def closure() -> float:
            with seeded(seed):
                losses.append(gradient())
            self._clip()
            return losses[-1] / self.batch_size  # the gradient is that of the mean

        optimizer: Any = self.optimizer  # torch's annotation is for losses that are tensors
        optimizer.step(closure)
        return losses[0]

    def _step_plateau(self, scheduler: ReduceLROnPlateau, bound: float) -> None:
        metric = bound if scheduler.mode == "max" else -bound
        if metric < 0 and scheduler.threshold_mode == "rel" and scheduler.last_epoch == 0:
            logger.warning(
                "ReduceLROnPlateau counts a fall by less than its relative threshold as progress "
                'if the metric is negative, and it is %g: give threshold_mode="abs"',
                metric,
            )
        scheduler.step(metric)

    def _clip(self) -> None:
        if self.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.training.clip_norm)

    def _set_rates(self, rate: float) -> None:
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share


def _optimizer(training: Training, trained: dict[str, Tensor]) -> torch.optim.Optimizer:
    """The requested optimiser, or Adam, or AdamW."""
    parameters = list(dict.fromkeys(trained.values()))
    if training.optimizer is None:
        fused = all(p.is_floating_point() for p in parameters)
        if not training.weight_decay:
            return torch.optim.Adam(parameters, lr=DEFAULT_RATE, fused=fused)
        # As torch calls those of linear maps and convolutions; scales may have several dims too.
        named = {p for name, p in trained.items() if "weight" in name.rpartition(".")[2]}
        weights = {p for p in named if p.dim() > 1}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p in weights]},
            {"params": [p for p in parameters if p not in weights], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        decay = training.weight_decay
        return torch.optim.AdamW(groups, lr=DEFAULT_RATE, weight_decay=decay, fused=fused)
    optimizer = training.optimizer(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"Training(optimizer) gave {echoed(optimizer)}; it must give a torch.optim.Optimizer"
        )
    has_rates = all("lr" in group for group in optimizer.param_groups)
    if training.learning_rate is not None and not has_rates:
        raise ValueError(
            f"{type(optimizer).__name__} has a group without a learning rate: leave "
            "Training(learning_rate) out"
        )
    return optimizer


def _scheduler(
    make: Callable[[torch.optim.Optimizer], Any], optimizer: torch.optim.Optimizer
) -> Any:
    """The requested scheduler, checked to be one of this optimiser."""
    try:
        scheduler = make(optimizer)
    except TypeError as error:
        name = getattr(make, "__name__", "")
        raise TypeError(
            f"Training(scheduler): {error}; give a function, as in lambda o: {name}(o, ...)"
        ) from error
    if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        raise TypeError(
            f"Training(scheduler) gave {echoed(scheduler)}; it must give one of "
            "torch.optim.lr_scheduler"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            "Training(scheduler) gave a scheduler of another optimizer: construct it from the "
            "optimizer that it is called with"
        )
    return scheduler


def _optimizer_in_words(optimizer: torch.optim.Optimizer) -> str:
    """Its class, and each group's number of parameters and options."""
    groups = []
    for group in optimizer.param_groups:
        options = [
            f"{name}={value!r}"
            for name, value in sorted(group.items())
            if name not in ("params", "initial_lr")
        ]
        groups.append(f"{len(group['params'])} parameters: {', '.join(options)}")
    return f"{type(optimizer).__name__}({'; '.join(groups)})"


def _scheduler_in_words(scheduler: Any) -> str:
    """Its class and starting state; functions of the epoch by their first values."""
    if scheduler is None:
        return "None"
    state = dict(sorted(scheduler.state_dict().items()))
    functions = getattr(scheduler, "lr_lambdas", [])
    values = [[function(epoch) for epoch in range(1, 9)] for function in functions]
    state.pop("lr_lambdas", None)
    return f"{type(scheduler).__name__}({state}{f', values {values}' if values else ''})"
