"""A table with holes: twenty imputations, a pooled regression, and its sensitivity.

    python examples/imputation.py --output runs/imputation

Blood pressure depends on age, dose and sex; the higher it is, the likelier that it was measured, by
way of what is observed: values are missing at random, but not completely so. Complete cases lose
rows, and their mean pressure is wrong. The table is imputed twenty times, by twenty fits to
bootstrap samples, the regression is run on each completed table and pooled. The last cell asks how
far from missing at random the table may be before the conclusion on the dose changes.

--quick takes fewer rows, steps and fits.
"""

# %% The table

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import ppl_vae as pv
from ppl_vae.tasks import plot_tipping_point

NUM_ROWS = 800
NUM_STEPS = 2000
NUM_FITS = 20
QUICK = (300, 300, 3)
EFFECT = -6.0  # of the dose, in mmHg
NAMES = ("intercept", "age", "dose", "male")


def simulate(num_rows, seed=0):
    """The complete table, and the same with holes."""
    rng = np.random.default_rng(seed)
    age = rng.normal(55, 10, num_rows)
    male = rng.random(num_rows) < 0.5
    dose = rng.normal(1.5, 1, num_rows)
    pressure = 140 + 0.6 * (age - 55) + EFFECT * dose + 4 * male + rng.normal(0, 8, num_rows)
    score = pressure + rng.normal(0, 8, num_rows)
    grade = pd.cut(score, [-np.inf, 125, 145, np.inf], labels=["low", "mid", "high"])
    columns = {"pressure": pressure, "age": age, "dose": dose, "male": male, "grade": grade}
    complete = pd.DataFrame(columns)
    frame = complete.copy()
    # The lower the grade, which is always observed, the more often the pressure is missing.
    chance = np.array([0.6, 0.3, 0.1])[grade.codes]
    frame["pressure"] = frame["pressure"].mask(rng.random(num_rows) < chance)
    frame["age"] = frame["age"].mask(rng.random(num_rows) < 0.15)
    frame["dose"] = frame["dose"].mask(rng.random(num_rows) < 0.15)
    return complete, frame


# %% The analysis: least squares, with the covariance matrix of its coefficients


def regression(table):
    """Coefficients of the pressure on age, dose and sex, and their covariance matrix."""
    table = table[["pressure", "age", "dose", "male"]].dropna().astype(float)
    covariates = [np.ones(len(table)), table["age"] - 55, table["dose"], table["male"]]
    design = np.column_stack(covariates)
    pressure = table["pressure"].to_numpy()
    coefficients = np.linalg.lstsq(design, pressure)[0]
    residuals = pressure - design @ coefficients
    variance = residuals @ residuals / (len(table) - len(NAMES))
    return coefficients, variance * np.linalg.inv(design.T @ design)


# %% Twenty imputations, from as many fits


def imputed(frame, num_steps, num_fits):
    """Twenty completed tables."""
    recipe = pv.recipe(frame, num_steps=num_steps)
    recipe.fit()
    fits = pv.bootstrap_fits(
        recipe.model,
        recipe.guide,
        recipe.data,
        objective=recipe.objective,
        num_fits=num_fits,
    )
    return pv.impute(recipe.model, recipe.guide, frame, fits=fits)


# %% Everything, with a picture of the sensitivity


def main(arguments=None):
    """Draw imputation.png into the folder; return what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/imputation"))
    parser.add_argument("--quick", action="store_true", help="fewer rows, steps and fits")
    options = parser.parse_args(arguments)
    num_rows, num_steps, num_fits = QUICK if options.quick else (NUM_ROWS, NUM_STEPS, NUM_FITS)
    options.output.mkdir(parents=True, exist_ok=True)
    complete, frame = simulate(num_rows)
    imputations = imputed(frame, num_steps, num_fits)
    print(imputations)
    pooling = {"dfcom": num_rows - len(NAMES), "names": NAMES}
    pooled = pv.pool([regression(table) for table in imputations], **pooling)
    print(pooled)
    print(pooled.test(["age", "dose"]))
    deltas = np.linspace(-40, 40, 9)
    found = pv.tipping_point(
        imputations, "pressure", regression, deltas, estimate="dose", scale="shift", **pooling
    )
    print(found)
    figure = plot_tipping_point(found).figure
    figure.savefig(options.output / "imputation.png", dpi=150)
    return complete, frame, imputations, pooled, found


if __name__ == "__main__":
    main()
