"""Measure what the library costs: figures are ratios of times taken in turn within one run, with
their quartiles.

Run it with `make bench`, or name some of the benchmarks; each runs in a process of its own. Times
of different machines differ by a factor of 3 to 60; ratios travel better. Leave the machine alone
meanwhile: about half an hour on two cores, and some minutes more at the first time, for the
environments of other libraries, which pip makes in --envs."""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
STEPS, WHOLES = (
    ("cold_start", "training_step", "iwae_step"),
    ("epoch", "evidence", "scaling", "memory", "small"),
)
NAMES = (*STEPS, *WHOLES, "processes", "diagnostics", "gpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"some of {', '.join(NAMES)}; all when left out"
    )
    parser.add_argument(
        "--quick", action="store_true", help="see that everything runs; the figures mean nothing"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for page, figures and JSON; docs, or with --quick runs/bench",
    )
    parser.add_argument(
        "--envs",
        type=Path,
        default=Path.home() / ".cache" / "ppl_vae-bench",
        help="folder for the environments of other libraries (default: %(default)s)",
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"there is no benchmark {min(unknown)!r}: choose from {', '.join(NAMES)}")
    given.names = given.names or list(NAMES)
    given.output = given.output or (Path("runs") / "bench" if given.quick else DOCS)
    return given


def machine(name: str, given: argparse.Namespace) -> dict:
    """What the figures of one benchmark were taken on, and how."""
    import numpy
    import torch

    versions = {
        name: importlib.metadata.version(package)
        for name, package in (("pyro", "pyro-ppl"), ("ppl_vae",) * 2)
    }
    return versions | {
        "command": " ".join(["python tests/benchmarks/bench.py", name, *["--quick"] * given.quick]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.process_cpu_count() if sys.version_info >= (3, 13) else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def one(name: str, given: argparse.Namespace) -> None:
    """Measure, print, and put the figures among those of the other benchmarks."""
    import page
    from timing import Options

    from ppl_vae.runtime.files import write_whole

    module, options = importlib.import_module(name), Options(given.quick, given.envs)
    rows = module.measure(options)
    print("\n".join(page.table(rows)), flush=True)
    file = given.output / "benchmarks.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results[name] = {
        "title": module.TITLE,
        "taken": machine(name, given),
        "rows": [asdict(row) for row in rows],
    }
    page.write(results, DOCS / "benchmarks.md", given.output)
    write_whole(
        file, lambda path: path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    )


def main() -> None:
    given = arguments()
    if len(given.names) == 1:
        return one(given.names[0], given)
    options = [f"--output={given.output}", f"--envs={given.envs}", *["--quick"] * given.quick]
    failed = [
        n for n in given.names if subprocess.run([sys.executable, __file__, n, *options]).returncode
    ]
    return sys.exit(f"not measured: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
