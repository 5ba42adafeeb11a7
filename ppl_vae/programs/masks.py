"""Masks: which entries of a latent count, and which entries of a simulated x are missing."""

from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.families.missingness.marks import IS_COMPLETED, IS_MASK
from ppl_vae.programs.particles import Site

__all__ = [
    "completed_x",
    "is_mask_of_x",
    "mask_of",
    "missing_from",
    "unmasked",
    "with_all_entries",
]


def unmasked(distribution: Any) -> Any:
    """The distribution of the draws: without its masks.

    Args:
        distribution: One of Pyro's, wrapped or not.

    Example:
        >>> masked = dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1)
        >>> masked.log_prob(torch.zeros(2)) / unmasked(masked).log_prob(torch.zeros(2))
        tensor(0.5000)
    """
    if isinstance(distribution, dist.MaskedDistribution):
        return unmasked(distribution.base_dist)
    if not isinstance(
        distribution, dist.Independent | dist.ExpandedDistribution | dist.TransformedDistribution
    ):
        return distribution
    base = unmasked(distribution.base_dist)
    if base is distribution.base_dist:
        return distribution
    if isinstance(distribution, dist.Independent):
        return base.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, dist.ExpandedDistribution):
        return base.expand(distribution.batch_shape)
    return dist.TransformedDistribution(base, distribution.transforms)


def with_all_entries(site: Site) -> Site:
    """A latent site whose density counts every entry, masked ones included.

    log p(x) is the same with or without a masked latent, whose density integrates to one. With it,
    log p(x, z) is a density over all latents, which chains can follow.

    Args:
        site: A site of a trace.

    Example:
        >>> with_all_entries({"fn": dist.Normal(0.0, 1.0).mask(False), "mask": None})["fn"]
        Normal(loc: 0.0, scale: 1.0)
    """
    return {**site, "fn": unmasked(site["fn"]), "mask": None}


def mask_of(site: Site) -> Tensor:
    """Which entries of a site count, of the shape of its value.

    Args:
        site: A site of a trace.

    Example:
        >>> fn = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1).mask(torch.tensor([True, False]))
        >>> mask_of({"fn": fn, "value": torch.zeros(2, 3), "mask": None}).tolist()
        [[True, True, True], [False, False, False]]
    """
    fn = site["fn"]
    value = site["value"]
    masks = [] if site["mask"] is None else [(site["mask"], fn.event_dim)]
    while fn is not None:
        if isinstance(fn, dist.MaskedDistribution):
            masks.append((fn._mask, fn.event_dim))
        fn = getattr(fn, "base_dist", None)
    found = torch.ones_like(value, dtype=torch.bool)
    for mask, event_dim in masks:
        mask = torch.as_tensor(mask, device=value.device)
        found = found & mask.reshape(mask.shape + (1,) * event_dim)
    return found


def is_mask_of_x(site: Site) -> bool:
    """Whether a missingness model says at this site which entries of x are missing.

    Args:
        site: A site of a trace.

    Example:
        >>> is_mask_of_x({"name": "m", "infer": {}})
        False
    """
    return bool((site["infer"] or {}).get(IS_MASK))


def completed_x(trace: poutine.Trace) -> Tensor | None:
    """x with the missing entries that a missingness model drew in this trace; None without one.

    Args:
        trace: A trace of the model.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> completed_x(poutine.trace(bed.model).get_trace(bed.x)) is None
        True
    """
    for site in trace.nodes.values():
        if (site.get("infer") or {}).get(IS_COMPLETED):
            return site["value"]
    return None


def missing_from(x: Tensor, sites: Iterable[Site]) -> Tensor:
    """Which entries of a simulated x are missing: as in x, or as the model draws its mask.

    Args:
        x: The rows that are imitated, NaN where an entry is missing.
        sites: Sites of a trace in which the observations are drawn.

    Example:
        >>> fn, marks = dist.Bernoulli(torch.tensor([0.5])), {IS_MASK: True}
        >>> m = {"name": "m", "fn": fn, "value": torch.ones(1), "mask": None, "infer": marks}
        >>> missing_from(torch.zeros(1), [m])
        tensor([True])
    """
    missing = x.isnan()
    for site in sites:
        if is_mask_of_x(site):
            missing = torch.where(mask_of(site), site["value"].bool(), missing)
    return missing
