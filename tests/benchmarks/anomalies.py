"""Power and AUROC of anomaly scores through conformal p-values: docs/anomalies.json.

    python tests/benchmarks/anomalies.py                        # whatever is not done yet
    python tests/benchmarks/anomalies.py --only breast_cancer
    python tests/benchmarks/anomalies.py --table                # print the table of what is there
    python tests/benchmarks/anomalies.py --picture docs/images/anomaly_scores.png  # train and draw

A run is a problem and one of its splits. Rows of the normal class are divided into training,
calibration and test rows; the odd rows of the test are a tenth of it. Detectors see the training
rows alone: a VAE (log p(x) with and without refinement, typicality, likelihood regret, all of one
training), isolation forest, local outlier factor and a Gaussian mixture of standardised columns
(its size by BIC). Every score is turned into p-values by the same rows of calibration. Odd and
normal test rows are redrawn 200 times from one scored pool: power and false discovery proportion
are means over these, AUROC is that of the pool.

Problems: breast_cancer (benign are normal), digits (one class is normal, the other nine are odd,
120 of them; ten splits, one for each class), fashion (Fashion-MNIST is normal, MNIST odd;
binarised, 2,000 training images) and fashion_grey (the same with grey values, fewer test images;
the folder of both in PPL_VAE_DATA). All but breast_cancer have 100 steps of refinement. The
picture has three scores of grey images, split 0."""

import argparse
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import false_discovery_control
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.refinement import GradientRefinement
from ppl_vae.runtime.files import write_whole
from ppl_vae.tasks.anomaly import (
    LogEvidence,
    conformal_p_values,
)

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "anomalies.json"
ALPHA = 0.1
REDRAWS = 200
SHARE_ODD = 0.1
NUM_REFERENCE = 200  # training rows that the centre of typicality is taken from
NAMES = {"as it is": "log p(x), not refined", "typical": "typicality"}
NUM_ODD = 120  # of the digits
SPLITS = {"breast_cancer": 5, "digits": 10, "fashion": 1, "fashion_grey": 1}

Parts = dict[str, np.ndarray]  # train, calibration, normal, odd


# --- problems -------------------------------------------------------------------------------------


def divided(normal: np.ndarray, odd: np.ndarray, sizes: tuple[int, int], seed: int) -> Parts:
    """Normal rows for training and calibration, the rest for testing."""
    order = np.random.default_rng(seed).permutation(len(normal))
    train, calibration, rest = np.split(normal[order], np.cumsum(sizes))
    return {"train": train, "calibration": calibration, "normal": rest, "odd": odd}


def rows_of(problem: str, split: int) -> Parts:
    """The rows of a run."""
    if problem == "breast_cancer":
        x, y = load_breast_cancer(return_X_y=True)
        return divided(x[y == 1], x[y == 0], (160, 130), split)
    if problem == "digits":
        x, y = load_digits(return_X_y=True)
        odd = np.random.default_rng(split).permutation(x[y != split])[:NUM_ODD]
        return divided(x[y == split], odd, (60, 100), split)
    folder = os.environ["PPL_VAE_DATA"]
    binarize: Any = "threshold" if problem == "fashion" else None
    images = {
        name: pv.load(name, binarize=binarize, data_dir=folder).flatten()
        for name in ("fashion_mnist", "mnist")
    }
    num_rows, num_odd = (2700, 300) if problem == "fashion" else (2550, 150)
    normal = images["fashion_mnist"].train[:num_rows].x.numpy()
    odd = images["mnist"].test[:num_odd].x.numpy()
    return divided(normal, odd, (2000, 400), split)


# --- detectors ------------------------------------------------------------------------------------


def trained(problem: str, train: np.ndarray, seed: int) -> tuple[Any, Any]:
    """A VAE of the training rows."""
    if problem == "breast_cancer":
        recipe = pv.recipe(pv.Dataset(train), seed=seed, progress=False)
        recipe.fit()
        return recipe.model, recipe.guide
    num_features = train.shape[1]
    data = pv.Dataset(train).split(valid=0.1, test=0, seed=seed)
    likelihood: Any = likelihoods.Bernoulli(num_features)
    sizes: dict[str, Any] = {"latent_dim": 10, "width": 200, "num_epochs": 60}
    if problem == "fashion_grey":
        likelihood = likelihoods.ContinuousBernoulli(num_features)
    if problem == "digits":
        likelihood = likelihoods.BetaBinomial(num_features, total=16)
        sizes = {"latent_dim": 4, "width": 64, "num_epochs": 400}
    with pv.seeded(seed):
        encoder = networks.MLP(num_features, (sizes["width"],))
        guide = pv.Guide(
            posteriors.MeanFieldNormal(sizes["latent_dim"]), num_features, encoder, start=data
        )
        decoder = networks.MLP(sizes["latent_dim"], (sizes["width"],))
        prior = priors.StandardNormal(sizes["latent_dim"])
        model = pv.Model(prior, likelihood, decoder, start=data)
    training = pv.Training(num_epochs=sizes["num_epochs"], patience=30, seed=seed, progress=False)
    pv.fit(model, guide, data, training=training)
    return model, guide


