"""Style of the pictures on these pages: no ground, and legible on a light and on a dark page."""

import re
import sys
from io import StringIO

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
        "axes.prop_cycle": plt.cycler(
            color=[BLUE, ORANGE, GREEN, PINK]
        ),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "font.size": 11,
    }
    | dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "axes.edgecolor",
            "xtick.color",
            "ytick.color",
        ),
        GREY,
    )
)

if "ipykernel" in sys.modules:
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")


def keep(name, figure):
    """Keep a picture under a name, by which the gallery shows it too."""
    from IPython.display import HTML
    from myst_nb import glue

    text = StringIO()
    figure.savefig(text, format="svg")
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    fluid = re.sub(
        r'height="[\d.]+pt"',
        'style="max-width: 100%; height: auto"',
        svg,
        count=1,
    )
    glue(name, HTML(fluid), display=False)
