"""Wrong command lines generated from the commands' own options: one line, exit code 1 or 2."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ppl_vae.cli import app
from soak.children import command, forked
from soak.kills import prepare

NUMBERS = ["-1", "1.5", "nan", "x", "", "1e400", "9" * 30]
TEXTS = ["", "no such word", "\0", "x" * 5_000, "../nowhere/at/all", "ü\n"]
GOOD = {
    "fit": ["FOLDER/table.csv"],
    "evaluate": ["FOLDER/run"],
    "compare": ["FOLDER/study.toml"],
    "report": ["FOLDER/run"],
    "sample": ["FOLDER/run"],
    "score": ["FOLDER/run", "FOLDER/holes.csv"],
    "impute": ["FOLDER/run", "FOLDER/holes.csv"],
    "anomaly": ["FOLDER/run", "FOLDER/holes.csv"],
    "transform": ["FOLDER/run", "FOLDER/holes.csv"],
}
FREE = {"data_dir", "output", "title"}  # any text is right
SECONDS = 120


def lines() -> Iterator[list[str]]:
    """Each command with a wrong value of each option, a wrong file, and an unknown option."""
    commands: Any = typer.main.get_command(app)
    for name, each in commands.commands.items():
        good = GOOD.get(name, [])
        yield [name, *good, "--no-such-option"]
        yield [name, *good, "one argument", "too many", "3"]
        for at in range(len(good)):
            for wrong in ("FOLDER/nothing", "FOLDER", "FOLDER/log", ""):
                yield [name, *good[:at], wrong, *good[at + 1 :]]
        for option in each.params:
            if option.param_type_name != "option" or option.is_flag or option.name in FREE:
                continue
            is_number = option.bare_type in (int, float)
            for wrong in NUMBERS if is_number else TEXTS:
                yield [name, *good, option.opts[-1], wrong]


def soak(folder: Path) -> dict[str, Any]:
    """Every line: whether it was refused as promised, accepted, or otherwise."""
    found: dict[str, Any] = {"lines": 0, "one line": 0, "accepted": [], "faults": []}
    prepare(folder)
    for line in lines():
        arguments = [each.replace("FOLDER", str(folder)) for each in line]
        ended = forked(command(*arguments), folder / "log-of-line", limit=SECONDS)
        found["lines"] += 1
        shown = " ".join(each[:40] for each in line)
        errors = re.findall(r"^(?:[Ee]rror|Usage): .*", ended.text, re.MULTILINE)
        if ended.code == 0:
            found["accepted"].append(shown)
        elif ended.code in (1, 2) and not ended.has_traceback and errors:
            found["one line"] += 1
        else:
            found["faults"].append((shown, ended.code, ended.text[-300:]))
    return found
