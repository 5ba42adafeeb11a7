"""What one run is, as a file says it: the names and keywords of Python, checked before anything is
computed.
"""

import inspect
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from ppl_vae.experiment.signatures import as_table, named, parameters
from ppl_vae.experiment.tables import (
    DataTable,
    EvaluationTable,
    LikelihoodTable,
    Named,
    NetworkTable,
    ObjectiveTable,
    PosteriorTable,
    PriorTable,
    Table,
    TrainingTable,
)
from ppl_vae.runtime.checks import suggestion

__all__ = [
    "Config",
    "ConfigError",
    "changed",
    "differences",
    "read_config",
    "read_toml",
    "table_changes",
    "to_toml",
]


class ConfigError(ValueError):
    """What was asked for makes no sense; the message names the table, the keyword and the remedy.

    Example:
        >>> issubclass(ConfigError, ValueError)
        True
    """


class Config(Table):
    """One run: data, families, networks, objective, training, evaluation; complete with defaults
    once it is made.

    Every table but [data] may be left out. `latent_dim` stands in [posterior] alone.

    Args:
        data: What `load` is given.
        prior: Name in `priors`, and its keywords.
        likelihood: Name in `likelihoods`, and its keywords.
        posterior: Name in `posteriors`, and its keywords.
        encoder: Name in `networks`, and its keywords.
        decoder: Name in `networks`, and its keywords.
        objective: Name in `objectives`, and its keywords.
        training: Keywords of `Training`.
        evaluation: The split, the seed, and the method of `log_evidence` with its keywords.

    Raises:
        ValidationError: see `read_config`, which says it in one line.

    Example:
        >>> config = Config.model_validate({"data": {"name": "digits"}, "prior": {"name": "VampPrior"}})
        >>> config.prior.keywords, config.posterior.keywords
        ({'pseudo_inputs': 50}, {'latent_dim': 8})
    """

    data: DataTable
    prior: PriorTable = Field(default_factory=lambda: PriorTable.model_validate({}))
    likelihood: LikelihoodTable = Field(default_factory=lambda: LikelihoodTable.model_validate({}))
    posterior: PosteriorTable = Field(default_factory=lambda: PosteriorTable.model_validate({}))
    encoder: NetworkTable = Field(default_factory=lambda: NetworkTable.model_validate({}))
    decoder: NetworkTable = Field(default_factory=lambda: NetworkTable.model_validate({}))
    objective: ObjectiveTable = Field(default_factory=lambda: ObjectiveTable.model_validate({}))
    training: TrainingTable = Field(default_factory=lambda: TrainingTable.model_validate({}))
    evaluation: EvaluationTable = Field(default_factory=lambda: EvaluationTable.model_validate({}))

    @model_validator(mode="after")
    def _one_latent_dim(self) -> Self:
        of_prior, of_posterior = (
            t.keywords.get("latent_dim", self.latent_dim) for t in (self.prior, self.posterior)
        )
        if of_prior != of_posterior:
            raise ValueError(
                f"[prior] latent_dim is {of_prior}, [posterior] latent_dim {of_posterior}: give it "
                "in [posterior] alone"
            )
        return self

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D."""
        return self.posterior.keywords["latent_dim"]


def read_config(path: str | Path | None = None, changes: Iterable[tuple[str, Any]] = ()) -> Config:
    """A run from a TOML file, with changes on top.

    Changing a table's `name`, or `evaluation.method`, to another class drops the keywords of the
    old class that the new one does not take.

    Args:
        path: The file; None starts from the defaults.
        changes: ("table.keyword", value), or deeper, ("evaluation.method.num_chains", 50); applied
            in turn.

    Raises:
        ConfigError: no such file, no TOML, an unknown table, keyword or name, a value of another
            type; in one line.

    Example:
        >>> read_config(changes=[("data.name", "digits"), ("posterior.latent_dim", 2)]).latent_dim
        2
        >>> read_config(changes=[("data.name", "digits"), ("prior.names", "VampPrior")])
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: [prior] StandardNormal takes no 'names': Allowed: latent_dim
    """
    return _changed(
        {} if path is None else read_toml(path), changes, "" if path is None else f"{path}: "
    )


def changed(config: Config, changes: Iterable[tuple[str, Any]]) -> Config:
    """The same run with some keywords changed, as in `read_config`.

    Raises:
        ConfigError: an unknown table, keyword or name, a value of another type.

    Example:
        >>> config = read_config(changes=[("data.name", "digits")])
        >>> changed(config, [("posterior.latent_dim", 3)]).latent_dim
        3
    """
    return _changed(config.model_dump(mode="json", exclude_none=True), changes, "")


def _changed(document: dict[str, Any], changes: Iterable[tuple[str, Any]], where: str) -> Config:
    for key, value in changes:
        _change(document, key, value)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(where + _one_line(error)) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a file, as they are.

    Args:
        path: The file.

    Raises:
        ConfigError: no such file, or no TOML.

    Example:
        >>> read_toml("nowhere.toml")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: nowhere.toml: no such file
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: no valid TOML: {error}") from None
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ConfigError(f"{path}: {reason}") from None


def table_changes(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A run's tables as changes of the defaults, each table's class first.

    Args:
        document: As `read_toml` gives it.

    Example:
        >>> list(table_changes({"prior": {"latent_dim": 2, "name": "LearnedNormal"}}))
        [('prior.name', 'LearnedNormal'), ('prior.latent_dim', 2)]
    """
    for table, keywords in document.items():
        changes = ((f"{table}.{key}", value) for key, value in as_table(keywords).items())
        yield from sorted(changes, key=lambda change: not change[0].endswith(".name"))


