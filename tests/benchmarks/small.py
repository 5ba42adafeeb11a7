"""Small tables, the statistician's case: fits of a recipe to 300 rows, by number of threads, with
and without a recorded graph; and a study of four cells, one after the other or two at a time."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
from timing import Options, Row, in_turn, ratio, seconds, timed

import ppl_vae as pv
from ppl_vae.experiment import run_study

TITLE = "Small tables"
STUDY = """
[data]
name = "digits"
binarize = "static"

[training]
num_epochs = {epochs}
batch_size = 100

[evaluation]
num_particles = 100

[grid]
training.seed = [0, 1, 2, 3]
"""
SERIAL, DASK = "one after the other", "two workers of a local Dask cluster"


def table(num_rows: int) -> np.ndarray:
    """Eight columns that two factors explain."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(num_rows, 8))
    return rng.normal(size=(num_rows, 2)) @ rng.normal(size=(2, 8)) + 0.5 * noise


def measure(options: Options) -> list[Row]:
    return [*fits(options), *studies(options)]


def fits(options: Options) -> list[Row]:
    x, steps = table(options.pick(300, 60)), options.pick(3_000, 20)
    threads = torch.get_num_threads()

    def fitted(num_threads: int, **settings: object) -> None:
        torch.set_num_threads(num_threads)
        recipe = pv.recipe(x, num_steps=steps, progress=False)
        replace(recipe, training=replace(recipe.training, **settings)).fit()
        torch.set_num_threads(threads)

    recipe = pv.recipe(x, num_steps=steps, progress=False)
    recipe.fit()
    one, two, eager = "one thread", "two threads", "one thread, eager"
    works = {
        one: timed(partial(fitted, 1)),
        two: timed(partial(fitted, 2)),
        eager: timed(partial(fitted, 1, compile=False)),
        "refits": timed(partial(pv.bootstrap_fits, recipe, num_fits=5, progress=False), 5),
    }
    times = in_turn(works, options.pick(3, 1), warm_up=False)
    work = f"recipe, {len(x)} rows of 8 columns, {steps:,} steps at most"
    return [
        seconds(f"{work}, {one}", times[one]),
        ratio(f"{work}, {two}", times, two, one),
        ratio(f"{work}, {one}", times, one, eager),
        seconds(f"bootstrap_fits, {len(x)} rows, a fit", times["refits"], at_most=0.6),
    ]


def studies(options: Options) -> list[Row]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return [Row("study of four trainings", DASK, not_measured="dask is not installed")]
    ways = {
        SERIAL: nullcontext,
        "two processes of joblib": partial(joblib.parallel_config, "loky", n_jobs=2),
        DASK: partial(joblib.parallel_config, "dask"),
    }
    sizes = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(**sizes) as cluster,
        Client(cluster),
    ):
        path = Path(folder) / "study.toml"
        path.write_text(STUDY.format(epochs=options.pick(100, 1)))
        works = {name: timed(partial(study, path, way)) for name, way in ways.items()}
        times = in_turn(works, options.pick(3, 1))
    return [ratio(f"study of four trainings, {way}", times, way, SERIAL) for way in [*ways][1:]]


def study(path: Path, way: Callable[[], AbstractContextManager[object]]) -> None:
    with tempfile.TemporaryDirectory() as output, way():
        result = run_study(path, output, progress=False)
    assert not result.failures, result.failures
