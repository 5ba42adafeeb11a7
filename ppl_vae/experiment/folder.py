"""The folder of one run: which files it holds, and which run it belongs to."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.experiment.config import Config, ConfigError, differences, read_config, to_toml
from ppl_vae.experiment.tables import EvaluationTable
from ppl_vae.runtime.files import write_whole

__all__ = ["Folder", "finite", "write_json"]


class Folder:
    """Where a run leaves its files, and finds them again.

    Args:
        path: The folder; made when something is written.

    Example:
        >>> Folder("runs/none").finished
        False
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.metrics = self.path / "config.toml", self.path / "metrics.json"
        self.checkpoint, self.weights = self.path / "checkpoint.pt", self.path / "weights.pt"
        self.evidence, self.posterior = self.path / "evidence.npz", self.path / "posterior.nc"

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its metrics are written last."""
        return self.metrics.is_file()

    @property
    def files(self) -> list[str]:
        """Names of the files, in order."""
        return sorted(
            path.name
            for path in self.path.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )

    def evaluation(self, table: EvaluationTable, *, refined: bool = False) -> Path:
        """Where another evaluation keeps its numbers: the same settings find the same file
        again.
        """
        digest = hashlib.sha256(table.model_dump_json().encode()).hexdigest()
        return (
            self.path
            / "evaluations"
            / f"{table.split}-{table.method.name}-{digest[:8]}{'-refined' * refined}.json"
        )

    def claim(self, config: Config) -> None:
        """Make the folder this run's, or go on with it.

        Raises:
            ConfigError: it holds another run; names the first difference.
        """
        if not self.config.is_file():
            if self.path.is_dir() and self.files:
                raise ConfigError(
                    f"{self.path} is not empty and holds no run ({self.files[0]}, ...): choose "
                    "another folder"
                )
            write_whole(self.config, lambda p: p.write_text(to_toml(config), encoding="utf-8"))
            return
        found = differences(self.read_config(), config)
        if found:
            raise ConfigError(
                f"{self.path} holds another run ({found[0]}): choose another folder, or remove it "
                "to start afresh"
            )

    def read_config(self) -> Config:
        """What was run here.

        Raises:
            ConfigError: no run here.
        """
        if not self.config.is_file():
            raise ConfigError(f"{self.path} holds no run: there is no {self.config.name}")
        return read_config(self.config)

    def read_metrics(self) -> dict[str, Any]:
        """The results of a finished run."""
        return json.loads(self.metrics.read_text(encoding="utf-8"))


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write plain values, indented.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"elbo": -1.5})
        >>> json.loads(path.read_text())
        {'elbo': -1.5}
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))


def finite(value: Any) -> Any:
    """Plain values with None for what is not finite, which every reader of JSON takes.

    Example:
        >>> finite({"k": [1.0, float("nan")]})
        {'k': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
