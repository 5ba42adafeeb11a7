"""Randomness through a seed argument: the global stream is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from threading import RLock
from typing import Any

import numpy as np
import torch

from ppl_vae.runtime.checks import whole_number

__all__ = ["Stream", "derived_seed", "generator", "one_at_a_time", "seeded"]

# Held where programs run: all threads share torch's generator, Pyro's handlers and store.
one_at_a_time = RLock()


class Stream(IntEnum):
    """The random streams of each job, as keys of `derived_seed`; two jobs may use one number.

    Example:
        >>> derived_seed(0, Stream.STEPS) == derived_seed(0, 1)
        True
    """

    # fit
    BATCHES = 0
    STEPS = 1
    MONITORED_BOUND = 2
    FITTED_LATENTS = 3
    RATE = 4
    FINITE_LOSS = 5
    # log_evidence: the guide's global latents, fresh draws after a pilot run, bfloat16 compared
    GLOBAL_LATENTS = 0
    FRESH_DRAWS = 1
    ROUNDING = 1
    # log_evidence of a run, with its marked rows again
    REFINEMENT = 1
    REFINED_EVIDENCE = 2
    # calibration and bdmc
    SIMULATION = 0
    POSTERIOR_DRAWS = 1
    RANKS = 2
    CHOSEN_ROWS = 3
    # compare_estimators
    REFERENCE = 0
    OBJECTIVES = 1


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a stream that starts at `seed`, and leave the caller's stream as it was.

    Pyro's samplers draw from torch's global generator (CPU and CUDA), which all threads share: draw
    in one of them at a time (`fit` and evaluations wait for each other).

    Args:
        seed: Where the stream starts; None draws from the caller's stream.

    Raises:
        ValueError: The seed is not a whole number, or negative.

    Example:
        >>> with seeded(0):
        ...     first = torch.randn(2)
        >>> with seeded(0):
        ...     print(torch.equal(first, torch.randn(2)))
        True
    """
    if seed is None:
        yield
        return
    devices = _cuda_devices()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(whole_number(seed, "seed", at_least=0))
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


@cache
def _cuda_devices() -> range:
    """Asked once: without a driver each answer is slow and keeps a stack trace for good."""
    return range(torch.cuda.device_count())


def derived_seed[Seed: int | None](seed: Seed, *keys: int) -> Seed:
    """A seed for one part of a job (an epoch, a chunk), independent of the other parts.

    It is a function of the arguments alone, so that a job resumes without a stored generator state.

    Args:
        seed: The job's seed; None gives None.
        keys: Numbers of the part, a `Stream` where the job has several.

    References:
        NumPy's `SeedSequence`.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    if seed is None:
        return seed
    sequence = np.random.SeedSequence([whole_number(seed, "seed", at_least=0), *keys])
    found: Any = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    return found


def generator(seed: int | None) -> np.random.Generator:
    """NumPy's generator of a seed that was given by a caller; None is not repeatable.

    Args:
        seed: Where the stream starts.

    Raises:
        ArgumentError: It is not a whole number, or negative.

    Example:
        >>> generator(0).random() == generator(0).random()
        True
    """
    if seed is not None:
        whole_number(seed, "seed", at_least=0)
    return np.random.default_rng(seed)
