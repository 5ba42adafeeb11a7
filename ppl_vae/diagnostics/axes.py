"""Parts of plots: the Axes, pictures in a grid, points by class, legends, and histogram edges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.evidence.pareto import GOOD_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "ABOVE",
    "BESIDE",
    "BLUE",
    "OKABE_ITO",
    "VERMILION",
    "axes_grid",
    "new_axes",
    "rows_downwards",
    "shortened",
]

# Okabe and Ito's colours, then Tol's "muted" ones; markers differ too, for any colour vision.
BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
OKABE_ITO = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", VERMILION)
COLOURS = (*OKABE_ITO, "#332288", "#999933", "#882255", "#555555")
MARKERS = "osD^vP<X>*"
K_HATS = (0.5, GOOD_K)
CHANNELS = (3, 4)
MOST_BARS = 40
MOST_NAMES = 16
MOST_LETTERS = 12
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}


def new_axes(width: float, height: float) -> "Axes":
    """One Axes on a new figure.

    Example:
        >>> new_axes(4, 3).figure.get_size_inches().tolist()
        [4.0, 3.0]
    """
    return axes_grid(None, (1, 1), (width, height))[0]


def axes_grid(
    given: Any, shape: tuple[int, int], size: tuple[float, float], **options: Any
) -> np.ndarray:
    """The given Axes in one dim, or rows and columns of Axes on a new figure.

    Example:
        >>> len(axes_grid(None, (2, 3), (6, 4)))
        6
    """
    if given is not None:
        return np.atleast_1d(given).ravel()
    import matplotlib.pyplot as plt

    options |= {"figsize": size, "squeeze": False, "layout": "constrained"}
    return plt.subplots(*shape, **options)[1].ravel()


def whole_ticks(axis: "Axis") -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def rows_downwards(ax: "Axes", names: Sequence[str], **options: Any) -> None:
    """Named rows from the top down, with a line each.

    Example:
        >>> ax = new_axes(2, 2)
        >>> rows_downwards(ax, ["first", "second"])
        >>> bool(ax.yaxis_inverted())
        True
    """
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names, **options)
    ax.grid(axis="y", color="0.92")
    ax.set_axisbelow(True)


def as_pictures(values: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Rows (N, *event) as grey pictures (N, height, width), or coloured ones with channels last."""
    pictures = values.reshape(len(values), *image_shape)
    if pictures.ndim < 4:
        return pictures
    if image_shape[0] in (1, *CHANNELS) and image_shape[-1] not in CHANNELS:
        pictures = np.moveaxis(pictures, 1, -1)
    if pictures.shape[-1] == 1:
        return pictures[..., 0]
    return pictures


def tile(pictures: np.ndarray, num_columns: int) -> np.ndarray:
    """Pictures in rows of `num_columns` as one array; places left over are NaN."""
    left_over = -len(pictures) % num_columns
    filled = np.concatenate([pictures, np.full((left_over, *pictures.shape[1:]), np.nan)])
    rows = filled.reshape(-1, num_columns, *pictures.shape[1:])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def num_columns(num: int) -> int:
    """Columns of a full grid that is at least as wide as high, or else of a square."""
    square = int(np.ceil(np.sqrt(num)))
    full = (columns for columns in range(square, 2 * square + 1) if num % columns == 0)
    return next(full, square)


