"""Size and power of every verdict by simulation: rows in docs/believability.json, their table in docs/believability.md.

    python tests/benchmarks/believability.py                  # whatever is not done yet
    python tests/benchmarks/believability.py --only is_estimate
    python tests/benchmarks/believability.py --table          # the page alone

A verdict is a function (setting, seed) -> counts, with its settings, in `VERDICTS`; counts of a setting add up. Every
row is written when it is done, so that an interrupted run goes on where it was; none is computed again.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import optimize, special

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

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS / "believability.json"
PAGE = DOCS / "believability.md"
COMMAND = "python tests/benchmarks/believability.py"
Z = 1.959964
ROWS = 100  # of one evaluation
GRID = torch.linspace(-10, 10, 4001, dtype=torch.float64)

Counts = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """A verdict: how it is simulated, where, how often, and how its counts are shown."""

    simulate: Callable[[str, int], Counts]
    settings: tuple[str, ...]
    num_seeds: int
    law: str
    columns: dict[str, Callable[[Counts], str]]


# --- log-weights with a known answer, log p(x) = 0 -------------------------------------------------------------------


@cache
def optimum(log_density: str, parameter: float) -> tuple[float, float, float]:
    """Mean and sd of the normal q that minimises KL(q || p), and log of p's constant, of one dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    density = DENSITIES[log_density]
    weights = weights / weights.sum()

    def loss(theta: np.ndarray) -> float:
        z = theta[0] + np.exp(theta[1]) * nodes
        return -float((weights * density(z, parameter)).sum() + theta[1])

    found = optimize.minimize(loss, [0.3, -0.3], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x
    grid = np.linspace(-30, 30, 200_001)
    constant = special.logsumexp(density(grid, parameter)) + np.log(grid[1] - grid[0])
    return found[0], float(np.exp(found[1])), float(constant)


DENSITIES = {
    "skewed": lambda z, count: -0.5 * z**2 + count * z - np.exp(np.minimum(z, 50.0)),  # Poisson, log-rate N(0, 1)
    "bimodal": lambda z, half: np.logaddexp(-0.5 * (z - half) ** 2, -0.5 * (z + half) ** 2),
    "t": lambda z, df: -(df + 1) / 2 * np.log1p(z**2 / df),
}


def eigenvalues(dim: int, k: float) -> np.ndarray:
    """Of the precision of a linear-Gaussian posterior in units of its mean-field optimum; the least is 1 - k."""
    if dim == 1:
        return np.ones(1)
    loading = np.random.default_rng(1).normal(size=(dim + 5, dim))
    precision = np.eye(dim) + loading.T @ loading
    scale = np.diag(precision) ** -0.5
    apart = np.linalg.eigvalsh(precision * scale * scale[:, None]) - 1
    return 1 + k * apart / -apart.min()


def log_weights(kind: str, dim: int, parameter: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Of draws of the mean-field optimum of such a posterior, (K, N)."""
    total = np.zeros(shape)
    if kind in ("correlated", "scale"):
        values = eigenvalues(dim, parameter) if kind == "correlated" else np.full(dim, parameter**2)
        for value in values:
            total += 0.5 * (1 - value) * rng.standard_normal(shape) ** 2 + 0.5 * np.log(value)
        return total
    loc, scale, constant = optimum(kind, parameter)
    num_shaped = 1 if kind == "bimodal" else dim
    for _ in range(num_shaped):
        noise = rng.standard_normal(shape)
        log_q = -0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        total += DENSITIES[kind](loc + scale * noise, parameter) - constant - log_q
    return total if num_shaped == dim else total + log_weights("correlated", dim - 1, 0.2, shape, rng)


# --- the verdicts ----------------------------------------------------------------------------------------------------


def is_estimate(setting: str, seed: int) -> Counts:
    """Rows alike; or, for a mixture "one + other", rows of two kinds in equal numbers."""
    parts, num_particles = setting.split(", K=")
    kinds = parts.split(" + ")
    rng = np.random.default_rng([seed, *setting.encode()])
    shape = (int(num_particles), ROWS // len(kinds))
    drawn = []
    for each in kinds:
        kind, dim, parameter = each.split(" ")
        drawn.append(log_weights(kind, int(dim[2:]), float(parameter), shape, rng))
    evidence = reduce_log_weights(np.concatenate(drawn, axis=1))
    return estimates(evidence, evidence.log_evidence)


def estimates(evidence: pv.Evidence, error: np.ndarray) -> Counts:
    covers = np.abs(error) < Z * evidence.mc_se + 1e-9
    passed = evidence.is_estimate
    return {
        "rows": len(passed),
        "passed": int(passed.sum()),
        "covered": int((covers & passed).sum()),
        "covered of all": int(covers.sum()),
    }


def linear_gaussian(setting: str, seed: int) -> Counts:
    """The library's own model and mean-field optimum, from end to end."""
    dim, num_particles = (int(part.split("=")[1]) for part in setting.split(", "))
    bed = beds.linear_gaussian(ROWS, latent_dim=dim, data_dim=dim + 3, seed=seed)
    found = pv.log_evidence(bed.model, bed.mean_field_guide, bed.x, num_particles=num_particles, progress=False)
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


class Columns:
    """z_d ~ N(0, 1), x_d given z_d of one kind, independent: log p(x) by quadrature, the guide the KL optimum."""

    def __init__(self, kind: str, dim: int) -> None:
        self.kind = kind
        self.x = torch.tensor([1.0, 0.0, 3.0, 2.0, 0.0, 1.0, 5.0, 0.0, 2.0, 1.0])[:dim].double()
        fitted = [self._fit(j) for j in range(dim)]
        self.loc, self.scale = (torch.tensor(values).double() for values in zip(*fitted, strict=True))

    def _likelihood(self, z: torch.Tensor) -> dist.Distribution:
        return dist.Poisson(z.exp()) if self.kind == "skewed" else dist.Normal(z.abs(), 1.0)

    def _log_joint(self, z: torch.Tensor, j: int) -> torch.Tensor:
        return dist.Normal(0.0, 1.0).log_prob(z) + self._likelihood(z).log_prob(self.x[j])

    def _fit(self, j: int) -> tuple[float, float]:
        nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(80))

        def loss(theta: np.ndarray) -> float:
            terms = self._log_joint(theta[0] + np.exp(theta[1]) * nodes, j)
            return -float((weights * terms).sum() / weights.sum() + theta[1])

        found = optimize.minimize(loss, [0.2, -0.3], method="Nelder-Mead").x
        return found[0], float(np.exp(found[1]))

    @property
    def log_evidence(self) -> float:
        step = (GRID[1] - GRID[0]).log()
        return sum(float(self._log_joint(GRID, j).logsumexp(0) + step) for j in range(len(self.x)))

    def model(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", self._likelihood(z).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc.expand_as(x), self.scale.expand_as(x)).to_event(1))


def posed(kind: str, seed: int) -> tuple[Callable, Callable, torch.Tensor, np.ndarray]:
    """Model, the optimal mean-field guide, 100 rows of ten dimensions, and their log p(x)."""
    if kind == "correlated":
        bed = beds.linear_gaussian(ROWS, latent_dim=10, data_dim=13, seed=seed)
        return bed.model, bed.mean_field_guide, bed.x, bed.log_evidence.numpy()
    columns = Columns(kind, 10)
    return columns.model, columns.guide, columns.x.expand(ROWS, -1), np.full(ROWS, columns.log_evidence)


MOVES = HMC(num_samples=1, num_warmup=0, num_leapfrog=3, target_accept=0.65)
UPPER = ReverseAIS(AIS(32, 20, sampler=MOVES, chunk_size=10**6), HMC(num_samples=150, num_warmup=100, num_leapfrog=4))
METHODS = {
    "estimates alone": Sandwich(upper=None),
    "level 0.8": Sandwich(upper=None, level=0.8),
    "level 0.99": Sandwich(upper=None, level=0.99),
    "bootstrap": Sandwich(
        ImportanceSampling(2000, bootstrap=200), ImportanceSampling(2000, Defensive(), bootstrap=200), upper=None
    ),
    "intervals alone": Sandwich(ImportanceSampling(30), None, UPPER),
    "confirm": Sandwich(upper=UPPER, confirm=True),
}


def interval(setting: str, seed: int) -> Counts:
    kind, method = setting.split(", ")
    model, guide, x, exact = posed(kind, seed)
    found = evidence_interval(model, guide, x, METHODS[method], seed=seed, progress=False)
    claimed = found.verdict != "bound only"
    holds = (found.lower <= exact + 1e-9) & (exact <= found.upper + 1e-9)
    return {
        "rows": ROWS,
        "passed": int(claimed.sum()),
        "covered": int((holds & claimed).sum()),
        "covered of all": int(holds.sum()),
        "crossed": int((found.lower > found.upper).sum()),
    }


def annealed(setting: str, seed: int) -> Counts:
    """AIS alone, and the means of `bdmc`, over 100 rows."""
    kind, method = setting.split(", ")
    model, guide, x, exact = posed(kind, seed)
    path = AIS(32, 20, sampler=MOVES, chunk_size=10**6)
    if method == "AIS":
        found = pv.log_evidence(model, guide, x, path, seed=seed, progress=False)
        return estimates(found, found.log_evidence - exact)
    bed = beds.linear_gaussian(ROWS, latent_dim=10, data_dim=13, seed=seed)
    found = bdmc(bed.model, bed.mean_field_guide, bed.x, method=path, seed=seed)
    mean = bed.exact_log_evidence(found.data.x).mean().item()
    low, high = found.summary().interval()
    covered = int(low <= mean <= high)
    return {"rows": 1, "passed": 1, "covered": covered, "covered of all": covered}


# --- the table of all of them ----------------------------------------------------------------------------------------


def share(part: str, whole: str) -> Callable[[Counts], str]:
    """One count over another with its binomial standard error."""

    def shown(counts: Counts) -> str:
        if not counts[whole]:
            return "none"
        found = counts[part] / counts[whole]
        return f"{found:.3f} ± {np.sqrt(found * (1 - found) / counts[whole]):.3f}"

    return shown


def mean_and_error(counts: Counts) -> str:
    mean = counts["sum"] / counts["rows"]
    error = np.sqrt(max(counts["squares"] / counts["rows"] - mean**2, 0.0) / counts["rows"])
    return f"{mean:.2f} ± {error:.2f}"


def crossed(counts: Counts) -> str:
    return f"{counts['crossed']:.0f} of {counts['rows']:.0f}"


COVERAGE = {
    "pass": share("passed", "rows"),
    "covered among those": share("covered", "passed"),
    "covered of all": share("covered of all", "rows"),
}
KS = (100, 1_000, 10_000)
SHAPES = (
    *(f"correlated D={dim} {k}" for dim in (2, 10, 30) for k in (0.1, 0.2, 0.34, 0.5, 0.7)),
    *(f"skewed D={dim} {count}" for dim in (1, 2, 10, 30) for count in (0, 2, 10)),
    *(f"bimodal D={dim} {half}" for dim in (2, 10, 30) for half in (1.3, 2.0, 3.0)),
    *(f"scale D={dim} {scale}" for dim in (2, 10) for scale in (0.7, 0.9, 1.5)),
    *(f"t D={dim} {df}" for dim in (1, 10) for df in (3, 10)),
    *(f"scale D={dim} 1.0" for dim in (2, 30)),
    "correlated D=10 0.1 + correlated D=10 0.7",
    "skewed D=10 0 + scale D=10 0.7",
)
VERDICTS = {
    "is_estimate": Verdict(
        is_estimate,
        tuple(f"{shape}, K={num}" for num in KS for shape in SHAPES),
        num_seeds=10,
        law="Nominal 95 % intervals of the rows that pass cover .93 or more, within 2 standard errors; at a true k of "
        "0.2 or less and K of 1,000 or more at least 80 % pass, and exact guides always.",
        columns=COVERAGE,
    ),
    "is_estimate, from end to end": Verdict(
        linear_gaussian,
        tuple(f"D={dim}, K={num}" for dim in (2, 10, 30) for num in (100, 1_000)),
        num_seeds=10,
        law="The same for `beds.linear_gaussian` and its mean-field optimum by `log_evidence`.",
        columns=COVERAGE,
    ),
    "target_se": Verdict(
        target_se,
        tuple(f"width={width}, target={target}" for width in (1.0, 0.7, 0.8, 0.9, 1.3, 1.7) for target in (0.1, 0.05)),
        num_seeds=10,
        law="The bias is at most one square of the target, or 2 standard errors.",
        columns={
            "bias over target²": mean_and_error,
            "particles per row": lambda counts: f"{counts['used'] / counts['rows']:.0f}",
        },
    ),
    "evidence_interval": Verdict(
        interval,
        tuple(f"{kind}, {method}" for method in METHODS for kind in ("correlated", "skewed", "bimodal")),
        num_seeds=4,
        law="Intervals cover .94 or more (or the level) of the rows with a verdict; no ends cross.",
        columns=COVERAGE | {"ends crossed": crossed},
    ),
    "AIS and bdmc alone": Verdict(
        annealed,
        ("correlated, AIS", "skewed, AIS", "bimodal, AIS", "correlated, bdmc"),
        num_seeds=4,
        law="Measured, not a law: nominal 95 % intervals of `AIS`, and of the mean by `bdmc` (one a seed).",
        columns=COVERAGE,
    ),
}


def read() -> dict[str, Counts]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(rows: dict[str, Counts]) -> None:
    """The whole file or none of it, one row a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(f"{{\n{lines}\n}}\n")
    os.replace(partial, RESULTS)


def missing(names: Iterable[str], rows: dict[str, Counts]) -> Iterable[tuple[str, str, str, int]]:
    """What is not done yet, seed by seed, so that all settings grow together."""
    for name in names:
        for seed in range(VERDICTS[name].num_seeds):
            for setting in VERDICTS[name].settings:
                key = f"{name} | {setting} | {seed}"
                if key not in rows:
                    yield key, name, setting, seed


def totals(name: str, setting: str, rows: dict[str, Counts]) -> Counts | None:
    found = [rows[key] for seed in range(VERDICTS[name].num_seeds) if (key := f"{name} | {setting} | {seed}") in rows]
    return {count: sum(each[count] for each in found) for count in found[0]} if found else None


def page(rows: dict[str, Counts]) -> str:
    """Every verdict with its law, its command and its table."""
    lines = [
        "# What every verdict is worth",
        "",
        "Size and power of the verdicts, by simulation where the answer is known. Counts are in",
        f"`docs/believability.json`; `{COMMAND}` computes what is",
        "missing and writes this page. ± is a binomial standard error.",
        "",
        "Posteriors: *correlated*, linear-Gaussian with its mean-field optimum, by the true k of the weights;",
        "*skewed*, log-rates of Poisson counts, by the count; *bimodal*, two unit normals so far from the middle,",
        "in one dimension (the others correlated, k = 0.2); *scale*, a normal guide so many times as wide;",
        "*t*, by degrees",
        "of freedom.",
    ]
    for name, verdict in VERDICTS.items():
        lines += ["", f"## {name}", "", verdict.law, "", f"`{COMMAND} --only '{name}'`", ""]
        lines += [f"| setting | {' | '.join(verdict.columns)} |", f"|---|{'---|' * len(verdict.columns)}"]
        for setting in verdict.settings:
            counts = totals(name, setting, rows)
            cells = [show(counts) if counts else "not measured" for show in verdict.columns.values()]
            lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=VERDICTS, default=list(VERDICTS))
    parser.add_argument("--table", action="store_true", help="write the page from what is there")
    options = parser.parse_args()
    rows = read()
    for key, name, setting, seed in [] if options.table else missing(options.only, rows):
        found = VERDICTS[name].simulate(setting, seed)
        write(read() | {key: found})  # another run may have written rows of other verdicts
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
