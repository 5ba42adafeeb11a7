"""Anomalies with a false discovery rate: tumours that are not benign.

    python examples/anomalies.py --output runs/anomalies

The VAE is trained on benign tumours of the Wisconsin data (30 measurements of cell nuclei). Other
benign ones calibrate it: the p-value of a new tumour is the share of them that are at least as odd
by log p(x). Of the new tumours 60 are benign and 20 malignant; those discovered at a false
discovery rate of 0.1 are compared with the truth, and the columns that make the oddest one odd are
named. Discoveries are drawn above the rank of their p-values.

--quick takes fewer steps of training and of refinement.
"""

# %% Benign tumours for training, for calibration and for testing, and malignant ones

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

import ppl_vae as pv
from ppl_vae.tasks.anomaly import LogEvidence, plot_anomalies

NUM_CALIBRATION = 150
NUM_BENIGN, NUM_MALIGNANT = 60, 20
NUM_STEPS, QUICK_STEPS = 2000, 200
ALPHA = 0.1


def tumours(seed=0):
    """Rows for training and calibration, rows to test, and which of these are malignant."""
    table = load_breast_cancer(as_frame=True)
    rng = np.random.default_rng(seed)
    benign, malignant = (rng.permutation(np.flatnonzero(table.target == kind)) for kind in (1, 0))
    calibration, new, train = np.split(benign, [NUM_CALIBRATION, NUM_CALIBRATION + NUM_BENIGN])
    rows = np.concatenate([new, malignant[:NUM_MALIGNANT]])
    return [table.data.iloc[part] for part in (train, calibration, rows)], table.target[rows] == 0


# %% p-values, discoveries and the columns behind one of them


def detect(parts, num_steps, score):
    """P-values of the new rows, and of the columns of the oddest row."""
    train, calibration, rows = parts
    data = pv.Dataset(train, name="benign")
    recipe = pv.recipe(data, num_steps=num_steps, progress=False)
    recipe.fit()
    trained = (recipe.model, recipe.guide)
    options = {"score": score, "trained_on": data, "progress": False}
    found = pv.anomaly_pvalues(*trained, calibration, rows, **options)
    oddest = rows.iloc[[found.scores.argmax()]]
    known = calibration.iloc[:50]
    columns = pv.odd_columns(*trained, known, oddest, num_particles=100, progress=False)
    return found, columns


# %% Everything, with a picture


def main(arguments=None):
    """Print what is discovered, draw anomalies.png into the folder, and return what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/anomalies"))
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    score = LogEvidence(num_particles=100, refinement=None) if options.quick else LogEvidence()
    parts, is_malignant = tumours()
    found, columns = detect(parts, QUICK_STEPS if options.quick else NUM_STEPS, score)
    discovered = found.discoveries(ALPHA)
    print(found)
    print(found.to_frame()[discovered].sort_values("score", ascending=False).head())
    print(
        f"{discovered.sum()} discoveries at a false discovery rate of {ALPHA}: "
        f"{(discovered & is_malignant).sum()} of {is_malignant.sum()} malignant tumours, and "
        f"{(discovered & ~is_malignant).sum()} of {(~is_malignant).sum()} benign ones"
    )
    print(columns.iloc[0].sort_values().head())
    axes = plot_anomalies(found, ALPHA)
    axes.figure.savefig(options.output / "anomalies.png", dpi=150)
    return found, is_malignant, columns


if __name__ == "__main__":
    main()
