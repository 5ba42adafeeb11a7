"""A plot of `calibration`: distances of PITs from uniform, and of coverage from its level."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import COLOURS
from ppl_vae.diagnostics.sbc.simulate import Calibration
from ppl_vae.diagnostics.sbc.summary import FEWEST
from ppl_vae.diagnostics.uniformity import uniform_band, uniformity_p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_calibration"]

PANELS = {
    "PIT, latent dimensions": "ECDF − uniform",
    "PIT, test quantities": "ECDF − uniform",
    "level of central intervals, latents": "coverage − level",
    "level of highest-density regions": "coverage − level",
}
LEVEL = 0.95
MOST_NAMED = 4  # lines with a colour and a name
GREY = "0.55"


def plot_calibration(
    calibrations: Calibration | Mapping[str, Calibration], axes: Any = None
) -> np.ndarray:
    """Distribution functions of the PITs minus uniform, and coverage minus its level.

    A row of four panels for each calibration: latent dimensions, test quantities, central
    intervals, highest-density regions. If the draws are right, all lines of a panel are in its grey
    band with probability 95 %. If there are many latent dimensions, the worst that leave the band
    are named, and the others are grey. Where a latent is masked for some observations, the band is
    that of the line with the fewest ranks; lines of more ranks that leave their own are named.

    Args:
        calibrations: Result of `calibration`, or several by name, drawn one above the other.
        axes: Four Axes for each; None creates them.

    Returns:
        The Axes, (M, 4).

    Raises:
        ValueError: the number of Axes is wrong; an argument is not a calibration.

    References:
        Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity,
        arXiv:2103.10522.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics import GuideDraws, calibration
        >>> bed = beds.linear_gaussian()
        >>> found = calibration(bed.model, bed.guide, bed.x, GuideDraws(50), num_data=200)
        >>> [ax.get_ylabel() for ax in plot_calibration(found)[0]]
        ['ECDF − uniform', 'ECDF − uniform', 'coverage − level', 'coverage − level']
    """
    named = {"": calibrations} if isinstance(calibrations, Calibration) else calibrations
    found = list(named.values()) if isinstance(named, Mapping) else []
    if not found or not all(isinstance(each, Calibration) for each in found):
        raise ValueError(
            f"calibrations is a {type(calibrations).__name__}; give what calibration returned, or "
            "a dict of such results by name"
        )
    num = len(found)
    if axes is None:
        import matplotlib.pyplot as plt

        size = (13.0, 2.9 * num + 0.2)
        axes = plt.subplots(num, 4, figsize=size, sharey="col", layout="constrained")[1]
    axes = np.atleast_1d(axes)
    if axes.size != 4 * num:
        raise ValueError(
            f"axes holds {axes.size} Axes: plot_calibration draws on 4 for each of {num}"
        )
    axes = axes.reshape(num, 4)
    for name, each, row in zip(named, found, axes, strict=True):
        _draw(each, row)
        if name:
            row[0].set_ylabel(f"{name}\n{row[0].get_ylabel()}")
    return axes


def _draw(found: Calibration, row: np.ndarray) -> None:
    """One calibration on four Axes."""
    latents = found.names[: found.num_latents]
    others = found.names[found.num_latents :]
    tested = tuple(other for other in others if other != "hpd")
    pit = found.pit[:, : found.num_latents]
    _differences(row[0], pit, latents)
    _differences(row[1], np.stack([found[other] for other in tested], axis=1), tested)
    _differences(row[2], np.abs(2 * pit - 1), latents)
    if "hpd" in others:
        _differences(row[3], found["hpd"][:, None], ("hpd",))
    for ax, (x_label, y_label) in zip(row, PANELS.items(), strict=True):
        ax.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1))


def _differences(ax: "Axes", pit: np.ndarray, names: tuple[str, ...]) -> None:
    """Distribution function minus uniform of each column, over the band for all of them."""
    ranked = [(name, each[~np.isnan(each)]) for name, each in zip(names, pit.T, strict=True)]
    lines = [(name, values) for name, values in ranked if len(values) >= FEWEST]
    num_lines = len(lines)
    if not num_lines:
        return
    num_data = min(len(values) for _, values in lines)
    ranks, low, high = uniform_band(num_data, 1 - (1 - LEVEL) / num_lines)
    x = np.concatenate([[0], low, [1], high[::-1]])
    y = np.concatenate([[0], ranks / num_data - low, [0], ((ranks - 1) / num_data - high)[::-1]])
    ax.fill(x, y, color="0.88", linewidth=0)
    p_value = np.array([uniformity_p_value(values) for _, values in lines])
    worst = p_value.argsort(kind="stable")
    outside = int((p_value * num_lines < 1 - LEVEL).sum())
    count = num_lines if num_lines <= MOST_NAMED else min(outside, MOST_NAMED)
    coloured = sorted(worst[:count].tolist())
    for j in set(range(num_lines)) - set(coloured):
        ax.plot(*_difference(lines[j][1]), color=GREY, linewidth=0.6, alpha=0.6)
    for j, colour in zip(coloured, COLOURS, strict=False):
        name, values = lines[j]
        ax.plot(*_difference(values), color=colour, linewidth=1.4, label=name)
    if num_lines > count:
        label = f"{num_lines - count} {'more' if count else 'latents'}"
        ax.plot([], [], color=GREY, linewidth=0.8, label=label)
    ax.axhline(0, color="0.3", linewidth=0.8)
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    ax.legend(**place, ncols=3, frameon=False, fontsize="small")


def _difference(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distribution function minus x, as a line."""
    x = np.concatenate([[0], np.sort(values), [1]])
    return x, np.concatenate([np.linspace(0, 1, len(values) + 1), [1]]) - x
