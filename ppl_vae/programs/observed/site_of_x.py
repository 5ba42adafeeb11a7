"""The sites that observe x: those whose values are x's, whatever their names."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.observed.comparison import FirstRows, holds, marked_entries, num_values
from ppl_vae.programs.particles import PLATE, Program
from ppl_vae.programs.sites import inner_plates

__all__ = ["entries_by_site", "entries_of_x", "is_all_of_x", "site_of_x"]


def entries_by_site(model: Program, args: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The entries of a row of x, flattened, that each site observes as they are.

    A site is known by the values that it observes, in the first rows: another observed array may be
    as wide as x. Where several sites have the values of x, as they seem to where all of x is
    missing, or where no site has all of them, the model is run on marks.

    Args:
        model: A model in the library's form.
        args: Its arguments, x first.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> list(entries_by_site(bed.model, (bed.x,)))
        ['x']
    """
    return _by_site(model, FirstRows.of(model, args))


def entries_of_x(model: Program, args: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The same, where each entry is at one site.

    Args:
        model: A model in the library's form.
        args: Its arguments, x first.

    Raises:
        ValueError: several sites observe an entry, so that a draw of it may be of either.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> list(entries_of_x(bed.model, (bed.x,)))
        ['x']
    """
    return _one_site_each(entries_by_site(model, args))


def site_of_x(model: Program, args: tuple[Tensor, ...]) -> str:
    """Name of the site that observes all values of a row of x as one event.

    Args:
        model: A model in the library's form.
        args: Its arguments, x first.

    Raises:
        ValueError: There is none, or several observe an entry.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> site_of_x(bed.model, (bed.x,))
        'x'
    """
    rows = FirstRows.of(model, args)
    found = _one_site_each(_by_site(model, rows))
    size = len(rows.every)
    sites = [site for site in rows.sites if site["name"] in found]
    for site in sites:
        if is_all_of_x(found[site["name"]], size) and site["fn"].event_shape.numel() == size:
            return site["name"]
    raise ValueError(_without_x(sites or rows.sites, size))


def is_all_of_x(places: Tensor, size: int) -> bool:
    """Whether places are all those of a row of x, in its order.

    Args:
        places: Entries of a row, flattened.
        size: Number of values of a row.

    Example:
        >>> is_all_of_x(torch.tensor([1, 0]), 2)
        False
    """
    return torch.equal(places.cpu(), torch.arange(size))


def _by_site(model: Program, rows: FirstRows) -> dict[str, Tensor]:
    """The entries at each site, by the values of some rows or by marks."""
    whole = [site["name"] for site in rows.sites if holds(site, rows.args[0], rows.every)]
    found = {} if len(whole) == 1 else marked_entries(model, rows)
    return found or dict.fromkeys(whole, rows.every)


def _one_site_each(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same; ValueError where an entry is at several sites."""
    known: dict[int, str] = {}
    for name, places in found.items():
        for place in places.tolist():
            if place in known:
                raise ValueError(
                    f"sites {known[place]!r} and {name!r} both observe entry {place} of x, so that "
                    "a draw of it may be of either: observe each entry of x at one site"
                )
            known[place] = name
    return found


def _without_x(sites: list[Any], size: int) -> str:
    """Why no site has the values of a row as its event, and what to write instead."""
    for site in sites:
        plates = inner_plates(site)
        if plates and num_values(site) == size:
            frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            names = [each.name for each in frames if each.name != PLATE]
            return (
                f"site {site['name']!r} has the {size} values of a row in the plate "
                f"{', '.join(map(repr, names))}, and this task needs them as one event: leave that "
                f"plate out and write .to_event({len(plates)})"
            )
    parts = ", ".join(f"{site['name']!r} ({num_values(site)})" for site in sites)
    return (
        f"the {size} values of a row are observed in parts, at {parts or 'no site'}, and "
        "this task needs them at one site: observe x there by one distribution, as "
        "likelihoods.Columns has for columns of different kinds"
    )
