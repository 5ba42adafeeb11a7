"""A command of ppl-vae in a forked process: its exit code, its output, and what may stop it.

A fork takes milliseconds where a new interpreter takes seconds, so that hundreds of commands can be
killed. The parent runs on one thread, and imports everything before the first fork."""

import contextlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
EXECUTIONS = {"os.exec", "os.posix_spawn", "os.system", "pickle.find_class", "subprocess.Popen"}


@dataclass
class Ended:
    """How a process ended."""

    code: int
    """Exit code, or minus the signal that ended it."""

    seconds: float

    mib: float
    """Its largest memory beyond that of the parent at the fork."""

    text: str
    """What it wrote to standard output and standard error."""

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def has_traceback(self) -> bool:
        """Whether Python's own traceback is in the output."""
        return "Traceback (most recent call last)" in self.text


def forked(call: Callable[[], int | None], log: Path, limit: float = 600) -> Ended:
    """The end of a process that makes the call; SIGALRM ends it after `limit` seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _serve(call, log, limit)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    mib = max(0, usage.ru_maxrss - before) * 1024 / MIB
    return Ended(
        os.waitstatus_to_exitcode(status), seconds, mib, log.read_text("utf-8", errors="replace")
    )


def _serve(call: Callable[[], int | None], log: Path, limit: float) -> None:
    """In the child: the call with its output in the log, then the end of the process."""
    code = 70
    with log.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        code = call() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(*arguments: object) -> Callable[[], int | None]:
    """A call of the command line with these arguments."""

    def call() -> int | None:
        from ppl_vae.cli import app

        return app([str(each) for each in arguments], prog_name="ppl-vae")

    return call


# -- what ends or watches a process


def watched(call: Callable[[], int | None], folder: Path, seen: Callable[[str], None]):
    """The call, which tells `seen` of each file that is opened for writing, moved or removed."""

    def observed() -> int | None:
        def hook(event: str, arguments: tuple) -> None:
            if _writes(event, arguments) and str(folder) in str(arguments[0]):
                seen(event)

        sys.addaudithook(hook)
        return call()

    return observed


def _writes(event: str, arguments: tuple) -> bool:
    if event != "open":
        return event in WRITES
    mode, flags = arguments[1:3]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def killed_at(call: Callable[[], int | None], folder: Path, number: int, delay: float):
    """The call, killed `delay` seconds after it has begun so many changes of files."""
    count = 0

    def seen(_event: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            killed_after(delay)

    return watched(call, folder, seen)


def killed_after(delay: float) -> None:
    """Kill this process now, or after a delay."""
    if delay == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def guarded(call: Callable[[], int | None]):
    """The call, in a process that ends with code 99 if a file that is read starts anything."""

    def observed() -> int | None:
        def hook(event: str, arguments: tuple) -> None:
            if event in EXECUTIONS:
                os.write(2, f"executed: {event} {arguments!r:.200}\n".encode())
                os._exit(99)

        sys.addaudithook(hook)
        return call()

    return observed
