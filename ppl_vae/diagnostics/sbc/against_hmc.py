"""The guide's draws of z given x compared with those of Hamiltonian Monte Carlo, for some rows."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.groups import group, rows_of_data, tree
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.sbc.sources import GuideDraws
from ppl_vae.hmc import HMC, Chains
from ppl_vae.hmc.chains import event_dims
from ppl_vae.hmc.posterior import sample_posterior_by_row
from ppl_vae.programs.inference import Inference, treat_alike
from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import derived_seed, seeded
from ppl_vae.runtime.text import table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GuideErrors", "guide_errors"]

CHAINS, GUIDE = range(2)  # random streams
LARGEST_R_HAT = 1.03
SMALLEST_ESS = 100
MASKS = 30  # draws at which masks are looked at, which may depend on other latents
BY_CHANCE = 1.2884  # sqrt(2 / pi) times the integral of sqrt(F (1 - F)) of a standard normal
ERRORS = ("shift", "sd_ratio", "wasserstein", "by_chance", "r_hat", "ess")
ABOUT = {
    "posterior": "Draws of p(z given x) by Hamiltonian Monte Carlo.",
    "guide": "As many draws of q(z given x).",
    "guide_errors": "Errors of the guide, in sds of the chains; r_hat and ess of the chains.",
}


@dataclass(frozen=True)
class GuideErrors(Shown):
    """Differences of the guide's draws from those of p(z given x), per row and latent dimension.

    If Hamiltonian Monte Carlo has not converged (`converged` is false), the numbers carry no
    information about the guide. Where a latent is masked they are NaN: x carries no information
    about it, and its draws under the guide are not used.

    Args:
        shift: (mean of q - mean of p) / sd of p, (N, D).
        sd_ratio: sd of q / sd of p, (N, D): below 1 the guide is too narrow.
        wasserstein: Wasserstein-1 distance in sds of p, (N, D).
        by_chance: Mean of that distance between two sets of draws of one normal, with the same
            effective number of draws.
        r_hat: Rank-normalised split R-hat of the chains, (N, D).
        ess: Their bulk effective sample size, (N, D).
        names: The latent dimensions.
        posterior: The chains by latent site, (C, S, N, *event).
        guide: As many draws of the guide, in the same shape.
        data: Name and coordinates of the rows.

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
        counted = ~np.isnan(self.shift)
        good = self.converged & counted
        num_rows, num_dims = good.shape
        lines = [
            f"guide against Hamiltonian Monte Carlo, {num_rows} rows x {num_dims} latent dimensions"
        ]
        if good.any():
            errors = {
                "shift of the mean, sd": np.abs(self.shift),
                "sd of q / sd of p": self.sd_ratio,
                "Wasserstein distance, sd": self.wasserstein,
                "  the same by chance": self.by_chance,
            }
            cells: list[tuple[str, ...]] = [("", "median", "least", "most")]
            for name, values in errors.items():
                found = (np.median(values[good]), values[good].min(), values[good].max())
                cells.append((name, *(f"{value:.2f}" for value in found)))
            distance = np.where(good, self.wasserstein, -np.inf)
            row, dim = np.unravel_index(distance.argmax(), good.shape)
            worst = f"worst: {self.names[dim]} of {self.data[0]} {self.data[1][row]}"
            lines += [table(cells), worst]
        if not counted.all():
            lines.append(f"masked latents are left out: {(~counted).sum()} of {counted.size}")
        if (counted & ~good).any():
            bad = f"{(counted & ~good).sum()} of {counted.sum()}"
            lines.append(f"the chains have not converged for {bad}: left out")
        return "\n".join(lines)

    def to_datatree(self) -> "xr.DataTree":
        """Groups posterior (the chains), guide (its draws, same shape) and guide_errors."""
        dim, rows = self.data
        errors = {name: ((dim, "dimension"), getattr(self, name)) for name in ERRORS}
        coords = {dim: rows, "dimension": self.names}
        return tree(
            posterior=self._draws("posterior"),
            guide=self._draws("guide"),
            guide_errors=group(errors, coords, description=ABOUT["guide_errors"]),
        )

    def trees(self) -> dict[str, "xr.DataTree"]:
        """Trees of chains and guide for ArviZ: `plot_forest(errors.trees(), combined=True)`."""
        names = {"HMC": "posterior", "guide": "guide"}
        return {label: tree(posterior=self._draws(name)) for label, name in names.items()}

    def _draws(self, name: str) -> "xr.Dataset":
        """Draws of the "posterior" or of the "guide"."""
        dims = ("chain", "draw", self.data[0])
        variables = {
            site: ((*dims, *event_dims(site, values.shape[3:])), values)
            for site, values in getattr(self, name).items()
        }
        return group(variables, dict([self.data]), description=ABOUT[name])


