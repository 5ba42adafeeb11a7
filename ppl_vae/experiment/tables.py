"""The tables of a file: which keywords each takes, checked against the signatures of the classes
they name.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.data import available
from ppl_vae.evidence.estimate import Method
from ppl_vae.experiment.signatures import as_table, complete, construct, merged, named, parameters
from ppl_vae.runtime.checks import suggestion
from ppl_vae.training import Training


class Table(BaseModel):
    """A table of the file with keywords of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataTable(Table):
    """[data]: the arguments of `load`; `label` and `context` name columns of a file, as in
    `read`.
    """

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
        return (
            str(Path(place).resolve())
            if place and place not in available() and Path(place).exists()
            else place
        )


class Keywords(BaseModel):
    """A table whose keywords are those of a class of the library."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class TrainingTable(Keywords):
    """[training]: the arguments of `Training`; the run's folder owns the checkpoint, the caller the
    progress bar.
    """

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
        return {
            "name": name,
            **complete(named(cls.module, name, cls.kind), table, cls.module, filled=cls.filled),
        }

    @property
    def rows(self) -> dict[str, int]:
        """The keywords that stand for training data, and how many rows they want."""
        known = parameters(named(self.module, self.name, self.kind))
        return {
            name: count for name, count in self.keywords.items() if known[name].annotation is Tensor
        }

    def build(self, **available: Any) -> Any:
        """The object; `available` are the arguments that come from the data and from other
        tables.
        """
        return construct(
            named(self.module, self.name, self.kind), self.keywords, self.module, **available
        )


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

    Keywords beside `method` are the method's: `num_particles = 5000` is short for
    `method = {name = "ImportanceSampling", num_particles = 5000}`.
    """

    split: Literal["train", "valid", "test"] = "test"
    num_data: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    method: MethodTable = Field(default_factory=lambda: MethodTable.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _check(cls, table: Any) -> dict[str, Any]:
        table = cls.gathered(table)
        name, known = (
            table["method"]["name"],
            [*cls.model_fields, *MethodTable.known(table["method"])],
        )
        for word in table:
            if word not in cls.model_fields:
                raise ValueError(f"with method {name} takes no {word!r}: {suggestion(word, known)}")
        return table

    @classmethod
    def gathered(cls, table: Any) -> dict[str, Any]:
        """The same table with the method's keywords in `method`, and its name."""
        table = as_table(table)
        method = {"name": MethodTable.model_fields["name"].default} | as_table(
            table.pop("method", {})
        )
        beside = [word for word in MethodTable.known(method) if word in table]
        return table | {"method": merged(method, {word: table.pop(word) for word in beside})}
