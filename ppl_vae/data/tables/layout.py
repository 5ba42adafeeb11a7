"""The columns of a table: names, types, levels and kinds, and numbers as a frame of pandas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.tables.frames import Coded, is_frame
from ppl_vae.data.tables.levels import Levels, check_codes, level_name, recoded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Layout", "ends", "kinds_of", "refuse_two_meanings"]

COMPLETE = {"boolean": "bool", "Int64": "int64"}  # pandas' types for columns without missing values


@dataclass(frozen=True)
class Layout:
    """Names, types and levels of the columns of x.

    Args:
        names: Names of the columns.
        types: Their types, "bool", "integer", "float", "category", "ordered".
        levels: Levels by name.
        is_frame: Whether they come from a frame, in which numbers are names of levels; numbers of
            arrays are codes of levels.
        what: "x" or "context", for messages.

    Example:
        >>> layout = Layout(("sex",), ("category",), {"sex": ("female", "male")}, is_frame=True)
        >>> layout.frame(np.array([[1.0], [np.nan]]), [7, 8], ["category"])["sex"].tolist()
        ['male', nan]
    """

    names: tuple[Any, ...]
    types: tuple[str, ...]
    levels: Levels
    is_frame: bool
    what: str = "x"

    @classmethod
    def of(cls, frame: Coded, names: Any, num_columns: int, what: str = "x") -> "Layout":
        """The layout of a frame, or of an array, under these names; images have none."""
        levels = {str(names[place]): each for place, each in frame.levels.items()}
        called = list(map(str, names))
        twice = next((name for i, name in enumerate(called) if name in called[:i]), None)
        if twice is not None:
            raise ValueError(f"{what} has two columns {twice!r}: rename one of them")
        types = frame.types if is_frame(frame.numbers) else frame.types * num_columns
        return cls(tuple(names), types, levels, is_frame(frame.numbers), what)

    def recoded(self, x: Tensor, known: Levels, rows: Any = None) -> tuple[Tensor, "Layout"]:
        """Rows (N, F) in the codes of these levels, and their layout."""
        levels = {**self.levels}
        types = list(self.types)
        new = x.clone()
        for i, name in enumerate(map(str, self.names)):
            if name not in known or known[name] == self.levels.get(name):
                continue
            place = f"column {name!r} of {self.what}"
            if name in levels:
                new[:, i] = recoded(x[:, i], levels[name], known[name], place, rows)
            elif self.is_frame:
                codes, found = _named_levels(x[:, i], self.types[i])
                new[:, i] = recoded(codes, found, known[name], place, rows)
            else:
                check_codes(x[:, i], known[name], place)
            levels[name] = known[name]
            if types[i] != "ordered":
                types[i] = "category"
        return new, replace(self, levels=levels, types=tuple(types))

    def frame(self, x: Any, index: Any, kinds: Sequence[str]) -> "pd.DataFrame":
        """Rows (N, F) as a frame with this index, or (S, N, F) with a further level "sample".

        Columns have the types with which they were given: categories their levels and order;
        Booleans, whole numbers and columns of kind "count" a nullable type if a value is missing.
        Whole numbers that are no longer whole, such as means, are left unchanged.
        """
        import pandas as pd

        values = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        num_columns = len(self.names)
        if values.ndim not in (2, 3) or values.shape[-1] != num_columns:
            raise ValueError(
                f"x has shape {values.shape}: give (rows, {num_columns}) or (samples, rows, "
                f"{num_columns}), with the columns of the data set"
            )
        num_rows = values.shape[-2]
        rows = pd.Index(index) if len(index) == num_rows else pd.RangeIndex(num_rows)
        if values.ndim == 3:
            samples = pd.RangeIndex(len(values))
            rows = pd.MultiIndex.from_product([samples, rows], names=["sample", rows.name])
        columns = values.reshape(-1, num_columns).T
        parts = [pd.Series(self._column(i, each, kinds[i]), rows) for i, each in enumerate(columns)]
        return pd.concat(parts, axis=1).set_axis(pd.Index(self.names), axis=1)

    def _column(self, place: int, values: np.ndarray, kind: str) -> Any:
        """One column in its type."""
        import pandas as pd

        missing = np.isnan(values)
        name = str(self.names[place])
        if name in self.levels:
            levels = self.levels[name]
            check_codes(torch.from_numpy(values.copy()), levels, f"column {name!r} of x")
            codes = np.where(missing, -1, values).astype(int)
            is_ordered = self.types[place] == "ordered"
            return pd.Categorical.from_codes(codes, list(levels), ordered=is_ordered)
        seen = values[~missing]
        if self.types[place] == "bool" and np.isin(seen, (0, 1)).all():
            dtype = "boolean"
        elif (self.types[place] == "integer" or kind == "count") and (seen == np.round(seen)).all():
            dtype = "Int64"
        else:
            return values
        column = pd.array(values, dtype=dtype)
        if missing.any():
            return column
        return column.astype(COMPLETE[dtype])


def _named_levels(column: Tensor, kind: str) -> tuple[Tensor, list[str]]:
    """Codes and names of the numbers of a column: its different values."""
    missing = column.isnan()
    limit = 2 / torch.finfo(column.dtype).eps
    if (column.abs() >= limit).any():
        raise ValueError(
            f"levels of {limit:,.0f} or more are not told apart in {column.dtype}: give the frame "
            "itself, or Dataset(frame, levels=...)"
        )
    values, codes = column[~missing].unique(return_inverse=True)
    found = column.clone()
    found[~missing] = codes.to(column)
    return found, [level_name(bool(value) if kind == "bool" else value) for value in values]


def refuse_two_meanings(layouts: Sequence[Layout]) -> None:
    """Refuse columns of one name with different levels, which a name could not distinguish.

    Args:
        layouts: The columns of x, and of covariates.

    Raises:
        ValueError: x and covariates have such a column.

    Example:
        >>> refuse_two_meanings(2 * [Layout((), (), {}, is_frame=False)])
    """
    x, context = layouts
    if not context.is_frame:
        return
    known = {str(name): x.levels.get(str(name), ()) for name in x.names}
    for name in map(str, context.names):
        if known.get(name, ()) != context.levels.get(name, ()) and name in known:
            raise ValueError(
                f"column {name!r} of context has other levels than that of x: rename it, or give "
                "levels="
            )


def kinds_of(x: Tensor, types: Sequence[str]) -> tuple[str, ...]:
    """The kind of each column: "boolean", "category", "ordered", "count", "positive" or "real".

    Categories are recognised by their type. Numbers are "boolean" if all are 0 or 1; "count" if
    they are whole, not negative, and of an integer type; "positive" if all are above 0; else
    "real". Whole numbers of a floating type, as integers with missing values are often read, are
    "count" if the smallest is 0 or 1 and there are three or more different values: counts start
    near zero, rounded measurements elsewhere. A column that is never observed is "real".

    Args:
        x: The values, (N, F); NaN is missing.
        types: The type of each column: "bool", "integer", "float", "category", "ordered".

    Example:
        >>> x = torch.tensor([[0.0, 0.0, 1.5, 7.0], [1.0, 2.0, 2.5, 9.0]])
        >>> kinds_of(x, ("float", "integer", "float", "float"))
        ('boolean', 'count', 'positive', 'positive')
    """
    low, high = ends([x])
    integer = torch.tensor([each == "integer" for each in types], device=x.device)
    whole = (x.isnan() | (x == x.round())).all(0) & (low >= 0)
    between = ((x > low) & (x < high)).any(0)
    rules = {
        "boolean": whole & (high <= 1),
        "count": whole & (integer | between & (low <= 1)),
        "positive": low > 0,
        "real": torch.ones_like(whole),
    }
    given = {"category": "category", "ordered": "ordered", "bool": "boolean"}
    first = torch.stack(list(rules.values())).int().argmax(0).tolist()
    found = [list(rules)[place] for place in first]
    return tuple(given.get(each, kind) for each, kind in zip(types, found, strict=True))


def ends(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Smallest and largest observed value of each element, (*event); NaN if it is never observed.

    Args:
        parts: Rows in blocks, (rows, *event) each.

    Example:
        >>> ends([torch.tensor([[1.0, torch.nan], [3.0, torch.nan]])])
        (tensor([1., nan]), tensor([3., nan]))
    """
    low = high = torch.tensor(torch.nan)
    for part in parts:
        missing = part.isnan()
        low = torch.fmin(low.to(part), part.masked_fill(missing, torch.inf).amin(0))
        high = torch.fmax(high.to(part), part.masked_fill(missing, -torch.inf).amax(0))
    return low.masked_fill(low > high, torch.nan), high.masked_fill(low > high, torch.nan)
