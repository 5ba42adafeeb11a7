"""What plain models make of the same rows: is log p(x) = -8.5 good?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.models.mixtures import (
    Bits,
    Categories,
    Counts,
    Mixture,
    OverdispersedCounts,
)
from ppl_vae.evidence import Evidence
from ppl_vae.families.likelihoods import Bernoulli, Categorical, Likelihood

__all__ = ["baselines"]

FEWEST_ROWS = 10
MOST_ROWS = 10_000  # of the training rows that a baseline is fitted to
NUM_FACTORS = (1, 2, 4, 8, 16, 32)
NUM_COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
MOST_FULL = 64  # features beyond which a covariance matrix for each component is left out
HELD_OUT = 0.2  # of the training rows, to choose a size by
FLOOR = 1e-6  # added to variances, as scikit-learn does

Scores = Callable[[np.ndarray], np.ndarray]  # rows to log p(x) of each
Fit = Callable[[np.ndarray], Scores]


def baselines(
    data: Dataset,
    likelihood: Likelihood | type[Likelihood],
    *,
    rows: Dataset | None = None,
    seed: int = 0,
) -> dict[str, Evidence]:
    """Exact log p(x) of held-out rows under plain models of the same kind, for `compare_models`.

    Independent features, and two models of how they depend on each other: for densities factor
    analysis and a Gaussian mixture (scikit-learn), for bits, counts and categories a mixture of
    independent features (EM). Their number of factors or components is the one whose log p(x) is
    highest on a fifth of the training rows; then all training rows are fitted, or 10,000 of them.
    Covariates are not used.

    Args:
        data: With the splits that the model was trained on.
        likelihood: Of the model, or its class: a density has other baselines than a probability.
        rows: The rows to be judged; None is `data.test`.
        seed: Seed of the split and of the starting values.

    Returns:
        By name, what `compare_models` takes beside the model's own evidence.

    Raises:
        ValueError: x is missing for some entries, or there are fewer than 10 training rows.

    References:
        Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47; Dempster,
        Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, JRSS B
        39.

    Example:
        >>> from ppl_vae.families import likelihoods
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> found = baselines(Dataset(x, splits={"train": range(150), "test": range(150, 200)}), likelihoods.Gaussian)
        >>> list(found)[0], len(found["independent normals"])
        ('independent normals', 50)
    """
    judged = data.test if rows is None else rows
    if len(data.train) < FEWEST_ROWS:
        raise ValueError(
            f"baselines need {FEWEST_ROWS} training rows or more; there are {len(data.train)}"
        )
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:MOST_ROWS]
    train, test = (_complete(each) for each in (data.train[chosen], judged))
    fitted = _fitted(train, likelihood, seed)
    measure = likelihood.measure
    return {
        name: Evidence.exact(score(test), judged.x, measure=measure)
        for name, score in fitted.items()
    }


def _complete(data: Dataset) -> np.ndarray:
    """All rows as float64, (N, D)."""
    x: Tensor = data.in_memory().x
    values = x.reshape(len(x), -1).double().cpu().numpy()
    missing = np.argwhere(np.isnan(values))
    if len(missing):
        count = len(np.unique(missing[:, 0]))
        raise ValueError(
            f"x is missing in {count} of {len(x)} rows: baselines take complete rows; leave these "
            "out"
        )
    return values


def _fitted(train: np.ndarray, likelihood: Any, seed: int) -> dict[str, Scores]:
    kind = likelihood if isinstance(likelihood, type) else type(likelihood)
    if likelihood.measure == "lebesgue":
        return _densities(train, seed)
    if issubclass(kind, Bernoulli):
        return _mixtures(train, Bits(), seed)
    if issubclass(kind, Categorical):
        return _mixtures(train, Categories(1 + int(train.max())), seed)
    overdispersed = OverdispersedCounts.fit(train).log_prob
    return {"independent negative binomials": overdispersed} | _mixtures(train, Counts(), seed)


def _mixtures(train: np.ndarray, family: Any, seed: int) -> dict[str, Scores]:
    def mixture(size: int) -> Fit:
        return lambda rows: Mixture.fit(rows, family, size, seed).log_prob

    best = _best(train, {size: mixture(size) for size in NUM_COMPONENTS[1:]})
    return {
        f"independent {family.name}": mixture(1)(train),
        f"mixture of {best} independent {family.name}": mixture(best)(train),
    }


def _densities(train: np.ndarray, seed: int) -> dict[str, Scores]:
    from sklearn.decomposition import FactorAnalysis
    from sklearn.mixture import GaussianMixture

    num_features = train.shape[1]
    mean, scale = train.mean(0), np.sqrt(train.var(0) + FLOOR)

    def standard(make: Callable[[], Any]) -> Fit:
        """Fitted to standardised rows, so that no feature's unit decides what is small."""

        def fit(rows: np.ndarray) -> Scores:
            fitted = make().fit((rows - mean) / scale)
            return lambda x: fitted.score_samples((x - mean) / scale) - np.log(scale).sum()

        return fit

    def factor_analysis(size: int) -> Fit:
        return standard(lambda: FactorAnalysis(size, random_state=seed))

    def mixture(size: int, kind: str) -> Fit:
        return standard(lambda: GaussianMixture(size, covariance_type=kind, random_state=seed))

    factors = {size: factor_analysis(size) for size in _up_to(NUM_FACTORS, num_features)}
    kinds = ("diag", "full") if num_features <= MOST_FULL else ("diag",)
    sizes = _up_to(NUM_COMPONENTS, max(2, len(train) // 10))
    mixtures = {(size, kind): mixture(size, kind) for size in sizes for kind in kinds}
    found = {"independent normals": mixture(1, "diag")(train)}
    if factors:
        best = _best(train, factors)
        found[f"factor analysis, {best} factor{'s' * (best > 1)}"] = factors[best](train)
    size, kind = _best(train, mixtures)
    covariances = {"diag": "diagonal", "full": "full"}[kind]
    name = f"Gaussian mixture, {size} component{'s' * (size > 1)}, {covariances} covariance"
    return found | {name: mixtures[size, kind](train)}


def _up_to(sizes: Sequence[int], most: int) -> list[int]:
    return [size for size in sizes if size < most]


def _best(train: np.ndarray, fits: Mapping[Any, Fit]) -> Any:
    """The size with the highest mean log p(x) on rows that it was not fitted to."""
    num_fitted = len(train) - max(1, int(HELD_OUT * len(train)))
    fitted, held_out = train[:num_fitted], train[num_fitted:]
    scores = {size: float(fit(fitted)(held_out).mean()) for size, fit in fits.items()}
    return max(scores, key=lambda size: scores[size])
