"""Draws, densities and observations as one xarray.DataTree in the ArviZ schema."""

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.validation import storable
from ppl_vae.diagnostics.datatree.sampler import Draws, Layout, Sampler, read_layout
from ppl_vae.diagnostics.groups import group
from ppl_vae.evidence import Evidence, reduce_log_weights
from ppl_vae.evidence.fingerprints import row_weights
from ppl_vae.evidence.importance_sampling import warn_of_few
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.observed.site_of_x import entries_by_site, is_all_of_x
from ppl_vae.programs.traces import Program

if TYPE_CHECKING:
    import xarray as xr
from ppl_vae.runtime.checks import object_or_options

__all__ = ["to_datatree"]

logger = logging.getLogger(__name__)

Variable = tuple[tuple[str, ...], np.ndarray]
SAMPLE_DIMS: tuple[str, ...] = ("chain", "draw")
IMPORTANCE = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo")
GROUPS = {
    "posterior": (
        "Plain draws of the guide, unweighted: `resampled` chooses among them by "
        "sample_stats.log_weights."
    ),
    "posterior_predictive": "All entries of x, including the missing ones.",
    "prior": "Draws of the model's latents, not conditional on x.",
    "prior_predictive": "x at the draws of the prior.",
    "log_likelihood": (
        "log p(x given z) per observation, in nats. Not for leave-one-out, which would be too "
        "optimistic: z is local."
    ),
    "log_prior": "log p(z) per site and observation, in nats, as arviz_stats.psense reads it.",
    "sample_stats": (
        "log p(x, z), log q(z given x) and their difference, the raw log-weights, per "
        "observation, in nats."
    ),
    "importance": (
        "Per observation, from the log-weights of these draws; log_evidence and elbo in nats."
    ),
    "observed_data": "NaN is missing.",
    "constant_data": (
        "mask is true where x was observed; labels are for colouring only; row_weights are those "
        "of the data, by which means over rows are to be weighted."
    ),
}


