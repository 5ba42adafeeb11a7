"""One training step, optimiser included, of a 784-400-20 Bernoulli VAE: batches from memory, the
loss as a number."""

import tempfile
from functools import partial

import problems
import torch
from peers import NotMeasured, Peer
from problems import COMPILED, EAGER, FLOOR, GRAPH, HAND, PYRO, Floor, HandWritten, Trainer
from timing import Options, Row, in_turn, ratio, timed

import ppl_vae as pv
from ppl_vae import objectives

TITLE = "Training step"
TARGETS = {32: 1.00, 128: 0.85, 512: 0.90}
OF_FLOOR, OF_NUMPYRO, OF_LOOP = 1.25, 0.80, 1.10
NUMPYRO, NUMPYRO_LOOP = "NumPyro, jitted step", "NumPyro, steps in a jitted loop"


def batches(batch: int, steps: int, num_data: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(num_data, (batch,), generator=generator) for _ in range(steps)]


def works(batch: int, steps: int, x: torch.Tensor) -> dict:
    rows, data = batches(batch, steps, len(x)), pv.Dataset(x)
    ways = {"compiled": COMPILED, "graph": GRAPH, "eager": EAGER}
    trainers = {
        way: Trainer(problems.ours(), data, objectives.MeanFieldELBO(), batch, how)
        for way, how in ways.items()
    }
    hand, pyro, floor = HandWritten(), problems.example(), Floor(x, batch)
    return {
        way: timed(partial(trainer.steps, rows), steps) for way, trainer in trainers.items()
    } | {
        FLOOR: timed(partial(floor.steps, rows), steps),
        HAND: timed(partial(hand.steps, x, rows, hand.elbo), steps),
        PYRO: timed(partial(pyro.steps, x, rows), steps),
    }


def measure(options: Options) -> list[Row]:
    rounds, steps, x, rows = options.pick(21, 1), options.pick(100, 3), problems.bits(10_000), []
    for batch, target in options.some(TARGETS):
        times, step = in_turn(works(batch, steps, x), rounds), f"step, batch {batch}"
        rows += [
            ratio(step, times, "compiled", HAND, at_most=target),
            ratio(f"{step}, graph not compiled", times, "graph", HAND),
            ratio(f"{step}, eager", times, "eager", HAND),
            ratio(step, times, "compiled", PYRO),
            ratio(step, times, "compiled", FLOOR, at_most=OF_FLOOR),
        ]
    return rows + against_numpyro(options, x)


def against_numpyro(options: Options, x: torch.Tensor) -> list[Row]:
    """Two processes, kept alive and asked in turn."""
    rounds, steps = options.pick(21, 1), options.pick(100, 3)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Peer("numpyro", options.envs, folder, x) as peer,
        ):
            theirs = {NUMPYRO: peer.work("step", steps), NUMPYRO_LOOP: peer.work("loop", steps)}
            times = in_turn({"compiled": works(128, steps, x)["compiled"]} | theirs, rounds)
    except NotMeasured as error:
        return [Row("step, batch 128", NUMPYRO, at_most=OF_NUMPYRO, not_measured=str(error))]
    rows = [
        ratio("step, batch 128", times, "compiled", NUMPYRO, at_most=OF_NUMPYRO),
        ratio("step, batch 128", times, "compiled", NUMPYRO_LOOP, at_most=OF_LOOP),
    ]
    return [peer.named(row) for row in rows]
