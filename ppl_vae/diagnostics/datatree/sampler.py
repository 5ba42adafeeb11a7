"""Draws and densities at every site of a model and guide, as arrays for a DataTree."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.programs.discrete.given_x import at_all_latents
from ppl_vae.programs.inference import (
    FEW_ROWS,
    PAIRS_PER_CHUNK,
    Block,
    Inference,
    rows_per_chunk,
)
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.observed.known import known_parts, with_known
from ppl_vae.programs.particles import run
from ppl_vae.programs.plates import inner_plates, rows_first
from ppl_vae.programs.sites import (
    is_local,
    is_observation,
    log_prob_of,
    observed_shape,
    per_datum,
    redrawn,
    sample_sites,
)
from ppl_vae.programs.traces import Program, Site, log_terms, particles_of
from ppl_vae.runtime.checks import whole_fields
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["Draws"]

Shapes = dict[str, tuple[int, ...]]
DEFAULT_NUM_DATA = 100
GIGABYTE = 1e9


@dataclass(frozen=True)
class Draws:
    """Size of the draws of `to_datatree`: S draws for each of the first rows.

    The size is limited because 1,000 draws of 50 latent dims for 70,000 rows take 14 GB. The draws
    are also the K = S importance particles.

    Args:
        num_samples: Number of draws S.
        num_data: Number of rows, from the first; None is 100, or fewer if the data have fewer or
            the tree would be too large.
        max_gigabytes: Largest size of the tree in memory.
        chunk_size: (draw, row) pairs drawn at once; limits the memory in addition to the tree.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> Draws(num_samples=100).max_gigabytes
        2.0
    """

    num_samples: int = 1000
    num_data: int | None = None
    max_gigabytes: float = 2.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        whole_fields(self, num_samples=1, num_data=1, chunk_size=1)

    def rows(self, layout: "Layout", num_data: int) -> int:
        """Number of rows in the tree, out of `num_data`."""
        one_row = self.num_samples * layout.bytes_per_draw / GIGABYTE
        fitting = int(self.max_gigabytes / one_row)
        rows = self.num_data or max(1, min(num_data, DEFAULT_NUM_DATA, fitting))
        if rows > num_data:
            raise ValueError(f"num_data={rows}, but the data have {num_data} rows: ask for fewer")
        if rows * one_row > self.max_gigabytes:
            raise ValueError(
                f"the tree would take {rows * one_row:.3g} GB ({self.num_samples} draws of {rows} "
                f"rows), more than max_gigabytes={self.max_gigabytes:g}: lower num_samples or "
                "num_data, or raise max_gigabytes"
            )
        return rows


@dataclass(frozen=True)
class Layout:
    """Shapes of the values at each site: of one row inside the plate, of all outside it."""

    local: Shapes
    shared: Shapes
    observed: Shapes
    known: frozenset[str]
    itemsize: int

    @property
    def bytes_per_draw(self) -> int:
        """Size of one draw for one row: latents and x twice, their densities, three statistics."""
        latent = sum(map(math.prod, self.local.values()))
        observed = sum(map(math.prod, self.observed.values()))
        densities = len(self.observed) + len(self.local) + 3
        return self.itemsize * (2 * latent + 2 * observed + densities)


def read_layout(model: Program, guide: Program, data: Dataset) -> Layout:
    """Shapes from a run on the first row."""
    with evaluating(model, guide), seeded(0):
        terms = log_terms(model, guide, *arguments(data, slice(1)))
    known = known_parts(model, arguments(data, slice(FEW_ROWS)))
    sites = sample_sites(terms.model_trace)
    latent = [site for site in sites if not site["is_observed"]]
    return Layout(
        local={site["name"]: row_shape(site) for site in latent if is_local(site)},
        shared={site["name"]: tuple(site["value"].shape) for site in latent if not is_local(site)},
        observed={site["name"]: row_shape(site) for site in sites if is_observation(site)},
        known=known,
        itemsize=terms.log_likelihood.element_size(),
    )


def row_shape(site: Site) -> tuple[int, ...]:
    """Shape of one row's values at a site, plates inside the data plate first."""
    return (*inner_plates(site), *site["fn"].event_shape)


