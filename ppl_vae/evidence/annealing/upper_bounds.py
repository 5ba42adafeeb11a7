"""Upper bounds on log p(x) of real data: the chi bound, and annealing backwards from draws of long
chains.
"""

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
from ppl_vae.evidence.result import Evidence, reduce_log_weights
from ppl_vae.hmc import HMC, Chains, sample_posterior
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import instance_of, real_number, whole_fields, whole_number
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["ChiUpperBound", "ReverseAIS"]

FROM_GUIDE, FROM_PRIOR = 10, 11  # what the parts of one seed are for, beside those of AIS


@dataclass(frozen=True)
class ChiUpperBound:
    """1/n log E_q[w^n] >= log p(x), estimated by 1/n log mean_k w_k^n (CUBO): stochastic, and
    biased low.

    An upper bound in the limit: the log of a mean is low, so that for finite K the estimate may lie
    below log p(x), and does where w^n has no variance (its k-hat, which `pareto_k` holds, is about
    n times that of w). Where it can be believed log p(x) itself can be estimated: it never decides
    a verdict of `evidence_interval`. It tells how good a proposal the guide is: never below the
    importance-sampled estimate of the same draws, and equal to it for an exact guide.

    Args:
        num_particles: Number of particles K per datum.
        order: n, at least 1.
        chunk_size: (particle, datum) pairs held at once; bounds the memory.

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
        """How many data `estimate` should be given at once."""
        return self._sampling.rows(num_data)

    def warn(self) -> None:
        """Warn of what these settings cannot tell."""
        self._sampling.warn()

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """The bound for a block of data."""
        log_w = self._sampling.log_weights(model, guide, data, self.num_particles, seed)
        moment = reduce_log_weights(
            self.order * log_w
        )  # log E[w^n] is the evidence of the weights w^n
        return replace(
            moment,
            log_evidence=moment.log_evidence / self.order,
            mc_se=moment.mc_se / self.order,
            smoothed=moment.smoothed / self.order,
            elbo=log_w.mean(0, dtype=np.float64),
            bound=self.bound,
        )


@dataclass(frozen=True)
class ReverseAIS:
    """- log mean_c 1 / w_c >= log p(x), w of chains annealed backwards from draws of p(z given x)
    by long HMC.

    E[1 / w] = 1 / p(x) from exact draws: then an upper bound in expectation, stochastic, and biased
    high. From HMC draws it is biased as the sampler is: a mode that no chain visits is missing from
    the bound, which then lies below log p(x) by as much as importance sampling would that misses it
    too. Half of the HMC chains start at draws of the guide and half at draws of the prior, so that
    R-hat can tell when the guide knows only some of the modes; what neither leads to, R-hat does
    not see. `checks` holds "r_hat" and "chain_ess", the worst over the dimensions, and the share of
    "divergences"; `evidence_interval` claims the bound where they are good. The starts are spaced
    evenly over all chains, several effective draws apart, and so the standard error is that of
    independent chains.

    Args:
        annealed: The path and its moves, of `num_chains` chains.
        sampler: The HMC that draws the starts.
        num_chains: HMC chains per datum, at least 2; half from the guide, half from the prior.

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
        >>> bool((evidence.log_evidence > bed.log_evidence.numpy() - 4 * evidence.mc_se).all()), evidence.bound
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
        """How many data `estimate` should be given at once."""
        return self.annealed.rows(num_data)

    def warn(self) -> None:
        """Warn of what these settings cannot tell."""
        self.annealed.warn()

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """The bound for a block of data."""
        chains = self.chains(model, guide, data, seed=seed)
        starts = spaced(chains, self.annealed.num_chains)
        log_w = (
            self.annealed.reverse_log_weights(model, guide, data, starts, seed=seed).cpu().numpy()
        )
        return replace(_inverse(log_w), checks=_checks(chains))

    def chains(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None = 0
    ) -> Chains:
        """The HMC chains that draw the starts, those from the guide first."""
        parts, num_guided = [], self.num_chains // 2
        with evaluating(model, guide):
            for program, count, part in (
                (guide, num_guided, FROM_GUIDE),
                (prior_guide(model), self.num_chains - num_guided, FROM_PRIOR),
            ):
                part_seed = None if seed is None else derived_seed(seed, part)
                settings: Any = {"num_chains": count, "sampler": self.sampler, "seed": part_seed}
                parts.append(sample_posterior(model, program, data, **settings))
        return _together(*parts)


def spaced(chains: Chains, num: int) -> dict[str, Tensor]:
    """That many draws of each site, (num, B, *event): as many of each chain, evenly spaced, the
    last one its last.
    """
    num_samples, num_chains = chains.draws.shape[:2]
    each = math.ceil(num / num_chains)
    times = (torch.arange(1, each + 1) * num_samples).div(each, rounding_mode="floor") - 1
    order = torch.arange(num)
    return {
        name: z[times.clamp(min=0)[order // num_chains], order % num_chains]
        for name, z in chains.sites.items()
    }


def _together(first: Chains, second: Chains) -> Chains:
    """Chains of the same data side by side."""
    sites = {name: torch.cat([first[name], second[name]], 1) for name in first.sites}
    return Chains(
        torch.cat([first.draws, second.draws], 1),
        torch.cat([first.accept, second.accept]),
        torch.cat([first.step_size, second.step_size]),
        torch.cat([first.divergences, second.divergences]),
        sites,
    )


def _inverse(log_weights: np.ndarray) -> Evidence:
    """Evidence of reverse chains, (C, B): - log mean_c 1 / w_c, and what the weights 1 / w say of
    it.
    """
    inverse = reduce_log_weights(-log_weights)
    negated = {name: -getattr(inverse, name) for name in ("log_evidence", "elbo", "smoothed")}
    return replace(inverse, **negated, bound=ReverseAIS.bound)


def _checks(chains: Chains) -> dict[str, np.ndarray]:
    """The worst of R-hat and of the effective sample size over the dimensions, and the share of
    divergences.
    """
    num_transitions = len(chains.draws) * len(chains.divergences)
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # chains that never move have an infinite R-hat, or none
        r_hat, ess = chains.r_hat().max(-1), chains.ess().min(-1)
    divergences = chains.divergences.double().sum(0).cpu().numpy() / num_transitions
    return {"r_hat": r_hat, "chain_ess": ess, "divergences": divergences}
