"""Steps, importance-weighted steps and log p(x) on a GPU, against hand-written PyTorch, eager and
compiled. With --quick and without a GPU it runs at toy size on the CPU, to see that it runs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import problems
import torch
from problems import HAND, HandWritten
from timing import Options, Row, in_turn, rate, ratio, timed
from torch import nn
from training_step import batches

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.importance import Compiled

TITLE = "GPU"
BATCHES = dict.fromkeys((128, 1_024, 8_192))
HAND_COMPILED = "hand-written PyTorch, compiled"
WAYS = {"compiled": True, "CUDA graph": "cudagraphs"}
NUM_PARTICLES = 50
WIDTHS = (50, 200, 200, 784)


def measure(options: Options) -> list[Row]:
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.quick:
        return [Row("step, batch 128", HAND, not_measured="no CUDA device on this machine")]
    device = "cuda" if has_gpu else "cpu"
    x = problems.bits(options.pick(60_000, 500)).to(device)
    rows = [row for batch, _ in options.some(BATCHES) for row in steps(options, x, batch)]
    return rows + iwae(options, x) + evidence(options, device)


def trainer(x: torch.Tensor, objective: objectives.Bound, batch: int, how: bool | str) -> Callable:
    """Some steps of `fit` on this device, as a function of their batches."""
    made = problems.Trainer(problems.ours(), pv.Dataset(x), objective, batch, how, device=x.device)
    return made.steps


def by_hand(x: torch.Tensor, name: str, is_compiled: bool, **options: int) -> Callable:
    """The same steps of the hand-written VAE."""
    hand = HandWritten().to(x.device)
    bound = partial(getattr(hand, name), **options)
    if is_compiled:
        bound = torch.compile(bound)
    return partial(_steps, hand, x, bound)


def _steps(hand: HandWritten, x: torch.Tensor, bound: Callable, rows: list[torch.Tensor]) -> None:
    hand.steps(x, rows, bound)


def steps(options: Options, x: torch.Tensor, batch: int) -> list[Row]:
    """One training step; the loss of each is read, so that the device is waited for."""
    objective = objectives.MeanFieldELBO()
    works = {name: trainer(x, objective, batch, how) for name, how in WAYS.items()}
    works |= {HAND: by_hand(x, "elbo", False), HAND_COMPILED: by_hand(x, "elbo", True)}
    return compared(options, works, x, batch, f"step, batch {batch:,}")


def iwae(options: Options, x: torch.Tensor) -> list[Row]:
    """One step of the importance-weighted bound."""
    batch = options.pick(100, 20)
    objective = objectives.IWAE(NUM_PARTICLES)
    works = {name: trainer(x, objective, batch, how) for name, how in WAYS.items()}
    sizes = {"num_particles": NUM_PARTICLES}
    works |= {
        HAND: by_hand(x, "iwae", False, **sizes),
        HAND_COMPILED: by_hand(x, "iwae", True, **sizes),
    }
    return compared(options, works, x, batch, f"IWAE step, K={NUM_PARTICLES}, batch {batch}")


def compared(options: Options, works: dict, x: torch.Tensor, batch: int, work: str) -> list[Row]:
    """Each of our ways against each of theirs."""
    num_steps = options.pick(100, 3)
    drawn = [rows.to(x.device) for rows in batches(batch, num_steps, len(x))]
    timers = {name: timed(partial(each, drawn), num_steps) for name, each in works.items()}
    times = in_turn(timers, options.pick(9, 1))
    return [
        ratio(f"{work}, {way}", times, way, other)
        for way in WAYS
        for other in (HAND, HAND_COMPILED)
    ]


def evidence(options: Options, device: str) -> list[Row]:
    """log p(x) of a tanh decoder against its matrix products, in each precision."""
    num_rows = options.pick(100, 10)
    num_particles = options.pick(5_000, 100)
    x = problems.bits(num_rows).to(device)
    model, guide = problems.ours(784, (200, 200), 50, activation=nn.Tanh)
    model.to(device)
    guide.to(device)
    rows = []
    for name, half, tf32 in PRECISIONS:
        evaluator = Compiled(logging.WARNING, half=half)
        method = pv.ImportanceSampling(num_particles, compile=False).evaluated_by(evaluator)
        products = partial(matrix_products, num_rows * num_particles, device, half)
        works = {
            "ours": partial(pv.log_evidence, model, guide, x, method, progress=False),
            "products": products,
        }
        with products_in(tf32):
            timers = {key: timed(work, num_rows) for key, work in works.items()}
            times = in_turn(timers, options.pick(5, 1))
        work = f"log_evidence, K={num_particles:,}, per row, {name}"
        rows.append(rate(work, times, "ours", "products"))
    return rows


PRECISIONS = (("float32", False, False), ("TF32", False, True), ("bfloat16", True, False))


@contextmanager
def products_in(tf32: bool) -> Iterator[None]:
    """Products of float32 matrices in TF32, or not, within."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def matrix_products(num_pairs: int, device: str, half: bool, block: int = 50_000) -> None:
    """The decoder's products for as many (particle, row) pairs, and nothing else."""
    dtype = torch.bfloat16 if half else torch.float32
    block = min(block, num_pairs)
    hidden = [torch.randn(block, width, device=device, dtype=dtype) for width in WIDTHS]
    shapes = zip(WIDTHS, WIDTHS[1:], strict=False)
    weights = [torch.randn(one, two, device=device, dtype=dtype) / one for one, two in shapes]
    for _ in range(num_pairs // block):
        for i, weight in enumerate(weights):
            torch.mm(hidden[i], weight, out=hidden[i + 1])
    if device == "cuda":
        torch.cuda.synchronize()
