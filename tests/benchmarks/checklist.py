"""Size and power of every line of the report's checklist: runs in docs/checklist.json, tables in
believability.md.

    python tests/benchmarks/checklist.py                         # whatever is not done yet
    python tests/benchmarks/checklist.py --only Poisson 'Gaussian, t3 noise'
    python tests/benchmarks/checklist.py --num-seeds 20
    python tests/benchmarks/checklist.py --table                 # print the tables of what is there

A run is a data set of 1,000 training and 300 test rows of 8 features, a VAE of two latents and a
linear decoder fitted to it, and the checklist of the test rows. The rows come from a VAE of the
family that is fitted, or from one that differs from it as the setting says. The encoder's lines are
judged on exact guides of a linear-Gaussian model, and on guides that are too narrow or shifted. A
run is written when it is done; none is computed again."""

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from ppl_vae import Model, beds, likelihoods
from ppl_vae.diagnostics import GuideDraws, calibration
from ppl_vae.experiment import build, read_config
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.results import measure, provenance
from ppl_vae.report import DIAGNOSES
from ppl_vae.report.diagnosis import Findings, Subject
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import fit

RULES = [rule for diagnosis in DIAGNOSES for rule in diagnosis.rules]
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "checklist.json"
NUM_TRAIN, NUM_TEST, NUM_FEATURES, NUM_LATENTS = 1000, 300, 8, 2
NUM_SEEDS = 200
NUM_WRONG = 30  # of a wrong model or guide: power needs fewer runs than size
NUM_EPOCHS = 300
ENCODER = ("Encoder: each quantity", "Encoder: coverage")
OF_GUIDES = (*ENCODER, "log p(x) is an estimate", "Monte Carlo error is small")
# Of rows from a linear model a plain model is as good as the right one: no error, and no size.
NO_SIZE = ("Better than plain models",)

LAW = """Of 200 right runs, a line fails at most 8 and wants a look at most 28; at most 5 % of pages
have a line that fails; a named alternative is seen in 80 % or more. A run is a linear VAE of two
latents and a full-rank normal guide, fitted to 1,000 rows of 8 features by the IWAE bound of ten
particles, and judged by 300 others. (Fitted by the ELBO, 10 of 33 continuous Bernoulli models and
7 of 32 with Student's t want a look: the ELBO's optimum is biased where posteriors are skewed, and
the variance of the replicated rows shows it.) The encoder's lines are judged on the exact guide of
a linear-Gaussian model, and on distorted ones.
Columns: settings, with the number of runs so far. Cells: shares of the runs in which the line was
judged. Lines with neither *look* nor *fail* in any run are not shown, nor are those that judge the
guide of a fitted model, nor the comparison with plain models, which are as good for such rows.
Shares of a few runs say little: the command below adds runs up to 200.
Lines on features were judged by PIT values of an earlier formula, which differ from those of today
by less than 0.01.

`python tests/benchmarks/checklist.py`; runs are in `docs/checklist.json`."""

Line = tuple[str, float | None]  # verdict and number
Run = dict[str, Line]


# --- rows -----------------------------------------------------------------------------------------


