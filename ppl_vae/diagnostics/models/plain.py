"""Plain models of the same rows, with which a given log p(x) is compared."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import norm

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.models.columns import Marginals, Mixed, Normals, positive_sd
from ppl_vae.diagnostics.models.mixtures import (
    Binomials,
    Bits,
    Categories,
    Counts,
    Family,
    Mixture,
    OverdispersedCounts,
    Parts,
)
from ppl_vae.evidence import Evidence
from ppl_vae.evidence.fingerprints import row_weights
from ppl_vae.families.likelihoods import (
    Bernoulli,
    BetaBinomial,
    Binomial,
    Categorical,
    Columns,
    DirichletMultinomial,
    Gamma,
    Likelihood,
    LogNormal,
    Multinomial,
    Ordinal,
)
from ppl_vae.programs.inference import treat_alike
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.runtime.seeding import generator
from ppl_vae.runtime.text import counted

__all__ = ["baselines"]

FEWEST_ROWS = 10
MOST_ROWS = 10_000  # training rows that a baseline is fitted to
NUM_FACTORS = (1, 2, 4, 8, 16, 32)
NUM_COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
MOST_FULL = 64  # features, beyond which components have no full covariance matrices
ROWS_OF_COMPONENT = 5  # fewest training rows for each component of a mixture
HELD_OUT = 0.2  # share of the training rows that the size is chosen on

Scores = Callable[[np.ndarray], np.ndarray]  # log p(x) of each row
Fit = Callable[[np.ndarray], Scores]


def baselines(
    data: Dataset,
    likelihood: Likelihood | type[Likelihood],
    *,
    rows: Dataset | None = None,
    seed: int = 0,
) -> dict[str, Evidence]:
    """Exact log p(x) of held-out rows under plain models of the same kind, for `compare_models`.

    Independent features, and two models of their dependence: for densities factor analysis and a
    Gaussian mixture (scikit-learn), for bits, counts and categories a mixture of independent
    features (EM); for parts of a total one multinomial and a mixture of them. The number of factors
    or components maximises log p(x) on a fifth of the training rows; the model is then fitted to
    all training rows, or 10,000 of them. For mixed columns, and densities of incomplete rows, there
    are mixtures of independent columns (latent classes). Covariates are not used. A column that
    does not vary has a normal law of sd 1 in all of them, with a warning.

    Args:
        data: A `Dataset` with the splits that the model was trained on. Where the model was fitted
            again to training and validation rows (`refit`, `recipe`), make these the training rows.
        likelihood: The model's likelihood, or its class if that is sufficient: densities and
            probabilities have different baselines.
        rows: Rows to evaluate; None is `data.test`.
        seed: Seed of the split and of the starting values.

    Returns:
        Evidence by name, to be passed to `compare_models` together with the model's.

    Raises:
        ValueError: There are fewer than 10 training rows; rows have more entries than the
            likelihood, or lie outside its support; the number of trials is not known from the class
            of a likelihood; p(x) is neither a density nor a probability of bits, categories or
            counts.

    References:
        Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47; Dempster,
        Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, JRSS B
        39.

    Example:
        >>> from ppl_vae.families import likelihoods
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> data = Dataset(x, splits={"train": range(150), "test": range(150, 200)})
        >>> found = baselines(data, likelihoods.Gaussian)
        >>> list(found)[0], len(found["independent normals"])
        ('independent normals', 50)
    """
    _refuse_other_entries(data, likelihood)
    num_train = len(data.train)
    if num_train < FEWEST_ROWS:
        raise ValueError(
            f"baselines need {FEWEST_ROWS} training rows or more; there are {num_train}"
        )
    chosen = data.train[generator(seed).permutation(num_train)[:MOST_ROWS]]
    judged = (data.test if rows is None else rows).in_memory()
    if not isinstance(likelihood, type):
        for part in (chosen, judged):
            likelihood.check(part.x)
    train, test = _values(chosen), _values(judged)
    treat_alike(data.train, "the fit of the baselines")
    about: Any = {"measure": likelihood.measure, "weights": row_weights(judged)}
    if chosen.unobserved_features:
        first = chosen.unobserved_features[0]
        raise ValueError(f"column {first!r} is never observed in training: leave it out")
    _warn_of_constant(chosen, likelihood)
    complete = not np.isnan(train).any() and not np.isnan(test).any()
    if isinstance(likelihood, type) and issubclass(likelihood, Categorical | Ordinal):
        # Without the number of categories that the likelihood has: those of all rows.
        num_categories = 1 + int(np.nanmax(np.concatenate([train, test])))
        likelihood = Categorical(data.event_shape, num_categories)
    fitted = _fitted(train, likelihood, seed, complete=complete)
    return {name: Evidence.exact(score(test), judged.x, **about) for name, score in fitted.items()}


def _refuse_other_entries(data: Dataset, likelihood: Any) -> None:
    """Refuse rows that hold more than the x of the likelihood, such as a class."""
    size = data.event_shape.numel()
    given = None if isinstance(likelihood, type) else likelihood.event_shape.numel()
    if given not in (None, size):
        raise ValueError(
            f"rows have {size} entries and the likelihood {given}: give rows of x alone, since "
            "other entries, such as classes, are none that a plain model of x describes"
        )


def _warn_of_constant(train: Dataset, likelihood: Likelihood | type[Likelihood]) -> None:
    """Warn of columns whose density has no maximum, under any model."""
    measure = likelihood.measure
    parts = measure.split(", ")
    constant = [
        name
        for name in train.constant_features
        if measure == "lebesgue" or f"{name}: lebesgue" in parts
    ]
    if constant:
        warn_caller(
            f"{counted(len(constant), 'column')} without variation in the training rows, "
            f"{constant[0]!r} first: the baselines give each a normal law of sd 1, and the density "
            "of a model is as high as its smallest scale; leave such columns out"
        )


def _values(data: Dataset) -> np.ndarray:
    """All rows as float64, (N, D); NaN is missing."""
    return data.x.flatten(1).double().cpu().numpy()


def _fitted(train: np.ndarray, likelihood: Any, seed: int, *, complete: bool) -> dict[str, Scores]:
    """The baselines for this likelihood, fitted."""
    if isinstance(likelihood, Columns) and len(likelihood.parts) == 1:
        likelihood = likelihood.parts[0]
    if likelihood.measure == "lebesgue" and complete:
        return _densities(train, seed)
    family = _family(likelihood, train)
    mixture = _mixture(train, family, seed)
    if isinstance(family, Mixed):
        pairs = zip(likelihood.parts, family.parts, strict=True)
        parts = [(*pair, part.measure == "lebesgue") for part, pair in pairs]
        return {family.name: Marginals(train, parts, seed).log_prob} | mixture
    found = {family.name: Mixture.fit(train, family, 1, seed).log_prob} | mixture
    if not isinstance(family, Counts):
        return found
    return {"independent negative binomials": OverdispersedCounts.fit(train).log_prob} | found


def _family(likelihood: Any, train: np.ndarray) -> Family:
    """Independent features of a likelihood's kind."""
    kind = likelihood if isinstance(likelihood, type) else type(likelihood)
    if isinstance(likelihood, Columns):
        pairs = zip(likelihood.parts, likelihood.places, strict=True)
        return Mixed([(places, _family(part, train[:, places])) for part, places in pairs])
    if likelihood.measure == "lebesgue":
        return Normals(train, logged=issubclass(kind, LogNormal | Gamma))
    if issubclass(kind, Multinomial | DirichletMultinomial):
        return Parts(train.shape[1] if kind is likelihood else likelihood.event_shape[-1])
    known = train[~np.isnan(train)]
    if likelihood.measure != "counting" or (known != known.round()).any():
        raise ValueError(
            f"no baselines for {kind.__name__}: they are densities, or probabilities of bits, "
            "categories and counts; leave them out"
        )
    if issubclass(kind, Bernoulli):
        return Bits()
    if issubclass(kind, Categorical | Ordinal):
        return Categories(1 + int(likelihood.support.upper_bound))
    if issubclass(kind, Binomial | BetaBinomial):
        if kind is likelihood:
            raise ValueError(
                f"baselines of {kind.__name__} need its total: give the likelihood itself, not its "
                "class"
            )
        total = likelihood.total.expand(likelihood.event_shape).cpu().numpy()
        return Binomials(total.reshape(-1).astype(float))
    return Counts()


