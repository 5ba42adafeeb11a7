"""The columns of a data set: names, kinds, levels, and the way back to a frame."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.streaming import Rows, blocks, in_file
from ppl_vae.data.tables.kinds import ends, kinds_of
from ppl_vae.data.tables.layout import Layout
from ppl_vae.data.tables.levels import given_levels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tabular"]


class Tabular:
    """What a `Dataset` knows of the columns of x.

    Example:
        >>> from ppl_vae.data import Dataset
        >>> isinstance(Dataset([[0.0]]), Tabular)
        True
    """

    x: Tensor
    name: str
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    context_names: tuple[str, ...]
    _layout: Layout
    _named: dict[str, bool]
    _whole: Any

    def _with(self, **changes: Any) -> Self:
        """A copy with these attributes."""
        raise NotImplementedError

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one observation."""
        return self.x.shape[1:]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of "x" and "context", where they came with names."""
        names = {"x": tuple(map(str, self.coords[self.dims[1]])), "context": self.context_names}
        return {what: names[what] for what, is_named in self._named.items() if is_named}

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Names of the levels, in their order, of each column of x that holds categories."""
        return dict(self._layout.levels)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each column of x, judged from all rows of the set that these are part of.

        "category" and "ordered" have levels. Numbers are "boolean" if none is other than 0 and 1;
        "count" if they are whole, not negative, and of an integer type; "positive" if all are above
        0; else "real". Whole numbers of a floating type, as integers with missing values are often
        read, are "count" if the smallest is 0 or 1 and three or more differ: counts start near
        zero, rounded measurements elsewhere.
        """
        whole = self if self._whole is None or in_file(self._whole.x) else self._whole
        self._require_table(whole.x, "kinds")
        return kinds_of(whole.x, self._layout.types)

    @property
    def constant_features(self) -> tuple[str, ...]:
        """Features whose observed values are all equal: a density has no maximum there."""
        low, high = ends(blocks(self.x))
        return self._features_where(low == high)

    @property
    def unobserved_features(self) -> tuple[str, ...]:
        """Features that are missing in every row."""
        return self._features_where(ends(blocks(self.x))[0].isnan())

    def with_levels(self, levels: Mapping[str, Sequence[Any]]) -> Self:
        """The same data with categories in the codes of these levels, matched by name.

        A subset read from a file has fewer levels, and so other codes; `fit`, `log_evidence` and
        all else call this with the levels of training. Numbers of a frame are names of levels,
        those of an array codes.

        Args:
            levels: Names of levels in their order, by column; columns that are not here are kept.

        Raises:
            ValueError: A value is none of these levels; value, row and column are named.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> data = Dataset(pandas.DataFrame({"grade": ["B", "C"]}))
            >>> data.with_levels({"grade": ("A", "B", "C")}).x.tolist()
            [[1.0], [2.0]]
        """
        known = given_levels(levels)
        if isinstance(self.x, Rows) or not known:
            return self
        x, layout = self._layout.recoded(self.x, known)
        other = self._with(x=x, _layout=layout)
        vars(other).pop("kinds", None)
        return other

    def to_frame(self, x: Any = None) -> "pd.DataFrame":
        """x, or other numbers in the same columns, as a frame with the names and types of x.

        Categories get their levels and order, and whole numbers and Booleans a nullable type where
        a value is missing. Draws (S, N, F) have a further level "sample" in their index. The rows
        have the names of this set if there are as many.

        Args:
            x: Rows (N, F) or draws (S, N, F), such as those of `Model.sample`; None is x itself.

        Raises:
            ValueError: x is no table (images, rows in a file), has other columns, or holds a number
                that is no code of a level.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> data = Dataset(pandas.DataFrame({"sex": ["male", None], "age": [41, 39]}))
            >>> data.to_frame()["sex"].tolist(), data.to_frame([[0, 20]])["sex"].tolist()
            (['male', nan], ['male'])
        """
        self._require_table(self.x, "to_frame")
        rows = self.coords[self.dims[0]]
        return self._layout.frame(self.x if x is None else x, rows, self.kinds)

    @property
    def _features(self) -> tuple[Any, ...]:
        """Names of the columns of a table; none of images."""
        return tuple(self.coords[self.dims[1]]) if len(self.event_shape) == 1 else ()

    def _features_where(self, chosen: Tensor) -> tuple[str, ...]:
        """Names of these features, or their places in an image."""
        places = [tuple(place) for place in chosen.nonzero().tolist()]
        names = self._features
        return tuple(str(names[place[0]] if names else place) for place in places)

    def _require_table(self, x: Tensor, what: str) -> None:
        if in_file(x) or len(self.event_shape) != 1:
            where = "in a file" if in_file(x) else f"of shape {tuple(self.event_shape)}"
            raise ValueError(
                f"{what} is for tables in memory, and rows of {self.name!r} are {where}: give "
                "data[:1000] for some rows of a file, data.flatten() for images"
            )
