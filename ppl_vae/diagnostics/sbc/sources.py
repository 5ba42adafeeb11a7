"""Sources of draws of z given x: the guide, its importance weights, or Hamiltonian Monte Carlo."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.hmc import HMC, Chains
from ppl_vae.hmc.posterior import sample_posterior_by_row
from ppl_vae.programs.inference import rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import LogTerms, Program, is_local, run_under_particles, sample_sites
from ppl_vae.runtime.seeding import seeded

__all__ = ["GuideDraws", "HMCDraws", "ImportanceDraws", "PosteriorDraws"]

ENOUGH_DATA = 100  # rows by which the correlation of the draws of a chain is estimated


class PosteriorDraws(ABC):
    """A way to draw z given x, S times per observation, with log-weights.

    Example:
        >>> isinstance(GuideDraws(), PosteriorDraws)
        True
    """

    chunk_size: int | None = None
    progress: bool = True

    @abstractmethod
    def rows(self, num_data: int) -> int:
        """Number of rows that `draw` should be given at once."""

    @abstractmethod
    def draw(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> dict[str, Tensor]:
        """Draws by latent site inside the data plate, (S, B, *plates, *event)."""

    def log_weights(self, terms: LogTerms) -> Tensor:
        """Log-weights of the draws, (S, B), from their densities; equal by default."""
        return terms.log_q.new_zeros(terms.log_q.shape)


@dataclass(frozen=True)
class FromGuide(PosteriorDraws):
    """S draws of the guide for each row, with any weights."""

    num_samples: int = 1000
    chunk_size: int | None = field(default=None, repr=False)
    progress: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        rows_per_chunk(1, self.num_samples, self.chunk_size)  # raises for numbers out of range

    def rows(self, num_data: int) -> int:
        """As many as fit in a chunk."""
        return rows_per_chunk(num_data, self.num_samples, self.chunk_size)

    def draw(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> dict[str, Tensor]:
        """S draws of the guide."""
        with evaluating(model, guide), seeded(seed):
            trace = run_under_particles(guide, self.num_samples, *arguments(data))
        sites = [s for s in sample_sites(trace) if is_local(s) and not s["is_observed"]]
        return {site["name"]: rows_first(site["value"], site) for site in sites}


@dataclass(frozen=True)
class GuideDraws(FromGuide):
    """Draws of q(z given x) itself.

    Args:
        num_samples: Number of draws S per observation. Errors in tails rarer than 1 / S are missed.
        chunk_size: (draw, row) pairs held at once.
        progress: Whether `calibration` shows a bar after two seconds.

    Raises:
        ValueError: fewer than one draw.

    Example:
        >>> GuideDraws(num_samples=500)
        GuideDraws(num_samples=500)
    """


@dataclass(frozen=True)
class ImportanceDraws(FromGuide):
    """Draws of the guide weighted by w = p(x, z) / q(z given x).

    They represent the posterior if S is large and k-hat is good.

    Args:
        num_samples: Number of draws S per observation.
        chunk_size: (draw, row) pairs held at once.
        progress: Whether `calibration` shows a bar after two seconds.

    Raises:
        ValueError: fewer than one draw.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9 (self-normalised importance
        sampling).

    Example:
        >>> ImportanceDraws(num_samples=500).rows(1000)
        20
    """

    def log_weights(self, terms: LogTerms) -> Tensor:
        """log w."""
        return terms.log_weights


@dataclass(frozen=True)
class HMCDraws(PosteriorDraws):
    """Draws of p(z given x) by Hamiltonian Monte Carlo, thinned until nearly independent.

    Chains start at the guide's draws. Every n-th draw of a chain is kept, where n draws are worth
    one independent draw by the effective sample size of means or of sds, whichever is smaller
    (median over rows and dimensions). Correlated draws would look like a posterior that is too
    narrow.

    Args:
        sampler: The `HMC` that draws.
        num_chains: Chains C per observation.
        chunk_size: (chain, row) pairs held at once.
        progress: Whether `calibration` shows a bar after two seconds.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms, arXiv:1804.06788, section 5.1
        (thinning).

    Example:
        >>> HMCDraws(HMC(num_samples=50)).num_chains
        4
    """

    sampler: HMC = field(default_factory=HMC)
    num_chains: int = 4
    chunk_size: int | None = field(default=None, repr=False)
    progress: bool = field(default=True, repr=False)

    def rows(self, num_data: int) -> int:
        """As many as fit in a chunk."""
        return rows_per_chunk(num_data, self.num_chains, self.chunk_size)

    def draw(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> dict[str, Tensor]:
        """The kept draws of all chains."""
        sizes: dict[str, Any] = {"num_chains": self.num_chains, "chunk_size": self.chunk_size}
        settings = sizes | {"sampler": self.sampler, "seed": seed}
        chains = sample_posterior_by_row(model, guide, data, **settings)
        n = draws_worth_one(chains)
        return {name: values[n - 1 :: n].flatten(0, 1) for name, values in chains.sites.items()}


def draws_worth_one(chains: Chains) -> int:
    """Number of draws of a chain that are worth one independent draw; 1 if it is not known.

    The means alone would give too few: the mean of draws that alternate around it is known well,
    but their spread is not.
    """
    some = replace(chains, draws=chains.draws[:, :, :ENOUGH_DATA])
    num_samples, num_chains = some.draws.shape[:2]
    ess = min(float(np.median(some.ess(method))) for method in ("bulk", "sd"))
    return min(math.ceil(num_samples * num_chains / ess), num_samples) if ess > 0 else 1
