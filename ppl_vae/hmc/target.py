"""log p(x, z) of any Pyro model as a function of unconstrained latents."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppl_vae.programs.discrete.cases import all_cases, discrete_latents
from ppl_vae.programs.discrete.contraction import enumerating, marked_sites, sum_out
from ppl_vae.programs.masks import completed_x, with_all_entries
from ppl_vae.programs.plates import plates_first, rows_first
from ppl_vae.programs.sites import global_log_prob, is_local, per_datum, sample_sites
from ppl_vae.programs.traces import LogTerms, Program, particles_of

__all__ = ["LogJoint", "LogParts"]


class PackedSite:
    """One latent site as part of a vector: (*S, C, *plates, B, *event) <-> (*S, C, B, size).

    Args:
        node: The site in a trace under C particles.
    """

    def __init__(self, node: Any) -> None:
        fn, value = node["fn"], node["value"].detach()
        self.node = node
        try:
            self.transform = transform_to_support(fn)
        except NotImplementedError:
            raise ValueError(
                f"site {node['name']!r} is {type(fn).__name__} with support {fn.support}: "
                "Hamiltonian Monte Carlo needs continuous latents, on supports with a bijection "
                "from R^n; sum the site out, or use ImportanceSampling"
            ) from None
        self.num_batch = value.dim() - fn.event_dim
        u = self.transform.inv(value)
        self.plates, self.event = u.shape[1 : self.num_batch - 1], u.shape[self.num_batch :]
        self.size = self.plates.numel() * self.event.numel()
        self.is_identity = is_real(_support(fn))

    def pack(self, value: Tensor) -> Tensor:
        """Unconstrained, (*S, C, B, size)."""
        u = self.transform.inv(value)
        lead = u.dim() - len(self.event) - self.num_batch + 1  # (*S, C)
        return u.movedim(lead + len(self.plates), lead).reshape(*u.shape[:lead], -1, self.size)

    def unpack(self, u: Tensor) -> tuple[Tensor, Tensor | float]:
        """The site's value, and log |dz / du| per chain and row."""
        lead, batch = u.dim() - 2, u.shape[:-1]
        u = u.reshape(*batch, *self.plates, *self.event).movedim(lead, lead + len(self.plates))
        value = self.transform(u)
        if self.is_identity:
            return value, 0.0
        jacobian = self.transform.log_abs_det_jacobian(u, value)
        return value, jacobian.movedim(lead + len(self.plates), lead).reshape(*batch, -1).sum(-1)


def _support(fn: Any) -> Any:
    """A distribution's support; for a mixture that of its components, as `biject_to` needs it."""
    support = fn.support
    while isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support


def transform_to_support(fn: Any) -> Any:
    """The bijection from unconstrained space to a distribution's support."""
    return biject_to(_support(fn))


