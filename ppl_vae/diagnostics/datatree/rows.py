"""Numbers with the names of what they are numbers of, as one group of an xarray.DataTree that files
can hold.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset

if TYPE_CHECKING:
    import xarray as xr


def rows_of_data(data: Dataset) -> dict[str, np.ndarray]:
    """The dim of the data and the names of the rows."""
    return {data.dims[0]: np.asarray(data.coords[data.dims[0]])}


def tree_of(
    group: str, values: Mapping[str, np.ndarray], coords: Mapping[str, Any], **attrs: Any
) -> "xr.DataTree":
    """A tree with one group; each array has the first of the dims, as many as it needs."""
    import xarray as xr

    named = {dim: np.asarray(list(names)) for dim, names in coords.items()}
    stored = {
        dim: names.astype(str) if names.dtype == object else names for dim, names in named.items()
    }
    variables = {name: (tuple(coords)[: array.ndim], array) for name, array in values.items()}
    return xr.DataTree.from_dict({group: xr.Dataset(variables, stored, attrs)})
