"""Copies of a data set: its training, validation and test rows, folds; other values of x."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch

from ppl_vae.data.arrays import as_array
from ppl_vae.data.splits import count, disjoint, random_rows
from ppl_vae.data.tables.columns import in_order
from ppl_vae.data.tables.tabular import Tabular
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import generator

__all__ = ["Altered", "Parted"]


class Parted:
    """The parts of a `Dataset`.

    Example:
        >>> from ppl_vae.data import Dataset
        >>> isinstance(Dataset([[0.0]]), Parted)
        True
    """

    name: str
    splits: dict[str, np.ndarray]
    _parts: dict[str, Any]

    def __len__(self) -> int:
        raise NotImplementedError

    def _with(self, **changes: Any) -> Self:
        """A copy with these attributes."""
        raise NotImplementedError

    def _rows(self, rows: np.ndarray) -> Self:
        """Some of the rows."""
        raise NotImplementedError

    @property
    def train(self) -> Self:
        """The training rows; all rows if there are no splits."""
        return self._part("train") if self.splits else self

    @property
    def valid(self) -> Self:
        """The validation rows."""
        return self._part("valid")

    @property
    def test(self) -> Self:
        """The held-out rows."""
        return self._part("test")

    def split(self, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Self:
        """The same data with random train, validation and test rows; former splits are forgotten.

        The test rows are drawn first, so they depend on `test` and `seed` alone. Data in which
        neighbours are near copies (films, panels) should be split by block with `splits=`.

        Args:
            valid: A fraction of all rows if it is a float below 1, else a number of rows; 0 for no
                validation rows.
            test: The same for the test rows.
            seed: Seed of the random rows.

        Raises:
            ValueError: No rows would be left to train on.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset(np.zeros((10, 2))).split(valid=2, test=0.3).describe()["splits"]
            {'train': 5, 'valid': 2, 'test': 3}
        """
        num_valid = count(valid, len(self), "valid")
        num_test = count(test, len(self), "test")
        if num_valid + num_test >= len(self):
            raise ValueError(
                f"valid={num_valid} and test={num_test} rows leave none of {len(self)} to train on"
            )
        rest, held_out = random_rows(np.arange(len(self)), num_test, seed)
        train, validation = random_rows(rest, num_valid, seed)
        return self.with_splits({"train": train, "valid": validation, "test": held_out})

    def folds(self, num_folds: int = 5, *, valid: float = 0.0, seed: int = 0) -> list[Self]:
        """The data with each of K random folds as test rows in turn, for cross-validation.

        Every row is a test row once, which makes full use of few rows; a model has to be trained K
        times, from the start each time. `ppl_vae.evidence.pooled` joins the evidence of the folds,
        and `compare_models` compares models on it. Its standard errors treat the rows as
        independent: they do not allow for the rows that the K trainings share, for which one
        cross-validation gives no unbiased estimate.

        Args:
            num_folds: Number of folds K.
            valid: Validation rows from the other rows, a fraction or a number, as in `split`.
            seed: Seed of the random rows; the same folds for every model.

        Raises:
            ValueError: There are fewer rows than folds.

        References:
            Bengio and Grandvalet (2004), No unbiased estimator of the variance of K-fold
            cross-validation, JMLR 5.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> [len(fold.test) for fold in Dataset(np.zeros((11, 2))).folds(3)]
            [4, 4, 3]
        """
        whole_number(num_folds, "num_folds", at_least=2)
        whole_number(seed, "seed", at_least=0)
        if num_folds > len(self):
            raise ValueError(f"num_folds={num_folds} is more than the {len(self)} rows: give fewer")
        order = generator(seed).permutation(len(self))
        parts = [np.sort(part) for part in np.array_split(order, num_folds)]
        found = []
        for test in parts:
            rest = np.setdiff1d(order, test)
            train, validation = random_rows(rest, count(valid, len(rest), "valid"), seed)
            found.append(self.with_splits({"train": train, "valid": validation, "test": test}))
        return found

    def with_splits(self, splits: Mapping[str, Any]) -> Self:
        """The same data with these rows in these splits; an empty split is dropped.

        Raises:
            ValueError: A row is in two splits or does not exist.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> len(Dataset(np.zeros((4, 2))).with_splits({"train": [0, 1], "test": [3]}).test)
            1
        """
        whole: Any = self
        return self._with(splits=disjoint(splits, len(self), whole.given_index))

    def _part(self, name: str) -> Self:
        if name not in self.splits:
            raise ValueError(
                f"{self.name!r} has no {name} rows: make them with data.split(valid=0.1, test=0.1, "
                "seed=0)"
            )
        if name not in self._parts:
            self._parts[name] = self._rows(self.splits[name])
        return self._parts[name]


class Altered(Tabular):
    """Copies of a `Dataset` that differ in x or in weights.

    Example:
        >>> from ppl_vae.data import Dataset
        >>> isinstance(Dataset([[0.0]]), Altered)
        True
    """

    def _with(self, **changes: Any) -> Self:
        """A copy with these attributes."""
        raise NotImplementedError

    def hiding(self, hidden: Any) -> Self:
        """The same data with these entries missing, the kinds of its columns as they were.

        Args:
            hidden: Booleans in the shape of x; True is missing. A frame has the columns of x.

        Raises:
            ValueError: They are no booleans, or have another shape, columns or rows.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset([[0.0, 1.0]]).hiding([[False, True]]).x.tolist()
            [[0.0, nan]]
        """
        values = self._entries(hidden, "hidden", "b", "booleans")
        mask = torch.tensor(values, device=self.x.device)
        return self._with(x=self.x.masked_fill(mask, torch.nan), source=None)

    def with_x(self, x: Any) -> Self:
        """The same rows with other values of x, such as noisy ones.

        Args:
            x: Numbers in the shape of x; NaN is missing. A frame has the columns of x.

        Raises:
            ValueError: They are no finite numbers, or have another shape, columns or rows.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset([[0.0, 1.0]], feature_names=["a", "b"]).with_x([[0.5, 0.5]]).feature_names
            ('a', 'b')
        """
        values = self._entries(x, "x", "biuf", "finite numbers")
        if np.isinf(values).any():
            raise ArgumentError("x is infinite: give finite numbers, NaN for what is missing")
        given = torch.tensor(values, dtype=self.x.dtype, device=self.x.device)
        return self._with(x=given, source=None)

    def unweighted(self) -> Self:
        """The same data without weights.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset([[0.0], [1.0]], weights=[1.0, 2.0]).unweighted().sum_of_weights
            2.0
        """
        return self._with(weights=None)

    def _entries(self, given: Any, what: str, kinds: str, words: str) -> np.ndarray:
        """A value for each entry of x, matched by labels and columns where it has any."""
        self.refuse_other_index(given, what)
        values = as_array(in_order(given, self.feature_names, what))
        if values.dtype.kind not in kinds or values.shape != tuple(self.x.shape):
            raise ArgumentError(
                f"{what} has shape {values.shape} and type {values.dtype}: give {words} of the "
                f"shape of x, {tuple(self.x.shape)}"
            )
        return np.ascontiguousarray(values)  # torch takes no reversed views