def signal(rng: np.random.Generator, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """z, and a linear map of it with random weights: sd one in every feature."""
    z = rng.normal(size=(num_rows, NUM_LATENTS))
    weights = rng.normal(size=(NUM_LATENTS, NUM_FEATURES))
    return z, z @ weights / np.sqrt((weights**2).sum(0))


def bits(rng: np.random.Generator, z: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Logits of sd 2."""
    return (rng.random(eta.shape) < expit(2 * eta + rng.normal(size=NUM_FEATURES) / 2)).astype(
        float
    )


def dependent_bits(rng: np.random.Generator, z: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Every second bit is a copy of the one before it in half of the rows."""
    x = bits(rng, z, eta)
    copied = rng.random((len(x), NUM_FEATURES // 2)) < 0.5
    x[:, 1::2] = np.where(copied, x[:, ::2], x[:, 1::2])
    return x


def fractions(rng: np.random.Generator, z: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Continuous Bernoulli with logits of sd 2, by the inverse of its distribution function."""
    logit = 2 * eta + 1e-3
    return np.log1p(rng.random(eta.shape) * np.expm1(logit)) / logit


def reals(noise: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The signal and noise of half its sd."""
    return lambda rng, z, eta: eta + 0.5 * noise(rng, z, eta.shape)


def correlated(rng: np.random.Generator, z: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pairs of features with a correlation of 0.5."""
    noise = rng.normal(size=shape)
    noise[:, 1::2] = 0.5 * noise[:, ::2] + 0.75**0.5 * noise[:, 1::2]
    return noise


def counts(rng: np.random.Generator, z: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Poisson counts."""
    return rng.poisson(rates(rng, eta)).astype(float)


def overdispersed(size: float) -> Callable[..., np.ndarray]:
    """Negative binomial counts of this size."""
    return lambda rng, z, eta: rng.poisson(
        rates(rng, eta) * rng.gamma(size, 1 / size, eta.shape)
    ).astype(float)


def rates(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    """Means about 3, log-means of sd 0.7."""
    return np.exp(0.7 * eta + 1.0 + rng.normal(size=NUM_FEATURES) / 4)


def gaussian(rng: np.random.Generator, z: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(size=shape)


RIGHT: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "Bernoulli": ("Bernoulli", bits),
    "ContinuousBernoulli": ("ContinuousBernoulli", fractions),
    "Gaussian": ("Gaussian", reals(gaussian)),
    "StudentT": ("StudentT", reals(lambda rng, z, shape: rng.standard_t(5, shape))),
    "Poisson": ("Poisson", counts),
    "NegativeBinomial": ("NegativeBinomial", overdispersed(3.0)),
}
WRONG: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "Bernoulli, dependent bits": ("Bernoulli", dependent_bits),
    "Gaussian, correlated noise": ("Gaussian", reals(correlated)),
    "Gaussian, heteroscedastic noise": (
        "Gaussian",
        reals(lambda rng, z, shape: np.exp(0.7 * z[:, :1] - 0.49) * rng.normal(size=shape)),
    ),
    "Gaussian, t3 noise": (
        "Gaussian",
        reals(lambda rng, z, shape: rng.standard_t(3, shape) / 3**0.5),
    ),
    "Poisson, overdispersion": ("Poisson", overdispersed(3.0)),
}
GUIDES = {
    "exact guide": (1.0, 0.0),
    "guide of sd x 0.8": (0.8, 0.0),
    "guide shifted by 0.2 sd": (1.0, 0.2),
}


# --- one run --------------------------------------------------------------------------------------


def fitted(setting: str, seed: int) -> Run:
    """The checklist of a VAE that is fitted to such rows."""
    likelihood, draw = (RIGHT | WRONG)[setting]
    rng = np.random.default_rng([seed, *setting.encode()])
    x = draw(rng, *signal(rng, NUM_TRAIN + NUM_TEST)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, x_train=x[:NUM_TRAIN], x_test=x[NUM_TRAIN:])
        return checked(path, likelihood, seed)


def checked(path: Path, likelihood: str, seed: int) -> Run:
    tables: dict[str, Any] = {
        "data.name": str(path),
        "likelihood.name": likelihood,
        "posterior.name": "FullRankNormal",
        "posterior.latent_dim": NUM_LATENTS,
        "encoder.hidden_dims": [64, 64],
        "objective.name": "IWAE",
        "objective.num_particles": 10,
        "objective.gradient": "DoublyReparameterized",
        "training.num_epochs": NUM_EPOCHS,
        "training.batch_size": 500,
        "training.learning_rate": 3e-2,
        "training.clip_norm": 5.0,
        "training.seed": seed,
        "evaluation.num_particles": 1000,
    }
    experiment = build(read_config(changes=list(tables.items())))
    prior, rows = experiment.model.prior, experiment.data.train
    with seeded(seed):
        family = getattr(likelihoods, likelihood)(NUM_FEATURES)
        linear = Model(prior, family, nn.Identity(), start=rows)
    experiment = replace(experiment, model=linear)
    result = fit(
        experiment.model,
        experiment.guide,
        experiment.data,
        objective=experiment.objective,
        training=replace(experiment.training, progress=False, scheduler=falling, compile=False),
    )
    evidence, found = measure(experiment, experiment.held_out, progress=False)
    metrics = provenance(found, experiment, result, 0.0)
    subject = Subject(
        Folder(path.parent), experiment, metrics, evidence, num_data=NUM_TEST, seed=seed
    )
    findings = Findings(subject, DIAGNOSES)
    checks = [rule.check(findings) for rule in RULES]
    return {
        check.title: (check.verdict, known(check.value))
        for check in checks
        if check.title not in (*OF_GUIDES, *NO_SIZE)
    }


def guided(setting: str, seed: int) -> Run:
    """The encoder's lines for a guide of a linear-Gaussian model."""
    scale, shift = GUIDES[setting]
    distorted: Any = {"guide_scale": scale, "guide_shift": shift}
    bed = beds.linear_gaussian(
        NUM_TEST, latent_dim=2, data_dim=NUM_FEATURES, seed=seed, **distorted
    )
    sbc = calibration(
        bed.model, bed.guide, bed.x, GuideDraws(200, progress=False), num_data=500, seed=seed
    )
    checks = [
        rule.check({"sbc": sbc}) for rule in RULES if rule.title in ENCODER
    ]  # Findings are asked by name
    return {check.title: (check.verdict, known(check.value)) for check in checks}


def falling(optimizer: torch.optim.Optimizer) -> Any:
    """Learning rate to zero along a cosine."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS)


def known(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.4g}")


# --- all of them, and the tables ------------------------------------------------------------------


def read() -> dict[str, Run]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(runs: dict[str, Run]) -> None:
    """The whole file or none of it, one run a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(runs[key])}" for key in sorted(runs))
    write_whole(RESULTS, lambda path: path.write_text(f"{{\n{lines}\n}}\n"))


def table(runs: dict[str, Run], settings: Any, verdicts: tuple[str, ...]) -> list[str]:
    """Shares of the runs with one of these verdicts, a line for each rule and a column for each
    setting."""
    found = {
        name: [run for key, run in runs.items() if key.rpartition(" | ")[0] == name]
        for name in settings
    }
    found = {name: each for name, each in found.items() if each}
    if not found:
        return ["Not run since the rules last changed."]
    rows = [f"| | {' | '.join(f'{name} ({len(each)})' for name, each in found.items())} |"]
    rows += ["|---|" + "---|" * len(found)]
    lines = [
        (title, line[0]) for each in found.values() for run in each for title, line in run.items()
    ]
    seen = {title for title, verdict in lines if verdict in ("look", "fail")}
    titles = [rule.title for rule in RULES if rule.title in seen]
    for title in titles:
        rows.append(
            f"| {title} | {' | '.join(share(each, title, verdicts) for each in found.values())} |"
        )
    pages = [
        np.mean([any(line[0] in verdicts for line in run.values()) for run in each])
        for each in found.values()
    ]
    return [*rows, f"| any line | {' | '.join(f'{value:.3f}' for value in pages)} |"]


def share(runs: list[Run], title: str, verdicts: tuple[str, ...]) -> str:
    """Of the runs in which the line was judged."""
    lines = [run[title][0] for run in runs if title in run]
    judged = [verdict for verdict in lines if verdict != "skipped"]
    if not judged:
        return "skipped"
    skipped = len(lines) - len(judged)
    return f"{np.mean([v in verdicts for v in judged]):.3f}" + (
        f" ({skipped} skipped)" if skipped else ""
    )


def tables(runs: dict[str, Run]) -> str:
    """Size on right models and guides, power on the others."""
    parts = {
        "Right models, *fail*": table(runs, RIGHT, ("fail",)),
        "Right models, *look*": table(runs, RIGHT, ("look",)),
        "Wrong models, *look* or *fail*": table(runs, WRONG, ("look", "fail")),
        "Guides, *look* or *fail*": table(runs, GUIDES, ("look", "fail")),
        "Guides, *fail*": table(runs, GUIDES, ("fail",)),
    }
    return "\n\n".join(f"**{title}**\n\n" + "\n".join(rows) for title, rows in parts.items())


def main() -> None:
    settings = [*RIGHT, *WRONG, *GUIDES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=settings, default=settings)
    parser.add_argument("--num-seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for seed in range(0 if options.table else options.num_seeds):
        for setting in options.only:
            key = f"{setting} | {seed}"
            wanted = setting in (*RIGHT, "exact guide") or seed < NUM_WRONG
            if wanted and key not in read():
                run = guided(setting, seed) if setting in GUIDES else fitted(setting, seed)
                write(read() | {key: run})  # another process may have written runs meanwhile
    print(tables(read()))


if __name__ == "__main__":
    main()
