"""Parameters for each row from draws of its posterior."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppl_vae.families.posteriors import FLOOR, FullRankNormal, Posterior
from ppl_vae.hmc import HMC
from ppl_vae.hmc.posterior import run_chains
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.task import Task
from ppl_vae.runtime.checks import instance_of, real_number, whole_fields

__all__ = ["SampledRefinement"]


@dataclass(frozen=True)
class SampledRefinement:
    """A normal with mean and full covariance of HMC draws from p(z given x), slightly inflated.

    It is a normal in unconstrained space. The covariance of S x C draws is shrunk towards its
    diagonal with the weight of D + 2 draws. It suits a posterior with one mode; with several modes,
    chains that start in one mode stay there.

    Args:
        sampler: The `HMC` that draws.
        num_chains: Chains C per row, started at the guide's draws.
        inflation: Factor on the standard deviations; above 1, so that importance weights stay
            bounded if the tails are normal.
        chunk_size: (chain, row) pairs held at once.

    Raises:
        ValueError: inflation that is not positive.

    References:
        Hoffman (2017), Learning deep latent Gaussian models with Markov chain Monte Carlo, ICML
        (HMC from an encoder's draws).

    Example:
        >>> SampledRefinement(HMC(num_samples=200), num_chains=2).inflation
        1.1
    """

    sampler: HMC = field(default_factory=HMC)
    num_chains: int = 4
    inflation: float = 1.1
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_chains=1, chunk_size=1)
        real_number(self.inflation, "SampledRefinement(inflation)", above=0)
        instance_of(self.sampler, "SampledRefinement(sampler)", HMC)

    @property
    def num_particles(self) -> int:
        """The chains."""
        return self.num_chains

    @property
    def num_ticks(self) -> int:
        """One for each block of rows."""
        return 1

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """`FullRankNormal`."""
        return FullRankNormal(latent_dim)

    def parameters(self, task: Task, tick: Callable[[], Any]) -> Tensor:
        """The normal at the draws' moments."""
        if task.case:
            raise ValueError(
                f"latent site {next(iter(task.case))!r} is discrete: chains sum it out, and give "
                "no draws for each of its values; use GradientRefinement()"
            )
        chains = run_chains(
            *task.given(), *task.args, num_chains=self.num_chains, sampler=self.sampler
        )
        tick()
        u = chains.draws.flatten(0, 1)
        shrinkage = u.shape[-1] + 2
        mean = u.mean(0)
        residual = u - mean
        total = torch.einsum("sbi,sbj->bij", residual, residual)
        variance = residual.square().mean(0) + FLOOR**2
        covariance = (total + shrinkage * torch.diag_embed(variance)) / (len(u) + shrinkage)
        root = self.inflation * torch.linalg.cholesky(covariance)
        return task.family.raw_of(mean, root)
