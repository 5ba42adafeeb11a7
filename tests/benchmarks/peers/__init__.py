"""Other libraries, each in an environment that is made here, run in a process that is asked in turn
with ours."""

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Self

import numpy as np
import torch
from timing import Row, Work

SCRIPTS = Path(__file__).parent


class NotMeasured(RuntimeError):
    """A library could not be installed or run; the message says why in one line."""


def environment(package: str, folder: Path) -> Path:
    """The Python of an environment with the newest version of a package.

    It sees this one's packages behind its own: both sides use one torch, and torch is not
    downloaded twice."""
    home = folder / package
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        print(f"making {home}: once, some minutes", file=sys.stderr)
        try:
            venv.create(home, with_pip=True, clear=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotMeasured(f"no environment in {home}: {error}") from error
        (next(home.glob("lib/python*/site-packages")) / "ours.pth").write_text(
            sysconfig.get_path("purelib")
        )
        found = subprocess.run(
            [python, "-m", "pip", "install", "-q", package], capture_output=True, text=True
        )
        if found.returncode:
            raise NotMeasured(f"pip install {package}: {last_line(found.stderr)}")
        done.touch()
    return python


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


class Served:
    """A script that ends in `serve`, kept alive: it is told what to do and how often, and answers
    with the seconds."""

    def __init__(self, command: list, folder: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, cwd=folder, text=True, **pipes)

    def __enter__(self) -> Self:
        self.version = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def work(self, what: str, units: int) -> Work:
        """Seconds per unit, by the clock of the other process."""

        def ask() -> float:
            self.process.stdin.write(json.dumps([what, units]) + "\n")
            self.process.stdin.flush()
            return self._answer() / units

        return ask

    def named(self, row: Row) -> Row:
        row.against += f" ({self.version})"
        return row

    def _answer(self) -> float | str:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise NotMeasured(last_line(self.errors.read()))
        return json.loads(line)


class Peer(Served):
    """Another library's script of this folder, in that library's environment."""

    def __init__(self, package: str, envs: Path, folder: str, x: torch.Tensor) -> None:
        python, data = environment(package, envs), Path(folder) / "x.npy"
        np.save(data, x.numpy())
        super().__init__([python, SCRIPTS / f"{package.replace('-', '_')}_vae.py", data], folder)
