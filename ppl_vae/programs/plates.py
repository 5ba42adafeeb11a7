"""Values of a site with its rows first, whatever plates lie inside the data plate."""

from typing import Any

import pyro
from torch import Tensor

from ppl_vae.programs.particles import PARTICLES, PLATE, Site
from ppl_vae.programs.sites import inner_plates, is_local, sample_sites

__all__ = ["plate_of_rows", "plates_first", "require_no_inner_plates", "rows_first"]


def plate_of_rows(num_rows: int) -> pyro.plate:
    """The plate "data" of a guide, which leaves the name "data" to a site of the model.

    Args:
        num_rows: Number of rows.

    Example:
        >>> with pyro.poutine.trace() as capture, plate_of_rows(3):
        ...     z = pyro.sample("data", pyro.distributions.Normal(0.0, 1.0))
        >>> capture.trace.nodes["data"]["cond_indep_stack"][0].name
        'data'
    """
    plate = pyro.plate(f"_{PLATE}", num_rows, dim=-1)
    plate.name = PLATE  # of its frames, after Pyro has made a site of the other name
    return plate


def rows_first(values: Tensor, site: Site, num_lead: int = 1) -> Tensor:
    """A site's values (*lead, *plates, B, *event) as (*lead, B, *plates, *event).

    Args:
        values: Values as in a trace; a plate that the site is not in is a dim of size one.
        site: The site.
        num_lead: Number of dims to the left of the plates: one for particles.

    Example:
        >>> import pyro
        >>> data, repeat = pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2)
        >>> with pyro.poutine.trace() as capture, data, repeat:
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> rows_first(z, capture.trace.nodes["z"], num_lead=0).shape
        torch.Size([5, 3])
    """
    place = values.dim() - site["fn"].event_dim - 1
    event = values.shape[place + 1 :]
    moved = values.movedim(place, num_lead)
    return moved.reshape(*moved.shape[: num_lead + 1], *inner_plates(site), *event)


def plates_first(values: Tensor, site: Site, num_lead: int = 1) -> Tensor:
    """The inverse of `rows_first`.

    Args:
        values: (*lead, B, *plates, *event).
        site: The site, of a trace under particles.
        num_lead: Number of dims to the left of the rows.

    Example:
        >>> import pyro, torch
        >>> data, repeat = pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2)
        >>> with pyro.poutine.trace() as capture, data, repeat:
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> plates_first(torch.zeros(5, 3), capture.trace.nodes["z"], num_lead=0).shape
        torch.Size([3, 5])
    """
    event_dim = site["fn"].event_dim
    plates = site["value"].shape[: site["value"].dim() - event_dim - 1]
    if any(frame.name == PARTICLES for frame in site["cond_indep_stack"]):
        plates = plates[1:]
    lead = values.shape[: num_lead + 1]
    event = values.shape[values.dim() - event_dim :]
    return values.reshape(*lead, *plates, *event).movedim(num_lead, num_lead + len(plates))


def require_no_inner_plates(trace: Any, what: str) -> None:
    """Raise ValueError where a site lies in a further plate inside the data plate.

    Args:
        trace: A trace.
        what: What cannot be done then.

    Raises:
        ValueError: A site does; it is named.

    Example:
        >>> import pyro
        >>> data, repeat = pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2)
        >>> with pyro.poutine.trace() as capture, data, repeat:
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> require_no_inner_plates(capture.trace, "it")
        Traceback (most recent call last):
        ValueError: site 'z' lies in a plate inside the plate "data", where it cannot be done: ...
    """
    for site in sample_sites(trace):
        if is_local(site) and inner_plates(site):
            raise ValueError(
                f'site {site["name"]!r} lies in a plate inside the plate "{PLATE}", where {what} '
                "cannot be done: write the plate as a dim of the event, fn.to_event(1)"
            )
