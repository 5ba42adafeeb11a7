"""Checks of names, covariates, labels and picture shape against x."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import (
    Table,
    as_array,
    check_floating,
    copied,
    filled,
    index_of,
    labels_along,
    refuse_dataset,
    row_at,
    row_names,
    storable,
    table,
)
from ppl_vae.data.tables.levels import refuse_alike
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, real_number, shown, whole_number, whole_numbers
from ppl_vae.runtime.text import counted

__all__ = [
    "as_array",
    "copied",
    "filled",
    "index_of",
    "refuse_dataset",
    "row_names",
    "same_index",
    "same_rows",
    "storable",
]


def check_settings(scale: Any, dtype: Any, seed: Any, name: Any) -> None:
    """Check the settings of a `Dataset` that do not depend on its values.

    Raises:
        ArgumentError: One of them is out of range or has the wrong type.
    """
    check_floating(dtype)
    real_number(scale, "scale", above=0)
    whole_number(seed, "seed", at_least=0)
    if not isinstance(name, str):
        raise ArgumentError(f"name is {echoed(name)}; it must be a text")


def coords_of(
    observed: Table, datum_names: Any = None, feature_names: Any = None
) -> dict[str, np.ndarray]:
    """The names along every dim of x; numbers if none were given.

    Raises:
        ValueError: The number of names differs from that of the rows or features.
    """
    shape = observed.values.shape
    coords = {
        dim: np.arange(size) for dim, size in zip(observed.dims, shape, strict=True)
    } | observed.coords
    if feature_names is not None and len(shape) > 2:
        raise ValueError(
            f"feature_names name one dim, an event has shape {tuple(shape[1:])}: give an xarray "
            "DataArray"
        )
    for axis, names in enumerate((datum_names, feature_names)):
        if names is None:
            continue
        if isinstance(names, str) or not hasattr(names, "__len__"):
            what = ("datum_names", "feature_names")[axis]
            raise ArgumentError(f"{what} is {echoed(names)}; it must be a list of names")
        if len(names) != shape[axis]:
            what = ("datum_names", "feature_names")[axis]
            raise ValueError(f"{what} has {len(names)} names, x has {shape[axis]}")
        coords[observed.dims[axis]] = labels_along(names)
    return coords


def picture(image_shape: tuple[int, ...] | None, event_shape: torch.Size) -> tuple[int, ...] | None:
    """The shape of one row as a picture: as given, or that of a two- or three-dimensional event.

    Raises:
        ValueError: The picture has more or fewer pixels than a row has values.
    """
    if image_shape is None and len(event_shape) not in (2, 3):
        return None
    if image_shape is None:
        image_shape = tuple(event_shape)
    image_shape = whole_numbers(image_shape, "image_shape")
    if len(image_shape) not in (2, 3):
        raise ArgumentError(
            f"image_shape is {echoed(image_shape)}; it must be (height, width) or (channels, "
            "height, width)"
        )
    if np.prod(image_shape) != event_shape.numel():
        raise ValueError(
            f"image_shape {tuple(image_shape)} does not hold the {event_shape.numel()} values of "
            "one row"
        )
    return image_shape


def labels_of(labels: Any, num_data: int) -> np.ndarray | None:
    """Labels as an array (N,).

    Raises:
        ValueError: The number of labels differs from that of the rows, or two are one text.
    """
    if labels is None:
        return None
    dtype = object if isinstance(labels, list | tuple) else None
    array = _without_none(as_array(labels, dtype), "labels")
    if array.shape != (num_data,):
        raise ValueError(
            f"labels have shape {array.shape}, x has {num_data} rows: give one label per row"
        )
    return array


def weights_of_rows(weights: Any, x: Any, labels: Any = None) -> Tensor | None:
    """Weights of the rows of x as a tensor (N,), in the type of x.

    Raises:
        ValueError: The number of weights differs from that of the rows, or a weight is not positive
            and finite; its row is named.
    """
    if weights is None:
        return None
    values = table(weights, x.dtype, "weights").values.to(x.device)
    if values.shape != (len(x), 1):
        raise ValueError(
            f"weights have shape {tuple(values.shape)}, x has {len(x)} rows: give one weight per "
            "row"
        )
    bad = ~(values[:, 0].isfinite() & (values[:, 0] > 0))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"weight {shown(values[row, 0])} at {row_at(row, labels)}: weights are positive "
            "numbers; leave out rows without one"
        )
    return values[:, 0]


def further_arguments(
    args: Mapping[str, Any] | None, x: Any, index: Any = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Further arguments of a program: arrays with a row for each row of x, and constants.

    Raises:
        ArgumentError: They are not named; or a list has an entry for each row, and may be either;
            or an object of pandas has another number of rows.

    Example:
        >>> given = {"lengths": np.array([3, 1]), "annealing_factor": 1.0}
        >>> further_arguments(given, torch.zeros(2, 3))
        ({'lengths': tensor([3, 1])}, {'annealing_factor': 1.0})
    """
    if not isinstance(args, Mapping | None) or not all(isinstance(key, str) for key in args or {}):
        raise ArgumentError(
            f"args is {echoed(args)}; it must be a dict of the program's further arguments, by name"
        )
    rows = {}
    constants = {}
    for name, given in (args or {}).items():
        _refuse_ambiguous(name, given, len(x))
        values = copied(given)
        values = torch.as_tensor(values) if isinstance(values, np.ndarray) else values
        if isinstance(values, Tensor) and values.dim() and len(values) == len(x):
            kept = given if isinstance(given, Tensor) else values
            index = same_rows(given) if index is None else index
            same_index(index, given, f"args[{name!r}]")
            rows[name] = moved(kept.detach().clone(), x.device, x.dtype)
        else:
            constants[name] = given
    return rows, constants


