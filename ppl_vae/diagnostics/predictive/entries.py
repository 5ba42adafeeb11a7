"""The entries of x that a model observes, at one site or at several."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.observed.site_of_x import entries_of_x
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import (
    inner_plates,
    is_observation,
    observed_shape,
    redrawn,
    sample_sites,
)
from ppl_vae.programs.traces import Program, Site, run_under_particles
from ppl_vae.runtime.seeding import seeded

__all__ = ["EntriesOfX"]

ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class EntriesOfX:
    """The sites at which a model observes entries of x.

    Args:
        size: Number of values of a row.
        places: For each site the entries of a row that it observes, flattened, in the order of its
            values.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> list(EntriesOfX.of(bed.model, Dataset(bed.x)).places)
        ['x']
    """

    size: int
    places: dict[str, Tensor]

    @classmethod
    def of(cls, model: Program, data: Dataset, without: Collection[str] = ()) -> "EntriesOfX":
        """Those of a model, from runs on the first rows, without these sites.

        Raises:
            ValueError: no site observes entries of x as they are.
        """
        found = entries_of_x(model, arguments(data))
        places = {name: each for name, each in found.items() if name not in without}
        if not places:
            args = arguments(data, slice(1))
            with evaluating(model), seeded(0):
                sites = sample_sites(poutine.trace(model).get_trace(*args))
            names = [site["name"] for site in sites if is_observation(site)]
            raise ValueError(
                f"none of the observed sites {names} holds x: observe x, or entries of it, as given"
            )
        return cls(data.event_shape.numel(), places)

    @property
    def are_drawn(self) -> Tensor:
        """Which entries of a row some site observes, (size,)."""
        found = torch.zeros(self.size, dtype=torch.bool)
        for places in self.places.values():
            found[places.cpu()] = True
        return found

    def at(self, x: Tensor, site: Site) -> Tensor:
        """The entries of x (B, *event) at a site of a trace, (*plates, B, *event of the site)."""
        fn = site["fn"]
        plates = inner_plates(site)
        own = x.flatten(1)[:, self.places[site["name"]].to(x.device)]
        event = observed_shape(site["value"], fn)[len(fn.batch_shape) :]
        values = own.reshape(len(x), *plates, *event).movedim(0, len(plates))
        return values.reshape(*fn.batch_shape[1:], *event)

    def put(self, parts: dict[str, Tensor], trace: Any) -> Tensor:
        """Values of all sites under particles, (K, *plates, B, *event), as (K, B, size).

        Entries that no site observes are zero.
        """
        rows = {}
        for name, values in parts.items():
            first = rows_first(values, trace.nodes[name])
            rows[name] = first.reshape(*first.shape[:2], -1)
        first = next(iter(rows.values()))
        if len(rows) == 1 and first.shape[-1] == self.size:
            return first
        found = first.new_zeros(*first.shape[:2], self.size)
        for name, values in rows.items():
            found[..., self.places[name].to(values.device)] = values
        return found

    def counted(self, trace: Any) -> Tensor:
        """Which entries count in a trace under particles, (K, B, size); others are masked."""
        sites = {name: trace.nodes[name] for name in self.places}
        masks = {
            name: mask_of({**site, "value": _full(site)}).double() for name, site in sites.items()
        }
        return self.put(masks, trace).bool()


def _full(site: Site) -> Tensor:
    """Zeros of the shape of a site's values under particles."""
    return torch.zeros(observed_shape(site["value"], site["fn"]), device=site["value"].device)


def counted_entries(entries: EntriesOfX, inference: Inference) -> Tensor:
    """Which entries of all rows count, (N, *event): of steps within a sequence's length, say."""
    x = inference.data.x
    if isinstance(inference.model, Model):
        return torch.ones_like(x, dtype=torch.bool)
    parts = []
    for block in inference.blocks(ROWS_AT_ONCE):
        with block.evaluating(), seeded(0):
            trace = run_under_particles(redrawn(inference.model), 1, *block.args)
            parts.append(entries.counted(trace)[0])
    counted = torch.cat(parts).reshape(x.shape).to(x.device)
    # Masked where it is missing, an entry counts where a site would draw it.
    return counted | (x.isnan() & entries.are_drawn.reshape(x.shape[1:]).to(x.device))
