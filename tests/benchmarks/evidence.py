"""`log_evidence` at K=5,000, 50-200-200-784 tanh decoder: against its floor, the matrix products,
and against Pyro."""

import functools
import logging
import statistics
from functools import partial

import problems
import pyro
import torch
from problems import Example, perceptron
from pyro import poutine
from timing import Options, Row, in_turn, rate, timed
from torch import nn

import ppl_vae as pv
from ppl_vae.importance import Compiled, Eager
from ppl_vae.runtime.recording.products import matmul

TITLE = "log p(x)"
WIDTHS = (50, 200, 200, 784)
PYRO_ROWS = (
    20  # data at once: 5,000 x 20 x 784 floats are 0.3 GB, and several such are alive at a time
)
BLOCKS = (1_000, 10_000)  # pairs; the faster one is the floor
PRODUCTS = "the decoder's matrix products alone"
ONEDNN = f"{PRODUCTS}, by oneDNN"
PYRO, PYRO_UNCHECKED = "Pyro, particle plate", "Pyro, particle plate, validation off"


def matrix_products(num_pairs: int, block: int) -> None:
    """What the decoder must do for as many (particle, row) pairs, and nothing else, into memory
    that is there."""
    hidden = [torch.randn(block, width) for width in WIDTHS]
    weights = [
        torch.randn(one, other) / one for one, other in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]
    for _ in range(num_pairs // block):
        for i, weight in enumerate(weights):
            torch.mm(hidden[i], weight, out=hidden[i + 1])


def onednn_products(num_pairs: int, block: int = BLOCKS[0]) -> None:
    """The same by oneDNN."""
    latents = torch.randn(block, WIDTHS[0])
    weights = [
        torch.randn(one, other) / one for one, other in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]
    for _ in range(num_pairs // block):
        functools.reduce(matmul, weights, latents)


def vectorised(
    program: Example, x: torch.Tensor, num_particles: int, validate: bool = True
) -> torch.Tensor:
    """log p(x) of all data, as one would write it with Pyro alone."""
    found = []
    with torch.no_grad(), pyro.validation_enabled(validate):
        for rows in x.split(PYRO_ROWS):
            with pyro.plate("particles", num_particles, dim=-2):
                guide = poutine.trace(program.guide).get_trace(rows)
                model = poutine.trace(poutine.replay(program.model, guide)).get_trace(rows)
            guide.compute_log_prob()
            model.compute_log_prob()
            log_joint = model.nodes["z"]["log_prob"] + model.nodes["x"]["log_prob"]
            found.append((log_joint - guide.nodes["z"]["log_prob"]).logsumexp(0))
    return torch.cat(found)


def measure(options: Options) -> list[Row]:
    num_particles, num_data = options.pick(5_000, 100), options.pick(100, 40)
    x, num_pairs = problems.bits(num_data), num_data * num_particles
    model, guide = problems.ours(784, (200, 200), 50, activation=nn.Tanh)
    encoder, decoder = (
        perceptron(784, 200, 200, 100, activation=nn.Tanh),
        perceptron(*WIDTHS, activation=nn.Tanh),
    )
    program = Example(encoder, decoder, 50)

    def ours(evaluator: Eager) -> None:
        # what is compiled is kept from call to call: the first one's cost is a figure of its own
        method = pv.ImportanceSampling(num_particles, compile=False).evaluated_by(evaluator)
        pv.log_evidence(model, guide, x, method, progress=False)

    works = {
        "compiled": partial(ours, Compiled(logging.WARNING)),
        "compiled, bfloat16": partial(ours, Compiled(logging.WARNING, half=True)),
        "eager": partial(ours, Eager()),
        PYRO: partial(vectorised, program, x, num_particles),
        PYRO_UNCHECKED: partial(vectorised, program, x, num_particles, validate=False),
    }
    works |= {
        f"{PRODUCTS}, {block:,} at a time": partial(matrix_products, num_pairs, block)
        for block in BLOCKS
    }
    works[ONEDNN] = partial(onednn_products, num_pairs)
    times = in_turn(
        {name: timed(work, num_data) for name, work in works.items()}, options.pick(7, 1)
    )
    return rows_of(times, f"log_evidence, K={num_particles:,}, per row")


def rows_of(times: dict, work: str) -> list[Row]:
    floors = [name for name in times if name.startswith(PRODUCTS) and name != ONEDNN]
    fastest = min(floors, key=lambda name: statistics.median(times[name]))
    return [
        rate(work, times, "compiled", fastest, at_least=0.75),
        rate(work, times, "compiled", ONEDNN, at_least=0.70),
        rate(work, times, "compiled", PYRO, at_least=3.0),
        rate(work, times, "compiled", PYRO_UNCHECKED),
        rate(f"{work}, not compiled", times, "eager", fastest),
        rate(f"{work}, not compiled", times, "eager", ONEDNN, at_least=0.45),
        rate(f"{work}, the model in bfloat16", times, "compiled, bfloat16", "compiled"),
    ]
