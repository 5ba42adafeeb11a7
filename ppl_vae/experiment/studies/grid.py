"""Studies from a file: the tables of a run, and [grid] with lists of values."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae.experiment.config import Config, ConfigError, read_config, read_toml, table_changes
from ppl_vae.experiment.folder import Folder
from ppl_vae.runtime.checks import suggestion
from ppl_vae.runtime.text import echoed

__all__ = ["Cell", "Study", "read_study"]

MOST_CELLS = 10_000

SEED = "training.seed"  # cells that differ in it alone are trainings of one model
HINT = (
    'lists of values to try, as in prior = ["StandardNormal", "VampPrior"] and '
    "training.seed = [0, 1, 2]"
)


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        values: Its values in the grid, by key.
        config: The run.

    Example:
        >>> config = read_config(changes=[("data.name", "digits")])
        >>> objective = {"name": "IWAE", "num_particles": 5}
        >>> cell = Cell({"prior": "VampPrior", "objective": objective, "training.seed": 1}, config)
        >>> cell.name, cell.model
        ('VampPrior_IWAE-num_particles=5_seed=1', 'VampPrior, IWAE(num_particles=5)')
    """

    values: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """The name of its folder."""
        plain = (re.sub(r"[\[\]'\"]", "", label) for label in self._labels().values())
        return "_".join(re.sub(r"[^\w.=+-]+", "-", label).strip("-") for label in plain)

    @property
    def model(self) -> str:
        """Its name in a comparison, without the seed."""
        labels = [label for key, label in self._labels().items() if key != SEED]
        return ", ".join(labels) or "the model"

    def row(self) -> dict[str, Any]:
        """The values as a table shows them, by key."""
        return {
            key: written(item) if isinstance(item, Mapping | list) else item
            for key, item in self.values.items()
        }

    def _labels(self) -> dict[str, str]:
        """Names by themselves; values of keywords after the keyword."""
        labels = {key: written(value) for key, value in self.values.items()}
        for key in labels:
            if "." in key:
                labels[key] = f"{key.rpartition('.')[2]}={labels[key]}"
        return labels


@dataclass(frozen=True)
class Study:
    """A grid of runs.

    Args:
        cells: The runs.

    Example:
        >>> Study(()).folders("runs/study")
        {}
    """

    cells: tuple[Cell, ...]

    def folders(self, output: str | Path) -> dict[str, Folder]:
        """The folder of each cell, by name."""
        return {cell.name: Folder(Path(output) / "cells" / cell.name) for cell in self.cells}


def read_study(path: str | Path, changes: Iterable[tuple[str, Any]] = ()) -> Study:
    r"""A study from a TOML file: the tables of a run, and [grid] with lists of values.

    A key of the grid is a table (`prior`, `objective`, ...) with a list of names, or of tables with
    a name; or it is a keyword of a table (`training.seed`, `encoder.hidden_dims`, ...) with a list
    of its values.

    Models are compared on validation rows unless [evaluation] names another split or there are no
    validation rows: test rows would no longer be held out once they have chosen a model.

    Args:
        path: The file.
        changes: ("table.keyword", value) for all runs, as in `read_config`; the grid takes
            precedence.

    Raises:
        ConfigError: the file does not exist, [grid] is missing, a table, keyword or name is
            unknown, or two cells are equal; in one line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "study.toml"
        >>> grid = '[grid]\nprior = ["StandardNormal", "VampPrior"]\ntraining.seed = [0, 1]'
        >>> _ = path.write_text(f'[data]\nname = "digits"\n{grid}')
        >>> [cell.name for cell in read_study(path).cells]
        ['StandardNormal_seed=0', 'StandardNormal_seed=1', 'VampPrior_seed=0', 'VampPrior_seed=1']
    """
    document = read_toml(path)
    grid = document.pop("grid", {})
    try:
        base = [*_ranked(document), *table_changes(document), *changes]
        return Study(tuple(_cells(base, _lists(grid))))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _ranked(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The split on which models are compared."""
    has_none = document.get("data", {}).get("valid") == 0
    return [] if has_none else [("evaluation.split", "valid")]


def _cells(base: list[tuple[str, Any]], grid: Mapping[str, list[Any]]) -> Iterator[Cell]:
    names = set()
    num_cells = math.prod(map(len, grid.values()))
    if num_cells > MOST_CELLS:
        raise ConfigError(
            f"[grid] gives {num_cells:,} cells, each of which is a run: give at most {MOST_CELLS:,}"
        )
    for chosen in itertools.product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        meant = [change for key, value in values.items() for change in _meant(key, value)]
        cell = Cell(values, read_config(changes=[*base, *meant]))
        if cell.name in names:
            raise ConfigError(
                f"[grid] gives two cells with the name {cell.name!r}: one of its lists has a value "
                "twice"
            )
        names.add(cell.name)
        yield cell


def _lists(grid: Any) -> dict[str, list[Any]]:
    """The lists of the grid, by key."""
    if not isinstance(grid, Mapping) or not grid:
        raise ConfigError(f"there is no [grid]: give it {HINT}")
    found = dict(_flat(grid))
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"[grid] {key} = {echoed(values)}: give {HINT}")
        if "." not in key and key not in Config.model_fields:
            known = [*Config.model_fields, SEED]
            raise ConfigError(
                f"[grid] there is no table [{key}]: {suggestion(key, known)}, or another "
                "table.keyword"
            )
    return found


def _flat(grid: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots: `training.seed = [0]` means the same as `"training.seed" = [0]`."""
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _meant(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """The changes that a value represents."""
    try:
        return [(key, value)] if "." in key else list(table_changes({key: value}))
    except ValueError as error:
        raise ConfigError(f"[grid] {key}: {error}") from None


def written(value: Any) -> str:
    """A name, a name with its keywords, or a plain value."""
    if not isinstance(value, Mapping):
        return str(value)
    name = str(value.get("name", ""))
    rest = ", ".join(f"{key}={written(item)}" for key, item in value.items() if key != "name")
    return f"{name}({rest})" if name and rest else name or rest
