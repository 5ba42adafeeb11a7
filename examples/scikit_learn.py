"""scikit-learn: a search over the number of latents, covariates, and a table with holes.

    python examples/scikit_learn.py --output runs/scikit_learn

The wine data (13 measurements of 178 wines of three cultivars), standardised in a pipeline.
`GridSearchCV` compares numbers of latents by the log p(x) of held-out wines: once for p(x), and
once for p(x given the cultivar), where scikit-learn routes the cultivar to `fit` and `score`. Then
a tenth of the entries are removed and completed by `VAEImputer`, beside column means and
`KNNImputer`. The picture has the scores of each fold, two latents of each wine, and completed
against true values.

--quick takes fewer wines, steps and folds.
"""

# %% Wines

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.datasets import load_wine
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ppl_vae.sklearn import VAE, VAEImputer

LATENTS, QUICK_LATENTS = [1, 2, 4], [1, 2]
STEPS, QUICK_STEPS = 200, 15
QUICK_WINES = 60
HIDDEN = 0.1
COLOURS = ("#0072B2", "#E69F00", "#009E73")


def wines(num_wines=None):
    """The measurements, and the cultivar as a category, in random order."""
    X, y = load_wine(return_X_y=True, as_frame=True)
    order = np.random.default_rng(0).permutation(len(X))[:num_wines]
    return X.iloc[order], y.iloc[order].to_frame("cultivar").astype("category")


# %% Which number of latents, with and without a covariate


def searched(X, context, latents, **settings):
    """A search over the number of latents of p(x), or of p(x given c)."""
    folds = KFold(2 if latents == QUICK_LATENTS else 3)
    given = {} if context is None else {"context": context}
    with sklearn.config_context(enable_metadata_routing=True):
        vae = VAE(random_state=0, **settings).set_fit_request(context=True)
        pipeline = make_pipeline(StandardScaler(), vae.set_score_request(context=True))
        search = GridSearchCV(pipeline, {"vae__latent_dim": latents}, cv=folds)
        return search.fit(X, **given)


# %% A tenth of the table removed, and completed


def completed(X, **settings):
    """True and completed values of the hidden entries by method, in standard deviations."""
    scaled = StandardScaler().set_output(transform="pandas").fit_transform(X)
    hidden = np.random.default_rng(0).random(scaled.shape) < HIDDEN
    holes = scaled.mask(hidden)
    methods = {
        "column means": SimpleImputer(),
        "KNNImputer": KNNImputer(),
        "VAEImputer": VAEImputer(latent_dim=4, random_state=0, **settings),
    }
    truth = scaled.to_numpy()[hidden]
    return truth, {
        name: np.asarray(method.fit_transform(holes))[hidden] for name, method in methods.items()
    }


# %% Everything, with a picture


def fold_scores(search):
    """Mean log p(x) of held-out wines, (folds, candidates)."""
    results = search.cv_results_
    return np.array([results[f"split{i}_test_score"] for i in range(search.n_splits_)])


def draw(searches, latents, X, cultivar, truth, values):
    """Scores of the folds, latents, and completed values."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for (name, search), colour in zip(searches.items(), COLOURS, strict=False):
        scores = fold_scores(search)
        axes[0].plot(range(len(latents)), scores.T, color=colour, alpha=0.3, lw=1)
        axes[0].plot(range(len(latents)), scores.mean(0), "o-", color=colour, label=name)
    axes[0].set_xticks(range(len(latents)), latents)
    axes[0].set(xlabel="number of latents", ylabel="log p(x), nats per held-out wine")
    vae = VAE(latent_dim=2, random_state=0, max_steps=searches["p(x)"].estimator[-1].max_steps)
    z = vae.fit_transform(StandardScaler().fit_transform(X))
    for kind, colour in enumerate(COLOURS):
        axes[1].plot(*z[cultivar == kind].T, ".", color=colour, label=f"cultivar {kind}")
    axes[1].set(xlabel="vae0", ylabel="vae1")
    axes[2].axline((0, 0), slope=1, color="0.7", lw=1)
    for (name, found), colour in zip(values.items(), ("0.6", *COLOURS[1::-1]), strict=True):
        error = np.sqrt(((found - truth) ** 2).mean())
        axes[2].plot(truth, found, ".", color=colour, ms=4, label=f"{name}: RMSE {error:.2f}")
    axes[2].set(xlabel="true value, sd", ylabel="completed value, sd")
    for ax in axes:
        ax.legend(frameon=False)
    return figure


def main(arguments=None):
    """Print the scores, draw scikit_learn.png into the folder, and return what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/scikit_learn"))
    parser.add_argument("--quick", action="store_true", help="fewer wines, steps and folds")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    latents = QUICK_LATENTS if options.quick else LATENTS
    settings = {"max_steps": STEPS, "refine_steps": 50}
    if options.quick:
        settings = {"max_steps": QUICK_STEPS, "refine_steps": 0, "num_particles": 50}
    X, cultivar = wines(QUICK_WINES if options.quick else None)
    searches = {
        "p(x)": searched(X, None, latents, **settings),
        "p(x | cultivar)": searched(X, cultivar, latents, **settings),
    }
    for name, search in searches.items():
        scores = fold_scores(search).mean(0)
        print(f"log {name} by latents:", dict(zip(latents, scores.round(2).tolist(), strict=True)))
    truth, values = completed(X, **settings)
    for name, found in values.items():
        print(f"{name}: RMSE {np.sqrt(((found - truth) ** 2).mean()):.3f} sd")
    figure = draw(searches, latents, X, cultivar["cultivar"].to_numpy(), truth, values)
    figure.savefig(options.output / "scikit_learn.png", dpi=150)
    return searches, truth, values


if __name__ == "__main__":
    main()
