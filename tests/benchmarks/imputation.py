"""Coverage of pooled intervals after multiple imputation: runs in docs/imputation.json, their table
in docs/imputation.md.

    python tests/benchmarks/imputation.py                       # whatever is not done yet
    python tests/benchmarks/imputation.py --only mixed --num-runs 20
    python tests/benchmarks/imputation.py --table               # the page alone

A run is a simulated table with missing values, completed 20 times by each method; means and
regression coefficients are pooled by `pv.pool`. Of each setting the sums over runs are kept, which
are written after each round; none is computed again. R with the package mice has to be there."""

import argparse
import copy
import json
import logging
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import imputers
import numpy as np
import pandas as pd
import torch
from scipy import stats
from simulated_missing import (
    SLOPE,
    TRUTHS,
    Setting,
    Truth,
    all_estimates,
    bootstrap_em,
    em,
    estimates,
    normal_imputations,
    residual_df,
    simulated,
)

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.runtime.files import write_whole
from ppl_vae.training.schedules import Cosine

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "imputation.json"
PAGE = DOCS / "imputation.md"
COMMAND = "python tests/benchmarks/imputation.py"
M = 20
LEVEL = 0.95
LOW, HIGH = 0.92, 0.98  # what intervals are to cover, within two standard errors
WIDEST = 1.25  # of the intervals of proper imputation under the true model
RECIPE_STEPS = 1000
COLD_STEPS = 300
NUM_ROUNDS = 400
FEWEST_RUNS = 20  # of a setting that is shown
COMPARED = 200  # runs of each setting in which mice and IterativeImputer, the slowest, take part
PARTICLES = 400
BROKEN = " ✗"

LINEAR = [
    Setting("linear-Gaussian", mechanism, share, num_rows)
    for num_rows in (200, 2000)
    for mechanism in ("MCAR", "MAR")
    for share in (0.1, 0.3, 0.5)
]
NUM_RUNS = dict.fromkeys(LINEAR, 1000) | {
    Setting("mixed", "MAR", 0.3, 200): 400,
    Setting("nonlinear", "MAR", 0.3, 200): 400,
    Setting("mixed", "MAR", 0.5, 200): 400,
    Setting("mixed", "MAR", 0.3, 2000): 100,
}
STARTS = {Setting("mixed", "MAR", 0.3, 200): 20, Setting("linear-Gaussian", "MAR", 0.3, 200): 20}
CLOSED_FORM, NUM_CLOSED = "starts: closed form", 40
OURS = "ppl_vae"
FIXED = "ppl_vae, theta fixed"
PROPER = "proper, true model"
COMPLETE = "complete cases"
WHOLE = "nothing missing"
SUMS = ("runs", "covered", "error", "error²", "se", "se²", "width")

Interval = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # estimate, se, both ends
Results = dict[str, Any]
EMPTY: Results = {"runs": 0, "sums": {}, "entries": [0, 0.0, 0.0]}


# --- one run --------------------------------------------------------------------------------------


def pooled(truth: Truth, tables: list[np.ndarray]) -> Interval:
    """Rubin's rules, with each estimate's own degrees of freedom."""
    values, variances = all_estimates(truth, tables)
    degrees = residual_df(truth, len(tables[0]))
    parts = [pv.pool(values[:, i], variances[:, i], dfcom=df) for i, df in enumerate(degrees)]
    ends = np.array([part.interval for part in parts])
    centre = np.array([part.estimate for part in parts])
    return centre, np.array([part.se for part in parts]), ends[:, 0], ends[:, 1]


def of_rows(truth: Truth, x: np.ndarray) -> Interval:
    """Estimates of the rows without a missing value."""
    complete = x[~np.isnan(x).any(1)]
    centre, variance = estimates(truth, complete)
    half = stats.t.ppf((1 + LEVEL) / 2, residual_df(truth, len(complete))) * np.sqrt(variance)
    return centre, np.sqrt(variance), centre - half, centre + half


