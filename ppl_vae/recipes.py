"""Settings that suit a table, chosen from its size and its columns, and printed as code."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.splits import random_rows
from ppl_vae.families import likelihoods, networks, posteriors, priors
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.objectives import IWAE, DoublyReparameterized
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import FitResult, Training, fit
from ppl_vae.training.schedules import Cosine

__all__ = ["Recipe", "recipe"]

FEWEST_ROWS = 20
HELD_OUT = 8  # one row in eight of the training rows is for early stopping
MOST_LATENTS = 16
NUM_COMPONENTS = 8
HIDDEN = (64, 64)
DROPOUT = 0.2
NUM_PARTICLES = 10
RATE = 3e-3
WEIGHT_DECAY = 1e-2
FEWEST_EPOCHS = 20

CODE = """\
import torch
import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.training.schedules import Cosine

with pv.seeded({seed}):
    encoder = networks.MLP(
        {num_inputs}, {hidden}, activation=torch.nn.SiLU, dropout={dropout}, skip=True
    )
    guide = pv.Guide(
        posteriors.MeanFieldNormal({latent_dim}),
        data.event_shape,
        encoder,
        missing={missing},
        start=data,
    )
    decoder = networks.MLP(
        {decoder_dim}, {hidden}, activation=torch.nn.SiLU, dropout={dropout}, skip=True
    )
    prior = priors.GaussianMixture({latent_dim}, num_components={num_components})
    model = pv.Model(prior, likelihoods.Columns.of(data), decoder, start=data)
objective = objectives.IWAE({num_particles}, gradient=objectives.DoublyReparameterized())
training = pv.Training(
    num_epochs={num_epochs},
    batch_size={batch_size},
    learning_rate=Cosine({rate}),
    weight_decay={weight_decay},
    patience={patience},
    seed={seed},
)
result = pv.fit(model, guide, data, objective=objective, training=training)"""


@dataclass(frozen=True)
class Recipe:
    """A model, a guide, an objective and settings of training that suit a table.

    Args:
        data: The table, with training and validation rows.
        model: The model; `model.likelihood` shows the likelihood of each column.
        guide: The guide.
        objective: What is maximised.
        training: Settings of the training.
        code: The lines that make all of these; printing the recipe shows them.

    Example:
        >>> found = recipe(np.random.default_rng(0).normal(size=(100, 3)))
        >>> print(str(found).splitlines()[0])
        import torch
    """

    data: Dataset
    model: Model
    guide: Guide
    objective: IWAE
    training: Training
    code: str

    def fit(self) -> FitResult:
        """Train the model and the guide."""
        return fit(
            self.model, self.guide, self.data, objective=self.objective, training=self.training
        )

    def __str__(self) -> str:
        return self.code


def recipe(
    data: Any,
    *,
    latent_dim: int | None = None,
    num_steps: int = 3000,
    seed: int = 0,
    progress: bool = True,
) -> Recipe:
    """Settings that suit a table; where it has no validation rows, an eighth of the training rows.

    The prior is a mixture of normals. Each column has a likelihood of its own
    (`likelihoods.Columns.of`), real ones heavy tails and a scale that depends on z. Encoder and
    decoder have a linear path beside two hidden layers, and dropout. The IWAE bound of ten
    particles is maximised by AdamW with a rate that falls along a cosine; the weights of the epoch
    with the best bound of the validation rows are kept. These were chosen on small tables;
    docs/results.md compares them with mixtures and other densities.

    Args:
        data: A `Dataset` of a table, or what makes one (a frame, an array).
        latent_dim: Number of latent dimensions; None is the number of columns, at most 16.
        num_steps: Number of gradient steps, in as many epochs as they make, and at least 20.
        seed: Seed of the validation rows, the starting weights and the training.
        progress: Whether training shows a bar.

    Raises:
        ValueError: The rows are no table (images, rows in a file), or fewer than 20 are for
            training.

    Example:
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"x": rng.normal(size=90), "n": rng.poisson(3.0, size=90)})
        >>> found = recipe(frame)
        >>> found.model.likelihood
        Columns(
          x  StudentT          real
          n  NegativeBinomial  count
        )
        >>> found.training.batch_size
        64
    """
    data = _with_validation(as_dataset(data), seed)
    num_columns = len(data.kinds)
    num_train = len(data.train)
    if latent_dim is None:
        latent_dim = min(MOST_LATENTS, max(2, num_columns))
    latent_dim = whole_number(latent_dim, "latent_dim")
    num_steps = whole_number(num_steps, "num_steps")
    batch_size = min(num_train, 64 if num_train < 6_400 else 256)
    num_epochs = max(FEWEST_EPOCHS, round(num_steps * batch_size / num_train))
    values = {
        "seed": seed,
        "latent_dim": latent_dim,
        "hidden": HIDDEN,
        "dropout": DROPOUT,
        "missing": data.has_missing,
        "num_inputs": _num_inputs(data),
        "decoder_dim": latent_dim + _num_covariates(data),
        "num_components": NUM_COMPONENTS,
        "num_particles": NUM_PARTICLES,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "rate": RATE,
        "weight_decay": WEIGHT_DECAY,
        "patience": max(FEWEST_EPOCHS, num_epochs // 4),
    }
    with seeded(seed):
        guide = Guide(
            posteriors.MeanFieldNormal(latent_dim),
            data.event_shape,
            _network(values["num_inputs"]),
            missing=data.has_missing,
            start=data,
        )
        decoder = _network(values["decoder_dim"])
        prior = priors.GaussianMixture(latent_dim, num_components=NUM_COMPONENTS)
        model = Model(prior, likelihoods.Columns.of(data), decoder, start=data)
    training = Training(
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=Cosine(RATE),
        weight_decay=WEIGHT_DECAY,
        patience=values["patience"],
        seed=seed,
        progress=progress,
    )
    objective = IWAE(NUM_PARTICLES, gradient=DoublyReparameterized())
    return Recipe(data, model, guide, objective, training, CODE.format(**values))


def _with_validation(data: Dataset, seed: int) -> Dataset:
    """The table with validation rows taken from its training rows, unless it has some."""
    rows = data.splits.get("train", np.arange(len(data)))
    if len(rows) < FEWEST_ROWS:
        raise ValueError(
            f"a recipe needs {FEWEST_ROWS} training rows or more; there are {len(rows)}"
        )
    if "valid" in data.splits:
        return data
    train, valid = random_rows(rows, max(1, len(rows) // HELD_OUT), seed)
    return data.with_splits({**data.splits, "train": train, "valid": valid})


def _num_inputs(data: Dataset) -> int:
    """Number of inputs of the encoder: numbers, indicators of levels and of what is observed."""
    names = list(map(str, data.coords[data.dims[1]]))
    sizes = [len(data.levels.get(name, (name,))) for name in names]
    return sum(sizes) + len(names) * data.has_missing + _num_covariates(data)


def _num_covariates(data: Dataset) -> int:
    return 0 if data.context is None else data.context.shape[1]


def _network(num_inputs: int) -> networks.MLP:
    return networks.MLP(num_inputs, HIDDEN, activation=torch.nn.SiLU, dropout=DROPOUT, skip=True)
