# %% [markdown]
"""# Figure 3 of the VAE paper: AEVB against wake-sleep against Monte Carlo EM.

Kingma and Welling (2014), arXiv:1312.6114, compare three ways to fit the same model (3 latents, 100
hidden units) to 1,000 and to 50,000 images of MNIST, by the log-likelihood reached after a number
of training samples. As in the paper: one tanh layer in encoder and decoder, minibatches of 100,
Adagrad, a prior N(0, 1) on the weights, HMC with 10 leapfrog steps that accepts 90 %, estimates on
the first 1,000 images of each set. Different here: images are binarised once; log p(x) is estimated
by importance sampling; training stops at 600,000 samples, not at tens of millions. MCEM evaluates
the model over a hundred times for each sample, so it stops at 50,000: one pass over the larger set.

    python examples/aevb_figure_3.py --data-dir data --output runs/aevb_figure_3

takes a quarter of an hour on one core, and downloads MNIST where the folder does not have it;
`--quick` uses the embedded digits instead (seconds).
"""

# %%
import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.hmc import HMC

ALGORITHMS = {
    "AEVB": objectives.TraceELBO(),
    "wake-sleep": objectives.WakeSleep(),
    "MCEM": objectives.MCEM(
        sampler=HMC(num_samples=1, num_warmup=10, num_leapfrog=10, target_accept=0.9)
    ),
}


class Plan(NamedTuple):
    """Sizes of the training set, samples per algorithm, images and particles per estimate."""

    sizes: tuple[int, ...] = (1_000, 50_000)
    budget: int = 600_000
    mcem_budget: int = 50_000
    learning_rate: float = 0.02
    num_points: int = 9
    num_evaluated: int = 1_000
    num_particles: int = 100

    def counts(self, name):
        """Numbers of training samples to estimate log p(x) after: full batches, on a log scale."""
        budget = self.mcem_budget if name == "MCEM" else self.budget
        return [0, *np.unique(np.geomspace(5, budget / 100, self.num_points).astype(int) * 100)]


# Fewer samples need larger steps, which suit AEVB better than wake-sleep. At 0.02 the two are level
# on the digits.
QUICK = Plan(
    (200, 1_000),
    budget=10_000,
    mcem_budget=1_000,
    learning_rate=0.07,
    num_points=3,
    num_evaluated=200,
)


class Point(NamedTuple):
    """An algorithm after some samples: seconds of training, evidence on both sets of images."""

    num_samples: int
    seconds: float
    train: pv.Evidence
    test: pv.Evidence


# %%
def build(event_shape):
    """The paper's model and guide: 3 latents, 100 hidden units, tanh."""
    guide = pv.Guide(
        posteriors.MeanFieldNormal(3),
        event_shape,
        networks.MLP(event_shape, (100,), activation=nn.Tanh),
    )
    decoder = networks.MLP(3, (100,), activation=nn.Tanh)
    return pv.Model(priors.StandardNormal(3), likelihoods.Bernoulli(event_shape), decoder), guide


def sample_order(num_data, num_samples, rng):
    """Rows in the order of training: one shuffled pass after the other."""
    passes = -(-num_samples // num_data)
    return np.concatenate([rng.permutation(num_data) for _ in range(passes)])[:num_samples]


class Trainer:
    """One algorithm on the first `size` images; it can stop after any number of samples."""

    def __init__(self, name, data, size, plan, seed):
        self.objective = ALGORITHMS[name]
        self.x = data.train.x[:size]
        self.seconds = 0.0
        with pv.seeded(seed):
            self.model, self.guide = build(data.event_shape)
        self.order = sample_order(size, plan.counts(name)[-1], np.random.default_rng(seed))
        parameters = [*self.model.parameters(), *self.guide.parameters()]
        adagrad = torch.optim.Adagrad(parameters, lr=plan.learning_rate, weight_decay=1 / size)
        self.training = pv.Training(
            num_epochs=1,
            batch_size=100,
            learning_rate=plan.learning_rate,
            optimizer=lambda _: adagrad,
            progress=False,
        )

    def advance(self, start, stop):
        """Train on samples `start` to `stop` with one optimiser, ten thousand at a time."""
        for first in range(start, stop, 10_000):
            x = self.x[self.order[first : min(first + 10_000, stop)]]
            training = replace(self.training, seed=first)
            result = pv.fit(self.model, self.guide, x, objective=self.objective, training=training)
            self.seconds += result.wall_time


def follow(name, data, size, plan, seed=0):
    """Train one algorithm on the first `size` images; a `Point` at each count of samples."""
    trainer = Trainer(name, data, size, plan, seed)
    num = plan.num_evaluated
    sets = data.train[: min(size, num)], data.test[:num]
    options = {"num_particles": plan.num_particles, "seed": seed, "progress": False}
    points = []
    for start, stop in pairwise(tqdm(plan.counts(name), desc=f"{name}, N={size:,}", unit=" parts")):
        trainer.advance(start, stop)
        found = (pv.log_evidence(trainer.model, trainer.guide, part, **options) for part in sets)
        points.append(Point(int(stop), trainer.seconds, *found))
    return points


# %% [markdown]
# ## The picture
#
# In the layout of the paper: one panel per size of the training set, solid lines on training
# images, dashed lines on test images.


# %%
def draw(found, sizes):
    figure, axes = plt.subplots(1, len(sizes), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, size in zip(axes, sizes, strict=True):
        for i, name in enumerate(ALGORITHMS):
            points = found[name, size]
            for part, style in (("train", "-"), ("test", "--")):
                counts = [point.num_samples for point in points]
                values = [getattr(point, part).log_evidence.mean() for point in points]
                label = f"{name} ({part})"
                axis.plot(counts, values, style, color=f"C{i}", label=label)
        axis.set(xscale="log", xlabel="training samples evaluated", title=f"N = {size:,}")
    axes[0].set_ylabel("log p(x), nats per image")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


# %%
def main(arguments=None):
    parser = argparse.ArgumentParser(description="AEVB, wake-sleep and Monte Carlo EM on MNIST.")
    parser.add_argument("--quick", action="store_true", help="embedded digits, seconds")
    parser.add_argument("--data-dir", type=Path, help="folder of mnist.npz; else it is downloaded")
    parser.add_argument("--output", type=Path, default="runs/aevb_figure_3", help="folder")
    options = parser.parse_args(arguments)
    plan, name = (QUICK, "digits") if options.quick else (Plan(), "mnist")
    data = pv.load(name, binarize="static", flatten=True, data_dir=options.data_dir)
    found = {
        (name, size): follow(name, data, size, plan) for size in plan.sizes for name in ALGORITHMS
    }
    for (name, size), points in found.items():
        for p in points:
            start = f"{name:10} N={size:<6,} {p.num_samples:>7,} samples in {p.seconds:4.0f} s:"
            print(start, f"train {p.train.log_evidence.mean():7.2f}; test {p.test.summary()}")
    for size in plan.sizes:
        aevb, wake_sleep = (
            found[name, size][-1].test.log_evidence for name in ("AEVB", "wake-sleep")
        )
        gap = aevb - wake_sleep  # paired: the same images
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        lead = f"{gap.mean():.2f} ± {error:.2f} nats"
        print(f"N={size:,}: AEVB ends {lead} above wake-sleep on test images")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(found, plan.sizes).savefig(options.output / "aevb_figure_3.png", dpi=150)
    return found


if __name__ == "__main__":
    main()
