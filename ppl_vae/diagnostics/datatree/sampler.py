"""Draws of every site of a model and guide as arrays, some data at a time: what a DataTree is made
of.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.importance import PAIRS_PER_CHUNK, rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.plates import inner_plates, rows_first
from ppl_vae.programs.sites import is_local, per_datum, sample_sites
from ppl_vae.programs.traces import LogTerms, Program, Site, log_terms, particles_of
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["Draws"]

Shapes = dict[str, tuple[int, ...]]
DEFAULT_NUM_DATA = 100
GIGABYTE = 1e9


@dataclass(frozen=True)
class Draws:
    """How much `to_datatree` draws: S draws for each of the first rows of the data.

    1,000 draws x 70,000 data x 50 dims are 14 GB, hence the limit. The draws are also the K = S
    importance particles.

    Args:
        num_samples: Number of draws S.
        num_data: Number of rows, the first ones; None takes 100, or fewer where they would not fit
            or are not there.
        max_gigabytes: Largest size of the tree in memory.
        chunk_size: (draw, datum) pairs drawn at once; bounds the memory beside the tree's own.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> Draws(num_samples=100).max_gigabytes
        2.0
    """

    num_samples: int = 1000
    num_data: int | None = None
    max_gigabytes: float = 2.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_data", "chunk_size"):
            value = getattr(self, name)
            if value is not None:
                whole_number(value, f"Draws({name})")

    def rows(self, layout: "Layout", num_data: int) -> int:
        """How many of `num_data` rows the tree takes."""
        one_row = self.num_samples * layout.bytes_per_draw / GIGABYTE
        if self.num_data is None:
            rows = max(1, min(num_data, DEFAULT_NUM_DATA, int(self.max_gigabytes / one_row)))
        else:
            rows = self.num_data
        if rows > num_data:
            raise ValueError(f"num_data={rows}, but the data have {num_data} rows: ask for fewer")
        if rows * one_row > self.max_gigabytes:
            raise ValueError(
                f"the tree would take {rows * one_row:.3g} GB ({self.num_samples} draws of {rows} "
                "data), more than "
                f"max_gigabytes={self.max_gigabytes:g}: lower num_samples or num_data, or raise "
                "max_gigabytes"
            )
        return rows


@dataclass(frozen=True)
class Layout:
    """Shapes of the values at each site: of one datum inside the plate, of the whole outside it."""

    local: Shapes
    shared: Shapes
    observed: Shapes
    itemsize: int

    @property
    def bytes_per_draw(self) -> int:
        """One draw of one datum: posterior and prior, both predictives, log-likelihoods, three
        statistics.
        """
        latent, observed = (
            sum(map(math.prod, shapes.values())) for shapes in (self.local, self.observed)
        )
        return self.itemsize * (2 * latent + 2 * observed + len(self.observed) + 3)


def read_layout(model: Program, guide: Program, data: Dataset) -> Layout:
    """Shapes from a run on the first row."""
    with evaluating(model, guide), seeded(0):
        terms = log_terms(model, guide, *_arguments(data, slice(0, 1)))
    sites = sample_sites(terms.model_trace)
    latent = [site for site in sites if not site["is_observed"]]
    return Layout(
        local={site["name"]: row_shape(site) for site in latent if is_local(site)},
        shared={site["name"]: tuple(site["value"].shape) for site in latent if not is_local(site)},
        observed={site["name"]: row_shape(site) for site in sites if is_observation(site)},
        itemsize=terms.log_likelihood.element_size(),
    )


def row_shape(site: Site) -> tuple[int, ...]:
    """Shape of one row's values at a site, plates inside the data plate first."""
    return (*inner_plates(site), *site["fn"].event_shape)


def is_observation(site: Site) -> bool:
    """Whether a site is data: not `pyro.deterministic`, not the empty site of `pyro.factor`, inside
    the plate.
    """
    empty = math.prod(site["fn"].event_shape) == 0
    return (
        site["is_observed"]
        and is_local(site)
        and not empty
        and not (site["infer"] or {}).get("_deterministic")
    )


def _value(trace: poutine.Trace, name: str) -> Tensor:
    """Draws at a site, (K, B, *plates, *event)."""
    site: Site = trace.nodes[name]
    return rows_first(site["value"], site) if is_local(site) else site["value"]


def _given(trace: poutine.Trace, name: str) -> Tensor:
    """What a site observes, (B, *plates, *event)."""
    site: Site = trace.nodes[name]
    batch = site["fn"].batch_shape[1:]  # without particles
    return rows_first(site["value"].broadcast_to(*batch, *site["fn"].event_shape), site, num_lead=0)


def _arguments(data: Dataset, rows: slice) -> tuple[Tensor, ...]:
    return arguments(data.x[rows], None if data.context is None else data.context[rows])


