"""Rows whose latents a guide draws more narrowly than their float type can tell apart."""

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import Program, Site
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.rows_apart import is_point
from ppl_vae.programs.sites import is_local, sample_sites
from ppl_vae.programs.traces import run_under_particles
from ppl_vae.runtime.seeding import seeded

__all__ = ["unresolved_rows"]

DRAWS = 32
SPACINGS = 64  # least range of the draws, over the distance between floats: sd of about 16


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


def _is_real(site: Site) -> bool:
    """Whether a site draws real numbers of a row."""
    if site["is_observed"] or not is_local(site) or is_point(site["fn"]):
        return False
    support = site["fn"].support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real)) and site["value"].is_floating_point()
