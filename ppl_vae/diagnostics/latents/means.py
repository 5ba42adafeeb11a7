"""Posterior means E_q[z given x] of every latent dimension, exact if q has a known mean."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.groups import rows_of_data, tree_of
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.traces import (
    PLATE,
    Program,
    Site,
    is_local,
    run_under_particles,
    sample_sites,
)
from ppl_vae.runtime.checks import whole_number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LatentMeans", "latent_means"]

ABOUT = "Means of q(z given x), and their squared standard errors over draws; 0 where exact."
ROWS_PER_CHUNK = 1000


@dataclass(frozen=True)
class LatentMeans:
    """E_q[z_d given x] per observation and latent dimension.

    Args:
        mean: The means, shape (N, D); dimensions of several latent sites follow one another.
        variance: Squared standard error of each mean over the draws, (N, D); 0 where the mean is
            exact.
        names: Names of the dimensions, "z[0]", "z[1]", ...
        exact: Whether all of them are exact.
        coords: Names of the rows, by their dim.

    Example:
        >>> LatentMeans(np.zeros((3, 1)), np.zeros((3, 1)), ("z[0]",), exact=True).mean.shape
        (3, 1)
    """

    mean: np.ndarray
    variance: np.ndarray
    names: tuple[str, ...]
    exact: bool
    coords: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "latent_means".

        `tree["latent_means"] = means.to_datatree()["latent_means"]` adds it to another tree.
        """
        rows = self.coords or {"datum": np.arange(len(self.mean))}
        values = {"mean": self.mean, "variance": self.variance}
        return tree_of("latent_means", values, rows | {"dimension": self.names}, description=ABOUT)


def latent_means(
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> LatentMeans:
    """E_q[z given x]: the distribution's own mean, or the mean of draws if that is not known.

    With several latent sites the mean of one may depend on the draw of another; it is then averaged
    over draws as well. The model is not needed, so the guide is the first argument.

    Args:
        guide: `Guide`, or any Pyro guide with a plate "data" at dim -1.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws per observation if the mean is not known, at least 2.
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        The means of all latent dimensions inside the data plate.

    Raises:
        ValueError: there are fewer than 2 particles, or no latent site in the plate.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool(np.allclose(latent_means(bed.guide, bed.x).mean, bed.posterior_mean))
        True
    """
    whole_number(num_particles, "num_particles", at_least=2)
    inference = Inference(guide, guide, data)
    parts = []
    blocks = inference.blocks(ROWS_PER_CHUNK, seed=seed, title="posterior means", progress=progress)
    for block in blocks:
        with block.evaluating():
            parts.append(_moments(guide, block.args, num_particles))
    means, variances, names, exact = zip(*parts, strict=True)
    mean, variance = (torch.cat(each).cpu().numpy() for each in (means, variances))
    return LatentMeans(mean, variance, names[0], all(exact), rows_of_data(inference.data))


def _moments(
    guide: Program, args: tuple[Tensor, ...], num_particles: int
) -> tuple[Tensor, Tensor, tuple[str, ...], bool]:
    """Means and their squared standard errors, (B, D), names, and whether all means are exact."""
    sites = _latent_sites(guide, args, 2)
    known = {name: _own_mean(site) for name, site in sites.items()}
    exact = all(mean is not None for mean in known.values())
    if not exact:
        sites = _latent_sites(guide, args, num_particles)
    means = []
    variances = []
    for name, mean in known.items():
        if mean is None:
            values = sites[name]["value"]
            values = values.reshape(*values.shape[:2], -1).double()
            means.append(values.mean(0))
            variances.append(values.var(0) / len(values))
        else:
            means.append(mean.reshape(len(mean), -1).double())
            variances.append(torch.zeros_like(means[-1]))
    shapes = {name: tuple(site["fn"].event_shape) for name, site in sites.items()}
    return torch.cat(means, -1), torch.cat(variances, -1), dimension_names(shapes), exact


def _latent_sites(guide: Program, args: tuple[Tensor, ...], count: int) -> dict[str, Site]:
    """Latent sites inside the data plate, drawn `count` times."""
    trace = run_under_particles(guide, count, *args)
    require_no_inner_plates(trace, "a mean of a row's latents")
    sites = [
        site
        for site in sample_sites(trace)
        if is_local(site) and not (site["infer"] or {}).get("is_auxiliary")
    ]
    if not sites:
        raise ValueError(
            f'the guide has no latent site in a plate named "{PLATE}": sample the latents there to '
            "take their means"
        )
    return {site["name"]: site for site in sites}


def _own_mean(site: Site) -> Tensor | None:
    """The distribution's mean, (B, *event), if it has one that depends on no other draw."""
    try:
        mean = site["fn"].mean
    except (NotImplementedError, AttributeError):
        return None
    known = bool(mean.isfinite().all()) and torch.equal(mean[0], mean[1])
    return mean[0] if known else None


def dimension_names(shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Names of the dimensions of all sites: z for a scalar, else z[0], z[1], ... or z[0, 0], ..."""
    return tuple(
        f"{name}[{', '.join(map(str, index))}]" if shape else name
        for name, shape in shapes.items()
        for index in np.ndindex(shape)
    )
