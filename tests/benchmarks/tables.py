"""The recipe for tables beside plain densities, on eight tables: docs/tables.json.

    python tests/benchmarks/tables.py                       # whatever is not done yet
    python tests/benchmarks/tables.py --only wine digits
    python tests/benchmarks/tables.py --table               # print the table of what is there

A run is a table and one of five splits: a quarter of the rows is for testing. Everything is chosen
on the other rows. The recipe is `pv.recipe` with its defaults, log p(x) from 2,000 particles. The
other densities are independent marginals, factor analysis, Gaussian mixtures and kernel densities
of standardised columns; their sizes are chosen on a fifth of the training rows, and so is the one
that the recipe is compared with. Columns with ties are made continuous, for all alike, by uniform
noise as wide as their rounding. The digits are counts: the recipe and mixtures of independent
counts give probabilities, and continuous densities are integrated over the cell of each row by
fifty draws in it.

Besides scikit-learn it takes tables from palmerpenguins, statsmodels and causaldata, which the
library does not need: pip install palmerpenguins statsmodels causaldata."""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import ppl_vae as pv
from ppl_vae.runtime.files import write_whole

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "tables.json"
NUM_SPLITS = 5
NUM_PARTICLES = 2000
IN_CELL = 50  # draws within the cell of a row of counts
COUNTS = "digits"

Scores = dict[str, np.ndarray]  # log p(x) of each test row, by density


# --- tables ---------------------------------------------------------------------------------------


def penguins() -> np.ndarray:
    """Four measurements of 342 penguins."""
    import palmerpenguins

    columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    return palmerpenguins.load_penguins()[columns].dropna().to_numpy()


def schools() -> np.ndarray:
    """Twelve properties of 303 Californian school districts."""
    from statsmodels.datasets import star98

    return star98.load_pandas().data.iloc[:, 2:14].to_numpy()


def countries() -> np.ndarray:
    """Life expectancy, log population and log income of 142 countries in twelve years."""
    from causaldata import gapminder

    frame = gapminder.load_pandas().data
    logs = np.log(frame[["pop", "gdpPercap"]].to_numpy(float))
    return np.column_stack([frame["lifeExp"], logs])


def smokers() -> np.ndarray:
    """Nine measurements of 1,533 smokers (NHEFS)."""
    from causaldata import nhefs_complete

    columns = ["age", "sbp", "dbp", "ht", "wt71", "wt82", "smokeintensity", "smokeyrs", "school"]
    return nhefs_complete.load_pandas().data[columns].dropna().to_numpy(float)


TABLES: dict[str, Callable[[], np.ndarray]] = {
    "breast cancer": lambda: load_breast_cancer().data,
    "wine": lambda: load_wine().data,
    "diabetes": lambda: load_diabetes(scaled=False).data,
    COUNTS: lambda: load_digits().data,
    "penguins": penguins,
    "schools": schools,
    "countries": countries,
    "smokers": smokers,
}


def without_ties(x: np.ndarray) -> np.ndarray:
    """Columns with equal values get uniform noise as wide as the smallest difference."""
    rng = np.random.default_rng(0)
    columns = []
    for column in x.T.astype(float):
        values = np.unique(column)
        width = np.diff(values).min() if len(values) < len(column) else 0.0
        columns.append(column + width * (rng.random(len(column)) - 0.5))
    return np.column_stack(columns)