def guide_errors(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    sampler: HMC | None = None,
    num_chains: int = 4,
    seed: int = 0,
) -> GuideErrors:
    """Mean shift, sd ratio and Wasserstein distance between q(z given x) and p(z given x).

    Draws of p(z given x) are by Hamiltonian Monte Carlo. This is for real observations, which
    `calibration` does not test. Chains are run for each row, so give only a few rows. They start at
    the guide's draws, so they may miss a mode that the guide misses.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 and continuous latents.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test[:20]`), or an array, tensor, DataFrame,
            DataArray.
        sampler: Settings of the chains; None is `HMC(num_samples=500, num_warmup=200)`.
        num_chains: Number of chains C per row.
        seed: Seed of the draws.

    Returns:
        The errors with R-hat and effective sample size; `print` them, or pass `to_datatree()` to
        ArviZ.

    Raises:
        ValueError: x is outside the support; a latent is discrete or outside the data plate.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901; Vehtari et al. (2021),
        arXiv:1903.08008.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=0.5)
        >>> sampler = HMC(200, 100, num_leapfrog=3)
        >>> errors = guide_errors(bed.model, bed.guide, bed.x, sampler=sampler)
        >>> bool(abs(errors.sd_ratio - 0.5).max() < 0.1)
        True
    """
    inference = Inference(model, guide, data)
    model, guide = inference.programs
    rows = inference.data
    treat_alike(rows, "guide_errors")
    sampler = sampler or HMC(num_samples=500, num_warmup=200)
    options: dict[str, Any] = {"sampler": sampler, "num_chains": num_chains}
    chains = sample_posterior_by_row(model, guide, rows, seed=derived_seed(seed, CHAINS), **options)
    method = GuideDraws(sampler.num_samples * num_chains)
    blocks = [*inference.blocks(method.rows(len(rows)), seed=seed, keys=(GUIDE,))]
    parts = [method.draw(model, guide, block.data, seed=block.seed) for block in blocks]
    counted = [_counted(model, guide, block.data, [*chains.sites]) for block in blocks]
    shape = (sampler.num_samples, num_chains)
    draws = {
        name: torch.cat([part[name] for part in parts], 1).unflatten(0, shape)
        for name in chains.sites
    }
    shapes = {name: tuple(values.shape[3:]) for name, values in chains.sites.items()}
    [(dim, names)] = rows_of_data(rows).items()
    return GuideErrors(
        **_errors(chains, draws, torch.cat(counted).cpu().numpy()),
        names=dimension_names(shapes),
        posterior=_by_chain(chains.sites),
        guide=_by_chain(draws),
        data=(dim, names),
    )


def _counted(model: Program, guide: Program, data: Dataset, names: list[str]) -> Tensor:
    """Which latent dimensions no draw masks, (B, D)."""
    with evaluating(model, guide), seeded(0):
        nodes: Any = log_terms(
            model, guide, *arguments(data), num_particles=MASKS
        ).model_trace.nodes
    masks = [rows_first(mask_of(nodes[name]), nodes[name]) for name in names]
    return torch.cat([mask.reshape(*mask.shape[:2], -1) for mask in masks], -1).all(0)


def _errors(chains: Chains, draws: dict[str, Tensor], counted: np.ndarray) -> dict[str, np.ndarray]:
    """All errors, (N, D); NaN for those of masked latents."""
    chains = replace(chains, draws=_flat(chains.sites))
    p, q = (each.flatten(0, 1).double().cpu().numpy() for each in (chains.draws, _flat(draws)))
    sd = np.where(counted, p.std(0, ddof=1), np.nan)
    ess = chains.ess()
    by_chance = BY_CHANCE * np.sqrt(1 / len(q) + 1 / ess)
    return {
        "shift": (q.mean(0) - p.mean(0)) / sd,
        "sd_ratio": q.std(0, ddof=1) / sd,
        "wasserstein": np.abs(np.sort(q, axis=0) - np.sort(p, axis=0)).mean(0) / sd,
        "by_chance": np.where(counted, by_chance, np.nan),
        "r_hat": chains.r_hat(),
        "ess": ess,
    }


def _flat(sites: dict[str, Tensor]) -> Tensor:
    """All sites side by side, (S, C, N, D)."""
    return torch.cat([values.reshape(*values.shape[:3], -1) for values in sites.values()], -1)


def _by_chain(sites: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """In ArviZ's order, (C, S, N, *event)."""
    return {name: values.transpose(0, 1).cpu().numpy() for name, values in sites.items()}