def _mixture(train: np.ndarray, family: Family, seed: int) -> dict[str, Scores]:
    """The mixture of the best size, by its name."""

    def mixture(size: int) -> Fit:
        return lambda rows: Mixture.fit(rows, family, size, seed).log_prob

    most = max(NUM_COMPONENTS[1], len(train) // ROWS_OF_COMPONENT)
    sizes = [size for size in NUM_COMPONENTS[1:] if size <= most]
    best = _best(train, {size: mixture(size) for size in sizes})
    return {f"mixture of {best} {family.components or family.name}": mixture(best)(train)}


def _densities(train: np.ndarray, seed: int) -> dict[str, Scores]:
    """Those of columns that vary; one that does not has a normal law of sd 1 in each of them."""
    varies = train.std(0) > 0
    if varies.all():
        return _of_varying(train, seed)
    fixed = train[0, ~varies]

    def beside(score: Scores) -> Scores:
        return lambda x: score(x[:, varies]) + norm.logpdf(x[:, ~varies], fixed).sum(1)

    found = _of_varying(train[:, varies], seed)
    return {name: beside(score) for name, score in found.items()}


def _of_varying(train: np.ndarray, seed: int) -> dict[str, Scores]:
    from sklearn.decomposition import FactorAnalysis
    from sklearn.mixture import GaussianMixture

    num_rows, num_features = train.shape
    factors = {
        size: _standardised(FactorAnalysis(size, random_state=seed), train)
        for size in NUM_FACTORS
        if size < num_features
    }
    kinds = {"diag": "diagonal", "full": "full"}
    mixtures = {
        (size, kind): _standardised(
            GaussianMixture(size, covariance_type=kind, random_state=seed), train
        )
        for size in NUM_COMPONENTS
        for kind in kinds
        if size < max(2, num_rows // 10) and (kind == "diag" or num_features <= MOST_FULL)
    }
    found = {"independent normals": mixtures[1, "diag"](train)}
    if factors:
        best = _best(train, factors)
        found[f"factor analysis, {best} factor{'s' * (best > 1)}"] = factors[best](train)
    size, kind = _best(train, mixtures)
    name = f"Gaussian mixture, {size} component{'s' * (size > 1)}, {kinds[kind]} covariance"
    return found | {name: mixtures[size, kind](train)}


def _standardised(estimator: Any, train: np.ndarray) -> Fit:
    """A fit to standardised rows, which does not depend on the units of the features."""
    from sklearn.base import clone

    mean, scale = train.mean(0), positive_sd(train)

    def fit(rows: np.ndarray) -> Scores:
        fitted = clone(estimator).fit((rows - mean) / scale)
        return lambda x: fitted.score_samples((x - mean) / scale) - np.log(scale).sum()

    return fit


def _best(train: np.ndarray, fits: Mapping[Any, Fit]) -> Any:
    """The size with the highest mean log p(x) on rows not used for fitting."""
    num_fitted = len(train) - max(1, int(HELD_OUT * len(train)))
    fitted, held_out = np.split(train, [num_fitted])
    scores = {size: float(fit(fitted)(held_out).mean()) for size, fit in fits.items()}
    return max(scores, key=lambda size: scores[size])
