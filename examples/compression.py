"""Compression without loss: binarised digits in about -ELBO bits.

    python examples/compression.py --output runs/compression

A VAE is trained on 1,297 digits of 8 x 8 binary pixels; the other 500 are compressed by bits-back
coding and recovered. Their size is compared with the VAE's own bound, -ELBO / log 2, and with the
same bits packed by gzip and bz2. Drawn are the bits of a row by each of them.

--quick trains for fewer epochs.
"""

# %% A VAE of binary digits

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.tasks.compression import bits_per_row, plot_bits

NUM_EPOCHS, QUICK_EPOCHS = 200, 30


def train(num_epochs):
    """A model and a guide of the training digits, and the digits."""
    data = pv.load("digits", binarize="static").split(test=500, seed=0)
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(8), data.event_shape)
        likelihood = likelihoods.Bernoulli(data.event_shape)
        model = pv.Model(priors.StandardNormal(8), likelihood, start=data.train.x)
    training = pv.Training(num_epochs=num_epochs, kl_warmup_epochs=10, seed=0, progress=False)
    pv.fit(model, guide, data, objective=pv.objectives.MeanFieldELBO(), training=training)
    return model, guide, data.test


# %% There and back


def sizes(model, guide, data):
    """Bits of a row by each coder, and the bound; the rows have to come back."""
    file = pv.compress(model, guide, data, progress=False)
    if not torch.equal(pv.decompress(model, guide, file, progress=False), data.x):
        raise RuntimeError("the rows came back otherwise")
    return bits_per_row(model, guide, data, seed=1, progress=False)


# %% Everything, with a picture


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/compression"))
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    found = sizes(*train(QUICK_EPOCHS if options.quick else NUM_EPOCHS))
    for name, bits in found.items():
        print(f"{name:<24}{bits:8.2f} bits a row")
    axes = plot_bits(found)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.savefig(options.output / "compression.png", dpi=150)
    plt.close(axes.figure)
    return found


if __name__ == "__main__":
    main()
