"""The folder of one run: its files, and the run to which it belongs."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppl_vae.experiment.config import (
    Config,
    ConfigError,
    changed,
    differences,
    read_config,
    written,
)
from ppl_vae.experiment.metrics import Metrics
from ppl_vae.experiment.saved.card import CARD
from ppl_vae.experiment.saved.document import DOCUMENT, read_document
from ppl_vae.experiment.saved.programs import WEIGHTS
from ppl_vae.experiment.saved.rows import ROWS
from ppl_vae.experiment.tables import EvaluationTable
from ppl_vae.families.likelihoods import Columns
from ppl_vae.runtime.files import is_partial, remove_partial, write_whole
from ppl_vae.runtime.locks import alone_in

__all__ = ["Folder"]

# Settings of a trained run that may be changed: what is evaluated, and where its files are now.
FREE = ("evaluation.", "data.name ", "data.data_dir ", "training.device ", "training.compile ")
PICTURES = ("reconstructions", "samples", "latent", "k_hat", "training")
OWN = (  # what training writes
    *("config.toml", DOCUMENT, CARD, WEIGHTS, ROWS, "metrics.json", "evidence.npz", "posterior.nc"),
    *("weights.pt", "checkpoint.pt", "checkpoint-refit.pt"),
    *(f"{name}.png" for name in PICTURES),
)


class Folder:
    """The files of a run.

    Args:
        path: The folder; it is created when the first file is written.

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
        """Whether the run is complete: metrics.json is written last."""
        return self.metrics.is_file()

    @property
    def files(self) -> list[str]:
        """Names of the files, in order."""
        return sorted(
            path.name
            for path in self.path.iterdir()
            if path.is_file() and not path.name.startswith(".") and not is_partial(path)
        )

    def evaluation(self, table: EvaluationTable, *, refined: bool = False) -> Path:
        """The file of another evaluation; the same settings give the same file."""
        digest = hashlib.sha256(table.model_dump_json().encode()).hexdigest()[:8]
        name = f"{table.split}-{table.method.name}-{digest}{'-refined' * refined}.json"
        return self.path / "evaluations" / name

    @property
    def evaluations(self) -> list[Path]:
        """The files of further evaluations."""
        return sorted((self.path / "evaluations").glob("*.json"))

    def completed(self, config: Config) -> Config:
        """The configuration with the likelihoods of columns that the run in this folder chose."""
        if not self.config.is_file():
            return config
        tables = self.read_config().likelihood, config.likelihood
        if {table.name for table in tables} != {Columns.__name__}:
            return config
        chosen, given = (table.keywords.get("families", {}) for table in tables)
        return changed(config, [("likelihood.families", chosen | given)])

    def claim(self, config: Config) -> None:
        """Reserve the folder for this run, new or interrupted.

        Raises:
            ConfigError: it holds another run; the message names the first difference.
        """
        if not self.config.is_file():
            left = [*self.files, *self.evaluations] if self.path.is_dir() else []
            if left:
                raise ConfigError(
                    f"{self.path} is not empty and holds no run ({left[0]}, ...): choose another "
                    "folder"
                )
            text = written(config)
            write_whole(self.config, lambda p: p.write_text(text, encoding="utf-8"))
            return
        found = differences(self.read_config(), self.completed(config))
        if found:
            what = "another run"
            if found[0].startswith("likelihood.families."):
                what = "a run of other rows, or of other likelihoods"
            raise ConfigError(
                f"{self.path} holds {what} ({found[0]}): choose another folder, or remove it to "
                "start afresh"
            )

    @contextmanager
    def held(self, config: Config) -> Iterator[Callable[[], None]]:
        """Reserve the folder for this run and for this process; see `alone_in`.

        Raises:
            ConfigError: It holds another run.
            InUseError: Another process works in it.
        """
        self.claim(config)  # a folder of another kind gets no lock
        with alone_in(self.path) as check_present:
            self.claim(config)
            remove_partial(self.path)
            yield check_present

    def own(self, *paths: Path) -> Path | None:
        """The first of these paths that is a file of the run here, or None."""
        if not (self.config.is_file() or (self.path / DOCUMENT).is_file()):
            return None
        known = {(self.path / name).resolve() for name in OWN}
        return next((path for path in paths if path.resolve() in known), None)

    def read_config(self) -> Config:
        """The configuration of the run.

        Raises:
            ConfigError: the folder holds no run.
        """
        if not self.config.is_file():
            raise ConfigError(f"{self.path} holds no run: there is no {self.config.name}")
        return read_config(self.config)

    def trained_config(self) -> Config:
        """The configuration of a trained run, which is that of its training.

        Raises:
            ConfigError: config.toml has been changed since, in more than what is evaluated and
                where.
        """
        config = self.read_config()
        found = [each for each in self._changes(config) if not each.startswith(FREE)]
        if found:
            raise ConfigError(
                f"{self.config} was changed after training: {found[0]} as in {DOCUMENT}. Undo "
                "that, or train in another folder"
            )
        return config

    def refuse_other_evaluation(self) -> None:
        """Refuse a finished run whose config.toml asks for another evaluation than that of its
        results.

        Raises:
            ConfigError: A setting of [evaluation] was changed since.
        """
        for each in self._changes(self.read_config()):
            if each.startswith("evaluation."):
                raise ConfigError(
                    f"{self.path} is finished, and {self.config.name} was changed: {each} as in "
                    f"{DOCUMENT}. For another evaluation: ppl-vae evaluate {self.path}"
                )

    def _changes(self, config: Config) -> list[str]:
        """How the configuration differs from that of training; nothing if that is not known."""
        path = self.path / DOCUMENT
        trained = read_document(path).configuration if path.is_file() else None
        if trained is None:  # of an earlier version, or not trained yet
            return []
        return differences(config, changed(Config.model_validate(trained), []))

    def read_metrics(self) -> Metrics:
        """The results of a finished run."""
        return Metrics.read(self.metrics)
