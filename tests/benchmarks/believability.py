"""Size and power of every verdict by simulation: rows in docs/believability.json, their table in
docs/believability.md.

    python tests/benchmarks/believability.py                  # whatever is not done yet
    python tests/benchmarks/believability.py --only is_estimate
    python tests/benchmarks/believability.py --table          # the page alone

A verdict is a function (setting, seed) -> counts, with its settings, in `VERDICTS`; counts of a
setting add up. Every row is written when it is done, so that an interrupted run goes on where it
was; none is computed again."""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import checklist
import numpy as np
from simulated_comparisons import DIFFERENT, EQUAL, SIGNALS, Case, counts
from simulated_rows import posed, trained
from simulated_weights import ROWS_OF_KINDS, log_weights

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import (
    AIS,
    Defensive,
    ImportanceSampling,
    ReverseAIS,
    Sandwich,
    bdmc,
    evidence_interval,
    reduce_log_weights,
)
from ppl_vae.hmc import HMC
from ppl_vae.runtime.files import write_whole

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "believability.json"
PAGE = DOCS / "believability.md"
COMMAND = "python tests/benchmarks/believability.py"
Z = 1.959964
ROWS = 100  # of one evaluation
ENOUGH = 1_000  # rows that pass, in a setting where some do
TABLES = 100  # of one seed
MANY = 10**6  # (particle, row) pairs at once
BROKEN = " ✗"

Counts = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """A verdict: how it is simulated, where, how often, and how its counts are shown.

    Settings in which some rows pass, but fewer than `ENOUGH`, go on to `most_seeds`. With
    `by_particles` the settings "shape, K=number" have a row for each shape and a column for each
    number."""

    simulate: Callable[[str, int], Counts]
    settings: tuple[str, ...]
    num_seeds: int
    law: str
    columns: dict[str, Callable[[Counts], str]]
    keeps: Callable[[str, Counts], bool] = lambda setting, counts: True
    most_seeds: int = 0
    by_particles: bool = False


# --- the verdicts ---------------------------------------------------------------------------------


