"""What the plots are made of: pictures set side by side, panels, points, and the Axes they stand
on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.evidence.pareto import GOOD_K

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's colours first, then Tol's "muted" ones: told apart with any colour vision, with
# markers beside them.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"),
    *("#332288", "#999933", "#882255", "#555555"),
)
BLUE, ORANGE, VERMILION, MARKERS = COLOURS[0], COLOURS[1], COLOURS[5], "osD^vP<X>*"
K_HATS = (0.5, GOOD_K)
CHANNELS, MOST_BARS, MOST_NAMES, MOST_LETTERS = (3, 4), 40, 16, 12


def new_axes(width: float, height: float) -> "Axes":
    """One Axes on a figure of its own."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def whole_ticks(axis: "Axis") -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def as_pictures(values: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Data (N, *event) as pictures (N, height, width) or, in colour, (N, height, width,
    channels).
    """
    pictures = values.reshape(len(values), *image_shape)
    if pictures.ndim == 4 and image_shape[0] in (1, *CHANNELS) and image_shape[-1] not in CHANNELS:
        pictures = np.moveaxis(pictures, 1, -1)
    return pictures[..., 0] if pictures.ndim == 4 and pictures.shape[-1] == 1 else pictures


def tile(pictures: np.ndarray, num_columns: int) -> np.ndarray:
    """Pictures in rows of `num_columns` as one array; places left over are NaN."""
    left_over = -len(pictures) % num_columns
    filled = np.concatenate([pictures, np.full((left_over, *pictures.shape[1:]), np.nan)])
    rows = filled.reshape(-1, num_columns, *pictures.shape[1:])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def num_columns(num: int) -> int:
    """As many columns as make a filled grid, at least as wide as high; else as for a square."""
    square = int(np.ceil(np.sqrt(num)))
    return next(
        (columns for columns in range(square, 2 * square + 1) if num % columns == 0), square
    )


def show(ax: "Axes", pictures: np.ndarray, columns: int, missing: str) -> None:
    """Draw pictures in a grid on one Axes, white lines between them; NaN in the colour
    `missing`.
    """
    import matplotlib

    low, high = float(np.nanmin(pictures)), float(np.nanmax(pictures))
    if 0 <= low and high <= 1:
        low, high = 0.0, 1.0
    height, width = pictures.shape[1:3]
    image = tile(pictures, columns)
    if pictures.ndim == 4:
        image = np.clip((image - low) / (high - low), 0, 1)
    cmap = matplotlib.colormaps["gray"].with_extremes(bad=missing)
    ax.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    for edge in range(0, image.shape[1] + 1, width):
        ax.axvline(edge - 0.5, color="white", linewidth=2)
    for edge in range(0, image.shape[0] + 1, height):
        ax.axhline(edge - 0.5, color="white", linewidth=2)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def panels(
    x: np.ndarray, mean: np.ndarray, names: tuple[np.ndarray, np.ndarray], axes: Any
) -> np.ndarray:
    """One panel per datum: the data as bars (or a line, when there are many features), the
    reconstruction as dots.
    """
    own, axes = axes is None, _grid(len(x)) if axes is None else np.atleast_1d(axes).ravel()
    if len(axes) < len(x):
        raise ValueError(f"axes holds {len(axes)} Axes for {len(x)} data: give more, or lower num")
    x, mean = x.reshape(len(x), -1), mean.reshape(len(x), -1)
    places = np.arange(x.shape[1])
    for ax, values, fitted, datum in zip(axes, x, mean, names[0], strict=False):
        if len(places) <= MOST_BARS:
            ax.bar(places, values, color="0.75", label="data")
            ax.plot(places, fitted, "o", color=VERMILION, markersize=5, label="reconstruction")
        else:
            ax.plot(places, values, color="0.6", label="data")
            ax.plot(places, fitted, color=VERMILION, label="reconstruction")
        name_features(ax, names[1])
        ax.set_title(f"datum {datum}", fontsize="medium")
    for ax in axes[len(x) :]:
        ax.set_axis_off()
    if own:
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False
        )
    else:
        axes[0].legend(fontsize="small")
    return axes[: len(x)]


def _grid(num: int) -> np.ndarray:
    import matplotlib.pyplot as plt

    columns = min(num, 4)
    rows = -(-num // columns)
    size = (2.6 * columns + 0.4, 2.4 * rows + 0.6)
    return plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )[1].ravel()


def shortened(name: object) -> str:
    """A name that fits below an axis or into a legend."""
    text = str(name)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def name_features(ax: "Axes", names: np.ndarray) -> None:
    """Names of features at 0, 1, ... of the horizontal axis; where they are too many, the word.

    Args:
        ax: On which features are drawn at 0, 1, ...
        names: Of all of them.

    Example:
        >>> ax = new_axes(2, 2)
        >>> name_features(ax, np.array(["height", "a very long name"]))
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['height', 'a very long…']
    """
    if len(names) > MOST_NAMES:
        ax.set_xlabel("feature")
        return
    text = list(map(shortened, names))
    ax.set_xticks(
        range(len(text)), text, rotation=90 if max(map(len, text)) > 2 else 0, fontsize="small"
    )


def scatter(ax: "Axes", points: np.ndarray, labels: np.ndarray | None) -> None:
    """Points, coloured by class with a legend, or by number with a colour bar."""
    style: dict[str, Any] = {
        "s": float(np.clip(9000 / len(points), 4, 36)),
        "alpha": 0.8,
        "linewidths": 0,
    }
    if labels is None:
        ax.scatter(points[:, 0], points[:, 1], color=BLUE, **style)
        return
    classes = np.unique(labels)
    if np.issubdtype(labels.dtype, np.number) and len(classes) > len(COLOURS):
        drawn = ax.scatter(points[:, 0], points[:, 1], c=labels, cmap="viridis", **style)
        ax.figure.colorbar(drawn, ax=ax, label="label")
        return
    for i, name in enumerate(classes):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        ax.scatter(*points[labels == name].T, color=colour, marker=marker, label=str(name), **style)
    ax.legend(
        title="label",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=-(-len(classes) // 15),
        frameon=False,
    )


def k_hat_classes(k_hat: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """What to call each class of k-hat, its colour, and who is in it: the same in every picture."""
    low, high = K_HATS
    return [
        (f"good, k ≤ {low}", BLUE, k_hat <= low),
        (f"usable, k ≤ {high}", ORANGE, (k_hat > low) & (k_hat <= high)),
        (f"a bound, k > {high}", VERMILION, k_hat > high),
    ]


def k_hat_edges(k_hat: np.ndarray) -> np.ndarray:
    """Edges of a histogram that has 0.5 and 0.7 among them."""
    width = 0.1 if len(k_hat) < 200 else 0.05 if len(k_hat) < 2000 else 0.02
    low, high = (k_hat.min(), k_hat.max()) if len(k_hat) else (0.0, 1.0)
    return np.arange(np.floor(low / width), np.ceil(high / width) + 1.5) * width


def leave_out_the_start(ax: "Axes", histories: Sequence[Sequence[float]]) -> None:
    """Let the vertical axis begin at what was reached after a tenth of the epochs, where the start
    would flatten it.
    """
    late = np.concatenate([np.asarray(values[len(values) // 10 :]) for values in histories])
    span = float(np.ptp(late))
    if span > 0 and min(min(values) for values in histories) < late.min() - 0.5 * span:
        ax.set_ylim(late.min() - 0.05 * span, late.max() + 0.05 * span)
