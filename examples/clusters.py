"""Clusters of wines: a latent class summed out, beside scikit-learn's Gaussian mixtures.

    python examples/clusters.py --output runs/clusters

178 wines of three cultivars, 13 measurements each. The prior of three latents is a mixture of three
normals and the decoder is linear, so that x is a mixture of normals that differ in three directions
only. Log p(x) of 48 new wines is compared with that of scikit-learn's mixtures, and the most
probable cluster of each wine with its cultivar, which no model is given.

--quick trains once, for fewer epochs.
"""

# %% Wines, in standard deviations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.diagnostics import plot_models
from ppl_vae.evidence import Defensive

NUM_CLUSTERS = 3
LATENT_DIM = 3
NUM_TRAIN = 130
SEEDS, QUICK_SEEDS = (0, 1, 2, 3), (1,)
NUM_EPOCHS, QUICK_EPOCHS = 300, 80


def wines(seed=0):
    """The measurements, standardised by the training rows, the cultivars, and which rows train."""
    found = load_wine()
    order = np.random.default_rng(seed).permutation(len(found.data))
    train, new = np.split(order, [NUM_TRAIN])
    mean, sd = found.data[train].mean(0), found.data[train].std(0)
    return (found.data - mean) / sd, found.target, train, new


# %% A mixture prior; of several trainings the one of the highest log p(x) of the training rows


def train_one(x, seed, num_epochs):
    """The model and guide trained from one start."""
    size = x.shape[1]
    with pv.seeded(seed):
        model = pv.Model(
            priors.GaussianMixture(LATENT_DIM, NUM_CLUSTERS),
            likelihoods.Gaussian(size, scale="feature"),
            networks.Linear(LATENT_DIM),
            start=x,
        )
        posterior = posteriors.FullRankNormal(LATENT_DIM)
        guide = pv.Guide(posterior, size, networks.MLP(size, (32,)), start=x)
    training = pv.Training(num_epochs, batch_size=26, learning_rate=5e-3, seed=seed, progress=False)
    pv.fit(model, guide, x, training=training)
    return model, guide


def log_p(model, guide, x, num_particles=10_000):
    """Log p(x). The guide is refined for these rows, and a share of the particles comes from the
    prior: a row may belong to a cluster that one normal misses.
    """
    guide = pv.refine(model, guide, x, progress=False)
    particles = {"num_particles": num_particles, "proposal": Defensive(), "progress": False}
    return pv.log_evidence(model, guide, x, **particles)


def train(x, seeds, num_epochs):
    """The best of several trainings: clusters depend on the start, and EM's do too."""
    trained = [train_one(x, seed, num_epochs) for seed in seeds]
    return max(trained, key=lambda pair: log_p(*pair, x, 500).log_evidence.mean())


# %% Everything, with a picture


def draw(latents, classes, cultivars, comparison, file):
    """Latent means by cluster and cultivar, and the models' differences in log p(x)."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    centred = latents - latents.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    across, up = (centred @ directions.T).T
    clusters = classes.predict()
    for cultivar, marker in enumerate("o^s"):
        rows = cultivars == cultivar
        colours = [f"C{cluster}" for cluster in clusters[rows]]
        left.scatter(across[rows], up[rows], c=colours, marker=marker, s=24, alpha=0.8)
        left.scatter([], [], color="0.4", marker=marker, label=f"cultivar {cultivar + 1}")
    unsure = classes.probabilities.max(1) < 0.9
    left.scatter(across[unsure], up[unsure], s=90, facecolors="none", edgecolors="0.2", lw=0.8)
    left.scatter([], [], s=90, facecolors="none", edgecolors="0.2", label="p(cluster | x) < 0.9")
    left.legend(loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2, frameon=False)
    left.set(xlabel="first principal direction of E[z | x]", ylabel="second")
    left.set_title("clusters (colour) are nearly the cultivars (marker)")
    plot_models(comparison, right)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/clusters"))
    parser.add_argument("--quick", action="store_true", help="one training of fewer epochs")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    x, cultivars, rows, new = wines()
    seeds = QUICK_SEEDS if options.quick else SEEDS
    model, guide = train(x[rows], seeds, QUICK_EPOCHS if options.quick else NUM_EPOCHS)
    classes = pv.class_probabilities(model, guide, x, num_particles=500, progress=False)
    evidence = {"mixture prior": log_p(model, guide, x[new])}
    agreement = {"mixture prior": adjusted_rand_score(cultivars, classes.predict())}
    for kind in ("diag", "tied", "full"):
        plain = GaussianMixture(NUM_CLUSTERS, covariance_type=kind, random_state=0, n_init=10)
        plain.fit(x[rows])
        name = f"scikit-learn, {kind}"
        scores = plain.score_samples(x[new])
        evidence[name] = pv.Evidence.exact(scores, pv.Dataset(x[new]).x, measure="lebesgue")
        agreement[name] = adjusted_rand_score(cultivars, plain.predict(x))
    comparison = pv.compare_models(evidence)
    print(comparison)
    print(f"\n{'adjusted Rand index with the cultivars':>40}")
    for name, index in agreement.items():
        print(f"{name:20} {index:6.2f}")
    means = pv.latent_means(guide, x).mean
    draw(np.asarray(means), classes, cultivars, comparison, options.output / "clusters.png")
    return agreement, comparison, classes


if __name__ == "__main__":
    main()
