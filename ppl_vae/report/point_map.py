"""A map of rows as points, which the page draws and tells of under the pointer."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_vae.diagnostics.axes import COLOURS, k_hat_classes

__all__ = ["PointMap", "by_class", "by_k_hat", "by_number", "pixels"]

MOST_CLASSES = 30
MOST_BYTES = 600_000  # of pictures in the page
UNKNOWN = "unknown"
GREY = "#8a8a90"


@dataclass(frozen=True)
class PointMap:
    """Points with names, several ways to colour them, and what is shown for each.

    Args:
        points: Places, (N, 2).
        axes: What the coordinates are.
        names: Names of the rows.
        colours: From `by_class`, `by_k_hat`, `by_number`.
        texts: A line on each row, or none.
        pictures: From `pixels`, or none.

    Example:
        >>> here = PointMap(np.zeros((1, 2)), ["a", "b"], ["row 0"], [by_number("x", np.ones(1))])
        >>> here.data["points"], here.data["colours"][0]["shown"]
        ([[0.0, 0.0]], ['1.00'])
    """

    points: np.ndarray
    axes: Sequence[str]
    names: Sequence[str]
    colours: Sequence[dict[str, Any]]
    texts: Sequence[str] = ()
    pictures: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """Plain values for the page's script."""
        return {
            "points": np.round(self.points, 4).tolist(),
            "axes": list(self.axes),
            "names": list(self.names),
            "colours": list(self.colours),
            "texts": list(self.texts),
            "pictures": self.pictures,
        }


def by_class(name: str, labels: np.ndarray) -> dict[str, Any] | None:
    """Colours by class; None where there are too many classes for that.

    Example:
        >>> by_class("label", np.array(["b", "a", "b"]))["levels"]
        ['a', 'b']
    """
    classes, places = np.unique(labels.astype(str), return_inverse=True)
    if len(classes) > MOST_CLASSES:
        return None
    levels = [str(each) for each in classes]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(levels))]
    return _classes(name, levels, colours, places, [levels[place] for place in places])


def by_k_hat(k_hat: np.ndarray) -> dict[str, Any]:
    """Colours by the classes of k-hat.

    Example:
        >>> by_k_hat(np.array([0.1, 0.9, np.nan]))["places"]
        [0, 2, 3]
    """
    classes = k_hat_classes(k_hat)
    places = np.full(len(k_hat), len(classes))
    for place, (_, _, inside) in enumerate(classes):
        places[inside] = place
    levels = [*(name for name, _, _ in classes), UNKNOWN]
    colours = [*(colour for _, colour, _ in classes), GREY]
    return _classes("k-hat", levels, colours, places, _written(k_hat))


def by_number(name: str, values: np.ndarray) -> dict[str, Any]:
    """Colours on a scale, whose ends are the 2nd and the 98th percentile.

    Example:
        >>> by_number("log p(x)", np.array([-3.0, -1.0]))["ends"]
        ['-2.96', '-1.04']
    """
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [2, 98]) if len(known) else (0.0, 0.0)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    places = [None if np.isnan(place) else round(float(place), 3) for place in scaled]
    ends = [f"{low:.2f}", f"{high:.2f}"]
    return {"name": name, "scale": places, "ends": ends, "shown": _written(values)}


def pixels(pictures: np.ndarray) -> dict[str, Any]:
    """Pictures in [0, 1] as bytes; empty where they would make the page large.

    Example:
        >>> pixels(np.ones((2, 1, 3)))
        {'width': 3, 'height': 1, 'channels': 1, 'bytes': ['////', '////']}
    """
    if pictures.size > MOST_BYTES:
        return {}
    channels = 1 if pictures.ndim == 3 else pictures.shape[-1]
    levels = np.round(255 * np.nan_to_num(pictures, nan=0.5).clip(0, 1)).astype(np.uint8)
    encoded = [base64.b64encode(each.tobytes()).decode("ascii") for each in levels]
    height, width = pictures.shape[1:3]
    return {"width": width, "height": height, "channels": channels, "bytes": encoded}


def _classes(
    name: str, levels: list[str], colours: list[str], places: np.ndarray, shown: list[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "levels": levels,
        "colours": colours,
        "places": places.tolist(),
        "shown": shown,
    }


def _written(values: np.ndarray) -> list[str]:
    return [UNKNOWN if np.isnan(value) else f"{value:.2f}" for value in values]
