"""Arrays with named dims as groups of an ArviZ DataTree that files can hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.data.validation import storable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["group", "tree"]


def rows_of_data(data: Dataset) -> dict[str, np.ndarray]:
    """The row dim of the data and the names of the rows."""
    return {data.dims[0]: np.asarray(data.coords[data.dims[0]])}


def group(
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Mapping[str, Any],
    **attrs: Any,
) -> "xr.Dataset":
    """Arrays with their dims; a dim that `coords` does not name is numbered from 0.

    Args:
        variables: Dims and values by name.
        coords: Names along a dim.
        attrs: Attributes of the group.

    Example:
        >>> group({"ess": (("datum",), np.ones(3))}, {"datum": ["a", "b", "c"]}).sizes["datum"]
        3
    """
    import xarray as xr

    sizes = {
        dim: size
        for dims, values in variables.values()
        for dim, size in zip(dims, values.shape, strict=True)
    }
    names = {dim: storable(coords.get(dim, np.arange(size))) for dim, size in sizes.items()}
    return xr.Dataset(variables, names, attrs)


def tree(**groups: "xr.Dataset") -> "xr.DataTree":
    """A tree of these groups; `other[name] = this[name]` adds one of them to another tree.

    Args:
        groups: Groups by name.

    Example:
        >>> list(tree(rows=group({"ess": (("datum",), np.ones(3))}, {})))
        ['rows']
    """
    import xarray as xr

    return xr.DataTree.from_dict(groups)


def tree_of(
    name: str, values: Mapping[str, np.ndarray], coords: Mapping[str, Any], **attrs: Any
) -> "xr.DataTree":
    """A tree with one group; each array has the first of the dims, as many as it needs."""
    variables = {each: (tuple(coords)[: array.ndim], array) for each, array in values.items()}
    return tree(**{name: group(variables, coords, **attrs)})


def check_tree(tree: Any) -> None:
    """Raise ValueError where something else than a DataTree is given."""
    import xarray as xr

    if not isinstance(tree, xr.DataTree):
        raise ValueError(f"tree is a {type(tree).__name__}; give what to_datatree returned")
