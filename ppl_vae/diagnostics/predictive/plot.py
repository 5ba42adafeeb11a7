"""Plots of predictive checks: test statistics, PIT values, reliability of binary predictions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, COLOURS, ORANGE, VERMILION, new_axes, shortened
from ppl_vae.diagnostics.predictive.check import PREDICTIVES, PredictiveCheck
from ppl_vae.diagnostics.predictive.pit import PIT
from ppl_vae.diagnostics.predictive.reliability_curve import Reliability
from ppl_vae.diagnostics.uniformity import uniform_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_pit", "plot_predictive_check", "plot_reliability"]

MOST_LINES = len(COLOURS)
BAND = "0.85"


def plot_predictive_check(check: PredictiveCheck, axes: Any = None) -> Any:
    """One panel per statistic: histograms over replicated data sets of both kinds, and a line at x.

    The title shows the p-values. A statistic of several elements is represented by the element that
    deviates most from the prior predictive; its p-values are joint.

    Args:
        check: Result of `predictive_check`.
        axes: An array of at least as many Axes as there are statistics; no legend is drawn on them.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics.predictive.check import predictive_check
        >>> bed = beds.gamma_poisson(num_data=50)
        >>> axes = plot_predictive_check(predictive_check(bed.model, bed.guide, bed.x))
        >>> [ax.get_xlabel() for ax in axes]
        ['mean', 'variance', 'zero_fraction', 'max']
    """
    has_legend = axes is None
    if axes is None:
        import matplotlib.pyplot as plt

        num = len(check.observed)
        axes = plt.subplots(1, num, figsize=(2.6 * num, 2.8), layout="constrained")[1]
    axes = np.atleast_1d(axes).ravel()
    for ax, name, (label, row) in zip(axes, check.observed, check.summary().items(), strict=False):
        where = check.worst(name)
        for (group, kind), colour in zip(PREDICTIVES.items(), (BLUE, ORANGE), strict=True):
            drawn = getattr(check, group)[name][(slice(None), *where)]
            drawn = drawn[np.isfinite(drawn)]
            if len(drawn):
                density = np.ptp(drawn) > 0
                bars: dict[str, Any] = {"label": f"{kind} predictive", "density": density}
                ax.hist(drawn, 20, color=colour, alpha=0.6, **bars)
        ax.axvline(row["data"], color="black", linewidth=2, label="data")
        p_values = ", ".join(f"{kind} {row[f'{kind} p']:.2g}" for kind in PREDICTIVES.values())
        ax.set_title(f"p: {p_values}", fontsize="medium")
        ax.set(xlabel=label, yticks=[])
    if has_legend:
        handles = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return axes


def plot_pit(pit: PIT, ax: "Axes | None" = None) -> "Axes":
    """Ordered PIT values minus those expected of uniform ones, over a 95 % band.

    There is a line per feature if there are at most ten and nothing is missing, else one line of a
    random entry per row. A line below zero on the left and above on the right indicates predictions
    that are too narrow. The band contains a whole line of uniform values with probability 95 %.

    Args:
        pit: Result of `marginal_pit` or `conditional_pit`.
        ax: Where to draw; no legend is drawn.

    References:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity,
        arXiv:2103.10522.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics.predictive.pit import marginal_pit
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> len(plot_pit(marginal_pit(bed.model, bed.x, num_samples=50)).get_legend().get_texts())
        6
    """
    if not isinstance(pit, PIT):
        raise ValueError(
            f"pit is a {type(pit).__name__}; give what marginal_pit or conditional_pit returned"
        )
    has_legend = ax is None
    ax = ax or new_axes(6.4, 4.0)
    values = pit.values.reshape(len(pit), -1)
    if np.isnan(values).any() or values.shape[1] > MOST_LINES:
        lines = {"one entry per row": pit.one_entry()}
    else:
        dim = pit.dims[1]
        names = pit.coords[dim] if len(pit.dims) == 2 else range(values.shape[1])
        columns = zip(names, values.T, strict=True)
        lines = {f"{dim} {shortened(name)}": column for name, column in columns}
    num = len(next(iter(lines.values())))
    ranks, low, high = uniform_band(num, num_train=pit.num_train)
    expected = ranks / (num + 1)
    band: dict[str, Any] = {"color": BAND, "linewidth": 0, "label": "95 % of uniform lines"}
    ax.fill_between(expected, low - expected, high - expected, **band)
    ax.axhline(0, color="0.5", linewidth=1)
    for (name, column), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(expected, np.sort(column)[ranks - 1] - expected, color=colour, label=name)
    ax.set(xlabel="expected PIT", ylabel="PIT − expected")
    ax.set_title(f"{pit.kind} PIT, p = {pit.p_value:.2g}", fontsize="medium")
    if has_legend:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def plot_reliability(reliability: Reliability, ax: "Axes | None" = None) -> "Axes":
    """Frequencies of ones against predicted probabilities, with intervals of two standard errors.

    Args:
        reliability: Result of `reliability`.
        ax: Where to draw.

    References:
        Bröcker and Smith (2007), Increasing the reliability of reliability diagrams, Weather and
        Forecasting 22.

    Example:
        >>> half = np.array([0.5])
        >>> found = Reliability(half, half, 0.1 * half, np.array([100]), "conditional")
        >>> plot_reliability(found).get_ylabel()
        'frequency of ones'
    """
    ax = ax or new_axes(4.4, 4.4)
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    points = (reliability.predicted, reliability.frequency, 2 * reliability.se)
    ax.errorbar(*points, fmt="o", color=VERMILION, capsize=3)
    ax.set(xlabel=f"predicted probability ({reliability.kind})", ylabel="frequency of ones")
    ax.set_title(f"p = {reliability.p_value:.2g}", fontsize="medium")
    ax.set_aspect("equal")
    return ax
