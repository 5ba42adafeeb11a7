"""The record of a training: what `fit` returns, and what it tells others after every epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ppl_vae.errors import PplVaeError
from ppl_vae.families.modules import at_rest
from ppl_vae.programs.modules import modules_of
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.distributed import from_main, is_main
from ppl_vae.training.settings import Training

__all__ = ["AfterEpoch", "FitResult", "NonFiniteLossError", "Tracker"]

STOPPED = "after_epoch"
MEMBERS = ("log_dir", "log_metric", "log_metrics", "log_params", "add_figure", "flush")

type AfterEpoch = Callable[[dict[str, float]], bool | None]


class NonFiniteLossError(PplVaeError, FloatingPointError):
    """The loss or a parameter became NaN or infinite; good weights have been put back.

    The message names the epoch, the batch and the site.

    Example:
        >>> issubclass(NonFiniteLossError, ArithmeticError)
        True
    """


@dataclass
class FitResult(Shown):
    """The record of a call of `fit`, which trains model and guide in place.

    Args:
        history: Per epoch: "epoch", "train" and "valid" (mean bound per observation, nats; train is
            annealed during the warm-up; valid never is, and is absent without a validation split),
            "kl_weight", "rate" (KL of the last batch, by Monte Carlo), "learning_rate" (of the
            first group of parameters), "seconds". Of the two losses of Pyro's `ReweightedWakeSleep`
            the bound is minus the model's.
        best_epoch: Epoch with the best held-out bound after the warm-up; without a validation
            split, the last one.
        stopped: "finished", "early stopping" or "after_epoch" (that function of `fit` asked for
            it). With `patience` the weights are those of the best epoch.
        refit_epochs: Epochs of the training on all rows that made the weights (`refit`), or 0.
        seed: The seed.
        wall_time: Seconds, resumed parts included.
        objective: The repr of the objective.
        settings: The settings of `Training`, each as text.

    Example:
        >>> FitResult(history={"epoch": [1, 2], "train": [-3.0, -2.5]}, best_epoch=2).num_epochs
        2
    """

    history: dict[str, list[float]] = field(default_factory=dict, repr=False)
    best_epoch: int = 0
    stopped: str = "finished"
    refit_epochs: int = 0
    seed: int = 0
    wall_time: float = 0.0
    objective: str = ""
    settings: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def num_epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.history.get("epoch", []))


@runtime_checkable
class Tracker(Protocol):
    """Where experiments are logged: any object with these six members, as in the package sbi.

    `fit` calls `log_params` once, before the first epoch, then `log_metrics` and `flush` after each
    epoch; the other members are for callers, and let one adapter serve both packages.

    References:
        Boelts et al. (2025), sbi reloaded: a toolkit for simulation-based inference workflows,
        Journal of Open Source Software 10.

    Example:
        >>> class Lines:
        ...     log_dir = None
        ...     def log_metric(self, name, value, step=None): ...
        ...     def log_metrics(self, metrics, step=None): ...
        ...     def log_params(self, params): ...
        ...     def add_figure(self, name, figure, step=None): ...
        ...     def flush(self): ...
        >>> isinstance(Lines(), Tracker)
        True
    """

    @property
    def log_dir(self) -> str | None:
        """The folder of the logs, if there is one."""

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        """Log a number."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log several numbers by name."""

    def log_params(self, params: dict[str, Any]) -> None:
        """Log settings by name."""

    def add_figure(self, name: str, figure: Any, step: int | None = None) -> None:
        """Log a figure of matplotlib."""

    def flush(self) -> None:
        """Write what is not written yet."""


@dataclass(frozen=True)
class Watchers:
    """Those who are told of each epoch, in the main process alone."""

    tracker: Tracker | None = None
    after_epoch: AfterEpoch | None = None
    prefix: str = ""  # of the metrics' names

    def __post_init__(self) -> None:
        if self.tracker is not None and not isinstance(self.tracker, Tracker):
            missing = [name for name in MEMBERS if not hasattr(self.tracker, name)]
            raise TypeError(
                f"tracker is of type {type(self.tracker).__name__}, without {', '.join(missing)}: "
                "give an adapter with the members of ppl_vae.training.Tracker"
            )
        if self.after_epoch is not None and not callable(self.after_epoch):
            raise TypeError(
                f"after_epoch is of type {type(self.after_epoch).__name__}; it must be a function "
                'of the record of an epoch, as in lambda record: record["valid"] > -80'
            )

    def begin(self, training: Training, num_epochs: int, result: FitResult) -> None:
        """Tell the tracker the settings, unless an earlier part of this training did so."""
        if self.tracker is None or result.num_epochs or not is_main():
            return
        settings = {"num_epochs": num_epochs} | training.described()
        params = self._named(settings | {"objective": result.objective})
        self._call("tracker.log_params", 0, self.tracker.log_params, params)

    def log(self, row: Mapping[str, float]) -> None:
        """Tell the tracker an epoch."""
        if self.tracker is None or not is_main():
            return
        epoch = int(row["epoch"])
        metrics = self._named({name: float(row[name]) for name in row if name != "epoch"})
        self._call("tracker.log_metrics", epoch, self.tracker.log_metrics, metrics, step=epoch)
        self._call("tracker.flush", epoch, self.tracker.flush)

    def stop(self, row: Mapping[str, float], *programs: Program) -> bool:
        """Whether `after_epoch` asks to stop; it sees the programs in evaluation mode."""
        if self.after_epoch is None:
            return False
        asked: Any = None
        if is_main():
            with at_rest(*modules_of(*programs)):
                asked = self._call("after_epoch", int(row["epoch"]), self.after_epoch, dict(row))
        return bool(from_main(asked))

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {f"{self.prefix}{name}": value for name, value in values.items()}

    @staticmethod
    def _call(name: str, epoch: int, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What it returns; an error says where it was raised, and stays of its type."""
        try:
            return function(*args, **named)
        except Exception as error:
            error.add_note(f"raised by {name} of fit after epoch {epoch}")
            raise
