"""Data sets drawn from a model with z from its prior, and with z from its posterior."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.datatree.resampled import chosen_particles
from ppl_vae.diagnostics.datatree.sampler import read_layout
from ppl_vae.diagnostics.predictive.entries import FEW_ROWS, EntriesOfX, counted_entries
from ppl_vae.diagnostics.predictive.known import known_parts, with_known
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.programs.discrete.given_x import trace_at_all_latents
from ppl_vae.programs.inference import PAIRS_PER_CHUNK, Block, Inference, rows_per_chunk
from ppl_vae.programs.masks import missing_from
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.sites import redrawn
from ppl_vae.programs.traces import (
    Program,
    drawing,
    is_local,
    log_terms,
    run_under_particles,
    sample_sites,
)
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["ReplicatedData"]

PREDICTIVES = {"prior_predictive": "prior", "posterior_predictive": "posterior"}
NUM_PARTICLES = 1000  # draws of the guide per row; those of the posterior are chosen among them
NUM_PARTICLES_GIVEN_SHARED = 100  # where each draw has its own, given latents of all rows
LATENTS = 1  # their random stream; x of a draw has another, or its noise would follow g


class ReplicatedData:
    """S pairs of data sets, with NaN where x is missing: one with z from the prior, one with z
    given x.

    Draws of z given x are resampled from draws of the guide by their importance weights; `pareto_k`
    is the k-hat of the weights, (N,). A latent that the model sums out is drawn given x and z.
    Given x, a class that is known for a row (Pyro's `obs_mask`) stays. Entries of x that no site
    draws stay as they are given.

    Latents outside the data plate are drawn from the guide, anew for each set, and z given them;
    `pareto_k` is then that given the first draw.

    Args:
        inference: Model, guide and rows.
        num_samples: Number of pairs S.
        seed: Seed of the draws.
        progress: Whether to show a bar while z is drawn, if that takes more than two seconds.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> inference = Inference(bed.model, bed.guide, bed.x)
        >>> pairs = list(ReplicatedData(inference, num_samples=2, seed=0))
        >>> len(pairs), pairs[0]["prior_predictive"].shape
        (2, (3, 5))
    """

    def __init__(
        self, inference: Inference, *, num_samples: int, seed: int, progress: bool = False
    ) -> None:
        layout = read_layout(inference.model, inference.guide, inference.data)
        few = arguments(inference.data, slice(FEW_ROWS))
        self.known = known_parts(inference.model, few)
        self.entries = EntriesOfX.of(inference.model, inference.data, self.known)
        self.inference = inference
        self.counted = counted_entries(self.entries, inference)
        self.has_global = bool(layout.shared)
        self.num_samples = num_samples
        self.seed = seed
        self.shared: dict[str, Tensor] = {}
        if self.has_global:
            self.latents, self.shared, self.pareto_k = _with_shared(
                inference, num_samples, seed, progress
            )
        else:
            drawing_z = Resampling(inference, num_samples, NUM_PARTICLES)
            self.latents, self.pareto_k = drawing_z(seed, progress=progress)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        args = self.inference.args
        for draws in self.parts():
            with self.inference.evaluating(derived_seed(self.seed, draws.start)):
                programs = (redrawn(self.inference.model), self._given_x(draws))
                found = [self._drawn(program, draws, args) for program in programs]
            masked = [np.where(missing, np.nan, x) for x, missing in found]
            for pair in zip(*masked, strict=True):
                yield dict(zip(PREDICTIVES, pair, strict=True))

    @property
    def x(self) -> np.ndarray:
        """The observed x, with NaN where an entry is missing or does not count."""
        x = self.inference.data.x.double()
        return x.masked_fill(~self.counted, torch.nan).cpu().numpy()

    def under(self, other: Dataset) -> Iterator[np.ndarray]:
        """x with z given x, under the covariates of other data, (S, N, *event).

        Missing entries are included. Computed some draws at a time.
        """
        for draws in self.parts():
            yield self.given_x(draws, other.context)

    def given_x(self, draws: slice, context: Tensor | None) -> np.ndarray:
        """x of these draws of z given x, under these covariates, (draws, N, *event)."""
        args = arguments(self.inference.data._with(context=context))
        with self.inference.evaluating(derived_seed(self.seed, draws.start)):
            return self._drawn(self._given_x(draws), draws, args)[0]

    def parts(self) -> Iterator[slice]:
        """The draws of one run, which have one draw of the global latents."""
        step = 1 if self.has_global else max(1, PAIRS_PER_CHUNK // len(self.inference))
        for start in range(0, self.num_samples, step):
            yield slice(start, min(start + step, self.num_samples))

    def _given_x(self, draws: slice) -> Program:
        """The model with these draws of its latents given x, and the classes that are known."""
        values = {name: value[draws] for name, value in self.latents.items()}
        values |= {name: value[draws.start] for name, value in self.shared.items()}
        return redrawn(drawing(self.inference.model, values), self.known)

    def _drawn(
        self, program: Program, draws: slice, args: tuple[Tensor, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """x as this program draws it, (S, N, *event), and which entries are missing."""
        count = draws.stop - draws.start
        trace: Any = run_under_particles(program, count, *args)
        given = self.inference.data.x
        shape = (count, *given.shape)
        parts = {name: trace.nodes[name]["value"].double() for name in self.entries.places}
        x = self.entries.put(parts, trace).reshape(shape)
        x = torch.where(self.counted, x, given.double())
        missing = ~self.counted | missing_from(given, sample_sites(trace))
        return x.cpu().numpy(), np.broadcast_to(missing.cpu().numpy(), shape)


def _with_shared(
    inference: Inference, num_samples: int, seed: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], np.ndarray]:
    """S draws of the latents in the data plate and outside it, those of a draw together."""
    local: list[dict[str, Tensor]] = []
    shared: list[dict[str, Tensor]] = []
    k_hats: list[np.ndarray] = []
    with progress_bar(num_samples, "draws of z", unit="draws", progress=progress) as bar:
        for draw in range(num_samples):
            own_seed = derived_seed(seed, draw, LATENTS)
            shared.append(_drawn_shared(inference, own_seed))
            # The first draw has as many particles as k-hat needs.
            num_particles = NUM_PARTICLES_GIVEN_SHARED if draw else NUM_PARTICLES
            resampling = Resampling(inference, 1, num_particles, shared[-1])
            values, pareto_k = resampling(own_seed)
            local.append(values)
            k_hats.append(pareto_k)
            bar.update()
    latents = {name: torch.cat([each[name] for each in local]) for name in local[0]}
    outside = {name: torch.stack([each[name] for each in shared]) for name in shared[0]}
    return latents, outside, k_hats[0]


def _drawn_shared(inference: Inference, seed: int) -> dict[str, Tensor]:
    """One draw of the guide's latents outside the data plate, given all rows."""
    with inference.evaluating(seed):
        sites = sample_sites(run_under_particles(inference.guide, 1, *inference.args))
    outside = [site for site in sites if not is_local(site) and not site["is_observed"]]
    return {site["name"]: site["value"] for site in outside}


@dataclass(frozen=True)
class Resampling:
    """S of K draws of each latent in the data plate, chosen row by row by their weights.

    Args:
        inference: Model, guide and rows.
        num_samples: Number of draws chosen S.
        num_particles: Number of draws of the guide K.
        shared: Values of the latents outside the data plate.

    References:
        Rubin (1987), A noniterative sampling/importance resampling alternative, JASA 82.
    """

    inference: Inference
    num_samples: int
    num_particles: int
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(
        self, seed: int, *, progress: bool = False
    ) -> tuple[dict[str, Tensor], np.ndarray]:
        """Draws of each latent, (S, *plates, N, *event), and k-hat by row, (N,)."""
        parts: list[dict[str, Tensor]] = []
        k_hats: list[np.ndarray] = []
        row_dims: dict[str, int] = {}
        step = rows_per_chunk(len(self.inference), self.num_particles)
        for block in self.inference.blocks(step, seed=seed, title="draws of z", progress=progress):
            log_w, values, row_dims = self._block(block)
            chosen = torch.from_numpy(chosen_particles(log_w, self.num_samples, block.seed))
            parts.append(
                {name: _taken(each, chosen, row_dims[name]) for name, each in values.items()}
            )
            k_hats.append(reduce_log_weights(log_w).pareto_k)
        latents = {
            name: torch.cat([part[name] for part in parts], dim) for name, dim in row_dims.items()
        }
        return latents, np.concatenate(k_hats)

    def _block(self, block: Block) -> tuple[np.ndarray, dict[str, Tensor], dict[str, int]]:
        """Log-weights of some rows, (K, B), values of each latent, and the dim of their rows."""
        guide = drawing(self.inference.guide, self.shared)
        model = self.inference.model
        with block.evaluating():
            terms = log_terms(model, guide, *block.args, num_particles=self.num_particles)
            joint = trace_at_all_latents(terms, model, *block.args)
        sites = [site for site in sample_sites(joint) if is_local(site) and not site["is_observed"]]
        log_w = terms.log_weights.double().cpu().numpy()
        values = {site["name"]: with_known(site, joint) for site in sites}
        return log_w, values, {site["name"]: -1 - site["fn"].event_dim for site in sites}


def _taken(value: Tensor, chosen: Tensor, row_dim: int) -> Tensor:
    """A site's values at the chosen particles of each row, (S, *plates, B, *event)."""
    by_row = value.movedim(row_dim, 1)
    rows = torch.arange(by_row.shape[1], device=by_row.device)
    return by_row[chosen.to(by_row.device), rows].movedim(1, row_dim)
