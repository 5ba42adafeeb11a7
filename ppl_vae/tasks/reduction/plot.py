"""Pictures of dimension reduction: neighbours kept, loadings, variance explained."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import (
    ABOVE,
    BLUE,
    OKABE_ITO,
    axes_grid,
    new_axes,
    rows_downwards,
)
from ppl_vae.runtime.checks import instance_of
from ppl_vae.tasks.reduction.loadings import LoadingIntervals
from ppl_vae.tasks.reduction.quality import TITLES, EmbeddingQuality
from ppl_vae.tasks.reduction.variance import VarianceExplained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_embedding_quality", "plot_loadings", "plot_variance_explained"]

MARKERS = "osD^vP"


def plot_embedding_quality(found: EmbeddingQuality, axes: Any = None) -> Any:
    """Trustworthiness, continuity and neighbours kept against k, with two standard errors.

    Args:
        found: Result of `embedding_quality`.
        axes: An array of three Axes.

    Returns:
        The three Axes.

    Example:
        >>> values = np.full((2, 3, 2), 0.9)
        >>> found = EmbeddingQuality(values, values / 90, values / 90, ("VAE", "PCA"), (5, 15))
        >>> [ax.get_ylabel() for ax in plot_embedding_quality(found)]
        ['trustworthiness', 'continuity', 'neighbours kept']
    """
    instance_of(found, "found", EmbeddingQuality)
    axes = axes_grid(axes, (1, 3), (10.0, 3.4))
    places = np.arange(len(found.num_neighbours))
    shift = np.linspace(-0.1, 0.1, len(found.names))
    for j, ax in enumerate(axes[:3]):
        for i, name in enumerate(found.names):
            style: Any = {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % 6]}
            errors = 2 * found.se[i, j]
            ax.errorbar(places + shift[i], found.values[i, j], errors, label=name, **style)
        ax.set_xticks(places, map(str, found.num_neighbours))
        ax.set(xlabel="neighbours k", ylabel=TITLES[j])
    axes[0].legend(**ABOVE, ncols=len(found.names))
    return axes


def plot_loadings(found: LoadingIntervals, level: float = 0.95, axes: Any = None) -> Any:
    """Loadings of each factor with their intervals, features from the top down.

    Args:
        found: Result of `loading_intervals`.
        level: Probability of the intervals.
        axes: An array of Axes, one for each factor.

    Returns:
        The Axes.

    Example:
        >>> found = LoadingIntervals(np.ones((3, 2)), np.ones((5, 3, 2)), ("a", "b", "c"))
        >>> [ax.get_xlabel() for ax in plot_loadings(found)]
        ['factor 0', 'factor 1']
    """
    instance_of(found, "found", LoadingIntervals)
    num_features, num_factors = found.estimate.shape
    size = (2.6 * num_factors + 1.4, 0.26 * num_features + 1.2)
    axes = axes_grid(axes, (1, num_factors), size, sharey=True)
    low, high = found.interval(level)
    places = np.arange(num_features)
    for d, ax in enumerate(axes[:num_factors]):
        ax.axvline(0, color="0.6", linewidth=1)
        ax.hlines(places, low[:, d], high[:, d], color=BLUE)
        ax.plot(found.estimate[:, d], places, "o", color=BLUE, markersize=4)
        rows_downwards(ax, found.names)
        ax.set_xlabel(f"factor {d}")
    return axes


def plot_variance_explained(found: VarianceExplained, ax: "Axes | None" = None) -> "Axes":
    """First-order and total shares of each latent with two standard errors, largest total first.

    Args:
        found: Result of `variance_explained`.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Example:
        >>> share, zero = np.array([0.5]), np.zeros(1)
        >>> shares = (share, share, 0.5, share[None], zero, zero, 0.0)
        >>> plot_variance_explained(VarianceExplained(*shares, ("z[0]",))).get_ylabel()
        'share of the variance of x'
    """
    instance_of(found, "found", VarianceExplained)
    ax = ax or new_axes(6.0, 3.6)
    order = np.argsort(-found.total)
    places = np.arange(len(order))
    error: dict[str, Any] = {"ecolor": "0.2", "capsize": 2}
    bars = (
        (-0.2, found.first_order, found.first_order_se, "alone (first order)"),
        (0.2, found.total, found.total_se, "lost without it (total)"),
    )
    for i, (shift, shares, errors, label) in enumerate(bars):
        style = error | {"color": OKABE_ITO[i], "label": label}
        ax.bar(places + shift, shares[order], 0.4, yerr=2 * errors[order], **style)
    ax.set_xticks(places, [found.names[d] for d in order])
    ax.set(ylabel="share of the variance of x")
    ax.legend(**ABOVE, ncols=2)
    return ax
