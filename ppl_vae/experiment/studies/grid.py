"""Studies as a file says them: the tables of a run, and [grid] with lists of what is to be
tried.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae.experiment.config import Config, ConfigError, read_config, read_toml, table_changes
from ppl_vae.experiment.folder import Folder
from ppl_vae.runtime.checks import suggestion

__all__ = ["Cell", "Study", "read_study"]

SEED = "training.seed"  # cells that differ in it alone are trainings of one model
HINT = 'lists of what is to be tried, as in prior = ["StandardNormal", "VampPrior"] and training.seed = [0, 1, 2]'


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        values: What the grid says of it, by key.
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
        """Its folder's."""
        plain = (re.sub(r"[\[\]'\"]", "", label) for label in self._labels().values())
        return "_".join(re.sub(r"[^\w.=+-]+", "-", label).strip("-") for label in plain)

    @property
    def model(self) -> str:
        """What it is called in a comparison: all but the seed."""
        return (
            ", ".join(label for key, label in self._labels().items() if key != SEED) or "the model"
        )

    def row(self) -> dict[str, Any]:
        """The values as they stand in a table, by key."""
        return {
            key: written(item) if isinstance(item, Mapping | list) else item
            for key, item in self.values.items()
        }

    def _labels(self) -> dict[str, str]:
        """Names speak for themselves; the value of a keyword is told with it."""
        words = {key: key.rpartition(".")[2] for key in self.values}
        return {
            k: f"{words[k]}={written(v)}" if "." in k else written(v)
            for k, v in self.values.items()
        }


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
        """Where each cell is, by name."""
        return {cell.name: Folder(Path(output) / "cells" / cell.name) for cell in self.cells}


def read_study(path: str | Path, changes: Iterable[tuple[str, Any]] = ()) -> Study:
    r"""A study from a TOML file: the tables of a run, and [grid] with a list for each thing that
    varies.

    A key of the grid is a table (`prior`, `objective`, ...), its values names or tables with a
    name; or a keyword of a table (`training.seed`, `encoder.hidden_dims`, ...), its values what the
    keyword takes.

    Args:
        path: The file.
        changes: ("table.keyword", value) for all runs, as in `read_config`; the grid wins.

    Raises:
        ConfigError: no such file, no [grid], an unknown table, keyword or name, two equal cells; in
            one line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "study.toml"
        >>> grid = '[grid]\nprior = ["StandardNormal", "VampPrior"]\ntraining.seed = [0, 1]'
        >>> _ = path.write_text(f'[data]\nname = "digits"\n{grid}')
        >>> [cell.name for cell in read_study(path).cells]
        ['StandardNormal_seed=0', 'StandardNormal_seed=1', 'VampPrior_seed=0', 'VampPrior_seed=1']
    """
    document = read_toml(path)
    grid, changes = document.pop("grid", {}), list(changes)
    try:
        base = [*table_changes(document), *changes]
        return Study(tuple(_cells(base, _lists(grid))))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _cells(base: list[tuple[str, Any]], grid: Mapping[str, list[Any]]) -> Iterator[Cell]:
    names = set()
    for chosen in itertools.product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        meant = [change for key, value in values.items() for change in _meant(key, value)]
        cell = Cell(values, read_config(changes=[*base, *meant]))
        if cell.name in names:
            raise ConfigError(
                f"[grid] gives two cells of the name {cell.name!r}: one of its lists holds a value "
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
            raise ConfigError(f"[grid] {key} = {values!r}: give {HINT}")
        if "." not in key and key not in Config.model_fields:
            known = [*Config.model_fields, SEED]
            raise ConfigError(
                f"[grid] there is no table [{key}]: {suggestion(key, known)}, or another "
                "table.keyword"
            )
    return found


def _flat(grid: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`training.seed = [0]` is a table inside a table, and `"training.seed" = [0]` is not: both
    mean the same.
    """
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _meant(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """The changes that a value stands for."""
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
