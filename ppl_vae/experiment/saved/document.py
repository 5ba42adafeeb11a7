"""run.json: what a saved run holds besides its weights."""

import importlib.metadata
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ppl_vae.errors import DamagedFileError
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.saved.weights import check_format
from ppl_vae.runtime.files import migrated
from ppl_vae.runtime.sealed import read_json, write_json

__all__ = ["Document", "Programs", "Rows", "read_document", "versions", "write_document"]

DOCUMENT = "run.json"
PACKAGES = ("ppl-vae", "torch", "pyro-ppl", "arviz", "numpy")


class Entry(BaseModel):
    """A part of run.json, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Programs(Entry):
    """Model and guide.

    Args:
        description: `Description.to_json`; None for custom programs.
        custom: Why no description makes the programs again; "" where one does.
        names: Classes of model, guide and their parts, for the reader.
        facts: Columns, levels and numbers of rows that model and guide were trained on.
        sha256: Digest of the file of the weights.
        infinite: Names of buffers that hold infinity, as a mask may.
        is_new: Whether the programs start from the training rows when they are fitted.

    Example:
        >>> Programs(description=None, names={}, facts={}, sha256="0a").infinite
        ()
    """

    description: dict[str, Any] | None
    custom: str = ""
    names: dict[str, str]
    facts: dict[str, Any]
    sha256: str
    infinite: tuple[str, ...] = ()
    is_new: bool = False


class Rows(Entry):
    """The rows of training, which are not in the file.

    Args:
        splits: Number of rows of each split.
        num_data: Number of all rows.
        missing: Share of the values that are missing.
        digest: Of x and the covariates, by which the same rows are recognised.
        columns: `Schema.to_json`.
        sha256: Digest of the file that holds the rows; None if they are not kept.
        roles: Digest of the splits and of the rows' weights; "" in runs of earlier versions.

    Example:
        >>> Rows(splits={}, num_data=3, missing=0.0, digest="0a", columns={}).sha256 is None
        True
    """

    splits: dict[str, int]
    num_data: int
    missing: float
    digest: str
    columns: dict[str, Any]
    sha256: str | None = None
    roles: str = ""


class Document(Entry):
    """The content of run.json.

    Args:
        kind: "python" for runs of `save_run`, "experiment" for those of a configuration.
        saved: When it was written, in UTC.
        versions: Versions of the packages and of Python.
        programs: Model and guide, and the file of their weights.
        data: The rows of training.
        result: The fields of `FitResult`; None where the programs were not fitted.
        configuration: The tables of config.toml at training; None for a run of `save_run`.

    Example:
        >>> Document.model_fields["kind"].annotation
        typing.Literal['python', 'experiment']
    """

    kind: Literal["python", "experiment"]
    saved: str
    versions: dict[str, str]
    programs: Programs
    data: Rows
    result: dict[str, Any] | None = None
    configuration: dict[str, Any] | None = None


def versions() -> dict[str, str]:
    """Versions of the packages that matter, and of Python.

    Example:
        >>> "torch" in versions()
        True
    """
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"python": platform.python_version()}


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_document(path: Path, document: Document) -> None:
    """Write run.json.

    Args:
        path: The file.
        document: Its content.

    Example:
        >>> write_document.__name__
        'write_document'
    """
    write_json(path, document.model_dump())


def read_document(path: Path) -> Document:
    """The content of run.json.

    Args:
        path: The file.

    Raises:
        ConfigError: No such file, a damaged one, or one of a newer version.

    Example:
        >>> read_document(Path("none/run.json"))
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: none holds no run: there is no run.json
    """
    if not path.is_file():
        raise ConfigError(f"{path.parent} holds no run: there is no {path.name}")
    try:
        values = read_json(path)
    except (DamagedFileError, OSError) as error:
        raise ConfigError(str(error)) from None
    check_format(values.get("format"), path)
    try:
        return Document.model_validate(migrated("run", values, path, ConfigError))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path} is damaged: {where}: {first['msg']}") from None
