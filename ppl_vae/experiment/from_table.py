"""The run for a table in a file: the settings of its recipe as a configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ppl_vae.experiment.config import Config, blamed, read_config, table_changes
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.recipes import Choices, recipe

__all__ = ["recipe_config"]


def recipe_config(
    path: str | Path, changes: Iterable[tuple[str, Any]] = (), *, num_steps: int | None = None
) -> Config:
    """The run that `recipe` suggests for a table in a file, with changes.

    Args:
        path: The table, .csv or .parquet.
        changes: ("table.keyword", value), as in `read_config`.
        num_steps: As in `recipe`.

    Raises:
        ConfigError: The table cannot be read, has too few rows, or a change is wrong.

    Example:
        >>> import numpy as np, pandas as pd, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> rng = np.random.default_rng(0)
        >>> pd.DataFrame(rng.normal(size=(50, 2)), columns=["may", "june"]).to_csv(path)
        >>> config = recipe_config(path, [("data.test", 10)])
        >>> config.likelihood.name, config.data.valid, config.training.keywords["batch_size"]
        ('Columns', 5, 35)
    """
    wanted = list(changes)
    given = [("data.name", str(path)), *(each for each in wanted if each[0].startswith("data."))]
    table = read_config(changes=given).data
    if table.valid is None and table.split is None:
        table = table.model_copy(update={"valid": 0})  # the recipe takes its own
    data = load_data(table)
    options = {} if num_steps is None else {"num_steps": num_steps}
    found = blamed("data", recipe, data=data, **options)
    if "valid" not in data.splits:
        given.append(("data.valid", len(found.data.valid)))
    return read_config(changes=[*given, *table_changes(_tables(found.choices)), *wanted])


def _tables(chosen: Choices) -> dict[str, Any]:
    """The tables of a file that give the same objects as the recipe."""
    network = {
        "name": "MLP",
        "hidden_dims": list(chosen.hidden_dims),
        "activation": "SiLU",
        "dropout": chosen.dropout,
        "skip": True,
    }
    return {
        "prior": {"name": "GaussianMixture", "num_components": chosen.num_components},
        "likelihood": {"name": "Columns"},
        "posterior": {"name": "MeanFieldNormal", "latent_dim": chosen.latent_dim},
        "encoder": network,
        "decoder": network,
        "objective": {
            "name": "IWAE",
            "num_particles": chosen.num_particles,
            "gradient": "DoublyReparameterized",
        },
        "training": {
            "num_epochs": chosen.num_epochs,
            "batch_size": chosen.batch_size,
            "learning_rate": {"schedule": "Cosine", "start": chosen.rate},
            "weight_decay": chosen.weight_decay,
            "patience": chosen.patience,
            "refit": True,
            "seed": chosen.seed,
        },
    }