def to_datatree(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    draws: Draws | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> "xr.DataTree":
    """Posterior, prior and predictive draws with densities, importance weights and x, for ArviZ.

    Groups posterior, posterior_predictive, prior, prior_predictive, log_likelihood, log_prior,
    sample_stats (log_p, log_q, log_weights), importance (log_evidence, mc_se, ess, pareto_k, elbo),
    observed_data, constant_data (mask, context, labels, row_weights). Draws have dims (chain = 1,
    draw = S, datum, ...), sites outside the data plate (chain, draw, ...). The posterior is the
    guide's, unweighted: if importance.pareto_k > 0.7, neither it nor its reweighting is reliable.
    ArviZ's means over rows are unweighted too: `.weighted(tree.constant_data.row_weights)` of a
    variable weights them. Only the first rows are used unless `num_data` is given; `attrs["rows"]`
    records which.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: give `data.test` for a part), or an array, tensor,
            DataFrame, DataArray.
        draws: Size of the tree; None is `Draws(**options)`.
        seed: Seed of the draws; sample_stats.log_weights equals `log_weights` with this seed.
        progress: Whether to show a bar after two seconds.
        options: Keywords of `Draws` (num_samples, num_data, max_gigabytes, chunk_size), if `draws`
            is None.

    Returns:
        The tree. `tree.to_netcdf(path, engine="h5netcdf")` and
        `xarray.open_datatree(path, engine="h5netcdf")` keep every value.

    Raises:
        ValueError: The tree would be larger than max_gigabytes; two dims would have one name; x
            lies outside the support; options are given together with `draws`.

    References:
        ArviZ, InferenceData schema specification, python.arviz.org.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=50)
        >>> dict(tree.posterior.sizes)
        {'chain': 1, 'draw': 50, 'datum': 3, 'latent': 2}
    """
    object_or_options(draws, options, "draws")
    import xarray as xr

    draws = draws or Draws(**options)
    inference = Inference(model, guide, data)
    model, guide = inference.programs
    total = len(inference)
    layout = read_layout(model, guide, inference.data)
    inference = Inference(model, guide, inference.data[: draws.rows(layout, total)])
    names = Names(inference.data, layout, draws.num_samples, entries_by_site(model, inference.args))
    inference.check_programs()
    inference.require_density()
    sampler = Sampler(inference, draws, layout, seed)
    sampler.run(progress=progress)
    warn_of_few(draws.num_samples, "draws")
    evidence = reduce_log_weights(sampler.arrays["sample_stats"]["log_weights"])
    groups = {
        which: {name: names.with_dims(which, name, array) for name, array in arrays.items()}
        for which, arrays in sampler.arrays.items()
    }
    groups["importance"] = {name: ((names.datum,), getattr(evidence, name)) for name in IMPORTANCE}
    groups["observed_data"] |= _observed(names)
    groups["constant_data"] = _constants(names)
    num_data = len(inference)
    rows = f"all {total}" if num_data == total else f"the first {num_data} of {total}"
    if num_data < total and draws.num_data is None:
        logger.info("the tree holds %s rows: num_data takes another number", rows)
    attrs = {
        "inference_library": "ppl_vae",
        "inference_library_version": version("ppl-vae"),
        "seed": seed,
        "num_particles": draws.num_samples,
        "objective": "none",
        "data": inference.data.name,
        "rows": rows,
    }
    tree = {"/": xr.Dataset(attrs=attrs)}
    for name, description in (GROUPS | {"posterior": _worth(evidence)}).items():
        # A model without latents has no posterior.
        variables = groups.get(name, {})
        tree[name] = group(variables, names.coords, description=description)
    return xr.DataTree.from_dict(tree)


class Names:
    """Dims and coordinates of every variable; a dim has one length in all groups."""

    def __init__(
        self, data: Dataset, layout: Layout, num_samples: int, places: dict[str, Tensor]
    ) -> None:
        self.data = data
        self.layout = layout
        size = data.event_shape.numel()
        self.of_x = [name for name, found in places.items() if is_all_of_x(found, size)]
        self.datum = data.dims[0]
        self.shapes = layout.local | layout.shared | layout.observed
        self.coords: dict[str, np.ndarray] = {"chain": np.arange(1), "draw": np.arange(num_samples)}
        for dim, values in data.coords.items():
            if dim in self.coords:
                raise ValueError(
                    f"x has a dim named {dim!r}, which counts posterior draws here: rename it in "
                    "the data"
                )
            self.coords[dim] = storable(values)
        if data.context is not None:
            self._add("covariate", storable(data.context_names), "context")
        for name, shape in self.shapes.items():
            if name in self.coords:
                raise ValueError(
                    f"site {name!r} has the name of a dim of the data: rename one of them"
                )
            for dim, size in zip(self.event(name), shape, strict=True):
                self._add(dim, np.arange(size), name)

    def event(self, name: str) -> tuple[str, ...]:
        """Dims of one row at a site."""
        shape = self.shapes[name]
        if name in self.of_x and shape == tuple(self.data.event_shape):
            return self.data.dims[1:]
        if len(shape) != 1:
            return tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        return ("latent",) if name == "z" and "latent" not in self.data.coords else (f"{name}_dim",)

    def with_dims(self, group: str, name: str, array: np.ndarray) -> Variable:
        """A variable that was drawn, with its dims; the chain is added."""
        if group == "observed_data":
            return (self.datum, *self.event(name)), array
        dims = SAMPLE_DIMS
        if name not in self.layout.shared and (group, name) != ("sample_stats", "log_global"):
            dims = (*dims, self.datum)
        if group not in ("sample_stats", "log_likelihood", "log_prior"):
            dims = (*dims, *self.event(name))
        return dims, array[None]

    def _add(self, dim: str, values: np.ndarray, where: str) -> None:
        known = self.coords.setdefault(dim, values)
        if len(known) != len(values):
            raise ValueError(
                f"dim {dim!r} would have length {len(values)} at {where!r}, elsewhere "
                f"{len(known)}: rename one"
            )


def _worth(evidence: Evidence) -> str:
    """What the group posterior holds, and for how many rows it is unreliable."""
    num_bad = int((evidence.pareto_k > GOOD_K).sum())
    if num_bad == 0:
        return GROUPS["posterior"]
    return (
        f"{GROUPS['posterior']} k-hat is above {GOOD_K} for {num_bad} of "
        f"{len(evidence.pareto_k)} rows: there neither these draws nor their reweighting is "
        "reliable, refine the guide first."
    )


def _observed(names: Names) -> dict[str, Variable]:
    """x itself, with NaN where it is missing, at each site that observes it."""
    x = names.data.x.cpu().numpy()
    if not names.of_x and "x" not in names.layout.observed:
        return {"x": (names.data.dims, x)}
    return {
        site: ((names.datum, *names.event(site)), x.reshape(len(x), *names.layout.observed[site]))
        for site in names.of_x
    }


def _constants(names: Names) -> dict[str, Variable]:
    data = names.data
    found: dict[str, Variable] = {"mask": (data.dims, data.mask.cpu().numpy())}
    if data.context is not None:
        found["context"] = ((names.datum, "covariate"), data.context.cpu().numpy())
    if data.labels is not None:
        found["labels"] = ((names.datum,), storable(data.labels))
    weights = row_weights(data)
    if weights is not None:
        found["row_weights"] = ((names.datum,), weights)
    return found
