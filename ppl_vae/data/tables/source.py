"""The source of x at full precision: the frame with all its columns, or the array."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import table
from ppl_vae.data.tables.frames import is_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """The frame or the array from which x was read, and the positions of these rows in it.

    x has one floating type and codes of levels; the source has the types, the digits and the
    further columns (covariates, labels, weights) that a completed table keeps.

    Args:
        given: A frame, or an array of float64.
        places: Where the columns of x stand in the frame, (F,); empty for an array.
        rows: The rows, (N,); None is all of them in their order.

    Example:
        >>> Source(np.array([[0.1], [0.2]]), np.arange(0)).taken(np.array([1])).numbers(0)
        array([[0.2]])
    """

    given: Any
    places: np.ndarray
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, given: Any, observed: Any, x: Tensor) -> Self | None:
        """The source of x, or None if x itself keeps every digit of an array.

        Args:
            given: The data as the user gave them, with all columns.
            observed: The same without covariates, labels and weights.
            x: The numbers read from it.
        """
        if hasattr(observed, "to_frame"):  # a Series
            given = observed = observed.to_frame()
        if is_frame(observed):
            # A copy, so that what is written to the frame later does not reach the data set.
            return cls(given.copy(), np.flatnonzero(given.columns.isin(observed.columns)))
        width = getattr(getattr(given, "dtype", None), "itemsize", np.inf)
        if width <= x.dtype.itemsize or x.dtype == torch.float64 or not x.isnan().any():
            return None
        return cls(table(given, torch.float64).values.numpy(), np.arange(0))

    @property
    def is_frame(self) -> bool:
        """Whether x was read from a frame."""
        return is_frame(self.given)

    @property
    def index(self) -> Any:
        """The index of the frame, as it was given; None of an array."""
        if not self.is_frame:
            return None
        return self.given.index if self.rows is None else self.given.index[self.rows]

    def taken(self, rows: np.ndarray) -> "Source":
        """These of the rows."""
        return Source(self.given, self.places, rows if self.rows is None else self.rows[rows])

    def frame(self) -> "pd.DataFrame":
        """The rows with all columns, in their types; a copy."""
        return self.given.copy() if self.rows is None else self.given.iloc[self.rows]

    def numbers(self, place: int) -> np.ndarray:
        """A column of x from a frame, (N,), or all of x from an array, in float64."""
        rows = slice(None) if self.rows is None else self.rows
        if not self.is_frame:
            return self.given[rows].copy()
        column = self.given.iloc[:, self.places[place]].iloc[rows]
        return column.to_numpy(np.float64, na_value=np.nan)
