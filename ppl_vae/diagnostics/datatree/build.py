"""Draws, densities and data as one xarray.DataTree in the ArviZ schema."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.datatree.sampler import Draws, Layout, Sampler, read_layout
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.evidence.importance_sampling import warn_of_few
from ppl_vae.programs.modules import place
from ppl_vae.programs.traces import Program
from ppl_vae.programs.validation import check_data

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["to_datatree"]

Variable = tuple[tuple[str, ...], np.ndarray]
SAMPLE_DIMS = ("chain", "draw")
GROUPS = (
    *(
        "posterior",
        "posterior_predictive",
        "prior",
        "prior_predictive",
        "log_likelihood",
        "sample_stats",
    ),
    *("importance", "observed_data", "constant_data"),
)
ABOUT = {
    "posterior": "Plain draws of the guide, unweighted: reweigh them with sample_stats.log_weights.",
    "posterior_predictive": "All entries of x, the missing ones included.",
    "prior": "Draws of the model's latents without the data.",
    "prior_predictive": "x at the draws of the prior.",
    "log_likelihood": "log p(x given z) per datum, in nats. Not for leave-one-out: z is local, it would flatter.",
    "sample_stats": "log p(x, z), log q(z given x) and their difference, the raw log-weights, per datum, in nats.",
    "importance": "Per datum, from the log-weights of these draws; log_evidence and elbo in nats.",
    "observed_data": "NaN is missing.",
    "constant_data": "mask is true where x was observed; labels are for colouring only.",
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
    """Posterior, prior and predictive draws with densities, importance weights and data, for ArviZ.

    Groups posterior, posterior_predictive, prior, prior_predictive, log_likelihood, sample_stats
    (log_p, log_q, log_weights), importance (log_evidence, mc_se, ess, pareto_k, elbo),
    observed_data, constant_data (mask, context, labels). Draws have dims (chain = 1, draw = S,
    datum, ...), sites outside the data plate (chain, draw, ...). The posterior is the guide's and
    unweighted: where importance.pareto_k > 0.7, neither it nor its reweighing is to be trusted.
    Only the first rows are taken unless `num_data` says otherwise; `attrs["rows"]` says which.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        draws: How much; None is `Draws(**options)`.
        seed: Seed of the draws; sample_stats.log_weights are those of `log_weights` with this seed.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `Draws` (num_samples, num_data, max_gigabytes, chunk_size), when no
            `draws` are given.

    Returns:
        The tree; `tree.to_netcdf(path)` and `xarray.open_datatree(path)` keep every value.

    Raises:
        ValueError: the tree would be larger than max_gigabytes; one name would stand for two dims;
            x outside the support; options beside draws.

    References:
        ArviZ, InferenceData schema specification, python.arviz.org.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=50)
        >>> dict(tree.posterior.sizes)
        {'chain': 1, 'draw': 50, 'datum': 3, 'latent': 2}
    """
    if draws is not None and options:
        raise ValueError(f"{', '.join(options)} was given beside draws={draws}: set it in draws")
    draws, data = draws or Draws(**options), place(as_dataset(data), model, guide)
    check_data(model, data.x, data.context, guide)
    layout, total = read_layout(model, guide, data), len(data)
    data = data[: draws.rows(layout, total)]
    names = Names(data, layout, draws.num_samples)
    sampler = Sampler(model, guide, data, draws, layout, seed)
    with tqdm(total=len(data), desc="draws", unit=" data", disable=not progress, delay=2) as bar:
        for done in sampler.run():
            bar.update(done)
    warn_of_few(draws.num_samples, "draws")
    groups = {group: _variables(group, arrays, names) for group, arrays in sampler.arrays.items()}
    groups["importance"] = _importance(sampler.arrays["sample_stats"]["log_weights"], names)
    groups["observed_data"] |= _observed(names)
    groups["constant_data"] = _constants(names)
    return _tree(groups, names, _attrs(data, total, draws, seed))


class Names:
    """Names of the dims of every variable, and their coordinates: one name, one length, in all
    groups.
    """

    def __init__(self, data: Dataset, layout: Layout, num_samples: int) -> None:
        self.data, self.layout = data, layout
        self.datum = data.dims[0]
        self.coords: dict[str, np.ndarray] = {"chain": np.arange(1), "draw": np.arange(num_samples)}
        for dim, values in data.coords.items():
            if dim in self.coords:
                raise ValueError(
                    f"x has a dim named {dim!r}, which counts posterior draws here: rename it in "
                    "the data"
                )
            self.coords[dim] = _storable(values)
        if data.context is not None:
            self._add("covariate", _storable(np.asarray(data.context_names)), "context")
        for name, shape in (layout.local | layout.shared | layout.observed).items():
            if name in self.coords:
                raise ValueError(
                    f"site {name!r} has the name of a dim of the data: rename one of them"
                )
            for dim, size in zip(self.event(name), shape, strict=True):
                self._add(dim, np.arange(size), name)

    def event(self, name: str) -> tuple[str, ...]:
        """Dims of one datum at a site."""
        shape = (self.layout.local | self.layout.shared | self.layout.observed)[name]
        if name in self.layout.observed and shape == tuple(self.data.event_shape):
            return self.data.dims[1:]
        if name == "z" and len(shape) == 1 and "latent" not in self.data.coords:
            return ("latent",)
        return (
            (f"{name}_dim",)
            if len(shape) == 1
            else tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        )

    def of(self, group: str, name: str) -> tuple[str, ...]:
        """Dims of a variable that was drawn."""
        if name in self.layout.shared:
            return (*SAMPLE_DIMS, *self.event(name))
        if group == "sample_stats" and name == "log_global":
            return SAMPLE_DIMS
        event = () if group in ("sample_stats", "log_likelihood") else self.event(name)
        return (
            (self.datum, *event) if group == "observed_data" else (*SAMPLE_DIMS, self.datum, *event)
        )

    @property
    def x(self) -> str:
        """The observed site that holds x: "x", or the one whose events have as many values; "x" if
        there is none.
        """
        size = self.data.event_shape.numel()
        fitting = [
            name
            for name, shape in self.layout.observed.items()
            if np.prod(shape, dtype=int) == size
        ]
        return "x" if "x" in fitting or not fitting else fitting[0]

    def _add(self, dim: str, values: np.ndarray, where: str) -> None:
        known = self.coords.setdefault(dim, values)
        if len(known) != len(values):
            raise ValueError(
                f"dim {dim!r} would have length {len(values)} at {where!r}, elsewhere "
                f"{len(known)}: rename one"
            )


def _storable(values: np.ndarray) -> np.ndarray:
    """Coordinates that files can hold: objects as text."""
    values = np.asarray(values)
    return values.astype(str) if values.dtype == object else values


def _variables(group: str, arrays: dict[str, np.ndarray], names: Names) -> dict[str, Variable]:
    """Arrays with their dims, the chain added."""
    found = {}
    for name, array in arrays.items():
        dims = names.of(group, name)
        found[name] = dims, array[None] if dims[:1] == SAMPLE_DIMS[:1] else array
    return found


def _importance(log_weights: np.ndarray, names: Names) -> dict[str, Variable]:
    evidence = reduce_log_weights(log_weights)
    fields = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo")
    return {name: ((names.datum,), getattr(evidence, name)) for name in fields}


def _observed(names: Names) -> dict[str, Variable]:
    """x itself, with NaN where it is missing."""
    x, site = names.data.x.cpu().numpy(), names.x
    shape = names.layout.observed.get(site)
    if shape is None:
        return {site: (names.data.dims, x)}
    if np.prod(shape, dtype=int) != x[0].size:
        return {}
    return {site: ((names.datum, *names.event(site)), x.reshape(len(x), *shape))}


def _constants(names: Names) -> dict[str, Variable]:
    data = names.data
    found: dict[str, Variable] = {"mask": (data.dims, data.mask.cpu().numpy())}
    if data.context is not None:
        found["context"] = ((names.datum, "covariate"), data.context.cpu().numpy())
    if data.labels is not None:
        found["labels"] = ((names.datum,), _storable(data.labels))
    return found


def _attrs(data: Dataset, total: int, draws: Draws, seed: int) -> dict[str, Any]:
    rows = f"all {total}" if len(data) == total else f"the first {len(data)} of {total}"
    return {
        "inference_library": "ppl_vae",
        "inference_library_version": version("ppl-vae"),
        "seed": seed,
        "num_particles": draws.num_samples,
        "objective": "none",
        "data": data.name,
        "rows": rows,
    }


def _tree(
    groups: dict[str, dict[str, Variable]], names: Names, attrs: dict[str, Any]
) -> "xr.DataTree":
    import xarray as xr

    tree = {"/": xr.Dataset(attrs=attrs)}
    for group in GROUPS:
        variables = groups.get(group, {})  # a model without latents has no posterior
        used = {dim for dims, _ in variables.values() for dim in dims}
        coords = {dim: values for dim, values in names.coords.items() if dim in used}
        tree[group] = xr.Dataset(variables, coords, {"description": ABOUT[group]})
    return xr.DataTree.from_dict(tree)
