"""Rows of a table beside rows drawn from a model: each column, and pairs of columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.axes import BLUE, axes_grid, shortened

__all__ = ["plot_table"]

MOST_COLUMNS = 5
MOST_POINTS = 500  # of each kind, in a panel of two columns
DATA = "0.35"
WIDTH = 0.4  # of a bar, and of the jitter of whole numbers
ENDS = (0.5, 99.5)  # percentiles of the observed values between which a panel reaches
MARGIN = 0.15
MOST_VALUES = 30  # different values that are drawn as bars
DISCRETE = ("boolean", "category", "ordered", "count")


def plot_table(
    data: Dataset | Any, drawn: Any, columns: Sequence[str] | None = None, axes: Any = None
) -> Any:
    """Observed rows (grey) and drawn ones (blue): columns on the diagonal, pairs below it.

    Categories, Booleans and counts are drawn as shares on the diagonal, and jittered below it.
    Panels reach a little beyond the central 99 % of the observed values.

    Args:
        data: A `Dataset` of a table.
        drawn: Rows drawn from the model, as by `model.sample(len(data))`, (M, columns).
        columns: Names of the columns shown; None shows the first five that vary.
        axes: A grid of Axes with as many rows and columns; None makes a figure.

    Returns:
        The Axes, those above the diagonal switched off.

    Raises:
        ValueError: The table has no such column.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(50, 2))
        >>> axes = plot_table(x, rng.normal(size=(50, 2)))
        >>> axes[1, 0].get_xlabel(), axes[1, 0].get_ylabel()
        ('0', '1')
    """
    data = as_dataset(data)
    chosen = list(columns if columns is not None else _first_that_vary(data))
    places = data.places_of(chosen)
    size = len(chosen)
    axes = axes_grid(axes, (size, size), (1.9 * size, 1.7 * size)).reshape(size, size)
    observed = data.x.cpu().numpy()[:, places]
    replicated = np.asarray(drawn)[:, places]
    is_discrete = [data.kinds[place] in DISCRETE for place in places]
    jittered = [_jittered(x, is_discrete) for x in (replicated, observed)]
    limits = [_limits(x, discrete=kind) for x, kind in zip(observed.T, is_discrete, strict=True)]
    for row in range(size):
        for column in range(size):
            ax = axes[row, column]
            if column > row:
                ax.set_axis_off()
                continue
            if column == row:
                _marginal(ax, observed[:, row], replicated[:, row], discrete=is_discrete[row])
            else:
                for x, colour in zip(jittered, (BLUE, DATA), strict=True):
                    ax.plot(x[:, column], x[:, row], ".", color=colour, markersize=2, alpha=0.5)
                ax.set_ylim(limits[row])
            ax.set_xlim(limits[column])
            ax.tick_params(labelbottom=row == size - 1, labelleft=column == 0)
    for place, name in enumerate(chosen):
        levels = data.levels.get(name, ())
        _name(axes[-1, place], name, levels, "x")
        _name(axes[place, 0], name, levels if place else (), "y")
    return axes


def _first_that_vary(data: Dataset) -> Sequence[str]:
    """The first columns with two values or more; the first ones if none has."""
    x = data.x.cpu().numpy()
    varies = np.nanmax(x, 0, initial=-np.inf) > np.nanmin(x, 0, initial=np.inf)
    names = [name for name, each in zip(data.feature_names, varies, strict=True) if each]
    return (names or data.feature_names)[:MOST_COLUMNS]


def _marginal(ax: Any, observed: np.ndarray, replicated: np.ndarray, *, discrete: bool) -> None:
    """Shares of values side by side, or two histograms."""
    observed = observed[np.isfinite(observed)]
    ax.set_yticks([])
    values = np.unique(np.concatenate([observed, replicated]))
    if discrete and len(values) <= MOST_VALUES:
        for x, shift, colour in ((observed, -WIDTH / 2, DATA), (replicated, WIDTH / 2, BLUE)):
            shares = [(x == value).mean() for value in values]
            ax.bar(values + shift, shares, WIDTH, color=colour)
        return
    low, high = _limits(observed, discrete=False)
    bins = np.linspace(low, high, 25)
    ax.hist(observed, bins, density=True, color=DATA, alpha=0.5)
    if ((low <= replicated) & (replicated <= high)).any():  # else there is no density to draw
        ax.hist(replicated, bins, density=True, color=BLUE, histtype="step", linewidth=1.5)


def _limits(observed: np.ndarray, *, discrete: bool) -> tuple[float, float]:
    """From a little below to a little above the central values, which may all be equal."""
    low, high = np.nanpercentile(observed, ENDS)
    margin = MARGIN * (high - low)
    if discrete:
        margin = 1.5 * WIDTH
    elif margin <= np.finfo(np.float32).eps * abs(high):
        margin = max(0.5, 0.1 * abs(high))
    return low - margin, high + margin


def _jittered(x: np.ndarray, is_discrete: list[bool]) -> np.ndarray:
    """Some rows, with whole numbers jittered so that equal ones can be distinguished."""
    rng = np.random.default_rng(0)
    some = x[rng.permutation(len(x))[:MOST_POINTS]]
    spread = WIDTH * (rng.random(some.shape) - 0.5)
    return some + spread * np.asarray(is_discrete)


def _name(ax: Any, name: str, levels: Sequence[str], axis: str) -> None:
    """The name of a column, and of its levels at their codes."""
    ax.set(**{f"{axis}label": shortened(name)})
    if levels:
        names = [shortened(level) for level in levels]
        ax.set(**{f"{axis}ticks": range(len(levels)), f"{axis}ticklabels": names})
        ax.tick_params(axis=axis, rotation=30)
