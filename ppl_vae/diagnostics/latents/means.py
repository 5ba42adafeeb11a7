"""Means and sds of q(z given x) of every latent dimension, exact if q knows them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.groups import rows_of_data, tree_of
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import require_callable
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.rows_apart import is_point
from ppl_vae.programs.sites import is_auxiliary, is_deterministic
from ppl_vae.programs.traces import (
    PLATE,
    Program,
    Site,
    is_local,
    run_under_particles,
    sample_sites,
)
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["LatentMeans", "latent_means"]

ABOUT = (
    "Means of q(z given x) with their squared standard errors over draws, 0 where exact, and sds."
)
ROWS_PER_CHUNK = 1000


@dataclass(frozen=True)
class LatentMeans(Shown):
    """E_q[z_d given x] and sd_q(z_d given x) per observation and latent dimension.

    Args:
        mean: The means, shape (N, D); dimensions of several latent sites follow one another.
        variance: Squared standard error of each mean over the draws, (N, D); 0 where the mean is
            exact.
        sd: Standard deviation of q(z_d given x), (N, D), how far the row determines z_d: close to
            that of the prior where x says little. Of draws where it is not known.
        names: Names of the dimensions, "z[0]", "z[1]", ...
        exact: Whether all means are exact.
        coords: Names of the rows, by their dim.

    Example:
        >>> zero, one = np.zeros((3, 1)), np.ones((3, 1))
        >>> LatentMeans(zero, zero, one, ("z[0]",), exact=True).mean.shape
        (3, 1)
    """

    mean: np.ndarray
    variance: np.ndarray
    sd: np.ndarray
    names: tuple[str, ...]
    exact: bool
    coords: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def to_frame(self) -> "pd.DataFrame":
        """A frame with the mean and the sd of each dimension, and a row for each row."""
        import pandas as pd

        (name, rows), *_ = (self.coords or {"datum": np.arange(len(self.mean))}).items()
        columns = {}
        for place, dimension in enumerate(self.names):
            columns[dimension] = self.mean[:, place]
            columns[f"{dimension}.sd"] = self.sd[:, place]
        return pd.DataFrame(columns, pd.Index(rows, name="row" if name == "datum" else name))

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "latent_means".

        `tree["latent_means"] = means.to_datatree()["latent_means"]` adds it to another tree.
        """
        rows = self.coords or {"datum": np.arange(len(self.mean))}
        values = {"mean": self.mean, "variance": self.variance, "sd": self.sd}
        return tree_of("latent_means", values, rows | {"dimension": self.names}, description=ABOUT)


