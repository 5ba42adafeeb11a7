"""What one run is, as a file says it: the names and keywords of Python, checked before anything is computed."""

import inspect
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.data import available
from ppl_vae.experiment.signatures import as_table, complete, construct, named, parameters, suggestion
from ppl_vae.training import Training

__all__ = ["Config", "ConfigError", "changed", "differences", "read_config", "to_toml"]


class ConfigError(ValueError):
    """What was asked for makes no sense; the message names the table, the keyword and the remedy. No paper.

    Example:
        >>> issubclass(ConfigError, ValueError)
        True
    """


class Table(BaseModel):
    """A table of the file with keywords of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataTable(Table):
    """[data]: the arguments of `load`; `label` and `context` name columns of a file, as in `read`."""

    name: str
    binarize: Literal["dynamic", "static", "threshold"] | None = None
    flatten: bool = False
    valid: int | float | None = None
    data_dir: str | None = None
    seed: int = 0
    label: str | None = None
    context: tuple[str, ...] = ()

    @field_validator("name", "data_dir")
    @classmethod
    def _absolute(cls, place: str | None) -> str | None:
        """A file is found again from any folder."""
        return str(Path(place).resolve()) if place and place not in available() and Path(place).exists() else place


class EvaluationTable(Table):
    """[evaluation]: the arguments of `log_evidence`, the split, and how many of its first rows (all by default)."""

    split: Literal["train", "valid", "test"] = "test"
    num_particles: int = Field(1000, ge=1)
    proposal: Literal["guide", "prior"] = "guide"
    chunk_size: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    num_data: int | None = Field(None, ge=1)


class Keywords(BaseModel):
    """A table whose keywords are those of a class of the library."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class TrainingTable(Keywords):
    """[training]: the arguments of `Training`; the run's folder owns the checkpoint, the caller the progress bar."""

    module: ClassVar[str] = Training.__module__

    @model_validator(mode="before")
    @classmethod
    def _check(cls, table: Any) -> dict[str, Any]:
        keywords = complete(Training, as_table(table), cls.module)
        construct(Training, keywords, cls.module)  # its ranges
        return keywords


class Named(Keywords):
    """A table that names a class and gives its keyword arguments."""

    module: ClassVar[str]
    kind: ClassVar[type] = nn.Module
    filled: ClassVar[tuple[str, ...]] = ()
    name: str

    @model_validator(mode="before")
    @classmethod
    def _check(cls, table: Any) -> dict[str, Any]:
        table = as_table(table)
        name = table.pop("name", cls.model_fields["name"].default)
        return {"name": name, **complete(named(cls.module, name, cls.kind), table, cls.module, filled=cls.filled)}

    @property
    def rows(self) -> dict[str, int]:
        """The keywords that stand for training data, and how many rows they want."""
        known = parameters(named(self.module, self.name, self.kind))
        return {name: count for name, count in self.keywords.items() if known[name].annotation is Tensor}

    def build(self, **available: Any) -> Any:
        """The object; `available` are the arguments that come from the data and from other tables."""
        return construct(named(self.module, self.name, self.kind), self.keywords, self.module, **available)


class PriorTable(Named):
    """[prior]: one of `priors`; `latent_dim` is the posterior's."""

    module: ClassVar[str] = "ppl_vae.families.priors"
    filled: ClassVar[tuple[str, ...]] = ("latent_dim",)
    name: str = "StandardNormal"


class LikelihoodTable(Named):
    """[likelihood]: one of `likelihoods`."""

    module: ClassVar[str] = "ppl_vae.families.likelihoods"
    name: str = "Bernoulli"


class PosteriorTable(Named):
    """[posterior]: one of `posteriors`; its `latent_dim` is the model's."""

    module: ClassVar[str] = "ppl_vae.families.posteriors"
    name: str = "MeanFieldNormal"


class NetworkTable(Named):
    """[encoder], [decoder]: one of `networks`, without the shapes, which are the data's."""

    module: ClassVar[str] = "ppl_vae.families.networks"
    name: str = "MLP"


class ObjectiveTable(Named):
    """[objective]: one of `objectives`."""

    module: ClassVar[str] = "ppl_vae.objectives"
    kind: ClassVar[type] = ELBO
    name: str = "MeanFieldELBO"


