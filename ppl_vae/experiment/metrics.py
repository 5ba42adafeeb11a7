"""The numbers of a run by name, as metrics.json holds them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ppl_vae.experiment.config import ConfigError
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.files import migrated
from ppl_vae.runtime.sealed import read_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Estimates", "Metrics", "finite", "records"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimates(Shown, Mapping[str, Any]):
    """The results of an evaluation, in nats per row; None is an unknown number.

    They are attributes, and keys as in the JSON file that holds them.

    Args:
        log_evidence: Mean of log p(x), with its errors and their conditions as in
            `EvidenceSummary`, whose names are those up to `quantity`.
        mean_used: Mean number of particles per row.
        num_refined: Number of rows that were estimated again from a refined guide.
        checks: Median of each of `Evidence.checks`.
        kl: Mean rate, the KL divergence of the encoder's q(z given x) from the prior.
        distortion: Mean distortion of the encoder, so that -kl - distortion is its ELBO.
        active_units: Number of active latent dimensions; None for a single row.
        latent_dim: Number of latent dimensions D.
        at_floor: Features whose scale is at its floor in 5 % of the rows or more, or limited by
            nothing else since they do not vary in training: their density, and with it log p(x), is
            that of the floor.
        evaluation: The table [evaluation].
        evaluation_seconds: Time of the evaluation.
        rows_used_for: What training used the evaluated rows for: "training", "the choice of the
            epoch", or "".
        run: Names of the data set, prior, likelihood, posterior and objective.

    Example:
        >>> found = Estimates(log_evidence=-18.5, share_estimate=0.9, share_bad_k=0.02)
        >>> found.is_bound, found["log_evidence"]
        (True, -18.5)
    """

    log_evidence: float | None = None
    mc_se: float | None = None
    data_se: float | None = None
    mc_bias: float | None = None
    elbo: float | None = None
    mean_ess: float | None = None
    share_bad_k: float | None = None
    num_data: int = 0
    num_particles: int = 0
    bound: str = "lower"
    num_unresolved: int = 0
    share_estimate: float | None = None
    rounding_of_x: float | None = 0.0
    weighted: bool = False
    quantity: str = "log p(x)"
    mean_used: float | None = None
    num_refined: int = 0
    checks: Mapping[str, float | None] = field(default_factory=dict)
    kl: float | None = None
    distortion: float | None = None
    active_units: int | None = None
    latent_dim: int = 0
    at_floor: Sequence[str] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    rows_used_for: str = ""
    run: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The numbers in a JSON file, without names of other versions.

        Raises:
            ConfigError: The file has the format of a newer version.
            DamagedFileError: The file holds no results.
        """
        found = migrated("metrics", read_json(path), path, ConfigError)
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in known})

    @property
    def share_bound(self) -> float:
        """Share of the rows without an estimate; by k-hat alone in runs of an earlier version."""
        if self.share_estimate is None:
            return self.share_bad_k or 0.0
        return round(1 - self.share_estimate, 12)  # 1 - 0.975 is a little more than 0.025

    @property
    def whole(self) -> str:
        """What shares are of, in words."""
        return "the weight" if self.weighted else "the rows"

    @property
    def is_bound(self) -> bool:
        """Whether log p(x) is a lower bound, and not an estimate, for some rows."""
        return self.bound == "lower" and self.share_bound > 0

    def __getitem__(self, name: str) -> Any:
        if name not in list(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (each.name for each in fields(self))

    def __len__(self) -> int:
        return len(fields(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Metrics(Estimates):
    """The content of metrics.json of a finished run: its estimates, and how they were computed.

    Args:
        best_epoch: Epoch with the best bound; 0 if there is none.
        num_epochs: Number of epochs that were trained.
        stopped: Why training ended.
        num_parameters: Number of parameters of model and guide together.
        rows: Number of rows of each split.
        seeds: Seeds of the split, of training and of the evaluation.
        versions: Versions of the packages and of Python.
        training_seconds: Time of training.
        seconds: Time of the run.
        history: The bound and the settings of each epoch, as in `FitResult`.
        columns: What each column of a table was taken for: its kind, its likelihood, and why.

    Example:
        >>> Metrics(kl=4.8, num_epochs=3)["num_epochs"]
        3
    """

    best_epoch: int = 0
    num_epochs: int = 0
    stopped: str = ""
    num_parameters: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    training_seconds: float = 0.0
    seconds: float = 0.0
    history: Mapping[str, list[Any]] = field(default_factory=dict)
    columns: Sequence[Mapping[str, str]] = ()


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """A table as plain values, a row each.

    Example:
        >>> import pandas as pd
        >>> records(pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="row")))
        [{'row': 'x', 'a': 1}]
    """
    return list(json.loads(frame.reset_index().to_json(orient="records")))


def finite(value: Any) -> Any:
    """Plain values, with None for numbers that are not finite, as every reader of JSON accepts.

    Example:
        >>> finite({"k": [1.0, float("nan")]})
        {'k': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
