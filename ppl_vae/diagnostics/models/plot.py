"""A picture of `compare_models`: each model's difference from the reference, with its interval."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, new_axes, rows_downwards
from ppl_vae.diagnostics.models.table import ModelComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_models"]

ARROW = {"arrowstyle": "<-", "color": BLUE, "linestyle": ":"}
ARROW_LENGTH = 28  # points


def plot_models(comparison: ModelComparison, ax: "Axes | None" = None) -> "Axes":
    """Differences from the reference with 95 % intervals, over rows and trainings.

    Small dots are single trainings. A dotted arrow marks an end that is not proved, because log
    p(x) is a bound for some rows. On the right are the stacking weight and the share of these rows.
    `arviz_plots.plot_compare(comparison.table)` draws the differences too, with bars of one
    standard error.

    Args:
        comparison: The result of `compare_models`.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `comparison` is not a `ModelComparison`.

    Example:
        >>> from ppl_vae.diagnostics import compare_models
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(50, 40))
        >>> a, b = reduce_log_weights(log_w), reduce_log_weights(log_w - 1.0)
        >>> plot_models(compare_models({"a": a, "b": b})).get_xlabel()
        'difference in log p(x) from a (nats per row)'
    """
    if not isinstance(comparison, ModelComparison):
        raise ValueError(
            f"comparison is a {type(comparison).__name__}; give what compare_models returned"
        )
    places = np.arange(len(comparison.names))
    ax = ax or new_axes(8.5, 1.2 + 0.45 * len(places))
    ax.axvline(0.0, color="0.4", linestyle="--", linewidth=1)
    _intervals(ax, comparison)
    ax.margins(x=0.2)  # room for the arrows
    zero = comparison.log_evidence[comparison.names.index(comparison.reference)]
    several = [place for place in places if len(comparison.trainings[place]) > 1]
    if several:
        means = np.concatenate([comparison.trainings[place] for place in several])
        heights = np.repeat(several, [len(comparison.trainings[place]) for place in several])
        ax.plot(means - zero, heights + 0.22, "o", color="0.5", markersize=3, label="one training")
        where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        ax.legend(**where, frameon=False, fontsize="small", borderpad=0)
    rows_downwards(ax, comparison.names)
    ax.set_xlabel(f"difference in log p(x) from {comparison.reference} (nats per row)")
    pairs = zip(comparison.weight, comparison.share_bound, strict=True)
    texts = [f"weight {weight:.2f}\nbounds: {share:.1%}" for weight, share in pairs]
    right = ax.secondary_yaxis("right")
    right.set_yticks(places, texts, fontsize="small")
    right.tick_params(length=0)
    return ax


def _intervals(ax: "Axes", comparison: ModelComparison) -> None:
    """Differences with their intervals, and an arrow in place of an infinite end."""
    middle = comparison.difference
    lengths = np.abs(comparison.interval.T - middle)
    places = np.arange(len(middle))
    finite = np.where(np.isfinite(lengths), lengths, 0.0)
    ax.errorbar(middle, places, xerr=finite, fmt="D", color=BLUE, markersize=5)
    for points, length in zip((-ARROW_LENGTH, ARROW_LENGTH), lengths, strict=True):
        for place in np.flatnonzero(np.isinf(length)):
            start = (middle[place], int(place))
            ax.annotate("", start, (points, 0), textcoords="offset points", arrowprops=ARROW)
