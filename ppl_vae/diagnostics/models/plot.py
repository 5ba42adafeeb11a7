"""A picture of `compare_models`: how far each model is from the reference, and how sure that is."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, new_axes
from ppl_vae.diagnostics.models.table import ModelComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_models"]


def plot_models(comparison: ModelComparison, ax: "Axes | None" = None) -> "Axes":
    """Differences from the reference with their 95 % intervals, over rows and trainings; small dots
    are trainings.

    A dotted arrow points where an interval has no end, log p(x) being a bound for some rows. On the
    right the stacking weight and the share of these rows.
    `arviz_plots.plot_compare(comparison.table)` draws the differences too, with bars of one
    standard error.

    Args:
        comparison: What `compare_models` returned.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae.diagnostics import compare_models
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(50, 40))
        >>> compared = compare_models({"a": reduce_log_weights(log_w), "b": reduce_log_weights(log_w - 1.0)})
        >>> plot_models(compared).get_xlabel()
        'log p(x) less that of a (nats per datum)'
    """
    if not isinstance(comparison, ModelComparison):
        raise ValueError(
            f"comparison is a {type(comparison).__name__}; give what compare_models returned"
        )
    places = np.arange(len(comparison.names))
    ax = new_axes(8.5, 1.2 + 0.45 * len(places)) if ax is None else ax
    low, high = comparison.interval.T
    open_low, open_high = np.isneginf(low), np.isposinf(high)
    low = np.where(np.isfinite(low), low, comparison.difference)
    high = np.where(np.isfinite(high), high, comparison.difference)
    ends = np.stack([comparison.difference - low, high - comparison.difference])
    ax.axvline(0.0, color="0.4", linestyle="--", linewidth=1)
    ax.errorbar(comparison.difference, places, xerr=ends, fmt="D", color=BLUE, markersize=5)
    for points, open_ends in ((-28, open_low), (28, open_high)):
        for place in np.flatnonzero(open_ends):
            _arrow(ax, comparison.difference[place], int(place), points)
    zero = comparison.log_evidence[comparison.names.index(comparison.reference)]
    for place, means in zip(places, comparison.trainings, strict=True):
        if len(means) > 1:
            label = None if ax.get_legend_handles_labels()[1] else "one training"
            ax.plot(
                means - zero,
                np.full(len(means), place + 0.22),
                "o",
                color="0.5",
                markersize=3,
                label=label,
            )
    ax.set_yticks(places, comparison.names)
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.set_xlabel(f"log p(x) less that of {comparison.reference} (nats per datum)")
    ax.grid(axis="y", color="0.92")
    ax.set_axisbelow(True)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            frameon=False,
            fontsize="small",
            borderpad=0,
        )
    _beside(ax, comparison)
    return ax


def _arrow(ax: "Axes", value: float, place: int, points: int) -> None:
    """To the side on which nothing is proved."""
    style = {"arrowstyle": "<-", "color": BLUE, "linestyle": ":"}
    ax.annotate("", (value, place), (points, 0), textcoords="offset points", arrowprops=style)


def _beside(ax: "Axes", comparison: ModelComparison) -> None:
    """Weight and share of bounds of each model, to the right of the panel."""
    pairs = zip(comparison.weight, comparison.share_bound, strict=True)
    texts = [f"weight {weight:.2f}\nbounds: {share:.1%}" for weight, share in pairs]
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(texts)), texts, fontsize="small")
    right.tick_params(length=0)
