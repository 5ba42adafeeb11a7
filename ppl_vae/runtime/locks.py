"""A folder in which one process works at a time, and a file that one process writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae.errors import InUseError

try:
    import fcntl
except ImportError:  # pragma: no cover - where there are no such locks, there is none
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_in", "alone_with"]


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
def alone_with(file: str | Path | None) -> Iterator[None]:
    """Hold the lock of a file that is replaced as a whole, which ends with the process.

    The lock is on an empty file beside it, NAME.lock, which is removed at the end.

    Args:
        file: The file; its folder is made. None needs no lock.

    Raises:
        InUseError: Another process, or another call in this one, holds the lock.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.pt"
        >>> with alone_with(file):
        ...     [path.name for path in file.parent.iterdir()]
        ['a.pt.lock']
        >>> list(file.parent.iterdir())
        []
    """
    descriptor = None if file is None else _taken(_beside(file), Path(file))
    if file is None or descriptor is None:
        yield
        return
    try:
        yield
    finally:
        _beside(file).unlink(missing_ok=True)
        os.close(descriptor)


def _beside(file: str | Path) -> Path:
    """The file whose lock stands for that of another."""
    return Path(f"{file}.lock")


def _taken(beside: Path, file: Path) -> int | None:
    """The open and locked file beside another; None where none can be made or locked."""
    while fcntl is not None:
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # writing the file will name the reason
            return None
        try:
            _lock(descriptor, file, "file")
        except InUseError:
            os.close(descriptor)
            raise
        if _is_at(descriptor, beside):  # else its last holder has removed it meanwhile
            return descriptor
        os.close(descriptor)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself; a file system without locks has none."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, "folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, kind: str) -> None:
    """Take the lock of an open folder or file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(
            f"{path} is in use by another process: wait until it ends, or choose another {kind}"
        ) from error
    except OSError:
        return
