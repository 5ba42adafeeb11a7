"""The guide against the truth: its draws beside those of Hamiltonian Monte Carlo, for some data."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.sbc.sources import GuideDraws, event_dims
from ppl_vae.hmc import HMC, Chains, sample_posterior
from ppl_vae.programs.modules import place
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.seeding import derived_seed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GuideErrors", "guide_errors"]

LARGEST_R_HAT = 1.03
SMALLEST_ESS = 100
BY_CHANCE = 1.2884  # sqrt(2 / pi) times the integral of sqrt(F (1 - F)) of a standard normal
ERRORS = ("shift", "sd_ratio", "wasserstein", "by_chance", "r_hat", "ess")
ABOUT = {
    "posterior": "Draws of p(z given x) by Hamiltonian Monte Carlo.",
    "guide": "As many draws of q(z given x).",
    "guide_errors": "The guide's against those of Hamiltonian Monte Carlo, in sds of the latter; r_hat and ess of it.",
}


@dataclass(frozen=True)
class GuideErrors:
    """How the guide's draws differ from those of p(z given x), per datum and latent dimension.

    Where Hamiltonian Monte Carlo has not converged (`converged` is false) the numbers say nothing
    of the guide.

    Args:
        shift: (mean of q - mean of p) / sd of p, (N, D).
        sd_ratio: sd of q / sd of p, (N, D): below 1 the guide is too narrow.
        wasserstein: Wasserstein-1 distance in sds of p, (N, D).
        by_chance: What that distance is on average between two sets of draws of one normal, as many
            as these are worth.
        r_hat: Rank-normalised split R-hat of the chains, (N, D).
        ess: Their bulk effective sample size, (N, D).
        names: The latent dimensions.
        posterior: The chains by latent site, (C, S, N, *event).
        guide: As many draws of the guide, in the same shape.
        data: Name and coordinates of the data.

    References:
        Vehtari et al. (2021), Rank-normalization, folding and localization: an improved R-hat,
        arXiv:1903.08008.

    Example:
        See `guide_errors`.
    """

    shift: np.ndarray
    sd_ratio: np.ndarray
    wasserstein: np.ndarray
    by_chance: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    names: tuple[str, ...]
    posterior: dict[str, np.ndarray] = field(repr=False)
    guide: dict[str, np.ndarray] = field(repr=False)
    data: tuple[str, np.ndarray] = field(repr=False)

    @property
    def converged(self) -> np.ndarray:
        """Whether R-hat is below 1.03 and the chains are worth 100 draws, (N, D)."""
        return (self.r_hat < LARGEST_R_HAT) & (self.ess > SMALLEST_ESS)

    def __str__(self) -> str:
        good, (num_data, num_dims) = self.converged, self.shift.shape
        lost = f"the chains have not converged for {(~good).sum()} of {good.size}: left out"
        head = (
            f"guide against Hamiltonian Monte Carlo, {num_data} data x {num_dims} latent dimensions"
        )
        if not good.any():
            return f"{head}\n{lost}"
        rows = {
            "shift of the mean, sd": np.abs(self.shift),
            "sd of q / sd of p": self.sd_ratio,
            "Wasserstein distance, sd": self.wasserstein,
            "  the same by chance": self.by_chance,
        }
        table = [f"{name:<24}{_range(values[good])}" for name, values in rows.items()]
        datum, dim = np.unravel_index(
            np.where(good, self.wasserstein, -np.inf).argmax(), good.shape
        )
        worst = f"worst: {self.names[dim]} of {self.data[0]} {self.data[1][datum]}"
        head = f"{head}\n{'':<24}  median     least      most"
        return "\n".join([head, *table, worst, *[lost] * (not good.all())])

    def to_datatree(self) -> "xr.DataTree":
        """Groups posterior (the chains), guide (its draws in the same shape) and guide_errors, for
        ArviZ.
        """
        import xarray as xr

        groups = {"posterior": self._draws(self.posterior), "guide": self._draws(self.guide)}
        dims, coords = (
            (self.data[0], "dimension"),
            {self.data[0]: self.data[1], "dimension": list(self.names)},
        )
        groups["guide_errors"] = xr.Dataset(
            {name: (dims, getattr(self, name)) for name in ERRORS}, coords
        )
        return xr.DataTree.from_dict(
            {name: each.assign_attrs(description=ABOUT[name]) for name, each in groups.items()}
        )

    def trees(self) -> dict[str, "xr.DataTree"]:
        """A tree for each, as ArviZ compares them: `plot_forest(errors.trees(), combined=True)`."""
        import xarray as xr

        pair = {"HMC": self.posterior, "guide": self.guide}
        return {
            name: xr.DataTree.from_dict({"posterior": self._draws(draws)})
            for name, draws in pair.items()
        }

    def _draws(self, draws: dict[str, np.ndarray]) -> "xr.Dataset":
        import xarray as xr

        found = {
            name: (("chain", "draw", self.data[0], *event_dims(name, values.shape[3:])), values)
            for name, values in draws.items()
        }
        sizes = {
            dim: size
            for dims, values in found.values()
            for dim, size in zip(dims, values.shape, strict=True)
        }
        return xr.Dataset(
            found,
            {dim: np.arange(size) for dim, size in sizes.items()} | {self.data[0]: self.data[1]},
        )


def guide_errors(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    sampler: HMC | None = None,
    num_chains: int = 4,
    seed: int = 0,
) -> GuideErrors:
    """Mean shift, sd ratio and Wasserstein distance of q(z given x) from p(z given x), by
    Hamiltonian Monte Carlo.

    For real data, of which `calibration` does not speak; costs a run of chains for each datum, so
    give it a few. Chains start at the guide's draws: a mode that it misses, they may miss.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 and continuous latents.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test[:20]`), or an array, tensor, DataFrame,
            DataArray.
        sampler: Its settings; None is `HMC(num_samples=500, num_warmup=200)`.
        num_chains: Number of chains C per datum.
        seed: Seed of the draws.

    Returns:
        The errors with R-hat and effective sample size; `print` them, or hand `to_datatree()` to
        ArviZ.

    Raises:
        ValueError: x outside the support; a latent that is discrete or outside the data plate.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901; Vehtari et al. (2021),
        arXiv:1903.08008.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=0.5)
        >>> errors = guide_errors(bed.model, bed.guide, bed.x, sampler=HMC(200, 100, num_leapfrog=3))
        >>> bool(abs(errors.sd_ratio - 0.5).max() < 0.1)
        True
    """
    data, sampler = (
        place(as_dataset(data), model, guide),
        sampler or HMC(num_samples=500, num_warmup=200),
    )
    chains = sample_posterior(
        model, guide, data, sampler=sampler, num_chains=num_chains, seed=derived_seed(seed, 0)
    )
    method, parts = GuideDraws(sampler.num_samples * num_chains), []
    for first in range(0, len(data), rows := method.rows(len(data))):
        parts.append(
            method.draw(model, guide, data[first : first + rows], seed=derived_seed(seed, 1, first))
        )
    draws = {name: torch.cat([part[name] for part in parts], 1) for name in chains.sites}
    draws = {
        name: values.unflatten(0, (sampler.num_samples, num_chains))
        for name, values in draws.items()
    }
    names = [
        dim
        for name, values in chains.sites.items()
        for dim in dimension_names(name, tuple(values.shape[3:]))
    ]
    where = data.coords[data.dims[0]]
    return GuideErrors(
        **_errors(chains, draws),
        names=tuple(names),
        posterior=_by_chain(chains.sites),
        guide=_by_chain(draws),
        data=(
            data.dims[0],
            where.astype(str) if where.dtype == object else where,
        ),  # files hold no objects
    )


def _errors(chains: Chains, draws: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """All errors, (N, D)."""
    chains = replace(chains, draws=_flat(chains.sites))
    p, q = (each.flatten(0, 1).double().cpu().numpy() for each in (chains.draws, _flat(draws)))
    sd, ess = p.std(0, ddof=1), chains.ess()
    return {
        "shift": (q.mean(0) - p.mean(0)) / sd,
        "sd_ratio": q.std(0, ddof=1) / sd,
        "wasserstein": np.abs(np.sort(q, axis=0) - np.sort(p, axis=0)).mean(0) / sd,
        "by_chance": BY_CHANCE * np.sqrt(1 / len(q) + 1 / ess),
        "r_hat": chains.r_hat(),
        "ess": ess,
    }


def _flat(sites: dict[str, Tensor]) -> Tensor:
    """All sites side by side, (S, C, N, D)."""
    return torch.cat([values.reshape(*values.shape[:3], -1) for values in sites.values()], -1)


def _by_chain(sites: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """As ArviZ has it, (C, S, N, *event)."""
    return {name: values.transpose(0, 1).cpu().numpy() for name, values in sites.items()}


def _range(values: np.ndarray) -> str:
    return f"{np.median(values):8.2f}  {values.min():8.2f}  {values.max():8.2f}"
