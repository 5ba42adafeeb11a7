"""Latents that the model marks for enumeration and the guide lacks, by Pyro's contraction."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppl_vae.programs.masks import with_all_entries
from ppl_vae.programs.particles import PLATE, Program, Site
from ppl_vae.programs.sites import inner_scale, per_datum, sample_sites

__all__ = ["SummedOut", "enumerating", "marked_sites", "sum_out"]


@dataclass(frozen=True)
class SummedOut:
    """log p of the sites that depend on an enumerated one, with that one summed out, (K, B).

    Args:
        enumerated: The enumerated sites.
        names: All of the sites, the enumerated ones included.
        log_prior: log p(z) of each latent among them, given those before it, by name.
        log_likelihood: log p(x given z) of the observed ones.

    Example:
        >>> SummedOut().log_likelihood
        0.0
    """

    enumerated: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    log_prior: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: Tensor | float = 0.0


def marked_sites(sites: Iterable[Site], others: Iterable[str]) -> list[Site]:
    """The latents that are marked `infer={"enumerate": "parallel"}`, and are none of the others.

    Args:
        sites: Sites of a trace of the model.
        others: Names of the guide's latents.

    Example:
        >>> marked_sites([{"name": "y", "is_observed": False, "infer": {}}], [])
        []
    """
    others = set(others)
    found = [
        site
        for site in sites
        if (site["infer"] or {}).get("enumerate") == "parallel"
        and not site["is_observed"]
        and site["name"] not in others
    ]
    for site in found:
        if not site["fn"].has_enumerate_support:
            kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
            raise ValueError(
                f"site {site['name']!r}, {kind}, is marked for enumeration and has no list of "
                "values to sum over: draw it in the guide, or make it a Categorical"
            )
    return found


def enumerating(program: Program, depth: int) -> Program:
    """The program with its marked sites at all their values, on axes left of the particles.

    Args:
        program: The model, under particles.
        depth: Depth of the plates, "data" included.

    Example:
        >>> import pyro
        >>> coin = pyro.distributions.Bernoulli(0.5)
        >>> mark = {"enumerate": "parallel"}
        >>> enumerating(lambda: pyro.sample("y", coin, infer=mark), 1)().shape
        torch.Size([2, 1, 1])
    """
    return poutine.enum(program, first_available_dim=-2 - depth)


def sum_out(
    trace: Any,
    latents: Iterable[str],
    counted: Callable[[Site], Site] = lambda site: site,
) -> SummedOut:
    """Sum the enumerated sites of a trace out of its log-probabilities.

    log p(x, z) = log sum_y p(x, y, z), and log p(x given z) = log p(x, z) - log p(z).

    Args:
        trace: The model's, run by `enumerating`.
        latents: Names of the latents that are not enumerated.
        counted: Changes a latent site before its density is taken.

    Raises:
        ValueError: an enumerated site lies outside the plate "data", or sites that depend on it lie
            in subsampled plates of different scales.

    Example:
        >>> import pyro
        >>> def model():
        ...     mark = {"enumerate": "parallel"}
        ...     with pyro.plate("data", 3, dim=-1):
        ...         y = pyro.sample("y", pyro.distributions.Bernoulli(0.5), infer=mark)
        ...         pyro.sample("x", pyro.distributions.Bernoulli(y), obs=torch.ones(3))
        >>> particles = pyro.plate("num_particles_vectorized", 1, dim=-2)
        >>> trace = pyro.poutine.trace(enumerating(particles(model), 1)).get_trace()
        >>> sum_out(trace, []).log_likelihood.exp()
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    trace.symbolize_dims()
    sites = sample_sites(trace)
    enumerated = [site for site in sites if "_enumerate_symbol" in (site["infer"] or {})]
    sums = {site["infer"]["_enumerate_symbol"] for site in enumerated}
    latents = set(latents)
    factors = {}
    whole = {site["name"] for site in enumerated}
    for site in sites:
        if site["name"] in whole:
            # A masked one is summed over a density of one: without it, each value would count as 1.
            site = with_all_entries(site)
        factor = _factor(counted(site) if site["name"] in latents else site)
        if not sums.isdisjoint(factor._pyro_dims):
            factors[site["name"]] = factor
    involved = [trace.nodes[name] for name in factors]
    _check(involved)
    contraction = _Contraction(trace, factors, sums)
    names = [site["name"] for site in enumerated]
    so_far = names.copy()
    log_prior = {}
    before: Tensor | float = 0.0
    for name in [site["name"] for site in involved if site["name"] in latents]:
        so_far.append(name)
        total = contraction.total(so_far)
        log_prior[name] = total - before
        before = total
    log_likelihood = contraction.total(factors) - before
    return SummedOut(frozenset(names), frozenset(factors), log_prior, log_likelihood)


def _factor(site: Site) -> Any:
    """A site's log-probabilities with named axes, masked."""
    log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    symbols = site["infer"]["_dim_to_symbol"]
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = packed.pack(mask, symbols)
    return packed.scale_and_mask(packed.pack(log_p, symbols), mask=mask)


def _check(sites: list[Site]) -> None:
    """Raise unless all sites lie in the data plate and have one scale inside it."""
    for site in sites:
        if all(frame.name != PLATE for frame in site["cond_indep_stack"]):
            raise ValueError(
                f"site {site['name']!r} depends on a site marked for enumeration and lies outside "
                f'the plate "{PLATE}", so that its sum does not split by row: move the marked site '
                "into the plate, or sample it in the guide"
            )
    scales = {inner_scale(site) for site in sites}
    if len(scales) > 1:
        names = ", ".join(repr(site["name"]) for site in sites)
        raise ValueError(
            f"sites {names} depend on one marked for enumeration and are scaled by {scales}: a "
            "plate inside it must not be subsampled"
        )


class _Contraction:
    """Sums of products of these factors, per particle and row."""

    def __init__(self, trace: Any, factors: dict[str, Any], sums: set[str]) -> None:
        self.trace = trace
        self.factors = factors
        self.sums = sums
        nodes = [trace.nodes[name] for name in factors]
        frames = [frame for site in nodes for frame in site["cond_indep_stack"]]
        self.frames = {
            trace.plate_to_symbol[frame.name]: frame for frame in frames if frame.vectorized
        }

    def total(self, names: Iterable[str]) -> Tensor:
        """log sum prod of the factors of these sites, (K, B)."""
        tree = OrderedDict[frozenset[str], list[Any]]()
        for name in names:
            if name in self.factors:
                tree.setdefault(self._ordinal(name), []).append(self.factors[name])
        found = {symbol for terms in tree.values() for term in terms for symbol in term._pyro_dims}
        summed = contract_tensor_tree(tree, self.sums & found)
        parts = [self._by_row(where, term) for where, terms in summed.items() for term in terms]
        return torch.stack(parts).sum(0)

    def _ordinal(self, name: str) -> frozenset[str]:
        frames = self.trace.nodes[name]["cond_indep_stack"]
        return frozenset(self.trace.plate_to_symbol[f.name] for f in frames if f.vectorized)

    def _by_row(self, ordinal: frozenset[str], term: Any) -> Tensor:
        """A term of the sum, over its plates inside the data plate, (K, B)."""
        frames = [self.frames[symbol] for symbol in ordinal]
        sizes = {frame.dim: frame.size for frame in frames}
        plates = [sizes.get(dim, 1) for dim in range(min(sizes), 0)]
        values = packed.unpack(term, self.trace.symbol_to_dim).expand(plates)
        return per_datum(values, {"cond_indep_stack": frames, "mask": None})
