"""Settings that suit a table, chosen from its size and its columns, and printed as code."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from ppl_vae.data import Dataset, as_dataset, read
from ppl_vae.data.splits import random_rows
from ppl_vae.families import likelihoods, networks, posteriors, priors
from ppl_vae.families.likelihoods import Likelihood
from ppl_vae.families.posteriors import Posterior
from ppl_vae.guide import Guide, input_shape
from ppl_vae.model import Model
from ppl_vae.objectives import IWAE, DoublyReparameterized
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import FitResult, Training, fit
from ppl_vae.training.schedules import Cosine

__all__ = ["Choices", "Recipe", "model_and_guide", "recipe"]

FEWEST_ROWS = 20
HELD_OUT = 8  # one row in eight of the training rows is for early stopping
MOST_LATENTS = 16
FEWEST_EPOCHS = 20
MANY_ROWS = 100  # for each column: networks then need little dropout, and the prior more components

CODE = """\
import torch
import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.training.schedules import Cosine

with pv.seeded({seed}):
    encoder = networks.MLP(
        {num_inputs}, {hidden_dims}, activation=torch.nn.SiLU, dropout={dropout}, skip=True
    )
    guide = pv.Guide(
        posteriors.MeanFieldNormal({latent_dim}),
        data.event_shape,
        encoder,
        missing={missing},
        start=data,
    )
    decoder = networks.MLP(
        {decoder_dim}, {hidden_dims}, activation=torch.nn.SiLU, dropout={dropout}, skip=True
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
    refit=True,
    seed={seed},
)
result = pv.fit(model, guide, data, objective=objective, training=training)"""


@dataclass(frozen=True)
class Choices:
    """The numbers of a recipe.

    Args:
        latent_dim: Number of latent dimensions D.
        num_epochs: Largest number of epochs.
        batch_size: Rows per step.
        patience: Epochs without a better bound of the validation rows after which training ends;
            it is then repeated on all rows, up to the best epoch.
        seed: Seed of the validation rows, the starting weights and the training.
        hidden_dims: Widths of the hidden layers of encoder and decoder.
        dropout: Share of hidden units dropped while training.
        num_components: Components of the prior, a mixture of normals.
        num_particles: Particles K of the IWAE bound.
        rate: Learning rate at the start of the cosine.
        weight_decay: Weight decay of AdamW.

    Example:
        >>> Choices(latent_dim=2, num_epochs=100, batch_size=64, patience=25).hidden_dims
        (64, 64)
    """

    latent_dim: int
    num_epochs: int
    batch_size: int
    patience: int
    seed: int = 0
    hidden_dims: tuple[int, ...] = (64, 64)
    dropout: float = 0.2
    num_components: int = 8
    num_particles: int = 10
    rate: float = 3e-3
    weight_decay: float = 1e-2

    @classmethod
    def of(
        cls, data: Dataset, latent_dim: int | None = None, num_steps: int = 3000, seed: int = 0
    ) -> Self:
        """Numbers that suit a table with these training rows and columns; see `recipe`."""
        num_train = len(data.train)
        if latent_dim is None:
            latent_dim = min(MOST_LATENTS, max(2, len(data.kinds)))
        num_steps = whole_number(num_steps, "num_steps")
        batch_size = min(num_train, 64 if num_train < 6_400 else 256)
        num_epochs = max(FEWEST_EPOCHS, round(num_steps * batch_size / num_train))
        regularised: dict[str, Any] = {}
        if num_train >= MANY_ROWS * len(data.kinds):
            regularised = {"dropout": 0.05, "num_components": 32}
        return cls(
            latent_dim=whole_number(latent_dim, "latent_dim"),
            num_epochs=num_epochs,
            batch_size=batch_size,
            patience=max(FEWEST_EPOCHS, num_epochs // 2),
            seed=seed,
            **regularised,
        )

    def objective(self) -> IWAE:
        """What is maximised."""
        return IWAE(self.num_particles, gradient=DoublyReparameterized())

    def training(self, *, progress: bool = True) -> Training:
        """Settings of the training."""
        return Training(
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            learning_rate=Cosine(self.rate),
            weight_decay=self.weight_decay,
            patience=self.patience,
            refit=True,
            seed=self.seed,
            progress=progress,
        )


@dataclass(frozen=True)
class Recipe(Shown):
    """A model, a guide, an objective and settings of training that suit a table.

    Args:
        data: The table, with training and validation rows.
        model: The model; `model.likelihood` shows the likelihood of each column.
        guide: The guide.
        objective: What is maximised.
        training: Settings of the training.
        choices: The numbers behind these.
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
    choices: Choices
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
    particles is maximised by AdamW with a rate that falls along a cosine. The validation rows show
    the best epoch; training is then repeated on these rows too, up to that epoch. With 100 training
    rows for each column or more there is less dropout, and the prior has more components. These
    were chosen on small tables; docs/results.md compares them with mixtures and other densities.

    Args:
        data: A `Dataset` of a table, or what makes one: a frame, an array, the path of a file.
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
    data = read(data) if isinstance(data, str | Path) else as_dataset(data)
    data = with_validation(data, seed)
    chosen = Choices.of(data, latent_dim, num_steps, seed)
    model, guide = model_and_guide(data, chosen)
    sizes: dict[str, Any] = {
        "num_inputs": input_shape(data).numel(),
        "decoder_dim": chosen.latent_dim + data.context_dim,
        "missing": data.has_missing,
    }
    return Recipe(
        data=data,
        model=model,
        guide=guide,
        objective=chosen.objective(),
        training=chosen.training(progress=progress),
        choices=chosen,
        code=CODE.format(**asdict(chosen), **sizes),
    )


