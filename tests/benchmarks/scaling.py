"""Cost per row as N grows, of an epoch of `fit` and of `log_evidence`, 8 features, a small model;
cost per particle as K grows; cost of an epoch as the features grow."""

import logging
import statistics
from collections.abc import Callable
from functools import partial

import problems
import torch
from problems import COMPILED, Trainer
from timing import Options, Row, in_turn, ratio, timed

import ppl_vae as pv
from ppl_vae import likelihoods, objectives
from ppl_vae.importance import Compiled

TITLE = "Cost per row"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FEATURES, BATCH, NUM_PARTICLES = 8, 100, 50
MORE_FEATURES = (80, 800)
MORE_PARTICLES = (500, 5_000)
ROWS_OF_MORE = 10_000  # where features grow


def programs(features: int = FEATURES) -> tuple[pv.Model, pv.Guide]:
    return problems.ours(features, (32,), 2, likelihood=likelihoods.Gaussian)


def times_each(work: Callable[[], object], repeats: int) -> None:
    for _ in range(repeats):
        work()


def measure(options: Options) -> list[Row]:
    data = [torch.randn(size, FEATURES) for size in SIZES[: options.pick(4, 2)]]
    return [
        *rows_of("epoch", epochs(data, options)),
        *rows_of(f"log_evidence, K={NUM_PARTICLES}", evidence(data, options)),
        *by_particles(data[0], options),
        *by_features(options),
    ]


def epochs(data: list[torch.Tensor], options: Options) -> dict[str, list[float]]:
    works = {}
    for x in data:
        trainer = Trainer(programs(), pv.Dataset(x), objectives.MeanFieldELBO(), BATCH, COMPILED)
        repeats = max(1, options.pick(100_000, 1_000) // len(x))
        works[f"N={len(x):,}"] = timed(
            partial(times_each, trainer.epoch, repeats), repeats * len(x)
        )
    return in_turn(works, options.pick(7, 1))


def evidence(data: list[torch.Tensor], options: Options) -> dict[str, list[float]]:
    works, pair = {}, programs()
    sampling = pv.ImportanceSampling(NUM_PARTICLES, compile=False)
    method = sampling.evaluated_by(Compiled(logging.WARNING))  # kept from call to call
    pv.log_evidence(*pair, data[0], method, progress=False)
    for x in data:
        work = partial(pv.log_evidence, *pair, x, method, progress=False)
        repeats = max(1, options.pick(20_000, 1_000) // len(x))
        works[f"N={len(x):,}"] = timed(partial(times_each, work, repeats), repeats * len(x))
    return in_turn(works, options.pick(3, 1), warm_up=False)  # a round takes minutes


def by_particles(x: torch.Tensor, options: Options) -> list[Row]:
    """Cost of a particle of a row."""
    pair = programs()
    works = {}
    for num_particles in (NUM_PARTICLES, *MORE_PARTICLES):
        sampling = pv.ImportanceSampling(num_particles, compile=False)
        method = sampling.evaluated_by(Compiled(logging.WARNING))
        work = partial(pv.log_evidence, *pair, x, method, progress=False)
        works[f"K={num_particles:,}"] = timed(work, num_particles * len(x))
    times = in_turn(works, options.pick(5, 1))
    first, *others = times
    return [
        ratio(f"log_evidence, N={len(x):,}, {name}, a particle", times, name, first)
        for name in others
    ]


def by_features(options: Options) -> list[Row]:
    """Cost of an epoch."""
    works = {}
    for features in (FEATURES, *MORE_FEATURES):
        x = pv.Dataset(torch.randn(options.pick(ROWS_OF_MORE, 1_000), features))
        made = Trainer(programs(features), x, objectives.MeanFieldELBO(), BATCH, COMPILED)
        works[f"{features} features"] = timed(made.epoch)
    times = in_turn(works, options.pick(7, 1))
    first, *others = times
    return [ratio(f"epoch, {name}", times, name, first) for name in others]


def rows_of(name: str, times: dict[str, list[float]]) -> list[Row]:
    """The cost per row at each N over that at the smallest."""
    first, *others = times
    rows = [
        ratio(f"{name}, {size}", times, size, first, at_most=1.10, at_least=0.90) for size in others
    ]
    numbers = [float(size[2:].replace(",", "")) for size in times]
    rows[0].series = {"N": numbers, name: [statistics.median(values) for values in times.values()]}
    return rows
