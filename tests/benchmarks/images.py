"""Frey faces in bits per dimension, and one layer of latents against two on MNIST.

    python tests/benchmarks/images.py frey --data-dir FOLDER
    python tests/benchmarks/images.py layers --data-dir FOLDER

`frey`: a discretised logistic likelihood of 256 levels under a standard normal prior and under a
VampPrior, on the same held-out faces; bits per dimension are -log p(x) / (560 log 2). `layers`: an
IWAE(5) with one layer of 50 latents and one with two layers, 100 and 50, on the first 10,000
training images of MNIST for 20 epochs: a small budget, at which both are far from converged."""

import argparse
import math
from typing import Any

import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.training.schedules import Exponential

NUM_PARTICLES = 1000


def evidence_of(model: Any, guide: Any, data: pv.Dataset, num_epochs: int, **options: Any) -> Any:
    """log p(x) of the test rows after training."""
    training = pv.Training(
        num_epochs=num_epochs, batch_size=100, learning_rate=Exponential(1e-3, 1e-4), seed=0
    )
    pv.fit(model, guide, data, training=training, **options)
    return pv.log_evidence(model, guide, data.test, num_particles=NUM_PARTICLES, seed=0)


def frey(data_dir: str) -> None:
    """N(0, I) and VampPrior."""
    data = pv.load("freyfaces", data_dir=data_dir)
    found = {}
    for name in ("N(0, I)", "VampPrior"):
        with pv.seeded(0):
            shape = data.event_shape
            encoder = networks.MLP(shape, (300, 300))
            guide = pv.Guide(posteriors.MeanFieldNormal(20), shape, encoder, start=data)
            prior: nn.Module = priors.StandardNormal(20)
            if name == "VampPrior":
                prior = priors.VampPrior(guide, pseudo_inputs=data.train.x[:100])
            likelihood = likelihoods.DiscretizedLogistic(shape, scale="decoder")
            model = pv.Model(prior, likelihood, networks.MLP(20, (300, 300)), start=data)
        found[name] = evidence_of(model, guide, data, num_epochs=100)
        bits = -found[name].log_evidence / (shape.numel() * math.log(2))
        print(f"{name}: {bits.mean():.4f} bits per dimension")
        print(found[name].summary())
    print(pv.compare_models(found, reference="N(0, I)"))


def layers(data_dir: str) -> None:
    """One layer of latents and two."""
    whole = pv.load("mnist", binarize="dynamic", data_dir=data_dir).flatten()
    splits = {"train": whole.splits["train"][:10_000], "test": whole.splits["test"][:1_000]}
    data = whole.with_splits(splits)
    found = {}
    for name in ("one layer", "two layers"):
        with pv.seeded(0):
            encoder = networks.MLP(784, (200, 200), activation=nn.Tanh)
            if name == "one layer":
                posterior: Any = posteriors.MeanFieldNormal(50)
                prior: Any = priors.StandardNormal(50)
                width = 50
            else:
                posterior = posteriors.Hierarchical(150, (100, 50))
                prior = priors.Hierarchical(150, (100, 50))
                width = 100
            guide = pv.Guide(posterior, 784, encoder)
            decoder = networks.MLP(width, (200, 200), activation=nn.Tanh)
            model = pv.Model(prior, likelihoods.Bernoulli(784), decoder, start=data)
        found[name] = evidence_of(model, guide, data, 20, objective=objectives.IWAE(5))
        print(name, found[name].summary())
    print(pv.compare_models(found, reference="one layer"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("frey", "layers"))
    parser.add_argument("--data-dir", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"frey": frey, "layers": layers}[options.what](options.data_dir)


if __name__ == "__main__":
    main()
