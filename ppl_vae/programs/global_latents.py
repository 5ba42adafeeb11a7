"""Latents outside the data plate, for evaluation: several draws of them, the same for all rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyro import poutine
from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import Program, run
from ppl_vae.programs.sites import is_local, sample_sites
from ppl_vae.runtime.seeding import Stream, derived_seed, seeded

__all__ = [
    "GlobalDraws",
    "conditionals",
    "global_draw",
    "with_global_draws",
]

FEWEST_DRAWS = 30  # for a standard error between draws


@dataclass(frozen=True)
class GlobalDraws:
    """A guide, and draws of its latents outside the data plate, each by name.

    Args:
        guide: Any Pyro guide.
        draws: One dictionary for each draw.

    Example:
        >>> GlobalDraws(lambda x: None, [{}, {}, {}]).clusters(7).tolist()
        [0, 0, 0, 1, 1, 2, 2]
    """

    guide: Program
    draws: list[dict[str, Tensor]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide."""
        return self.guide(*args, **kwargs)

    def clusters(self, num_particles: int) -> np.ndarray:
        """Index of the draw that each particle belongs to, (K,), in nearly equal shares."""
        return np.sort(np.arange(num_particles) % len(self.draws))


def global_draw(guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """One draw of the latents outside the data plate, by name.

    Args:
        guide: Any Pyro guide.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Example:
        >>> import pyro, torch
        >>> ones = pyro.distributions.Delta(torch.ones(2)).to_event(1)
        >>> global_draw(lambda: pyro.sample("mean", ones))
        {'mean': tensor([1., 1.])}
    """
    sites = sample_sites(run(guide, *args, **kwargs))
    return {s["name"]: s["value"] for s in sites if not (s["is_observed"] or is_local(s))}


def with_global_draws(
    model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int, seed: int | None
) -> Program:
    """The guide with sqrt(K) draws of its global latents, 30 to K; itself without any.

    Args:
        model: The model, put into evaluation mode with it.
        guide: Any Pyro guide.
        args: Arguments of both: x, or x and context.
        num_particles: Number of particles K.
        seed: Seed of the draws; None draws from torch's global stream.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> with_global_draws(bed.model, bed.guide, (bed.x,), 100, seed=0) is bed.guide
        True
    """
    with evaluating(model, guide), seeded(derived_seed(seed, Stream.GLOBAL_LATENTS, 0)):
        first = global_draw(guide, *args)
        if not first:
            return guide
        num_draws = min(num_particles, max(FEWEST_DRAWS, math.isqrt(num_particles)))
        others = [global_draw(guide, *args) for _ in range(num_draws - 1)]
    return GlobalDraws(guide, [first, *others])


def conditionals(
    model: Program, guide: Program, num_particles: int, seed: int | None
) -> Iterator[tuple[Program, Program, int, int | None]]:
    """Model and guide given each draw of the global latents, with particle count and seed.

    Both as they are, once, where the guide has no draws.

    Example:
        >>> guide = GlobalDraws(lambda x: None, [{}, {}])
        >>> [count for _, _, count, _ in conditionals(lambda x: None, guide, 5, seed=0)]
        [3, 2]
    """
    if not isinstance(guide, GlobalDraws):
        yield model, guide, num_particles, seed
        return
    counts = np.bincount(guide.clusters(num_particles))
    for i, count in enumerate(counts):
        given_model, given_guide = (
            poutine.condition(program, data=guide.draws[i]) for program in (model, guide.guide)
        )
        own_seed = derived_seed(seed, Stream.GLOBAL_LATENTS, i + 1)
        yield given_model, given_guide, int(count), own_seed
