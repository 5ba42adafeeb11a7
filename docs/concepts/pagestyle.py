"""Style of the pictures on these pages: no ground, and legible on a light and on a dark page."""

import sys

import matplotlib.pyplot as plt

GREY = "#808080"
BLUE = "#2a8fd0"
ORANGE = "#e08a00"
GREEN = "#1a9e78"
PINK = "#cc6fa5"

plt.rcParams.update(
    {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PINK]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "figure.dpi": 120,
    }
    | dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY
    )
)

if "ipykernel" in sys.modules:
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", "png")  # the gallery shows PNG
