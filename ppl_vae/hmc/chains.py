"""Draws of many chains for many rows, with their diagnostics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.validation import storable
from ppl_vae.runtime.arviz import chain_diagnostic
from ppl_vae.runtime.display import Shown

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Chains", "ChainsSummary"]


@dataclass(frozen=True)
class ChainsSummary(Shown):
    """The worst of all chains.

    Args:
        r_hat: Largest R-hat over rows and dimensions.
        ess: Smallest effective sample size.
        accept: Mean acceptance probability.
        num_divergences: Diverged trajectories after warm-up, in all.
        num_transitions: Transitions after warm-up, in all.

    References:
        Vehtari et al. (2021), Rank-normalization, folding and localization: an improved R-hat,
        arXiv:1903.08008.

    Example:
        >>> str(ChainsSummary(1.004, 812.0, 0.83, 0, 80_000))
        'R-hat <= 1.004, ESS >= 812, acceptance 0.83, 0 of 80000 transitions diverged'
    """

    r_hat: float
    ess: float
    accept: float
    num_divergences: int
    num_transitions: int

    def __str__(self) -> str:
        return (
            f"R-hat <= {self.r_hat:.3f}, ESS >= {self.ess:.0f}, acceptance {self.accept:.2f}, "
            f"{self.num_divergences} of {self.num_transitions} transitions diverged"
        )


@dataclass(frozen=True)
class Chains(Shown):
    """Draws of C chains for each of B rows: `chains["z"]` is (S, C, B, *plates, *event), in the
    site's own support.

    Judge them by R-hat and the effective sample size, per row and dimension, in unconstrained
    space. A single chain cannot reveal that it is stuck: run four. Chains over latents that rows
    share have one posterior for all rows: then B is 1 in what follows, D counts the shared latents
    (first) and those of all rows, and a shared site is (S, C, *shape).

    Args:
        draws: Unconstrained, (S, C, B, D).
        accept: Mean acceptance probability after warm-up, (C, B).
        step_size: Adapted step size, in units of the adapted scale, (C, B).
        divergences: Number of diverged trajectories after warm-up, (C, B).
        sites: The draws of each latent site by name; empty if a bare density was sampled.
        shared: Names of the sites that all rows share.
        rows: Dim and names of the rows.

    Example:
        >>> import torch
        >>> from ppl_vae.hmc import HMC
        >>> standard_normal = lambda u: -0.5 * u.square().sum(-1)
        >>> chains = HMC(num_samples=10).run(standard_normal, torch.zeros(2, 3, 1))
        >>> chains.draws.shape, chains.r_hat().shape
        (torch.Size([10, 2, 3, 1]), (3, 1))
    """

    draws: Tensor
    accept: Tensor
    step_size: Tensor
    divergences: Tensor
    sites: dict[str, Tensor] = field(default_factory=dict, repr=False)
    shared: tuple[str, ...] = ()
    rows: tuple[str, np.ndarray] | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.sites[name]

    def r_hat(self) -> np.ndarray:
        """Rank-normalised split R-hat, (B, D), of Vehtari et al. (2021): 1.01 at most is good."""
        return self._diagnose("rhat")

    def ess(self, method: str = "bulk") -> np.ndarray:
        """Effective sample size, (B, D); any of ArviZ's methods. Vehtari et al. (2021)."""
        return self._diagnose("ess", method=method)

    def mcse(self, method: str = "mean") -> np.ndarray:
        """Monte Carlo standard error of the mean or the "sd", (B, D). Vehtari et al. (2021)."""
        return self._diagnose("mcse", method=method)

    def _diagnose(self, name: str, **options: Any) -> np.ndarray:
        return chain_diagnostic(name, self.draws.double().cpu().numpy(), **options)

    def to_datatree(self) -> "xr.DataTree":
        """Group posterior with dims (chain, draw, datum, ...), or (chain, draw, ...) of a shared
        site; group sample_stats with accept, step_size and divergences.

        Example:
            >>> from ppl_vae import beds
            >>> from ppl_vae.hmc import HMC, sample_posterior
            >>> bed = beds.linear_gaussian(num_data=3)
            >>> chains = sample_posterior(bed.model, bed.guide, bed.x, sampler=HMC(20, 20))
            >>> dict(chains.to_datatree().posterior.sizes)
            {'chain': 4, 'draw': 20, 'datum': 3, 'latent': 2}
        """
        import xarray as xr

        row_dim, names = self.rows or ("datum", np.arange(self.draws.shape[2]))
        posterior = {}
        for name, values in (self.sites or {"u": self.draws}).items():
            dims = ("chain", "draw") if name in self.shared else ("chain", "draw", row_dim)
            array = values.transpose(0, 1).cpu().numpy()
            posterior[name] = ((*dims, *event_dims(name, array.shape[len(dims) :])), array)
        stats = {}
        for name in ("accept", "step_size", "divergences"):
            array = getattr(self, name).cpu().numpy()
            by_row = array.shape[1] == len(names)  # else of all rows together
            stats[name] = (("chain", row_dim), array) if by_row else (("chain",), array[:, 0])
        coords = {row_dim: storable(names)}
        groups = {"posterior": posterior, "sample_stats": stats}
        return xr.DataTree.from_dict({name: _group(each, coords) for name, each in groups.items()})

    def summary(self) -> ChainsSummary:
        """The worst R-hat and effective sample size, the mean acceptance, all divergences."""
        return ChainsSummary(
            r_hat=float(self.r_hat().max()),
            ess=float(self.ess().min()),
            accept=self.accept.mean().item(),
            num_divergences=int(self.divergences.sum()),
            num_transitions=len(self.draws) * self.divergences.numel(),
        )


def event_dims(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the dims of one row at a latent site, those of `to_datatree`."""
    if len(shape) == 1:
        return ("latent",) if name == "z" else (f"{name}_dim",)
    return tuple(f"{name}_dim_{i}" for i in range(len(shape)))


def _group(variables: dict[str, Any], coords: dict[str, np.ndarray]) -> "xr.Dataset":
    """Variables with their dims numbered from 0, but for those that have names."""
    import xarray as xr

    group = xr.Dataset(variables)
    numbers = {str(dim): np.arange(size) for dim, size in group.sizes.items()}
    return group.assign_coords({dim: coords.get(dim, each) for dim, each in numbers.items()})


def joined(parts: Sequence[Chains], over: Literal["chains", "rows"]) -> Chains:
    """More chains for the same rows, or the chains of more rows, in order."""
    axis = ("chains", "rows").index(over)  # of (C, B)

    def join(name: str, num_lead: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], num_lead + axis)

    return Chains(
        draws=join("draws", 1),
        accept=join("accept", 0),
        step_size=join("step_size", 0),
        divergences=join("divergences", 0),
        sites={
            name: torch.cat([part[name] for part in parts], 1 + axis) for name in parts[0].sites
        },
    )