def run(setting: Setting, seed: int, mice: imputers.Mice) -> tuple[dict[str, Interval], float]:
    """The intervals of every method, and the coverage of masked entries by `interval`."""
    truth = TRUTHS[setting.truth]
    complete, x = simulated(setting, seed)
    imputed = linear if setting.truth == "linear-Gaussian" else trained
    made, covered = imputed(setting, complete, x, seed)
    binary = [j for j in truth.discrete if truth.columns[j] == "treated"]
    if seed < COMPARED:
        made["mice"] = mice(x, M, seed, binary)
        made["IterativeImputer"] = imputers.iterative(x, M, seed)
    if setting.truth == "mixed":  # each column given the others has just these regressions
        made[PROPER] = mice(x, M, seed + 10**6, binary, ["", "", "logreg", "norm"])
    elif setting.truth == "nonlinear":
        made[PROPER] = imputers.curved(x, M, seed)
    found = {name: pooled(truth, tables) for name, tables in made.items()}
    return found | {COMPLETE: of_rows(truth, x), WHOLE: of_rows(truth, complete)}, covered


def linear(
    setting: Setting, complete: np.ndarray, x: np.ndarray, seed: int
) -> tuple[dict[str, list[np.ndarray]], float]:
    """A linear-Gaussian model with its exact guide, at the maximum likelihood of each sample."""
    pairs = [gaussian(x, theta) for theta in bootstrap_em(x, M, seed)]
    found = impute(*pairs[0], x, seed, fits=pairs, num_particles=50)
    mean, sigma = em(x)
    fixed = impute(*gaussian(x, (mean[0], sigma[0])), x, seed, num_particles=50)
    made = {
        OURS: list(found),
        FIXED: list(fixed),
        PROPER: normal_imputations(x, bootstrap_em(x, M, seed + 10**6), seed + 10**6),
    }
    return made, coverage(found, complete, x, range(x.shape[1]))


def gaussian(x: np.ndarray, theta: tuple[np.ndarray, np.ndarray]) -> tuple[Any, Any]:
    """x = W z + mean + noise with this mean and covariance, and the exact guide."""
    mean, sigma = theta
    eigenvalues, vectors = np.linalg.eigh(sigma)
    noise = 0.9 * eigenvalues[0]
    loading = vectors * np.sqrt(eigenvalues - noise)
    affine = beds.Affine(*map(torch.from_numpy, (loading, mean, np.full(len(mean), noise**0.5))))
    bed = beds.linear_gaussian_at(torch.from_numpy(x), affine)
    return bed.model, bed.guide


def trained(
    setting: Setting, complete: np.ndarray, x: np.ndarray, seed: int
) -> tuple[dict[str, list[np.ndarray]], float]:
    """The recipe, with theta fixed and with bootstrap fits."""
    truth = TRUTHS[setting.truth]
    table = frame(truth, x)
    recipe = pv.recipe(table, num_steps=RECIPE_STEPS, seed=seed, progress=False)
    recipe.fit()
    pair = recipe.model, recipe.guide
    data = pv.Dataset(table)
    fits = pv.bootstrap_fits(*pair, data, objective=recipe.objective, seed=seed, progress=False)
    found = impute(*pair, data, seed, fits=fits)
    fixed = impute(*pair, data, seed)
    made = {OURS: arrays(truth, found), FIXED: arrays(truth, fixed)}
    numbers = [j for j in range(x.shape[1]) if j not in truth.discrete]
    return made, coverage(found, complete, x, numbers)


def impute(model: Any, guide: Any, data: Any, seed: int, **options: Any) -> Any:
    """By importance resampling in all rows: chains for a few of them would take minutes a run."""
    options = {"num_particles": PARTICLES, "method": "importance"} | options
    return pv.impute(model, guide, data, seed=seed, progress=False, **options)


def coverage(found: Any, complete: np.ndarray, x: np.ndarray, columns: Any) -> float:
    """Share of the masked entries of these columns that lie in their predictive intervals."""
    low, high = found.interval(LEVEL)[:, :, list(columns)]
    masked = np.isnan(x)[:, list(columns)]
    values = complete[:, list(columns)]
    return float(((low <= values) & (values <= high))[masked].mean())


def frame(truth: Truth, x: np.ndarray) -> pd.DataFrame:
    """The table as a user has it, binary variables as such."""
    table = pd.DataFrame(x, columns=list(truth.columns))
    if "treated" in table:
        table["treated"] = table["treated"].astype("boolean")
    return table


def arrays(truth: Truth, found: Any) -> list[np.ndarray]:
    return [table[list(truth.columns)].to_numpy(dtype=float) for table in found]


# --- warm and cold refits -------------------------------------------------------------------------


