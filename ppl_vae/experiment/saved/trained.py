"""What runs have in common, whether a file or Python code describes them."""

from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.tables.schema import Schema
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.sources import new_rows
from ppl_vae.experiment.tables import EvaluationTable
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.text import echoed

__all__ = ["TrainedRun"]


class TrainedRun:
    """A model and a guide with their data, and what the report says of how they were trained.

    Example:
        >>> TrainedRun.__name__
        'TrainedRun'
    """

    model: Program
    guide: Program

    @property
    def rows(self) -> Dataset:
        """The data set; ConfigError where the run holds none."""
        raise NotImplementedError

    @property
    def schema(self) -> Schema:
        """What further rows need."""
        return self.rows.schema

    @property
    def evaluation(self) -> EvaluationTable:
        """Which rows are evaluated, and how."""
        raise NotImplementedError

    @property
    def patience(self) -> int | None:
        """Epochs without improvement after which training stopped; None if it never does."""
        raise NotImplementedError

    @property
    def is_refitted(self) -> bool:
        """Whether validation rows were added to those of training, once the epoch was known."""
        raise NotImplementedError

    @property
    def fitted_rows(self) -> Dataset:
        """The data set with all rows that the weights were fitted to among those of training."""
        data = self.rows
        if not self.is_refitted:
            return data
        splits = {name: rows for name, rows in data.splits.items() if name != "valid"}
        valid = data.splits.get("valid", np.empty(0, dtype=np.int64))
        return data.with_splits(splits | {"train": np.union1d(data.splits["train"], valid)})

    @property
    def used_rows_for(self) -> str:
        """What the evaluated rows were used for: "training", "the choice of the epoch", or ""."""
        split = self.evaluation.split
        if split == "train" or split == "valid" and self.is_refitted:
            return "training"
        chose = split == "valid" and self.patience is not None
        return "the choice of the epoch" if chose else ""

    @property
    def listing(self) -> str:
        """What was run, as text."""
        raise NotImplementedError

    @property
    def names(self) -> dict[str, str]:
        """Names of the prior, the likelihood, the posterior and the objective."""
        raise NotImplementedError

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of the run."""
        raise NotImplementedError

    @property
    def has_rows(self) -> bool:
        """Whether the run holds its rows."""
        return True

    def settings(self, **changes: Any) -> EvaluationTable:
        """[evaluation] with other keywords, its own or those of the method; None changes none."""
        given = {name: value for name, value in changes.items() if value is not None}
        return EvaluationTable.model_validate(self.evaluation.model_dump() | given)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions D; 0 where it is not known."""
        return int(getattr(self.model, "latent_dim", 0))

    @property
    def held_out(self) -> Dataset:
        """The rows that are evaluated: the first `num_data` of the split."""
        table = self.evaluation
        part = self.part(table.split)
        return part if table.num_data is None else part[: table.num_data]

    def part(self, split: str) -> Dataset:
        """The rows of a split.

        Raises:
            ConfigError: There is no such split.
        """
        data = self.rows
        if split not in data.splits and not (split == "train" and not data.splits):
            splits = ", ".join(data.splits) or "no splits"
            raise ConfigError(
                f"[evaluation] split = {echoed(split)}, but {data.name!r} has {splits}"
            )
        part: Dataset = getattr(data, split)
        return part

    def read(self, rows: Any, context: Any = None) -> Dataset:
        """Other rows in the columns, types and levels of training, matched by name.

        Args:
            rows: A file .csv or .parquet, a frame, a `Dataset`, or an array in the order of the
                columns.
            context: Covariates of an array; those of a file or a frame are among its columns.

        Raises:
            ConfigError: A column is missing, or a value is none of the levels of its column.
        """
        if isinstance(rows, Dataset):
            return rows.with_levels(self.schema.levels)
        return new_rows(rows, self.schema, context)