def latent_means(
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> LatentMeans:
    """E_q[z given x] and sd: the distribution's own, or those of draws where they are not known.

    A site's own mean and sd are those given what the guide drew before it. They are taken as they
    are only if nothing random was drawn before (points, such as `pyro.deterministic` values and
    deltas, are not random); else mean and sd are those of the draws. Latents that do not depend on
    each other have exact means as dimensions of one site. Latents outside the data plate, which
    Pyro's joint AutoGuides have too, are drawn anew for each draw. The model is not needed, so the
    guide is the first argument.

    Args:
        guide: `Guide`, or any Pyro guide with a plate "data" at dim -1.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws per observation if the mean or the sd is not known, at least 2.
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        Means and sds of all latent dimensions inside the data plate.

    Raises:
        ValueError: there are fewer than 2 particles, or no latent site in the plate.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool(np.allclose(latent_means(bed.guide, bed.x).mean, bed.posterior_mean))
        True
    """
    whole_number(num_particles, "num_particles", at_least=2)
    require_callable(guide=guide)
    inference = Inference(guide, guide, data)
    parts = []
    blocks = inference.blocks(ROWS_PER_CHUNK, seed=seed, title="posterior means", progress=progress)
    for block in blocks:
        with block.evaluating():
            parts.append(_moments(inference.guide, block.args, num_particles))
    *moments, names, exact = zip(*parts, strict=True)
    mean, variance, sd = (torch.cat(each).cpu().numpy() for each in moments)
    return LatentMeans(mean, variance, sd, names[0], all(exact), rows_of_data(inference.data))


def _moments(
    guide: Program, args: tuple[Tensor, ...], num_particles: int
) -> tuple[Tensor, Tensor, Tensor, tuple[str, ...], bool]:
    """Means, their squared standard errors, sds, (B, D), names, and whether all means are exact."""
    runs, first = _runs(guide, args, 2)
    shapes = {name: tuple(site["fn"].event_shape) for name, site in runs[0].items()}
    known = {name: _own(runs, name) if name in first else (None, None) for name in shapes}
    if any(each is None for pair in known.values() for each in pair):
        runs, _ = _runs(guide, args, num_particles)
    draws = {name: torch.cat([run[name]["value"] for run in runs]) for name in shapes}
    parts = [_site_moments(draws[name], *pair) for name, pair in known.items()]
    mean, variance, sd = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    exact = all(own_mean is not None for own_mean, _ in known.values())
    return mean, variance, sd, dimension_names(shapes), exact


def _site_moments(
    draws: Tensor, mean: Tensor | None, variance: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, its squared standard error and sd of one site, (B, D) each."""
    draws = draws.reshape(*draws.shape[:2], -1).double()
    spread = draws.var(0)
    error = spread / len(draws)
    if mean is not None and variance is not None:  # a variance given other draws is not the whole
        spread = variance.reshape(len(variance), -1).double()
    if mean is None:
        return draws.mean(0), error, spread.sqrt()
    mean = mean.reshape(len(mean), -1).double()
    return mean, torch.zeros_like(mean), spread.sqrt()


def _runs(
    guide: Program, args: tuple[Tensor, ...], count: int
) -> tuple[list[dict[str, Site]], list[str]]:
    """The latent sites inside the data plate, drawn `count` times, and those that come first.

    Particles share the latents outside the plate: where there are some, each draw is a run.
    """
    trace = run_under_particles(guide, count, *args)
    require_no_inner_plates(trace, "a mean of a row's latents")
    latents = [site for site in sample_sites(trace) if not site["is_observed"]]
    first = [name for name in _local_sites(trace) if name in _before_chance(latents)]
    if all(is_local(site) or is_deterministic(site) for site in latents):
        return [_local_sites(trace)], first
    runs = [_local_sites(run_under_particles(guide, 1, *args)) for _ in range(count)]
    return runs, first


def _before_chance(latents: list[Site]) -> list[str]:
    """Names of the latents that no random one comes before: their distributions are fixed.

    That draws of one latent change nothing about another does not tell: two classes may be equal by
    chance.
    """
    names = []
    for site in latents:
        names.append(site["name"])
        if not is_point(site["fn"]):
            break
    return names


def _local_sites(trace: Any) -> dict[str, Site]:
    """Latent sites inside the data plate."""
    sites = [
        site
        for site in sample_sites(trace)
        if is_local(site) and not (site["is_observed"] or is_auxiliary(site))
    ]
    if not sites:
        raise ValueError(
            f'the guide has no latent site in a plate named "{PLATE}": sample the latents there to '
            "take their means"
        )
    return {site["name"]: site for site in sites}


def _own(runs: list[dict[str, Site]], name: str) -> tuple[Tensor | None, Tensor | None]:
    """The distribution's mean and variance, (B, *event) each, if it has them.

    A guide may draw without a site (`torch.randn`): two draws then differ.
    """
    found: list[Tensor | None] = []
    for moment in ("mean", "variance"):
        try:
            value = torch.cat([getattr(run[name]["fn"], moment) for run in runs])
        except (NotImplementedError, AttributeError):
            found.append(None)
            continue
        known = bool(value.isfinite().all()) and torch.equal(value[0], value[1])
        found.append(value[0] if known else None)
    return found[0], found[1]


def dimension_names(shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Names of the dimensions of all sites: z for a scalar, else z[0], z[1], ... or z[0, 0], ..."""
    return tuple(
        f"{name}[{', '.join(map(str, index))}]" if shape else name
        for name, shape in shapes.items()
        for index in np.ndindex(shape)
    )
