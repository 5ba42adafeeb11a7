"""A saved run, and the command line on files: scores, imputations, anomalies and latents.

    python examples/saved_runs.py --output runs/saved

A VAE of benign tumours (ten measurements of cell nuclei, some cells empty) is trained in Python and
saved. The commands of the shell, `ppl-vae impute`, `anomaly` and `transform`, then read new.csv, of
benign and malignant tumours, and write files, which are read again for the picture: completed
values with their intervals beside the true ones, p-values, and latents. The commands are printed as
they would be typed.

--quick takes fewer rows and steps.
"""

# %% Tables in files

import argparse
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

import ppl_vae as pv
from ppl_vae.cli import app

SIZES, QUICK_SIZES = (100, 60, 20), (60, 12, 8)  # of calibration, and new ones of both kinds
HIDDEN = 0.05
STEPS, QUICK_STEPS = 2000, 20
LEVEL = 0.1
BLUE, ORANGE = "#0072B2", "#E69F00"


def tables(folder, num_calibration, num_benign, num_malignant):
    """The rows of training, and those of new.csv before cells were emptied; writes files."""
    table = load_breast_cancer(as_frame=True)
    rows = table.data.iloc[:, :10].round(4)
    rows.columns = rows.columns.str.replace(" ", "_")
    rng = np.random.default_rng(0)
    benign, malignant = (
        rows[table.target == kind].sample(frac=1, random_state=0) for kind in (1, 0)
    )
    end = num_calibration + num_benign
    good, new, train = benign[:num_calibration], benign[num_calibration:end], benign[end:]
    complete = pd.concat([new, malignant[:num_malignant]])

    def emptied(part):
        return part.mask(rng.random(part.shape) < HIDDEN)

    emptied(good).to_csv(folder / "good.csv", index_label="id")
    emptied(complete).to_csv(folder / "new.csv", index_label="id")
    return emptied(train), complete


# %% Train, save, and use from the shell


def saved(train, folder, num_steps):
    """A run in a folder."""
    data = pv.Dataset(train, name="benign")
    recipe = pv.recipe(data, num_steps=num_steps, progress=False)
    result = recipe.fit()
    options = {"keep_data": True, "overwrite": True}  # so that calibration is compared with it
    return pv.save_run(folder, recipe.model, recipe.guide, data, result, **options)


def shell(line):
    """Run a command as the shell does."""
    print(f"$ {line}")
    app(shlex.split(line.removeprefix("ppl-vae ")), standalone_mode=False)


def used(run, folder, imputing="", scoring=""):
    """What the commands write about the rows of new.csv."""
    new, good = folder / "new.csv", folder / "good.csv"
    completed, odd = folder / "completed.csv", folder / "anomalies.csv"
    latents = folder / "latents.csv"
    shell(f"ppl-vae impute {run} {new} --single{imputing} --output {completed} --quiet")
    calibrated = f"--calibration {good} --level {LEVEL}{scoring}"
    shell(f"ppl-vae anomaly {run} {new} {calibrated} --output {odd} --quiet")
    shell(f"ppl-vae transform {run} {new} --output {latents} --quiet")
    return [pd.read_csv(each, index_col=0) for each in (completed, odd, latents)]


# %% Everything, with a picture


def draw(complete, completed, odd, latents, is_malignant):
    """Completed values with intervals, sorted p-values, and two latents."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    axes[0].axline((0, 0), slope=1, color="0.7", lw=1)
    for name, column in complete.items():
        limits = [f"{name}.lower", f"{name}.upper"]  # of columns with imputed cells
        found = completed.reindex(columns=[name, *limits]).to_numpy()
        z = (np.column_stack([column, found]) - column.mean()) / column.std()
        truth, mean, low, high = z[np.isfinite(z).all(1)].T
        axes[0].errorbar(truth, mean, [mean - low, high - mean], fmt=".", color=BLUE, lw=0.7)
    axes[0].set(xlabel="true value, sd", ylabel="completed value and 95 % interval, sd")
    order = odd["p_value"].argsort(kind="stable")
    ranks = np.arange(1, len(odd) + 1)
    for kind, colour, name in ((False, BLUE, "benign"), (True, ORANGE, "malignant")):
        chosen = is_malignant[order] == kind
        p_values = odd["p_value"].to_numpy()[order][chosen]
        axes[1].plot(ranks[chosen], p_values, "o", ms=4, color=colour, label=name)
        of_kind = latents[is_malignant == kind]
        axes[2].plot(of_kind["z[0]"], of_kind["z[1]"], "o", ms=4, color=colour)
    axes[1].plot(ranks, LEVEL * ranks / len(odd), color="0.2", label=f"FDR {LEVEL:g}")
    axes[1].set(xlabel="rank of the row", ylabel="p-value", xscale="log", yscale="log")
    axes[1].legend(frameon=False)
    axes[2].set(xlabel="z[0]", ylabel="z[1]")
    return figure


def main(arguments=None):
    """Print the commands, draw saved_runs.png into the folder, and return what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/saved"))
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps")
    options = parser.parse_args(arguments)
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    sizes = QUICK_SIZES if options.quick else SIZES
    train, complete = tables(folder, *sizes)
    run = saved(train, folder / "run", QUICK_STEPS if options.quick else STEPS)
    faster = (" --method importance", " --no-refine") if options.quick else ()
    found = used(run, folder, *faster)
    is_malignant = np.arange(len(complete)) >= sizes[1]
    marked = found[1]["anomaly"].to_numpy(dtype=bool)
    print(
        f"{marked.sum()} rows are marked at a false discovery rate of {LEVEL}: "
        f"{(marked & is_malignant).sum()} of {is_malignant.sum()} malignant tumours, and "
        f"{(marked & ~is_malignant).sum()} of {(~is_malignant).sum()} benign ones"
    )
    draw(complete, *found, is_malignant).savefig(folder / "saved_runs.png", dpi=150)
    return run, complete, found


if __name__ == "__main__":
    main()
