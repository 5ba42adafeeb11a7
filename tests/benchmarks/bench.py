"""Measure what the library costs: every figure is a ratio of two times taken in turn within this run.

Run it with `make bench`. Times of different machines differ by a factor of 3 to 60; ratios travel better.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pyro.infer
import torch

from ppl_vae import Guide, Model, likelihoods, objectives, posteriors, priors

BATCH, PIXELS, LATENT = 128, 64, 8


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median of ours / theirs over pairs run in turn, and the interquartile range."""
    ratios = []
    for _ in range(repeats):
        start = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, high - low


def command(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def step(loss: pyro.infer.ELBO) -> Callable[[], object]:
    """One gradient step's work, value and gradient, without the optimiser."""
    guide = Guide(posteriors.MeanFieldNormal(LATENT), (PIXELS,))
    model = Model(priors.StandardNormal(LATENT), likelihoods.Bernoulli((PIXELS,)))
    x = (torch.rand(BATCH, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    elbo = loss(model, guide)
    elbo(x)
    return lambda: elbo(x).backward()


def figures() -> dict[str, tuple[float, float]]:
    bare, torch_and_pyro = command("pass"), command("import torch, pyro")
    help_text = command("from ppl_vae.cli import app\napp(['--help'], standalone_mode=False)")
    plain = pyro.infer.Trace_ELBO(max_plate_nesting=1)
    closed = pyro.infer.TraceMeanField_ELBO(max_plate_nesting=1)
    return {
        "ppl-vae --help / python -c pass": ratio(help_text, bare, 9),
        "import ppl_vae / python -c pass": ratio(command("import ppl_vae"), bare, 9),
        "the model classes / import torch, pyro": ratio(command("from ppl_vae import Model, fit"), torch_and_pyro, 5),
        "TraceELBO / Pyro's Trace_ELBO": ratio(step(objectives.TraceELBO()), step(plain), 101),
        "MeanFieldELBO / Pyro's TraceMeanField_ELBO": ratio(step(objectives.MeanFieldELBO()), step(closed), 101),
    }


if __name__ == "__main__":
    print(f"{'time of / time of':45} {'ratio':>7} {'IQR':>7}")
    for name, (median, spread) in figures().items():
        print(f"{name:45} {median:7.2f} {spread:7.2f}")
