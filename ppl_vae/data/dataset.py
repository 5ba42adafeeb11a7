"""What was observed: the data, what is missing of it, its covariates, its names and its splits."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.checks import coords_of, covariates, labels_of, picture, refuse, same_rows
from ppl_vae.data.splits import count, disjoint, random_rows
from ppl_vae.data.tables import table

__all__ = ["Dataset", "as_dataset"]

Binarize = Literal["dynamic", "static", "threshold"]
BINARIZE = ("dynamic", "static", "threshold")


class Dataset:
    """Observed data x with what is missing, covariates c, names, and splits.

    NaN in x means missing; a row may be missing altogether. `labels` are for colouring only: nothing is fitted to them.
    Binarisation draws each entry as Bernoulli(grey value), for the whole set before any split, so that a datum has the
    same evaluation bits in every split and subset. Not for data that do not fit in memory. No paper for the class;
    dynamic binarisation is that of the reference.

    Args:
        x: The observations: NumPy, torch, nested lists, a pandas DataFrame (columns name the features, the index the
            data) or an xarray DataArray (its dims and coords are kept; the first dim, or "datum", runs over the data).
        context: Covariates, complete: (N, C), or (N,) for one.
        labels: One label per datum.
        feature_names: Names of the features, for one-dimensional events.
        datum_names: Names of the data.
        binarize: "dynamic" (drawn once for evaluation, afresh by `draw` for training), "static" (drawn once),
            "threshold" (x >= 0.5), or None.
        splits: Row numbers by split name ("train", "valid", "test").
        seed: Where the evaluation bits come from.
        name: What the set is called in tables and plots.
        image_shape: How to draw one datum as a picture; two- and three-dimensional events need none.
        dtype: Floating type of x and context.

    Shape:
        x (N, *event); context (N, C); labels (N,); mask (N, *event)

    Raises:
        TypeError: Something else than numbers in x or context; a pandas column is named.
        ValueError: Infinite x, incomplete context, rows that do not match, or grey values outside [0, 1] with
            `binarize`; value, row and feature are named.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, section 5.

    Example:
        >>> data = Dataset([[0.0, 1.0], [float("nan"), 0.5]], feature_names=["height", "weight"])
        >>> data.event_shape, data.mask[1].tolist()
        (torch.Size([2]), [False, True])
    """

    def __init__(
        self,
        x: Any,
        *,
        context: Any = None,
        labels: Any = None,
        feature_names: Any = None,
        datum_names: Any = None,
        binarize: Binarize | None = None,
        splits: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "data",
        image_shape: tuple[int, ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        observed = table(x, dtype)
        self.x: Tensor = observed.values
        self.name, self.seed, self.binarize = name, seed, binarize
        self.dims: tuple[str, ...] = observed.dims
        self.coords: dict[str, np.ndarray] = coords_of(observed, datum_names, feature_names)
        self.image_shape = picture(image_shape, self.event_shape)
        self.context, self.context_names = covariates(context, self.x)
        self.labels = labels_of(labels, len(self))
        same_rows(x, context=context, labels=labels)
        self._refuse(self.x.isinf(), "x takes finite numbers, and NaN for missing")
        self.intensity: Tensor | None = None  # the grey values behind the bits
        if binarize is not None:
            self._binarize()
        self.splits: dict[str, np.ndarray] = disjoint(splits or {}, len(self))
        self._parts: dict[str, Dataset] = {}

    @property
    def mask(self) -> Tensor:
        """True where x was observed."""
        return ~self.x.isnan()

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""
        return self.x.shape[1:]

    @property
    def train(self) -> "Dataset":
        """The training data; all of them when there are no splits."""
        return self._part("train") if self.splits else self

    @property
    def valid(self) -> "Dataset":
        """The validation data."""
        return self._part("valid")

    @property
    def test(self) -> "Dataset":
        """The held-out data."""
        return self._part("test")

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Any) -> "Dataset":
        rows = np.atleast_1d(np.arange(len(self))[index.cpu().numpy() if isinstance(index, Tensor) else index])
        if not rows.size:
            raise ValueError(f"the index {index!r} selects none of the {len(self)} rows of {self.name!r}")
        return self._rows(rows)

    def __repr__(self) -> str:
        facts = self.describe()
        parts = [f"{len(self)} x {facts['event_shape']}"]
        parts += [f"{facts['missing']:.1%} missing"] * (facts["missing"] > 0)
        parts += [f"context={list(self.context_names)}"] * (self.context is not None)
        parts += [f"binarize={self.binarize!r}"] * (self.binarize is not None)
        parts += [" / ".join(f"{name} {size}" for name, size in facts["splits"].items())] * bool(self.splits)
        return f"Dataset({self.name!r}, {', '.join(parts)})"

    def describe(self) -> dict[str, Any]:
        """The facts of the data set, for a table. No paper.

        Returns:
            name, num_data, event_shape, missing (share), range (of what was observed), context (names), labels (how
            many different ones), binarize, splits (sizes).

        Example:
            >>> Dataset([[0.0, 1.0], [2.0, float("nan")]]).describe()["missing"]
            0.25
        """
        mask = self.mask
        seen = self.x[mask]
        return {
            "name": self.name,
            "num_data": len(self),
            "event_shape": tuple(self.event_shape),
            "missing": 1 - mask.sum().item() / mask.numel(),
            "range": (seen.min().item(), seen.max().item()) if seen.numel() else (float("nan"), float("nan")),
            "context": list(self.context_names),
            "labels": 0 if self.labels is None else len(np.unique(self.labels)),
            "binarize": self.binarize,
            "splits": {name: len(rows) for name, rows in self.splits.items()},
        }

    def split(self, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> "Dataset":
        """The same data with random train, validation and test rows; former splits are forgotten.

        The test rows are drawn first, so they depend on `test` and `seed` alone. Not for data whose neighbours are
        near copies (films, panels): split those by block with `splits=`. No paper.

        Args:
            valid: A fraction of all rows when a float below 1, else a number of rows; 0 for no validation rows.
            test: The same for the test rows.
            seed: Where the random rows come from.

        Raises:
            ValueError: Nothing would be left to train on.

        Example:
            >>> Dataset(torch.zeros(10, 2)).split(valid=2, test=0.3).describe()["splits"]
            {'train': 5, 'valid': 2, 'test': 3}
        """
        num_valid, num_test = (count(share, len(self), what) for share, what in ((valid, "valid"), (test, "test")))
        if num_valid + num_test >= len(self):
            raise ValueError(f"valid={num_valid} and test={num_test} rows leave none of {len(self)} to train on")
        rest, held_out = random_rows(np.arange(len(self)), num_test, seed)
        train, validation = random_rows(rest, num_valid, seed)
        return self.with_splits({"train": train, "valid": validation, "test": held_out})

    def with_splits(self, splits: Mapping[str, Any]) -> "Dataset":
        """The same data with these rows in these splits; an empty split is dropped. No paper.

        Raises:
            ValueError: A row is in two splits or does not exist.

        Example:
            >>> len(Dataset(torch.zeros(4, 2)).with_splits({"train": [0, 1], "test": [3]}).test)
            1
        """
        return self._with(splits=disjoint(splits, len(self)))

    def draw(self, generator: torch.Generator) -> Tensor:
        """The training view of x: fresh bits with `binarize="dynamic"`, else x itself.

        Args:
            generator: Where the bits come from.

        References:
            Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, section 5.

        Example:
            >>> grey = Dataset(torch.full((2, 3), 0.5), binarize="dynamic")
            >>> grey.draw(torch.Generator().manual_seed(1)).shape
            torch.Size([2, 3])
        """
        if self.binarize != "dynamic" or self.intensity is None:
            return self.x
        return _bits(self.intensity, generator)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dataset":
        """The same data on another device or in another floating type. No paper.

        Example:
            >>> Dataset(torch.zeros(4, 2)).to(dtype=torch.float64).x.dtype
            torch.float64
        """
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype {dtype} cannot hold NaN for missing values: use torch.float32 or torch.float64")
        tensors = {"x": self.x, "context": self.context, "intensity": self.intensity}
        return self._with(**{k: v if v is None else v.to(device=device, dtype=dtype) for k, v in tensors.items()})

    def flatten(self) -> "Dataset":
        """The same data with one-dimensional events; `image_shape` still says how to draw them. No paper.

        Example:
            >>> flat = Dataset(torch.zeros(3, 4, 5)).flatten()
            >>> flat.event_shape, flat.image_shape
            (torch.Size([20]), (4, 5))
        """
        if len(self.event_shape) == 1:
            return self
        coords = {self.dims[0]: self.coords[self.dims[0]], "feature": np.arange(self.event_shape.numel())}
        intensity = None if self.intensity is None else self.intensity.flatten(1)
        dims = (self.dims[0], "feature")
        return self._with(x=self.x.flatten(1), intensity=intensity, dims=dims, coords=coords)

    def _binarize(self) -> None:
        if self.binarize not in BINARIZE:
            raise ValueError(f"binarize={self.binarize!r} is unknown: one of {', '.join(map(repr, BINARIZE))} or None")
        self._refuse(
            (self.x < 0) | (self.x > 1), "binarize takes grey values in [0, 1]; divide by the largest (255 for bytes)"
        )
        self.intensity = self.x
        if self.binarize == "threshold":
            self.x = torch.where(self.x.isnan(), self.x, (self.x >= 0.5).to(self.x.dtype))
        else:
            self.x = _bits(self.x, torch.Generator().manual_seed(self.seed))

    def _refuse(self, bad: Tensor, why: str) -> None:
        refuse(bad, self.x, self.coords[self.dims[1]], why)

    def _part(self, name: str) -> "Dataset":
        if name not in self.splits:
            raise ValueError(
                f"{self.name!r} has no {name} rows: make them with data.split(valid=0.1, test=0.1, seed=0)"
            )
        if name not in self._parts:
            self._parts[name] = self._rows(self.splits[name])
        return self._parts[name]

    def _rows(self, rows: np.ndarray) -> "Dataset":
        index = torch.from_numpy(rows).to(self.x.device)
        return self._with(
            x=self.x[index],
            context=None if self.context is None else self.context[index],
            intensity=None if self.intensity is None else self.intensity[index],
            labels=None if self.labels is None else self.labels[rows],
            coords=self.coords | {self.dims[0]: self.coords[self.dims[0]][rows]},
            splits={},
        )

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes, _parts={})
        return other


def as_dataset(data: Any, context: Any = None) -> Dataset:
    """A Dataset as it is, anything else wrapped in one. No paper.

    Args:
        data: A Dataset, or what its constructor takes as x.
        context: Covariates for x; a Dataset brings its own.

    Raises:
        ValueError: Covariates beside a Dataset.

    Example:
        >>> as_dataset(torch.zeros(3, 2))
        Dataset('data', 3 x (2,))
    """
    if not isinstance(data, Dataset):
        return Dataset(data, context=context, dtype=data.dtype if _is_float(data) else torch.float32)
    if context is not None:
        raise ValueError(
            f"{data.name!r} is a Dataset and carries its own context: give Dataset(x, context=...) instead"
        )
    return data


def _is_float(data: Any) -> bool:
    return isinstance(data, Tensor) and data.is_floating_point()


def _bits(intensity: Tensor, generator: torch.Generator) -> Tensor:
    # float32 uniforms for every dtype: one seed, the same bits
    uniform = torch.rand(intensity.shape, generator=generator, device=generator.device, dtype=torch.float32)
    bits = uniform.to(intensity.device).lt_(intensity).to(intensity.dtype)  # in place: images are many
    return bits.masked_fill_(intensity.isnan(), float("nan"))
