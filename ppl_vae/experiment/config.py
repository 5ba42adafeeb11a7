"""One run as described by a file, with names and keywords as in Python, checked beforehand."""

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from ppl_vae.errors import PplVaeError
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
from ppl_vae.runtime.checks import one_line, suggestion
from ppl_vae.runtime.files import FORMAT, migrated, require_file
from ppl_vae.runtime.memory import memory_in_words
from ppl_vae.runtime.text import echoed

__all__ = [
    "Config",
    "ConfigError",
    "blamed",
    "changed",
    "differences",
    "read_config",
    "read_toml",
    "table_changes",
    "to_toml",
    "written",
]

BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that TOML takes without quotation marks
LARGEST = 2**20  # bytes of a file
EMPTY: Any = {}  # a table that is left out, and gets its defaults


class ConfigError(PplVaeError, ValueError):
    """A configuration cannot be run; the message names the table, the keyword and the remedy.

    Example:
        >>> issubclass(ConfigError, ValueError)
        True
    """


class Config(Table, validate_default=True):
    """One run: data, families, networks, objective, training and evaluation, with all defaults.

    Every table but [data] may be left out. `latent_dim` is given in [posterior] only.

    Args:
        data: The arguments of `load`.
        prior: Name in `priors`, and its keywords.
        likelihood: Name in `likelihoods`, and its keywords.
        posterior: Name in `posteriors`, and its keywords.
        encoder: Name in `networks`, and its keywords.
        decoder: Name in `networks`, and its keywords.
        objective: Name in `objectives`, and its keywords.
        training: Keywords of `Training`.
        evaluation: The split, the seed, and the method of `log_evidence` with its keywords.

    Raises:
        ValidationError: as `ConfigError` in `read_config`, which reports it in one line.

    Example:
        >>> tables = {"data": {"name": "digits"}, "prior": {"name": "VampPrior"}}
        >>> config = Config.model_validate(tables)
        >>> config.prior.keywords, config.posterior.keywords
        ({'pseudo_inputs': 50}, {'latent_dim': 8})
    """

    data: DataTable
    prior: PriorTable = EMPTY
    likelihood: LikelihoodTable = EMPTY
    posterior: PosteriorTable = EMPTY
    encoder: NetworkTable = EMPTY
    decoder: NetworkTable = EMPTY
    objective: ObjectiveTable = EMPTY
    training: TrainingTable = EMPTY
    evaluation: EvaluationTable = EMPTY

    @model_validator(mode="after")
    def _one_latent_dim(self) -> Self:
        if "latent_dim" not in self.posterior.keywords:
            raise ValueError(
                f"[posterior] {self.posterior.name} is made from a prior, which a file does not "
                "give: choose another one, or call fit in Python"
            )
        of_prior = self.prior.keywords.get("latent_dim", self.latent_dim)
        if of_prior != self.latent_dim:
            raise ValueError(
                f"[prior] latent_dim is {of_prior}, [posterior] latent_dim {self.latent_dim}: give "
                "it in [posterior] alone"
            )
        return self

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D."""
        return self.posterior.keywords["latent_dim"]

    @property
    def tables(self) -> dict[str, Any]:
        """All tables, as a file holds them."""
        return self.model_dump(mode="json", exclude_none=True)


def read_config(path: str | Path | None = None, changes: Iterable[tuple[str, Any]] = ()) -> Config:
    """A run from a TOML file, with changes.

    When a table's `name`, or `evaluation.method`, is changed to another class, keywords that the
    new class does not take are dropped.

    Args:
        path: The file; None starts from the defaults.
        changes: ("table.keyword", value), or deeper, ("evaluation.method.num_chains", 50), in
            order.

    Raises:
        ConfigError: the file does not exist or is not TOML, or a table, a keyword, a name or a type
            is wrong; in one line.

    Example:
        >>> read_config(changes=[("data.name", "digits"), ("posterior.latent_dim", 2)]).latent_dim
        2
        >>> read_config(changes=[("data.name", "digits"), ("data.nam", "mnist")])
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: [data] takes no 'nam': did you mean name? ...
    """
    if path is None:
        return _changed({}, changes, "")
    return _changed(read_toml(path), changes, f"{path}: ")


def changed(config: Config, changes: Iterable[tuple[str, Any]]) -> Config:
    """The same run with some keywords changed, as in `read_config`.

    Raises:
        ConfigError: a table, a keyword, a name or a type is wrong.

    Example:
        >>> config = read_config(changes=[("data.name", "digits")])
        >>> changed(config, [("posterior.latent_dim", 3)]).latent_dim
        3
    """
    return _changed(config.tables, changes, "")


def _changed(document: dict[str, Any], changes: Iterable[tuple[str, Any]], where: str) -> Config:
    for key, value in changes:
        _change(document, key, value)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(where + _one_line(error)) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a file, without checks.

    Args:
        path: The file.

    Raises:
        ConfigError: the file does not exist or is not TOML.

    Example:
        >>> read_toml("nowhere.toml")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: nowhere.toml: no such file
    """
    try:
        require_file(path)
        if Path(path).stat().st_size > LARGEST:
            raise ConfigError(
                f"{path}: {Path(path).stat().st_size:,} bytes, and a configuration has at most "
                f"{LARGEST:,}: give the TOML file of a run"
            )
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return migrated("config", found, path, ConfigError)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid TOML: {one_line(error)}") from None
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise ConfigError(f"{path}: {reason}") from None


