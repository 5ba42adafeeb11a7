"""A picture of a contrast: differences and their p-values, latents beside features."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, VERMILION, axes_grid, shortened
from ppl_vae.runtime.checks import instance_of
from ppl_vae.tasks.contrasts.group_contrast import Contrast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_vae.tasks.contrasts.differences import GroupDifferences

__all__ = ["plot_contrast"]

MOST_NAMED = 8
ROOM = (0.3, 0.09)  # of a name, as shares of the axes


def plot_contrast(found: Contrast, alpha: float = 0.05, axes: Any = None) -> Any:
    """-log10 p against the difference in standard deviations, of latents and of features.

    Discoveries are coloured, and those with the smallest p-values have their names, as far as there
    is room. A line is drawn at the largest p-value that is discovered, and a dotted one at the
    smallest that is possible.

    Args:
        found: What `contrast` returned.
        alpha: The level of discoveries.
        axes: An array of two Axes; None makes a figure.

    Returns:
        The two Axes.

    Raises:
        ValueError: `found` is not a `Contrast`, or alpha lies outside (0, 1).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.tasks.contrasts import contrast
        >>> bed = beds.linear_gaussian(num_data=20)
        >>> found = contrast(bed.model, bed.guide, bed.x, [0] * 10 + [1] * 10, num_permutations=99)
        >>> [ax.get_ylabel() for ax in plot_contrast(found, alpha=0.2)]
        ['permutation p-value', '']
    """
    instance_of(found, "found", Contrast)
    axes = axes_grid(axes, (1, 2), (9.0, 4.0), sharey=True)
    for ax, differences in zip(axes, (found.latents, found.features), strict=False):
        _draw(ax, differences, alpha)
    first, second = found.design.names
    for ax in axes[:2]:
        ax.set_xlabel(f"{shortened(second)} minus {shortened(first)}, in sds")
    axes[0].set_ylabel("permutation p-value")
    return axes


def _draw(ax: "Axes", differences: "GroupDifferences", alpha: float) -> None:
    """One panel."""
    is_found = differences.discoveries(alpha)
    x = differences.standardised
    p_values = differences.p_values
    level = f"{differences.method}, {alpha:.0%}"
    label = f"{is_found.sum()} of {len(differences)} {differences.what} differ ({level})"
    ax.axvline(0, color="0.85", linewidth=1, zorder=0)
    ax.axhline(differences.test.smallest, color="0.6", linestyle=":", linewidth=1, zorder=0)
    if is_found.any():
        ax.axhline(p_values[is_found].max(), color="0.4", linewidth=1, zorder=0)
    ax.plot(x[~is_found], p_values[~is_found], "o", color=BLUE, markersize=4, alpha=0.6)
    ax.plot(x[is_found], p_values[is_found], "o", color=VERMILION, markersize=5)
    ax.set_yscale("log")
    ax.set_ylim(1.5, 0.4 * differences.test.smallest)
    ax.set_title(label, fontsize="medium")
    ax.margins(x=0.25)
    for i in _with_room(x, p_values, differences.order[is_found[differences.order]]):
        name = shortened(differences.names[i])
        style: dict[str, Any] = {"xytext": (0, 5), "ha": "center", "fontsize": "small"}
        ax.annotate(name, (x[i], p_values[i]), textcoords="offset points", **style)


def _with_room(x: np.ndarray, p_values: np.ndarray, candidates: np.ndarray) -> list[int]:
    """Those of the points whose names do not overlap with names before them."""
    places = np.stack([x / (np.ptp(x) or 1.0), np.log(p_values)], axis=1)
    places[:, 1] /= np.ptp(places[:, 1]) or 1.0
    named: list[int] = []
    for i in candidates.tolist():
        apart = abs(places[named] - places[i]) > np.array(ROOM)
        if apart.any(1).all():
            named.append(i)
    return named[:MOST_NAMED]
