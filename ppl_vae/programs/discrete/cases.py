"""Discrete latents that the guide draws, at each of their values."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import batched
from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.masks import mask_of, unmasked
from ppl_vae.programs.particles import Program, Site
from ppl_vae.programs.plates import plates_first
from ppl_vae.programs.sites import (
    frame_of,
    inner_plates,
    is_deterministic,
    is_local,
    sample_sites,
)
from ppl_vae.programs.traces import LogTerms, drawing, log_terms, particles_of, run_under_particles

__all__ = [
    "MOST_CASES",
    "Cases",
    "cases_of",
    "discrete_latents",
    "drawn_at",
    "draws_discrete",
    "marginal_log_weights",
    "num_cases",
    "values_of",
]

PAIRS = 10_000  # of particles and rows in one run, unless one value has more
MOST_CASES = 1000  # values of all discrete latents together; beyond, they stay sampled

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Cases:
    """Terms of the same model and guide with the discrete latents y at each of their values.

    A value is a block of K particles: one run has several values, one after the other. A masked y
    has no density: it counts as uniform, in model and guide, so that sums over its values are
    means.

    Args:
        names: The discrete latents.
        terms: The terms of each run.
        num_particles: Number of particles K of each value.

    Example:
        >>> Cases(("y",), (), 1).names
        ('y',)
    """

    names: tuple[str, ...]
    terms: tuple[LogTerms, ...]
    num_particles: int

    @property
    def log_q_discrete(self) -> Tensor:
        """log q(y given x) at each value, (values, K, B)."""
        return self.by_value(self._log_q_discrete(each) for each in self.terms)

    @property
    def log_weights(self) -> Tensor:
        """log p(x, y, z_y) - log q(z_y given x, y) at each value, (values, K, B)."""
        return self.by_value(each.log_weights + self._log_q_discrete(each) for each in self.terms)

    def by_value(self, runs: Iterable[Tensor]) -> Tensor:
        """Numbers of each run, (values x K, B), as (values, K, B)."""
        return torch.cat(list(runs)).unflatten(0, (-1, self.num_particles))

    def mean(self, runs: Iterable[Tensor]) -> Tensor:
        """Numbers of each run, (values x K, B), weighed by q(y given x), (K, B)."""
        share = self.log_q_discrete.double().exp()
        return (share * torch.where(share > 0, self.by_value(runs), 0.0)).sum(0)

    def _log_q_discrete(self, terms: LogTerms) -> Tensor:
        """log q(y given x) of one run, (values x K, B)."""
        return torch.stack([terms.posterior_sites[name] for name in self.names]).sum(0)


def marginal_log_weights(terms: LogTerms, model: Program, guide: Program, *args: Any) -> Tensor:
    """log sum_y p(x, y, z_y) / q(z_y given x, y), z_y ~ q(z given x, y), (K, B).

    It is log w itself where the guide draws no discrete latent, or one of more than 1,000 values.

    Args:
        terms: One run of model and guide.
        model: The model.
        guide: The guide.
        args: Arguments of both.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models,
        arXiv:1406.5298, eq. 7 (its bound).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x)
        >>> log_w = marginal_log_weights(terms, bed.model, bed.guide, bed.x)
        >>> bool((log_w == terms.log_weights).all())
        True
    """
    cases = cases_of(terms, model, guide, *args)
    return terms.log_weights if cases is None else cases.log_weights.logsumexp(0)


def cases_of(terms: LogTerms, model: Program, guide: Program, *args: Any) -> Cases | None:
    """The terms with the discrete latents of the guide at each of their values, or None.

    Latents that the guide draws before the first of them keep their draws; those after it are drawn
    anew for each value.

    Args:
        terms: One run of model and guide.
        model: The model.
        guide: The guide.
        args: Arguments of both.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> cases_of(log_terms(bed.model, bed.guide, bed.x), bed.model, bed.guide, bed.x) is None
        True
    """
    sites = sample_sites(terms.guide_trace)
    latents = [s for s in sites if not (s["is_observed"] or is_deterministic(s))]
    found = discrete_latents(latents)
    if not found:
        return None
    particles = particles_of(terms.guide_trace)
    first = latents.index(next(site for site in latents if site["name"] in found))
    kept = [site for i, site in enumerate(latents) if i < first or not frame_of(site)]
    num_pairs = terms.log_likelihood.numel()
    parts = []
    for values in batched(all_cases(found, terms.guide_trace), max(1, PAIRS // num_pairs)):
        together = {name: torch.cat([each[name] for each in values]) for name in found}
        together |= {site["name"]: _repeated(site, len(values)) for site in kept}
        drawn = log_terms(
            model,
            drawing(guide, together),
            *args,
            num_particles=len(values) * particles.size,
            max_plate_nesting=particles.max_plate_nesting,
        )
        parts.append(_uniform_where_masked(drawn, found))
    return Cases(tuple(found), tuple(parts), particles.size)


def _repeated(site: Site, times: int) -> Tensor:
    """The draws of a site for several blocks of particles; one outside the plate is shared."""
    value: Tensor = site["value"]
    return value.repeat(times, *[1] * (value.dim() - 1)) if frame_of(site) else value


def drawn_at(
    case: Values, model: Program, guide: Program, *args: Any, num_particles: int = 1
) -> LogTerms:
    """One run of model and guide with these values of discrete latents.

    Args:
        case: The values, by site, each as `values_of` has it.
        model: The model.
        guide: The guide.
        args: Arguments of both.
        num_particles: Number of particles K.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> drawn_at({}, bed.model, bed.guide, bed.x, num_particles=2).log_q.shape
        torch.Size([2, 3])
    """
    terms = log_terms(model, guide, *args, num_particles=num_particles)
    if not case:
        return terms
    nodes: Any = terms.guide_trace.nodes
    kept = {site["name"]: site["value"] for site in terms.global_latents}
    values = {name: value.expand(nodes[name]["value"].shape) for name, value in case.items()}
    return log_terms(
        model,
        drawing(guide, kept | values),
        *args,
        num_particles=num_particles,
        max_plate_nesting=particles_of(terms.guide_trace).max_plate_nesting,
    )


def discrete_latents(sites: list[Site]) -> dict[str, Tensor]:
    """All values of each discrete latent in the data plate, by name; none if there are too many.

    Args:
        sites: Latent sites of a trace under particles.

    Example:
        >>> discrete_latents([])
        {}
    """
    known = {site["name"]: values_of(site) for site in sites if is_local(site)}
    found = {name: values for name, values in known.items() if values is not None}
    too_many = math.prod(map(len, found.values())) > MOST_CASES
    return {} if too_many else found


def draws_discrete(guide: Program, *args: Any) -> bool:
    """Whether a guide draws discrete latents of so few values that they are summed out.

    Args:
        guide: The guide.
        args: Its arguments.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> draws_discrete(bed.guide, bed.x)
        False
    """
    return bool(_drawn_values(guide, *args))


def num_cases(guide: Program, *args: Any) -> int:
    """Number of combinations of values of the discrete latents that are summed out; 1 without any.

    Args:
        guide: The guide.
        args: Its arguments.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> num_cases(bed.guide, bed.x)
        1
    """
    return math.prod(map(len, _drawn_values(guide, *args).values()))


def _drawn_values(guide: Program, *args: Any) -> Values:
    """All values of each discrete latent of a guide, if they are not too many."""
    sites = sample_sites(run_under_particles(guide, 1, *args))
    return discrete_latents([site for site in sites if not site["is_observed"]])


def values_of(site: Site) -> Tensor | None:
    """All values that a site may take, (values, *plates, 1, *event), or None.

    Entries of a vector, and those in plates inside the data plate, are combined.

    Args:
        site: A site of a trace under particles.

    Example:
        >>> import pyro
        >>> from ppl_vae.programs.traces import run_under_particles
        >>> def program():
        ...     with pyro.plate("data", 5, dim=-1):
        ...         pyro.sample("y", pyro.distributions.Bernoulli(torch.ones(2) / 2).to_event(1))
        >>> values_of(run_under_particles(program, 3).nodes["y"])[:, 0].tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    base, shape = _entries(site)
    if not base.has_enumerate_support:
        return None
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:  # it depends on the row
        return None
    values = values.reshape(len(values), *base.event_shape)
    num_entries = shape.numel()
    if num_entries * math.log(len(values)) > math.log(MOST_CASES) + 1e-9:
        return None
    index = torch.arange(len(values), device=values.device)
    each = torch.cartesian_prod(*[index] * num_entries).reshape(-1, num_entries)
    together = values[each].reshape(len(each), 1, *shape, *base.event_shape)
    return plates_first(together, site)


