"""A picture of denoised rows: images in lines, or the error of each column."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import (
    BLUE,
    VERMILION,
    as_pictures,
    new_axes,
    rows_downwards,
    shortened,
    show,
)
from ppl_vae.diagnostics.plots import MISSING
from ppl_vae.runtime.checks import instance_of, whole_number
from ppl_vae.tasks.denoising.clean_rows import Denoised

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_denoised"]

MOST_FEATURES = 20


def plot_denoised(found: Denoised, clean: Any, num: int = 8, ax: "Axes | None" = None) -> "Axes":
    """Denoised rows beside clean ones.

    Images are in lines: clean, noisy, posterior mean, and posterior sd, white where it is largest.
    Of other rows the root mean squared error of each noisy feature is drawn, before and after, in
    standard deviations of the clean feature; at most the first twenty.

    Args:
        found: What `denoise` returned.
        clean: The clean rows, (N, *event), in the same order.
        num: Number of images.
        ax: Axes to draw on; None makes a figure.

    Raises:
        ValueError: The clean rows have another shape, labels or columns.

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> from ppl_vae.guide import Guide
        >>> from ppl_vae.model import Model
        >>> from ppl_vae.tasks.denoising import GaussianNoise, denoise
        >>> model = Model(priors.StandardNormal(1), likelihoods.Gaussian(3))
        >>> guide = Guide(posteriors.MeanFieldNormal(1), 3)
        >>> x = torch.arange(6.0).reshape(2, 3)
        >>> found = denoise(model, guide, x + 0.1, GaussianNoise(0.1), num_imputations=5)
        >>> plot_denoised(found, x).get_xlabel()
        'root mean squared error, in sds of the feature'
    """
    instance_of(found, "found", Denoised)
    whole_number(num, "num")
    truth = found.matched(clean)
    if found.posterior.data.image_shape is None:
        return _errors(found, truth, ax)
    return _images(found, truth, num, ax)


def _images(found: Denoised, truth: np.ndarray, num: int, ax: "Axes | None") -> "Axes":
    """Four lines of images, all on the scale of the clean ones."""
    noisy = found.posterior.data
    shape: Any = noisy.image_shape
    low, high = np.nanmin(truth), np.nanmax(truth)
    num = min(num, len(noisy))
    sd = found.sd[:num]
    lines = {
        "clean": truth[:num],
        "noisy": noisy.x[:num].cpu().numpy().clip(low, high),
        "mean": found.mean[:num],
        "sd": low + (high - low) * sd / max(np.nanmax(sd), np.finfo(float).tiny),
    }
    pictures = as_pictures(np.concatenate(list(lines.values())), shape)
    height, width = pictures.shape[1:3]
    ax = ax or new_axes(0.8 * num + 0.6, 0.8 * len(lines) * height / width)
    show(ax, pictures, num, MISSING)
    ax.set_yticks([(line + 0.5) * height - 0.5 for line in range(len(lines))], list(lines))
    ax.tick_params(axis="y", length=0)
    return ax


def _errors(found: Denoised, truth: np.ndarray, ax: "Axes | None") -> "Axes":
    """Root mean squared errors of the features before and after, those that had noise."""
    noisy = found.posterior.data
    y = noisy.x.double().cpu().numpy()
    shown = np.flatnonzero(np.nansum(abs(y - truth), axis=0))[:MOST_FEATURES]
    sd = np.nanstd(truth[:, shown], axis=0)
    before, after = (
        np.sqrt(np.nanmean((values - truth)[:, shown] ** 2, axis=0)) / sd
        for values in (y, found.mean)
    )
    names = [shortened(noisy.coords[noisy.dims[1]][place]) for place in shown]
    ax = ax or new_axes(5.0, 0.8 + 0.3 * len(shown))
    rows_downwards(ax, names)
    ax.plot(before, range(len(shown)), "o", color=VERMILION, label="noisy")
    ax.plot(after, range(len(shown)), "o", color=BLUE, label="posterior mean")
    ax.set_xlim(left=0)
    ax.set_xlabel("root mean squared error, in sds of the feature")
    ax.legend(loc="best")
    return ax