def starts(setting: Setting, seed: int) -> dict[str, list[float]]:
    """Variance of each estimate between bootstrap fits, warm and cold, without that of the draws.

    Cold fits begin at new weights and take a fixed number of steps, since early stopping would see
    rows that are among those for training too."""
    truth = TRUTHS[setting.truth]
    _, x = simulated(setting, seed)
    table = frame(truth, x)
    recipe = pv.recipe(table, num_steps=RECIPE_STEPS, seed=seed, progress=False)
    recipe.fit()
    data = pv.Dataset(table)
    objective = recipe.objective
    pair = recipe.model, recipe.guide
    start = time.process_time()
    warm = pv.bootstrap_fits(*pair, data, objective=objective, seed=seed, progress=False)
    seconds = (time.process_time() - start) / len(warm)
    cold = []
    rng = np.random.default_rng([seed, 4])
    for i in range(len(warm)):
        new = pv.recipe(table, num_steps=RECIPE_STEPS, seed=seed * 100 + i, progress=False)
        num_epochs = round(COLD_STEPS * new.training.batch_size / len(data))
        training = replace(new.training, num_epochs=num_epochs, patience=None, refit=False)
        sample = data[rng.integers(len(data), size=len(data))]
        pv.fit(new.model, new.guide, sample, objective=objective, training=training)
        cold.append((new.model, new.guide))
    variances = {
        name: between(truth, [arrays(truth, impute(*each, data, seed)) for each in fits])
        for name, fits in (("warm", warm), ("cold", cold))
    }
    return variances | {"seconds": [seconds]}


def closed_form(seed: int) -> list[float]:
    """Variance of each fitted mean between warm fits to complete rows, over s^2 / N.

    The means of a linear-Gaussian model at its maximum are those of the sample."""
    x = TRUTHS["linear-Gaussian"].draw(np.random.default_rng([seed, 5]), 200)
    data = pv.Dataset(x)
    with pv.seeded(seed):
        posterior = pv.posteriors.FullRankNormal(2)
        guide = pv.Guide(posterior, data.event_shape, torch.nn.Identity(), start=data)
        likelihood = pv.likelihoods.Gaussian(data.event_shape)
        prior = pv.priors.StandardNormal(2)
        model = pv.Model(prior, likelihood, torch.nn.Identity(), start=data)
    objective = pv.objectives.IWAE(10, gradient=pv.objectives.DoublyReparameterized())
    training = pv.Training(
        num_epochs=300, batch_size=200, learning_rate=Cosine(3e-2), progress=False
    )
    pv.fit(model, guide, data, objective=objective, training=training)
    fits = pv.bootstrap_fits(model, guide, data, objective=objective, seed=seed, progress=False)
    means = np.stack([pair[0].decode(torch.zeros(1, 2)).mean[0].detach() for pair in fits])
    ratios = means.var(0, ddof=1) / (x.var(0) / len(x))
    return [round(float(ratio), 6) for ratio in ratios]


def between(truth: Truth, fits: list[list[np.ndarray]]) -> list[float]:
    """Variance between fits of the mean over a fit's draws, less what the draws contribute."""
    values = np.stack([all_estimates(truth, tables)[0] for tables in fits])
    noise = values.var(1, ddof=1).mean(0) / values.shape[1]
    return [round(float(v), 8) for v in values.mean(1).var(0, ddof=1) - noise]


# --- all of them ----------------------------------------------------------------------------------


def added(kept: Results, setting: Setting, runs: int, mice: imputers.Mice) -> Results:
    """The sums of a setting with those of its next runs."""
    truth = TRUTHS[setting.truth]
    values = np.array(list(truth.estimands.values()))
    kept = copy.deepcopy(kept)
    for seed in range(kept["runs"], kept["runs"] + runs):
        found, covered = run(setting, seed, mice)
        for method, (centre, se, low, high) in found.items():
            error = centre - values
            inside = (low <= values) & (values <= high)
            numbers = [np.ones_like(se), inside, error, error**2, se, se**2, high - low]
            sums = kept["sums"].setdefault(method, {name: [0.0] * 7 for name in truth.estimands})
            for name, new in zip(truth.estimands, np.array(numbers, dtype=float).T, strict=True):
                sums[name] = [float(f"{s + n:.10g}") for s, n in zip(sums[name], new, strict=True)]
        new = [1, covered, covered**2]
        kept["entries"] = [s + n for s, n in zip(kept["entries"], new, strict=True)]
        kept["runs"] = seed + 1
    return kept


