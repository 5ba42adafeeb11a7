"""The elements of a page: pictures, tables, panels."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import AutoLocator

from ppl_vae.report.point_map import PointMap

__all__ = [
    "SIZE",
    "Panel",
    "Picture",
    "Table",
    "draw",
    "number",
    "sentence",
    "shown_value",
    "slug",
    "thumbnail",
]

SIZE = (4.2, 3.1)  # inches, of one of several pictures side by side: they line up
PIXELS_PER_INCH = 96  # of a browser
THUMBNAIL = 56  # pixels
STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "savefig.dpi": 160,
    "text.parse_math": False,  # a feature may be called "price in $", and another one "$"
}


@dataclass(frozen=True)
class Picture:
    """A picture with a description in words.

    Args:
        png: The file.
        alt: A description for readers who do not see it.
        caption: What to look for.
        size: Width and height, pixels of a browser.
        name: Name of its file, without suffix.
        inverts: Whether a dark page may turn its light ground dark, as it may for a plot.

    Example:
        >>> Picture(b"...", "a line", name="line").src
        'data:image/png;base64,Li4u'
    """

    png: bytes = field(repr=False)
    alt: str
    caption: str = ""
    size: tuple[int, int] = (0, 0)
    name: str = ""
    inverts: bool = False

    @property
    def src(self) -> str:
        """The picture as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """Rows of text (or small pictures) under their headings.

    Args:
        columns: Headings.
        rows: Cells.
        caption: Its content.
        kind: "facts" for two columns, "text", "numbers", or "sortable".

    Example:
        >>> Table(["K", "bound"], [["1", "-90.1"]]).kind
        'numbers'
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    kind: str = "numbers"


@dataclass(frozen=True)
class Panel:
    """One part of the page: sentences, code, a chain of boxes, pictures, tables; or a problem.

    Args:
        says: Sentences.
        code: Text in fixed width.
        chain: Labels and details of boxes, with arrows between them.
        pictures: Side by side, all of one size.
        tables: Below them.
        points: A map that takes the place of the first picture where scripts run.
        page: Where the documentation explains it.
        title: Heading.
        problem: Why the panel is empty.

    Example:
        >>> Panel(["All is well."], title="Marginal PIT").id
        'marginal-pit'
    """

    says: Sequence[str] = ()
    code: str = ""
    chain: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    points: PointMap | None = None
    page: str = ""
    title: str = ""
    problem: str = ""

    @property
    def id(self) -> str:
        """The heading as an anchor."""
        return slug(self.title)

    @property
    def columns(self) -> int:
        """Number of pictures in a row."""
        return 2 if len(self.pictures) == 4 else min(len(self.pictures), 3)

    def entitled(self, title: str, page: str) -> "Panel":
        """The same with a heading, a page of the documentation, and pictures named after it."""
        name = slug(title)
        pictures = [
            replace(each, name=f"{name}-{i}") for i, each in enumerate(self.pictures, start=1)
        ]
        return replace(self, title=title, page=page, pictures=pictures)


def slug(title: str) -> str:
    """Letters and digits in lower case, with hyphens between words.

    Example:
        >>> slug("log p(x): bounds")
        'log-p-x-bounds'
    """
    return "-".join("".join(each if each.isalnum() else " " for each in title.lower()).split())


def number(value: float | None, digits: int = 3) -> str:
    """A number as the page writes it.

    Example:
        >>> number(-22.2424), number(None), number(float("-inf"))
        ('-22.242', 'unknown', '-∞')
        >>> number(-0.0001)
        '0.000'
    """
    if value is None or np.isnan(value):
        return "unknown"
    if np.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def shown_value(value: Any) -> str:
    """A cell of a table of observations.

    Example:
        >>> shown_value(0.123456), shown_value("male"), shown_value(None)
        ('0.1235', 'male', 'missing')
    """
    import pandas as pd

    if pd.isna(value):
        return "missing"
    is_number = isinstance(value, Number) and not isinstance(value, bool | np.bool_)
    return f"{value:.4g}" if is_number else str(value)


def sentence(said: object) -> str:
    """A text with a capital letter and a full stop.

    Example:
        >>> sentence("2 of 2 dimensions are active")
        '2 of 2 dimensions are active.'
    """
    text = str(said)
    return f"{text[:1].upper()}{text[1:]}."


@contextmanager
def _figures(num: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Axes, each on its own figure, in the style of the page; closed afterwards."""
    with plt.rc_context(STYLE):
        axes = np.array([plt.subplots(figsize=size)[1] for _ in range(num)], dtype=object)
        try:
            yield axes
        finally:
            for ax in axes:
                plt.close(ax.figure)


def draw(
    plot: Callable[[Any], Any],
    alts: Sequence[str] | str,
    caption: str = "",
    size: tuple[float, float] = SIZE,
    *,
    inverts: bool = True,
) -> list[Picture]:
    """Pictures that `plot` draws, one for each alternative text.

    Args:
        plot: Takes an array of Axes, or one Axes if `alts` is one text.
        alts: A description of each picture.
        caption: What to look for, below the last picture.
        size: Of each, inches.
        inverts: Whether a dark page may turn the ground dark; not if observations are shown.

    Example:
        >>> [picture] = draw(lambda ax: ax.plot([1, 2]), "a line that rises", size=(2, 1))
        >>> picture.png[1:4], picture.size
        (b'PNG', (192, 96))
    """
    texts = [alts] if isinstance(alts, str) else list(alts)
    with _figures(len(texts), size) as axes:
        plot(axes[0] if isinstance(alts, str) else axes)
        files = [_png(ax) for ax in axes.flat]
    pixels = (round(size[0] * PIXELS_PER_INCH), round(size[1] * PIXELS_PER_INCH))
    captions = [""] * (len(texts) - 1) + [caption]
    shared: dict[str, Any] = {"size": pixels, "inverts": inverts}
    return [Picture(*each, **shared) for each in zip(files, texts, captions, strict=True)]


def _png(ax: Axes) -> bytes:
    for axis in (ax.xaxis, ax.yaxis):
        # Matplotlib would write powers of ten, and too few numbers on a short axis.
        if axis.get_scale() == "log":
            low, high = sorted(axis.get_view_interval())  # an axis may point downwards
            if high < 10 * low:
                axis.set_major_locator(AutoLocator())
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    buffer = io.BytesIO()
    figure: Any = ax.figure
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def thumbnail(pixels: np.ndarray, alt: str, name: str) -> Picture:
    """A small picture of pixels in [0, 1], (height, width) or (height, width, 3); NaN is blue.

    Example:
        >>> thumbnail(np.eye(8), "datum 3", "datum-3").size
        (56, 56)
    """
    grey = matplotlib.colormaps["gray"].with_extremes(bad="#56B4E9")
    coloured = grey(np.ma.masked_invalid(pixels)) if pixels.ndim == 2 else np.nan_to_num(pixels)
    buffer = io.BytesIO()
    plt.imsave(buffer, coloured, format="png")
    height = round(THUMBNAIL * pixels.shape[0] / pixels.shape[1])
    return Picture(buffer.getvalue(), alt, size=(THUMBNAIL, height), name=name)
