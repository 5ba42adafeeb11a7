"""Digits with five labels of each class: M2, its class probabilities, and whether to believe them.

    python examples/semi_supervised.py --output runs/semi_supervised

Of 1,300 digits 50 have a label; of the others the class is summed out. The model's p(class given x)
and the encoder's are compared with the truth on 497 digits, with a linear SVM trained on the same
50, and their calibration is drawn.

--quick trains for fewer epochs.
"""

# %% Digits, of which few have a label

import argparse
from pathlib import Path

import numpy as np
from sklearn.svm import LinearSVC

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.diagnostics import plot_reliability

NUM_CLASSES, PER_CLASS = 10, 5
NUM_TRAIN = 1300
LATENT_DIM = 8
NUM_EPOCHS, QUICK_EPOCHS = 30, 6
REPEATS, LABEL_WEIGHT = 10, 20.0


def digits(seed=0):
    """Pixels and classes, for training and for testing, and which training rows have a label."""
    data = pv.load("digits", binarize="static").flatten()
    x, labels = data.x.numpy(), np.asarray(data.labels)
    generator = np.random.default_rng(seed)
    train, test = np.split(generator.permutation(len(x)), [NUM_TRAIN])
    known = [np.flatnonzero(labels[train] == c)[:PER_CLASS] for c in range(NUM_CLASSES)]
    return (x[train], labels[train]), (x[test], labels[test]), np.concatenate(known)


# %% M2: the class is the last column, NaN where it is not known


def with_classes(x, labels=None):
    """The rows with their class, or with NaN."""
    column = np.full(len(x), np.nan) if labels is None else labels
    return np.column_stack([x, column])


def train_m2(x, labels, known, num_epochs):
    """The trained model and guide; a row with a label stands in several batches, at less weight."""
    rows = [with_classes(x)] + [with_classes(x[known], labels[known])] * REPEATS
    weights = np.repeat([1, 1 / REPEATS], [len(x), REPEATS * len(known)])
    data = pv.Dataset(np.concatenate(rows), weights=weights)
    size = x.shape[1]
    with pv.seeded(0):
        model = pv.SemiSupervisedModel(
            NUM_CLASSES,
            priors.StandardNormal(LATENT_DIM),
            likelihoods.Bernoulli(size),
            networks.MLP(LATENT_DIM + NUM_CLASSES, (128,)),
        )
        guide = pv.SemiSupervisedGuide(
            NUM_CLASSES,
            posteriors.MeanFieldNormal(LATENT_DIM),
            size,
            encoder=networks.MLP(size + NUM_CLASSES, (128,)),
            classifier=networks.MLP(size, (128,)),
        )
    objective = objectives.EnumeratedELBO(label_weight=LABEL_WEIGHT)
    training = pv.Training(num_epochs, batch_size=100, learning_rate=2e-3, seed=0, progress=False)
    pv.fit(model, guide, data, objective=objective, training=training)
    return model, guide


# %% Everything, with a picture


def draw(found, labels, calibration, file):
    """The calibration, and digits with the classes that the model thinks possible."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
    plot_reliability(calibration.reliability, axes[0])
    axes[0].set_title(f"calibration error {calibration.error:.3f} ± {calibration.se:.3f}")
    axes[0].set(xlabel="probability of the most probable class", ylabel="share that is right")
    axes[0].set(ylim=(-0.03, 1.03))
    table = np.zeros((NUM_CLASSES, NUM_CLASSES))
    np.add.at(table, labels, found.probabilities)
    shares = table / table.sum(1, keepdims=True)
    image = axes[1].imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes[1].set(xlabel="class", ylabel="true class", title="mean p(class given x)")
    axes[1].set_xticks(range(NUM_CLASSES))
    axes[1].set_yticks(range(NUM_CLASSES))
    figure.colorbar(image, ax=axes[1], shrink=0.8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/semi_supervised"))
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    (x, labels), (new, truth), known = digits()
    num_epochs = QUICK_EPOCHS if options.quick else NUM_EPOCHS
    model, guide = train_m2(x, labels, known, num_epochs)
    found = pv.class_probabilities(model, guide, with_classes(new), num_particles=50)
    calibration = found.calibration(truth)
    plain = LinearSVC(C=0.01).fit(x[known], labels[known])
    errors = {
        "M2, p(class | x)": found.error(truth)[0],
        "M2, q(class | x)": float((found.by_guide.argmax(1) != truth).mean()),
        "linear SVM": float(1 - plain.score(new, truth)),
    }
    for name, error in errors.items():
        print(f"{name:18} {100 * error:5.1f} % of {len(new)} new digits wrong")
    print(calibration)
    evidence = pv.log_evidence(model, guide, with_classes(new[:100]), num_particles=500)
    print(evidence.summary())
    draw(found, truth, calibration, options.output / "semi_supervised.png")
    return errors, calibration, evidence


if __name__ == "__main__":
    main()