def read() -> Results:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results: Results) -> None:
    """The whole file or none of it, one setting a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(results[key])}" for key in results)
    write_whole(RESULTS, lambda path: path.write_text(f"{{\n{lines}\n}}\n"))
    write_whole(PAGE, lambda path: path.write_text(page(results)))


def work(chosen: list[Setting], most: int | None, with_starts: bool) -> None:
    """Round by round, so that settings have equal shares of their runs whenever it ends."""
    mice = imputers.Mice()
    for number in range(1, NUM_ROUNDS + 1):
        for setting in chosen:
            kept = read().get(str(setting), EMPTY)
            left = share_of(NUM_RUNS[setting], number, most) - kept["runs"]
            if left > 0:
                keep(str(setting), added(kept, setting, left, mice))
        if not with_starts:
            continue
        done = read().get(CLOSED_FORM, [])
        while len(done) < share_of(NUM_CLOSED, number, most):
            done.append(closed_form(len(done)))
            keep(CLOSED_FORM, done)
        for setting in STARTS:
            name = f"starts: {setting}"
            done = read().get(name, [])
            while len(done) < share_of(STARTS[setting], number, most):
                done.append(starts(setting, len(done)))
                keep(name, done)


def keep(name: str, found: Any) -> None:
    """Another process may have written other settings meanwhile."""
    write(read() | {name: found})


def share_of(num_runs: int, number: int, most: int | None) -> int:
    """Runs that are done after so many rounds, at most as many as asked for."""
    return min(-(-num_runs * number // NUM_ROUNDS), most or num_runs)


# --- the page -------------------------------------------------------------------------------------


LAW = f"""# Multiple imputation: coverage

Nominal 95 % intervals of means and regression coefficients, pooled over {M} imputations of
simulated tables with missing values, beside those of other methods on the same tables. The law
that we want: coverage between {LOW} and {HIGH} within two standard errors, and intervals at most
{WIDEST} times as wide as those of proper imputation under the true model. ✗ marks where it is
broken. ± is a binomial standard error of one estimand; coverage is the average over means, or over
coefficients, and the lowest of all. Bias is the largest over estimands, in units of the estimate's
standard deviation over runs (SD); se/SD is the range over estimands of the mean standard error over
SD; width is the mean over estimands of the width over that of proper imputation.

- *linear-Gaussian*: four columns with two factors, three of which lose values. `ppl_vae` is a
  linear-Gaussian model with its exact guide, at the maximum likelihood (EM) of each of {M}
  bootstrap samples. Proper imputation is the same without the library, from other samples.
- *mixed*: a number, a count, a binary variable, a response; the last two lose values. `ppl_vae` is
  `pv.recipe(num_steps={RECIPE_STEPS})` with {M} `pv.bootstrap_fits`. Proper imputation is mice's
  logistic and normal regressions, which are true here.
- *nonlinear*: the response is quadratic in one variable, and loses values. Proper imputation draws
  from that regression.

Values go missing completely at random (MCAR), or with a probability that rises with the first
column (MAR, a probit of slope {SLOPE:g} per sd). `pv.impute` draws by importance resampling. mice
is R's, with its default methods; IterativeImputer is scikit-learn's with `sample_posterior=True`,
which takes binary variables for numbers; both take part in the first {COMPARED} runs of a setting.
*theta fixed* leaves the bootstrap fits out.

