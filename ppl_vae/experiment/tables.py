"""The tables of a file, checked against the signatures of the classes that they name."""

from dataclasses import fields
from os.path import abspath, exists  # False for a name that no file can have
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.data import Dataset, available
from ppl_vae.data.tables.files import TABLES, Roles
from ppl_vae.evidence.estimate import Method
from ppl_vae.experiment.signatures import (
    argument,
    as_table,
    complete,
    construct,
    merged,
    named,
    parameters,
)
from ppl_vae.families.likelihoods import Columns, Likelihood
from ppl_vae.runtime.checks import suggestion
from ppl_vae.runtime.text import echoed
from ppl_vae.training import Training


class Table(BaseModel):
    """A table of the file whose keywords are its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataTable(Table):
    """[data]: the arguments of `load`, and the roles of the columns of a table in a file.

    `columns` (those of x), `context`, `label`, `weights`, `split` and `drop` name columns; `test`
    is a share, a number of rows, or another file. `exposure` names one of the columns of `context`,
    as in `Model`. `ordered` gives the levels of ordered categories from the lowest, by column;
    `categories` names columns whose numbers or strings are categories without an order. `na_values`
    and `keep_default_na` say which cells of a text file are missing, as in `Missing`.
    """

    name: str
    binarize: Literal["dynamic", "static", "threshold"] | None = None
    flatten: bool = False
    valid: int | float | None = None
    data_dir: str | None = None
    seed: int = 0
    test: int | float | str | None = None
    columns: tuple[str, ...] | None = None
    context: tuple[str, ...] = ()
    exposure: str | None = None
    label: str | None = None
    weights: str | None = None
    split: str | None = None
    drop: tuple[str, ...] = ()
    ordered: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    categories: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    keep_default_na: bool = True

    @field_validator("name", "data_dir", "test")
    @classmethod
    def _absolute(cls, place: Any) -> Any:
        """An absolute path, so that a file is found from any folder.

        A link keeps its own name: that of its target may lack the suffix.
        """
        if isinstance(place, str) and place not in available() and exists(place):
            return abspath(place)
        return place

    @property
    def roles(self) -> Roles:
        """The roles of the columns of the table."""
        return Roles(**{each.name: getattr(self, each.name) for each in fields(Roles)})

    @property
    def is_table(self) -> bool:
        """Whether the data are a table in a file."""
        return self.name not in available() and Path(self.name).suffix in TABLES


class Keywords(BaseModel):
    """A table whose keywords are those of a class of the library."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class TrainingTable(Keywords):
    """[training]: the arguments of `Training` except checkpoint and progress."""

    module: ClassVar[str] = Training.__module__

    @model_validator(mode="before")
    @classmethod
    def _check(cls, table: Any) -> dict[str, Any]:
        keywords = complete(Training, as_table(table), cls.module)
        construct(Training, keywords, cls.module)  # checks their ranges
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
        return {
            "name": name,
            **complete(named(cls.module, name, cls.kind), table, cls.module, filled=cls.filled),
        }

    @property
    def rows(self) -> dict[str, int]:
        """The keywords for training rows, and the number of rows of each."""
        known = parameters(named(self.module, self.name, self.kind))
        return {
            name: count for name, count in self.keywords.items() if known[name].annotation is Tensor
        }

    def build(self, **available: Any) -> Any:
        """The object; `available` arguments come from the data and from other tables."""
        kind = named(self.module, self.name, self.kind)
        return construct(kind, self.keywords, self.module, **available)


class PriorTable(Named):
    """[prior]: one of `priors`; `latent_dim` comes from [posterior]."""

    module: ClassVar[str] = "ppl_vae.families.priors"
    filled: ClassVar[tuple[str, ...]] = ("latent_dim",)
    name: str = "StandardNormal"


class LikelihoodTable(Named):
    """[likelihood]: one of `likelihoods`.

    `Columns` chooses one for each column; `families` overrides the choice by the name of the
    column.
    """

    module: ClassVar[str] = "ppl_vae.families.likelihoods"
    filled: ClassVar[tuple[str, ...]] = ("families",)
    name: str = "Bernoulli"

    def of(self, data: Dataset) -> Likelihood:
        """The likelihood of these data."""
        if self.name != Columns.__name__:
            return self.build(event_shape=data.event_shape)
        known = parameters(Columns)
        given = {word: argument(known[word], x, self.module) for word, x in self.keywords.items()}
        return Columns.of(data, **given)


class PosteriorTable(Named):
    """[posterior]: one of `posteriors`; its `latent_dim` is that of the model."""

    module: ClassVar[str] = "ppl_vae.families.posteriors"
    name: str = "MeanFieldNormal"


class NetworkTable(Named):
    """[encoder], [decoder]: one of `networks`; the shapes come from the data."""

    module: ClassVar[str] = "ppl_vae.families.networks"
    name: str = "MLP"


class ObjectiveTable(Named):
    """[objective]: one of `objectives`."""

    module: ClassVar[str] = "ppl_vae.objectives"
    kind: ClassVar[type] = ELBO
    name: str = "MeanFieldELBO"


class MethodTable(Named):
    """method in [evaluation]: one of `evidence` that estimates log p(x)."""

    module: ClassVar[str] = "ppl_vae.evidence"
    kind: ClassVar[type] = Method
    name: str = "ImportanceSampling"

    @classmethod
    def known(cls, table: dict[str, Any]) -> list[str]:
        """The keywords that the class of this table takes."""
        return list(parameters(named(cls.module, table["name"], cls.kind)))

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        self.build()
        return self


class EvaluationTable(Table):
    """[evaluation]: the split, how many of its first rows (all by default), the seed, the method.

    Other keywords are passed to the method: `num_particles = 5000` is short for
    `method = {name = "ImportanceSampling", num_particles = 5000}`.
    """

    split: Literal["train", "valid", "test"] = "test"
    num_data: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    method: MethodTable

    @model_validator(mode="before")
    @classmethod
    def _check(cls, table: Any) -> dict[str, Any]:
        table = cls.gathered(table)
        name = table["method"]["name"]
        for word in table:
            if word not in cls.model_fields:
                known = [*cls.model_fields, *MethodTable.known(table["method"])]
                raise ValueError(
                    f"with method {name} takes no {echoed(word)}: {suggestion(word, known)}"
                )
        return table

    @classmethod
    def gathered(cls, table: Any) -> dict[str, Any]:
        """The same table with the name and all keywords of the method in `method`."""
        table = as_table(table)
        method = as_table(table.pop("method", {}))
        method.setdefault("name", MethodTable.model_fields["name"].default)
        known = MethodTable.known(method)
        keywords = {word: table.pop(word) for word in list(table) if word in known}
        return table | {"method": merged(method, keywords)}
