"""The soak: each part in turn, its figures in docs/reliability.json; a part that is there is kept.

    python -m soak                    # every part, about an hour on one core
    python -m soak --only kills       # one part, again

Run it from the folder tests, or by `make soak`."""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ppl_vae.runtime.files import write_whole
from soak import calls, damage, disks, kills, lines, pairs

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "reliability.json"
PARTS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "pairs": lambda count, _: pairs.soak(min(count, 200)),
    "calls": lambda _, __: calls.soak(),
    "lines": lambda _, folder: lines.soak(folder),
    "disks": lambda count, folder: disks.soak(min(count, 100), folder),
    "damage": lambda count, folder: damage.soak(10 * count, folder),
    "kills": lambda count, folder: kills.soak(min(count // 5, 400), folder),
}


def main() -> int:
    """Run the parts; the number of those with a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--count", type=int, default=2000, help="scale: ten times as many files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)  # a process with more threads may not be forked
    logging.getLogger("ppl_vae").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    faulty = 0
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            found = PARTS[name](options.count, Path(folder))
        found["seconds"] = round(time.monotonic() - started)
        faulty += report(name, found)
        keep(options.output, name, found)
    return faulty


def report(name: str, found: dict[str, Any]) -> bool:
    """Print the figures of a part; whether it has a fault."""
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    counts = {key: value for key, value in found.items() if not isinstance(value, list)}
    print(name, counts, {key: len(value) for key, value in lists.items()})
    for key, values in lists.items():
        for value in values:
            print(f"  {key}: {value}")
    return any(lists.values())


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """The counts of a part among those of the others."""
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    kept[name] = {
        key: len(value) if isinstance(value, list) else value for key, value in found.items()
    }
    write_whole(path, lambda p: p.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
