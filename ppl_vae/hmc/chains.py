"""Draws of many chains for many rows, with their diagnostics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.runtime.arviz import chain_diagnostic
from ppl_vae.runtime.display import Shown

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
    space. A single chain cannot reveal that it is stuck: run four.

    Args:
        draws: Unconstrained, (S, C, B, D).
        accept: Mean acceptance probability after warm-up, (C, B).
        step_size: Adapted step size, in units of the adapted scale, (C, B).
        divergences: Number of diverged trajectories after warm-up, (C, B).
        sites: The draws of each latent site by name; empty if a bare density was sampled.

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

    def summary(self) -> ChainsSummary:
        """The worst R-hat and effective sample size, the mean acceptance, all divergences."""
        return ChainsSummary(
            r_hat=float(self.r_hat().max()),
            ess=float(self.ess().min()),
            accept=self.accept.mean().item(),
            num_divergences=int(self.divergences.sum()),
            num_transitions=len(self.draws) * self.divergences.numel(),
        )


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