def _simulate(model: Program, args: tuple[Tensor, ...]) -> poutine.Trace:
    """The model with its observations drawn as well."""
    return poutine.trace(poutine.uncondition(model)).get_trace(*args)


@dataclass
class Sampler:
    """Fills `arrays[group][name]`, preallocated, so that memory beside them does not grow with the
    data.
    """

    model: Program
    guide: Program
    data: Dataset
    draws: Draws
    layout: Layout
    seed: int
    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    shared: dict[tuple[str, int], poutine.Trace] = field(default_factory=dict)

    def run(self) -> Iterator[int]:
        """Draw; yields how many data were done."""
        num_samples, num_data = self.draws.num_samples, len(self.data)
        at_once = (
            1 if self.layout.shared else num_samples
        )  # a run has one draw of the global latents
        rows = rows_per_chunk(num_data, at_once, self.draws.chunk_size)
        step = min(at_once, self.draws.chunk_size or PAIRS_PER_CHUNK)
        for start in range(0, num_data, rows):
            where = slice(start, min(start + rows, num_data))
            with evaluating(self.model, self.guide), seeded(derived_seed(self.seed, start)):
                for first in range(0, num_samples, step):
                    self._chunk(slice(first, min(first + step, num_samples)), where)
            yield where.stop - where.start

    def _chunk(self, draws: slice, rows: slice) -> None:
        """Draw for some draws and rows. The log-weights are those that `log_weights` gives for the
        same seed.
        """
        count, args = draws.stop - draws.start, _arguments(self.data, rows)
        terms = log_terms(
            self.model, self._fixed(self.guide, "guide", draws), *args, num_particles=count
        )
        self._fix(terms.guide_trace, "guide", draws)
        with seeded(derived_seed(self.seed, rows.start, draws.start)):
            particles = particles_of(terms.model_trace)
            predictive = _simulate(
                particles(poutine.replay(self.model, trace=terms.guide_trace)), args
            )
            prior = _simulate(particles(self._fixed(self.model, "model", draws)), args)
        self._fix(prior, "model", draws)
        self._keep_draws(terms, predictive, prior, (draws, rows))
        self._keep_densities(terms, (draws, rows))

    def _fixed(self, program: Program, which: str, draws: slice) -> Program:
        """The program with the global latents of the first chunk: they are one draw for all
        data.
        """
        trace = self.shared.get((which, draws.start))
        return program if trace is None else poutine.replay(program, trace=trace)

    def _fix(self, trace: poutine.Trace, which: str, draws: slice) -> None:
        if not self.layout.shared or (which, draws.start) in self.shared:
            return
        self.shared[which, draws.start] = fixed = poutine.Trace()
        for name in self.layout.shared:
            fixed.add_node(name, **trace.nodes[name])

    def _keep_draws(
        self,
        terms: LogTerms,
        predictive: poutine.Trace,
        prior: poutine.Trace,
        where: tuple[slice, ...],
    ) -> None:
        for group, trace in (("posterior", terms.guide_trace), ("prior", prior)):
            for name in self.layout.local:
                self._put(group, name, _value(trace, name), where)
            for name, shape in self.layout.shared.items():
                self._put(group, name, _value(trace, name).reshape(-1, *shape), where[:1])
        for group, trace in (("posterior_predictive", predictive), ("prior_predictive", prior)):
            for name in self.layout.observed:
                self._put(group, name, _value(trace, name), where)
        for name in self.layout.observed:
            self._put("observed_data", name, _given(terms.model_trace, name), where[1:])

    def _keep_densities(self, terms: LogTerms, where: tuple[slice, ...]) -> None:
        for name in self.layout.observed:
            site: Site = terms.model_trace.nodes[name]
            self._put("log_likelihood", name, per_datum(site["unscaled_log_prob"], site), where)
        for name, value in {
            "log_p": terms.log_joint,
            "log_q": terms.log_q,
            "log_weights": terms.log_weights,
        }.items():
            self._put("sample_stats", name, value, where)
        if self.layout.shared:
            self._put(
                "sample_stats", "log_global", terms.log_global + terms.global_likelihood, where[:1]
            )

    def _put(self, group: str, name: str, values: Tensor, where: tuple[slice, ...]) -> None:
        """Write values at (draws, rows), (draws,) or (rows,)."""
        arrays, found = self.arrays.setdefault(group, {}), values.cpu().numpy()
        if name not in arrays:
            lengths = {"observed_data": (len(self.data),)}.get(
                group, (self.draws.num_samples, len(self.data))
            )
            arrays[name] = np.empty(lengths[: len(where)] + found.shape[len(where) :], found.dtype)
        arrays[name][where] = found
