"""How many bits rows take: by the model, by general compressors, and by its bound."""

import bz2
import gzip
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.axes import BLUE, new_axes, rows_downwards
from ppl_vae.guide import Guide
from ppl_vae.importance import log_weights
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference
from ppl_vae.tasks.compression.bits_back import compress
from ppl_vae.tasks.compression.compressed import CompressedRows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bits_per_row", "plot_bits"]

NUM_DRAWS = 100  # of the bound of each row
OURS = "bits-back"


def bits_per_row(
    model: Model, guide: Guide, data: Dataset | Any, *, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Bits of a row by `compress`, by gzip and bz2, and by the bound, in the order of a table.

    General compressors get the rows packed: a bit for each entry if there are two values, else the
    number of the value in one, two or four bytes.

    Args:
        model: As in `compress`.
        guide: As in `compress`.
        data: As in `compress`.
        seed: Seed of the bound's draws and of the initial bits.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        "-ELBO / log 2", "bits-back" (without the initial bits), "bits-back, whole file", "bz2",
        "gzip", "packed".

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(8))
        >>> guide = Guide(posteriors.MeanFieldNormal(2), 8)
        >>> bits_per_row(model, guide, torch.eye(8))["packed"]
        8.0
    """
    rows = Inference(model, guide, data).data.in_memory()
    file = compress(model, guide, rows, seed=seed, progress=progress)
    log_w = log_weights(model, guide, rows, num_particles=NUM_DRAWS, seed=seed)
    packed = _packed(rows.x.cpu().numpy())
    sizes = {
        f"{OURS}, whole file": len(file),
        "bz2": len(bz2.compress(packed)),
        "gzip": len(gzip.compress(packed)),
        "packed": len(packed),
    }
    return {
        "-ELBO / log 2": -float(log_w.mean()) / math.log(2),
        OURS: CompressedRows.from_bytes(file).net_bits_per_row,
    } | {name: 8 * size / len(rows) for name, size in sizes.items()}


def _packed(x: np.ndarray) -> bytes:
    """The numbers of the values of x in few bytes."""
    values, codes = np.unique(x, return_inverse=True)
    if len(values) <= 2:
        return np.packbits(codes.astype(bool)).tobytes()
    return codes.astype(np.min_scalar_type(len(values) - 1)).tobytes()


def plot_bits(bits: Mapping[str, float], ax: "Axes | None" = None) -> "Axes":
    """Bits of a row, a bar for each way to write it; those of `compress` are coloured.

    Args:
        bits: What `bits_per_row` returned, or others by name.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> plot_bits({"bits-back": 35.3, "gzip": 42.7}).get_xlabel()
        'bits per row (fewer are better)'
    """
    ax = ax or new_axes(6.0, 0.8 + 0.3 * len(bits))
    rows_downwards(ax, list(bits))
    ax.grid(visible=False)
    colours = [BLUE if name.startswith(OURS) else "0.75" for name in bits]
    bars = ax.barh(range(len(bits)), list(bits.values()), color=colours)
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.set_xlabel("bits per row (fewer are better)")
    ax.margins(x=0.12)
    return ax
