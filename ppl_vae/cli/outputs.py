"""What a command may write: no file that it reads, no table of its run, no read-only folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.files import require_writable

__all__ = ["check_output"]


def check_output(given: Mapping[str, Any]) -> None:
    """Refuse an output that is one of the files of the command, or cannot be written.

    Args:
        given: The parameters of the command by name.

    Raises:
        ArgumentError: The output is a file that the command reads, or one of a run.
        PermissionError: Its folder is read-only.

    Example:
        >>> check_output({"rows": Path("new.csv"), "output": Path("scores.csv")})
    """
    if given.get("output") is None:
        return
    output = require_writable(given["output"])
    if not output.is_file():
        return
    for path in _read(given):
        if path.is_file() and path.samefile(output):
            raise ArgumentError(
                f"--output {output} is a file that this command reads: give another name"
            )
    _refuse_file_of_run(output)


def _refuse_file_of_run(output: Path) -> None:
    """Refuse to replace what training wrote."""
    from ppl_vae.experiment.folder import Folder

    if Folder(output.parent).own(output) is not None:
        raise ArgumentError(
            f"--output {output} is a file of the run in {output.parent}: give another name"
        )


def _read(given: Mapping[str, Any]) -> Iterator[Path]:
    """The files of a command, and the table of its run."""
    for name, value in given.items():
        if isinstance(value, str | Path) and name != "output":
            yield Path(value)
    config = Path(given.get("run") or "") / "config.toml"
    if config.is_file():
        from ppl_vae.experiment.config import read_config

        yield Path(read_config(config).data.name)
