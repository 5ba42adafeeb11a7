"""Latents side by side in one unconstrained vector, and what of them counts."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import transforms as T
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppl_vae.hmc.target import is_real
from ppl_vae.programs.discrete.cases import MOST_CASES, drawn_at
from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import PARTICLES, PLATE, LogTerms, Program, Site
from ppl_vae.runtime.seeding import seeded

__all__ = ["Latents"]

Masks = dict[str, Tensor]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Latents:
    """The latent sites, side by side in one unconstrained vector of dimension D.

    Args:
        sites: The sites, in the model's order.

    Example:
        >>> site = LatentSite("z", torch.Size([2]), 1, None)
        >>> Latents((site, site)).dim
        4
    """

    sites: tuple["LatentSite", ...]

    @property
    def dim(self) -> int:
        """D."""
        return sum(site.size for site in self.sites)

    def sample(self, q: Any, masks: Masks) -> Values:
        """Draw all sites from q over their unconstrained vector; their values by name.

        Several sites are drawn one after the other from the normal's conditionals, u_i given u_<i:
        with u = m + R e and R lower triangular, the mean of block i is m_i + R_i,<i e_<i and its
        root R_ii. A masked entry is drawn, and the density of the other entries is conditional on
        it: exp(log w) stays unbiased, since no other term depends on it.
        """
        first, *others = self.sites
        is_whole = first.shape == q.event_shape and not first.is_part_masked(masks)
        if is_whole and not others:
            return {first.name: first.draw(first.constrained(q), masks)}
        loc, root = _normal(q)
        values = {}
        noise = loc[..., :0]
        for site in self.sites:
            used = noise.shape[-1]
            block = slice(used, used + site.size)
            shift = root[..., block, :used] @ noise.unsqueeze(-1)
            mean = loc[..., block] + shift.squeeze(-1)
            root_ii = root[..., block, block]
            values[site.name] = site.draw(site.distribution(mean, root_ii, masks), masks)
            residual = (site.unconstrain(values[site.name]) - mean).unsqueeze(-1)
            e = torch.linalg.solve_triangular(root_ii, residual, upper=False).squeeze(-1)
            noise = torch.cat([noise.expand(*e.shape[:-1], -1), e], dim=-1)
        return values


@dataclass(frozen=True)
class LatentSite:
    """One latent: its unconstrained shape, and the map to its support (None if that is R^n)."""

    name: str
    shape: torch.Size
    event_dim: int
    transform: Any

    @property
    def size(self) -> int:
        """Unconstrained numbers."""
        return self.shape.numel()

    def unconstrain(self, value: Tensor) -> Tensor:
        """(..., *event) -> (..., size)."""
        u = value if self.transform is None else self.transform.inv(value)
        return u.reshape(*value.shape[: value.dim() - self.event_dim], self.size)

    def entries(self, mask: Tensor) -> Tensor:
        """A mask, (..., *event), flattened: (..., entries)."""
        return mask.reshape(*mask.shape[: mask.dim() - self.event_dim], -1)

    def distribution(self, loc: Tensor, root: Tensor, masks: Masks) -> Any:
        """N(loc, root root') on the site's support."""
        if self.shape == ():
            return self.constrained(dist.Normal(loc[..., 0], root[..., 0, 0]))
        if self.is_part_masked(masks):
            normal = part_masked_normal(loc, root, self.entries(masks[self.name]))
        else:
            normal = dist.MultivariateNormal(loc, scale_tril=root)
        if len(self.shape) == 1:
            return self.constrained(normal)
        reshape = T.ReshapeTransform(torch.Size([self.size]), self.shape)
        return self.constrained(dist.TransformedDistribution(normal, [reshape]))

    def is_part_masked(self, masks: Masks) -> bool:
        """Whether some entries of a row count and others do not."""
        if self.name not in masks:
            return False
        entries = self.entries(masks[self.name])
        return not torch.equal(entries.all(-1), entries.any(-1))

    def draw(self, q: Any, masks: Masks) -> Tensor:
        """A draw, whose density counts for the rows that the model counts."""
        if self.name not in masks or self.is_part_masked(masks):
            return pyro.sample(self.name, q)
        rows: Any = self.entries(masks[self.name]).any(-1)
        with poutine.mask(mask=rows):
            return pyro.sample(self.name, q)

    def constrained(self, q: Any) -> Any:
        """q pushed to the support."""
        return q if self.transform is None else dist.TransformedDistribution(q, [self.transform])


def part_masked_normal(loc: Tensor, root: Tensor, mask: Tensor) -> Any:
    """N(loc, root root') whose log-density sums the entries that count, each given earlier ones."""
    scale = root.diagonal(dim1=-2, dim2=-1)
    entries = dist.Normal(torch.zeros_like(scale), scale).mask(mask).to_event(1)
    return dist.TransformedDistribution(entries, [Sheared(loc, root / scale.unsqueeze(-2))])


class Sheared(T.Transform):
    """u = loc + R e, R lower triangular with ones on its diagonal, so that volumes are kept."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, root: Tensor) -> None:
        super().__init__()
        self.loc, self.root = loc, root

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + (self.root @ x.unsqueeze(-1)).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        residual = (y - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(
            self.root, residual, upper=False, unitriangular=True
        ).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(x[..., 0])


def read_masks(
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    latents: tuple[Any, ...],
    case: Values,
) -> Masks:
    """Which entries of these latents count for these rows, by site, (B, *event).

    Args:
        model: The model.
        guide: The guide.
        args: Arguments of both.
        latents: The latents.
        case: Values of discrete ones.
    """
    with seeded(0):  # the draws that follow are those without it
        terms = drawn_at(case, model, guide, *args, num_particles=2)
    masks = {}
    for latent in latents:
        site = terms.model_trace.nodes[latent.name]
        first, second = rows_first(mask_of(site), site)
        if not torch.equal(first, second):
            raise ValueError(
                f"the mask of latent site {latent.name!r} depends on another latent: let it depend "
                "on x alone"
            )
        masks[latent.name] = first
        if isinstance(latent, LatentSite) and latent.transform is not None:
            _require_whole(latent, masks)
    return masks


def _require_whole(latent: "LatentSite", masks: Masks) -> None:
    """Raise ValueError where some entries of a constrained latent count and others do not."""
    if latent.is_part_masked(masks):
        raise ValueError(
            f"latent site {latent.name!r} masks some entries of a row and not others, which cannot "
            "be refined on its support: mask whole rows, or sample the entries as separate sites"
        )


def read_latents(terms: LogTerms, names: Iterable[str]) -> Latents:
    """These latent sites of a run on the first rows."""
    return Latents(tuple(_latent_site(terms.model_trace.nodes[name]) for name in names))


def require_no_plates(site: Site) -> None:
    """Raise ValueError where a latent lies in a plate inside the plate over the rows."""
    plates = {frame.name for frame in site["cond_indep_stack"]} - {PARTICLES, PLATE}
    if plates:
        raise ValueError(
            f"latent site {site['name']!r} lies in the plate {min(plates)!r} inside the plate "
            f"{PLATE!r}, where it cannot be refined for each row: write the inner plate as an "
            "event dim, fn.to_event(1)"
        )


def _latent_site(site: Site) -> LatentSite:
    require_no_plates(site)
    event = site["fn"].event_shape
    support = _shared_support(site["fn"].support, len(event), site["name"])
    if support.is_discrete:
        raise ValueError(
            f"latent site {site['name']!r} is discrete, and refinement needs continuous latents, "
            f"or discrete ones of at most {MOST_CASES} values together"
        )
    if is_real(support):
        return LatentSite(site["name"], event, len(event), None)
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"latent site {site['name']!r} has the support {support}, which has no bijection from "
            "R^n, and refinement needs one: use the guide as it is"
        ) from None
    return LatentSite(site["name"], transform.inverse_shape(event), len(event), transform)


def _shared_support(support: Any, event_dim: int, name: str) -> Any:
    """The support with bounds of one row, if plates have spread them over particles and rows."""
    shared = copy.copy(support)
    for key, bound in vars(support).items():
        if isinstance(bound, constraints.Constraint):
            setattr(shared, key, _shared_support(bound, event_dim, name))
        elif isinstance(bound, Tensor) and bound.dim() > event_dim:
            bounds = bound.reshape(-1, *bound.shape[bound.dim() - event_dim :])
            if not torch.equal(bounds, bounds[:1].expand_as(bounds)):
                raise ValueError(
                    f"the support of latent site {name!r} depends on the row or on another latent: "
                    "rewrite the site on a fixed support, for example as a fraction in (0, 1)"
                )
            setattr(shared, key, bounds[0])
    return shared


def _normal(q: Any) -> tuple[Tensor, Tensor]:
    """Mean and lower-triangular root of a normal."""
    base = q.base_dist if isinstance(q, torch.distributions.Independent) else q
    if isinstance(base, torch.distributions.Normal):
        return base.loc, torch.diag_embed(base.scale)
    if hasattr(base, "scale_tril"):
        return base.loc, base.scale_tril
    raise ValueError(
        "several, scalar or partly masked latents need a family of normals, such as "
        f"FullRankNormal, not {type(base).__name__}"
    )
