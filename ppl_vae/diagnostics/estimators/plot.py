"""A picture of `compare_estimators`: what each objective says, how much of its gradient is signal,
what it costs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, ORANGE
from ppl_vae.diagnostics.estimators.table import EstimatorComparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_estimators"]

STYLES = {"theta": ("θ, the model", BLUE, "o", -0.12), "phi": ("φ, the guide", ORANGE, "s", 0.12)}
WIDEST = 34  # letters of a name on one line


def plot_estimators(comparison: EstimatorComparison, axes: Any = None) -> np.ndarray:
    """Value with its reference, signal-to-noise ratio of theta and phi with its floor, and variance
    x seconds.

    Bars are 95 % intervals. A ratio below its floor is an open arrow at the floor: it may be
    anything to the left. No paper.

    Args:
        comparison: What `compare_estimators` returned.
        axes: Three Axes side by side; None makes them.

    Returns:
        The three Axes.

    Raises:
        ValueError: another number of Axes.
        TypeError: it is no comparison (its table, say).

    Example:
        >>> import ppl_vae as pv
        >>> from ppl_vae.diagnostics import compare_estimators
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> chosen = [pv.objectives.TraceELBO(), pv.objectives.IWAE(8)]
        >>> compared = compare_estimators(bed.model, bed.amortised_guide, bed.x, chosen, num_replicates=20)
        >>> [ax.get_xlabel() for ax in plot_estimators(compared)]
        ['value (nats per datum)', 'signal-to-noise ratio', 'variance × seconds']
    """
    if not isinstance(comparison, EstimatorComparison):
        raise TypeError(
            f"comparison is a {type(comparison).__name__}: give what compare_estimators returned"
        )
    axes = _three(len(comparison.rows)) if axes is None else np.asarray(axes).ravel()
    if len(axes) != 3:
        raise ValueError(f"axes holds {len(axes)} Axes: plot_estimators draws on 3")
    _values(axes[0], comparison)
    _ratios(axes[1], comparison)
    _costs(axes[2], comparison)
    places = np.arange(len(comparison.rows))
    for ax in axes:
        ax.set_ylim(len(places) - 0.5, -0.5)
        ax.set_yticks(places, [])
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
    axes[0].set_yticks(
        places, [_folded(row.name, bool(row.reason)) for row in comparison.rows], fontsize="small"
    )
    return axes


def _three(num_rows: int) -> np.ndarray:
    import matplotlib.pyplot as plt

    return plt.subplots(1, 3, figsize=(12.0, 1.6 + 0.42 * num_rows), layout="constrained")[1]


def _values(ax: "Axes", comparison: EstimatorComparison) -> None:
    from matplotlib.ticker import MaxNLocator

    table, reference = comparison.table, comparison.reference
    for value, se, style, label in (
        (
            reference.log_evidence,
            reference.se,
            "-",
            "log p(x)" if reference.num_particles else "log p(x), exact",
        ),
        (reference.elbo, reference.elbo_se, "--", "ELBO"),
    ):
        if np.isfinite(value):
            ax.axvspan(value - 2 * se, value + 2 * se, color="0.85", linewidth=0)
            ax.axvline(value, color="0.3", linestyle=style, linewidth=1, label=label)
    errors = 2 * table["value_se"].to_numpy()
    ax.errorbar(
        table["value"], np.arange(len(table)), xerr=errors, fmt="D", color="black", markersize=4
    )
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel("value (nats per datum)")
    _legend(ax)


def _ratios(ax: "Axes", comparison: EstimatorComparison) -> None:
    table = comparison.table
    for group, (label, colour, marker, shift) in STYLES.items():
        names = ("snr", "snr_low", "snr_high", "snr_floor")
        snr, low, high, floor = (table[f"{group}_{name}"].to_numpy() for name in names)
        places, clear = np.arange(len(table)) + shift, snr > floor
        ends = np.stack([snr - np.maximum(low, 1e-3 * snr), high - snr])[
            :, clear
        ]  # a logarithmic axis has no 0
        ax.errorbar(
            snr[clear],
            places[clear],
            xerr=ends,
            fmt=marker,
            color=colour,
            markersize=5,
            label=label,
        )
        below = ~clear & np.isfinite(floor)
        ax.plot(
            floor[below], places[below], "<", color=colour, markerfacecolor="none", markersize=6
        )
        ax.plot(floor, places, "|", color=colour, markersize=9, alpha=0.6)
    ax.plot([], [], "|", color="0.5", markersize=9, label="floor")
    ax.set(xscale="log", xlabel="signal-to-noise ratio")
    _room(ax, _positive(table, "snr_floor", np.min), _positive(table, "snr_high", np.max))
    _legend(ax)


def _costs(ax: "Axes", comparison: EstimatorComparison) -> None:
    table = comparison.table
    for group, (label, colour, marker, shift) in STYLES.items():
        cost = table[f"{group}_variance_seconds"].to_numpy()
        cost = np.where(cost > 0, cost, np.nan)
        ax.plot(
            cost, np.arange(len(table)) + shift, marker, color=colour, markersize=5, label=label
        )
    ax.set(xscale="log", xlabel="variance × seconds")
    _room(
        ax,
        _positive(table, "variance_seconds", np.min),
        _positive(table, "variance_seconds", np.max),
    )
    _legend(ax)


def _positive(table: Any, name: str, extreme: Callable[[np.ndarray], float]) -> float:
    values = np.concatenate([table[f"{group}_{name}"].to_numpy() for group in STYLES])
    return float(extreme(values[values > 0])) if (values > 0).any() else 1.0


def _room(ax: "Axes", low: float, high: float) -> None:
    """Two powers of ten on the axis at least, and none of the numbers between them written."""
    from matplotlib.ticker import NullFormatter

    ax.set_xlim(min(low / 1.5, 0.09 * 10 ** np.floor(np.log10(high))), high * 1.5)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _legend(ax: "Axes") -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small"
        )


def _folded(name: str, is_unusable: bool) -> str:
    """A long name on several lines, broken after a comma."""
    lines = [""]
    for part in name.replace(", ", ",\v").split("\v"):
        fits = len(lines[-1]) + len(part) <= WIDEST
        lines = [*lines[:-1], f"{lines[-1]} {part}".strip()] if fits else [*lines, part]
    return "\n".join([*filter(None, lines), *(["(not usable)"] if is_unusable else [])])
