"""Rows that the float type does not resolve: their latents, or the residuals of x."""

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.evidence.pareto import RESOLUTION
from ppl_vae.programs.masks import unmasked
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import Program, Site
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.rows_apart import is_point
from ppl_vae.programs.sites import is_local, log_prob_of, per_datum, sample_sites
from ppl_vae.programs.traces import log_terms, run_under_particles
from ppl_vae.runtime.seeding import seeded

__all__ = ["rounded_rows", "spread_of", "unresolved_rows"]

DRAWS = 32
SPACINGS = 64  # least range of the draws, over the distance between floats: sd of about 16
FEW_DRAWS = 16
NEAR = 1e-5  # spacing over median deviation, below which noise of a thousandth part is resolved
VARIANCE = 1 / 12  # of rounding, in squared spacings


def unresolved_rows(guide: Program, *args: Any) -> Tensor:
    """The rows where the draws of a real latent are rounded to a few numbers, (B,).

    The weights of such draws are equal, or have ties, and look like those of an exact guide.

    Args:
        guide: Any Pyro guide in the library's form.
        args: Its arguments.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("z", dist.Normal(x, 1e-6))
        >>> unresolved_rows(guide, torch.tensor([0.0, 0.1, 40.0])).tolist()
        [False, False, True]
    """
    with evaluating(guide), seeded(0):
        trace = run_under_particles(guide, DRAWS, *args)
    found = torch.zeros(len(args[0]), dtype=torch.bool)
    for site in sample_sites(trace):
        if _is_real(site):
            values = rows_first(site["value"], site)
            values = values.reshape(*values.shape[:2], -1)
            low, high = values.amin(0), values.amax(0)
            spacing = torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
            narrow = (high - low <= SPACINGS * spacing).any(1)
            found = found | narrow.cpu()
    return found


def rounded_rows(model: Program, guide: Program, args: Any, spread: Tensor) -> Tensor:
    """The rows whose log p(x given z) is rounded by more than `RESOLUTION` nats, (B,).

    The mean of x is as coarse as x is, so that far from zero their difference has few digits. Each
    x_i is moved to a neighbouring float, and the variance of log p that comes from it is a twelfth
    of its mean square.

    Args:
        model: Any Pyro model in the library's form.
        guide: Its guide.
        args: Arguments of both.
        spread: `spread_of` x, which tells where there is nothing to look for.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("x", dist.Normal(x + 1.0, 0.5), obs=x)
        >>> x = torch.tensor([10.0, 12.0, 1e6])
        >>> rounded_rows(model, lambda x: None, (x,), spread_of(x)).tolist()
        [False, False, True]
    """
    if not _may_round(args[0], spread):
        return torch.zeros(len(args[0]), dtype=torch.bool)
    with evaluating(model, guide), seeded(0):
        terms = log_terms(model, guide, *args, num_particles=FEW_DRAWS)
        sites = [site for site in sample_sites(terms.model_trace) if _observes_real(site)]
        variance = torch.zeros(len(args[0]))
        for site in sites:
            before, after = (per_datum(log_prob_of(each), each) for each in (site, _moved(site)))
            change = (after - before).double().square().mean(0).cpu()
            variance = variance + VARIANCE * change
    return variance.sqrt() > RESOLUTION


def spread_of(x: Tensor) -> Tensor:
    """Median absolute deviation of each column of x, (D,).

    Args:
        x: Some of all rows, (N, *event): a block may have too few to tell.

    Example:
        >>> spread_of(torch.tensor([[0.0], [1.0], [5.0]])).tolist()
        [1.0]
    """
    columns = x.reshape(len(x), -1)
    return (columns - columns.nanmedian(0).values).abs().nanmedian(0).values.nan_to_num()


def _may_round(x: Tensor, spread: Tensor) -> bool:
    """Whether floats near the largest value of a column are far apart for its spread."""
    columns = x.reshape(len(x), -1)
    spacing = torch.finfo(x.dtype).eps * columns.nan_to_num().abs().amax(0)
    return bool((spacing > NEAR * spread).any())


def _moved(site: Site) -> Site:
    """The site with each value at the float above or below it."""
    value = site["value"]
    up = torch.rand_like(value) < 0.5
    ends = torch.where(up, torch.inf, -torch.inf).to(value)
    moved = {**site, "value": torch.nextafter(value, ends)}
    moved.pop("unscaled_log_prob", None)
    return moved


def _observes_real(site: Site) -> bool:
    """Whether a site observes real numbers of a row, by a law whose location is as far from zero.

    A transform may subtract its centre without rounding.
    """
    if not (site["is_observed"] and is_local(site) and _has_real_values(site)):
        return False
    base = unmasked(site["fn"])
    while isinstance(base, torch.distributions.Independent):
        base = unmasked(base.base_dist)
    return not isinstance(base, torch.distributions.TransformedDistribution)


def _is_real(site: Site) -> bool:
    """Whether a site draws real numbers of a row."""
    if site["is_observed"] or not is_local(site) or is_point(site["fn"]):
        return False
    return _has_real_values(site)


def _has_real_values(site: Site) -> bool:
    support = site["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real)) and site["value"].is_floating_point()
