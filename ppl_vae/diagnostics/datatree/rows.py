"""Arrays with named dims and rows, as groups of an xarray.DataTree that files can hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset

if TYPE_CHECKING:
    import xarray as xr


def rows_of_data(data: Dataset) -> dict[str, np.ndarray]:
    """The row dim of the data and the names of the rows."""
    return {data.dims[0]: np.asarray(data.coords[data.dims[0]])}


def storable(names: Any) -> np.ndarray:
    """Coordinates in a type that files can hold: objects as text."""
    values = np.asarray(names)
    return values.astype(str) if values.dtype == object else values


def group_of(
    values: Mapping[str, np.ndarray], coords: Mapping[str, Any], **attrs: Any
) -> "xr.Dataset":
    """One group; each array has the first of the dims in `coords`, as many as it needs."""
    import xarray as xr

    dims = tuple(coords)
    variables = {name: (dims[: array.ndim], array) for name, array in values.items()}
    return xr.Dataset(
        variables, {dim: storable(list(names)) for dim, names in coords.items()}, attrs
    )


def tree_of(
    group: str, values: Mapping[str, np.ndarray], coords: Mapping[str, Any], **attrs: Any
) -> "xr.DataTree":
    """A tree with one group, as `group_of` makes it."""
    import xarray as xr

    return xr.DataTree.from_dict({group: group_of(values, coords, **attrs)})
