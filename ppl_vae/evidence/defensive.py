"""Defensive importance sampling from a mixture of the guide and a wider proposal."""

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.families.densities import (
    ResidualLowRankNormal,
    StandardisedNormal,
    StandardisedStudentT,
)
from ppl_vae.families.densities.latents import BroadcastMixture, NormalChain
from ppl_vae.importance import particle_counts
from ppl_vae.model import Model
from ppl_vae.programs.discrete.cases import cases_of
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.traces import LogTerms, Program, log_density_at, log_terms
from ppl_vae.runtime.checks import one_of, real_number
from ppl_vae.runtime.seeding import seeded

__all__ = ["Defensive", "mixture_terms"]


@dataclass(frozen=True)
class Defensive:
    """Proposal (1 - share) q(z given x) + share r(z), where r is the prior or an inflated guide.

    A fixed share of the particles is drawn from each component, and every draw is weighted by the
    density of the whole mixture (the balance heuristic), so that w <= p(x, z) / (share r(z)),
    however narrow the guide is. If the guide was good, this costs a factor 1 / (1 - share) in
    particles.

    Args:
        component: "prior", or "inflated": the guide's normals, Student's t or mixtures of them,
            with `inflation` times their scales.
        share: Share of the particles from that component, in (0, 1).
        inflation: Factor on the scales.

    Raises:
        ValueError: share outside (0, 1), inflation not above 1, an unknown component.

    References:
        Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions,
        Technometrics 37; Veach and Guibas (1995), the balance heuristic.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import ImportanceSampling, log_evidence
        >>> bed = beds.linear_gaussian(num_data=20, guide_scale=0.4)
        >>> wider = Defensive("inflated", inflation=3.0)
        >>> methods = [ImportanceSampling(proposal=each) for each in ("guide", wider)]
        >>> plain, defended = (log_evidence(bed.model, bed.guide, bed.x, each) for each in methods)
        >>> bool(defended.pareto_k.max() < plain.pareto_k.min())
        True
    """

    component: Literal["prior", "inflated"] = "prior"
    share: float = 0.2
    inflation: float = 1.5

    def __post_init__(self) -> None:
        one_of(self.component, "Defensive(component)", ("prior", "inflated"))
        real_number(self.share, "Defensive(share)", above=0, below=1)
        real_number(self.inflation, "Defensive(inflation)", above=1)

    def strata(self, num_particles: int) -> list[int]:
        """Numbers of draws from the guide and from the other component, at least one each."""
        wide = min(max(1, round(self.share * num_particles)), num_particles - 1)
        return [num_particles - wide, wide]

    def iter_log_weights(
        self,
        model: Program,
        guide: Program,
        data: Dataset,
        *,
        num_particles: int,
        seed: int | None,
        chunk_size: int | None,
    ) -> Generator[Tensor]:
        """log p(x, z) - log mixture(z) at draws from one component after the other, (k, B) each."""
        is_inflated = self.component == "inflated"
        args = arguments(data)
        with evaluating(model, guide), seeded(seed):
            if is_inflated:
                wide = Inflated(self.inflation)(guide)
            else:
                wide = prior_guide(model, hides_marked=lacks_marked(model, guide, *args))
            proposals = list(zip((guide, wide), self.strata(num_particles), strict=True))
            for program, num_draws in proposals:
                for count in particle_counts(num_draws, chunk_size):
                    yield mixture_log_weights(model, proposals, (program, count), *args)


def mixture_terms(
    model: Program, proposals: Iterable[tuple[Program, int]], *args: Any
) -> tuple[list[LogTerms], Tensor]:
    """Terms for draws of each proposal, and log p(x, z) - log mixture(z) of all of them, (K, B).

    Args:
        model: The model.
        proposals: Guides, with the number of draws of each.
        args: Arguments of all of them.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms, log_w = mixture_terms(bed.model, [(bed.guide, 2), (bed.guide, 3)], bed.x)
        >>> len(terms), log_w.shape
        (2, torch.Size([5, 3]))
    """
    proposals = list(proposals)
    terms = [log_terms(model, program, *args, num_particles=count) for program, count in proposals]
    parts = [each.log_joint - _log_mixture(each, proposals, *args) for each in terms]
    return terms, torch.cat(parts)


