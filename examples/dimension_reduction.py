"""Dimension reduction, judged: a VAE beside principal components, with standard errors.

    python examples/dimension_reduction.py --output runs/dimension_reduction

Two tables, each split into rows for training and held-out rows: scikit-learn's handwritten digits
(64 pixels) and breast cancer (30 measurements of cell nuclei). Printed for the digits with 2 and 10
latents and for breast cancer with 2: trustworthiness, continuity and the share of neighbours kept
among the held-out rows, beside principal components of the same dimension. For the digits also the
share of the variance that each of ten latents explains; for breast cancer the loadings of a linear
decoder of two factors, with intervals from bootstrap fits. The picture has the quality of two
latents of the digits, these latents, the variance explained, and the loadings of twelve
measurements.

--quick takes fewer steps of training and fewer bootstrap fits.
"""

# %% Data, and a VAE for each table

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.tasks.reduction import (
    plot_embedding_quality,
    plot_loadings,
    plot_variance_explained,
)

NUM_FITS, QUICK_FITS = 50, 2
EPOCHS, QUICK_EPOCHS = 200, 5
STEPS, QUICK_STEPS = 4000, 100
DRAWN = 12  # measurements in the picture


def digits():
    """The digits, whole numbers from 0 to 16, in the splits of the embedded data set."""
    scaled = pv.load("digits").flatten()
    counts = (16 * scaled.x).round()
    return pv.Dataset(counts, labels=scaled.labels, splits=scaled.splits)


def trained(data, latent_dim, num_epochs):
    """A VAE of the digits."""
    with pv.seeded(0):
        likelihood = likelihoods.BetaBinomial(64, total=16)
        guide = pv.Guide(posteriors.MeanFieldNormal(latent_dim), 64)
        model = pv.Model(priors.StandardNormal(latent_dim), likelihood)
    training = pv.Training(num_epochs=num_epochs, progress=False)
    pv.fit(model, guide, data, training=training)
    return model, guide


def tumours(num_steps):
    """A guide of breast cancer with two latents by `pv.recipe`, and the rows."""
    table = load_breast_cancer(as_frame=True)
    data = pv.Dataset(table.data).split(valid=0.1, test=0.3, seed=0)
    recipe = pv.recipe(data, latent_dim=2, num_steps=num_steps, progress=False)
    recipe.fit()
    return recipe.guide, data


# %% Factor analysis with intervals


def factors(data, num_fits, num_epochs):
    """Loadings of two factors of the standardised measurements."""
    train = data.train
    x = (train.x - train.x.mean(0)) / train.x.std(0)
    rows = pv.Dataset(x.numpy(), feature_names=data.feature_names)
    with pv.seeded(0):
        size = len(data.feature_names)
        likelihood = likelihoods.Gaussian(size, scale="feature")
        model = pv.Model(priors.StandardNormal(2), likelihood, networks.Linear(2), start=rows)
        encoder = networks.Linear(size)
        guide = pv.Guide(posteriors.FullRankNormal(2), size, encoder, start=rows)
    rate = pv.training.schedules.Cosine(0.05)
    training = pv.Training(num_epochs=num_epochs, learning_rate=rate, progress=False)
    pv.fit(model, guide, rows, training=training)
    options = {"training": training, "num_fits": num_fits, "progress": False}
    return pv.loading_intervals(model, pv.bootstrap_fits(model, guide, rows, **options))


# %% Everything, with a picture


def draw(found, variance, loadings, labels, path):
    """Quality of two latents, these latents, variance explained by ten, and loadings."""
    figure = plt.figure(figsize=(10.5, 10), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1, 1.2, 1.2])
    plot_embedding_quality(found, top.subplots(1, 3))
    left, right = middle.subplots(1, 2)
    drawn = left.scatter(*found.coordinates["VAE"].T, c=labels, cmap="tab10", s=9)
    left.set(xlabel="z[0]", ylabel="z[1]")
    figure.colorbar(drawn, ax=left, label="digit", ticks=range(10))
    plot_variance_explained(variance, right)
    shown = pv.tasks.LoadingIntervals(
        loadings.estimate[:DRAWN], loadings.draws[:, :DRAWN], loadings.names[:DRAWN]
    )
    plot_loadings(shown, axes=bottom.subplots(1, 2, sharey=True))
    figure.savefig(path, dpi=110)


def main(arguments=None):
    """Print the tables, draw dimension_reduction.png into the folder, and return the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/dimension_reduction"))
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    num_epochs = QUICK_EPOCHS if options.quick else EPOCHS
    data = digits()
    found = {}
    for latent_dim in (2, 10):
        model, guide = trained(data, latent_dim, num_epochs)
        found[latent_dim] = pv.embedding_quality(guide, data.test, data, progress=False)
        print(f"digits, {latent_dim} latents\n{found[latent_dim]}\n")
    variance = pv.variance_explained(model, units="x")
    print(f"{variance}\n")
    guide, rows = tumours(QUICK_STEPS if options.quick else STEPS)
    of_tumours = pv.embedding_quality(guide, rows.test, rows, progress=False)
    print(f"breast cancer, 2 latents\n{of_tumours}\n")
    loadings = factors(rows, QUICK_FITS if options.quick else NUM_FITS, num_epochs)
    print(loadings)
    labels = np.asarray(data.test.labels)
    draw(found[2], variance, loadings, labels, options.output / "dimension_reduction.png")
    return found, of_tumours, variance, loadings


if __name__ == "__main__":
    main()