@dataclass
class Sampler:
    """Fills `arrays[group][name]`, which are allocated once, so that other memory is limited."""

    inference: Inference
    draws: Draws
    layout: Layout
    seed: int
    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    shared: dict[tuple[str, int], poutine.Trace] = field(default_factory=dict)

    def run(self, *, progress: bool) -> None:
        """Draw for all rows."""
        num_samples = self.draws.num_samples
        # A run has one draw of the global latents.
        at_once = 1 if self.layout.shared else num_samples
        rows = rows_per_chunk(len(self.inference), at_once, self.draws.chunk_size)
        step = min(at_once, self.draws.chunk_size or PAIRS_PER_CHUNK)
        blocks = self.inference.blocks(rows, seed=self.seed, title="draws", progress=progress)
        for block in blocks:
            with block.evaluating():
                for first in range(0, num_samples, step):
                    self._chunk(block, slice(first, min(first + step, num_samples)))

    def _chunk(self, block: Block, draw: slice) -> None:
        """Some draws for a block; the log-weights are those of `log_weights` with equal seeds."""
        model = self.inference.model
        guide = self._with_shared(self.inference.guide, "guide", draw)
        count = draw.stop - draw.start
        terms = log_terms(model, guide, *block.args, num_particles=count)
        self._remember_shared(terms.guide_trace, "guide", draw)
        with seeded(derived_seed(self.seed, block.rows.start, draw.start)):
            particles = particles_of(terms.model_trace)
            at_latents = at_all_latents(terms, model, *block.args)
            joint = run(at_latents, *block.args)
            predictive = _simulate(at_latents, block.args, self.layout.known)
            prior = _simulate(particles(self._with_shared(model, "model", draw)), block.args)
        self._remember_shared(prior, "model", draw)

        local, shared = self.layout.local, self.layout.shared
        sites, latents = (
            {name: joint.nodes[name] for name in names} for names in (self.layout.observed, local)
        )
        by_draw_and_row = {
            "posterior": {name: _drawn(joint, name) for name in local},
            "prior": {name: _drawn(prior, name) for name in local},
            "posterior_predictive": {name: _drawn(predictive, name) for name in sites},
            "prior_predictive": {name: _drawn(prior, name) for name in sites},
            "log_likelihood": _log_probs(sites),
            "log_prior": _log_probs(latents),
            "sample_stats": {
                "log_p": terms.log_joint,
                "log_q": terms.log_q,
                "log_weights": terms.log_weights,
            },
        }
        by_row = {"observed_data": {name: _given(site) for name, site in sites.items()}}
        self._keep(by_draw_and_row, draw=draw, row=block.rows)
        self._keep(by_row, row=block.rows)
        if shared:
            by_draw = {
                "posterior": {name: _drawn(joint, name) for name in shared},
                "prior": {name: _drawn(prior, name) for name in shared},
            }
            log_global = terms.log_global + terms.global_likelihood
            self._keep(by_draw | {"sample_stats": {"log_global": log_global}}, draw=draw)

    def _with_shared(self, program: Program, which: str, draw: slice) -> Program:
        """The program with the global latents of the first block, which all rows share."""
        trace = self.shared.get((which, draw.start))
        return program if trace is None else poutine.replay(program, trace=trace)

    def _remember_shared(self, trace: poutine.Trace, which: str, draw: slice) -> None:
        if not self.layout.shared or (which, draw.start) in self.shared:
            return
        self.shared[which, draw.start] = fixed = poutine.Trace()
        for name in self.layout.shared:
            fixed.add_node(name, **trace.nodes[name])

    def _keep(self, groups: dict[str, dict[str, Tensor]], **where: slice) -> None:
        """Write values whose first dims are the draws or the rows, or both."""
        sizes = {"draw": self.draws.num_samples, "row": len(self.inference)}
        lengths = tuple(sizes[dim] for dim in where)
        for group, variables in groups.items():
            arrays = self.arrays.setdefault(group, {})
            for name, values in variables.items():
                found = values.cpu().numpy()
                if name not in arrays:
                    arrays[name] = np.empty(lengths + found.shape[len(where) :], found.dtype)
                arrays[name][tuple(where.values())] = found


def _drawn(trace: poutine.Trace, name: str) -> Tensor:
    """Draws at a site, (K, B, *plates, *event), or (1, *shape) outside the plate."""
    site: Site = trace.nodes[name]
    if not is_local(site):
        return site["value"][None]
    value = with_known(site, trace)
    shape = torch.broadcast_shapes(value.shape, observed_shape(value, site["fn"]))
    return rows_first(value.expand(shape), site)


def _log_probs(sites: dict[str, Site]) -> dict[str, Tensor]:
    """Log-densities by site, (K, B)."""
    return {name: per_datum(log_prob_of(site), site) for name, site in sites.items()}


def _given(site: Site) -> Tensor:
    """The values that a site observes, (B, *plates, *event)."""
    shape = observed_shape(site["value"], site["fn"])
    value = site["value"].broadcast_to(shape)[0]  # without particles
    return rows_first(value, site, num_lead=0)


def _simulate(
    model: Program, args: tuple[Tensor, ...], known: frozenset[str] = frozenset()
) -> poutine.Trace:
    """A run of the model that also draws the observations, but for those that are known."""
    return poutine.trace(redrawn(model, known)).get_trace(*args)
