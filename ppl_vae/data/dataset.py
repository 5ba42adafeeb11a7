"""Data sets: observations, missing values, covariates, names and splits."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import as_pandas, check_floating, index_of, table
from ppl_vae.data.binarize import BINARIZE, Binarize, drawn, thresholded
from ppl_vae.data.description import facts, in_words
from ppl_vae.data.parts import Altered, Parted
from ppl_vae.data.rounding import tell_rounding, tell_rounding_of
from ppl_vae.data.splits import disjoint, rows_at
from ppl_vae.data.streaming import GREY, INFINITE, Rows, blocks, in_file, table_in_file
from ppl_vae.data.tables.covariates import Covariates, read_covariates
from ppl_vae.data.tables.frames import apart, coded
from ppl_vae.data.tables.layout import Layout, refuse_two_meanings
from ppl_vae.data.tables.levels import check_names, given_levels
from ppl_vae.data.tables.source import Source
from ppl_vae.data.validation import (
    check_settings,
    coords_of,
    further_arguments,
    labels_of,
    moved,
    picture,
    refuse,
    same_rows,
    weights_of_rows,
)
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, one_line, one_of

__all__ = ["Dataset", "as_dataset"]

HELD = ("x", "intensity", "context", "weights", "args")  # a row for each observation


class Dataset(Altered, Parted):
    """Observations x with missing values, covariates c, names, and splits.

    NaN in x means missing; a whole row may be missing. `labels` are for colouring only; nothing is
    fitted to them. Binarisation draws each entry as Bernoulli(grey value), for the whole data set
    before any split, so a row has the same evaluation bits in every split and subset. Dynamic
    binarisation is that of the reference. A memory map or zarr array stays in its file: `x` is then
    its `Rows`, an index (`data[:1000]`) reads rows into memory, and each epoch's bits are drawn as
    rows are read.

    Rows of arrays are matched by position; objects of pandas or xarray must have the labels of x.

    Args:
        x: The observations: NumPy, torch, nested lists, a pandas DataFrame (columns name the
            features, the index the rows; the levels of a MultiIndex are joined; categories and
            strings become codes 0, 1, ... of `levels`), an xarray DataArray (its dims and coords
            are kept; the first dim, or "datum", runs over the rows), a table of polars or pyarrow
            (read as the same frame of pandas), a sparse tensor or SciPy matrix (made dense: its
            zeros are zeros), a `numpy.memmap` or a zarr array. Several arrays that would be matched
            by position (`TensorDataset`, tuples) are refused.
        context: Complete covariates: (N, C), or (N,) for one; a frame, whose categories become an
            indicator for each level; or names of columns of the frame x, which are removed from it.
        args: Further arguments of a custom Pyro program by name: arrays with a row for each
            observation (lengths, masks, sequences; integers stay integers), and constants. A list
            or tuple with an entry for each row may be either, and is refused.
        labels: One label per row, or the name of a column of the frame x.
        weights: Sampling weights, a positive number for each row or the name of a column of the
            frame x: N is then their sum, in the objective of `fit`, and means of log p(x) over rows
            are weighted. Starting values and units (`start=`) count all rows alike.
        feature_names: Names of the features, for one-dimensional events.
        datum_names: Names of the rows.
        binarize: "dynamic" (drawn once for evaluation, afresh by `draw` for training), "static"
            (drawn once), "threshold" (x >= 0.5), or None.
        splits: Row numbers by split name ("train", "valid", "test").
        seed: Seed of the evaluation bits.
        name: Name in tables and plots.
        image_shape: Shape of one row as a picture; not needed for two- and three-dimensional
            events.
        dtype: Floating type of x and context.
        scale: Divisor of x: 255 turns bytes into grey values.
        levels: Levels of categories by column, in their order, instead of those found.

    Shape:
        x (N, *event); context (N, C); args (N, ...) each; labels (N,); mask (N, *event)

    Raises:
        TypeError: x or context contains something other than numbers (a pandas column is named), or
            several arrays.
        ValueError: x is infinite, context is incomplete, rows do not match, or grey values are
            outside [0, 1] with `binarize`; value, row and feature are named.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5.

    Example:
        >>> data = Dataset([[0.0, 1.0], [float("nan"), 0.5]], feature_names=["height", "weight"])
        >>> data.event_shape, data.mask[1].tolist()
        (torch.Size([2]), [False, True])
    """

    args: dict[str, Tensor]
    constants: dict[str, Any]
    _whole: "Dataset | None" = None  # all rows as given, of which these are some

    def __init__(
        self,
        x: Any,
        *,
        context: Any = None,
        args: Mapping[str, Any] | None = None,
        labels: Any = None,
        weights: Any = None,
        feature_names: Any = None,
        datum_names: Any = None,
        binarize: Binarize | None = None,
        splits: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "data",
        image_shape: tuple[int, ...] | None = None,
        dtype: torch.dtype = torch.float32,
        scale: float = 1.0,
        levels: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        check_settings(scale, dtype, seed, name)
        known = given_levels(levels)
        given = x = as_pandas(x)
        x, context, labels, weights = apart(x, context, labels, weights)
        read_from = x
        frame = coded(x, known)
        x = frame.numbers
        if in_file(x):
            observed = table_in_file(x, dtype, scale)
        else:
            observed = table(x, dtype)
            observed.values.div_(scale)
        self.x: Tensor = observed.values
        self.source: Source | None = None  # where the numbers of x are those of what was given
        if scale == 1 and binarize is None and not in_file(x):
            self.source = Source.of(given, read_from, self.x)
        self.name = name
        self.seed = seed
        self.binarize = binarize
        self.dims: tuple[str, ...] = observed.dims
        self.coords: dict[str, np.ndarray] = coords_of(observed, datum_names, feature_names)
        self._rows_are_named = datum_names is not None or self.dims[0] in observed.coords
        self.image_shape = picture(image_shape, self.event_shape)
        self.context: Tensor | None = None
        self._covariates = Covariates(Layout.of(coded(()), (), 0, "context"), are_named=False)
        if context is not None:
            self.context, self._covariates = read_covariates(context, self.x, known)
        features_are_named = feature_names is not None or self.dims[1] in observed.coords
        self._x_is_named = features_are_named and len(self.event_shape) == 1
        self.labels = labels_of(labels, len(self))
        self.label_name = str(getattr(labels, "name", None) or "label")  # of a Series
        self.weights: Tensor | None = weights_of_rows(weights, self.x, self.row_labels)
        index = same_rows(x, datum_names, context=context, labels=labels, weights=weights)
        self.args, self.constants = further_arguments(args, self.x, index)
        if not in_file(self.x):
            self._refuse(self.x.isinf(), INFINITE)
        # In standard deviations of the column that lost most; 0.0 if nothing visible was lost.
        self.rounding = tell_rounding_of(x, self.x, self.coords[self.dims[1]], scale=scale)
        self._layout = Layout.of(frame, self._features, self.event_shape.numel())
        check_names(known, *(layout.names for layout in self._layouts))
        refuse_two_meanings(self._layouts)
        if known:
            self.x, self._layout = self._layout.recoded(self.x, known, self.row_labels)
        if self.feature_levels and scale != 1:
            raise ValueError(f"scale={scale} divides codes of categories: leave it out")
        self.intensity: Tensor | None = None  # the grey values behind the bits
        if binarize is not None:
            self._binarize()
        self.splits: dict[str, np.ndarray] = disjoint(splits, len(self), index_of(x))
        self._parts: dict[str, Dataset] = {}

    @property
    def mask(self) -> Tensor:
        """True where x was observed."""
        return ~self.x.isnan()

    @property
    def sum_of_weights(self) -> float:
        """Sum of the weights of the rows; without weights the number of rows."""
        if self.weights is None:
            return float(len(self))
        return self.weights.double().sum().item()

    @property
    def has_missing(self) -> bool:
        """Whether any value is missing; a file of floating numbers is read as a whole."""
        may_miss = not isinstance(self.x, Rows) or self.x.may_miss
        return may_miss and any(bool(part.isnan().any()) for part in blocks(self.x))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Any) -> "Dataset":
        rows = rows_at(index, len(self), self.name, self.given_index)
        if not rows.size:
            raise ValueError(
                f"the index {index!r} selects none of the {len(self)} rows of {self.name!r}"
            )
        return self._rows(rows).in_memory()

    def __repr__(self) -> str:
        return f"Dataset({in_words(self)})"

    def describe(self) -> dict[str, Any]:
        """The facts of the data set, for a table; a file is read as a whole.

        Returns:
            name, num_data, event_shape, missing (share), range (of observed values), context
            (names), labels (number of different ones), binarize, splits (sizes).

        Example:
            >>> Dataset([[0.0, 1.0], [2.0, float("nan")]]).describe()["missing"]
            0.25
        """
        return facts(self)

    def draw(self, generator: torch.Generator) -> Tensor:
        """x for training: fresh bits with `binarize="dynamic"`, else x itself.

        The bits of rows in a file are drawn as the rows are read.

        Args:
            generator: Random generator of the bits.

        References:
            Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, section 5.

        Example:
            >>> grey = Dataset(torch.full((2, 3), 0.5), binarize="dynamic")
            >>> grey.draw(torch.Generator().manual_seed(1)).shape
            torch.Size([2, 3])
        """
        if self.binarize != "dynamic" or self.intensity is None:
            return self.x
        if isinstance(self.x, Rows):
            return self.x.redrawn(generator)
        return drawn(self.intensity, generator)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Dataset":
        """The same data on another device or in another floating type.

        Example:
            >>> Dataset(torch.zeros(4, 2)).to(dtype=torch.float64).x.dtype
            torch.float64
        """
        if dtype is not None:
            check_floating(dtype)
        try:
            other = self._mapped(lambda values: moved(values, device, dtype))
        except (RuntimeError, TypeError, AssertionError) as error:
            raise ArgumentError(
                f"device={echoed(device)} cannot be used here: {one_line(error)}"
            ) from error
        names = {"x": self.coords[self.dims[1]], "context": np.asarray(self.context_names)}
        for what, columns in names.items():
            given, kept = getattr(self, what), getattr(other, what)
            if isinstance(given, Tensor) and kept.dtype.itemsize < given.dtype.itemsize:
                lost = tell_rounding(given, kept, columns, what)
                other.rounding = max(other.rounding, lost * (what == "x"))
        if other.source is None and isinstance(self.x, Tensor):
            other.source = Source.of(self.x.cpu(), self.x, other.x)
        return other

    def in_memory(self) -> "Dataset":
        """The same data in memory, read from their file if they are in one; x is then a tensor.

        Example:
            >>> data = Dataset(torch.zeros(3, 2))
            >>> data.in_memory() is data
            True
        """
        if not isinstance(self.x, Rows):
            return self
        return self._mapped(lambda values: values[:])

    def flatten(self) -> "Dataset":
        """The same data with one-dimensional events; `image_shape` keeps the shape of the picture.

        Example:
            >>> flat = Dataset(torch.zeros(3, 4, 5)).flatten()
            >>> flat.event_shape, flat.image_shape
            (torch.Size([20]), (4, 5))
        """
        if len(self.event_shape) == 1:
            return self
        first = self.dims[0]
        features = np.arange(self.event_shape.numel())
        coords = {first: self.coords[first], "feature": features}
        layout = replace(self._layout, names=tuple(features))
        changes: Any = {"dims": (first, "feature"), "coords": coords, "_layout": layout}
        held = ("x", "intensity")
        changes |= {"_whole": None, "source": None}
        return self._mapped(lambda values: values.flatten(1), held, **changes)

    def _binarize(self) -> None:
        one_of(self.binarize, "binarize", BINARIZE)
        self.intensity = self.x
        if isinstance(self.x, Rows):
            self.x = replace(self.x, binarize=self.binarize, seed=self.seed)
            return
        self._refuse((self.x < 0) | (self.x > 1), GREY)
        if self.binarize == "threshold":
            self.x = thresholded(self.x)
        else:
            self.x = drawn(self.x, torch.Generator().manual_seed(self.seed))

    def _refuse(self, bad: Tensor, why: str) -> None:
        refuse(bad, self.x, self.coords[self.dims[1]], why, where=self.row_at)

    def _rows(self, rows: np.ndarray) -> "Dataset":
        index = torch.from_numpy(rows).to(self.x.device)
        return self._mapped(
            lambda values: values.index_select(0, index),
            labels=None if self.labels is None else self.labels[rows],
            source=None if self.source is None else self.source.taken(rows),
            coords=self.coords | {self.dims[0]: self.coords[self.dims[0]][rows]},
            splits={},
        )

    def _mapped(
        self, function: Callable[[Any], Any], held: Sequence[str] = HELD, **changes: Any
    ) -> Self:
        """A copy with a function of x, of the grey values, of covariates and of weights."""
        values = {name: getattr(self, name) for name in held if name != "args"}
        new = {name: function(each) for name, each in values.items() if each is not None}
        if "args" in held:
            new["args"] = {name: function(each) for name, each in self.args.items()}
        return self._with(**new, **changes)

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        whole = self if self._whole is None else self._whole
        vars(other).update({"_whole": whole} | changes, _parts={})
        return other


def as_dataset(data: Any, context: Any = None) -> Dataset:
    """A Dataset unchanged, anything else as a new one.

    Args:
        data: A Dataset, or anything that its constructor accepts as x.
        context: Covariates for x; a Dataset has its own.

    Raises:
        ValueError: Covariates are given together with a Dataset.

    Example:
        >>> as_dataset(torch.zeros(3, 2))
        Dataset('data', 3 x (2,))
    """
    if not isinstance(data, Dataset):
        is_float = isinstance(data, Tensor | Rows) and data.dtype.is_floating_point
        return Dataset(data, context=context, dtype=data.dtype if is_float else torch.float32)
    if context is not None:
        raise ValueError(
            f"{data.name!r} is a Dataset and has its own context: give Dataset(x, context=...) "
            "instead"
        )
    return data
