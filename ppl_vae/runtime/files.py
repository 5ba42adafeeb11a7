"""Files are written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

__all__ = ["write_whole"]


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then move it into place in one step.

    A reader sees the old file or the new one, and an interrupted write leaves the old one.

    Args:
        path: Where the file goes; folders are made.
        write: Called with the temporary path (same suffix).

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
        >>> write_whole(target, lambda p: p.write_text("all of it")).read_text()
        'all of it'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}-{uuid4().hex[:8]}.partial{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
