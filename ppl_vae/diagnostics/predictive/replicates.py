"""Data sets drawn from a model with z from its prior, and with z from its posterior."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.datatree.sampler import read_layout
from ppl_vae.diagnostics.predictive.entries import EntriesOfX, counted_entries
from ppl_vae.diagnostics.predictive.latents_given_x import drawn_latents
from ppl_vae.programs.inference import PAIRS_PER_CHUNK, Inference
from ppl_vae.programs.masks import missing_from
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.sites import redrawn
from ppl_vae.programs.traces import (
    Program,
    drawing,
    run_under_particles,
    sample_sites,
)
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["ReplicatedData"]

PREDICTIVES = {"prior_predictive": "prior", "posterior_predictive": "posterior"}


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
        self.known = layout.known
        self.shapes = layout.local  # of one row's latents
        self.entries = EntriesOfX.of(inference.model, inference.data, self.known)
        self.inference = inference
        self.counted = counted_entries(self.entries, inference)
        self.has_global = bool(layout.shared)
        self.num_samples = num_samples
        self.seed = seed
        self.latents, self.shared, self.pareto_k = drawn_latents(
            inference, num_samples, seed, with_shared=self.has_global, progress=progress
        )

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
