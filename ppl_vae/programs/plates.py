"""Plates inside the data plate: their sizes at a site, and values of a site with its rows first."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.traces import PARTICLES, PLATE, Site, is_local, sample_sites

__all__ = ["inner_plates", "plates_first", "require_no_inner_plates", "rows_first"]


def inner_plates(site: Site) -> torch.Size:
    """Sizes of the plates that a site has inside the data plate, left to right.

    Args:
        site: A site of a trace.

    Example:
        >>> import pyro
        >>> with pyro.poutine.trace() as capture, pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2):
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> inner_plates(capture.trace.nodes["z"])
        torch.Size([3])
    """
    frames = [
        frame
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.name not in (PLATE, PARTICLES)
    ]
    return torch.Size(frame.size for frame in sorted(frames, key=lambda frame: frame.dim))


def rows_first(values: Tensor, site: Site, num_lead: int = 1) -> Tensor:
    """A site's values (*lead, *plates, B, *event) as (*lead, B, *plates, *event).

    Args:
        values: The values, as a trace has them; plates that the site is not in are dims of size
            one.
        site: The site.
        num_lead: How many dims stand to the left of the plates: one for particles.

    Example:
        >>> import pyro
        >>> with pyro.poutine.trace() as capture, pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2):
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> rows_first(z, capture.trace.nodes["z"], num_lead=0).shape
        torch.Size([5, 3])
    """
    place = values.dim() - site["fn"].event_dim - 1
    event = values.shape[place + 1 :]
    moved = values.movedim(place, num_lead)
    return moved.reshape(*moved.shape[: num_lead + 1], *inner_plates(site), *event)


def plates_first(values: Tensor, site: Site, num_lead: int = 1) -> Tensor:
    """What `rows_first` was given, from its result.

    Args:
        values: (*lead, B, *plates, *event).
        site: The site, of a trace under particles.
        num_lead: How many dims stand to the left of the rows.

    Example:
        >>> import pyro
        >>> with pyro.poutine.trace() as capture, pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2):
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> plates_first(torch.zeros(5, 3), capture.trace.nodes["z"], num_lead=0).shape
        torch.Size([3, 5])
    """
    event_dim, shape = site["fn"].event_dim, site["value"].shape
    own = shape[: len(shape) - event_dim - 1]  # (K, *plates) of the trace, or (*plates)
    under_particles = any(frame.name == PARTICLES for frame in site["cond_indep_stack"])
    plates = own[1:] if under_particles else own
    lead, rows = values.shape[:num_lead], values.shape[num_lead]
    event = values.shape[values.dim() - event_dim :]
    return values.reshape(*lead, rows, *plates, *event).movedim(num_lead, num_lead + len(plates))


def require_no_inner_plates(trace: Any, what: str) -> None:
    """Raise ValueError where a site lies in a further plate inside the data plate.

    Args:
        trace: A trace.
        what: What cannot be done then.

    Raises:
        ValueError: A site does; it is named.

    Example:
        >>> import pyro
        >>> with pyro.poutine.trace() as capture, pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2):
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> require_no_inner_plates(capture.trace, "it")
        Traceback (most recent call last):
        ValueError: site 'z' lies in a plate inside the plate "data", where it cannot be done: write the plate as ...
    """
    for site in sample_sites(trace):
        if is_local(site) and inner_plates(site):
            raise ValueError(
                f'site {site["name"]!r} lies in a plate inside the plate "{PLATE}", where {what} '
                "cannot be done: write "
                "the plate as a dim of the event, fn.to_event(1)"
            )