def split(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three quarters and a quarter of the rows."""
    order = np.random.default_rng(seed).permutation(len(x))
    num_test = len(x) // 4
    return x[order[num_test:]], x[order[:num_test]]


# --- densities ------------------------------------------------------------------------------------


def candidates(num_columns: int) -> dict[str, list[Any]]:
    """The densities of each kind, of all sizes that are tried."""
    mixtures = [
        GaussianMixture(size, covariance_type=kind, reg_covar=ridge, random_state=0)
        for size in (1, 2, 3, 4, 6, 8, 12, 16)
        for kind in ("full", "tied", "diag")
        for ridge in (1e-6, 1e-3, 1e-2, 1e-1)
    ]
    factors = [FactorAnalysis(k) for k in (1, 2, 3, 4, 5, 8, 12, 16) if k < num_columns]
    return {
        "independent marginals": [GaussianMixture(1, covariance_type="diag")],
        "factor analysis": factors,
        "Gaussian mixture": mixtures,
        "kernel density": [KernelDensity(bandwidth=h) for h in np.geomspace(0.05, 1.5, 12)],
    }


def chosen(kind: list[Any], train: np.ndarray) -> tuple[Any, float]:
    """The size with the best mean log p(x) of a fifth of the training rows, and that mean."""
    num_fitted = len(train) - len(train) // 5
    scores = []
    for each in kind:
        try:
            fitted = clone(each).fit(train[:num_fitted])
            scores.append(float(fitted.score_samples(train[num_fitted:]).mean()))
        except ValueError:  # a covariance matrix that is not positive definite
            scores.append(-np.inf)
    best = int(np.argmax(scores))
    return kind[best], scores[best]


def densities(train: np.ndarray, cells: np.ndarray) -> tuple[Scores, dict[str, float]]:
    """log p of test rows by density, averaged over the draws of `cells` (draws, N, D) within the
    cell of each row, and the scores that they were chosen by."""
    mean, sd = train.mean(0), train.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    standardised = (train - mean) / sd
    rows = ((cells - mean) / sd).reshape(-1, train.shape[1])
    found, scores = {}, {}
    for name, kind in candidates(train.shape[1]).items():
        best, score = chosen(kind, standardised)
        log_p = clone(best).fit(standardised).score_samples(rows).reshape(cells.shape[:2])
        found[name] = logsumexp(log_p, axis=0) - np.log(len(cells)) - np.log(sd).sum()
        scores[name] = score - np.log(sd).sum()
    return found, scores


def of_counts(train: np.ndarray, test: np.ndarray, model: Any) -> tuple[Scores, dict[str, float]]:
    """The same for counts, with mixtures of independent columns beside the densities."""
    rng = np.random.default_rng(0)
    noisy = train + rng.random(train.shape) - 0.5
    cells = test + rng.random((IN_CELL, *test.shape)) - 0.5
    found, scores = densities(noisy, cells)
    num_fitted = len(train) - len(train) // 5
    inner = independent(train[:num_fitted], train[num_fitted:], model)
    scores |= {name: float(log_p.mean()) for name, log_p in inner.items()}
    return found | independent(train, test, model), scores


def independent(train: np.ndarray, test: np.ndarray, model: Any) -> Scores:
    """Independent columns of the model's families, and mixtures of such."""
    rows = np.concatenate([train, test])
    splits = {"train": range(len(train)), "test": range(len(train), len(rows))}
    data = pv.Dataset(rows, feature_names=model.likelihood.names, splits=splits)
    found = pv.baselines(data, model.likelihood)
    return {
        "mixture of independent columns" if "mixture" in name else name: evidence.log_evidence
        for name, evidence in found.items()
    }


def run(name: str, seed: int) -> dict[str, Any]:
    """Means, and the paired difference from the density that the training rows choose."""
    x = TABLES[name]() if name == COUNTS else without_ties(TABLES[name]())
    train, test = split(x, seed)
    found = pv.recipe(train, seed=seed, progress=False)
    found.fit()
    evidence = pv.log_evidence(
        found.model, found.guide, test, num_particles=NUM_PARTICLES, seed=seed, progress=False
    )
    if name == COUNTS:
        others, scores = of_counts(train, test, found.model)
    else:
        others, scores = densities(train, test[None])
    best = max(scores, key=lambda each: scores[each])
    gain = evidence.log_evidence - others[best]
    marginals = next(each for each in others if each.startswith("independent"))
    return {
        "recipe": float(evidence.log_evidence.mean()),
        "others": {each: float(values.mean()) for each, values in others.items()},
        "best": best,
        "gain": float(gain.mean()),
        "se": float(gain.std(ddof=1) / np.sqrt(len(gain))),
        "over marginals": float((evidence.log_evidence - others[marginals]).mean()),
        "bounds": float(np.mean(~evidence.is_estimate)),
    }


# --- all of them, and the table -------------------------------------------------------------------


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(runs: dict[str, Any]) -> None:
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(runs[key])}" for key in sorted(runs))
    write_whole(RESULTS, lambda path: path.write_text(f"{{\n{lines}\n}}\n"))


def table(runs: dict[str, Any]) -> str:
    """A line for each table: means over the splits, in nats per row."""
    rows = [
        "| table | recipe | best other | gain | splits below -2 se | over marginals | bounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in TABLES:
        found = [run for key, run in runs.items() if key.startswith(f"{name} |")]
        if not found:
            continue
        gains = np.array([run["gain"] for run in found])
        names = [run["best"] for run in found]
        usual = max(set(names), key=names.count)
        below = sum(run["gain"] < -2 * run["se"] for run in found)
        others = np.mean([run["others"][run["best"]] for run in found])
        rows.append(
            f"| {name} ({len(found)} splits) | {np.mean([r['recipe'] for r in found]):.2f} | "
            f"{others:.2f}, {usual} | {gains.mean():+.2f} ({gains.min():+.2f} to "
            f"{gains.max():+.2f}) | {below} | "
            f"{np.mean([r['over marginals'] for r in found]):+.2f} | "
            f"{np.mean([r['bounds'] for r in found]):.0%} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(0 if options.table else NUM_SPLITS):
        for name in options.only:
            key = f"{name} | {seed}"
            if key not in read():
                write(read() | {key: run(name, seed)})
    print(table(read()))


if __name__ == "__main__":
    main()
