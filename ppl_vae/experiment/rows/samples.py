"""Samples from a trained run, as a picture or as an array."""

from pathlib import Path

import numpy as np

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
    """Draw z from the prior, and write draws of x to an array or their means to a picture.

    A model with covariates uses those of the first evaluation rows.

    Args:
        experiment: From `load_run`.
        output: A file .npz (with `x`), .npy or .png.
        num_samples: Number of samples.
        seed: Seed of the draws.

    Raises:
        ConfigError: the suffix is another one, or there are fewer rows of covariates than samples.

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
    context = None
    if experiment.data.context is not None:
        rows = experiment.held_out
        if num_samples > len(rows):
            raise ConfigError(
                f"{num_samples} samples need as many rows of covariates, and there are {len(rows)}:"
                " draw fewer"
            )
        context = rows[:num_samples].context
    if path.suffix == ".png":
        shape = experiment.data.image_shape
        write_picture(
            path, lambda: plot_samples(model, num_samples, shape, context=context, seed=seed)
        )
        return path
    with seeded(seed):
        x = model.sample(num_samples, context).cpu().numpy()
    write = {".npz": lambda p: np.savez(p, x=x), ".npy": lambda p: np.save(p, x)}
    return write_whole(path, write[path.suffix])
