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
from ppl_vae.programs.traces import is_local, sample_sites
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["GlobalDraws", "conditionals", "global_draw", "with_global_draws"]

FEWEST_DRAWS = 30  # for a standard error between draws


@dataclass(frozen=True)
class GlobalDraws:
    """A guide, and draws of its latents outside the data plate, each a value by name.

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
        """The guide as it is."""
        return self.guide(*args, **kwargs)

    def clusters(self, num_particles: int) -> np.ndarray:
        """Which draw each particle belongs to, (K,): as many particles of each draw as of the
        others, or one more.
        """
        return np.sort(np.arange(num_particles) % len(self.draws))


def global_draw(guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """One draw of the latents outside the data plate, by name.

    Args:
        guide: Any Pyro guide.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Example:
        >>> import pyro, torch
        >>> global_draw(lambda: pyro.sample("mean", pyro.distributions.Delta(torch.ones(2)).to_event(1)))
        {'mean': tensor([1., 1.])}
    """
    sites = sample_sites(run(guide, *args, **kwargs))
    return {
        site["name"]: site["value"] for site in sites if not (site["is_observed"] or is_local(site))
    }


def with_global_draws(
    model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int, seed: int | None
) -> Program:
    """The guide with sqrt(K) draws of its global latents, at least 30 and at most K; itself where
    it has none.

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
    with evaluating(model, guide), seeded(None if seed is None else derived_seed(seed, 0, 0)):
        first = global_draw(guide, *args)
        if not first:
            return guide
        num_draws = min(num_particles, max(FEWEST_DRAWS, math.isqrt(num_particles)))
        others = [global_draw(guide, *args) for _ in range(num_draws - 1)]
    return GlobalDraws(guide, [first, *others])


def conditionals(
    model: Program, guide: Program, num_particles: int, seed: int | None
) -> Iterator[tuple[Program, Program, int, int | None]]:
    """Model and guide conditional on each draw of the global latents, the number of its particles,
    and their seed.

    Both as they are, once, where the guide comes without draws.

    Example:
        >>> guide = GlobalDraws(lambda x: None, [{}, {}])
        >>> [count for _, _, count, _ in conditionals(lambda x: None, guide, 5, seed=0)]
        [3, 2]
    """
    if not isinstance(guide, GlobalDraws):
        yield model, guide, num_particles, seed
        return
    counts = np.bincount(guide.clusters(num_particles), minlength=len(guide.draws))
    for i, (values, count) in enumerate(zip(guide.draws, counts, strict=True)):
        given_model = poutine.condition(model, data=values)
        given_guide = poutine.condition(guide.guide, data=values)
        if count:
            yield (
                given_model,
                given_guide,
                int(count),
                None if seed is None else derived_seed(seed, 0, i + 1),
            )
