"""Posterior means E_q[z given x] of every latent dimension, exact where the guide's distribution
has a mean.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.datatree.rows import rows_of_data, tree_of
from ppl_vae.programs.modules import arguments, evaluating, place
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
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LatentMeans", "latent_means"]

WHAT = "Means of q(z given x), and their squared standard errors over draws; 0 where the mean is exact."

ROWS_PER_CHUNK = 1000


@dataclass(frozen=True)
class LatentMeans:
    """E_q[z_d given x] per datum and latent dimension.

    Args:
        mean: The means, shape (N, D); dimensions of several latent sites stand one after the other.
        variance: Squared standard error of each mean over the draws, (N, D); 0 where the mean is
            exact.
        names: Names of the dimensions, "z[0]", "z[1]", ...
        exact: Whether all of them are exact.
        coords: Names of the data, by their dim.

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
        """A tree with the group "latent_means": `tree["latent_means"] =
        means.to_datatree()["latent_means"]`.
        """
        coords = (self.coords or {"datum": np.arange(len(self.mean))}) | {
            "dimension": np.array(self.names)
        }
        values = {"mean": self.mean, "variance": self.variance}
        return tree_of("latent_means", values, coords, description=WHAT)


def latent_means(
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> LatentMeans:
    """E_q[z given x]: the distribution's own mean, else the mean of draws.

    With several latent sites the mean of one may depend on the draw of another; it is then averaged
    over draws too.

    Args:
        guide: `Guide`, or any Pyro guide with a plate "data" at dim -1.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws per datum where the mean is not known, at least 2.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The means of all latent dimensions inside the data plate.

    Raises:
        ValueError: fewer than 2 particles, or no latent site in the plate.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool(np.allclose(latent_means(bed.guide, bed.x).mean, bed.posterior_mean))
        True
    """
    whole_number(num_particles, "num_particles", at_least=2)
    data = place(as_dataset(data), guide)
    parts: list[list[_Moments]] = []
    with tqdm(
        total=len(data), desc="posterior means", unit=" data", disable=not progress, delay=2
    ) as bar:
        for start in range(0, len(data), ROWS_PER_CHUNK):
            part = data[start : start + ROWS_PER_CHUNK]
            with evaluating(guide), seeded(derived_seed(seed, start)):
                parts.append(_moments(guide, arguments(part.x, part.context), num_particles))
            bar.update(len(part))
    mean = torch.cat([torch.cat([site.mean for site in sites], -1) for sites in parts])
    variance = torch.cat([torch.cat([site.variance for site in sites], -1) for sites in parts])
    names = tuple(name for site in parts[0] for name in site.names)
    exact = all(site.exact for sites in parts for site in sites)
    return LatentMeans(mean.cpu().numpy(), variance.cpu().numpy(), names, exact, rows_of_data(data))


@dataclass(frozen=True)
class _Moments:
    """Mean and its squared standard error at one site, each (B, D)."""

    mean: Tensor
    variance: Tensor
    names: list[str]
    exact: bool


def _moments(guide: Program, args: tuple[Tensor, ...], num_particles: int) -> list[_Moments]:
    sites = _latent_sites(guide, args, 2)
    means = {name: _own_mean(site) for name, site in sites.items()}
    if any(mean is None for mean in means.values()):
        sites = _latent_sites(guide, args, num_particles)
    return [_site_moments(site, means[name]) for name, site in sites.items()]


def _site_moments(site: Site, known: Tensor | None) -> _Moments:
    names = dimension_names(site["name"], tuple(site["fn"].event_shape))
    if known is not None:
        mean = known.flatten(1) if known.dim() > 1 else known[:, None]
        return _Moments(mean.double(), torch.zeros_like(mean, dtype=torch.float64), names, True)
    values = site["value"].reshape(*site["value"].shape[:2], -1).double()
    return _Moments(values.mean(0), values.var(0) / len(values), names, False)


def _latent_sites(guide: Program, args: tuple[Tensor, ...], count: int) -> dict[str, Site]:
    """Latent sites inside the data plate, drawn `count` times."""
    trace = run_under_particles(guide, count, *args)
    require_no_inner_plates(trace, "a mean of a row's latents")
    sites = (
        site
        for site in sample_sites(trace)
        if is_local(site) and not (site["infer"] or {}).get("is_auxiliary")
    )
    found = {site["name"]: site for site in sites}
    if not found:
        raise ValueError(
            f'the guide has no latent site in a plate named "{PLATE}": there is nothing to take '
            "means of"
        )
    return found


def _own_mean(site: Site) -> Tensor | None:
    """The distribution's mean, (B, *event), if it has one that depends on no other draw."""
    try:
        mean = site["fn"].mean
    except (NotImplementedError, AttributeError):
        return None
    known = bool(mean.isfinite().all()) and torch.equal(mean[0], mean[1])
    return mean[0] if known else None


def dimension_names(name: str, shape: tuple[int, ...]) -> list[str]:
    """z for a scalar, else z[0], z[1], ... or z[0, 0], ..."""
    return [
        f"{name}[{', '.join(map(str, index))}]" if shape else name for index in np.ndindex(shape)
    ]