def mixture_log_weights(
    model: Program, proposals: list[tuple[Program, int]], drawn: tuple[Program, int], *args: Any
) -> Tensor:
    """log p(x, z) - log mixture(z) at draws of one proposal, (k, B).

    Discrete latents are summed out if they are few.
    """
    program, count = drawn
    terms = log_terms(model, program, *args, num_particles=count)
    cases = cases_of(terms, model, program, *args)
    if cases is None:
        return terms.log_joint - _log_mixture(terms, proposals, *args)
    log_w = (
        each.log_joint - _log_mixture(each, proposals, *args, without=cases.names)
        for each in cases.terms
    )
    return cases.by_value(log_w).logsumexp(0)


def _log_mixture(
    terms: LogTerms, proposals: list[tuple[Program, int]], *args: Any, without: tuple[str, ...] = ()
) -> Tensor:
    """Log-density of the mixture of the proposals at these latents, but those left out, (K, B)."""
    total = sum(count for _, count in proposals)
    densities = []
    for program, count in proposals:
        if isinstance(program, PriorGuide):
            log_p = [value for name, value in terms.prior_sites.items() if name not in without]
            log_density = sum(log_p, torch.zeros_like(terms.log_likelihood))
        else:
            log_density = log_density_at(terms, program, *args, without=without)
        densities.append(log_density + math.log(count / total))
    return torch.stack(densities).logsumexp(0)


@dataclass(frozen=True)
class PriorGuide:
    """The model with some of its sites hidden, as a guide that proposes from the prior."""

    model: Program
    hides_marked: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        program = poutine.block(self.model, hide_fn=is_observation)
        if self.hides_marked:
            program = UnderOtherName()(program)
        return program(*args, **kwargs)


def is_observation(site: Any) -> bool:
    """Whether a site observes a value."""
    return site["type"] == "sample" and site["is_observed"]


class UnderOtherName(Messenger):
    """Makes sites that are marked for enumeration intermediate values, under names of their own.

    Hidden by `poutine.block` they would have no axis of particles.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if (msg["infer"] or {}).get("enumerate") == "parallel":
            msg["infer"] = {"_deterministic": True, "own_name": msg["name"]}
            msg["name"] = f"_{msg['name']}"

    def _pyro_post_sample(self, msg: Any) -> None:
        # The traces outside have recorded it; the program's form knows it by its own name.
        msg["name"] = (msg["infer"] or {}).get("own_name", msg["name"])


def prior_guide(model: Program, *, hides_marked: bool = False) -> PriorGuide:
    """The model with its observed sites hidden, as a guide that proposes from the prior.

    With `hides_marked` latents that it marks for enumeration are hidden as well, and so summed out:
    then the density of the others is that of their draws, and not what the guide's sites say.
    """
    return PriorGuide(model, hides_marked)


def lacks_marked(model: Program, guide: Program, *args: Any) -> bool:
    """Whether the model marks latents for enumeration that the guide lacks."""
    if isinstance(model, Model):
        return False
    with seeded(0):
        terms = log_terms(model, guide, *args)
    return bool(terms.summed)


class Inflated(Messenger):
    """Multiplies the scales of a guide's sites."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: Any) -> None:
        if not (site_is_subsample(msg) or msg["is_observed"]):
            msg["fn"] = inflate(msg["fn"], self.factor, msg["name"])


def inflate(distribution: Any, factor: float, name: str) -> Any:
    """The same normal, Student's t, or mixture or flow of them, with `factor` times its scales."""
    match distribution:
        case torch.distributions.Independent():
            base = inflate(distribution.base_dist, factor, name)
            return base.to_event(distribution.reinterpreted_batch_ndims)
        case dist.MaskedDistribution():
            return inflate(distribution.base_dist, factor, name).mask(distribution._mask)
        case torch.distributions.Normal():
            return StandardisedNormal(distribution.loc, factor * distribution.scale)
        case torch.distributions.StudentT():
            scale = factor * distribution.scale
            return StandardisedStudentT(distribution.df, distribution.loc, scale)
        case NormalChain():
            return distribution.inflated(factor)
        case torch.distributions.MixtureSameFamily():
            components = inflate(distribution.component_distribution, factor, name)
            return BroadcastMixture(distribution.mixture_distribution, components)
        case torch.distributions.LowRankMultivariateNormal():
            cov = factor * distribution.cov_factor, factor**2 * distribution.cov_diag
            return ResidualLowRankNormal(distribution.loc, *cov)
        case torch.distributions.MultivariateNormal():
            root = factor * distribution.scale_tril
            return dist.MultivariateNormal(distribution.loc, scale_tril=root)
        case torch.distributions.TransformedDistribution():
            base = inflate(distribution.base_dist, factor, name)
            return dist.TransformedDistribution(base, distribution.transforms)
    kind = type(distribution).__name__
    raise ValueError(f'site {name!r} is {kind}, which cannot be inflated: use Defensive("prior")')
