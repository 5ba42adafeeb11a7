"""Arrays, tensors and tables as one tensor, with their names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, one_line
from ppl_vae.runtime.memory import require_memory

EVENT_DIMS = {1: ("feature",), 2: ("row", "column"), 3: ("channel", "row", "column")}


class Table(NamedTuple):
    """Numbers with the names of their dims, and of the entries if the source named them."""

    values: Tensor
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]


def table(source: Any, dtype: torch.dtype, what: str = "x") -> Table:
    """Read NumPy, torch, pandas, xarray or nested lists as a table (N, *event).

    A vector becomes (N, 1), and masked entries of a masked array become NaN. Values are copied.
    pandas and xarray are recognised by their attributes: neither is imported.

    Args:
        source: The numbers, a row for each observation.
        dtype: Floating type of the result.
        what: The name of the source in error messages.

    Raises:
        TypeError: The source contains something other than numbers; a pandas column is named.
        ValueError: There are no rows or no features.

    Example:
        >>> table([[1.0, float("nan")]], torch.float32).dims
        ('datum', 'feature')
    """
    check_floating(dtype)
    refuse_dataset(source, what)
    _check_one_array(source, what)
    if hasattr(source, "to_frame"):  # a pandas Series
        source = source.to_frame()
    if is_frame(source):
        result = _from_frame(source, dtype, what)
    elif hasattr(source, "dims") and hasattr(source, "coords"):
        result = _from_data_array(source, dtype, what)
    else:
        result = _from_array(source, dtype, what)
    if not result.values.numel():
        raise ValueError(
            f"{what} of shape {tuple(result.values.shape)} is empty: at least one row and one "
            "feature are needed"
        )
    return result


def is_frame(source: Any) -> bool:
    """Whether this is a frame of pandas, known by its attributes: pandas is not imported.

    A `Dataset` has columns and an index as well, and is no frame.

    Args:
        source: Anything.

    Example:
        >>> is_frame(np.zeros((2, 2)))
        False
    """
    return hasattr(source, "columns") and hasattr(source, "iloc")


def as_pandas(source: Any, what: str = "x") -> Any:
    """A table of another library, such as polars or pyarrow, as the same in pandas, with its names.

    Whole numbers beside missing ones stay whole numbers. Anything else is unchanged: pandas,
    xarray, arrays.

    Args:
        source: Anything.
        what: The name of the source in error messages.

    Raises:
        TypeError: It is lazy and holds no rows yet, or it cannot be converted.

    Example:
        >>> import pyarrow
        >>> as_pandas(pyarrow.table({"age": [41, None]}))["age"].tolist()
        [41, <NA>]
    """
    if hasattr(source, "iloc") or hasattr(source, "dims") or hasattr(source, "data_vars"):
        return source
    has_rows = any(hasattr(source, name) for name in ("to_pandas", "__arrow_c_stream__"))
    if not has_rows:
        if hasattr(source, "collect_schema"):
            raise TypeError(f"{what} is a {type(source).__name__} without rows: give .collect()")
        return source
    try:
        return _converted(source)
    except Exception as error:
        raise TypeError(
            f"{what} of type {type(source).__name__} cannot be converted to pandas "
            f"({one_line(error)}): give a frame of pandas"
        ) from error


def _converted(source: Any) -> Any:
    """A table or column of another library in pandas; integers with holes in a nullable type."""
    source = source.to_arrow() if hasattr(source, "to_arrow") else source
    if not hasattr(source, "to_pandas"):
        import pyarrow

        source = pyarrow.table(source)
    result = source.to_pandas()
    if not hasattr(result, "columns"):
        return result
    kinds = [str(field.type) for field in source.schema] if hasattr(source, "num_columns") else []
    for place, kind in enumerate(kinds if result.shape[1] == len(kinds) else ()):
        if kind.startswith(("int", "uint")) and result.dtypes.iloc[place].kind == "f":
            import pandas as pd

            whole = "UInt64" if kind.startswith("u") else "Int64"
            result.isetitem(place, pd.array(source.column(place).to_pylist(), dtype=whole))
    return result


def with_named_columns(source: Any, what: str = "x") -> Any:
    """A table with names along its columns as a frame of pandas, those of xarray too; else
    unchanged.

    Args:
        source: Anything.
        what: The name of the source in error messages.

    Raises:
        TypeError: As in `as_pandas`.

    Example:
        >>> import xarray
        >>> array = xarray.DataArray([[1.5, 2.5]], coords={"what": ["b", "a"]}, dims=["i", "what"])
        >>> list(with_named_columns(array))
        ['b', 'a']
    """
    source = as_pandas(source, what)
    if not (hasattr(source, "dims") and hasattr(source, "to_pandas")) or len(source.dims) != 2:
        return source
    rows = rows_of(source)
    columns = next(name for name in source.dims if name != rows)
    return source.transpose(rows, columns).to_pandas() if columns in source.coords else source


def check_floating(dtype: torch.dtype) -> None:
    """Raise ArgumentError unless this type can hold NaN."""
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(
            f"dtype is {echoed(dtype)}; it must be a type of torch: torch.float32 or torch.float64"
        )
    if not dtype.is_floating_point:
        raise ValueError(
            f"dtype {dtype} cannot hold NaN for missing values: use torch.float32 or torch.float64"
        )


def index_of(source: Any) -> Any:
    """The labels of rows: those of a `Dataset`, pandas' index, xarray's coordinate; else None."""
    if hasattr(source, "given_index"):
        return source.given_index
    if hasattr(source, "dims") and hasattr(source, "indexes"):
        return source.indexes.get(rows_of(source))
    return source.index if hasattr(source, "iloc") else None


def rows_of(array: Any) -> Any:
    """The dim of an xarray object that runs over the rows; None if it has no dims."""
    return "datum" if "datum" in array.dims else next(iter(array.dims), None)


def row_names(source: Any) -> np.ndarray | None:
    """The labels of the rows of a pandas or xarray object as a vector, else None."""
    index = index_of(source)
    return None if index is None else labels_along(index)


def row_at(row: int, names: Any = None) -> str:
    """A row in a message: its position, and its label where rows have labels.

    Example:
        >>> row_at(1, ["eve", "bob"]), row_at(1, [0, 1]), row_at(1)
        ("row 1 ('bob')", 'row 1', 'row 1')
    """
    name = row if names is None else names[row]
    return f"row {row}" if name == row else f"row {row} ({str(name)!r})"


def labels_along(names: Any) -> np.ndarray:
    """Names along a dim as a vector; those of several levels (a pandas MultiIndex) are joined.

    Example:
        >>> labels_along([("a", 1), ("b", 2)]).tolist()
        ['a, 1', 'b, 2']
        >>> labels_along([("a", 1), ("a", "1")]).tolist()
        ["('a', 1)", "('a', '1')"]
    """
    array = np.asarray(names) if not any(isinstance(name, tuple) for name in names) else None
    if array is None or (array.dtype.kind == "U" and not all(isinstance(n, str) for n in names)):
        return different_texts(names)
    return array


def different_texts(names: Any) -> np.ndarray:
    """Texts of names, each as Python writes it where two different names would be one text.

    Args:
        names: Anything that can be a key of a dict; the parts of a tuple are joined.

    Example:
        >>> different_texts([1, "a"]).tolist(), different_texts([1, "1"]).tolist()
        (['1', 'a'], ['1', "'1'"])
    """
    parts = [name if isinstance(name, tuple) else (name,) for name in names]
    texts = [", ".join(map(str, each)) for each in parts]
    if len(set(texts)) < len(set(parts)):
        texts = list(map(repr, names))
    return np.array(texts)


def as_array(values: Any, dtype: Any = None) -> np.ndarray:
    """An array of what was given: NaN (None among objects) where masked, tensors without gradients.

    Args:
        values: Numbers or objects, of any kind that NumPy or torch has.
        dtype: Type of the array.

    Example:
        >>> as_array(np.ma.array([3, 999], mask=[False, True]))
        array([ 3., nan])
    """
    refuse_dataset(values, "what was given")
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(filled(values), dtype=dtype)


def storable(names: Any) -> np.ndarray:
    """Names in a type that files can hold: objects as different texts."""
    values = np.asarray(names)
    return different_texts(values.tolist()) if values.dtype == object else values


def refuse_dataset(values: Any, what: str) -> None:
    """Refuse a `Dataset`, which has the names of an array or frame, but several of them."""
    if hasattr(values, "given_index"):
        raise TypeError(
            f"{what} is a Dataset, which has several arrays: give one of them, such as data.x, "
            "data.context, data.labels or data.weights"
        )


def filled(values: Any) -> Any:
    """An array with NaN (None among objects) where it is masked; anything else unchanged."""
    if not np.ma.is_masked(values):
        return values
    mask = np.ma.getmaskarray(values)
    kind, nothing = (np.float64, np.nan) if values.dtype.kind in "biuf" else (object, None)
    values = values.data.astype(kind)
    values[mask] = nothing
    return values


def copied(given: Any) -> Any:
    """A copy of an array or Series, which torch then reads by position; anything else unchanged.

    torch takes no reversed views, and looks up the rows of a Series by label.

    Example:
        >>> copied(np.arange(2)[::-1]).tolist(), copied([1, 2])
        ([1, 0], [1, 2])
    """
    is_array = hasattr(given, "__array__") and not isinstance(given, Tensor)
    return as_array(given).copy() if is_array else given


def _check_one_array(source: Any, what: str) -> None:
    """Refuse several arrays in one, which would be matched by position."""
    several = isinstance(source, tuple | list) and any(getattr(part, "ndim", 0) for part in source)
    held = isinstance(source, Mapping | torch.utils.data.Dataset | torch.utils.data.DataLoader)
    if several or held or hasattr(source, "data_vars"):
        raise TypeError(
            f"{what} is a {type(source).__name__} of several arrays: give one array with a row for "
            "each observation (torch.stack(rows) makes one), and the others as Dataset(x, "
            "context=..., labels=...)"
        )


def _from_array(source: Any, dtype: torch.dtype, what: str) -> Table:
    values = tensor(source, dtype, what)
    if values.ndim == 0:
        raise ValueError(f"{what} is the single number {values.item()}: give an array of rows")
    if values.ndim == 1:
        values = values[:, None]
    return Table(values, ("datum", *event_dims(values.ndim - 1)), {})


def event_dims(ndim: int) -> tuple[str, ...]:
    """Names for the dims of one observation."""
    return EVENT_DIMS.get(ndim, tuple(f"dim_{i}" for i in range(ndim)))


def _from_frame(frame: Any, dtype: torch.dtype, what: str) -> Table:
    for name, kind in zip(frame.columns, frame.dtypes, strict=True):
        if kind.kind not in "biuf":
            raise TypeError(
                f"column {name!r} of {what} holds {kind}, not numbers: drop it, code it, or use it "
                "as labels"
            )
    values = tensor(frame.to_numpy(dtype=np.float64, na_value=np.nan), dtype, what)
    coords = {"datum": labels_along(frame.index), "feature": labels_along(frame.columns)}
    return Table(values, ("datum", "feature"), coords)


def _from_data_array(array: Any, dtype: torch.dtype, what: str) -> Table:
    if array.dims:
        array = array.transpose(rows_of(array), ...)
    result = _from_array(getattr(array, "values", array), dtype, what)
    dims = tuple(map(str, array.dims))
    named = [name for name in array.dims if name in array.coords]
    coords = {str(name): labels_along(np.asarray(array.coords[name])) for name in named}
    return Table(result.values, dims + result.dims[len(dims) :], coords)


def tensor(source: Any, dtype: torch.dtype, what: str) -> Tensor:
    """Numbers as a new tensor.

    Raises:
        TypeError: They are not real numbers.
    """
    if isinstance(source, Tensor):
        if source.is_complex():
            raise TypeError(f"{what} holds {source.dtype}: real numbers needed")
        if source.layout != torch.strided:
            source = source.to_dense()
        return source.detach().to(dtype, copy=True)
    width = np.float64 if dtype == torch.float64 else np.float32
    sizes = getattr(source, "shape", ())
    require_memory(f"{what} of shape {tuple(sizes)}", *sizes, num_bytes=dtype.itemsize)
    with np.errstate(over="ignore"):  # an overflow becomes inf, and is then named by its place
        array = np.array(_numbers(source, what), dtype=width, order="C")
    return torch.from_numpy(array).to(dtype)


def _numbers(source: Any, what: str) -> np.ndarray:
    if hasattr(source, "nnz") and hasattr(source, "toarray"):  # a sparse matrix of SciPy
        source = source.toarray()
    try:
        array = as_array(source)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)  # None is NaN
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} of type {type(source).__name__} is not an array of numbers: {error}"
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} holds {array.dtype}: real numbers needed")
    return array
