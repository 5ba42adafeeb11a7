"""Files are written whole or not at all, with the number of their format."""

import errno
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ppl_vae.errors import DiskFullError

__all__ = [
    "FORMAT",
    "is_partial",
    "is_writable",
    "migrated",
    "remove_partial",
    "require_file",
    "require_writable",
    "write_folder",
    "write_tree",
    "write_whole",
]

Migration = Callable[[dict[str, Any]], dict[str, Any]]

FORMAT = 1  # of the files that are read back; raised whenever what is in them changes
# What makes the content of a file of one format that of the next, by kind ("config", "metrics",
# "run", "arrays") and format; a kind that is not listed did not change.
MIGRATIONS: dict[tuple[str, int], Migration] = {}

PARTIAL = ".partial"  # within the name of a file that is being written
FULL = (errno.ENOSPC, errno.EDQUOT)
SMALLEST_FREE = 2**16  # bytes: with less, the disk counts as full


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then move it into place in one step.

    A reader sees the old file or the new one, and an interrupted write leaves the old one. What a
    killed process left of this file is removed by the next write.

    Args:
        path: Where the file goes; folders are made.
        write: Called with the temporary path (same suffix).

    Returns:
        The path.

    Raises:
        DiskFullError: The disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
        >>> write_whole(target, lambda p: p.write_text("all of it")).read_text()
        'all of it'
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's and HDF5's own errors have no number
        if not _is_full(path.parent, error):
            raise
        raise DiskFullError(
            errno.ENOSPC, "disk full, and the former file is as it was: free space", str(path)
        ) from error
    finally:
        _remove(temporary)
    return path