def model_and_guide(
    data: Dataset,
    chosen: Choices,
    *,
    prior: nn.Module | None = None,
    likelihood: Likelihood | None = None,
    posterior: Posterior | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> tuple[Model, Guide]:
    """The model and the guide of a recipe, with other parts where these are given.

    Args:
        data: The table.
        chosen: The numbers of the recipe.
        prior: p(z); None is a mixture of normals.
        likelihood: p(x given z); None has a family for each column.
        posterior: The family of q(z given x); None is independent normals.
        encoder: From x to features; None is a network with these numbers.
        decoder: From z to features; None is a network with these numbers.

    Example:
        >>> data = Dataset(np.random.default_rng(0).normal(size=(20, 3)))
        >>> chosen = Choices.of(data, latent_dim=2)
        >>> model, guide = model_and_guide(data, chosen, prior=priors.StandardNormal(2))
        >>> model.latent_dim, type(model.prior).__name__
        (2, 'StandardNormal')
    """
    latent_dim = chosen.latent_dim
    with seeded(chosen.seed):
        posterior = posterior or posteriors.MeanFieldNormal(latent_dim)
        if encoder is None:  # an empty Sequential, the identity, is false
            encoder = _network(input_shape(data).numel(), chosen)
        missing = data.has_missing
        guide = Guide(posterior, data.event_shape, encoder, missing=missing, start=data)
        prior = prior or priors.GaussianMixture(latent_dim, num_components=chosen.num_components)
        if decoder is None:
            decoder = _network(latent_dim + data.context_dim, chosen)
        likelihood = likelihood or likelihoods.Columns.of(data)
        model = Model(prior, likelihood, decoder, start=data)
    return model, guide


def with_validation(data: Dataset, seed: int) -> Dataset:
    """The table with validation rows taken from its training rows, unless it has some."""
    rows = data.splits.get("train", np.arange(len(data)))
    if len(rows) < FEWEST_ROWS:
        raise ValueError(
            f"a recipe needs {FEWEST_ROWS} training rows or more; there are {len(rows)}: plain "
            "models such as a normal distribution are for so few (`pv.diagnostics.baselines`)"
        )
    if "valid" in data.splits:
        return data
    train, valid = random_rows(rows, max(1, len(rows) // HELD_OUT), seed)
    return data.with_splits({**data.splits, "train": train, "valid": valid})


def _network(num_inputs: int, chosen: Choices) -> networks.MLP:
    return networks.MLP(
        num_inputs,
        chosen.hidden_dims,
        activation=torch.nn.SiLU,
        dropout=chosen.dropout,
        skip=True,
    )
