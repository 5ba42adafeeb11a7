"""log p(x, z, g) of all rows z and of the latents g that they share."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_vae.hmc.target import LogJoint, transform_to_support
from ppl_vae.programs.discrete.cases import MOST_CASES
from ppl_vae.programs.masks import unmasked
from ppl_vae.programs.sites import is_deterministic, is_local, sample_sites
from ppl_vae.programs.traces import Program, Site, log_terms

__all__ = ["LogJointOfRows"]

Values = dict[str, Tensor]
TOLERANCE = 1e-3  # of log-densities in float32, chain by chain and all chains at once


class SharedSite:
    """One latent outside the data plate as part of a vector: (*S, *shape) <-> (*S, size).

    Args:
        node: The site in a trace.
    """

    def __init__(self, node: Site) -> None:
        try:
            self.transform = transform_to_support(node["fn"])
        except NotImplementedError:
            raise ValueError(
                f'site {node["name"]!r} outside the plate "data" is {type(node["fn"]).__name__} '
                f"with support {node['fn'].support}: Hamiltonian Monte Carlo needs a bijection "
                f"from R^n, or at most {MOST_CASES:,} values to sum over; condition both programs "
                "on a value of it (pyro.condition)"
            ) from None
        self.shape = self.transform.inv(node["value"].detach()).shape

    @property
    def size(self) -> int:
        """Number of unconstrained dimensions."""
        return self.shape.numel()

    def pack(self, value: Tensor) -> Tensor:
        """Unconstrained, (size,)."""
        return self.transform.inv(value.detach()).reshape(-1)

    def unpack(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The site's value, and log |dg / du|, over leading dims."""
        lead = u.shape[:-1]
        u = u.reshape((*lead, *self.shape))
        value = self.transform(u)
        jacobian = self.transform.log_abs_det_jacobian(u, value)
        return value, jacobian.reshape(*lead, -1).sum(-1)


