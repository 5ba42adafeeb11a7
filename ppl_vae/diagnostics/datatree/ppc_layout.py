"""Predictive draws and data in the layout that ArviZ's posterior predictive plots take."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.datatree.build import SAMPLE_DIMS
from ppl_vae.diagnostics.predictive.check import PREDICTIVES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["observed_entries"]


def observed_entries(tree: "xr.DataTree") -> "xr.DataTree":
    """The predictive draws and the data of the observed entries alone, in one dim "entry", whole
    numbers as integers.

    What `arviz_plots.plot_ppc_rootogram`, `plot_ppc_pava` and `plot_ppc_tstat` need: they tell
    counts by an integer type, sort along one dim, and would set draws of missing entries against
    data without them.

    Args:
        tree: What `to_datatree` returned.

    Returns:
        A tree with posterior_predictive, prior_predictive and observed_data.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics.datatree.build import to_datatree
        >>> bed = beds.gamma_poisson(num_data=10)
        >>> entries = observed_entries(to_datatree(bed.model, bed.guide, bed.x, num_samples=50))
        >>> dict(entries.prior_predictive.sizes), str(entries.observed_data.x.dtype)
        ({'chain': 1, 'draw': 50, 'entry': 10}, 'int64')
    """
    import xarray as xr

    if not isinstance(tree, xr.DataTree):
        raise ValueError(f"tree is a {type(tree).__name__}; give what to_datatree returned")
    groups: dict[str, dict[str, Any]] = {group: {} for group in (*PREDICTIVES, "observed_data")}
    sites = tree["observed_data"].to_dataset().data_vars
    for name, observed in sites.items():
        seen, dim = observed.notnull().values, "entry" if len(sites) == 1 else f"{name}_entry"
        found = {group: tree[group].to_dataset()[name].values[..., seen] for group in PREDICTIVES}
        found["observed_data"] = observed.values[seen]
        whole = all((values == np.rint(values)).all() for values in found.values())
        for group, values in found.items():
            dims = (dim,) if group == "observed_data" else (*SAMPLE_DIMS, dim)
            groups[group][str(name)] = (dims, values.astype(int) if whole else values)
    return xr.DataTree.from_dict(
        {group: xr.Dataset(variables) for group, variables in groups.items()}
    )