def all_cases(found: Values, trace: Any) -> list[Values]:
    """Each combination of the values of these sites, in the shape that a trace has them in."""
    cases: list[Values] = [{}]
    for name, values in found.items():
        shape = trace.nodes[name]["value"].shape
        cases = [case | {name: value.expand(shape)} for case in cases for value in values]
    return cases


def _entries(site: Site) -> tuple[Any, torch.Size]:
    """The distribution of one entry of a site, and the shape of its entries within a row."""
    base = unmasked(site["fn"])
    shape = inner_plates(site)
    if isinstance(base, torch.distributions.Independent):
        inner = base.reinterpreted_batch_ndims
        base = base.base_dist
        shape = shape + base.batch_shape[len(base.batch_shape) - inner :]
    return base, torch.Size(shape)


def _uniform_where_masked(terms: LogTerms, found: Values) -> LogTerms:
    """The terms with - log C for each masked entry of a discrete latent of C values."""
    log_p = dict(terms.prior_sites)
    log_q = dict(terms.posterior_sites)
    for name in found:
        site = terms.guide_trace.nodes[name]
        if site["mask"] is None and unmasked(site["fn"]) is site["fn"]:
            continue
        missing = ~mask_of(site)
        base, shape = _entries(site)
        batch = missing.shape[: missing.dim() - site["fn"].event_dim]
        by_entry = missing.reshape(*batch, -1, base.event_shape.numel()).all(-1)
        by_row = by_entry.sum(-1)
        count = by_row.flatten(1, -2).sum(1) if by_row.dim() > 2 else by_row
        uniform = -count * (math.log(len(found[name])) / shape.numel())
        log_q[name] = log_q[name] + uniform
        if name in log_p:
            log_p[name] = log_p[name] + uniform
    return replace(terms, prior_sites=log_p, posterior_sites=log_q)
