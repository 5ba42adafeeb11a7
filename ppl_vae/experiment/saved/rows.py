"""The rows of a saved run: what is told of them, and the rows themselves if they are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import blocks, in_file
from ppl_vae.data.tables.schema import Schema
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.saved.document import Rows
from ppl_vae.experiment.saved.weights import read_tensors, write_tensors
from ppl_vae.programs.modules import arguments
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.digests import digest, row_digests

__all__ = ["digest_of_rows", "require_rows_of"]

ROWS = "data.safetensors"
SPLIT = "split."  # names of tensors of row numbers, before the name of the split


def told_of(data: Dataset, folder: Path | None = None) -> Rows:
    """What run.json tells of the rows, which are written to a folder if one is given."""
    return Rows(
        splits={name: len(rows) for name, rows in data.splits.items()},
        num_data=len(data),
        missing=data.describe()["missing"],
        digest=digest_of_rows(data),
        columns=data.schema.to_json(),
        roles=digest_of_roles(data),
        sha256=None if folder is None else write_tensors(folder / ROWS, _tensors(data)),
    )


def digest_of_rows(data: Dataset) -> str:
    """A digest of x, covariates and further arguments; all NaN are one value.

    Example:
        >>> len(digest_of_rows(Dataset([[0.0], [1.0]])))
        16
    """
    parts = [part for values in arguments(data) for part in _in(values)]
    return digest(text.hex() for part in parts for text in row_digests(part))


def digest_of_roles(data: Dataset) -> str:
    """A digest of the row numbers of each split, and of the weights.

    Example:
        >>> data = Dataset([[0.0], [1.0]])
        >>> digest_of_roles(data) == digest_of_roles(Dataset(data.x, weights=[1.0, 2.0]))
        False
    """
    parts: list[Any] = []
    for name in sorted(data.splits):
        parts += [f"split {name}", torch.as_tensor(data.splits[name]).long()]
    return digest(parts if data.weights is None else [*parts, "weights", data.weights])


def require_rows_of(told: Rows, data: Dataset, folder: Path) -> None:
    """Refuse other rows than those of training; rows larger than the memory are not read for this.

    Args:
        told: What run.json tells of the rows of training.
        data: The rows.
        folder: The folder of the run.

    Raises:
        ConfigError: They differ.

    Example:
        >>> require_rows_of(told_of(Dataset([[0.0]])), Dataset([[1.0]]), Path("runs/a"))
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/a was trained on other rows than those of ...
    """
    what = ""
    if told.roles and digest_of_roles(data) != told.roles:
        what = "which of them train and test, or their weights"
    if not in_file(data.x) and digest_of_rows(data) != told.digest:
        what = "their values, their order or their number"
    what = schema_of(told, folder).difference(data.schema) or what
    if what:
        raise ConfigError(
            f"{folder} was trained on other rows than those of {data.name!r} now: they differ in "
            f"{what}. Give the former rows, or train again in another folder"
        )


def schema_of(told: Rows, path: Path) -> Schema:
    """The columns of training.

    Raises:
        ConfigError: They are damaged.
    """
    try:
        return Schema.from_json(told.columns)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: data.columns: {one_line(error)}") from error


def read_rows(folder: Path, told: Rows, schema: Schema) -> Dataset | None:
    """The rows, if the run keeps them."""
    if told.sha256 is None:
        return None
    found = read_tensors(folder / ROWS, told.sha256)
    splits = {
        name.removeprefix(SPLIT): rows.numpy()
        for name, rows in found.items()
        if name.startswith(SPLIT)
    }
    fields: Any = {name: found.get(name) for name in ("context", "weights")}
    dtype = getattr(torch, schema.dtype)
    data = Dataset(found["x"], **fields, splits=splits, name=schema.name, dtype=dtype)
    return data.with_schema(schema)


def _tensors(data: Dataset) -> Mapping[str, Tensor]:
    """x as it is evaluated, covariates, weights, and the row numbers of the splits."""
    values: dict[str, Any] = {name: getattr(data, name) for name in ("x", "context", "weights")}
    found = {name: each[:] for name, each in values.items() if each is not None}
    splits = {f"{SPLIT}{name}": np.asarray(rows) for name, rows in data.splits.items()}
    return found | {name: torch.as_tensor(rows) for name, rows in splits.items()}


def _in(values: Any) -> Any:
    """Values in memory, in blocks if they are in a file."""
    return blocks(values) if in_file(values) else [values]
