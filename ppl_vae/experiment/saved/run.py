"""save_run and its reverse: a trained model and guide in a folder, however they were made."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, override

from torch import nn

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.tables.schema import Schema
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.metrics import finite
from ppl_vae.experiment.saved.card import CARD, write_card
from ppl_vae.experiment.saved.document import (
    DOCUMENT,
    Document,
    now,
    read_document,
    versions,
    write_document,
)
from ppl_vae.experiment.saved.programs import (
    WEIGHTS,
    names_of,
    read_programs,
    write_programs,
)
from ppl_vae.experiment.saved.rows import ROWS, read_rows, require_rows_of, schema_of, told_of
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.experiment.tables import EvaluationTable
from ppl_vae.programs.traces import Program
from ppl_vae.training import FitResult

__all__ = ["SavedRun", "open_saved", "save_run", "write_run"]

FILES = (DOCUMENT, WEIGHTS, ROWS, CARD)


@dataclass(frozen=True, repr=False)
class SavedRun(TrainedRun):
    """A trained model and guide with their training history and the columns of their data.

    Args:
        model: The model, in evaluation mode.
        guide: The guide, likewise.
        result: What `fit` returned; None if the programs were not fitted, or it was not saved.
        columns: The columns, types and levels of the data.
        data: The rows, if they were kept with the run, or given.
        folder: Where the run was saved; None for one that was not.
        document: What run.json holds; None for a run that was not saved.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> data = Dataset(bed.x)
        >>> run = SavedRun(bed.model, bed.guide, None, data.schema, data)
        >>> run.read(bed.x.numpy()).event_shape
        torch.Size([5])
    """

    model: Program
    guide: Program
    result: FitResult | None
    columns: Schema
    data: Dataset | None = None
    folder: Path | None = None
    document: Document | None = None

    @classmethod
    def of(
        cls, model: Program, guide: Program, data: Any, result: FitResult | None = None
    ) -> "SavedRun":
        """A run in memory."""
        data = as_dataset(data)
        return cls(model, guide, result, data.schema, data)

    @property
    def rows(self) -> Dataset:
        """The data set.

        Raises:
            ConfigError: The run does not hold its rows.
        """
        if self.data is None:
            raise ConfigError(
                f"{self.folder} does not hold the rows of training: give load_run(folder, "
                "data=data), or save them by save_run(..., keep_data=True)"
            )
        return self.data

    @property
    def has_rows(self) -> bool:
        """Whether they were kept or given."""
        return self.data is not None

    @property
    def schema(self) -> Schema:
        """The columns, types and levels of the data."""
        return self.columns

    @property
    def evaluation(self) -> EvaluationTable:
        """Test rows, or else validation rows, or else those of training; the default method."""
        told = None if self.document is None else self.document.data.splits
        splits = told if self.data is None else self.data.splits
        split = next((name for name in ("test", "valid") if name in (splits or {})), "train")
        return EvaluationTable.model_validate({"split": split})

    @property
    def patience(self) -> int | None:
        """That of training, which is known from its result."""
        stops = self.result is not None and self.result.settings.get("patience", "None") != "None"
        return 1 if stops else None

    @property
    def is_refitted(self) -> bool:
        """That of training, which is known from its result."""
        return self.result is not None and self.result.refit_epochs > 0

    @property
    def names(self) -> dict[str, str]:
        """Names of the classes."""
        found = names_of(self.model, self.guide)
        objective = "unknown" if self.result is None else self.result.objective.partition("(")[0]
        parts = {name: found[name] for name in ("prior", "likelihood", "posterior")}
        return parts | {"objective": objective}

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of training and of the evaluation."""
        trained = {} if self.result is None else {"training": self.result.seed}
        return trained | {"evaluation": self.evaluation.seed}

    @property
    def listing(self) -> str:
        """Model, guide, objective and settings of training."""
        lines = [f"model = {self.model!r}", f"guide = {self.guide!r}"]
        if self.result is not None:
            lines.append(f"objective = {self.result.objective}")
            lines += [f"{name} = {value}" for name, value in self.result.settings.items()]
        return "\n".join(lines)

    @override
    def __repr__(self) -> str:
        place = "in memory" if self.folder is None else str(self.folder)
        kinds = f"{self.names['prior']}, {self.names['likelihood']}, {self.names['posterior']}"
        return f"SavedRun({self.columns.name!r}: {kinds}; {place})"


