"""Two processes of one thread against one of two threads, the same global batch: what exchanging gradients costs."""

import sys
import tempfile
from pathlib import Path

import torch
from peers import NotMeasured, Served
from peers.serve import serve
from timing import Options, Row, in_turn, rate

TITLE = "Processes"
BATCH, ONE = 512, "one process of two threads"


def works_as_one(num_data: int, num_threads: int) -> None:
    """What each process runs: the main one is asked, and tells the others."""
    import problems

    import ppl_vae as pv
    from ppl_vae import objectives
    from ppl_vae.distributed import from_main, is_main, process_group

    torch.set_num_threads(num_threads)
    with process_group():
        data = pv.Dataset(problems.bits(num_data))
        trainer = problems.Trainer(problems.ours(), data, objectives.MeanFieldELBO(), BATCH, problems.COMPILED)

        def epochs(times: int) -> None:
            for _ in range(times):
                trainer.epoch()

        if is_main():
            serve({"epoch": lambda times: epochs(from_main(times))}, "torch")
            from_main(0)
        else:
            while times := from_main(0):
                epochs(times)


def started(num_processes: int, num_data: int, num_threads: int, folder: str) -> Served:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    return Served([sys.executable, *launch, Path(__file__), str(num_data), str(num_threads)], folder)


def measure(options: Options) -> list[Row]:
    num_data, rounds = options.pick(60_000, 2_000), options.pick(9, 1)
    work = f"epoch of {num_data:,}, two processes of one thread (gloo), global batch {BATCH}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            with started(2, num_data, 1, folder) as two, started(1, num_data, 2, folder) as one:
                times = in_turn({"two": two.work("epoch", 1), ONE: one.work("epoch", 1)}, rounds)
    except NotMeasured as error:
        return [Row(work, ONE, at_least=0.9, not_measured=str(error))]
    return [rate(work, times, "two", ONE, at_least=0.9)]


if __name__ == "__main__":
    works_as_one(int(sys.argv[1]), int(sys.argv[2]))