`{COMMAND}`; sums over runs are in `docs/imputation.json`."""


def page(results: Results) -> str:
    parts = [LAW]
    for setting in NUM_RUNS:
        kept = results.get(str(setting), EMPTY)
        said = f"{kept['runs']} runs so far, too few for a table."
        if kept["runs"] >= FEWEST_RUNS:
            said = table(setting, kept)
        parts.append(f"## {setting}\n\n{said}")
    found = [starts_table(str(s), results.get(f"starts: {s}", [])) for s in STARTS]
    closed = np.array(results.get(CLOSED_FORM, []))
    if len(closed) > 1:
        each = closed.mean(1)
        error = each.std(ddof=1) / np.sqrt(len(each))
        found.append(f"| closed form | {each.mean():.2f} ± {error:.2f} | | | {len(each)} |")
    if any(found):
        parts.append(STARTED + "\n\n" + "\n".join([*STARTED_HEAD, *filter(None, found)]))
    return "\n\n".join(parts) + "\n"


def table(setting: Setting, kept: Results) -> str:
    """A line for each method."""
    truth = TRUTHS[setting.truth]
    num_means = len(truth.losing)
    widths = {name: sums[6] / sums[0] for name, sums in kept["sums"][PROPER].items()}
    rows = [
        "| method | means | coefficients | lowest | bias/SD | se/SD | width |",
        "|---|---|---|---|---|---|---|",
    ]
    order = (OURS, FIXED, PROPER, "mice", "IterativeImputer", COMPLETE, WHOLE)
    for method in order:
        sums = np.array([kept["sums"][method][name] for name in truth.estimands])
        count, covered, error, squares, se, _, width = sums.T
        n = count[0]
        share = covered / n
        sd = np.sqrt(np.maximum(squares / n - (error / n) ** 2, 1e-300) * n / max(1, n - 1))
        bias = error / n / sd
        ratio = se / n / sd
        worst = int(share.argmin())
        name = list(truth.estimands)[worst]
        wide = np.mean(width / n / np.array([widths[each] for each in truth.estimands]))
        is_bad = method == OURS and any(is_broken(each, n) for each in share)
        mark = BROKEN * bool(is_bad)
        too_wide = BROKEN * bool(method == OURS and wide > WIDEST)
        rows.append(
            f"| {method} | {shown(share[:num_means].mean(), n)} | "
            f"{shown(share[num_means:].mean(), n)} | {share[worst]:.3f} ({name}){mark} | "
            f"{bias[np.abs(bias).argmax()]:+.2f} | {ratio.min():.2f} to {ratio.max():.2f} | "
            f"{wide:.2f}{too_wide} |"
        )
    n, total, squares = kept["entries"]
    error = np.sqrt(max(0.0, squares / n - (total / n) ** 2) / max(1, n - 1))
    entries = f"Masked entries in `interval(0.95)`: {total / n:.3f} ± {error:.3f}."
    return "\n".join([*rows, "", f"{kept['runs']:,} runs. {entries}"])


def shown(share: float, n: float) -> str:
    return f"{share:.3f} ± {binomial_se(share, n):.3f}"


def binomial_se(share: float, n: float) -> float:
    return float(np.sqrt(share * (1 - share) / n))


def is_broken(share: float, n: float) -> bool:
    slack = 2 * np.sqrt(LEVEL * (1 - LEVEL) / n)
    return share < LOW - slack or share > HIGH + slack


STARTED = f"""## Warm and cold refits

Variance of the estimates between bootstrap fits that go on from the trained weights, as a ratio to
that between fits from new weights, of {COLD_STEPS} steps; the noise of the draws is subtracted. ±
is a jackknife standard error over tables. *closed form*: means of a linear-Gaussian VAE of two
latents, trained by IWAE on complete rows, over $s^2 / N$."""
STARTED_HEAD = [
    "| setting | means | coefficients | seconds a warm refit | tables |",
    "|---|---|---|---|---|",
]


def starts_table(name: str, runs: list[dict[str, list[float]]]) -> str | None:
    """One line: ratios of summed variances."""
    if len(runs) < 2:
        return None
    truth = next(TRUTHS[s.truth] for s in STARTS if str(s) == name)
    num_means = len(truth.losing)
    warm, cold = (np.array([each[kind] for each in runs]) for kind in ("warm", "cold"))
    unit = cold.mean(0)
    cells = []
    for part in (slice(None, num_means), slice(num_means, None)):
        w, c = ((each / unit)[:, part].mean(1) for each in (warm, cold))
        ratio = w.sum() / c.sum()
        left_out = (w.sum() - w) / (c.sum() - c)
        error = np.sqrt((len(w) - 1) / len(w) * ((left_out - left_out.mean()) ** 2).sum())
        cells.append(f"{ratio:.2f} ± {error:.2f}")
    seconds = np.median([each["seconds"][0] for each in runs])
    return f"| {name} | {cells[0]} | {cells[1]} | {seconds:.2f} | {len(runs)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [*TRUTHS, "starts"]
    parser.add_argument("--only", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--num-runs", type=int, help="of each setting, at most")
    parser.add_argument("--table", action="store_true", help="write the page of what is there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.table:
        write(read())
    else:
        chosen = [setting for setting in NUM_RUNS if setting.truth in options.only]
        work(chosen, options.num_runs, "starts" in options.only)


if __name__ == "__main__":
    main()
