"""Bits of compressed MNIST digits beside the bound, gzip, bz2 and PNG: a table of docs/results.md.

    PPL_VAE_DATA=FOLDER python tests/benchmarks/compression.py [--quick]

Binarised digits: 784-200-20 and back, Bernoulli pixels, 10,000 test images. Grey digits: the same
networks with DiscretizedLogistic of 256 levels, 2,000 test images. The bound is averaged over 50
draws of each row. gzip and bz2 are given packed bits, or bytes; PNG is written image by image and
counts the compressed pixels (IDAT) alone."""

import argparse
import bz2
import gzip
import io
import os
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.runtime.text import table

LATENT_DIM = 20
WIDTH = 200
DRAWS = 50


def trained(kind: str, data: Any, num_epochs: int) -> tuple[Any, Any]:
    likelihood: Any = likelihoods.Bernoulli(784)
    if kind == "grey":
        likelihood = likelihoods.DiscretizedLogistic(784, num_levels=256)
    with pv.seeded(0):
        encoder = networks.MLP(784, (WIDTH,))
        guide = pv.Guide(posteriors.MeanFieldNormal(LATENT_DIM), 784, encoder)
        decoder = networks.MLP(LATENT_DIM, (WIDTH,))
        prior = priors.StandardNormal(LATENT_DIM)
        model = pv.Model(prior, likelihood, decoder, start=data.train[:10000])
    training = pv.Training(num_epochs=num_epochs, batch_size=100, seed=0, progress=False)
    pv.fit(model, guide, data, objective=pv.objectives.MeanFieldELBO(), training=training)
    return model, guide


def bound(model: Any, guide: Any, x: torch.Tensor) -> tuple[float, float]:
    """-ELBO / log 2 of a row, and the standard error of one draw for each row around it."""
    parts = [
        pv.log_weights(model, guide, some, num_particles=DRAWS, seed=i).double()
        for i, some in enumerate(x.split(100))
    ]
    bits = -torch.cat(parts, dim=1) / np.log(2)
    return float(bits.mean()), float(bits.var(0).sum().sqrt()) / bits.shape[1]


def png_bits(images: np.ndarray) -> float:
    """Bits of the compressed pixels of an image."""
    total = 0
    for image in images:
        file = io.BytesIO()
        picture = Image.fromarray(image)
        if set(np.unique(image)) <= {0, 255}:
            picture = picture.convert("1")
        picture.save(file, format="png", optimize=True)
        found = file.getvalue()
        place = 8
        while place < len(found):
            size = int.from_bytes(found[place : place + 4])
            total += size * (found[place + 4 : place + 8] == b"IDAT")
            place += 12 + size
    return 8 * total / len(images)


def figures(kind: str, num_rows: int, num_epochs: int) -> list[str]:
    binarize = "static" if kind == "binarised" else None
    data = pv.load("mnist", binarize=binarize, data_dir=os.environ["PPL_VAE_DATA"]).flatten()
    model, guide = trained(kind, data, num_epochs)
    rows = data.test[:num_rows].in_memory()
    start = time.perf_counter()
    file = pv.compress(model, guide, rows, progress=False)
    middle = time.perf_counter()
    back = pv.decompress(model, guide, file, progress=False)
    end = time.perf_counter()
    if not torch.equal(back, rows.x):
        raise RuntimeError("the rows came back otherwise")
    net = pv.CompressedRows.from_bytes(file).net_bits_per_row
    expected, error = bound(model, guide, rows.x)
    grey = (255 * rows.x.numpy()).round().astype(np.uint8)
    raw = np.packbits(rows.x.numpy().astype(bool)) if kind == "binarised" else grey
    return [
        f"{kind}, {num_rows:,} rows",
        f"{expected:.2f}",
        f"{net:.2f} ({100 * (net / expected - 1):+.2f} % ± {100 * error / expected:.2f})",
        f"{8 * len(file) / num_rows:.2f}",
        f"{8 * len(gzip.compress(raw.tobytes())) / num_rows:.1f}",
        f"{8 * len(bz2.compress(raw.tobytes())) / num_rows:.1f}",
        f"{png_bits(grey.reshape(-1, 28, 28)):.1f}",
        f"{num_rows / (middle - start):,.0f}, {num_rows / (end - middle):,.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="200 rows, one epoch")
    options = parser.parse_args()
    head = ["digits", "-ELBO / log 2", "net bits a row", "whole file", "gzip", "bz2", "PNG"]
    rows = [[*head, "rows a second, there and back"]]
    for kind, num_rows, num_epochs in (("binarised", 10_000, 20), ("grey", 2000, 10)):
        size = (200, 1) if options.quick else (num_rows, num_epochs)
        rows.append(figures(kind, *size))
    print(table(rows, markdown=True))


if __name__ == "__main__":
    main()
