"""A plot of `evidence_interval`: the length of each interval, and its verdict."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.axes import ABOVE, BLUE, ORANGE, VERMILION, new_axes, whole_ticks
from ppl_vae.evidence import EvidenceInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_evidence_interval"]

STYLES = {"estimate": (BLUE, "o"), "interval": (ORANGE, "s"), "bound only": (VERMILION, "^")}


def plot_evidence_interval(
    interval: EvidenceInterval, ax: "Axes | None" = None, *, exact: np.ndarray | None = None
) -> "Axes":
    """The interval of every observation, in nats from its middle, by verdict and then by length.

    The middle is subtracted because log p(x) varies between observations by far more than the
    length of any interval. If there is no upper bound, an arrow begins at the lower bound.

    Args:
        interval: The result of `evidence_interval`.
        ax: Axes to draw on; None makes a figure.
        exact: log p(x) if it is known, (N,), drawn as crosses.

    Raises:
        ValueError: `exact` has another length than `interval`.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import evidence_interval
        >>> bed = beds.linear_gaussian(num_data=5, guide_scale=1.3)
        >>> ax = plot_evidence_interval(evidence_interval(bed.model, bed.guide, bed.x))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['estimate: 5', 'interval: 0', 'bound only: 0']
    """
    if exact is not None and len(exact) != len(interval):
        raise ValueError(
            f"{len(exact)} exact values were given for {len(interval)} intervals: give one for each"
        )
    bounded = np.isfinite(interval.upper)
    middle = (interval.lower + np.where(bounded, interval.upper, interval.lower)) / 2
    zero = np.where(bounded, middle, interval.lower_bound.log_evidence)
    low, high = interval.lower - zero, interval.upper - zero
    crosses = np.array([]) if exact is None else exact - zero
    top = 1.3 * max([-low.min(), *crosses])
    kinds = [list(STYLES).index(verdict) for verdict in interval.verdict]
    order = np.lexsort((high - low, kinds))
    ax = ax or new_axes(8.0, 4.0)
    for verdict, (colour, marker) in STYLES.items():
        places = np.flatnonzero(interval.verdict[order] == verdict)
        rows = order[places]
        ends = np.where(bounded[rows], 0.0, top)
        label = f"{verdict}: {len(places)}"
        ax.vlines(places, low[rows], np.minimum(high[rows], top), color=colour, linewidth=1.5)
        ax.plot(places, ends, marker, color=colour, markersize=4, label=label)
    if exact is not None:
        places = np.arange(len(order))
        ax.plot(places, crosses[order], "x", color="black", markersize=4, label="exact")
    ax.set_xlabel("observations, by verdict and length")
    ax.set_ylabel("nats from the middle, or from the lower bound")
    whole_ticks(ax.xaxis)
    ax.legend(ncols=4, columnspacing=1.0, **ABOVE)
    return ax