def save_run(
    folder: str | Path,
    model: Program,
    guide: Program,
    data: Dataset | Any,
    result: FitResult | None = None,
    *,
    keep_data: bool = False,
    overwrite: bool = False,
) -> Path:
    """Save a trained model and guide, so that `load_run` makes them again.

    weights.safetensors holds the weights. run.json holds the classes and constructor arguments of
    all parts, the training history, versions, the columns, types and levels of the data, and a
    digest of the rows. README.md says all of this in words. No file can execute code. Parts of the
    library and plain layers of `torch.nn` are made again by `load_run`; other programs are saved by
    their weights alone, and given to `load_run`. Before anything is written, programs made from the
    description are compared with the given ones, to the last bit of their log-weights.

    Args:
        folder: A new or empty folder.
        model: The model.
        guide: The guide.
        data: What `fit` was given. Its rows are not stored unless `keep_data`.
        result: What `fit` returned.
        keep_data: Whether to store the rows as well: x as it is evaluated, covariates, weights and
            splits, without labels and names of rows.
        overwrite: Whether to replace another run of `save_run` in this folder.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder holds something else, or a run and not `overwrite`.
        ValueError: A parameter is NaN or infinite, or the programs hold no modules.

    Example:
        >>> import tempfile, torch
        >>> import ppl_vae as pv
        >>> data = pv.Dataset(torch.randn(20, 3))
        >>> guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), data.event_shape)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), start=data)
        >>> folder = save_run(tempfile.mkdtemp(), model, guide, data)
        >>> run = pv.load_run(folder)
        >>> torch.equal(run.model.decoder.layers[0].weight, model.decoder.layers[0].weight)
        True
    """
    place = Path(folder)
    _claim(place, overwrite)
    data = as_dataset(data)
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.absolute().parent) as new:
        written = Path(new) / "run"
        written.mkdir()
        document = write_run(written, model, guide, data, result, keep_data=keep_data)
        write_card(written, document)
        _move(written, place)
    return place


def write_run(
    folder: Path,
    model: Program,
    guide: Program,
    data: Dataset,
    result: FitResult | None,
    *,
    configuration: dict[str, Any] | None = None,
    keep_data: bool = False,
) -> Document:
    """Write the weights and run.json, and the rows if they are kept.

    Args:
        folder: The folder.
        model: The model.
        guide: The guide.
        data: The data set.
        result: What `fit` returned.
        configuration: The tables of a run of a configuration.
        keep_data: Whether the rows are written.

    Example:
        >>> write_run.__name__
        'write_run'
    """
    document = Document(
        kind="python" if configuration is None else "experiment",
        saved=now(),
        versions=versions(),
        programs=write_programs(folder, model, guide, data),
        data=told_of(data, folder if keep_data else None),
        result=None if result is None else finite(asdict(result)),
        configuration=configuration,
    )
    write_document(folder / DOCUMENT, document)
    return document


def open_saved(
    folder: str | Path,
    *,
    model: Program | None = None,
    guide: Program | None = None,
    data: Dataset | Any = None,
    device: str | None = None,
) -> SavedRun:
    """The run in a folder with run.json, whoever wrote it; see `load_run`.

    Args:
        folder: The folder.
        model: The model of a run of custom programs, built as the saved one.
        guide: The guide, likewise.
        data: The rows, which have to be those of training.
        device: Where model and guide are put.

    Raises:
        ConfigError: No run, a damaged one, one of a newer version, or other programs or rows.

    Example:
        >>> open_saved("runs/none")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/none holds no run: there is no run.json
    """
    place = Path(folder)
    document = read_document(place / DOCUMENT)
    schema = schema_of(document.data, place / DOCUMENT)
    model, guide = read_programs(place, document.programs, model, guide)
    for program in (model, guide):
        if isinstance(program, nn.Module):
            program.eval().to(device)
    rows = read_rows(place, document.data, schema)
    if data is not None:
        rows = as_dataset(data)
        require_rows_of(document.data, rows, place)
    return SavedRun(model, guide, _result(document.result), schema, rows, place, document)


def _result(values: Mapping[str, Any] | None) -> FitResult | None:
    """The training history; numbers that were not finite are NaN."""
    if values is None:
        return None
    history = {
        name: [float("nan") if each is None else each for each in column]
        for name, column in values["history"].items()
    }
    known = {name: each for name, each in values.items() if name in FitResult.__dataclass_fields__}
    return FitResult(**known | {"history": history})


def _claim(place: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something else."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ConfigError(f"{place} is a file: choose a folder")
    found = sorted(path.name for path in place.iterdir())
    if not found:
        return
    if "config.toml" in found:
        raise ConfigError(f"{place} holds a run of a configuration: choose another folder")
    if DOCUMENT not in found:
        raise ConfigError(
            f"{place} is not empty and holds no run ({found[0]}, ...): choose another folder"
        )
    if not overwrite:
        raise ConfigError(f"{place} holds a run: choose another folder, or give overwrite=True")


def _move(written: Path, place: Path) -> None:
    """Put a complete folder in its place; run.json, by which a run is known, comes last."""
    place.mkdir(parents=True, exist_ok=True)
    new = [name for name in FILES if (written / name).exists()]
    for name in reversed(new):
        shutil.move(written / name, place / name)
    for name in set(FILES) - set(new):
        (place / name).unlink(missing_ok=True)
