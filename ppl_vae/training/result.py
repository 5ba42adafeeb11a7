"""The result of a training run."""

from dataclasses import dataclass, field

from ppl_vae.errors import PplVaeError

__all__ = ["FitResult", "NonFiniteLossError"]


class NonFiniteLossError(PplVaeError, FloatingPointError):
    """The loss or a parameter became NaN or infinite; good weights have been put back.

    The message names the epoch, the batch and the site.

    Example:
        >>> issubclass(NonFiniteLossError, ArithmeticError)
        True
    """


@dataclass
class FitResult:
    """The record of a call of `fit`, which trains model and guide in place.

    Args:
        history: Per epoch: "epoch", "train" and "valid" (mean bound per observation, nats; train is
            annealed during the warm-up; valid never is, and is absent without a validation split),
            "kl_weight", "rate" (KL of the last batch, by Monte Carlo), "learning_rate" (of the
            first group of parameters), "seconds". Of the two losses of Pyro's `ReweightedWakeSleep`
            the bound is minus the model's.
        best_epoch: Epoch with the best held-out bound after the warm-up; without a validation
            split, the last one.
        stopped: "finished" or "early stopping"; after the latter the weights are those of the best
            epoch.
        refit_epochs: Epochs of the training on all rows that made the weights (`refit`), or 0.
        seed: The seed.
        wall_time: Seconds, resumed parts included.
        objective: The repr of the objective.

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

    @property
    def num_epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.history.get("epoch", []))
