"""Plots of the report: decoded latents, the spread of the weights, rate against distortion."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.axes import (
    BLUE,
    VERMILION,
    as_pictures,
    axes_grid,
    k_hat_classes,
    name_features,
    new_axes,
    show,
)
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.diagnostics.latents.rate import RateDistortion
from ppl_vae.diagnostics.plots import EMPTY, expected
from ppl_vae.evidence import Evidence
from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.programs.traces import Program

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_images", "name_features", "plot_rate_distortion", "plot_traversal", "plot_weights"]

REACH = 2.0  # standard deviations of the posterior means, to either side


def as_images(data: Dataset) -> np.ndarray:
    """Pictures in [0, 1], (N, height, width) or (N, height, width, channels); NaN is missing.

    Values outside [0, 1] are scaled, all pictures by the same factor.

    Args:
        data: A `Dataset` with an `image_shape`.

    Raises:
        ValueError: The `Dataset` has no `image_shape`.

    Example:
        >>> as_images(Dataset(torch.zeros(2, 3, 8, 8))).shape
        (2, 8, 8, 3)
    """
    if data.image_shape is None:
        raise ValueError(f"{data.name!r} has no image_shape: it cannot be drawn as pictures")
    pictures = as_pictures(data.x.cpu().numpy(), data.image_shape)
    low, high = float(np.nanmin(pictures)), float(np.nanmax(pictures))
    if 0 <= low and high <= 1:
        return pictures
    return (pictures - low) / max(high - low, np.finfo(float).tiny)


def plot_traversal(
    model: Model,
    guide: Program,
    data: Dataset,
    num: int = 11,
    *,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """E[x given z] on a grid of z: two latent dimensions, or two principal components if D > 2.

    The grid is centred on the mean of the posterior means and reaches two of their standard
    deviations to either side; with D = 1 it is a row. Covariates are those of the first row.

    Args:
        model: A `Model`.
        guide: Its guide.
        data: Pictures: a `Dataset` with an `image_shape`.
        num: Number of pictures in a row.
        seed: Seed of the draws if the posterior has no closed-form mean.
        ax: Axes to draw on; None makes a figure.

    Raises:
        ValueError: The `Dataset` has no `image_shape`.

    Example:
        >>> from ppl_vae import Guide, likelihoods, posteriors, priors
        >>> model = Model(priors.StandardNormal(3), likelihoods.Bernoulli((8, 8)))
        >>> guide = Guide(posteriors.MeanFieldNormal(3), (8, 8))
        >>> data = Dataset((torch.arange(320).reshape(5, 8, 8) % 3 == 0).float())
        >>> plot_traversal(model, guide, data, num=4).images[0].get_array().shape
        (32, 32)
    """
    data = place(as_dataset(data), model, guide)
    if data.image_shape is None:
        raise ValueError(f"{data.name!r} has no image_shape: it cannot be drawn as pictures")
    means = latent_means(guide, data, seed=seed, progress=False).mean
    points, names = _grid(means, num)
    z = torch.as_tensor(points, dtype=data.x.dtype, device=data.x.device)
    context = None if data.context is None else data.context[:1].expand(len(z), -1)
    with evaluating(model):
        values = expected(model.decode(z, context)).cpu().numpy()
    ax = ax or new_axes(6.0, 6.0 * len(points) / num**2 + 0.4)
    show(ax, as_pictures(values, data.image_shape), num, EMPTY)
    ax.set_xlabel(f"{names[0]}, {-REACH:g} to {REACH:g} sd")
    if len(names) > 1:
        ax.set_ylabel(f"{names[1]}, {REACH:g} to {-REACH:g} sd")
    return ax


def _grid(means: np.ndarray, num: int) -> tuple[np.ndarray, list[str]]:
    """Points (num or num^2, D), rows from the top down, and the names of the axes."""
    steps = np.linspace(-REACH, REACH, num)
    centre, spread = means.mean(0), means.std(0)
    if len(centre) == 1:
        return centre + steps[:, None] * spread, ["z[0]"]
    axes = np.diag(spread)
    names = ["z[0]", "z[1]"]
    if len(centre) > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2).fit(means)  # as in `plot_latent`
        axes = np.sqrt(pca.explained_variance_)[:, None] * pca.components_
        names = ["first principal component of E[z | x]", "second"]
    across, down = np.meshgrid(steps, steps[::-1])
    return centre + np.stack([across.ravel(), down.ravel()], 1) @ axes, names


def plot_weights(evidence: Evidence, largest: np.ndarray | None = None, axes: Any = None) -> Any:
    """Effective sample size against k-hat, and the share of the largest weight.

    Rows without a finite k-hat are left out of the first panel.

    Args:
        evidence: The result of `log_evidence`.
        largest: Share of the largest weight in the sum over a row, for all or some rows, (N,); None
            draws only the first panel.
        axes: One Axes, or two with `largest`.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(100, 5))
        >>> [ax.get_ylabel() for ax in plot_weights(reduce_log_weights(log_w), np.full(5, 0.1))]
        ['effective sample size', 'share of the largest weight']
    """
    columns = 1 + (largest is not None)
    axes = axes_grid(axes, (1, columns), (4.2 * columns, 3.2))
    k_hat = evidence.pareto_k
    for name, colour, inside in k_hat_classes(k_hat):
        rows = inside & np.isfinite(k_hat)
        axes[0].plot(k_hat[rows], evidence.ess[rows], "o", color=colour, markersize=3, label=name)
    axes[0].set(xlabel="Pareto k-hat", ylabel="effective sample size", yscale="log")
    axes[0].legend(loc="best")
    if largest is not None:
        axes[1].plot(np.arange(1, len(largest) + 1), np.sort(largest)[::-1], color=BLUE)
        axes[1].set(xlabel="observations, worst first", ylabel="share of the largest weight")
        axes[1].set_ylim(0, 1.02)
    return axes


def plot_rate_distortion(parts: RateDistortion, ax: "Axes | None" = None) -> "Axes":
    """Rate and distortion of every row, their means, and the line of equal ELBO through the means.

    Args:
        parts: The result of `rate_distortion`.
        ax: Axes to draw on; None makes a figure.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, figure 1.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics import rate_distortion
        >>> bed = beds.linear_gaussian(num_data=20)
        >>> plot_rate_distortion(rate_distortion(bed.model, bed.guide, bed.x)).get_xlabel()
        'rate (nats)'
    """
    rate, distortion = parts.rate.mean(), parts.distortion.mean()
    line: dict[str, Any] = {"color": "0.3", "linestyle": "--", "linewidth": 1}
    ax = ax or new_axes(5.0, 4.0)
    ax.plot(parts.rate, parts.distortion, "o", color="0.6", markersize=3, label="observations")
    ax.axline((rate, distortion), slope=-1, label=f"ELBO {-rate - distortion:.2f}", **line)
    label = f"mean: {rate:.2f}, {distortion:.2f}"
    ax.plot(rate, distortion, "D", color=VERMILION, label=label)
    ax.set(xlabel="rate (nats)", ylabel="distortion (nats)")
    ax.legend(loc="best")
    return ax
