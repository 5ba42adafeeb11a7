"""Draw the pictures of the pages that no example draws, into docs/images.

    python docs/pictures.py table runs/tumours.csv
    ppl-vae fit runs/tumours.csv --output runs/tumours --test 0.2
    ppl-vae report runs/tumours
    python docs/pictures.py checklist runs/tumours
    python docs/pictures.py k_hat runs/tumours
    make demo
    python docs/pictures.py demo runs/demo
    python docs/pictures.py report_uses runs/demo
    python docs/pictures.py calibration_pair runs/demo
    ppl-vae compare examples/study.toml --output runs/study
    python docs/pictures.py compare_models runs/study

Each picture is a function of the folder of a run.
"""

import argparse
import re
import shutil
import textwrap
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import ppl_vae as pv
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ppl_vae.diagnostics import (
    guide_errors,
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
)
from ppl_vae.evidence.pareto import GOOD_K
from scipy.stats import gaussian_kde
from sklearn.datasets import load_breast_cancer

HIGHEST = 2.0
NUM_ROWS = 20  # digits beside Hamiltonian Monte Carlo
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
    figure, ax = plt.subplots(figsize=(7.4, 4.6), layout="constrained")
    for y, (name, line) in enumerate(table.iterrows()):
        badge(ax, y, line["verdict"])
        ax.text(
            0.16, y, str(name), va="center", fontsize=10, weight="bold"
        )
        says = textwrap.shorten(
            re.split("[:.;]", line["says"])[0], 78, placeholder=" ..."
        )
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
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        frameon=False,
        fontsize="small",
        title="k-hat of 300 held-out digits",
    )
    return figure


def calibration_pair(run: Path) -> Figure:
    """Three latent dimensions of the digit on which the guide is furthest from HMC."""
    loaded = pv.load_run(run)
    rows = loaded.data.test[:NUM_ROWS]
    errors = guide_errors(loaded.model, loaded.guide, rows)
    row, worst = np.unravel_index(
        np.nanargmax(np.abs(errors.shift)), errors.shift.shape
    )
    others = np.argsort(-np.abs(errors.shift[row]))[1:3]
    chosen = sorted([int(worst), *map(int, others)])
    name = rows.row_labels[row]
    drawn = {
        label: tree["posterior"]["z"]
        .sel(datum=name)
        .stack(draws=("chain", "draw"))
        .transpose("latent", "draws")
        .to_numpy()[chosen]
        for label, tree in errors.trees().items()
    }
    figure, axes = plt.subplots(
        3, 3, figsize=(6.4, 5.8), layout="constrained"
    )
    for i, j in product(range(3), repeat=2):
        panel(axes[i, j], drawn, i, j)
        if i == 2 and j <= i:
            axes[i, j].set_xlabel(f"z[{chosen[j]}]")
        if j == 0 and i:
            axes[i, j].set_ylabel(f"z[{chosen[i]}]")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 2].legend(handles, labels, loc="center", frameon=False)
    shift = abs(errors.shift[row, worst])
    figure.suptitle(
        f"Digit {name}: the guide's z[{worst}] is {shift:.1f} sd off",
        fontsize="medium",
    )
    return figure


def panel(ax: Axes, drawn: dict, i: int, j: int) -> None:
    """A density on the diagonal, contours below it."""
    if j > i:
        ax.axis("off")
        return
    styles = {"HMC": (BLUE, "-"), "guide": (ORANGE, "--")}
    for label, draws in drawn.items():
        colour, line = styles[label]
        low, high = np.percentile(draws, [0.1, 99.9], axis=1)
        x = np.linspace(low[j] - 0.3, high[j] + 0.3, 60)
        if i == j:
            density = gaussian_kde(draws[i])(x)
            ax.plot(x, density, line, color=colour, label=label)
            continue
        y = np.linspace(low[i] - 0.3, high[i] + 0.3, 60)
        grid = np.stack([each.ravel() for each in np.meshgrid(x, y)])
        density = gaussian_kde(draws[[j, i]])(grid).reshape(60, 60)
        levels = density.max() * np.array([0.1, 0.35, 0.7])
        ax.contour(
            x, y, density, levels, colors=colour, linestyles=line
        )
    if i == j:
        ax.set_yticks([])
    ax.label_outer()


def report_uses(run: Path) -> Figure:
    """The last part of the page: contrasts, denoising, compression."""
    names = [
        ["contrast-of-two-groups-1", "contrast-of-two-groups-2"],
        ["denoising-1", "compression-1"],
    ]
    figure, axes = plt.subplots(
        2, 2, figsize=(9.0, 5.6), layout="constrained"
    )
    for ax, name in zip(axes.flat, sum(names, []), strict=True):
        ax.imshow(plt.imread(run / "report" / f"{name}.png"))
        ax.axis("off")
    return figure


PICTURES = {
    "calibration_pair": calibration_pair,
    "checklist": checklist,
    "demo": demo,
    "k_hat": k_hat,
    "report_uses": report_uses,
}


def table(path: Path) -> None:
    """Write the table of 569 tumours that the landing page shows."""
    load_breast_cancer(as_frame=True).data.to_csv(path, index=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "name", choices=["table", "compare_models", *PICTURES]
    )
    parser.add_argument(
        "path",
        type=Path,
        help="the folder of a run, or the .csv to write",
    )
    options = parser.parse_args(arguments)
    if options.name == "table":
        table(options.path)
        return
    if options.name == "compare_models":  # the study has drawn it
        drawn = options.path / "comparison.png"
        shutil.copy(drawn, IMAGES / "compare_models.png")
        return
    PICTURES[options.name](options.path).savefig(
        IMAGES / f"{options.name}.png", dpi=130
    )


if __name__ == "__main__":
    main()
