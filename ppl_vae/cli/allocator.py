"""What the C library does with the memory of freed tensors, in processes of the command line."""

import os
import sys
from contextlib import suppress

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**29  # bytes of free memory
LARGEST = 2**25  # bytes, the most that glibc takes


def keep_freed_memory() -> None:
    """Let glibc keep up to 512 MB of freed memory for the next tensors.

    By default it gives them back after each block of particles, and fetching them again took two
    fifths of the time of `log_evidence`. The user's own MALLOC_TRIM_THRESHOLD_ counts.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    import ctypes  # which --help does without

    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST)
