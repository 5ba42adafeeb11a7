"""Compression without loss: binarised digits in about -ELBO bits.

    python examples/compression.py --output runs/compression

A VAE is trained on 1,297 digits of 8 x 8 binary pixels; the other 500 are compressed by bits-back
coding and recovered. Their size is compared with the VAE's own bound, -ELBO / log 2, and with the
same bits packed by gzip and bz2. Drawn are the bits of each image beside its bound.

--quick trains for fewer epochs.
"""

# %% A VAE of binary digits

import argparse
import bz2
import gzip
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors

NUM_EPOCHS, QUICK_EPOCHS = 200, 30
NUM_DRAWS = 100  # of the bound of each row


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
    """Bits of a row by each coder, and the bound."""
    file = pv.compress(model, guide, data, progress=False)
    if not torch.equal(pv.decompress(model, guide, file, progress=False), data.x):
        raise RuntimeError("the rows came back otherwise")
    log_weights = pv.log_weights(model, guide, data.x, num_particles=NUM_DRAWS, seed=1)
    packed = np.packbits(data.x.numpy().astype(bool)).tobytes()
    num_rows = len(data)
    return {
        "-ELBO / log 2": -float(log_weights.mean()) / np.log(2),
        "bits-back": pv.CompressedRows.from_bytes(file).net_bits_per_row,
        "bits-back, whole file": 8 * len(file) / num_rows,
        "bz2 of packed bits": 8 * len(bz2.compress(packed)) / num_rows,
        "gzip of packed bits": 8 * len(gzip.compress(packed)) / num_rows,
        "packed bits": 8 * len(packed) / num_rows,
    }


def draw(found, path):
    """Bits of a row, coder by coder."""
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    names = list(found)[::-1]
    colours = ["#4477aa" if name.startswith("bits-back") else "#bbbbbb" for name in names]
    bars = axes.barh(names, [found[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel("bits a row (fewer are better)")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    draw(found, options.output / "compression.png")
    return found


if __name__ == "__main__":
    main()
