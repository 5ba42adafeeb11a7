"""Upper bounds on log p(x) of real rows: the chi bound, and annealing backwards from HMC draws."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.annealing.ais import AIS
from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.result import Evidence
from ppl_vae.evidence.weights import reduce_log_weights
from ppl_vae.hmc import HMC, Chains
from ppl_vae.hmc.chains import joined
from ppl_vae.hmc.posterior import sample_posterior_by_row
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, real_number, whole_fields, whole_number
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["ChiUpperBound", "ReverseAIS"]

FROM_GUIDE, FROM_PRIOR = 10, 11  # keys of the seed, beside those of AIS


@dataclass(frozen=True)
class ChiUpperBound:
    """1/n log E_q[w^n] >= log p(x), estimated by 1/n log mean_k w_k^n (CUBO): stochastic, and
    biased low.

    It is an upper bound in the limit: the log of a mean is biased low, so for finite K the estimate
    may lie below log p(x), and does if w^n has no finite variance (its k-hat, in `pareto_k`, is
    about n times that of w). If it is reliable, log p(x) itself can be estimated, so it never
    decides a verdict of `evidence_interval`. It measures the quality of the guide as a proposal: it
    is never below the importance-sampling estimate from the same draws, and equals it for an exact
    guide.

    Args:
        num_particles: Number of particles K per row.
        order: n, at least 1.
        chunk_size: (particle, row) pairs held at once; bounds the memory.

    Raises:
        ValueError: order below 1, fewer than one particle.

    References:
        Dieng et al. (2017), Variational inference via chi upper bound minimization,
        arXiv:1611.00328, eq. 4.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed = beds.linear_gaussian(num_data=3, guide_scale=1.3)
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, ChiUpperBound(1000))
        >>> bool((evidence.log_evidence > bed.log_evidence.numpy()).all()), evidence.bound
        (True, 'upper in the limit')
    """

    num_particles: int = 1000
    order: float = 2.0
    chunk_size: int | None = None
    bound: ClassVar = "upper in the limit"

    def __post_init__(self) -> None:
        whole_fields(self, num_particles=1, chunk_size=1)
        real_number(self.order, "ChiUpperBound(order)", at_least=1)

    @property
    def _sampling(self) -> ImportanceSampling:
        return ImportanceSampling(self.num_particles, chunk_size=self.chunk_size)

    def rows(self, num_data: int) -> int:
        """Number of rows that `estimate` should be given at once."""
        return self._sampling.rows(num_data)

    def warn(self) -> None:
        """Warn if these settings leave a diagnostic unknown."""
        self._sampling.warn()

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """The bound for a block of rows."""
        log_w = self._sampling.log_weights(model, guide, data, self.num_particles, seed)
        moment = reduce_log_weights(self.order * log_w)  # its evidence is log E[w^n]
        scaled: Any = {
            name: getattr(moment, name) / self.order
            for name in ("log_evidence", "mc_se", "smoothed")
        }
        return replace(moment, **scaled, elbo=log_w.mean(0, dtype=np.float64), bound=self.bound)


@dataclass(frozen=True)
class ReverseAIS:
    """- log mean_c 1 / w_c >= log p(x), w of chains annealed backwards from HMC draws of p(z|x).

    E[1 / w] = 1 / p(x) from exact draws: then it is an upper bound in expectation, biased high.
    From HMC draws it inherits the bias of the sampler: a mode that no chain visits is missing from
    the bound, which is then as low as an importance-sampling estimate that misses the mode. Half of
    the HMC chains start at draws of the guide and half at draws of the prior, so that R-hat reveals
    modes that the guide alone misses; R-hat cannot reveal modes that neither reaches. `checks`
    holds "r_hat" and "chain_ess", the worst over the dimensions, and the share of "divergences";
    `evidence_interval` uses the bound if they are good. The starts are spaced evenly over all
    chains, several effective draws apart, so the standard error of independent chains applies.

    Args:
        annealed: The path, its moves and the number of annealed chains, `num_chains`.
        sampler: The HMC that draws the starts.
        num_chains: HMC chains per row, at least 2; half from the guide, half from the prior.

    Raises:
        ValueError: fewer than 2 chains of either kind; latents that are discrete or outside the
            data plate.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood, arXiv:1511.02543;
        Wu et al. (2017), On the quantitative analysis of decoder-based generative models,
        arXiv:1611.04273.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import log_evidence
        >>> bed = beds.gamma_poisson(num_data=3, guide_scale=0.6)
        >>> method = ReverseAIS(AIS(32, 6), HMC(num_samples=160, num_warmup=60, num_leapfrog=2))
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, method)
        >>> lowest = bed.log_evidence.numpy() - 4 * evidence.mc_se
        >>> bool((evidence.log_evidence > lowest).all()), evidence.bound
        (True, 'upper if converged')
    """

    annealed: AIS = AIS()
    sampler: HMC = field(default_factory=lambda: HMC(num_samples=300, num_warmup=200))
    num_chains: int = 8
    bound: ClassVar = "upper if converged"

    def __post_init__(self) -> None:
        instance_of(self.annealed, "ReverseAIS(annealed)", AIS)
        instance_of(self.sampler, "ReverseAIS(sampler)", HMC)
        whole_fields(self, num_chains=2)
        whole_number(self.annealed.num_chains, "ReverseAIS(annealed.num_chains)", at_least=2)

    def rows(self, num_data: int) -> int:
        """Number of rows that `estimate` should be given at once."""
        return self.annealed.rows(num_data)

    def warn(self) -> None:
        """Warn if these settings leave a diagnostic unknown."""
        self.annealed.warn()

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """The bound for a block of rows."""
        chains = self.chains(model, guide, data, seed=seed)
        starts = spaced(chains, self.annealed.num_chains)
        log_w = self.annealed.reverse_log_weights(model, guide, data, starts, seed=seed)
        inverse = reduce_log_weights(-log_w.cpu().numpy())
        negated = {name: -getattr(inverse, name) for name in ("log_evidence", "elbo", "smoothed")}
        return replace(inverse, **negated, bound=self.bound, checks=_checks(chains))

    def chains(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None = 0
    ) -> Chains:
        """The HMC chains that draw the starts, those from the guide first."""
        num_guided = self.num_chains // 2
        starts = (
            (guide, num_guided, FROM_GUIDE),
            (prior_guide(model, hides_marked=True), self.num_chains - num_guided, FROM_PRIOR),
        )
        parts = []
        with evaluating(model, guide):
            for program, count, key in starts:
                settings: Any = {"num_chains": count, "sampler": self.sampler}
                settings["seed"] = derived_seed(seed, key)
                parts.append(sample_posterior_by_row(model, program, data, **settings))
        return joined(parts, "chains")


def spaced(chains: Chains, num: int) -> dict[str, Tensor]:
    """Evenly spaced draws of each site, (num, B, *event), as many of each chain."""
    num_samples, num_chains = chains.draws.shape[:2]
    each = math.ceil(num / num_chains)
    times = (torch.arange(1, each + 1) * num_samples).div(each, rounding_mode="floor") - 1
    order = torch.arange(num)
    return {
        name: z[times.clamp(min=0)[order // num_chains], order % num_chains]
        for name, z in chains.sites.items()
    }


def _checks(chains: Chains) -> dict[str, np.ndarray]:
    """The worst R-hat and effective sample size over the dimensions, and the divergent share."""
    share = chains.divergences.double().mean(0) / len(chains.draws)
    # chains that never move have an infinite R-hat, or none
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "r_hat": chains.r_hat().max(-1),
            "chain_ess": chains.ess().min(-1),
            "divergences": share.cpu().numpy(),
        }
