"""Pictures that a report shows beside the others: what z decodes to, how weights spread, rate
against distortion.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.axes import (
    BLUE,
    VERMILION,
    as_pictures,
    k_hat_classes,
    name_features,
    new_axes,
    show,
)
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.diagnostics.latents.rate import RateDistortion
from ppl_vae.evidence import Evidence
from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.programs.traces import Program

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_images", "name_features", "plot_rate_distortion", "plot_traversal", "plot_weights"]

REACH = 2.0  # standard deviations of the posterior means, to either side
EMPTY = "white"


def as_images(data: Dataset) -> np.ndarray:
    """Data as pictures in [0, 1], (N, height, width) or (N, height, width, channels); NaN is
    missing.

    Values outside [0, 1] are scaled, all data alike.

    Args:
        data: With an `image_shape`.

    Raises:
        ValueError: the data are no pictures.

    Example:
        >>> as_images(Dataset(torch.zeros(2, 3, 8, 8))).shape
        (2, 8, 8, 3)
    """
    if data.image_shape is None:
        raise ValueError(f"{data.name!r} has no image_shape: its data cannot be drawn as pictures")
    pictures = as_pictures(data.x.cpu().numpy(), data.image_shape)
    low, high = float(np.nanmin(pictures)), float(np.nanmax(pictures))
    return (
        pictures
        if 0 <= low and high <= 1
        else (pictures - low) / max(high - low, np.finfo(float).tiny)
    )


def plot_traversal(
    model: Model,
    guide: Program,
    data: Dataset,
    num: int = 11,
    *,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """E[x given z] on a grid of z: along both latent dimensions, or the first two principal
    components if D > 2.

    The grid is centred on the mean of the posterior means and reaches two of their standard
    deviations to either side; a row for D = 1. Covariates are those of the first datum.

    Args:
        model: A `Model`.
        guide: Its guide.
        data: Pictures: a `Dataset` with an `image_shape`.
        num: Pictures in a row.
        seed: Seed of the draws where the posterior has no closed-form mean.
        ax: Where to draw.

    Example:
        >>> from ppl_vae import Guide, likelihoods, posteriors, priors
        >>> guide = Guide(posteriors.MeanFieldNormal(3), (8, 8))
        >>> data = Dataset((torch.arange(320).reshape(5, 8, 8) % 3 == 0).float())
        >>> ax = plot_traversal(Model(priors.StandardNormal(3), likelihoods.Bernoulli((8, 8))), guide, data, num=4)
        >>> ax.images[0].get_array().shape
        (32, 32)
    """
    data = place(as_dataset(data), model, guide)
    means = latent_means(guide, data, seed=seed, progress=False).mean
    points, names = _grid(means, num)
    z = torch.as_tensor(points, dtype=data.x.dtype, device=data.x.device)
    context = None if data.context is None else data.context[:1].expand(len(z), -1)
    with evaluating(model):
        values = _expected(model.decode(z, context)).cpu().numpy()
    if data.image_shape is None:
        raise ValueError(
            f"{data.name!r} has no image_shape: what z decodes to cannot be drawn as pictures"
        )
    ax = ax or new_axes(6.0, 6.0 * len(points) / num**2 + 0.4)
    show(ax, as_pictures(values, data.image_shape), num, EMPTY)
    ax.set_xlabel(f"{names[0]}, {-REACH:g} to {REACH:g} sd")
    ax.set_ylabel(f"{names[1]}, {REACH:g} to {-REACH:g} sd" if len(points) > num else "")
    return ax


def _grid(means: np.ndarray, num: int) -> tuple[np.ndarray, list[str]]:
    """Points (num or num^2, D), rows from the top down, and what the axes are."""
    steps, centre, dim = np.linspace(-REACH, REACH, num), means.mean(0), means.shape[1]
    if dim == 1:
        return centre + steps[:, None] * means.std(0), ["z[0]", ""]
    if dim == 2:
        axes, names = np.diag(means.std(0)), ["z[0]", "z[1]"]
    else:
        from sklearn.decomposition import PCA

        pca = PCA(2).fit(means)  # as in `plot_latent`
        axes = np.sqrt(pca.explained_variance_)[:, None] * pca.components_
        names = ["first principal component of E[z | x]", "second"]
    across, down = np.meshgrid(steps, steps[::-1])
    return centre + np.stack([across.ravel(), down.ravel()], 1) @ axes, names


def _expected(likelihood: Any) -> torch.Tensor:
    base = likelihood.base_dist
    return base.probs.argmax(-1) if isinstance(base, dist.Categorical) else likelihood.mean


def plot_weights(evidence: Evidence, largest: np.ndarray | None = None, axes: Any = None) -> Any:
    """Effective sample size against k-hat, and the largest weight's share of all: a point per
    datum.

    Data without a finite k-hat are left out of the first.

    Args:
        evidence: What `log_evidence` returned.
        largest: Share of the largest weight, by datum, (N,) or of some data; None draws the first
            panel alone.
        axes: One Axes, or two with `largest`.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(100, 5))
        >>> [ax.get_ylabel() for ax in plot_weights(reduce_log_weights(log_w), np.full(5, 0.1))]
        ['effective sample size', 'share of the largest weight']
    """
    axes = np.atleast_1d(_row(1 if largest is None else 2) if axes is None else axes).ravel()
    known = np.isfinite(evidence.pareto_k)
    for name, colour, inside in k_hat_classes(evidence.pareto_k):
        rows = known & inside
        axes[0].plot(
            evidence.pareto_k[rows], evidence.ess[rows], "o", color=colour, markersize=3, label=name
        )
    axes[0].set(xlabel="Pareto k-hat", ylabel="effective sample size", yscale="log")
    axes[0].legend(loc="best")
    if largest is not None:
        axes[1].plot(np.arange(1, len(largest) + 1), np.sort(largest)[::-1], color=BLUE)
        axes[1].set(
            xlabel="data, the worst first", ylabel="share of the largest weight", ylim=(0, 1.02)
        )
    return axes


def plot_rate_distortion(parts: RateDistortion, ax: "Axes | None" = None) -> "Axes":
    """Rate and distortion of every datum, their means, and the line on which the ELBO is that of
    the means.

    Args:
        parts: What `rate_distortion` returned.
        ax: Where to draw.

    References:
        Alemi et al. (2018), Fixing a broken ELBO, arXiv:1711.00464, figure 1.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics import rate_distortion
        >>> bed = beds.linear_gaussian(num_data=20)
        >>> plot_rate_distortion(rate_distortion(bed.model, bed.guide, bed.x)).get_xlabel()
        'rate (nats)'
    """
    ax, mean = ax or new_axes(5.0, 4.0), (parts.rate.mean(), parts.distortion.mean())
    ax.plot(parts.rate, parts.distortion, "o", color="0.6", markersize=3, label="data")
    ax.axline(
        mean, slope=-1, color="0.3", linestyle="--", linewidth=1, label=f"ELBO {-sum(mean):.2f}"
    )
    ax.plot(*mean, "D", color=VERMILION, label=f"mean: {mean[0]:.2f}, {mean[1]:.2f}")
    ax.set(xlabel="rate (nats)", ylabel="distortion (nats)")
    ax.legend(loc="best")
    return ax


def _row(num: int) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(1, num, figsize=(4.2 * num, 3.2), squeeze=False, layout="constrained")[1]
