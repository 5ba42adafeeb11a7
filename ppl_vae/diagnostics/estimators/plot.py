"""A plot of `compare_estimators`: the value of each objective, its signal and its cost."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import ABOVE, BLUE, ORANGE, axes_grid, rows_downwards
from ppl_vae.diagnostics.estimators.row import EstimatorRow
from ppl_vae.diagnostics.estimators.table import EstimatorComparison

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_estimators"]

STYLES = {"theta": ("θ, the model", BLUE, "o", -0.12), "phi": ("φ, the guide", ORANGE, "s", 0.12)}
WIDEST = 35  # letters of a name on one line


def plot_estimators(comparison: EstimatorComparison, axes: Any = None) -> np.ndarray:
    """Value, signal-to-noise ratios of theta and phi with their floors, and variance x seconds.

    Bars are 95 % intervals, the vertical lines log p(x) and the ELBO. A ratio below its floor is
    drawn as an open arrow at the floor: it may lie anywhere to the left.

    Args:
        comparison: The result of `compare_estimators`.
        axes: Three Axes side by side; None makes them.

    Returns:
        The three Axes.

    Raises:
        ValueError: There are not three Axes.
        TypeError: `comparison` is not an `EstimatorComparison`.

    Example:
        >>> import ppl_vae as pv
        >>> from ppl_vae.diagnostics import compare_estimators
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> programs = (bed.model, bed.amortised_guide)
        >>> chosen = [pv.objectives.TraceELBO(), pv.objectives.IWAE(8)]
        >>> compared = compare_estimators(*programs, bed.x, chosen, num_replicates=20)
        >>> [ax.get_xlabel() for ax in plot_estimators(compared)]
        ['value (nats per row)', 'signal-to-noise ratio', 'variance × seconds']
    """
    if not isinstance(comparison, EstimatorComparison):
        raise TypeError(
            f"comparison is a {type(comparison).__name__}: give what compare_estimators returned"
        )
    rows = comparison.rows
    axes = axes_grid(axes, (1, 3), (12.0, 1.6 + 0.42 * len(rows)))
    if len(axes) != 3:
        raise ValueError(f"axes holds {len(axes)} Axes: plot_estimators draws on 3")
    _values(axes[0], comparison)
    _ratios(axes[1], comparison.table)
    _costs(axes[2], comparison.table)
    for ax in axes:
        rows_downwards(ax, [""] * len(rows))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(ncols=3, fontsize="small", **ABOVE)
    rows_downwards(axes[0], [_folded(row) for row in rows], fontsize="small")
    return axes


def _values(ax: "Axes", comparison: EstimatorComparison) -> None:
    from matplotlib.ticker import MaxNLocator

    reference = comparison.reference
    log_p = "log p(x)" if reference.num_particles else "log p(x), exact"
    for value, se, style, label in (
        (reference.log_evidence, reference.se, "-", log_p),
        (reference.elbo, reference.elbo_se, "--", "ELBO"),
    ):
        if np.isfinite(value):
            ax.axvspan(value - 2 * se, value + 2 * se, color="0.85", linewidth=0)
            ax.axvline(value, color="0.3", linestyle=style, linewidth=1, label=label)
    found = comparison.table
    places = np.arange(len(found))
    errors = 2 * found["value_se"]
    ax.errorbar(found["value"], places, xerr=errors, fmt="D", color="black", markersize=4)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel("value (nats per row)")


def _ratios(ax: "Axes", table: "pd.DataFrame") -> None:
    for group, (label, colour, marker, shift) in STYLES.items():
        names = ("snr", "snr_low", "snr_high", "snr_floor")
        snr, low, high, floor = (table[f"{group}_{name}"].to_numpy() for name in names)
        places = np.arange(len(table)) + shift
        clear = snr > floor
        # A logarithmic axis has no 0.
        ends = np.stack([snr - np.maximum(low, 1e-3 * snr), high - snr])[:, clear]
        bars: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 5, "label": label}
        ax.errorbar(snr[clear], places[clear], xerr=ends, **bars)
        below = ~clear & np.isfinite(floor)
        arrows: dict[str, Any] = {"color": colour, "markerfacecolor": "none", "markersize": 6}
        ax.plot(floor[below], places[below], "<", **arrows)
        ax.plot(floor, places, "|", color=colour, markersize=9, alpha=0.6)
    ax.plot([], [], "|", color="0.5", markersize=9, label="floor")
    ax.set_xlabel("signal-to-noise ratio")
    _logarithmic(ax, _positive(table, "snr_floor").min(), _positive(table, "snr_high").max())


def _costs(ax: "Axes", table: "pd.DataFrame") -> None:
    for group, (label, colour, marker, shift) in STYLES.items():
        cost = table[f"{group}_variance_seconds"]
        places = np.arange(len(table)) + shift
        ax.plot(cost.where(cost > 0), places, marker, color=colour, markersize=5, label=label)
    ax.set_xlabel("variance × seconds")
    drawn = _positive(table, "variance_seconds")
    _logarithmic(ax, drawn.min(), drawn.max())


def _positive(table: "pd.DataFrame", name: str) -> np.ndarray:
    """Positive values of a column for both groups; 1 if there are none."""
    values = np.concatenate([table[f"{group}_{name}"] for group in STYLES])
    return values[values > 0] if (values > 0).any() else np.ones(1)


def _logarithmic(ax: "Axes", low: float, high: float) -> None:
    """A logarithmic axis over two powers of ten at least, with labels at powers of ten only."""
    from matplotlib.ticker import NullFormatter

    ax.set_xscale("log")
    ax.set_xlim(min(low / 1.5, 0.09 * 10 ** np.floor(np.log10(high))), high * 1.5)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _folded(row: EstimatorRow) -> str:
    """The name on several lines, and whether the objective could not be used."""
    lines = textwrap.wrap(row.name, WIDEST, break_long_words=False)
    return "\n".join([*lines, *["(not usable)"] * bool(row.reason)])
