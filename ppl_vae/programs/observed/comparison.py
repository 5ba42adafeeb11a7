"""Which of a model's sites observe the same values as x."""

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.programs.masks import is_mask_of_x
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.observed.entries import observed_entries
from ppl_vae.programs.particles import Program, Site, run
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import inner_plates, is_local, observed_shape, observes, sample_sites
from ppl_vae.runtime.seeding import seeded

ROWS_COMPARED = 100


class FirstRows(NamedTuple):
    """The arguments of the first rows, all entries of a row of x, and sites that may hold some."""

    args: tuple[Tensor, ...]
    every: Tensor
    sites: list[Site]

    @classmethod
    def of(cls, model: Program, args: tuple[Tensor, ...]) -> "FirstRows":
        """Those of a run of the model."""
        few = tuple(each[:ROWS_COMPARED] for each in args)
        with evaluating(model), seeded(0):  # leaves the stream of the draws alone
            local = [site for site in sample_sites(run(model, *few)) if is_local(site)]
        sites = [site for site in local if observes(site) and not is_mask_of_x(site)]
        return cls(few, torch.arange(few[0][0].numel()), sites)


def holds(site: Site, x: Tensor, places: Tensor) -> bool:
    """Whether a site observes these entries of x."""
    return fits(site, places) and not first_difference(site, x, places)


def fits(site: Site, places: Tensor) -> bool:
    """Whether a site has as many values of a row."""
    return num_values(site) == len(places)


def first_difference(site: Site, x: Tensor, places: Tensor) -> str:
    """Where a site first observes another value than these entries of x, in words, or ""."""
    value = site["value"].expand(observed_shape(site["value"], site["fn"]))
    values = rows_first(value, site, num_lead=0).reshape(len(x), -1).to(x)
    given = x.reshape(len(x), -1)[:, places.to(x.device)]  # x may be numbers alone
    differ = ((values != given) & ~given.isnan()).nonzero()
    if not len(differ):
        return ""
    where = tuple(differ[0].tolist())
    seen, wanted = values[where].item(), given[where].item()
    return f"site {site['name']!r} observes {seen:g} where x is {wanted:g}"


def num_values(site: Site) -> int:
    """Number of values of a row at an observed site."""
    event = observed_shape(site["value"], site["fn"])[len(site["fn"].batch_shape) :]
    return event.numel() * inner_plates(site).numel()


def marked_entries(model: Program, rows: FirstRows) -> dict[str, Tensor]:
    """Entries of x at the sites by marks, where the sites have their values too."""
    with evaluating(model), seeded(0):
        marked = observed_entries(model, rows.args)
    return {
        site["name"]: marked[site["name"]].places
        for site in rows.sites
        if site["name"] in marked
        and marked[site["name"]].argument == 0
        and holds(site, rows.args[0], marked[site["name"]].places)
    }
