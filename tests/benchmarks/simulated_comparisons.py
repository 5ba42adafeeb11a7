"""Tables of models whose differences are known: do the intervals of `compare_models`, and of
`gradient_noise`, hold?

A case is a function of a generator that returns whether every interval of one table holds the true
value, and whether an interval excludes zero; the models' values are exact, so that only rows and
trainings vary."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ppl_vae.diagnostics.estimators.noise import gradient_noise
from ppl_vae.diagnostics.models.difference import Difference
from ppl_vae.diagnostics.models.simultaneous import Reach, pairs_of
from ppl_vae.diagnostics.models.trained_model import TrainedModel
from ppl_vae.evidence import Evidence

Outcome = tuple[bool, bool]
Case = Callable[[np.random.Generator], Outcome]
DRAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: np.exp(rng.normal(size=shape)) - np.exp(0.5),
}
SPREADS = ((1, 1), (2, 1), (4, 1), (10, 1), (1, 4))


def exact(values: np.ndarray) -> Evidence:
    """Evidence that has no Monte Carlo error."""
    zero = np.zeros(len(values))
    return Evidence(
        values, zero, zero + 100, zero - np.inf, values, values, np.full(len(values), 100)
    )


def table(
    models: Sequence[TrainedModel], truth: np.ndarray, reference: int | None = None
) -> Outcome:
    """Whether all intervals hold the true differences, and whether one excludes 0; by default from
    the best.

    What `compare_models` does, without the stacking weights, which take most of its time.
    """
    means = [model.mean.mean() for model in models]
    baseline = int(np.argmax(means)) if reference is None else reference
    reach = Reach(models, pairs_of(models, models[baseline], chosen=reference is None))
    holds = True
    apart = False
    for model, value in zip(models, truth, strict=True):
        low, high = Difference(model, models[baseline]).interval(reach)
        holds &= low <= value - truth[baseline] <= high
        apart |= not low <= 0 <= high
    return bool(holds), bool(apart)


def rows(
    num_rows: int,
    kind: str,
    num_models: int = 2,
    reference: int | None = None,
    difference: float = 0.0,
) -> Case:
    """One training of each model, whose rows differ by independent errors; the first is better by
    `difference`."""

    def case(rng: np.random.Generator) -> Outcome:
        common = 5 * rng.normal(size=num_rows)
        errors = DRAWS[kind](rng, (num_models, num_rows))
        if num_models == 2:
            errors[1] = 0  # the difference is as skewed as it can be
        truth = np.zeros(num_models)
        truth[0] = difference
        models = [
            TrainedModel(str(i), (exact(common + truth[i] + errors[i]),)) for i in range(num_models)
        ]
        return table(models, truth, reference)

    return case


def trainings(
    counts: Sequence[int],
    spreads: Sequence[float],
    num_rows: int = 60,
    noise: float = 0.3,
    kind: str = "normal",
) -> Case:
    """Several trainings of each model, which spread unequally; the second is worse by 0.4 nats."""

    def case(rng: np.random.Generator) -> Outcome:
        common = 5 * rng.normal(size=num_rows)
        truth = -0.4 * np.arange(len(counts))
        of_first = DRAWS[kind](rng, num_rows) if kind != "normal" else 0.0
        models = []
        for i, (count, spread) in enumerate(zip(counts, spreads, strict=True)):
            own = (
                truth[i]
                + spread * rng.normal(size=(count, 1))
                + noise * rng.normal(size=(count, num_rows))
            )
            own = own + of_first * (i == 0)
            models.append(TrainedModel(str(i), tuple(exact(common + each) for each in own)))
        return table(models, truth, reference=0)

    return case


def several(num_models: int, count: int) -> Case:
    """Equal models, each trained several times; the best is the reference."""

    def case(rng: np.random.Generator) -> Outcome:
        common = 5 * rng.normal(size=100)
        models = []
        for i in range(num_models):
            own = 0.2 * rng.normal(size=(count, 1)) + rng.normal(size=(count, 100))
            models.append(TrainedModel(str(i), tuple(exact(common + each) for each in own)))
        return table(models, np.zeros(num_models))

    return case


def signal(snr: float, num_replicates: int, num_parameters: int) -> Case:
    """A gradient of known signal-to-noise ratio, in noise of equal variance."""

    def case(rng: np.random.Generator) -> Outcome:
        noise = rng.normal(size=(num_replicates, num_parameters))
        found = gradient_noise(torch.as_tensor(noise + snr))
        return found.snr_low <= snr <= found.snr_high, found.snr_low > 0

    return case


def outlying(num_rows: int, num_models: int) -> Case:
    """Equal models, and one that is worse by 1,000 nats in its first row."""

    def case(rng: np.random.Generator) -> Outcome:
        common = 5 * rng.normal(size=num_rows)
        errors = rng.normal(size=(num_models, num_rows))
        errors[-1, 0] -= 1000
        truth = np.zeros(num_models)
        truth[-1] = -1000 / num_rows
        models = [TrainedModel(str(i), (exact(common + each),)) for i, each in enumerate(errors)]
        return table(models, truth)

    return case


EQUAL: dict[str, Case] = {
    **{
        f"2 equal models, {kind} differences, N={n}": rows(n, kind)
        for kind in DRAWS
        for n in (20, 50, 300)
    },
    **{
        f"{m} equal models, normal, N={n}": rows(n, "normal", m)
        for m in (3, 10)
        for n in (20, 50, 300)
    },
    **{
        f"{m} equal models, exponential, N={n}": rows(n, "exponential", m)
        for m in (3, 10)
        for n in (50, 300)
    },
    **{f"{m} equal models, 5 trainings of each": several(m, 5) for m in (3, 10)},
    "10 equal models, a named reference, N=300": rows(300, "normal", 10, reference=0),
}
DIFFERENT: dict[str, Case] = {
    **{
        f"{m} equal models and one with an outlier, N={n}": outlying(n, m + 1)
        for m, n in ((3, 100), (9, 300))
    },
    **{
        f"{m} models, one better by {d:g} sd, N={n}": rows(n, "normal", m, difference=d)
        for m, d, n in ((2, 0.2, 300), (2, 0.5, 50), (10, 0.2, 300), (10, 0.5, 300))
    },
    **{
        f"{a} and {b} trainings, spreads {s:g} and {t:g}": trainings((a, b), (s, t))
        for a, b in ((2, 2), (2, 5), (3, 3), (3, 5), (3, 10), (5, 5))
        for s, t in SPREADS
    },
    **{
        f"3 trainings of each, spread {spread:g}, {kind} differences, N={n}": trainings(
            (3, 3), (spread, spread), num_rows=n, noise=0.02, kind=kind
        )
        for kind in ("exponential", "lognormal")
        for spread in (0.02, 0.3)
        for n in (20, 50, 300)
    },
    **{
        f"{count} trainings of each, spread {spread:g}": trainings((count, count), (spread, spread))
        for count, spread in ((3, 0.1), (5, 0.1), (5, 0.3))
    },
}
SIGNALS: dict[str, Case] = {
    f"SNR {snr:g}, R={r}, {p} parameters": signal(snr, r, p)
    for snr in (0.03, 0.1, 0.3, 1.0)
    for r, p in ((50, 1), (200, 1), (200, 30))
}


def counts(case: Case, repeats: int, seed: int | list[int] = 0) -> dict[str, float]:
    """How many of the tables have intervals that all hold, and how many an interval that excludes
    0."""
    rng = np.random.default_rng(seed)
    found = [case(rng) for _ in range(repeats)]
    held, apart = np.sum(found, axis=0).tolist()
    return {"rows": repeats, "covered": held, "apart": apart}


def coverage(case: Case, repeats: int, seed: int = 0) -> float:
    """Share of the repeats whose intervals all hold the truth."""
    return counts(case, repeats, seed)["covered"] / repeats
