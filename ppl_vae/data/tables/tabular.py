"""The columns of a data set: names, kinds, levels, and the way back to a frame."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import row_at, with_named_columns
from ppl_vae.data.streaming import Rows, blocks, in_file
from ppl_vae.data.tables.covariates import Covariates, read_covariates
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.tables.layout import Layout, ends, kinds_of
from ppl_vae.data.tables.levels import given_levels
from ppl_vae.data.tables.schema import Schema
from ppl_vae.data.tables.source import Source
from ppl_vae.data.tables.text_files import Missing
from ppl_vae.data.validation import as_array, same_index
from ppl_vae.errors import InFileError
from ppl_vae.runtime.text import echoed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tabular"]


class Tabular:
    """The columns of a `Dataset`.

    Example:
        >>> from ppl_vae.data import Dataset
        >>> isinstance(Dataset([[0.0]]), Tabular)
        True
    """

    x: Tensor
    name: str
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    context: Tensor | None
    source: Source | None
    _layout: Layout
    _covariates: Covariates
    _x_is_named: bool
    _rows_are_named: bool
    _whole: Any
    _missing: Missing = Missing()  # which cells of text files are missing

    def _with(self, **changes: Any) -> Self:
        """A copy with these attributes."""
        raise NotImplementedError

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one observation."""
        return self.x.shape[1:]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of a table, or their numbers; empty for images."""
        return tuple(map(str, self._features))

    @property
    def context_dim(self) -> int:
        """Number of covariates."""
        return 0 if self.context is None else self.context.shape[-1]

    def places_of(self, names: Sequence[str]) -> list[int]:
        """The places of these columns of a table.

        Raises:
            ValueError: There is no such column.
        """
        known = self.feature_names
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"no column {unknown[0]!r} among {', '.join(known)}")
        return [known.index(name) for name in names]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of "x" and "context", if they were given with names."""
        found = {}
        if self._x_is_named:
            found["x"] = self.feature_names
        if self._covariates.are_named:
            found["context"] = self._covariates.names
        return found

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the covariates, as networks are given them, or numbers if they have no names."""
        return self._covariates.names

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Names of the levels, in their order, of each column of x or context with categories."""
        return {name: each for layout in self._layouts for name, each in layout.levels.items()}

    @property
    def feature_levels(self) -> dict[str, tuple[str, ...]]:
        """Those of `levels` that are of columns of x."""
        return dict(self._layout.levels)

    @property
    def types(self) -> tuple[str, ...]:
        """The type in which each column of x was given: bool, integer, float, category, ordered."""
        return self._layout.types

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each column of x, judged from all rows of the set that these are part of.

        "category" and "ordered" have levels. Numbers are "boolean" if all are 0 or 1; "count" if
        they are whole, not negative, and of an integer type; "positive" if all are above 0; else
        "real". Whole numbers of a floating type, as integers with missing values are often read,
        are "count" if the smallest is 0 or 1 and there are three or more different values: counts
        start near zero, rounded measurements elsewhere.
        """
        whole = self if self._whole is None or in_file(self._whole.x) else self._whole
        self._require_table(whole.x, "kinds")
        return kinds_of(whole.x, self._layout.types)

    @property
    def schema(self) -> Schema:
        """What further rows need to be read as these: columns, types, kinds and levels."""
        is_table = len(self.event_shape) == 1
        return Schema(
            name=self.name,
            event_shape=tuple(self.event_shape),
            columns=self._layout if is_table else replace(self._layout, names=(), types=()),
            covariates=self._covariates,
            kinds=self.kinds if is_table and not in_file(self.x) else (),
            is_named=self._x_is_named,
            dtype=str(self.x.dtype).removeprefix("torch."),
            missing=self._missing,
        )

    def with_schema(self, schema: Schema) -> Self:
        """The same numbers, which are in the codes of these levels, under these columns.

        Raises:
            ValueError: x has another number of columns.
        """
        if tuple(self.event_shape) != schema.event_shape:
            raise ValueError(
                f"rows have the shape {tuple(self.event_shape)}, and those of "
                f"{schema.name!r} {schema.event_shape}"
            )
        changes: dict[str, Any] = {"_covariates": schema.covariates, "_missing": schema.missing}
        if schema.columns.names:
            names = np.empty(len(schema.columns.names), dtype=object)
            names[:] = schema.columns.names
            changes["coords"] = self.coords | {self.dims[1]: names}
            changes["_x_is_named"] = schema.is_named
            changes["_layout"] = schema.columns
        other = self._with(**changes)
        if schema.kinds:
            vars(other)["kinds"] = schema.kinds
        return other

    @property
    def constant_features(self) -> tuple[str, ...]:
        """Features whose observed values are all equal, so that a density has no maximum."""
        low, high = ends(blocks(self.x))
        return self.features_where(low == high)

    @property
    def unobserved_features(self) -> tuple[str, ...]:
        """Features that are missing in every row."""
        return self.features_where(ends(blocks(self.x))[0].isnan())

    def features_where(self, chosen: Tensor) -> tuple[str, ...]:
        """Names of the features where this is True, or their places in an image."""
        places = [tuple(place) for place in chosen.nonzero().tolist()]
        names = self.feature_names
        return tuple(names[place[0]] if names else str(place) for place in places)

    def with_levels(self, levels: Mapping[str, Sequence[Any]]) -> Self:
        """The same data with categories in the codes of these levels, matched by name.

        A subset read from a file may have fewer levels and so other codes; `fit`, `log_evidence`
        and all other functions call this with the levels of training. Numbers of a frame are names
        of levels, those of an array are codes.

        Args:
            levels: Names of levels in their order, by column; other columns are unchanged.

        Raises:
            ValueError: A value is not one of these levels; value, row and column are named.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> data = Dataset(pandas.DataFrame({"grade": ["B", "C"]}))
            >>> data.with_levels({"grade": ("A", "B", "C")}).x.tolist()
            [[1.0], [2.0]]
        """
        known = given_levels(levels)
        changes: dict[str, Any] = {}
        if known and not isinstance(self.x, Rows):
            x = self.x if self.source is None else torch.from_numpy(self.exact)
            codes, changes["_layout"] = self._layout.recoded(x, known, self.row_labels)
            changes["x"] = codes.to(self.x)
        if known and self.context is not None:
            context, covariates = self._covariates.recoded(self.context, known, self.row_labels)
            changes |= {"context": context, "_covariates": covariates}
        if not changes:
            return self
        other = self._with(**changes)
        vars(other).pop("kinds", None)
        return other

    def with_context(self, context: Any) -> Self:
        """The same data with other covariates.

        Args:
            context: Values by column, as the columns were given ("female", not an indicator), one
                for all rows or one for each row, with other columns unchanged; or all covariates,
                (N, C). A frame has the index of x.

        Raises:
            ValueError: The data have no covariates, or none of this name or level; the number of
                covariates differs.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> frame = pandas.DataFrame({"x": [0.5, 1.5], "sex": ["female", "male"]})
            >>> data = Dataset(frame, context=["sex"])
            >>> data.with_context({"sex": "male"}).context.tolist()
            [[0.0, 1.0], [0.0, 1.0]]
        """
        if self.context is None:
            raise ValueError(f"{self.name!r} has no covariates: give Dataset(x, context=)")
        context = with_named_columns(context, "context")
        if is_frame(context):
            self.refuse_other_index(context, "context")
            context = dict(context.items())
        if isinstance(context, Mapping):
            for name, value in context.items():
                self.refuse_other_index(value, f"context[{name!r}]")
            changed = self._covariates.changed(self.context, context)
            return self._with(context=changed, source=None)
        if as_array(context).ndim == 0:
            first = self._covariates.layout.names[0]
            raise ValueError(
                f"context is {echoed(context)}: give values by column, as in {{{first!r}: ...}}, "
                f"or all covariates, {tuple(self.context.shape)}"
            )
        inputs, _ = read_covariates(context, self.x, {})
        if inputs.shape != self.context.shape:
            raise ValueError(
                f"context has {inputs.shape[1]} covariates, {self.name!r} has "
                f"{list(self.context_names)}: give these, or values by column"
            )
        return self._with(context=inputs, source=None)

    def to_frame(self, x: Any = None, index: Any = None) -> "pd.DataFrame":
        """x, or other numbers in the same columns, as a frame with the names and types of x.

        Categories have their levels and order; whole numbers and Booleans have a nullable type if a
        value is missing. Draws (S, N, F) have a further level "sample" in their index.

        Args:
            x: Rows (N, F) or draws (S, N, F), such as those of `Model.sample`; None is x itself.
            index: Names of the rows; None takes those of this data set if there are as many.

        Raises:
            ValueError: x is not a table (but images, or rows in a file), has other columns, or
                holds a number that is not the code of a level.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> data = Dataset(pandas.DataFrame({"sex": ["male", None], "age": [41, 39]}))
            >>> data.to_frame()["sex"].tolist(), data.to_frame([[0, 20]])["sex"].tolist()
            (['male', nan], ['male'])
        """
        self._require_table(self.x, "to_frame")
        rows = self.row_labels if index is None else index
        return self._layout.frame(self.x if x is None else x, rows, self.kinds)

    def context_frame(self) -> "pd.DataFrame":
        """The covariates as a frame with their names and types, a column for each category.

        Raises:
            ValueError: The data have no covariates.

        Example:
            >>> import pandas
            >>> from ppl_vae.data import Dataset
            >>> frame = pandas.DataFrame({"x": [0.5, 1.5], "sex": ["female", "male"]})
            >>> Dataset(frame, context=["sex"]).context_frame()["sex"].tolist()
            ['female', 'male']
        """
        if self.context is None:
            raise ValueError(f"{self.name!r} has no covariates: give Dataset(x, context=)")
        columns = self._covariates.columns(self.context)
        layout = self._covariates.layout
        rows = self.coords[self.dims[0]]
        return layout.frame(columns, rows, kinds_of(columns, layout.types))

    @property
    def is_frame(self) -> bool:
        """Whether x came in a frame of pandas."""
        return self._layout.is_frame

    @property
    def index(self) -> Any:
        """The rows' names: the index of the frame if x came from one, with all its levels."""
        found = None if self.source is None else self.source.index
        if found is None and self.is_frame:
            import pandas as pd

            return pd.Index(self.row_labels)
        return self.row_labels if found is None else found

    def refuse_other_index(self, other: Any, what: str) -> None:
        """Refuse an object of pandas or xarray with other rows than x; arrays go by position.

        Args:
            other: What belongs to the rows.
            what: Its name.

        Raises:
            ValueError: The rows of both have labels, which differ; the first such row is named.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset([[0.0], [1.0]]).refuse_other_index([2.0, 3.0], "weights")
        """
        same_index(self.given_index, other, what)

    @property
    def given_index(self) -> Any:
        """The labels of the rows as they were given; None where there are none but numbers."""
        return self.index if self._rows_are_named else None

    @property
    def row_labels(self) -> np.ndarray:
        """The rows' names along the first dim of x: labels, or numbers if they have none."""
        return self.coords[self.dims[0]]

    def row_at(self, row: int) -> str:
        """A row in a message: its position, and its label if it has one.

        Args:
            row: Its position.

        Example:
            >>> from ppl_vae.data import Dataset
            >>> Dataset([[0.0], [1.0]], datum_names=["eve", "bob"]).row_at(1)
            "row 1 ('bob')"
        """
        return row_at(row, self.row_labels)

    @property
    def exact(self) -> np.ndarray:
        """x in float64, with all given digits and categories as codes of `levels`."""
        values = self.x.double().cpu().numpy().copy()
        if self.source is None:
            return values
        if not self.source.is_frame:
            return self.source.numbers(0)
        for place, name in enumerate(self.feature_names):
            if name not in self.levels:
                values[:, place] = self.source.numbers(place)
        return values

    @property
    def _layouts(self) -> list[Layout]:
        """The columns of x, and those of the covariates."""
        return [self._layout, self._covariates.layout]

    @property
    def _features(self) -> tuple[Any, ...]:
        """Names of the columns of a table; none of images."""
        return tuple(self.coords[self.dims[1]]) if len(self.event_shape) == 1 else ()

    def _require_table(self, x: Tensor, what: str) -> None:
        if in_file(x) or len(self.event_shape) != 1:
            where = "in a file" if in_file(x) else f"of shape {tuple(self.event_shape)}"
            raise (InFileError if in_file(x) else ValueError)(
                f"{what} is for tables in memory, and rows of {self.name!r} are {where}: give "
                "data[:1000] for some rows of a file, data.flatten() for images"
            )
