"""Randomness through a seed argument: the global stream is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import overload

import numpy as np
import torch

from ppl_vae.runtime.checks import whole_number

__all__ = ["derived_seed", "one_at_a_time", "seeded"]

one_at_a_time = (
    RLock()
)  # held where programs run: all threads share torch's generator, Pyro's handlers and store


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block on a random stream of its own, and give the caller's stream back untouched.

    Pyro's samplers draw from torch's global generator (CPU and CUDA). Inside the block that
    generator starts at `seed`; after it, the state is what it was before. `None` leaves the global
    stream alone. All threads have that one generator: draw in one of them at a time (`fit` and
    evaluations wait for each other).


    Args:
        seed: Where the stream starts; None draws from the caller's stream.

    Raises:
        ValueError: The seed is no whole number, or negative.

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
    """Asked once: without a driver an answer takes as long as a small model's step, and so does
    `torch.manual_seed`.

    It keeps a stack trace for each kind of device that is not there, at each call, for good.
    """
    return range(torch.cuda.device_count())


@overload
def derived_seed(seed: int, *keys: int) -> int: ...


@overload
def derived_seed(seed: None, *keys: int) -> None: ...


def derived_seed(seed: int | None, *keys: int) -> int | None:
    """A seed for one part of a longer job (an epoch, a chunk), independent of the other parts.

    Resuming at part t needs no stored generator state: its seed is a function of (seed, t) alone.
    Reference: NumPy's `SeedSequence`.

    Args:
        seed: The job's seed; None stays None, torch's global stream.
        keys: What names the part.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    if seed is None:
        return None
    sequence = np.random.SeedSequence([whole_number(seed, "seed", at_least=0), *keys])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
