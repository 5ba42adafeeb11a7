"""Peak memory of `log_evidence` and `fit`, each in a process of its own: it must not grow with K,
nor with N.

Images in a file are bytes that are read as they are needed; the same file read into memory is
floats."""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from timing import Options, Row, spread

TITLE = "Peak memory"
FEATURES = 8  # of the data whose number grows in memory
PAIRS = 100_000  # (particle, row) pairs held at once where a single row has many particles
NUM_NUMBERS = 7  # float64 per row that `log_evidence` returns


def peak_here() -> float:
    """MB at most since this program began. Where there is no /proc, a child may be charged for its
    parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def load(what: str, num_data: int, num_particles: int, file: str) -> None:
    """The work that is watched. 784 pixels where K grows or data are in a file, few features where
    N does in memory."""
    import problems
    import torch

    import ppl_vae as pv
    from ppl_vae import likelihoods, objectives

    if what == "pixels":
        programs, x = problems.ours(hidden=(64,), latent=8), problems.bits(num_data)
    elif file:
        programs, x = problems.ours(hidden=(64,), latent=8), np.load(file, mmap_mode="r")
        x = x if what == "streamed" else np.array(x)
    else:
        programs, x = (
            problems.ours(FEATURES, (32,), 2, likelihood=likelihoods.Gaussian),
            torch.randn(num_data, FEATURES),
        )
    compiles = num_data > 5_000  # a trial has less
    if what in ("fit", "streamed", "read"):
        data = pv.Dataset(x, scale=255.0, binarize="dynamic") if file else pv.Dataset(x)
        problems.Trainer(programs, data, objectives.MeanFieldELBO(), 128, compiles).epoch()
    else:
        sizes = {"num_particles": num_particles, "compile": compiles}
        if what == "row":
            sizes["chunk_size"] = PAIRS
        pv.log_evidence(*programs, x, progress=False, **sizes)


def peak(what: str, num_data: int, num_particles: int = 0, file: Path | str = "") -> float:
    """MB at most of a process that does this and nothing else."""
    command = [sys.executable, __file__, what, str(num_data), str(num_particles), str(file)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compared(
    work: str, against: str, large: list[float], small: list[float], **target: float
) -> Row:
    ratios, medians = (
        [one / other for one, other in zip(large, small, strict=True)],
        (median(large), median(small)),
    )
    return Row(work, against, medians=medians, medians_unit="MB", **spread(ratios), **target)


def measure(options: Options) -> list[Row]:
    particles = [*growing_particles(options), growing_particles_of_a_row(options)]
    return particles + growing_data(options) + growing_file(options)


def growing_particles(options: Options) -> list[Row]:
    num_data, rounds = options.pick(6_000, 200), options.pick(2, 1)
    few, *more = ([peak("pixels", num_data, k) for _ in range(rounds)] for k in (50, 500, 5_000))
    work, target = f"log_evidence, {num_data:,} x 784", {"at_most": 1.05, "at_least": 0.95}
    return [
        compared(f"{work}, K={k:,}", "K=50", many, few, **target)
        for k, many in zip((500, 5_000), more, strict=True)
    ]


def growing_particles_of_a_row(options: Options) -> Row:
    """More particles of a row than are held at once."""
    most, rounds = options.pick(10_000_000, 1_000_000), options.pick(2, 1)
    many, few = ([peak("row", 1, k) for _ in range(rounds)] for k in (most, PAIRS))
    work = f"log_evidence of a row, chunk_size={PAIRS:,}, K={most:,}"
    return compared(work, f"K={PAIRS:,}", many, few, at_most=1.10)


def growing_data(options: Options) -> list[Row]:
    """Less what must grow with N: the data themselves, and the answer."""
    many, few = options.pick(1_000_000, 5_000), options.pick(10_000, 1_000)
    data, answer = (
        (many - few) * bytes_each / 2**20 for bytes_each in (4 * FEATURES, 8 * NUM_NUMBERS)
    )
    large, small = ([peak("features", n, 50)] for n in (many, few))
    fit_large, fit_small = ([peak("fit", n)] for n in (many, few))
    shape, against = f"{many:,} x {FEATURES}", f"{few:,} x {FEATURES}"
    work, epoch = (
        f"log_evidence, K=50, {shape}, less the data",
        f"an epoch of fit, {shape}, less the data",
    )
    return [
        compared(work, against, [large[0] - data], small, at_most=1.10),
        compared(f"{work} and what is returned", against, [large[0] - data - answer], small),
        compared(epoch, against, [fit_large[0] - data], fit_small, at_most=1.10),
    ]


def growing_file(options: Options) -> list[Row]:
    """As they are in memory a million images would be 3 GB of floats, and as much again for their
    bits."""
    many, some, few = (
        options.pick(1_000_000, 4_000),
        options.pick(250_000, 2_000),
        options.pick(10_000, 1_000),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {n: images(Path(folder) / f"{n}.npy", n) for n in (many, some, few)}
        large, middle, small = ([peak("streamed", n, file=file)] for n, file in files.items())
        read = [peak("read", some, file=files[some])]
    work = "an epoch of fit, {:,} x 784 bytes in a memory-mapped file"
    return [
        compared(work.format(many), f"{few:,} x 784 bytes", large, small, at_most=1.10),
        compared(work.format(some), "the same file read into memory", middle, read),
    ]


def images(file: Path, num_data: int) -> Path:
    """Grey values as bytes, written in parts: the whole need not fit into memory here either."""
    from numpy.lib.format import open_memmap

    rows, rng = (
        open_memmap(file, mode="w+", dtype=np.uint8, shape=(num_data, 784)),
        np.random.default_rng(0),
    )
    for start in range(0, num_data, 10_000):
        part = rows[start : start + 10_000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    rows.flush()
    return file


if __name__ == "__main__":
    load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    print(json.dumps(peak_here()))