def vae_scores(problem: str, rows: Parts, seed: int) -> dict[str, Parts]:
    """Scores of a VAE: plain and refined log p(x), typicality and regret, by one refinement."""
    model, guide = trained(problem, rows["train"], seed)
    num_particles, refinement = 500, GradientRefinement()
    if problem != "breast_cancer":
        num_particles, refinement = 200, GradientRefinement(num_steps=100)
    parts = {"reference": rows["train"][:NUM_REFERENCE]} | rows
    found: dict[str, Parts] = {name: {} for name in ("as it is", "log p(x)", "typical", "regret")}
    for part in ("reference", "calibration", "normal", "odd"):
        data = pv.Dataset(parts[part])
        plain, refined = (
            LogEvidence(num_particles, each).evidence(model, guide, data, progress=False)
            for each in (None, refinement)
        )
        found["as it is"][part] = -plain.log_evidence
        found["log p(x)"][part] = -refined.log_evidence
        found["regret"][part] = refined.elbo - plain.elbo
    centre = np.median(found["log p(x)"]["reference"])
    found["typical"] = {part: abs(each - centre) for part, each in found["log p(x)"].items()}
    return {NAMES.get(name, name): scores for name, scores in found.items()}


def mixture_of(train: np.ndarray, seed: int) -> Any:
    """A Gaussian mixture with the number of components by BIC."""
    fits = [GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(train) for k in (1, 2, 4, 8)]
    return min(fits, key=lambda fit: fit.bic(train))


def plain_scores(rows: Parts, seed: int) -> dict[str, Parts]:
    """Scores of detectors of scikit-learn; many columns are reduced to 50 components first."""
    steps: list[Any] = [StandardScaler()]
    if rows["train"].shape[1] > 100:
        steps.append(PCA(50, random_state=seed))
    scaler = make_pipeline(*steps).fit(rows["train"])
    scaled = {part: scaler.transform(values) for part, values in rows.items()}
    fitted = {
        "isolation forest": IsolationForest(random_state=seed).fit(scaled["train"]),
        "local outlier factor": LocalOutlierFactor(novelty=True).fit(scaled["train"]),
        "Gaussian mixture": mixture_of(scaled["train"], seed),
    }
    parts = ("calibration", "normal", "odd")
    return {
        name: {part: -each.score_samples(scaled[part]) for part in parts}
        for name, each in fitted.items()
    }


# --- runs -----------------------------------------------------------------------------------------


def judged(scores: Parts, seed: int) -> dict[str, float]:
    """AUROC of the pool; mean power and false discovery proportion over redrawn tests."""
    normal, odd = scores["normal"], scores["odd"]
    truth = np.repeat([0, 1], [len(normal), len(odd)])
    rng = np.random.default_rng(seed)
    known = np.concatenate([scores["calibration"], normal])
    num_calibration = len(scores["calibration"])
    num_odd = max(1, round(len(normal) * SHARE_ODD / (1 - SHARE_ODD)))
    powers, proportions = [], []
    for _ in range(REDRAWS):
        order = rng.permutation(known)
        tested = np.concatenate([order[num_calibration:], rng.choice(odd, num_odd, replace=False)])
        p_values = conformal_p_values(order[:num_calibration], tested)
        found = false_discovery_control(p_values) <= ALPHA
        powers.append(found[-num_odd:].mean())
        proportions.append(found[:-num_odd].sum() / max(1, found.sum()))
    finite = np.nan_to_num(np.concatenate([normal, odd]), posinf=1e30)
    return {
        "auroc": float(roc_auc_score(truth, finite)),
        "power": float(np.mean(powers)),
        "fdp": float(np.mean(proportions)),
    }


def run(problem: str, split: int) -> dict[str, dict[str, float]]:
    """All detectors on one split."""
    rows = rows_of(problem, split)
    scores = vae_scores(problem, rows, split) | plain_scores(rows, split)
    return {name: judged(each, split) for name, each in scores.items()}


def table(results: dict[str, Any]) -> str:
    """Means over the splits, by problem and detector."""
    lines = ["| problem | score | AUROC | power | false discoveries |", "|---|---|---|---|---|"]
    for problem in SPLITS:
        runs = [found for key, found in results.items() if key.split()[0] == problem]
        for name in runs[0] if runs else ():
            means = {what: np.mean([each[name][what] for each in runs]) for what in runs[0][name]}
            cells = f"{means['auroc']:.3f} | {means['power']:.2f} | {means['fdp']:.3f}"
            lines.append(f"| {problem} ({len(runs)} splits) | {name} | {cells} |")
    return "\n".join(lines)


def picture(path: Path) -> None:
    """Three scores of grey images: MNIST beside Fashion-MNIST, on which the model was trained."""
    scores = vae_scores("fashion_grey", rows_of("fashion_grey", 0), 0)
    titles = {"log p(x)": "-log p(x)", "typicality": "|log p(x) - median|", "regret": "regret"}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        normal, odd, known = (scores[name][part] for part in ("normal", "odd", "calibration"))
        every = np.concatenate([normal, odd, known])
        bins = np.linspace(every.min(), every.max(), 41)
        ax.hist(normal, bins, color="#0072B2", alpha=0.7, label="Fashion")
        ax.hist(odd, bins, color="#E69F00", alpha=0.7, label="MNIST")
        ax.axvline(known.max(), color="k", linestyle=":", label="oddest of calibration")
        auroc = roc_auc_score(np.repeat([0, 1], [len(normal), len(odd)]), [*normal, *odd])
        ax.set(title=f"{name}: AUROC {auroc:.2f}", xlabel=f"{title} in nats")
    axes[0].set_ylabel("images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    if options.table:
        print(table(results))
        return
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.picture:
        picture(options.picture)
        return
    for problem in options.only:
        for split in range(SPLITS[problem]):
            key = f"{problem} {split}"
            if key in results:
                continue
            results[key] = run(problem, split)
            text = json.dumps(results, indent=1) + "\n"
            write_whole(options.output, lambda p, text=text: p.write_text(text))
            print(key, results[key], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
