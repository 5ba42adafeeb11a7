"""Draw the pictures of the pages that no example draws, into docs/images.

    python docs/pictures.py table runs/tumours.csv
    ppl-vae fit runs/tumours.csv --output runs/tumours --test 0.2
    ppl-vae report runs/tumours
    python docs/pictures.py checklist runs/tumours
    python docs/pictures.py k_hat runs/tumours
    make demo
    python docs/pictures.py demo runs/demo

Each picture is a function of the folder of a run.
"""

import argparse
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import ppl_vae as pv
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ppl_vae.diagnostics import (
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
)
from ppl_vae.evidence.pareto import GOOD_K
from sklearn.datasets import load_breast_cancer

HIGHEST = 2.0
IMAGES = Path(__file__).resolve().parent / "images"
# Okabe and Ito's green, orange, vermilion and grey; the words tell the verdicts apart as well.
COLOURS = {
    "pass": "#009E73",
    "look": "#E69F00",
    "fail": "#D55E00",
    "skipped": "#999999",
}
BLUE, ORANGE = "#0072B2", "#E69F00"


def checklist(run: Path) -> Figure:
    """The lines of the report, each with its verdict, but for those that were skipped."""
    with xr.open_datatree(run / "report.nc", engine="h5netcdf") as tree:
        table = tree["verdicts"].to_dataset().to_dataframe()
    table = table[table["verdict"] != "skipped"]
    figure, ax = plt.subplots(figsize=(6.4, 4.3), layout="constrained")
    for y, (name, line) in enumerate(table.iterrows()):
        badge(ax, y, line["verdict"])
        ax.text(
            0.16, y, str(name), va="center", fontsize=10, weight="bold"
        )
        says = re.split("[:.;]", line["says"])[0]
        ax.text(
            1.0,
            y,
            says,
            va="center",
            ha="right",
            fontsize=8,
            color="#444444",
        )
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6))
    ax.axis("off")
    return figure


def badge(ax: Axes, y: float, verdict: str) -> None:
    box = {"boxstyle": "round,pad=0.3", "color": COLOURS[verdict]}
    ax.text(
        0.06,
        y,
        verdict,
        va="center",
        ha="center",
        fontsize=9,
        weight="bold",
        color="w",
        bbox=box,
    )


def k_hat(run: Path) -> Figure:
    """k-hat of each test row under the encoder and after `refine`, sorted by the former."""
    loaded = pv.load_run(run)
    parts = loaded.model, loaded.guide
    test = loaded.data.test
    encoder = pv.log_evidence(*parts, test, progress=False)
    guide = pv.refine(*parts, test, progress=False)
    refined = pv.log_evidence(loaded.model, guide, test, progress=False)
    order = np.argsort(encoder.pareto_k)
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    drawn = {
        "encoder": (encoder, ORANGE, "o"),
        "after refine": (refined, BLUE, "^"),
    }
    for name, (evidence, colour, marker) in drawn.items():
        label = f"{name}: above 0.7 for {np.mean(evidence.pareto_k > GOOD_K):.0%} of the rows"
        values = evidence.pareto_k[order].clip(max=HIGHEST)
        ax.plot(values, marker, color=colour, markersize=4, label=label)
    ax.axhline(GOOD_K, color="black", linewidth=0.8, linestyle="--")
    ax.set(
        xlabel=f"{len(order)} held-out rows, in the order of the encoder's k-hat",
        ylabel=f"Pareto k-hat (above {HIGHEST}: drawn at {HIGHEST})",
    )
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
    )
    return figure


def demo(run: Path) -> Figure:
    """Reconstructions, posterior means by class, and k-hat of the test rows."""
    loaded = pv.load_run(run)
    test = loaded.data.test
    figure = plt.figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["reconstructions", "reconstructions"], ["latent", "k-hat"]],
        height_ratios=(1, 2.4),
        width_ratios=(1.5, 1),
    )
    plot_reconstructions(
        loaded.model,
        loaded.guide,
        test,
        12,
        axes=axes["reconstructions"],
    )
    plot_latent(loaded.model, loaded.guide, test, ax=axes["latent"])
    plot_k_hat(pv.Evidence.load(run / "evidence.npz"), axes["k-hat"])
    axes["reconstructions"].set_title(
        "held-out digits and their reconstructions"
    )
    axes["latent"].set_title("posterior means, by class")
    axes["latent"].set_aspect("auto")
    axes["k-hat"].legend(
        loc="upper right", frameon=False, fontsize="small"
    )
    axes["k-hat"].set_title("k-hat of 300 held-out digits")
    return figure


PICTURES = {"checklist": checklist, "demo": demo, "k_hat": k_hat}


def table(path: Path) -> None:
    """Write the table of 569 tumours that the landing page shows."""
    load_breast_cancer(as_frame=True).data.to_csv(path, index=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", choices=["table", *PICTURES])
    parser.add_argument(
        "path",
        type=Path,
        help="the folder of a run, or the .csv to write",
    )
    options = parser.parse_args(arguments)
    if options.name == "table":
        table(options.path)
        return
    PICTURES[options.name](options.path).savefig(
        IMAGES / f"{options.name}.png", dpi=130
    )


if __name__ == "__main__":
    main()
