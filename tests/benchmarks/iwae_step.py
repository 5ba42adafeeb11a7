"""One training step of the importance-weighted bound, optimiser included, of the same VAE."""

from functools import partial

import problems
from problems import COMPILED, EAGER, HAND, HandWritten, Trainer
from timing import Options, Row, in_turn, ratio, timed
from training_step import batches

import ppl_vae as pv
from ppl_vae import objectives

TITLE = "IWAE step"
TARGETS = {(5, 100): 0.50, (50, 20): 0.50}


def measure(options: Options) -> list[Row]:
    rounds, steps, x, rows = options.pick(21, 1), options.pick(50, 3), problems.bits(10_000), []
    for (num_particles, batch), target in options.some(TARGETS):
        drawn, hand = batches(batch, steps, len(x)), HandWritten()
        parts = pv.Dataset(x), objectives.IWAE(num_particles), batch
        compiled, eager = (Trainer(problems.ours(), *parts, how) for how in (COMPILED, EAGER))
        works = {
            "compiled": partial(compiled.steps, drawn),
            "eager": partial(eager.steps, drawn),
            HAND: partial(hand.steps, x, drawn, partial(hand.iwae, num_particles=num_particles)),
        }
        times = in_turn({name: timed(work, steps) for name, work in works.items()}, rounds)
        step = f"IWAE step, K={num_particles}, batch {batch}"
        rows += [
            ratio(step, times, "compiled", HAND, at_most=target),
            ratio(f"{step}, eager", times, "eager", HAND),
        ]
    return rows
