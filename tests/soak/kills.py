"""Commands killed at random times and in every change of a file: repeated, they end as unkilled."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from safetensors.numpy import load_file

from ppl_vae.errors import DamagedFileError
from ppl_vae.runtime.sealed import read_json
from soak.children import command, forked, killed_after, killed_at, watched

TIMES = {"seconds", "training_seconds", "evaluation_seconds", "saved", "wall_time"}
QUIET = ("--quiet",)
MOST_KILLS = 3  # of one run, before it is left to finish


@dataclass
class Scenario:
    """A command, and what it leaves."""

    name: str
    arguments: tuple
    output: str

    def call(self, folder: Path) -> Callable[[], int | None]:
        """The command, with its files in the folder."""
        named = (str(each).replace("FOLDER", str(folder)) for each in self.arguments)
        return command(*named)


SETTINGS = (
    *("--set", "training.num_epochs=3"),
    *("--set", "evaluation.num_particles=50"),
    *("--set", "encoder.hidden_dims=[8]"),
    *("--set", "decoder.hidden_dims=[8]"),
)
STUDY = """[data]
name = "FOLDER/table.csv"
valid = 0.2
[likelihood]
name = "Gaussian"
[posterior]
latent_dim = 1
[encoder]
hidden_dims = [4]
[decoder]
hidden_dims = [4]
[training]
num_epochs = 2
[evaluation]
num_particles = 30
[grid]
"prior.name" = ["StandardNormal", "LearnedNormal"]
"""
SCENARIOS = [
    Scenario(
        "fit", ("fit", "FOLDER/table.csv", "--output", "FOLDER/new", *QUIET, *SETTINGS), "new"
    ),
    Scenario(
        "evaluate",
        ("evaluate", "FOLDER/run", "--num-particles", "200", "--output", "FOLDER/new.json", *QUIET),
        "new.json",
    ),
    Scenario("compare", ("compare", "FOLDER/study.toml", "--output", "FOLDER/new", *QUIET), "new"),
    Scenario(
        "impute", ("impute", "FOLDER/run", "FOLDER/holes.csv", "-o", "FOLDER/new.csv"), "new.csv"
    ),
    Scenario("report", ("report", "FOLDER/run", *QUIET), "run"),
]


def prepare(folder: Path) -> None:
    """A table, one with missing entries, a trained run and a study."""
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{a + b:.3f}" for a, b in rng.normal(size=(60, 2))]
    (folder / "table.csv").write_text("\n".join(["a,b", *rows, ""]), encoding="utf-8")
    holes = ["a,b", ",0.5", "1.5,", *rows[:6], ""]
    (folder / "holes.csv").write_text("\n".join(holes), encoding="utf-8")
    study = STUDY.replace("FOLDER", str(folder))
    (folder / "study.toml").write_text(study, encoding="utf-8")
    done = forked(
        command("fit", folder / "table.csv", "--output", folder / "run", *QUIET, *SETTINGS),
        folder / "log",
    )
    assert done.code == 0, done.text


def content(path: Path) -> dict[str, Any]:
    """What the files say, without times; pictures and pages count by their presence."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(each.relative_to(path.parent)): _of(each) for each in files if each.is_file()}


def _of(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: value.tolist() for name, value in load_file(path).items()}
    if path.suffix == ".json":
        try:
            return _without_times(read_json(path))  # checked, without the checksum of its times
        except DamagedFileError as error:
            return str(error)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: repr(arrays[name].tolist()) for name in arrays if name != "seconds"}
    if path.suffix == ".nc":
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return {
                f"{node.path}/{name}": repr(node[name].values.tolist())
                for node in tree.subtree
                for name in node.data_vars
            }
    if path.suffix == ".csv":
        return pd.read_csv(path).drop(columns="seconds", errors="ignore").to_csv()
    return path.stat().st_size > 0


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return repr(value)


def changes(scenario: Scenario, folder: Path) -> tuple[int, float]:
    """The changes of files in an unkilled run, and its seconds."""
    counted = folder / "changes"
    events: list[str] = []

    def call() -> int | None:
        try:
            return watched(scenario.call(folder), folder, events.append)()
        finally:
            counted.write_text(str(len(events)), encoding="utf-8")

    done = forked(call, folder / "log")
    assert done.code == 0, (scenario.name, done.text)
    return int(counted.read_text("utf-8")), done.seconds


def kills(num_changes: int, seconds: float, rng: np.random.Generator) -> Iterator[tuple]:
    """Without end: a change at which to kill, or None, and the delay."""
    while True:
        for number in rng.permutation(num_changes) + 1:
            yield int(number), 0.0
            yield int(number), float(rng.uniform(1e-4, 4e-3))
            yield None, float(rng.uniform(0.01, seconds))


def soak(num_kills: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """So many kills, equally of each scenario; what was killed, finished and lost."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {"kills": 0, "runs": 0, "lost": []}
    template = folder / "template"
    template.mkdir()
    prepare(template)
    for scenario in SCENARIOS:
        home = folder / scenario.name
        shutil.copytree(template, home)
        for each in home.rglob("*.toml"):
            moved = each.read_text("utf-8").replace(str(template), str(home))
            each.write_text(moved, encoding="utf-8")
        _soak_one(scenario, home, num_kills // len(SCENARIOS), rng, found)
    return found


def _soak_one(
    scenario: Scenario, home: Path, most: int, rng: np.random.Generator, found: dict
) -> None:
    kept = home.with_name(f"{scenario.name}-before")
    shutil.copytree(home, kept)
    num_changes, seconds = changes(scenario, home)
    expected = content(home / scenario.output)
    plan = kills(num_changes, seconds, rng)
    done = 0
    while done < most:
        shutil.rmtree(home)
        shutil.copytree(kept, home)
        for _ in range(int(rng.integers(1, MOST_KILLS + 1))):
            number, delay = next(plan)
            ended = forked(_killed(scenario, home, number, delay), home / "log")
            done += ended.was_killed
            if not ended.was_killed and ended.code != 0:
                found["lost"].append((scenario.name, number, delay, ended.code, ended.text[-800:]))
        last = forked(scenario.call(home), home / "log")
        found["runs"] += 1
        fault = _fault(last, home, scenario, expected)
        if fault:
            found["lost"].append((scenario.name, number, delay, fault))
    found["kills"] += done


def _killed(scenario: Scenario, home: Path, number: int | None, delay: float):
    if number is not None:
        return killed_at(scenario.call(home), home, number, delay)

    def call() -> int | None:
        killed_after(delay)
        return scenario.call(home)()

    return call


def _fault(last: Any, home: Path, scenario: Scenario, expected: dict) -> str:
    """What is wrong after the run that was left to finish, or nothing."""
    if last.code != 0:
        return f"exit code {last.code}: {last.text[-800:]}"
    left = [each.name for each in home.rglob("*.partial*")]
    if left:
        return f"partial files are left: {left}"
    found = content(home / scenario.output)
    differ = {
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    }
    return f"these files differ: {sorted(differ)}" if differ else ""