def blamed(table: str, make: Callable[..., Any], **available: Any) -> Any:
    """The result of a call; an error names the table that caused it.

    Args:
        table: The name of the table.
        make: The function.
        available: Its keyword arguments.

    Raises:
        ConfigError: Instead of a TypeError or ValueError.

    Example:
        >>> blamed("data", int, x="one")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: [data] ...
    """
    try:
        with memory_in_words("lower its sizes"):
            return make(**available)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[{table}] {' '.join(str(error).split())}") from error


def table_changes(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tables of a run as changes of the defaults, with the class of each table first.

    Args:
        document: From `read_toml`.

    Example:
        >>> list(table_changes({"prior": {"latent_dim": 2, "name": "LearnedNormal"}}))
        [('prior.name', 'LearnedNormal'), ('prior.latent_dim', 2)]
    """
    for table, keywords in document.items():
        changes = ((f"{table}.{key}", value) for key, value in as_table(keywords).items())
        yield from sorted(changes, key=lambda change: not change[0].endswith(".name"))


def to_toml(config: Config) -> str:
    """A TOML file from which `read_config` reads the same run.

    Example:
        >>> print(to_toml(read_config(changes=[("data.name", "digits")])).splitlines()[:2])
        ['[data]', 'name = "digits"']
    """
    parts = [part for name, table in config.tables.items() for part in _parts(name, table)]
    return "\n\n".join(parts) + "\n"


def _parts(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """A table, and those in it that hold tables: the family of each column has a line."""
    nested = {key: value for key, value in table.items() if _holds_tables(value)}
    lines = (f"{_key(key)} = {_literal(table[key])}" for key in table if key not in nested)
    yield "\n".join([f"[{name}]", *lines])
    for key, value in nested.items():
        yield from _parts(f"{name}.{_key(key)}", value)


def _holds_tables(value: Any) -> bool:
    """Whether some of its values are tables: one without is written in a line."""
    return isinstance(value, Mapping) and any(isinstance(each, Mapping) for each in value.values())


def written(config: Config) -> str:
    r"""The TOML of a run with the number of its format, after it was read back.

    Args:
        config: The run.

    Raises:
        ConfigError: A name cannot be written, or is read otherwise.

    Example:
        >>> config = read_config(changes=[("data.name", "digits")])
        >>> written(config) == "format = 1\n\n" + to_toml(config)
        True
    """
    text = to_toml(config)
    found = differences(_changed(tomllib.loads(text), [], ""), config)
    if found:
        raise ConfigError(f"the configuration cannot be written to a file: {found[0]}")
    return f"format = {FORMAT}\n\n{text}"


def differences(one: Config, other: Config) -> list[str]:
    """The differences of two runs, as "table.keyword is 1, not 2".

    Example:
        >>> one = read_config(changes=[("data.name", "digits")])
        >>> differences(one, changed(one, [("data.name", "mnist")]))
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
            f"{key!r} is not a keyword of a table: write table.keyword, as in training.num_epochs"
        )
    try:
        if path[0] == "evaluation":  # so that another method drops the keywords of this one
            document["evaluation"] = EvaluationTable.gathered(document.get("evaluation", {}))
        table = document
        for word in path:
            table[word] = as_table(table.get(word, {}))
            table = table[word]
        kept = _kept(table, path, value) if keyword == "name" else dict(table)
    except ValueError as error:
        raise ConfigError(f"[{path[0]}] {error}") from None
    table.clear()
    table.update(kept | {keyword: value})


def _kept(table: dict[str, Any], path: list[str], name: Any) -> dict[str, Any]:
    """The keywords that the class `name` also takes."""
    kind = _kind(path)
    if not (inspect.isclass(kind) and issubclass(kind, Named)):
        return dict(table)
    known = parameters(named(kind.module, name, kind.kind))
    return {keyword: value for keyword, value in table.items() if keyword in known}


def _kind(path: list[str]) -> Any:
    """The class of the table at the end of a path; None if there is no such table."""
    kind: Any = Config
    for word in path:
        field = getattr(kind, "model_fields", {}).get(word)
        kind = None if field is None else field.annotation
    return kind


def _one_line(error: ValidationError) -> str:
    """The first error."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    table = f"[{place[0]}] " if place else ""
    if first["type"] == "extra_forbidden":
        what = f"{table}takes no {place[-1]!r}"
        if len(place) == 1:
            what = f"there is no table [{place[0]}]"
        return f"{what}: {suggestion(place[-1], _kind(place[:-1]).model_fields)}"
    if first["type"] == "missing":
        what = "give a named data set or a file (on the command line: --data digits)"
        return f"[data] name is missing: {what}"
    if first["type"] == "value_error":  # raised by the library
        return table + first["msg"].removeprefix("Value error, ")
    return table + "".join(f"{word} = {first['input']!r}: " for word in place[1:2]) + first["msg"]


def _literal(value: Any) -> str:
    """A value in TOML, whose strings, numbers and booleans are those of JSON."""
    if isinstance(value, Mapping):
        pairs = [f"{_key(key)} = {_literal(item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # inf and nan are those of TOML
    return _basic_string(value) if isinstance(value, str) else json.dumps(value)


def _basic_string(text: str) -> str:
    """A TOML string: like one of JSON, but for characters beyond 16 bits, and for delete."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{echoed(text)} cannot be written to a file in UTF-8: rename the file or the column"
        ) from None
    return json.dumps(text, ensure_ascii=False).replace(chr(127), "\\u007f")


def _key(key: str) -> str:
    """A key, quoted unless it is bare, since a column may have any name."""
    return key if BARE.fullmatch(key) else _basic_string(key)
