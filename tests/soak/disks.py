"""Commands on a disk of a few megabytes that is full at each of their writes in turn."""

import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from soak.children import MIB, forked
from soak.kills import SCENARIOS, Scenario, content, prepare

SIZE = 8  # MiB of the disk
FILLER = "filler"
SAYS = "disk full"


@contextmanager
def small_disk(folder: Path):
    """A disk of its own, or None where none can be mounted, which needs root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def soak(num_disks: int, folder: Path) -> dict[str, Any]:
    """So many full disks, equally of each command: how each ended, and what went wrong."""
    found: dict[str, Any] = {"disks": 0, "full": 0, "crashes": 0, "faults": []}
    with small_disk(folder / "disk") as disk:
        if disk is None:
            return found | {"skipped": "no disk can be mounted here (needs root)"}
        for scenario in SCENARIOS:
            _soak_one(scenario, disk, folder / "log", num_disks // len(SCENARIOS), found)
    return found


def _soak_one(scenario: Scenario, disk: Path, log: Path, most: int, found: dict) -> None:
    _empty(disk)
    prepare(disk)
    kept = disk.with_name(f"kept-{scenario.name}")
    shutil.copytree(disk, kept)
    before = _used(disk)
    assert forked(scenario.call(disk), log).code == 0
    expected = content(disk / scenario.output)
    needed = _used(disk) - before
    for room in np.linspace(0, needed, most + 1)[:-1]:
        _empty(disk)
        shutil.copytree(kept, disk, dirs_exist_ok=True)
        _fill(disk, int(room))
        ended = forked(scenario.call(disk), log)
        found["disks"] += 1
        found["crashes"] += ended.code < 0
        is_full = ended.code != 0
        found["full"] += is_full
        if ended.code < 0 or ended.has_traceback or (is_full and SAYS not in ended.text):
            found["faults"].append((scenario.name, int(room), ended.code, ended.text[-500:]))
        (disk / FILLER).unlink()
        last = forked(scenario.call(disk), log)
        if last.code or content(disk / scenario.output) != expected:
            found["faults"].append((scenario.name, int(room), "after it", last.text[-500:]))


def _empty(disk: Path) -> None:
    for each in disk.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def _used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def _fill(disk: Path, room: int) -> None:
    """Leave so many bytes free."""
    size = shutil.disk_usage(disk).free - room
    with (disk / FILLER).open("wb") as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        file.write(bytes(size % MIB))
