"""How often the intervals of `compare_models` and of `compare_estimators` hold what they are of: a table per verdict.

    python -m tests.benchmarks.comparison_coverage --repeats 1000 --output coverage.json

Resumable: cases that the file holds are not run again. A case is a function of a generator that returns whether every
interval of one table holds the true difference; the models' values are exact, so that only rows and trainings vary.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ppl_vae.diagnostics import gradient_noise
from ppl_vae.diagnostics.difference import Difference
from ppl_vae.diagnostics.simultaneous import Reach, pairs_of
from ppl_vae.diagnostics.trained_model import TrainedModel
from ppl_vae.evidence import Evidence

Case = Callable[[np.random.Generator], bool]
SKEWED = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: np.exp(rng.normal(size=shape)) - np.exp(0.5),
}


def exact(values: np.ndarray) -> Evidence:
    """Evidence that has no Monte Carlo error."""
    zero = np.zeros(len(values))
    return Evidence(values, zero, zero + 100, zero - np.inf, values, values, np.full(len(values), 100))


def holds(models: Sequence[TrainedModel], truth: np.ndarray, reference: int | None = None) -> bool:
    """Whether all intervals of the table hold the true differences; the reference is the best unless one is named.

    What `compare_models` does, without the stacking weights, which take most of its time.
    """
    means = [model.mean.mean() for model in models]
    baseline = int(np.argmax(means)) if reference is None else reference
    reach = Reach(models, pairs_of(models, models[baseline], chosen=reference is None))
    for model, value in zip(models, truth, strict=True):
        low, high = Difference(model, models[baseline]).interval(reach)
        if not low <= value - truth[baseline] <= high:
            return False
    return True


def rows(num_rows: int, kind: str, num_models: int = 2, reference: int | None = None) -> Case:
    """One training of each of some equal models, whose rows differ by independent errors."""

    def case(rng: np.random.Generator) -> bool:
        common = 5 * rng.normal(size=num_rows)
        errors = SKEWED[kind](rng, (num_models, num_rows))
        if num_models == 2:
            errors[1] = 0  # the difference is as skewed as it can be
        models = [TrainedModel(str(i), (exact(common + each),)) for i, each in enumerate(errors)]
        return holds(models, np.zeros(num_models), reference)

    return case


def trainings(counts: Sequence[int], spreads: Sequence[float], num_rows: int = 60, noise: float = 0.3) -> Case:
    """Several trainings of each model, which spread unequally; the second is worse by 0.4 nats."""

    def case(rng: np.random.Generator) -> bool:
        common = 5 * rng.normal(size=num_rows)
        truth = -0.4 * np.arange(len(counts))
        models = []
        for i, (count, spread) in enumerate(zip(counts, spreads, strict=True)):
            own = truth[i] + spread * rng.normal(size=(count, 1)) + noise * rng.normal(size=(count, num_rows))
            models.append(TrainedModel(str(i), tuple(exact(common + each) for each in own)))
        return holds(models, truth, reference=0)

    return case


def several(num_models: int, count: int) -> Case:
    """Equal models, each trained several times; the best is the reference."""

    def case(rng: np.random.Generator) -> bool:
        common = 5 * rng.normal(size=100)
        models = []
        for i in range(num_models):
            own = 0.2 * rng.normal(size=(count, 1)) + rng.normal(size=(count, 100))
            models.append(TrainedModel(str(i), tuple(exact(common + each) for each in own)))
        return holds(models, np.zeros(num_models))

    return case


def signal(snr: float, num_replicates: int, num_parameters: int) -> Case:
    """A gradient of known signal-to-noise ratio, in noise of equal variance."""

    def case(rng: np.random.Generator) -> bool:
        noise = rng.normal(size=(num_replicates, num_parameters))
        found = gradient_noise(torch.as_tensor(noise + snr))
        return found.snr_low <= snr <= found.snr_high

    return case


CASES: dict[str, dict[str, Case]] = {
    "compare_models, one training": {
        f"{kind} differences, N = {n}": rows(n, kind) for kind in SKEWED for n in (20, 50, 300)
    },
    "compare_models, unequal trainings": {
        f"{a} and {b} trainings, spreads {s:g} and {t:g}": trainings((a, b), (s, t))
        for a, b in ((2, 2), (2, 5), (3, 3), (3, 5), (3, 10), (5, 5))
        for s, t in ((1, 1), (2, 1), (4, 1), (10, 1), (1, 4))
    },
    "compare_models, best of many": {
        **{f"{m} equal models, N = {n}": rows(n, "normal", m) for m in (3, 10) for n in (20, 50, 300)},
        **{f"{m} equal models, exponential, N = {n}": rows(n, "exponential", m) for m in (3, 10) for n in (50, 300)},
        **{f"{m} equal models, 5 trainings of each": several(m, 5) for m in (3, 10)},
        "10 equal models, a named reference, N = 300": rows(300, "normal", 10, reference=0),
    },
    "compare_estimators, signal-to-noise ratio": {
        f"SNR {snr:g}, R = {r}, {p} parameters": signal(snr, r, p)
        for snr in (0.03, 0.1, 0.3, 1.0)
        for r, p in ((50, 1), (200, 1), (200, 30))
    },
}


def coverage(case: Case, repeats: int, seed: int = 0) -> float:
    """Share of the repeats whose intervals all hold the truth."""
    rng = np.random.default_rng(seed)
    return float(np.mean([case(rng) for _ in range(repeats)]))


def table(found: dict[str, float], repeats: int) -> str:
    """Markdown, with the standard error of each figure."""
    lines = ["| verdict | case | covers | se |", "|---|---|---:|---:|"]
    for verdict, cases in CASES.items():
        for name in cases:
            share = found.get(f"{verdict}: {name}")
            if share is not None:
                lines.append(f"| {verdict} | {name} | {share:.3f} | {(share * (1 - share) / repeats) ** 0.5:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what the file does not hold yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("comparison_coverage.json"))
    settings = parser.parse_args()
    held = json.loads(settings.output.read_text()) if settings.output.exists() else {}
    found = held.get("found", {}) if held.get("repeats") == settings.repeats else {}
    for verdict, cases in CASES.items():
        for name, case in cases.items():
            key = f"{verdict}: {name}"
            if key not in found:
                found[key] = coverage(case, settings.repeats)
                settings.output.write_text(json.dumps({"repeats": settings.repeats, "found": found}, indent=1))
    print(table(found, settings.repeats))


if __name__ == "__main__":
    main()
