"""Test error on MNIST with 100 labels, 10 of each class: M2, M1+M2 and a linear SVM on the same
labels, a table of docs/results.md.

    PPL_VAE_DATA=FOLDER python tests/benchmarks/semi_supervised.py FOLDER [--epochs 60] [--draws 3]
    PPL_VAE_DATA=FOLDER python tests/benchmarks/semi_supervised.py FOLDER --only M1+M2 --epochs 200

M2: 784-500-50 and back with softplus units, Bernoulli pixels of statically binarised digits, 50,000
training images, of which 100 have a label and are repeated 50 times at weight 1/50; label weight
50, that is 0.1 N over all, unless --label-weight gives another. M1: the same networks without
classes, 60 epochs. M1+M2: M2 with Gaussian features drawn from M1's posterior, 50 in all, 300
units, a new draw for each repeat; for the test images their means. The SVM is given the binarised
pixels of the 100 images, its C chosen by cross-validation among them. FOLDER holds what is done: an
interrupted run continues where it was, and so does one of more epochs; FOLDER/results.json has the
errors in per cent. Another label weight needs another folder."""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors

NUM_CLASSES = 10
PER_CLASS = 10
REPEATS = 50
M1_EPOCHS = 60
LATENT_DIM = 50


Draws = Callable[[Any], np.ndarray]  # observations of these training rows
Inputs = tuple[Draws, np.ndarray]  # of the training rows, and the observations of the test rows


class Study:
    """The digits, and the folder of what is done."""

    def __init__(self, folder: Path, num_epochs: int, label_weight: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.num_epochs = num_epochs
        self.label_weight = label_weight
        data = pv.load("mnist", binarize="static", data_dir=os.environ["PPL_VAE_DATA"]).flatten()
        self.train = data.train[:50_000].in_memory()
        self.test = data.test.in_memory()
        self.results = folder / "results.json"

    def done(self) -> dict[str, Any]:
        return json.loads(self.results.read_text()) if self.results.exists() else {}

    def note(self, name: str, found: dict[str, Any]) -> None:
        self.results.write_text(json.dumps(self.done() | {name: found}, indent=1) + "\n")
        print(name, found, flush=True)

    def labelled(self, draw: int) -> np.ndarray:
        """The rows with a label: ten of each class."""
        generator = np.random.default_rng(draw)
        labels = np.asarray(self.train.labels)
        rows = [
            generator.choice(np.flatnonzero(labels == c), PER_CLASS, replace=False)
            for c in range(NUM_CLASSES)
        ]
        return np.concatenate(rows)

    def has(self, name: str) -> bool:
        return self.done().get(name, {"epochs": 0}).get("epochs", math.inf) >= self.num_epochs

    def training(self, name: str, num_epochs: int) -> pv.Training:
        return pv.Training(
            num_epochs=num_epochs,
            batch_size=200,
            learning_rate=1e-3,
            seed=0,
            checkpoint=self.folder / f"{name}.pt",
            progress=False,
        )


def mlp(size: int, width: int) -> nn.Module:
    return networks.MLP(size, (width,), activation=nn.Softplus)


def with_labels(draws: Draws, labels: np.ndarray, known: np.ndarray) -> pv.Dataset:
    """All rows without their class, and the known ones with it, repeated."""
    x = draws(slice(None))
    unknown = np.column_stack([x, np.full(len(x), np.nan)])
    rows = [np.column_stack([draws(known), labels[known]]) for _ in range(REPEATS)]
    weights = np.concatenate([np.ones(len(x)), np.full(REPEATS * len(known), 1 / REPEATS)])
    return pv.Dataset(np.concatenate([unknown, *rows]), weights=weights)


def m2(study: Study, name: str, inputs: Inputs, draw: int, likelihood: Any) -> None:
    """Train M2 and note its error on the test rows."""
    draws, test = inputs
    size = likelihood.event_shape.numel()
    width = 500 if size == 784 else 300
    labels = np.asarray(study.train.labels, dtype=float)
    with pv.seeded(draw):
        data = with_labels(draws, labels, study.labelled(draw))
        decoder = mlp(LATENT_DIM + NUM_CLASSES, width)
        prior = priors.StandardNormal(LATENT_DIM)
        model = pv.SemiSupervisedModel(NUM_CLASSES, prior, likelihood, decoder)
        nets = mlp(size + NUM_CLASSES, width), mlp(size, width)
        posterior = posteriors.MeanFieldNormal(LATENT_DIM)
        guide = pv.SemiSupervisedGuide(NUM_CLASSES, posterior, size, *nets)
    objective = objectives.EnumeratedELBO(label_weight=study.label_weight)
    start = time.perf_counter()
    training = study.training(f"{name}_{draw}", study.num_epochs)
    pv.fit(model, guide, data, objective=objective, training=training)
    seconds = time.perf_counter() - start
    rows = torch.tensor(np.column_stack([test, np.full(len(test), np.nan)]), dtype=torch.float32)
    with torch.no_grad():
        guessed = guide.classify(rows).logits.argmax(-1).numpy()
    found = {"error": round(100 * float((guessed != np.asarray(study.test.labels)).mean()), 2)}
    found |= {"epochs": study.num_epochs, "label_weight": study.label_weight, "seconds": seconds}
    study.note(f"{name}, draw {draw}", found)


def pixels(study: Study) -> Inputs:
    """The images themselves."""
    x = study.train.x.numpy()
    return lambda rows: x[rows], study.test.x.numpy()


def features(study: Study) -> Inputs:
    """Draws from M1's posterior for the training rows, its means for the test rows."""
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(LATENT_DIM), 784, mlp(784, 500))
        prior = priors.StandardNormal(LATENT_DIM)
        model = pv.Model(prior, likelihoods.Bernoulli(784), mlp(LATENT_DIM, 500))
    objective = objectives.MeanFieldELBO()
    rows = pv.Dataset(study.train.x)
    pv.fit(model, guide, rows, objective=objective, training=study.training("m1", M1_EPOCHS))
    with torch.no_grad():
        found = guide.encode(study.train.x)
        test = guide.encode(study.test.x).mean.numpy()
    mean, sd = found.mean, found.stddev
    return lambda rows: torch.normal(mean[rows], sd[rows]).numpy(), test


def svm(study: Study, draw: int) -> None:
    rows = study.labelled(draw)
    labels = np.asarray(study.train.labels)
    search = GridSearchCV(LinearSVC(), {"C": [1e-4, 1e-3, 1e-2, 0.1, 1.0]}, cv=5)
    search.fit(study.train.x[rows].numpy(), labels[rows])
    error = 1 - search.score(study.test.x.numpy(), np.asarray(study.test.labels))
    study.note(f"SVM, draw {draw}", {"error": 100 * float(error)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--label-weight", type=float, default=50.0)
    parser.add_argument("--only", choices=["SVM", "M1+M2", "M2"])
    options = parser.parse_args()
    study = Study(options.folder, options.epochs, options.label_weight)
    codes: Inputs | None = None
    for method in [options.only] if options.only else ["SVM", "M1+M2", "M2"]:
        for draw in range(options.draws):
            if study.has(f"{method}, draw {draw}"):
                continue
            if method == "SVM":
                svm(study, draw)
            elif method == "M2":
                m2(study, "M2", pixels(study), draw, likelihoods.Bernoulli(784))
            else:
                codes = codes or features(study)
                m2(study, "M1+M2", codes, draw, likelihoods.Gaussian(LATENT_DIM))


if __name__ == "__main__":
    main()