def _refuse_ambiguous(name: str, given: Any, num_rows: int) -> None:
    """Refuse a list with an entry for each row, and pandas with another number of rows than x."""
    if isinstance(given, list | tuple) and len(given) == num_rows:
        raise ArgumentError(
            f"args[{name!r}] is a {type(given).__name__} with an entry for each of the "
            f"{counted(num_rows, 'row')} of x: give an array (np.asarray) if these belong to the "
            "rows, and bind a constant to the program (functools.partial)"
        )
    rows = row_names(given)
    if rows is not None and len(rows) != num_rows:
        raise ArgumentError(
            f"args[{name!r}] has {counted(len(rows), 'row')}, x has {num_rows:,}: give one for "
            "each, or an array if it is a constant"
        )


def moved(values: Any, device: Any = None, dtype: Any = None) -> Any:
    """Values on another device and in another floating type; integers stay integers.

    Example:
        >>> moved(torch.tensor([1]), dtype=torch.float64).dtype
        torch.int64
    """
    if isinstance(values, Tensor) and not values.is_floating_point():
        return values.to(device=device)
    return values.to(device=device, dtype=dtype)


def same_rows(x: Any, names: Any = None, **others: Any) -> Any:
    """Refuse objects whose rows have other labels or another order: they are joined by position.

    Args:
        x: The rows, of pandas or xarray, or an array.
        names: Names of the rows (`datum_names`), which are labels where x has none.
        others: What belongs to them, as many rows, by name.

    Returns:
        The labels of the rows: those of the first object that has any; None if there is none.

    Raises:
        ValueError: The indexes differ; the first row that differs is named.

    Example:
        >>> import pandas
        >>> same_rows([[1.0]], weights=pandas.Series([2.0]), context=[[3.0]])
        RangeIndex(start=0, stop=1, step=1)
    """
    parts = {"x": x, "datum_names": names} | others
    indexes = {what: index_of(part) for what, part in parts.items()}
    found = {what: index for what, index in indexes.items() if index is not None}
    if names is not None and found.keys().isdisjoint(("x", "datum_names")):
        found = {"datum_names": names} | found
    if not found:
        return None
    first, index = next(iter(found.items()))
    for what in found:
        same_index(index, parts[what], what, first)
    return index