class LogJointOfRows:
    """log p(x, z, g) + log |d(z, g) / du|, summed over the rows, a function of unconstrained
    vectors u, (C, 1, D) -> (C, 1).

    log p(x, z, g) = log p(g) + sum_b [log p(z_b given g) + log p(x_b given z_b, g)]. u has the
    latents g outside the data plate first, then those of one row after another. Discrete latents
    are summed out, those of a row within it. The density is unscaled: each row counts once. Chains
    are evaluated at once by torch's vmap where a program allows it, and else one by one.

    Args:
        model: The model.
        guide: The guide, at whose draws the chains start.
        args: Arguments of both.
        num_chains: Number of chains C.

    Raises:
        ValueError: as `LogJoint`, but for latents outside the plate; a discrete one has too many
            values.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> guide = lambda x: pyro.sample("mean", dist.Normal(0.0, 1.0))
        >>> log_joint = LogJointOfRows(model, guide, torch.ones(3), num_chains=4)
        >>> log_joint(torch.zeros(4, 1, 1))[:, 0] + 4 * math.log(2 * math.pi) / 2
        tensor([-1.5000, -1.5000, -1.5000, -1.5000])
    """

    def __init__(self, model: Program, guide: Program, *args: Any, num_chains: int) -> None:
        runs = [log_terms(model, guide, *args) for _ in range(num_chains + 1)]
        terms = runs[0]
        nodes = [_shared(run.model_trace) for run in runs]
        discrete = {name: _values(site) for name, site in nodes[0].items()}
        self.cases = _cases({name: v for name, v in discrete.items() if v is not None})
        self.sites = {
            name: SharedSite(site) for name, site in nodes[0].items() if discrete[name] is None
        }
        self.rows = LogJoint(terms, model, *args, given_shared=True)
        _check_supports(terms.model_trace, runs[-1].model_trace, [*self.sites, *self.rows.sites])
        self.shape = self.rows.start.shape[1:]  # (B, D of a row)
        self.start = torch.stack([self._position(run.model_trace) for run in runs[:-1]]).unsqueeze(
            1
        )
        self.at_once = self._agree_at_once()

    def _position(self, trace: Any) -> Tensor:
        """Unconstrained latents of a run, (D,)."""
        local = [
            site.pack(trace.nodes[name]["value"].detach()) for name, site in self.rows.sites.items()
        ]
        shared = [site.pack(trace.nodes[name]["value"]) for name, site in self.sites.items()]
        by_row = [torch.cat(local, dim=-1).reshape(-1)] if local else []
        return torch.cat([*shared, *by_row])

    def _split(self, position: Tensor) -> tuple[list[Tensor], Tensor]:
        """Vectors of the shared sites, (*S, size), and of the rows, (*S, B, D of a row)."""
        sizes = [site.size for site in self.sites.values()]
        *shared, rows = position.split([*sizes, self.shape.numel()], dim=-1)
        return shared, rows.unflatten(-1, self.shape) if self.shape.numel() else rows

    def _unpack(self, parts: list[Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
        for (name, site), part in zip(self.sites.items(), parts, strict=True):
            yield (name, *site.unpack(part))

    def constrain(self, position: Tensor) -> Values:
        """Values at unconstrained (*S, C, 1, D): (*S, C, *shape), of rows (*S, C, B, *plates,
        *event).
        """
        shared, rows = self._split(position.squeeze(-2))
        found = {name: value for name, value, _ in self._unpack(shared)}
        return found | (self.rows.constrain(rows) if self.rows.sites else {})

    def one(self, position: Tensor) -> Tensor:
        """The density of one chain, (D,) -> a scalar."""
        parts, rows = self._split(position)
        values: Values = {}
        log_jacobian = position.new_zeros(())
        for name, value, part in self._unpack(parts):
            values[name] = value
            log_jacobian = log_jacobian + part
        at = rows.reshape(1, *self.shape)
        found = [self.rows.parts(at, values | case) for case in self.cases]
        totals = [parts.joint.sum() + parts.log_shared for parts in found]
        return torch.stack(totals).logsumexp(0) + log_jacobian

    def __call__(self, position: Tensor) -> Tensor:
        """The density of all chains, (C, 1, D) -> (C, 1)."""
        chains = position.squeeze(-2)
        if self.at_once:
            return torch.vmap(self.one)(chains).unsqueeze(-1)
        return torch.stack([self.one(chain) for chain in chains]).unsqueeze(-1)

    def _agree_at_once(self) -> bool:
        """Whether all chains can be evaluated at once, with the results of one by one."""
        chains = self.start.squeeze(-2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an operation that vmap would do one by one warns
            try:
                found = torch.vmap(self.one)(chains)
            except Exception:  # whatever it is, if the programs are at fault they raise it again
                return False
        expected = torch.stack([self.one(chain) for chain in chains])
        return torch.allclose(found, expected, TOLERANCE, TOLERANCE, equal_nan=True)


def _shared(trace: Any) -> dict[str, Site]:
    """The latent sites outside the data plate, by name."""
    sites = (s for s in sample_sites(trace) if not (s["is_observed"] or is_deterministic(s)))
    return {site["name"]: site for site in sites if not is_local(site)}


def _values(site: Site) -> Tensor | None:
    """All values of a discrete latent outside the data plate, (values, *shape), or None."""
    base = unmasked(site["fn"])
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if not base.has_enumerate_support:
        return None
    shape = site["value"].shape
    values = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
    num_entries = shape.numel() // base.event_shape.numel()
    if num_entries * math.log(len(values)) > math.log(MOST_CASES) + 1e-9:
        return None
    each = torch.cartesian_prod(*[torch.arange(len(values), device=values.device)] * num_entries)
    return values[each.reshape(-1, num_entries)].reshape(-1, *shape)


def _cases(values: Values) -> list[Values]:
    """Each combination of the values of discrete sites."""
    num_cases = math.prod(map(len, values.values()))
    if num_cases > MOST_CASES:
        raise ValueError(
            f'the discrete latents outside the plate "data" ({", ".join(map(repr, values))}) have '
            f"{num_cases:,} values together, and at most {MOST_CASES:,} are summed over: condition "
            "both programs on values of some (pyro.condition)"
        )
    cases: list[Values] = [{}]
    for name, found in values.items():
        cases = [case | {name: value} for case in cases for value in found]
    return cases


def _check_supports(one: Any, other: Any, names: list[str]) -> None:
    """Raise ValueError if supports differ between two runs."""
    for name in names:
        transforms = [transform_to_support(run.nodes[name]["fn"]) for run in (one, other)]
        u = torch.zeros_like(transforms[0].inv(one.nodes[name]["value"].detach()))
        if not torch.equal(*(transform(u) for transform in transforms)):
            raise ValueError(
                f"the support of latent site {name!r} depends on another latent: rewrite the site "
                "on a fixed support, for example as a fraction in (0, 1)"
            )
