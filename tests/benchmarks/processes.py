"""Two processes of one thread against one of two threads, the same global batch: what exchanging
gradients costs."""

import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peers import NotMeasured, Served
from peers.serve import serve
from timing import Options, Row, in_turn, rate, ratio

TITLE = "Processes"
BATCH, ONE, ALL = 512, "one process of two threads", "exchange"


def works_as_one(num_data: int, num_threads: int) -> None:
    """What each process runs: the main one is asked, and tells the others."""
    import problems

    import ppl_vae as pv
    from ppl_vae import objectives
    from ppl_vae.runtime.distributed import add_up, from_main, is_main, process_group

    torch.set_num_threads(num_threads)
    with process_group():
        data = pv.Dataset(problems.bits(num_data))
        trainer = problems.Trainer(
            problems.ours(), data, objectives.MeanFieldELBO(), BATCH, problems.COMPILED
        )

        gradients = [torch.zeros_like(p) for p in trainer.run.parameters]

        def exchange() -> None:
            """What an epoch exchanges."""
            for _ in range(math.ceil(num_data / BATCH)):
                add_up(gradients)

        works = {"epoch": trainer.epoch, "exchange": exchange}

        def together(name: str, times: int) -> None:
            for _ in range(times):
                works[name]()

        if is_main():
            serve({name: partial(tell, together, name) for name in works}, "torch")
            from_main(None)
        else:
            while asked := from_main(None):
                together(*asked)


def tell(work: Callable[[str, int], None], name: str, times: int) -> None:
    """Do what the main process was asked for, in all processes."""
    from ppl_vae.runtime.distributed import from_main

    work(*from_main((name, times)))


def started(num_processes: int, num_data: int, num_threads: int, folder: str) -> Served:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    return Served(
        [sys.executable, *launch, Path(__file__), str(num_data), str(num_threads)], folder
    )


def measure(options: Options) -> list[Row]:
    num_data, rounds = options.pick(60_000, 2_000), options.pick(9, 1)
    work = f"epoch of {num_data:,}, two processes of one thread (gloo), global batch {BATCH}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            with started(2, num_data, 1, folder) as two, started(1, num_data, 2, folder) as one:
                works = {
                    "two": two.work("epoch", 1),
                    ONE: one.work("epoch", 1),
                    ALL: two.work("exchange", 1),
                }
                times = in_turn(works, rounds)
    except NotMeasured as error:
        return [Row(work, ONE, at_least=0.9, not_measured=str(error))]
    times["the whole"] = times["two"]
    return [
        rate(work, times, "two", ONE, at_least=0.9),
        ratio("exchange of its gradients, time", times, ALL, "the whole"),
    ]


if __name__ == "__main__":
    works_as_one(int(sys.argv[1]), int(sys.argv[2]))
