"""How much memory there is, and refusals of what cannot fit."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae.errors import TooLargeError

__all__ = [
    "NUM_BYTES",
    "available_bytes",
    "memory_in_words",
    "require_memory",
    "require_unpacked",
]

NUM_BYTES = 4  # of a number in float32
CGROUP = Path("/sys/fs/cgroup")  # of a container
GIGABYTE = 2**30
LARGEST_UNPACKED = 2**28  # bytes of a compressed file whose values may all be equal
MOST_COMPRESSED = 500  # times; deflated zeros take a thousandth
REFUSED = re.compile(  # by torch's allocators, and by NumPy
    r"tried to allocate ([\d.]+ \w+)|unable to allocate ([\d.]+ \w+)|size calculation overflowed",
    re.IGNORECASE,
)


def require_memory(what: str, *sizes: float, num_bytes: int = NUM_BYTES) -> None:
    """Raise if an array of these sizes cannot fit into the memory that is available.

    Nothing is allocated, so that a size which is asked for by mistake costs nothing.

    Args:
        what: What needs the memory, and how it is made smaller, for the message.
        sizes: Sizes of each dim; their product is the number of numbers.
        num_bytes: Bytes of each number.

    Raises:
        TooLargeError: It needs more than is available.

    Example:
        >>> require_memory("a table", 10, 20)
        >>> require_memory("latent_dim=10**12", 10**12, 10**3)
        Traceback (most recent call last):
        ppl_vae.errors.TooLargeError: latent_dim=10**12 needs 3,725,290 GB of memory, and ... GB ...
    """
    needed = math.prod(sizes) * num_bytes
    available = available_bytes()
    if needed > available:
        raise TooLargeError(
            f"{what} needs {needed / GIGABYTE:,.0f} GB of memory, and "
            f"{available / GIGABYTE:,.1f} GB are available: ask for less"
        )


@contextmanager
def memory_in_words(remedy: str) -> Iterator[None]:
    """Name the remedy where an array does not fit into memory.

    Args:
        remedy: What makes it smaller.

    Raises:
        TooLargeError: Instead of the errors of torch and NumPy.

    Example:
        >>> import numpy as np
        >>> with memory_in_words("lower num_particles"):
        ...     np.empty(2**50)
        Traceback (most recent call last):
        ppl_vae.errors.TooLargeError: there is no memory for 8.00 PiB more: lower num_particles
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        found = REFUSED.search(str(error))
        if found is None and not isinstance(error, MemoryError):
            raise
        size = next(filter(None, found.groups()), "so much") if found else "so much"
        raise TooLargeError(f"there is no memory for {size} more: {remedy}") from error


def require_unpacked(path: str | Path, num_bytes: int) -> None:
    """Raise if a file's values do not fit into memory, or take hundreds of times its own size.

    Data are not compressed that much, and files that are made to fill the memory are.

    Args:
        path: The file.
        num_bytes: Bytes of its values in memory.

    Raises:
        TooLargeError: They do not fit, or are too many for the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> _ = path.write_bytes(bytes(1000))
        >>> require_unpacked(path, 10**9)
        Traceback (most recent call last):
        ppl_vae.errors.TooLargeError: ...a.npz has 1,000 bytes, and 1,000,000,000 when it is \
unpacked, ...
    """
    require_memory(f"{path}", num_bytes, num_bytes=1)
    size = Path(path).stat().st_size
    if num_bytes > max(LARGEST_UNPACKED, MOST_COMPRESSED * size):
        raise TooLargeError(
            f"{path} has {size:,} bytes, and {num_bytes:,} when it is unpacked, more than "
            f"{MOST_COMPRESSED} times as many: save it without compression if that is meant"
        )


def available_bytes() -> float:
    """Bytes that this process can still use; infinite where the system does not say.

    Example:
        >>> available_bytes() > 2**20
        True
    """
    return min(_of_machine(), _of_container())


def _of_machine() -> float:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        return float(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _of_container() -> float:
    with suppress(OSError, ValueError):
        limit = (CGROUP / "memory.max").read_text(encoding="ascii")
        used = (CGROUP / "memory.current").read_text(encoding="ascii")
        return float(limit) - float(used)  # the limit may be "max"
    return math.inf