def same_index(index: Any, other: Any, what: str, among: str = "x") -> None:
    """Refuse an object of pandas or xarray whose rows have other labels, or another order.

    Args:
        index: The labels of the rows of x; None if they have none and are matched by position.
        other: What belongs to the rows.
        what: Its name.
        among: The name of x.

    Raises:
        ValueError: The indexes differ; the first row that differs is named.

    Example:
        >>> import pandas
        >>> same_index(pandas.RangeIndex(1), pandas.Series([2.0], index=[7]), "weights")
        Traceback (most recent call last):
        ValueError: row 0 is 0 in x and 7 in weights: reindex one like the other, or give an array \
(.to_numpy()) to match rows by position
    """
    theirs = row_names(other)
    if theirs is None or index is None:
        return
    if hasattr(index, "equals") and index.equals(index_of(other)):
        return
    ours = labels_along(index)
    if len(ours) != len(theirs):
        raise ValueError(f"{what} has {counted(len(theirs), 'row')}, {among} has {len(ours):,}")
    if np.array_equal(ours, theirs):  # the same labels in another type
        return
    pairs = enumerate(zip(ours, theirs, strict=True))
    row, (mine, its) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"row {row} is {mine!s} in {among} and {its!s} in {what}: reindex one like the other, or "
        "give an array (.to_numpy()) to match rows by position"
    )


def refuse_labels(index: Any, rows: Any, what: str) -> None:
    """Refuse labels of pandas where row numbers are meant, and booleans in another order.

    Args:
        index: The labels of the rows of x; None if they have none and are matched by position.
        rows: Row numbers, or a boolean for each row.
        what: Its name.

    Raises:
        ValueError: Labels of an index that is not 0, 1, ..., or booleans with another index.

    Example:
        >>> import pandas
        >>> rows = pandas.Index([7])
        >>> refuse_labels(pandas.Index([7, 8]), rows, "the split 'test'")
        Traceback (most recent call last):
        ValueError: the split 'test' is an index of pandas, whose labels are not row numbers here: \
give row numbers (frame.index.get_indexer(labels)) or a boolean for each row
    """
    if index is None:
        return
    if str(getattr(rows, "dtype", "")) in ("bool", "boolean"):
        same_index(index, rows, what)
    elif _are_labels(rows) and not np.array_equal(index, np.arange(len(index))):
        raise ValueError(
            f"{what} is an index of pandas, whose labels are not row numbers here: give row "
            "numbers (frame.index.get_indexer(labels)) or a boolean for each row"
        )


def _are_labels(rows: Any) -> bool:
    """Whether rows are an index of pandas, or a Series of one."""
    own = index_of(rows)
    is_series_of_own = own is not None and np.array_equal(own, as_array(rows))
    return hasattr(rows, "get_indexer") or is_series_of_own


def rows_of_split(rows: Any, name: str, num_data: int, index: Any) -> np.ndarray:
    """Row numbers of one split; labels of pandas are refused, and so is what fits no rows."""
    refuse_labels(index, rows, f"the split {name!r}")
    array = as_array(rows)
    if array.dtype == bool and array.shape == (num_data,):
        return np.flatnonzero(array)
    if array.dtype == bool and array.size:
        raise ArgumentError(
            f"the split {name!r} has booleans of shape {array.shape}, and x has {num_data} rows: "
            "give one for each row"
        )
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ArgumentError(
            f"the split {name!r} is {echoed(rows)}; it must be a list of row numbers, or a boolean "
            "for each row"
        )
    return array.astype(np.int64)


def refuse(
    bad: Tensor,
    values: Tensor,
    names: np.ndarray,
    why: str,
    *,
    where: Callable[[int], str] = row_at,
) -> None:
    """Raise for the first bad entry of x, naming value, row (as `where` says it) and feature.

    Raises:
        ValueError: There is one.
    """
    if not bad.any():
        return
    row, *place = bad.nonzero()[0].tolist()
    feature = names[place[0]] if len(place) == 1 else tuple(place)
    raise ValueError(
        f"x is {shown(values[row, *place])} at {where(row)}, feature {feature!s}: {why}"
    )


def _without_none(labels: np.ndarray, what: str) -> np.ndarray:
    """Labels that can be sorted: a missing one is NaN among numbers, "missing" among words."""
    if labels.dtype.kind != "O":
        return labels
    # None, NaN, and pandas' NA and NaT, known by name: pandas is not imported.
    kinds = ("NoneType", "NAType", "NaTType")
    found = [type(label).__name__ in kinds or label != label for label in labels.flat]
    missing = np.array(found, dtype=bool).reshape(labels.shape)
    numbers = all(isinstance(label, Real | np.bool_) for label in labels[~missing])
    if not numbers:
        refuse_alike(labels[~missing], what)
    return np.array(np.where(missing, np.nan if numbers else "missing", labels).tolist())
