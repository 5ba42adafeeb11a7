"""A contrast: in what patients of the two sexes differ, at the same age.

    python examples/contrasts.py --output runs/contrasts

A VAE is trained on seven measurements of 442 patients with diabetes (Efron et al. 2004): body mass
index, blood pressure and five of blood serum. Sex and age are withheld. The sexes are compared, in
ten strata of age, in the latents and in the measurements that the model predicts, by the posterior
of the differences and by permutation p-values; so are two random halves, where there is nothing to
find. Then 40 patients are "measured" five times: over many random halves of them, how often is
something found if each measurement is permuted by itself, and how often if those of a patient stay
together? Drawn are the p-values of the first contrast.

--quick takes fewer steps of training, draws and random halves.
"""

# %% Patients, and a VAE that knows neither their sex nor their age

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

import ppl_vae as pv
from ppl_vae.diagnostics import latent_means
from ppl_vae.tasks.contrasts import Design, permutation_test, plot_contrast

NAMES = {
    "bmi": "body mass",
    "bp": "pressure",
    "s1": "cholesterol",
    "s2": "LDL",
    "s3": "HDL",
    "s5": "log triglyc.",
    "s6": "glucose",
}
NUM_SUBJECTS, NUM_COPIES = 40, 5
NUM_REPEATS, QUICK_REPEATS = 400, 60
NUM_STEPS, QUICK_STEPS = 2000, 150
ALPHA = 0.05


def patients():
    """Measurements, sexes and strata of age."""
    table = load_diabetes(as_frame=True, scaled=False).data
    sex = table["sex"].map({1.0: "sex 1", 2.0: "sex 2"})
    return table[list(NAMES)].rename(columns=NAMES), sex, pd.qcut(table["age"], 10, labels=False)


def train(rows, num_steps):
    """Model and guide of the measurements."""
    recipe = pv.recipe(pv.Dataset(rows), num_steps=num_steps, progress=False)
    recipe.fit()
    return recipe.model, recipe.guide


# %% Two contrasts


def contrasts(model, guide, rows, sex, age, options):
    """By sex, and by random halves, within strata of age."""
    half = np.random.default_rng(1).permutation(len(rows)) % 2
    return {
        "sex": pv.contrast(model, guide, rows, sex, strata=age, **options),
        "random halves": pv.contrast(model, guide, rows, half, strata=age, **options),
    }


# %% How often is something found where there is nothing? Rows and subjects


def false_findings(guide, rows, num_repeats, seed=2):
    """Share of random halves of patients with a finding, by rows and by subjects.

    Each patient is there several times, with 2 % of noise, as if measured again.
    """
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(len(rows)), NUM_COPIES)
    noise = 1 + 0.02 * rng.normal(size=(len(subjects), rows.shape[1]))
    repeated = rows.iloc[subjects].reset_index(drop=True) * noise
    means = latent_means(guide, pv.Dataset(repeated), progress=False).mean
    found = {"copies as rows": 0, "copies by subject": 0}
    for repeat in range(num_repeats):
        half = rng.permutation(len(rows)) % 2
        for name, units in zip(found, (None, subjects), strict=True):
            design = Design.of(len(subjects), half[subjects], subjects=units)
            test = permutation_test(design, means, 199, seed=repeat, progress=False)
            found[name] += test.max_t.min() <= ALPHA
    return {name: count / num_repeats for name, count in found.items()}


# %% Everything, with a picture


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/contrasts"))
    parser.add_argument("--quick", action="store_true", help="fewer steps and draws")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, sex, age = patients()
    model, guide = train(rows, QUICK_STEPS if options.quick else NUM_STEPS)
    settings = {"progress": False}
    if options.quick:
        settings |= {"num_samples": 50, "num_permutations": 999}
    found = contrasts(model, guide, rows, sex, age, settings)
    print(found["sex"], "\n")
    for name, each in found.items():
        print(f"{name}: {each.latents.verdict}, {each.features.verdict}")
    num_repeats = QUICK_REPEATS if options.quick else NUM_REPEATS
    shares = false_findings(guide, rows[:NUM_SUBJECTS], num_repeats)
    for name, share in shares.items():
        print(f"{name}: something is found in {share:.1%} of random halves, at {ALPHA:.0%}")
    axes = plot_contrast(found["sex"], ALPHA)
    axes[0].figure.savefig(options.output / "contrasts.png", dpi=150)
    plt.close(axes[0].figure)
    return found, shares


if __name__ == "__main__":
    main()
