"""Progress bars on a terminal or in a notebook, and lines of a log where there is neither."""

import os
import sys
import warnings
from typing import Any

from tqdm import TqdmWarning
from tqdm.std import tqdm

from ppl_vae.runtime.checks import switch

__all__ = ["progress_bar", "show_step"]

SECONDS = 30.0  # between two lines of a log


class Lines:
    r"""A stream that gives each state of a bar a line of its own, as a log needs.

    Example:
        >>> import io
        >>> log = io.StringIO()
        >>> _ = Lines(log).write("\r 50%  ")
        >>> log.getvalue()
        ' 50%\n'
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a state of the bar; the ends of lines that tqdm adds are left out."""
        state = text.replace("\r", "").rstrip()
        return int(self.stream.write(f"{state}\n")) if state else 0

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def progress_bar(
    total: int,
    title: str,
    *,
    unit: str = "rows",
    done: int = 0,
    progress: bool = True,
) -> tqdm:
    """A bar that appears after two seconds, if at all; in a log, a line after half a minute.

    TQDM_DISABLE=1 in the environment switches all bars off.

    Args:
        total: Where it ends.
        title: What is being done.
        unit: What is counted, in the plural.
        done: Where it starts.
        progress: Whether to show it.

    Example:
        >>> with progress_bar(2, "log p(x)") as bar:
        ...     _ = bar.update(2)
    """
    is_off = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    options: dict[str, Any] = {
        "total": total,
        "initial": done,
        "desc": title,
        "unit": f" {unit}",
        "miniters": 0,  # an update of any size may be shown
        "disable": not switch(progress, "progress") or is_off,
    }
    kind = _kind()
    if kind is tqdm and not sys.stderr.isatty():
        log = {"file": Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS}
        return tqdm(**options, **log, delay=SECONDS, ascii=True)
    return kind(**options, delay=2)


def _kind() -> type[tqdm]:
    """The bar of a notebook that can show one, else that of a terminal."""
    with warnings.catch_warnings():
        # In a kernel without ipywidgets, tqdm warns and takes the bar of a terminal.
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.autonotebook import tqdm as found
    return found


def show_step(bar: tqdm, step: int, num_steps: int) -> None:
    """Show a step of what is counted next, if it is time to show something.

    Args:
        bar: The bar.
        step: Number of steps done.
        num_steps: Number of steps in all.

    Example:
        >>> import io
        >>> bar = tqdm(total=2, desc="fit", disable=False, file=io.StringIO())
        >>> show_step(bar, 3, 79)
        >>> bar.desc
        'fit, step 3 of 79: '
    """
    if bar.disable:
        return
    title = bar.desc.partition(",")[0].removesuffix(": ")
    bar.set_description(f"{title}, step {step:,} of {num_steps:,}", refresh=False)
    bar.update(0)
