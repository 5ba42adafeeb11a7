"""Pictures of predictive checks: test statistics, PIT values, reliability of binary predictions."""

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
    """One panel per statistic: replicated data sets of both kinds, the data as a line, the p-values
    as its title.

    Of a statistic with one value per feature, the feature with the smallest prior predictive p.

    Args:
        check: What `predictive_check` returned.
        axes: An array of at least as many Axes as there are statistics; they get no legend.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics.predictive.check import predictive_check
        >>> bed = beds.gamma_poisson(num_data=50)
        >>> [ax.get_xlabel() for ax in plot_predictive_check(predictive_check(bed.model, bed.guide, bed.x))]
        ['mean', 'variance', 'zero_fraction', 'max']
    """
    own, axes = (
        axes is None,
        _row_of_axes(len(check.observed)) if axes is None else np.atleast_1d(axes).ravel(),
    )
    for ax, name, (label, row) in zip(axes, check.observed, check.summary().items(), strict=False):
        where = check.worst(name)
        for (group, kind), colour in zip(PREDICTIVES.items(), (BLUE, ORANGE), strict=True):
            drawn = getattr(check, group)[name][(slice(None), *where)]
            drawn = drawn[np.isfinite(drawn)]
            if not len(drawn):
                continue
            ax.hist(
                drawn,
                20,
                color=colour,
                alpha=0.6,
                label=f"{kind} predictive",
                density=np.ptp(drawn) > 0,
            )
        ax.axvline(row["data"], color="black", linewidth=2, label="data")
        p_values = ", ".join(f"{kind} {row[f'{kind} p']:.2g}" for kind in PREDICTIVES.values())
        ax.set_title(f"p: {p_values}", fontsize="medium")
        ax.set(xlabel=label, yticks=[])
    if own:
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
    return axes


def _row_of_axes(num: int) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(1, num, figsize=(2.6 * num, 2.8), squeeze=False, layout="constrained")[
        1
    ].ravel()


def plot_pit(pit: PIT, ax: "Axes | None" = None) -> "Axes":
    """Ordered PIT values less what uniform ones are on average, and the band that holds 95 % of
    uniform ones entirely.

    A line per feature where there are at most ten and none is missing, else one of a random entry
    per datum. Below zero on the left and above on the right: predictions too narrow. The band is
    for each line.

    Args:
        pit: What `marginal_pit` or `conditional_pit` returned.
        ax: Where to draw; it gets no legend.

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
    own, ax = ax is None, ax or new_axes(6.4, 4.0)
    values, dim = pit.values.reshape(len(pit), -1), pit.dims[1]
    if np.isnan(values).any() or values.shape[1] > MOST_LINES:
        lines = {"one entry per datum": pit.one_entry()}
    else:
        names = pit.coords[dim] if len(pit.dims) == 2 else range(values.shape[1])
        lines = {
            f"{dim} {shortened(name)}": column for name, column in zip(names, values.T, strict=True)
        }
    num = len(next(iter(lines.values())))
    ranks, low, high = uniform_band(num, num_train=pit.num_train)
    expected = ranks / (num + 1)
    ax.fill_between(
        expected,
        low - expected,
        high - expected,
        color=BAND,
        linewidth=0,
        label="95 % of uniform lines",
    )
    ax.axhline(0, color="0.5", linewidth=1)
    for (name, column), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(expected, np.sort(column)[ranks - 1] - expected, color=colour, label=name)
    ax.set(xlabel="expected PIT", ylabel="PIT less expected")
    ax.set_title(f"{pit.kind} PIT, p = {pit.p_value:.2g}", fontsize="medium")
    if own:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def plot_reliability(reliability: Reliability, ax: "Axes | None" = None) -> "Axes":
    """Frequencies of ones against predicted probabilities, with intervals of two standard errors by
    datum.

    Args:
        reliability: What `reliability` returned.
        ax: Where to draw.

    References:
        Bröcker and Smith (2007), Increasing the reliability of reliability diagrams, Weather and
        Forecasting 22.

    Example:
        >>> half = np.array([0.5])
        >>> plot_reliability(Reliability(half, half, 0.1 * half, np.array([100]), "conditional")).get_ylabel()
        'frequency of ones'
    """
    ax = ax or new_axes(4.4, 4.4)
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    distance = 2 * reliability.se
    ax.errorbar(
        reliability.predicted, reliability.frequency, distance, fmt="o", color=VERMILION, capsize=3
    )
    ax.set(xlabel=f"predicted probability ({reliability.kind})", ylabel="frequency of ones")
    ax.set_title(f"p = {reliability.p_value:.2g}", fontsize="medium")
    ax.set_aspect("equal")
    return ax
