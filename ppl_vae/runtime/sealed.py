"""Files that are read back, with a checksum: archives (.npz, .pt) and plain values (.json)."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.errors import DamagedFileError, OtherSettingsError, TooLargeError
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.files import FORMAT, migrated, require_file, write_whole
from ppl_vae.runtime.memory import require_unpacked

__all__ = [
    "read_arrays",
    "read_json",
    "read_tensors",
    "write_arrays",
    "write_json",
    "write_tensors",
]

SEAL = b"ppl_vae sha256 "  # begins the comment with which the zip archive ends
LENGTH = struct.Struct("<H")  # of the comment; the last two of those bytes
NUM_SEAL = len(SEAL) + 64
BLOCK = 2**20
CHECKSUM = "sha256"  # the last name in a .json file
MOST_BYTES = 100_000_000  # of a .json file; longer ones hold no results and no model


def write_arrays(path: str | Path, arrays: dict[str, Any]) -> Path:
    """Write arrays by name to an .npz file under exactly this name, whole or not at all.

    Args:
        path: The file; numpy itself would add a suffix.
        arrays: The arrays.

    Example:
        >>> import tempfile
        >>> path = write_arrays(tempfile.mkdtemp() + "/a.npz", {"x": np.arange(3)})
        >>> read_arrays(path)["x"].tolist()
        [0, 1, 2]
    """

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **{"format": np.array(FORMAT), **arrays})

    return _write_sealed(path, write)


def write_tensors(path: str | Path, state: dict[str, Any]) -> Path:
    """Write tensors and plain values to a .pt file, whole or not at all.

    Args:
        path: The file.
        state: Nested dictionaries and lists.

    Example:
        >>> import tempfile
        >>> path = write_tensors(tempfile.mkdtemp() + "/a.pt", {"x": torch.ones(2)})
        >>> read_tensors(path, "example")["x"]
        tensor([1., 1.])
    """
    return _write_sealed(path, lambda p: torch.save({"sealed": FORMAT, **state}, p))


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; nothing in it is executed.

    Files without a checksum are those of earlier versions, and of other programs.

    Args:
        path: The file.

    Raises:
        DamagedFileError: Its bytes are not those that were written, or it is no such file.
        OtherSettingsError: It has the format of a newer version.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> _ = path.write_bytes(b"PK")
        >>> read_arrays(path)
        Traceback (most recent call last):
        ppl_vae.errors.DamagedFileError: ... is damaged or of another kind ...
    """
    is_sealed = _check_seal(path)
    try:
        # numpy may leave a damaged file open
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            require_unpacked(path, sum(each.file_size for each in file.zip.infolist()))
            found = {name: file[name] for name in file}
    except TooLargeError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib have many kinds for damaged files
        _refuse_missing(error)
        raise DamagedFileError(f"{path} is damaged or of another kind ({_reason(error)})") from None
    if not is_sealed and "format" in found:
        raise _damaged(path)
    return migrated("arrays", found, path, OtherSettingsError)