def write_folder(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary folder beside `path`, then move it into place in one step.

    Args:
        path: Where the folder goes: nothing, or an empty folder.
        write: Called with the temporary folder.

    Returns:
        The path.

    Raises:
        DiskFullError: The disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new"
        >>> [each.name for each in write_folder(target, lambda p: (p / "a").touch()).iterdir()]
        ['a']
    """

    def fill(temporary: Path) -> None:
        temporary.mkdir()
        write(temporary)
        if Path(path).is_dir():
            Path(path).rmdir()  # which only an empty one allows

    return write_whole(path, fill)


def write_tree(path: str | Path, tree: Any, **options: Any) -> Path:
    """Write an xarray DataTree as netCDF 4, whole or not at all.

    It is made in memory first: HDF5 crashes the process if the disk is full while it writes.

    Args:
        path: The file.
        tree: The tree.
        options: Of `to_netcdf`.

    Example:
        >>> import tempfile, xarray as xr
        >>> path = write_tree(tempfile.mkdtemp() + "/a.nc", xr.DataTree(xr.Dataset({"x": 1.0})))
        >>> with xr.open_datatree(path, engine="h5netcdf") as tree:
        ...     float(tree["x"])
        1.0
    """
    with _no_cluster():
        content = tree.to_netcdf(engine="h5netcdf", **options)
    return write_whole(path, lambda p: p.write_bytes(content))


def _no_cluster() -> AbstractContextManager[Any]:
    """Hides a Dask cluster from xarray, which would lock what is in memory by its name."""
    dask: Any = sys.modules.get("dask")
    return nullcontext() if dask is None else dask.config.set(scheduler="synchronous")


def require_file(path: str | Path) -> Path:
    """The path, if it is that of a file which can be read to its end, and not of a pipe.

    Args:
        path: The path.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: It is a folder, a pipe or a device.

    Example:
        >>> require_file("nowhere.csv")
        Traceback (most recent call last):
        FileNotFoundError: nowhere.csv: no such file (from folder ...)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file (from folder {Path.cwd()})")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise OSError(f"{path} is {what}: give a file")
    return path


def require_writable(path: str | Path) -> Path:
    """The path, if a file can be written there: before work whose result would be lost.

    Args:
        path: The file; its folder need not exist.

    Raises:
        PermissionError: Its folder, or the nearest one that exists, is read-only.

    Example:
        >>> require_writable("runs/new/scores.csv")
        PosixPath('runs/new/scores.csv')
    """
    path = Path(path)
    if not is_writable(path):
        raise PermissionError(f"{path} cannot be written: its folder is read-only; name another")
    return path


def is_writable(path: str | Path) -> bool:
    """Whether a file can be written there, in a folder that exists or is to be made.

    Args:
        path: The file.

    Example:
        >>> import tempfile
        >>> is_writable(tempfile.mkdtemp() + "/new/scores.csv")
        True
    """
    folders = Path(path).absolute().parents
    return os.access(next(folder for folder in folders if folder.exists()), os.W_OK)


def remove_partial(folder: str | Path) -> None:
    """Remove what killed processes left of files that they were writing.

    Args:
        folder: A folder in which no other process is writing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / ".1234abcd.partial.toml").write_text("[da")
        >>> remove_partial(folder)
        >>> list(folder.iterdir())
        []
    """
    for path in Path(folder).glob(f"*{PARTIAL}*"):
        _remove(path)


def is_partial(path: Path) -> bool:
    """Whether this is a file that is being written, or what was left of one.

    Args:
        path: The file.

    Example:
        >>> is_partial(Path(".1234abcd.partial.toml"))
        True
    """
    return PARTIAL in path.suffixes


def _temporary(path: Path) -> Path:
    """A new name beside the path that tells of which file it is a part, and who writes it."""
    # Short, so that it fits wherever the name itself fits.
    writer = f"{_series(path)}{os.getpid()}-{uuid4().hex[:8]}"
    return path.with_name(f"{writer}{PARTIAL}{path.suffix[:16]}")


def _series(path: Path) -> str:
    """The beginning of the names of this file's parts that are written on this machine."""
    known = f"{platform.node()}/{path.name}".encode(errors="surrogateescape")
    return f".{hashlib.sha256(known).hexdigest()[:8]}-"


def _remove_left(path: Path) -> None:
    """Remove what processes of this machine that have ended left of the file."""
    for left in path.parent.glob(f"{_series(path)}*{PARTIAL}*"):
        if not _is_running(left.name.split("-")[1]):
            _remove(left)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # its folder may be gone
        path.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    """Whether a process of this number is running; also where that cannot be known."""
    if os.name != "posix":  # where signal 0 is not a question
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def _is_full(folder: Path, error: BaseException) -> bool:
    """Whether an error of writing is that of a full disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    with suppress(OSError):
        return shutil.disk_usage(folder).free < SMALLEST_FREE
    return False


def migrated(
    kind: str, values: Mapping[str, Any], path: str | Path, error: type[Exception]
) -> dict[str, Any]:
    """What a file holds, in today's format and without its number.

    A file without a number has format 1: that of the first version, or a configuration that was
    written by hand.

    Args:
        kind: The kind of file, as in `MIGRATIONS`.
        values: Its content, with the number under "format".
        path: The file, for the message.
        error: What is raised for other numbers.

    Example:
        >>> migrated("metrics", {"format": 1, "elbo": -1.5}, "metrics.json", ValueError)
        {'elbo': -1.5}
        >>> migrated("metrics", {"format": 99}, "metrics.json", ValueError)
        Traceback (most recent call last):
        ValueError: metrics.json has format 99, and this version of ppl_vae reads up to 1: update it
    """
    rest = dict(values)
    text = str(rest.pop("format", 1))
    number = int(text) if text.isdecimal() and len(text) < 9 else 0
    if number > FORMAT:
        raise error(
            f"{path} has format {number}, and this version of ppl_vae reads up to {FORMAT}: "
            "update it"
        )
    if number < 1:
        raise error(f"{path} has format {text[:80]!r}; it must be a whole number from 1 on")
    for earlier in range(number, FORMAT):
        rest = MIGRATIONS.get((kind, earlier), dict)(rest)
    return rest
