"""Draws of a tree chosen by their importance weights: sampling importance resampling."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from ppl_vae.diagnostics.groups import check_tree
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import generator
from ppl_vae.runtime.text import counted

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["chosen_particles", "resampled"]

AT_THE_DRAWS = ("posterior", "posterior_predictive", "log_likelihood", "log_prior")
DENSITIES = ("log_p", "log_q")


def resampled(
    tree: "xr.DataTree", num_samples: int | None = None, *, seed: int = 0
) -> "xr.DataTree":
    """The tree with a posterior resampled row by row in proportion to the importance weights.

    z_s given x is one of the K draws z_1, ..., z_K of the guide, chosen with probability
    w_k / sum_j w_j, w = p(x, z) / q(z given x): for large K a draw of p(z given x), where the
    guide's own draws are from q. Resampling is systematic. Groups posterior,
    posterior_predictive, log_likelihood, log_prior and sample_stats (log_p, log_q) hold the same
    draws; log_weights is left out, since these draws count equally. Of 4,000 draws with an ESS of
    100 about 100 differ: `importance.ess` and `pareto_k` stay and say how much the draws are worth.
    Above a k-hat of 0.7 `refine` the guide instead.

    Args:
        tree: The result of `to_datatree`.
        num_samples: Number of draws S; None is as many as the tree has.
        seed: Seed of the choice.

    Returns:
        A new tree.

    Raises:
        ValueError: The tree has no log-weights (it may be resampled already), or latents that all
            rows share, which rows cannot choose apart from each other.

    References:
        Rubin (1987), A noniterative sampling/importance resampling alternative, JASA 82.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics import to_datatree
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> tree = resampled(to_datatree(bed.model, bed.guide, bed.x, num_samples=50), 20)
        >>> dict(tree.posterior.sizes), list(tree.sample_stats.data_vars)
        ({'chain': 1, 'draw': 20, 'datum': 3, 'latent': 2}, ['log_p', 'log_q'])
    """
    import xarray as xr

    check_tree(tree)
    values = _log_weights(tree).isel(chain=0).transpose("draw", ...)
    size = len(values) if num_samples is None else whole_number(num_samples, "num_samples")
    which = xr.DataArray(
        chosen_particles(values.values, size, seed),
        dims=values.dims,
        coords={"draw": np.arange(size), values.dims[1]: values.coords[values.dims[1]]},
    )
    rows = xr.DataArray(np.arange(values.shape[1]), dims=values.dims[1:])
    found = {name: tree[name].to_dataset() for name in tree.children}
    for name in AT_THE_DRAWS:
        found[name] = _taken(found[name], which, rows)
    found["sample_stats"] = _taken(found["sample_stats"][list(DENSITIES)], which, rows)
    found["posterior"].attrs["description"] = (
        "Draws of the guide resampled in proportion to their importance weights."
    )
    found["/"] = xr.Dataset(attrs=tree.attrs | {"resampled": size})
    return xr.DataTree.from_dict(found)


def _log_weights(tree: "xr.DataTree") -> "xr.DataArray":
    """The log-weights of a tree whose latents are all in the plate of the rows."""
    if "sample_stats" not in tree or "log_weights" not in tree["sample_stats"]:
        raise ValueError(
            "the tree has no sample_stats.log_weights: give what to_datatree returned, "
            "not a tree that was resampled"
        )
    if "log_global" in tree["sample_stats"]:
        raise ValueError(
            "the tree has latents that all rows share, and the weights of a row hold for its own "
            "latents only: use the draws with sample_stats.log_weights"
        )
    log_weights = tree["sample_stats"].to_dataset()["log_weights"]
    without = int((~np.isfinite(log_weights.max(("chain", "draw"), skipna=False))).sum())
    if without:
        raise ValueError(
            f"no log-weight of {counted(without, 'row')} is finite: leave them out of the tree"
        )
    return log_weights


def _taken(group: "xr.Dataset", which: "xr.DataArray", rows: "xr.DataArray") -> "xr.Dataset":
    """Each row's draws at the chosen particles."""
    row_dim = rows.dims[0]
    found = group.drop_vars("draw", errors="ignore").isel({"draw": which, row_dim: rows})
    return found.transpose("chain", "draw", ...)


def chosen_particles(log_weights: np.ndarray, num_samples: int, seed: int | None) -> np.ndarray:
    """Particles chosen by systematic resampling row by row, in random order, (K, B) -> (S, B).

    Example:
        >>> chosen_particles(np.log([[1.0], [1e-9]]), 2, seed=0).tolist()
        [[0], [0]]
    """
    rng = generator(seed)
    num_particles, num_rows = log_weights.shape
    ends = softmax(log_weights, axis=0).cumsum(0)
    steps = (np.arange(num_samples)[:, None] + rng.random(num_rows)) / num_samples
    taken = [np.searchsorted(ends[:, b], steps[:, b] * ends[-1, b]) for b in range(num_rows)]
    return rng.permuted(np.stack(taken, axis=1).clip(max=num_particles - 1), axis=0)