def show(ax: "Axes", pictures: np.ndarray, columns: int, missing: str) -> None:
    """Pictures in a grid on one Axes, white lines between them; NaN in the colour `missing`."""
    import matplotlib

    low, high = float(np.nanmin(pictures)), float(np.nanmax(pictures))
    if 0 <= low and high <= 1:
        low, high = 0.0, 1.0
    image = tile(pictures, columns)
    if pictures.ndim == 4:
        image = np.clip((image - low) / (high - low), 0, 1)
    cmap = matplotlib.colormaps["gray"].with_extremes(bad=missing)
    ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    height, width = pictures.shape[1:3]
    for edge in range(0, image.shape[1] + 1, width):
        ax.axvline(edge - 0.5, color="white", linewidth=2)
    for edge in range(0, image.shape[0] + 1, height):
        ax.axhline(edge - 0.5, color="white", linewidth=2)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def panels(
    x: np.ndarray, mean: np.ndarray, names: tuple[np.ndarray, np.ndarray], axes: Any
) -> np.ndarray:
    """One panel per row: values as bars (a line if there are many), the reconstruction as dots."""
    num = len(x)
    columns = min(num, 4)
    rows = -(-num // columns)
    size = (2.6 * columns + 0.4, 2.4 * rows + 0.6)
    is_new = axes is None
    axes = axes_grid(axes, (rows, columns), size, sharey=True)
    if len(axes) < num:
        raise ValueError(f"axes holds {len(axes)} Axes for {num} rows: give more, or lower num")
    values = x.reshape(num, -1)
    fitted = mean.reshape(num, -1)
    places = np.arange(values.shape[1])
    for i, ax in enumerate(axes[:num]):
        if len(places) <= MOST_BARS:
            ax.bar(places, values[i], color="0.75", label="data")
            dots = {"marker": "o", "linestyle": "", "markersize": 5}
        else:
            ax.plot(places, values[i], color="0.6", label="data")
            dots = {}
        ax.plot(places, fitted[i], color=VERMILION, label="reconstruction", **dots)
        name_features(ax, names[1])
        ax.set_title(f"observation {names[0][i]}", fontsize="medium")
    for ax in axes[num:]:
        ax.set_axis_off()
    if is_new:
        legend = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(*legend, loc="outside upper right", ncols=2, frameon=False)
    else:
        axes[0].legend(fontsize="small")
    return axes[:num]


def shortened(name: object) -> str:
    """A name that fits below an axis or into a legend.

    Example:
        >>> shortened("systolic pressure")
        'systolic pr…'
    """
    text = str(name)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def name_features(ax: "Axes", names: np.ndarray) -> None:
    """Names of features at 0, 1, ... of the horizontal axis; the word "feature" if there are many.

    Args:
        ax: Axes on which the features are drawn at 0, 1, ...
        names: Names of all features.

    Example:
        >>> ax = new_axes(2, 2)
        >>> name_features(ax, np.array(["height", "a very long name"]))
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['height', 'a very long…']
    """
    if len(names) > MOST_NAMES:
        ax.set_xlabel("feature")
        return
    text = [shortened(name) for name in names]
    rotation = 90 * (max(map(len, text)) > 2)
    ax.set_xticks(range(len(text)), text, rotation=rotation, fontsize="small")


def scatter(ax: "Axes", points: np.ndarray, labels: np.ndarray | None, name: str = "label") -> None:
    """Points, coloured by class with a legend, or by number with a colour bar."""
    size = float(np.clip(9000 / len(points), 4, 36))
    style: dict[str, Any] = {"s": size, "alpha": 0.8, "linewidths": 0}
    if labels is None:
        ax.scatter(*points.T, color=BLUE, **style)
        return
    classes = np.unique(labels)
    if np.issubdtype(labels.dtype, np.number) and len(classes) > len(COLOURS):
        drawn = ax.scatter(points[:, 0], points[:, 1], c=labels, cmap="viridis", **style)
        ax.figure.colorbar(drawn, ax=ax, label=name)
        return
    for i, each in enumerate(classes):
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        ax.scatter(*points[labels == each].T, color=colour, marker=marker, label=str(each), **style)
    ax.legend(title=name, ncols=-(-len(classes) // 15), **BESIDE)


def k_hat_classes(k_hat: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and members of each class of k-hat, the same in every picture."""
    low, high = K_HATS
    return [
        (f"good, k ≤ {low}", BLUE, k_hat <= low),
        (f"usable, k ≤ {high}", ORANGE, (k_hat > low) & (k_hat <= high)),
        (f"a bound, k > {high}", VERMILION, k_hat > high),
    ]


def k_hat_edges(k_hat: np.ndarray) -> np.ndarray:
    """Edges of a histogram that has 0.5 and 0.7 among them."""
    if not len(k_hat):
        return np.linspace(0, 1, 11)
    per_unit = (10, 20, 50)[np.searchsorted([200, 2000], len(k_hat), side="right")]
    first = np.floor(k_hat.min() * per_unit)
    last = np.ceil(k_hat.max() * per_unit)
    return np.arange(first, last + 1.5) / per_unit


def leave_out_the_start(ax: "Axes", histories: Sequence[Sequence[float]]) -> None:
    """Fit the vertical axis to all but the first tenth of the epochs if those are far off."""
    late = np.concatenate([np.asarray(values[len(values) // 10 :]) for values in histories])
    span = float(np.ptp(late))
    if span > 0 and min(map(min, histories)) < late.min() - 0.5 * span:
        ax.set_ylim(late.min() - 0.05 * span, late.max() + 0.05 * span)
