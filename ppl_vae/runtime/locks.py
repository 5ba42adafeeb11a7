"""A folder in which one process works at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae.errors import InUseError

try:
    import fcntl
except ImportError:  # pragma: no cover - where there are no such locks, there is none
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_in"]


@contextmanager
def alone_in(folder: str | Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a folder, which ends with the process however that ends.

    Args:
        folder: The folder; it is made.

    Yields:
        A function that raises FileNotFoundError if the folder has been removed since.

    Raises:
        InUseError: Another process, or another call in this one, holds the lock.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with alone_in(folder), alone_in(folder):
        ...     pass
        Traceback (most recent call last):
        ppl_vae.errors.InUseError: ... is in use by another process: wait ...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder.stat()

    def check() -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(folder.stat(), known):
                return
        raise FileNotFoundError(
            f"{folder} was removed or replaced while the run was going on: its results are "
            "incomplete; remove it and run the same command again"
        )

    with _locked(folder):
        yield check


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself; a file system without locks has none."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    """Take the lock of an open folder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(
            f"{folder} is in use by another process: wait until it ends, or choose another folder"
        ) from error
    except OSError:
        return
