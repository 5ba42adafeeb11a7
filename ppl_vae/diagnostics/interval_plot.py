"""A picture of `evidence_interval`: how far every interval reaches, and what it is worth."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, ORANGE, VERMILION, new_axes, whole_ticks
from ppl_vae.evidence import EvidenceInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_evidence_interval"]

STYLES = {"estimate": (BLUE, "o"), "interval": (ORANGE, "s"), "bound only": (VERMILION, "^")}


def plot_evidence_interval(
    interval: EvidenceInterval, ax: "Axes | None" = None, *, exact: np.ndarray | None = None
) -> "Axes":
    """The interval of every datum, in nats from its middle, by verdict and then by length.

    log p(x) itself varies by far more over data than any interval is long, so that the middle is
    taken off. An arrow begins at the lower bound and goes to infinity: nothing is claimed from
    above.

    Args:
        interval: What `evidence_interval` returned.
        ax: Where to draw.
        exact: log p(x) where it is known, (N,): drawn as crosses.

    Raises:
        ValueError: another number of exact values.

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
    ax, low, high = ax or new_axes(8.0, 4.0), interval.lower, interval.upper
    bounded = np.isfinite(high)
    zero = np.where(
        bounded, (low + np.where(bounded, high, low)) / 2, interval.lower_bound.log_evidence
    )
    low, high = low - zero, high - zero
    top = 1.3 * max(-low.min(), 0.0 if exact is None else (exact - zero).max())
    order = np.lexsort((high - low, [list(STYLES).index(verdict) for verdict in interval.verdict]))
    for verdict, (colour, marker) in STYLES.items():
        places = np.flatnonzero(interval.verdict[order] == verdict)
        rows = order[places]
        ax.vlines(places, low[rows], np.minimum(high[rows], top), color=colour, linewidth=1.5)
        ends = np.where(bounded[rows], 0.0, top)
        ax.plot(places, ends, marker, color=colour, markersize=4, label=f"{verdict}: {len(places)}")
    if exact is not None:
        ax.plot(
            np.arange(len(order)),
            (exact - zero)[order],
            "x",
            color="black",
            markersize=4,
            label="exact",
        )
    ax.set(
        xlabel="data, by verdict and length", ylabel="nats from the middle, or from the lower bound"
    )
    whole_ticks(ax.xaxis)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, columnspacing=1.0
    )
    return ax