def read_tensors(path: str | Path, what: str) -> dict[str, Any]:
    """A file of tensors and plain values; anything that could execute code is refused.

    Args:
        path: The file.
        what: What it should hold, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: Its bytes are not those that were written, or it is no such file.
        OtherSettingsError: It has the format of a newer version.

    Example:
        >>> read_tensors("nowhere.pt", "weights")
        Traceback (most recent call last):
        FileNotFoundError: no weights at nowhere.pt
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {what} at {path}")
    is_sealed = _check_seal(path)
    try:
        if zipfile.is_zipfile(path):  # torch's own are not compressed
            with zipfile.ZipFile(path) as archive:
                require_unpacked(path, sum(each.file_size for each in archive.infolist()))
        found = torch.load(path, weights_only=True, map_location="cpu")
    except TooLargeError:
        raise
    # torch raises UnpicklingError, EOFError, RuntimeError, ... for damaged or foreign files
    except Exception as error:
        reason = _reason(error)
        if "weights_only" in reason:  # torch's advice is to let the file execute
            reason = "it holds more than tensors and plain values"
        raise DamagedFileError(
            f"{path} is not a {what} file written by ppl_vae ({reason})"
        ) from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is not a {what} file written by ppl_vae")
    if not is_sealed and "sealed" in found:
        raise _damaged(path)
    migrated("tensors", {"format": found.get("sealed", 1)}, path, OtherSettingsError)
    return found


def write_json(path: str | Path, values: Mapping[str, Any]) -> Path:
    """Write plain values by name, indented, with the number of their format and a checksum.

    Args:
        path: The file.
        values: Plain values, without NaN.

    Example:
        >>> import tempfile
        >>> path = write_json(tempfile.mkdtemp() + "/a.json", {"elbo": -1.5})
        >>> list(json.loads(path.read_text()))
        ['format', 'elbo', 'sha256']
    """
    content = json.loads(json.dumps({"format": FORMAT, **values}, allow_nan=False))
    content[CHECKSUM] = _digest(content)
    text = json.dumps(content, indent=2) + "\n"
    return write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """What `write_json` wrote, with the number of its format under "format".

    Files without a checksum are those of earlier versions, and files of newer ones are not compared
    with it: their format is refused.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: Its values are not those that were written, or it holds none.

    Example:
        >>> import tempfile
        >>> path = write_json(tempfile.mkdtemp() + "/a.json", {"elbo": -1.5})
        >>> _ = path.write_text(path.read_text().replace("-1.5", "-1.4"))
        >>> read_json(path)
        Traceback (most recent call last):
        ppl_vae.errors.DamagedFileError: ... is damaged: its checksum is not that of its content...
    """
    if require_file(path).stat().st_size > MOST_BYTES:
        raise DamagedFileError(f"{path} is larger than any results or description of a model")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no values by name")
        checksum = found.pop(CHECKSUM, None)
        is_same = checksum in (None, _digest(found))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({one_line(error)}): delete it and run the same command again"
        ) from None
    number = found.get("format")
    is_newer = isinstance(number, int) and number > FORMAT
    if not is_same and not is_newer:
        raise _damaged(path)
    return found


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 of plain values, whatever their order and layout in the file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _write_sealed(path: str | Path, write: Callable[[Path], object]) -> Path:
    def sealed(partial: Path) -> None:
        write(partial)
        _seal(partial)

    return write_whole(path, sealed)


def _seal(path: Path) -> None:
    """Let a zip archive end with a comment that has the checksum of all bytes before it."""
    with path.open("r+b") as file:
        size = file.seek(0, 2) - LENGTH.size
        comment = SEAL + _checksum(file, size)
        file.seek(size)
        file.write(LENGTH.pack(len(comment)) + comment)


def _check_seal(path: str | Path) -> bool:
    """Whether a file has a checksum, which is then that of its bytes.

    Raises:
        DamagedFileError: It is that of other bytes.
    """
    with require_file(path).open("rb") as file:
        size = file.seek(0, 2) - NUM_SEAL - LENGTH.size
        if size < 0:
            return False
        file.seek(size)
        length = file.read(LENGTH.size)
        comment = file.read()
        if not comment.startswith(SEAL):
            return False
        if (length, comment) != (LENGTH.pack(NUM_SEAL), SEAL + _checksum(file, size)):
            raise _damaged(path)
    return True


def _checksum(file: Any, size: int) -> bytes:
    """SHA-256 of the first bytes of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    file.seek(0)
    while size:
        part = file.read(min(size, BLOCK))
        found.update(part)
        size -= len(part)
    return found.hexdigest().encode()


def _damaged(path: str | Path) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is damaged: its checksum is not that of its content; restore it from a copy, or "
        "delete it and run the same call again"
    )


def _refuse_missing(error: Exception) -> None:
    """An error of the file system is reported as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _reason(error: Exception) -> str:
    """The first line of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
