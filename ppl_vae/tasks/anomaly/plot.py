"""A picture of anomaly p-values: sorted, with the line of Benjamini and Hochberg."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.axes import ABOVE, BLUE, VERMILION, new_axes
from ppl_vae.runtime.checks import instance_of
from ppl_vae.tasks.anomaly.p_values import AnomalyPValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_anomalies"]


def plot_anomalies(found: AnomalyPValues, alpha: float = 0.1, ax: "Axes | None" = None) -> "Axes":
    """Sorted p-values on log axes, the line alpha k / m, and the discoveries.

    All rows up to the last one below the line are discoveries. Where no row is anomalous, p-values
    follow the dotted diagonal.

    Args:
        found: What `anomaly_pvalues` returned.
        alpha: The false discovery rate.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `found` is not an `AnomalyPValues`, or alpha lies outside (0, 1).

    Example:
        >>> found = AnomalyPValues.from_scores(np.arange(99.0), [50.0, 200.0, 300.0])
        >>> plot_anomalies(found).get_ylabel()
        'p-value'
    """
    instance_of(found, "found", AnomalyPValues)
    is_found = found.discoveries(alpha)
    order = np.argsort(found.p_values, kind="stable")
    ranks = np.arange(1, len(found) + 1)
    p_values = found.p_values[order]
    taken = is_found[order]
    ax = ax or new_axes(6.0, 4.2)
    ax.plot(ranks, ranks / len(found), color="0.5", linestyle=":", label="no anomalies")
    ax.plot(ranks, alpha * ranks / len(found), color="0.2", label=f"FDR {alpha:g}")
    ax.plot(ranks[~taken], p_values[~taken], ".", color=BLUE, label="other rows")
    label = f"{taken.sum()} discoveries"
    ax.plot(ranks[taken], p_values[taken], "o", color=VERMILION, markersize=4, label=label)
    ax.set(xscale="log", yscale="log", xlabel="rank of the row", ylabel="p-value")
    ax.legend(**ABOVE, ncols=2)
    return ax