def to_toml(config: Config) -> str:
    """The run as a TOML file that `read_config` reads back.

    Example:
        >>> print(to_toml(read_config(changes=[("data.name", "digits")])).splitlines()[:2])
        ['[data]', 'name = "digits"']
    """
    tables = config.model_dump(mode="json", exclude_none=True)
    return (
        "\n\n".join(
            "\n".join(
                [f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in table.items())]
            )
            for name, table in tables.items()
        )
        + "\n"
    )


def differences(one: Config, other: Config) -> list[str]:
    """Where two runs differ, as "table.keyword is 1, not 2".

    Example:
        >>> one, other = (read_config(changes=[("data.name", name)]) for name in ("digits", "mnist"))
        >>> differences(one, other)
        ["data.name is 'digits', not 'mnist'"]
    """
    return list(_differences(one.model_dump(mode="json"), other.model_dump(mode="json"), ""))


def _differences(one: Any, other: Any, place: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{place}.{key}")
    elif one != other:
        yield f"{place.removeprefix('.')} is {one!r}, not {other!r}"


def _change(document: dict[str, Any], key: str, value: Any) -> None:
    *path, keyword = key.split(".")
    if key == "evaluation.method" and isinstance(value, str):
        path, keyword = ["evaluation", "method"], "name"
    if not path:
        raise ConfigError(
            f"{key!r} names no keyword: write table.keyword, as in training.num_epochs"
        )
    try:
        if path[0] == "evaluation":  # so that another method drops what was meant for this one
            document["evaluation"] = EvaluationTable.gathered(document.get("evaluation", {}))
        table = _inner(document, path)
        kept = _kept(table, path, value) if keyword == "name" else dict(table)
    except ValueError as error:
        raise ConfigError(f"[{path[0]}] {error}") from None
    table.clear()
    table.update(kept | {keyword: value})


def _inner(document: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """The table at the end of a path, made where there is none."""
    for word in path:
        document[word] = as_table(document.get(word, {}))
        document = document[word]
    return document


def _kept(table: dict[str, Any], path: list[str], name: Any) -> dict[str, Any]:
    """The keywords that the class `name` takes as well."""
    kind = _kind(path)
    if not (inspect.isclass(kind) and issubclass(kind, Named)):
        return dict(table)
    known = parameters(named(kind.module, name, kind.kind))
    return {keyword: value for keyword, value in table.items() if keyword in known}


def _kind(path: list[str]) -> Any:
    """The class of the table at the end of a path; None where there is no such table."""
    kind: Any = Config
    for word in path:
        field = getattr(kind, "model_fields", {}).get(word)
        kind = None if field is None else field.annotation
    return kind


def _one_line(error: ValidationError) -> str:
    """The first thing that is wrong."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    table = f"[{place[0]}] " if place else ""
    if first["type"] == "extra_forbidden":
        what = (
            f"there is no table [{place[0]}]"
            if len(place) == 1
            else f"{table}takes no {place[1]!r}"
        )
        return f"{what}: {suggestion(place[-1], _kind(place[:-1]).model_fields)}"
    if first["type"] == "missing":
        return "[data] name is missing: give a named data set or a file (on the command line: --data digits)"
    if first["type"] == "value_error":  # in the library's words
        return table + first["msg"].removeprefix("Value error, ")
    return table + "".join(f"{word} = {first['input']!r}: " for word in place[1:2]) + first["msg"]


def _literal(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers, booleans are TOML's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)
