"""Arrays with named dims as groups of an ArviZ DataTree that files can hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def group(
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Mapping[str, Any],
    **attrs: Any,
) -> "xr.Dataset":
    """Arrays with their dims; a dim that `coords` does not name is numbered from 0."""
    import xarray as xr

    sizes = {
        dim: size
        for dims, values in variables.values()
        for dim, size in zip(dims, values.shape, strict=True)
    }
    names = {dim: np.asarray(coords.get(dim, np.arange(size))) for dim, size in sizes.items()}
    stored = {
        dim: each.astype(str) if each.dtype == object else each for dim, each in names.items()
    }
    return xr.Dataset(variables, stored, attrs)


def tree(**groups: "xr.Dataset") -> "xr.DataTree":
    """A tree of these groups; `other[name] = this[name]` adds one of them to another tree."""
    import xarray as xr

    return xr.DataTree.from_dict(groups)