def is_real(support: Any) -> bool:
    """Whether a support is all of R^n."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


class LogParts(NamedTuple):
    """The pieces of a model's log-density at given latents, (C, B); `log_shared`, a scalar, is of
    the sites outside the data plate if they were given, and no part of `joint`.

    Example:
        >>> zero = torch.zeros(2, 3)
        >>> LogParts({}, zero, zero, zero + 1).joint.sum().item()
        6.0
    """

    values: dict[str, Tensor]
    log_jacobian: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    log_shared: Tensor | float = 0.0

    @property
    def joint(self) -> Tensor:
        """log p(x, z) + log |dz / du|."""
        return self.log_likelihood + self.log_prior + self.log_jacobian


class LogJoint:
    """log p(x, z(u)) + log |dz / du| of any Pyro model, a function of unconstrained latents u (C,
    B, D).

    Discrete latents y are summed out, log p(x, z) = log sum_y p(x, y, z), if they have at most
    1,000 values together or are marked for enumeration. Masked latents count too
    (`with_all_entries`). z = T(u) by Pyro's `biject_to` of each site's support, where u are the
    sites' vectors side by side. The density is unscaled: each row counts once. Latents outside the
    data plate are refused, because they cannot be split by row (`LogJointOfRows` takes them), and
    so is a support that depends on another latent.

    Args:
        terms: One run under C particles, which gives sites, shapes and supports.
        model: The model.
        args: Its arguments.
        given_shared: Whether `parts` is always given the latents outside the plate "data".

    Raises:
        ValueError: a latent is discrete and cannot be summed out, or outside the plate "data", or
            its support depends on another latent; the model has a missingness model.

    References:
        Carpenter et al. (2017), Stan, J. Stat. Software 76, section 2.6 (change of variables).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.programs.traces import log_terms
        >>> bed = beds.gamma_poisson(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x, num_particles=2)
        >>> log_joint = LogJoint(terms, bed.model, bed.x)
        >>> log_joint(log_joint.start).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, terms: LogTerms, model: Program, *args: Any, given_shared: bool = False
    ) -> None:
        self.model = model
        self.args = args
        self.model_trace = terms.model_trace
        latents = [site for site in sample_sites(terms.model_trace) if not site["is_observed"]]
        self.depth = particles_of(terms.model_trace).max_plate_nesting
        self.is_marked = bool(marked_sites(latents, terms.guide_trace.nodes))
        found = {} if self.is_marked else discrete_latents(latents)
        self.cases = all_cases(found, terms.model_trace)
        summed = found.keys() | (terms.summed - terms.prior_sites.keys())
        nodes = {site["name"]: site for site in latents if site["name"] not in summed}
        if completed_x(terms.model_trace) is not None:
            raise ValueError(
                "the model draws missing entries with each particle, so that log p(x, z) is known "
                "up to noise: use ImportanceSampling, or a model without missingness="
            )
        for name in set() if given_shared else nodes.keys() - terms.prior_sites.keys():
            raise ValueError(
                f'latent site {name!r} is outside the plate "data": the posterior does not split '
                "by row; condition both programs on a value of it (pyro.condition)"
            )
        if not nodes:  # nor any that is shared
            raise ValueError(
                "the model has no latent site to sample: ImportanceSampling(1) gives log p(x) "
                "exactly"
            )
        self.sites = {name: PackedSite(nodes[name]) for name in terms.prior_sites if name in nodes}
        self.start = self._start(nodes, terms.log_likelihood)
        if len(self.sites) > 1:
            self._check_supports(nodes)

    def _start(self, nodes: dict[str, Any], like: Tensor) -> Tensor:
        """Where the draws of the terms are, (C, B, D)."""
        found = [site.pack(nodes[name]["value"].detach()) for name, site in self.sites.items()]
        return torch.cat([like.detach().unsqueeze(-1)[..., :0], *found], dim=-1)

    @property
    def has_sums(self) -> bool:
        """Whether discrete latents are summed out."""
        return self.is_marked or len(self.cases) > 1

    def _check_supports(self, nodes: dict[str, Any]) -> None:
        """Raise ValueError if supports change with the order of the particles."""
        with torch.no_grad():
            moved = self.trace({name: nodes[name]["value"].detach().flip(0) for name in self.sites})
        for name, packed in self.sites.items():
            u = torch.zeros_like(packed.transform.inv(nodes[name]["value"].detach()))
            if not torch.equal(
                packed.transform(u), transform_to_support(moved.nodes[name]["fn"])(u)
            ):
                raise ValueError(
                    f"the support of latent site {name!r} depends on another latent: rewrite the "
                    "site on a fixed support, for example as a fraction in (0, 1)"
                )

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """Unconstrained vectors, (C, B, D), of the sites' values (C, B, *plates, *event)."""
        parts = [
            site.pack(plates_first(values[name], site.node)) for name, site in self.sites.items()
        ]
        return torch.cat(parts, dim=-1)

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """Values of the sites, (*S, C, B, *plates, *event), at unconstrained (*S, C, B, D)."""
        num_lead = position.dim() - 2
        return {
            name: rows_first(z, self.sites[name].node, num_lead)
            for name, z, _ in self._unpack(position)
        }

    def values(self, position: Tensor) -> dict[str, Tensor]:
        """Values of the sites as a trace has them, (C, *plates, B, *event)."""
        return {name: value for name, value, _ in self._unpack(position)}

    def _unpack(self, position: Tensor) -> Iterator[tuple[str, Tensor, Tensor | float]]:
        parts = position.split([site.size for site in self.sites.values()], dim=-1)
        for (name, site), part in zip(self.sites.items(), parts, strict=True):
            yield (name, *site.unpack(part))

    def trace(self, values: dict[str, Tensor], program: Program | None = None) -> Any:
        """The trace of the model, or of another program, with these latents."""
        program = poutine.condition(self.model if program is None else program, data=values)
        num_chains = values[next(iter(self.sites))].shape[0] if self.sites else None
        particles = particles_of(self.model_trace, num_chains)
        return poutine.trace(particles(program)).get_trace(*self.args)

    def parts(self, position: Tensor, shared: dict[str, Tensor] | None = None) -> LogParts:
        """The density's pieces, (C, B), given values of the latents outside the data plate."""
        log_jacobian = position.new_zeros(position.shape[:-1])
        values = {}
        for name, value, part in self._unpack(position):
            values[name] = value
            log_jacobian = log_jacobian + part
        given = values | (shared or {})
        if self.is_marked:
            return LogParts(values, log_jacobian, *self._contracted(given, shared))
        latents = self.sites.keys() | self.cases[0].keys()
        found = [self._densities(given | case, latents, shared) for case in self.cases]
        if len(found) == 1:
            return LogParts(values, log_jacobian, *found[0])
        log_prior, log_likelihood = (
            torch.stack(each) for each in list(zip(*found, strict=True))[:2]
        )
        log_joint = (log_prior + log_likelihood).logsumexp(0)
        log_prior = log_prior.logsumexp(0)
        return LogParts(values, log_jacobian, log_prior, log_joint - log_prior, found[0][2])

    def _densities(
        self, values: dict[str, Tensor], latents: Collection[str], shared: Collection[str] | None
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """log p(z) and log p(x given z), (C, B), and what the shared latents have, a scalar."""
        log_prior = log_likelihood = torch.zeros(())
        trace = self.trace(values)
        for name, log_p in per_site(trace, latents):
            if name in latents:
                log_prior = log_prior + log_p
            else:
                log_likelihood = log_likelihood + log_p
        return log_prior, log_likelihood, log_shared(trace, shared)

    def _contracted(
        self, values: dict[str, Tensor], shared: Collection[str] | None
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """The same with the sites that the model marks for enumeration summed out."""
        model = enumerating(self.model, self.depth)
        trace = self.trace(values, model)
        summed = sum_out(trace, self.sites, with_all_entries)
        log_prior = sum(summed.log_prior.values(), torch.zeros(()))
        log_likelihood = summed.log_likelihood
        for name, log_p in per_site(trace, self.sites, summed.names):
            if name in self.sites:
                log_prior = log_prior + log_p
            else:
                log_likelihood = log_likelihood + log_p
        return log_prior, torch.as_tensor(log_likelihood), log_shared(trace, shared)

    def __call__(self, position: Tensor) -> Tensor:
        """log p(x, z) + log |dz / du| per chain and row, (C, B)."""
        return self.parts(position).joint


def per_site(
    trace: Any, latents: Collection[str], others: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """log p of each site in the data plate but the `others`, masked entries of latents included."""
    for site in sample_sites(trace):
        if is_local(site) and site["name"] not in others:
            counted = with_all_entries(site) if site["name"] in latents else site
            yield site["name"], per_datum(counted["fn"].log_prob(site["value"]), counted)


def log_shared(trace: Any, latents: Collection[str] | None) -> Tensor | float:
    """log p of the sites outside the data plate, a scalar; 0 where none of them is a latent."""
    outside = [site for site in sample_sites(trace) if latents and not is_local(site)]
    counted = [with_all_entries(s) if s["name"] in (latents or ()) else s for s in outside]
    return sum((global_log_prob(site) for site in counted), 0.0)
