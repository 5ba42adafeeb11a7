"""Data drawn from a trained run, as a picture or as an array."""

from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import plot_samples
from ppl_vae.experiment.assemble import Experiment
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.results import write_picture
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.seeding import seeded

__all__ = ["write_samples"]

SUFFIXES = (".png", ".npz", ".npy")


def write_samples(
    experiment: Experiment, output: str | Path, *, num_samples: int = 64, seed: int = 0
) -> Path:
    """Draw z from the prior and write x: draws from the likelihood in an array, its means in a
    picture.

    A model with covariates is given those of the first evaluation data.

    Args:
        experiment: From `load_run`.
        output: A file .npz (with `x`), .npy or .png.
        num_samples: How many.
        seed: Seed of the draws.

    Raises:
        ConfigError: another suffix, or fewer rows of covariates than samples.

    Example:
        >>> import tempfile
        >>> from ppl_vae.experiment import build, read_config
        >>> experiment = build(read_config(changes=[("data.name", "digits")]))
        >>> np.load(write_samples(experiment, tempfile.mkdtemp() + "/x.npy", num_samples=2)).shape
        (2, 8, 8)
    """
    path, model = Path(output), experiment.model
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: samples go to a file {', '.join(SUFFIXES)}, not "
            f"{path.suffix or 'one without suffix'}"
        )
    context = _covariates(experiment, num_samples)
    if path.suffix == ".png":
        shape = experiment.data.image_shape
        write_picture(
            path, lambda: plot_samples(model, num_samples, shape, context=context, seed=seed)
        )
        return path
    with seeded(seed):
        x = model.sample(num_samples, context).cpu().numpy()
    return write_whole(
        path, (lambda p: np.savez(p, x=x)) if path.suffix == ".npz" else (lambda p: np.save(p, x))
    )


def _covariates(experiment: Experiment, num_samples: int) -> Any:
    if experiment.data.context is None:
        return None
    data: Dataset = experiment.held_out
    if num_samples > len(data):
        raise ConfigError(
            f"{num_samples} samples need as many rows of covariates, and there are {len(data)}: "
            "draw fewer"
        )
    return data[:num_samples].context
