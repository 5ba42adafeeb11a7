"""Predictive draws and observations in the form that ArviZ's predictive plots need."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.datatree.build import SAMPLE_DIMS
from ppl_vae.diagnostics.groups import check_tree
from ppl_vae.diagnostics.predictive.check import PREDICTIVES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["observed_entries"]


def observed_entries(tree: "xr.DataTree") -> "xr.DataTree":
    """Predictive draws and x at the observed entries only, in one dim "entry".

    `arviz_plots.plot_ppc_rootogram`, `plot_ppc_pava` and `plot_ppc_tstat` need this form: they
    recognise counts by an integer type (whole numbers become integers here), sort along one dim,
    and would also plot draws of missing entries.

    Args:
        tree: The result of `to_datatree`.

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

    check_tree(tree)
    groups = {group: xr.Dataset() for group in (*PREDICTIVES, "observed_data")}
    sites = {str(name): found for name, found in tree["observed_data"].to_dataset().items()}
    for name, observed in sites.items():
        seen = observed.notnull().values
        dim = "entry" if len(sites) == 1 else f"{name}_entry"
        found = {group: tree[group].to_dataset()[name].values[..., seen] for group in PREDICTIVES}
        found["observed_data"] = observed.values[seen]
        whole = all((values == np.rint(values)).all() for values in found.values())
        for group, values in found.items():
            dims = (*SAMPLE_DIMS, dim)[-values.ndim :]
            groups[group][name] = (dims, values.astype(int) if whole else values)
    return xr.DataTree.from_dict(groups)