def is_estimate(setting: str, seed: int) -> Counts:
    """Rows alike, 100 in one evaluation or N in each of several; or, for "one + other", two kinds
    in equal numbers."""
    shape, num_particles = setting.split(", K=")
    shape, _, num_rows = shape.partition(", N=")
    together = int(num_rows or ROWS)
    kinds = shape.split(" + ")
    rng = np.random.default_rng([seed, *setting.encode()])
    found = []
    for _ in range(ROWS // together):
        drawn = []
        for each in kinds:
            kind, dim, parameter = each.split(" ")
            size = (int(num_particles), together // len(kinds))
            drawn.append(log_weights(kind, int(dim[2:]), float(parameter), size, rng))
        evidence = reduce_log_weights(np.concatenate(drawn, axis=1))
        found.append(estimates(evidence, evidence.log_evidence))
    return {name: sum(each[name] for each in found) for name in found[0]}


def estimates(evidence: pv.Evidence, error: np.ndarray) -> Counts:
    covers = np.abs(error) < Z * evidence.mc_se + 1e-9
    passed = evidence.is_estimate
    return {
        "rows": len(passed),
        "passed": int(passed.sum()),
        "covered": int((covers & passed).sum()),
        "covered of all": int(covers.sum()),
    }


def of_kinds(setting: str, seed: int) -> Counts:
    """300 rows in one evaluation, some of which differ from the others."""
    name, _, num_particles = setting.rpartition(", K=")
    rng = np.random.default_rng([seed, *setting.encode()])
    evidence = reduce_log_weights(ROWS_OF_KINDS[name]((int(num_particles), 3 * ROWS), rng))
    return estimates(evidence, evidence.log_evidence)


def linear_gaussian(setting: str, seed: int) -> Counts:
    """The library's own model and mean-field optimum, from end to end."""
    dim, num_particles = (int(part.split("=")[1]) for part in setting.split(", "))
    bed = beds.linear_gaussian(ROWS, latent_dim=dim, data_dim=dim + 3, seed=seed)
    found = pv.log_evidence(
        bed.model, bed.mean_field_guide, bed.x, num_particles=num_particles, progress=False
    )
    return estimates(found, found.log_evidence - bed.log_evidence.numpy())


def target_se(setting: str, seed: int) -> Counts:
    """Errors over the square of the target, of a guide so many times as wide as the posterior."""
    scale, target = (float(part.split("=")[1]) for part in setting.split(", "))
    bed = beds.linear_gaussian(ROWS, latent_dim=4, guide_scale=scale, seed=seed)
    method = ImportanceSampling(6400, target_se=target, chunk_size=10**7)
    found = pv.log_evidence(bed.model, bed.guide, bed.x, method, seed=seed, progress=False)
    error = (found.log_evidence - bed.log_evidence.numpy()) / target**2
    return {
        "rows": ROWS,
        "sum": float(error.sum()),
        "squares": float((error**2).sum()),
        "used": int(found.num_used.sum()),
    }


MOVES = HMC(num_samples=1, num_warmup=0, num_leapfrog=3, target_accept=0.65)
UPPER = ReverseAIS(
    AIS(32, 20, sampler=MOVES, chunk_size=MANY), HMC(num_samples=300, num_warmup=200)
)
METHODS = {
    "estimates alone": Sandwich(upper=None),
    "level 0.8": Sandwich(upper=None, level=0.8),
    "level 0.99": Sandwich(upper=None, level=0.99),
    "bootstrap": Sandwich(
        ImportanceSampling(2000, bootstrap=200),
        ImportanceSampling(2000, Defensive(), bootstrap=200),
        upper=None,
    ),
    "default": Sandwich(
        upper=ReverseAIS(AIS(chunk_size=MANY))
    ),  # but for the chunks, which are for the memory
    "confirm": Sandwich(upper=UPPER, confirm=True),
}


def interval(setting: str, seed: int) -> Counts:
    kind, method = setting.split(", ")
    num_rows = 5 * ROWS if method == "default" else ROWS
    model, guide, x, exact = posed(kind, num_rows, seed)
    found = evidence_interval(model, guide, x, METHODS[method], seed=seed, progress=False)
    claimed = found.verdict != "bound only"
    holds = (found.lower <= exact + 1e-9) & (exact <= found.upper + 1e-9)
    return {
        "rows": num_rows,
        "passed": int(claimed.sum()),
        "estimates": int((found.verdict == "estimate").sum()),
        "covered": int((holds & claimed).sum()),
        "covered of all": int(holds.sum()),
        "crossed": int((found.lower > found.upper).sum()),
    }


def annealed(setting: str, seed: int) -> Counts:
    """AIS alone, and the means of `bdmc`, over 100 rows."""
    kind, method = setting.split(", ")
    model, guide, x, exact = posed(kind, ROWS, seed)
    path = AIS(32, 20, sampler=MOVES, chunk_size=MANY)
    if method == "AIS":
        found = pv.log_evidence(model, guide, x, path, seed=seed, progress=False)
        return estimates(found, found.log_evidence - exact)
    bed = beds.linear_gaussian(ROWS, latent_dim=10, data_dim=13, seed=seed)
    found = bdmc(bed.model, bed.mean_field_guide, bed.x, method=path, seed=seed)
    mean = bed.exact_log_evidence(found.data.x).mean().item()
    low, high = found.summary().interval()
    covered = int(low <= mean <= high)
    return {"rows": 1, "passed": 1, "covered": covered, "covered of all": covered}


def trained_vae(setting: str, seed: int) -> Counts:
    """Test rows of a trained VAE, by `log_evidence`."""
    epochs, num_particles = (int(part.split("=")[1]) for part in setting.split(", "))
    model, guide, x, exact = trained(epochs)
    found = pv.log_evidence(model, guide, x, num_particles=num_particles, seed=seed, progress=False)
    return estimates(found, found.log_evidence - exact)


def tables_of(cases: dict[str, Case]) -> Callable[[str, int], Counts]:
    """Tables of models, or gradients, whose differences are known."""

    def simulate(setting: str, seed: int) -> Counts:
        return counts(cases[setting], TABLES, [seed, *setting.encode()])

    return simulate


# --- the laws -------------------------------------------------------------------------------------


def covers(least: float, among: str, counts: Counts) -> bool:
    """Whether the share that is covered is this or more, within two of its standard errors."""
    if not counts[among]:
        return True
    error = np.sqrt(least * (1 - least) / counts[among])
    return bool(counts["covered"] / counts[among] >= least - 2 * error)


def estimates_law(setting: str, counts: Counts) -> bool:
    shape, _, num_particles = setting.rpartition(", K=")
    share = counts["passed"] / counts["rows"]
    if shape in EXACT and share < 1:
        return False
    if shape in GOOD and int(num_particles) >= 1_000 and share < 0.8:
        return False
    return covers(0.93, "passed", counts)


def intervals_law(setting: str, counts: Counts) -> bool:
    level = {"level 0.8": 0.8, "level 0.99": 0.99}.get(setting.split(", ")[1], 0.94)
    return covers(level, "passed", counts) and not counts["crossed"]


def tables_law(setting: str, counts: Counts) -> bool:
    return covers(0.93, "rows", counts)


def target_law(setting: str, counts: Counts) -> bool:
    mean, error = moments(counts)
    return abs(mean) <= max(1.0, 2 * error)


# --- the table of all of them ---------------------------------------------------------------------


def share(part: str, whole: str) -> Callable[[Counts], str]:
    """One count over another with its binomial standard error."""

    def shown(counts: Counts) -> str:
        if not counts[whole]:
            return "none"
        found = counts[part] / counts[whole]
        return f"{found:.3f} ± {np.sqrt(found * (1 - found) / counts[whole]):.3f}"

    return shown


def moments(counts: Counts) -> tuple[float, float]:
    """The mean and its standard error."""
    mean = counts["sum"] / counts["rows"]
    return mean, np.sqrt(max(counts["squares"] / counts["rows"] - mean**2, 0.0) / counts["rows"])


def mean_and_error(counts: Counts) -> str:
    mean, error = moments(counts)
    return f"{mean:.2f} ± {error:.2f}"


def crossed(counts: Counts) -> str:
    return f"{counts['crossed']:.0f} of {counts['rows']:.0f}"


def pass_and_cover(counts: Counts) -> str:
    """Share of the rows that pass, and the coverage of those."""
    passed = counts["passed"] / counts["rows"]
    return f"{passed:.2f}: {share('covered', 'passed')(counts)}" if passed else "0"


COVERAGE = {
    "pass": share("passed", "rows"),
    "covered among those": share("covered", "passed"),
    "covered of all": share("covered of all", "rows"),
}
TOGETHER = {
    "all intervals hold": share("covered", "rows"),
    "one excludes 0": share("apart", "rows"),
}
KS = (100, 1_000, 10_000)
EXACT = ("scale D=2 1.0", "scale D=30 1.0")
GOOD = (
    *(f"correlated D={dim} {k}" for dim in (2, 10, 30) for k in (0.1, 0.2)),
    *(f"scale D={dim} {scale}" for dim in (2, 10) for scale in (0.9, 1.5)),
    *(f"gamma D={shape} {k}" for shape in (1, 10) for k in (0.1, 0.2)),
)
SHAPES = (
    *(f"correlated D={dim} {k}" for dim in (2, 10, 30) for k in (0.1, 0.2, 0.34, 0.5, 0.7)),
    *(f"skewed D={dim} {count}" for dim in (1, 2, 10, 30) for count in (0, 2, 10)),
    *(f"bimodal D={dim} {half}" for dim in (2, 10, 30) for half in (1.3, 2.0, 3.0)),
    *(f"scale D={dim} {scale}" for dim in (2, 10) for scale in (0.7, 0.9, 1.5)),
    *(f"t D={dim} {df}" for dim in (1, 10) for df in (3, 10)),
    *EXACT,
    "correlated D=10 0.1 + correlated D=10 0.7",
    "skewed D=10 0 + scale D=10 0.7",
)
OTHER_SHAPES = (  # that the rule was not made on
    *(f"logistic D={dim} {spread}" for dim in (2, 10) for spread in (1, 3)),
    *(f"log-gamma D={dim} {shape}" for dim in (1, 10) for shape in (1, 3, 10)),
    *(f"gamma D={shape} {k}" for shape in (1, 10) for k in (0.1, 0.2, 0.34, 0.5, 0.7)),
    *(f"funnel D={dim} {sd}" for dim in (2, 10) for sd in (0.3, 1.0)),
)
FEW_ROWS = (
    *(f"correlated D=10 {k}, N={n}" for n in (1, 5, 20) for k in (0.1, 0.34, 0.7)),
    *(
        f"{shape}, N={n}"
        for n in (1, 5, 20)
        for shape in ("skewed D=10 2", "logistic D=10 1", "scale D=10 0.7")
    ),
)
ESTIMATES_LAW = (
    "Nominal 95 % intervals of the rows that pass cover .93 or more, within 2 standard errors; at "
    "a true k of 0.2 or "
    "less and K of 1,000 or more at least 80 % pass, and exact guides always. Shown: share that "
    "passes, and the "
    "coverage of those; 0 where none pass."
)


def with_particles(shapes: Iterable[str], particles: Iterable[int] = KS) -> tuple[str, ...]:
    shapes = tuple(shapes)
    return tuple(f"{shape}, K={number}" for number in particles for shape in shapes)


ESTIMATES = {"shown": pass_and_cover}
VERDICTS = {
    "is_estimate": Verdict(
        is_estimate,
        with_particles(SHAPES),
        num_seeds=10,
        most_seeds=100,
        law=ESTIMATES_LAW,
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "is_estimate, other posteriors": Verdict(
        is_estimate,
        with_particles(OTHER_SHAPES),
        num_seeds=10,
        most_seeds=100,
        law="The same, of posteriors that the rule was not made on.",
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "is_estimate, rows of several kinds": Verdict(
        of_kinds,
        with_particles(ROWS_OF_KINDS, (100, 300, 1_000)),
        num_seeds=15,
        law=(
            "The same coverage, of 300 rows: some have a second mode, of mass 0.05; or a discrete "
            "latent is sampled, whose draws may all be the same."
        ),
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "is_estimate, few rows": Verdict(
        is_estimate,
        with_particles(FEW_ROWS, KS[:2]),
        num_seeds=10,
        most_seeds=100,
        law="The same coverage, of evaluations of N rows; fewer pass than of 100.",
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "is_estimate, from end to end": Verdict(
        linear_gaussian,
        with_particles((f"D={dim}" for dim in (2, 10, 30)), KS[:2]),
        num_seeds=10,
        law="The same for `beds.linear_gaussian` and its mean-field optimum by `log_evidence`.",
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "is_estimate, trained VAE": Verdict(
        trained_vae,
        with_particles((f"epochs={epochs}" for epochs in (5, 100)), KS[:2]),
        num_seeds=4,
        law=(
            "The same for the test rows of a VAE of two latents on binarised digits, exact by "
            "quadrature."
        ),
        keeps=estimates_law,
        columns=ESTIMATES,
        by_particles=True,
    ),
    "target_se": Verdict(
        target_se,
        tuple(
            f"width={width}, target={target}"
            for width in (1.0, 0.7, 0.8, 0.9, 1.3, 1.7)
            for target in (0.1, 0.05)
        ),
        num_seeds=10,
        law="The bias is at most one square of the target, or 2 standard errors.",
        keeps=target_law,
        columns={
            "bias over target²": mean_and_error,
            "particles per row": lambda counts: f"{counts['used'] / counts['rows']:.0f}",
        },
    ),
    "evidence_interval": Verdict(
        interval,
        tuple(
            f"{kind}, {method}"
            for method in METHODS
            for kind in ("correlated", "skewed", "bimodal")
        ),
        num_seeds=4,
        law="Intervals cover .94 or more (or the level) of the rows with a verdict, within 2 "
        "standard errors; no ends "
        "cross. A pass is an estimate or an interval.",
        keeps=intervals_law,
        columns={"estimates": share("estimates", "rows")} | COVERAGE | {"ends crossed": crossed},
    ),
    "AIS and bdmc alone": Verdict(
        annealed,
        ("correlated, AIS", "skewed, AIS", "bimodal, AIS", "correlated, bdmc"),
        num_seeds=4,
        law=(
            "Measured, not a law: nominal 95 % intervals of `AIS`, and of the mean by `bdmc` (one "
            "a seed)."
        ),
        columns=COVERAGE,
    ),
    "compare_models, equal models": Verdict(
        tables_of(EQUAL),
        tuple(EQUAL),
        num_seeds=4,
        law="The intervals of a table are simultaneous in .93 or more of the tables, within 2 "
        "standard errors. One that "
        "excludes 0 is wrong here.",
        keeps=tables_law,
        columns=TOGETHER,
    ),
    "compare_models, different models": Verdict(
        tables_of(DIFFERENT),
        tuple(DIFFERENT),
        num_seeds=4,
        law=(
            "The same; one that excludes 0 is right here. Trainings: the second model is worse by "
            "0.4 nats."
        ),
        keeps=tables_law,
        columns=TOGETHER,
    ),
    "compare_estimators, signal-to-noise ratio": Verdict(
        tables_of(SIGNALS),
        tuple(SIGNALS),
        num_seeds=4,
        law=(
            "Intervals of the signal-to-noise ratio of R gradients cover .93 or more, within 2 "
            "standard errors."
        ),
        keeps=tables_law,
        columns={"covers": share("covered", "rows"), "excludes 0": share("apart", "rows")},
    ),
}


def read() -> dict[str, Counts]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(rows: dict[str, Counts]) -> None:
    """The whole file or none of it, one row a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
    write_whole(RESULTS, lambda path: path.write_text(f"{{\n{lines}\n}}\n"))


def missing(names: Iterable[str], rows: dict[str, Counts]) -> Iterable[tuple[str, str, str, int]]:
    """What is not done yet, seed by seed, so that all settings grow together; `rows` may grow
    meanwhile."""
    for name in names:
        verdict = VERDICTS[name]
        for seed in range(max(verdict.num_seeds, verdict.most_seeds)):
            for setting in verdict.settings:
                key = f"{name} | {setting} | {seed}"
                if key not in rows and (
                    seed < verdict.num_seeds or few_pass(totals(name, setting, rows))
                ):
                    yield key, name, setting, seed


def few_pass(counts: Counts | None) -> bool:
    return counts is not None and 0 < counts["passed"] < ENOUGH


def totals(name: str, setting: str, rows: dict[str, Counts]) -> Counts | None:
    seeds = range(max(VERDICTS[name].num_seeds, VERDICTS[name].most_seeds))
    found = [rows[key] for seed in seeds if (key := f"{name} | {setting} | {seed}") in rows]
    return {count: sum(each[count] for each in found) for count in found[0]} if found else None


def cells(name: str, setting: str, rows: dict[str, Counts]) -> list[str]:
    """What is shown of a setting; marked where the law is broken."""
    verdict = VERDICTS[name]
    found = totals(name, setting, rows)
    if found is None:
        return ["not measured"] * len(verdict.columns)
    shown = [show(found) for show in verdict.columns.values()]
    if not verdict.keeps(setting, found):
        shown[0] += BROKEN
    return shown


def table(name: str, rows: dict[str, Counts]) -> list[str]:
    """A row for each setting; or one for each shape, with a column for each number of particles."""
    verdict = VERDICTS[name]
    if not verdict.by_particles:
        body = {setting: cells(name, setting, rows) for setting in verdict.settings}
        return markdown(list(verdict.columns), body)
    numbers = list(dict.fromkeys(setting.rpartition(", K=")[2] for setting in verdict.settings))
    shapes = dict.fromkeys(setting.rpartition(", K=")[0] for setting in verdict.settings)
    body = {
        shape: [cell for number in numbers for cell in cells(name, f"{shape}, K={number}", rows)]
        for shape in shapes
    }
    return markdown([f"K = {int(number):,}" for number in numbers], body)


def markdown(columns: list[str], body: dict[str, list[str]]) -> list[str]:
    head = [f"| setting | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return head + [f"| {setting} | {' | '.join(shown)} |" for setting, shown in body.items()]


PREFACE = f"""# What every verdict is worth

Size and power of the verdicts, by simulation where the answer is known. Counts are in
`docs/believability.json`; `{COMMAND}` computes what is missing and writes this page. ± is a
binomial standard error; {BROKEN.strip()} marks settings in which the law is broken. Settings of
`is_estimate` in which some rows pass, but fewer than 1,000, go on to 10,000 rows. A few rows with
another guide than the others, narrow among wide ones, are in `tests/test_verdict.py`: none passes.

Posteriors, by dimensions and a parameter, each with its mean-field normal optimum:

- *correlated*: linear-Gaussian, by the true k of the weights;
- *scale*: normal, the guide so many times as wide;
- *skewed*: log-rates of Poisson counts, by the count; *log-gamma*: of gamma rates, by the shape;
- *bimodal*: two unit normals so far from the middle, in one dimension (the others correlated,
  k = 0.2);
- *t*: by degrees of freedom; *funnel*: z₁ of this sd, and the others of variance exp z₁;
- *logistic*: regression on covariates of this sd;
- *gamma*: not a posterior, but log-weights with a gamma distribution of shape D, by the true k.
"""


def page(rows: dict[str, Counts]) -> str:
    """Every verdict with its law, its command and its table."""
    lines = [PREFACE]
    for name, verdict in VERDICTS.items():
        lines += [
            f"## {name}",
            "",
            verdict.law,
            "",
            f"`{COMMAND} --only '{name}'`",
            "",
            *table(name, rows),
            "",
        ]
    lines += [
        "## The checklist of the report",
        "",
        checklist.LAW,
        "",
        checklist.tables(checklist.read()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=VERDICTS, default=list(VERDICTS))
    parser.add_argument("--table", action="store_true", help="write the page from what is there")
    options = parser.parse_args()
    rows = read()
    for key, name, setting, seed in [] if options.table else missing(options.only, rows):
        rows[key] = VERDICTS[name].simulate(setting, seed)
        write(read() | {key: rows[key]})  # another run may have written rows of other verdicts
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
