"""Covariates: numbers unchanged, categories as an indicator for each level."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import row_at, table
from ppl_vae.data.rounding import tell_rounding_of
from ppl_vae.data.tables.frames import coded
from ppl_vae.data.tables.layout import Layout
from ppl_vae.data.tables.levels import Levels
from ppl_vae.runtime.checks import shown, suggestion

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Covariates", "read_covariates"]


@dataclass(frozen=True)
class Covariates:
    """The columns of covariates as they were given, and their conversion to inputs of networks.

    A category has one indicator for each of its levels, named "sex[female]". The first level has
    one too: a network has no coefficients that would have to be identified, and without a reference
    level all levels are treated alike. Ordered categories also have indicators, since codes would
    imply equal distances.

    Args:
        layout: Names, types and levels of the columns.
        are_named: Whether the columns came with names.

    Example:
        >>> layout = Layout(("sex",), ("category",), {"sex": ("female", "male")}, True, "context")
        >>> covariates = Covariates(layout, are_named=True)
        >>> covariates.names, covariates.inputs(torch.tensor([[1.0]])).tolist()
        (('sex[female]', 'sex[male]'), [[0.0, 1.0]])
    """

    layout: Layout
    are_named: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        found: list[str] = []
        for name in map(str, self.layout.names):
            levels = self.layout.levels.get(name, ())
            found += [f"{name}[{level}]" for level in levels] or [name]
        return tuple(found)

    def inputs(self, columns: Tensor) -> Tensor:
        """Inputs of networks from columns with codes, (N, columns) -> (N, C)."""
        parts = []
        for width, column in zip(self._widths, columns.split(1, dim=1), strict=True):
            if width:
                column = (column == torch.arange(width).to(columns)).to(columns)
            parts.append(column)
        return torch.cat(parts, dim=1)

    def columns(self, inputs: Tensor) -> Tensor:
        """Columns with codes from inputs, (N, C) -> (N, columns)."""
        parts = inputs.split([max(1, width) for width in self._widths], dim=1)
        pairs = zip(self._widths, parts, strict=True)
        columns = [part.argmax(1) if width else part[:, 0] for width, part in pairs]
        return torch.stack([column.to(inputs) for column in columns], dim=1)

    def recoded(
        self, inputs: Tensor, known: Levels, rows: Any = None
    ) -> tuple[Tensor, "Covariates"]:
        """Inputs with the indicators of these levels; numbers of an array are already inputs."""
        if not self.layout.is_frame:
            return inputs, self
        columns, layout = self.layout.recoded(self.columns(inputs), known, rows)
        other = replace(self, layout=layout)
        return other.inputs(columns), other

    def changed(self, inputs: Tensor, values: Mapping[Any, Any]) -> Tensor:
        """Inputs with other values in some columns: one for all rows, or one for each.

        Raises:
            ValueError: There is no such column, or a value is missing or none of its levels.
        """
        names = list(map(str, self.layout.names))
        columns = self.columns(inputs)
        for name, value in values.items():
            if str(name) not in names:
                raise ValueError(f"there is no covariate {name!r}: {suggestion(str(name), names)}")
            given = _given(name, value, len(inputs))
            known = {each: self.layout.levels[each] for each in given if each in self.layout.levels}
            new, read = read_covariates(given, inputs, known)
            if read.layout.levels != known:
                raise ValueError(
                    f"covariate {name!r} takes numbers, and was given {value!r}: give a number"
                )
            columns[:, names.index(str(name))] = read.columns(new)[:, 0]
        return self.inputs(columns)

    @property
    def _widths(self) -> list[int]:
        """Number of levels of each column; 0 for numbers."""
        return [len(self.layout.levels.get(str(name), ())) for name in self.layout.names]


def read_covariates(context: Any, x: Tensor, known: Levels) -> tuple[Tensor, Covariates]:
    """Covariates of x as inputs of networks, (N, C), and the columns as they were given.

    Args:
        context: Numbers (N, C), or (N,) for one, or a frame that may have categories.
        x: The observations.
        known: Known levels by column.

    Raises:
        ValueError: The number of rows differs from that of x, or a value is missing or infinite;
            row and covariate are named.

    Example:
        >>> read_covariates([0.5, 1.5], torch.zeros(2, 3), {})[0].tolist()
        [[0.5], [1.5]]
    """
    frame = coded(context, known, "context")
    given = table(frame.numbers, x.dtype, "context")
    values = given.values.to(x.device)
    if values.ndim != 2 or len(values) != len(x):
        raise ValueError(
            f"context has shape {tuple(values.shape)}, x has {len(x)} rows: give ({len(x)}, "
            "covariates)"
        )
    names = given.coords.get(given.dims[1], np.arange(values.shape[1]))
    rows = given.coords.get(given.dims[0])
    _refuse_incomplete(values, names, rows)
    tell_rounding_of(frame.numbers, values, names, what="context")
    layout = Layout.of(frame, names, values.shape[1], "context")
    covariates = Covariates(layout, are_named=given.dims[1] in given.coords)
    return covariates.recoded(covariates.inputs(values), known, rows)


def _given(name: Any, value: Any, num_rows: int) -> "pd.DataFrame":
    """A frame of one column, from one value for all rows or from one for each."""
    import pandas as pd

    values = np.asarray(value)
    if values.shape not in ((), (num_rows,)):
        raise ValueError(
            f"covariate {name!r} was given values of shape {values.shape} for {num_rows} rows: "
            "give one for all rows, or one for each"
        )
    return pd.DataFrame({str(name): np.broadcast_to(values, num_rows)})


def _refuse_incomplete(values: Tensor, names: np.ndarray, rows: Any = None) -> None:
    """Refuse covariates that are missing or infinite."""
    bad = ~values.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        where = f"{row_at(row, rows)}, covariate {names[column]}"
        raise ValueError(
            f"context is {shown(values[row, column])} at {where}: it must be complete; drop or "
            "impute it"
        )
