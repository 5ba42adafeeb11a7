"""Peak memory of `log_evidence` and `fit`, each in a process of its own: it must not grow with K, nor with N."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from timing import Options, Row, spread

TITLE = "Peak memory"
FEATURES = 8  # of the data whose number grows
NUM_NUMBERS = 7  # float64 per datum that `log_evidence` gives back


def peak_here() -> float:
    """MB at most since this program began. Where there is no /proc, a child may be charged for its parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def load(what: str, num_data: int, num_particles: int) -> None:
    """The work that is watched. 784 pixels where K grows, few features where N does."""
    import problems
    import torch

    import ppl_vae as pv
    from ppl_vae import likelihoods, objectives

    if what == "pixels":
        programs, x = problems.ours(hidden=(64,), latent=8), problems.bits(num_data)
    else:
        programs, x = (
            problems.ours(FEATURES, (32,), 2, likelihood=likelihoods.Gaussian),
            torch.randn(num_data, FEATURES),
        )
    compiles = num_data >= 10_000  # a trial has less
    if what == "fit":
        problems.Trainer(programs, pv.Dataset(x), objectives.MeanFieldELBO(), 128, compiles).epoch()
    else:
        pv.log_evidence(*programs, x, num_particles=num_particles, compile=compiles, progress=False)


def peak(what: str, num_data: int, num_particles: int = 0) -> float:
    """MB at most of a process that does this and nothing else."""
    command = [sys.executable, __file__, what, str(num_data), str(num_particles)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compared(work: str, against: str, large: list[float], small: list[float], **target: float) -> Row:
    ratios, medians = [one / other for one, other in zip(large, small, strict=True)], (median(large), median(small))
    return Row(work, against, medians=medians, medians_unit="MB", **spread(ratios), **target)


def measure(options: Options) -> list[Row]:
    return growing_particles(options) + growing_data(options)


def growing_particles(options: Options) -> list[Row]:
    num_data, rounds = options.pick(10_000, 200), options.pick(3, 1)
    few, *more = ([peak("pixels", num_data, k) for _ in range(rounds)] for k in (50, 500, 5_000))
    work, target = f"log_evidence, {num_data:,} x 784", {"at_most": 1.05, "at_least": 0.95}
    return [
        compared(f"{work}, K={k:,}", "K=50", many, few, **target) for k, many in zip((500, 5_000), more, strict=True)
    ]


def growing_data(options: Options) -> list[Row]:
    """Less what must grow with N: the data themselves, and the answer."""
    many, few = options.pick(1_000_000, 5_000), options.pick(10_000, 1_000)
    data, answer = ((many - few) * bytes_each / 2**20 for bytes_each in (4 * FEATURES, 8 * NUM_NUMBERS))
    large, small = ([peak("features", n, 50)] for n in (many, few))
    fit_large, fit_small = ([peak("fit", n)] for n in (many, few))
    shape, against = f"{many:,} x {FEATURES}", f"{few:,} x {FEATURES}"
    work, epoch = f"log_evidence, K=50, {shape}, less the data", f"an epoch of fit, {shape}, less the data"
    return [
        compared(work, against, [large[0] - data], small, at_most=1.10),
        compared(f"{work} and what is returned", against, [large[0] - data - answer], small),
        compared(epoch, against, [fit_large[0] - data], fit_small, at_most=1.10),
    ]


if __name__ == "__main__":
    load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(peak_here()))