class Config(Table):
    """One run: data, families, networks, objective, training, evaluation; complete with defaults once it is made.

    Every table but [data] may be left out. `latent_dim` stands in [posterior] alone. No paper.

    Args:
        data: What `load` is given.
        prior: Name in `priors`, and its keywords.
        likelihood: Name in `likelihoods`, and its keywords.
        posterior: Name in `posteriors`, and its keywords.
        encoder: Name in `networks`, and its keywords.
        decoder: Name in `networks`, and its keywords.
        objective: Name in `objectives`, and its keywords.
        training: Keywords of `Training`.
        evaluation: What `log_evidence` is given, and the split.

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
        of_prior, of_posterior = (t.keywords.get("latent_dim", self.latent_dim) for t in (self.prior, self.posterior))
        if of_prior != of_posterior:
            raise ValueError(
                f"[prior] latent_dim is {of_prior}, [posterior] latent_dim {of_posterior}: give it in [posterior] alone"
            )
        return self

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D."""
        return self.posterior.keywords["latent_dim"]


def read_config(path: str | Path | None = None, changes: Iterable[tuple[str, Any]] = ()) -> Config:
    """A run from a TOML file, with changes on top.

    Changing a table's `name` to another class drops the keywords of the old class that the new one does not take.

    Args:
        path: The file; None starts from the defaults.
        changes: ("table.keyword", value), applied in turn.

    Raises:
        ConfigError: no such file, no TOML, an unknown table, keyword or name, a value of another type; in one line.

    Example:
        >>> read_config(changes=[("data.name", "digits"), ("posterior.latent_dim", 2)]).latent_dim
        2
        >>> read_config(changes=[("data.name", "digits"), ("prior.names", "VampPrior")])
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: [prior] StandardNormal takes no 'names': Allowed: latent_dim
    """
    return _changed({} if path is None else _toml(Path(path)), changes, "" if path is None else f"{path}: ")


def changed(config: Config, changes: Iterable[tuple[str, Any]]) -> Config:
    """The same run with some keywords changed, as in `read_config`. No paper.

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


def to_toml(config: Config) -> str:
    """The run as a TOML file that `read_config` reads back. No paper.

    Example:
        >>> print(to_toml(read_config(changes=[("data.name", "digits")])).splitlines()[:2])
        ['[data]', 'name = "digits"']
    """
    tables = config.model_dump(mode="json", exclude_none=True)
    return (
        "\n\n".join(
            "\n".join([f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in table.items())])
            for name, table in tables.items()
        )
        + "\n"
    )


def differences(one: Config, other: Config) -> list[str]:
    """Where two runs differ, as "table.keyword is 1, not 2". No paper.

    Example:
        >>> one, other = (read_config(changes=[("data.name", name)]) for name in ("digits", "mnist"))
        >>> differences(one, other)
        ["data.name is 'digits', not 'mnist'"]
    """
    first, second = one.model_dump(mode="json"), other.model_dump(mode="json")
    keys = [(table, key) for table in first for key in dict.fromkeys([*first[table], *second[table]])]
    pairs = [(f"{table}.{key}", first[table].get(key), second[table].get(key)) for table, key in keys]
    return [f"{key} is {a!r}, not {b!r}" for key, a, b in pairs if a != b]


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from None


def _change(document: dict[str, Any], key: str, value: Any) -> None:
    table_name, _, keyword = key.partition(".")
    if not keyword:
        raise ConfigError(f"{key!r} names no keyword: write table.keyword, as in training.num_epochs")
    table = as_table(document.get(table_name, {}))
    if keyword == "name" and table_name != "data":
        table = _kept(table, table_name, value)
    document[table_name] = table | {keyword: value}


def _kept(table: dict[str, Any], table_name: str, name: Any) -> dict[str, Any]:
    """The keywords that the class `name` takes as well."""
    kind = Config.model_fields[table_name].annotation if table_name in Config.model_fields else None
    if not (inspect.isclass(kind) and issubclass(kind, Named)):
        return table
    try:
        known = parameters(named(kind.module, name, kind.kind))
    except ValueError as error:
        raise ConfigError(f"[{table_name}] {error}") from None
    return {keyword: value for keyword, value in table.items() if keyword in known}


def _one_line(error: ValidationError) -> str:
    """The first thing that is wrong."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    table, words = (f"[{place[0]}] " if place else ""), place[1:2]
    if first["type"] == "extra_forbidden":
        fields = Config.model_fields if len(place) == 1 else Config.model_fields[place[0]].annotation.model_fields  # type: ignore[union-attr]
        what = f"there is no table [{place[0]}]" if len(place) == 1 else f"{table}takes no {place[1]!r}"
        return f"{what}: {suggestion(place[-1], fields)}"
    if first["type"] == "missing":
        return "[data] name is missing: give a named data set or a file (on the command line: --data digits)"
    message = first["msg"].removeprefix("Value error, ")
    return table + "".join(f"{word} = {first['input']!r}: " for word in words) + message


def _literal(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers, booleans are TOML's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)
