"""Mixtures of discrete laws by EM; scikit-learn has only normal mixtures."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp
from scipy.stats import nbinom

MOST_STEPS = 200
TOLERANCE = 1e-5  # nats per row
PRIOR = 0.5  # of the Jeffreys prior: pseudo-observations of each value


class Family(ABC):
    """Independent features, an exponential family in the means of its statistics.

    Statistics of missing entries are NaN; `log_prob` is given 0 for them, and whether they were
    observed (1) or not (0).
    """

    name: str
    components: str = ""  # of a mixture; the name by default
    num_values = 0  # values of a feature; 0 if there is no upper limit

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Statistics of each row, (N, D) -> (N, P)."""
        return x

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Rows between which Euclidean distances are sensible, to start the components."""
        return np.where(np.isnan(x), np.nanmean(x, 0), x)

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Mean over all rows, inside the range of the parameters, (P,)."""
        num_observed = (~np.isnan(statistics)).sum(0)
        return (np.nansum(statistics, 0) + PRIOR) / (num_observed + self.num_values * PRIOR)

    @abstractmethod
    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """log p(x) by row and component without its constant, (N, P), (C, P) -> (N, C)."""

    def constant(self, x: np.ndarray) -> np.ndarray:
        """The part of log p(x) that does not depend on the means, (N,)."""
        return np.zeros(len(x))


class Binomials(Family):
    """Binomial features, of known numbers of trials."""

    name = "independent binomials"
    num_values = 2

    def __init__(self, total: np.ndarray) -> None:
        self.total = total

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Shares of successes."""
        return x / self.total

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """x log m + (n - x) log(1 - m)."""
        successes = statistics * self.total
        failures = observed * self.total - successes
        return successes @ np.log(means).T + failures @ np.log1p(-means).T

    def constant(self, x: np.ndarray) -> np.ndarray:
        """log of n over x."""
        factorials = gammaln(x + 1) + gammaln(self.total - x + 1)
        return np.nansum(gammaln(self.total + 1) - factorials, 1)


class Bits(Binomials):
    """Bernoulli features."""

    name = "independent Bernoullis"

    def __init__(self) -> None:
        super().__init__(np.ones(1))


class Parts(Family):
    """Multinomial counts: every `num_parts` features are the parts of a known total."""

    name = "multinomials"

    def __init__(self, num_parts: int) -> None:
        self.num_parts = num_parts

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """x log p, p the share of the mean in the mean total."""
        grouped = means.reshape(len(means), -1, self.num_parts)
        shares = grouped / grouped.sum(-1, keepdims=True)
        return statistics @ np.log(shares).reshape(means.shape).T

    def constant(self, x: np.ndarray) -> np.ndarray:
        """log n! - sum_i log x_i!."""
        grouped = x.reshape(len(x), -1, self.num_parts)
        missing = np.isnan(grouped)
        partly = (missing.any(-1) & ~missing.all(-1)).any(1)
        if partly.any():
            raise ValueError(
                f"row {partly.argmax()} of x lacks some parts of a total: its parts are all "
                "missing, or none is"
            )
        return np.nansum(gammaln(grouped.sum(-1) + 1), 1) - np.nansum(gammaln(x + 1), 1)


class Counts(Family):
    """Poisson features."""

    name = "independent Poissons"

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """x log m - m."""
        return statistics @ np.log(means).T - observed @ means.T

    def constant(self, x: np.ndarray) -> np.ndarray:
        """- log x!."""
        return -np.nansum(gammaln(x + 1), 1)


class Categories(Family):
    """Categorical features, all with the same number of categories."""

    name = "independent categoricals"

    def __init__(self, num_values: int) -> None:
        self.num_values = num_values

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Indicators of all categories of all features; zeros for an unknown category."""
        indicators = (x[..., None] == np.arange(self.num_values)).astype(float)
        return np.where(np.isnan(x)[..., None], np.nan, indicators).reshape(len(x), -1)

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """log m of the category observed."""
        return statistics @ np.log(means).T


@dataclass(frozen=True)
class Mixture:
    """sum_c weight_c prod_d p(x_d given mean_cd)."""

    family: Family
    log_weights: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, family: Family, num_components: int, seed: int) -> "Mixture":
        """EM from k-means; each component has one more row, the mean of all rows."""
        from sklearn.cluster import KMeans

        statistics = family.statistics(x)
        overall = family.mean(statistics)
        observed = (~np.isnan(statistics)).astype(float)
        statistics = np.nan_to_num(statistics)
        num_components = min(num_components, len(np.unique(x, axis=0)))
        starts = KMeans(num_components, n_init=1, random_state=seed)
        shares = np.eye(num_components)[starts.fit_predict(family.distances(x))]
        previous = -np.inf
        for _ in range(MOST_STEPS):
            counts = shares.sum(0)
            means = (shares.T @ statistics + overall) / (shares.T @ observed + 1)
            fitted = cls(family, np.log((counts + 1) / (len(x) + num_components)), means)
            joint = fitted.log_weights + family.log_prob(statistics, means, observed)
            log_p = logsumexp(joint, axis=1)
            shares = np.exp(joint - log_p[:, None])
            if log_p.mean() - previous < TOLERANCE:
                break
            previous = log_p.mean()
        return fitted

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of each row, (N,)."""
        statistics = self.family.statistics(x)
        observed = (~np.isnan(statistics)).astype(float)
        log_p = self.family.log_prob(np.nan_to_num(statistics), self.means, observed)
        mixed = logsumexp(self.log_weights + log_p, axis=1)
        return np.asarray(mixed) + self.family.constant(x)


@dataclass(frozen=True)
class OverdispersedCounts:
    """Independent negative binomials with mean m, failures r, and variance m + m^2 / r."""

    means: np.ndarray
    failures: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> "OverdispersedCounts":
        """By maximum likelihood, feature by feature; the mean is that of the rows."""
        means = Counts().mean(x)
        failures = [_failures(column, mean) for column, mean in zip(x.T, means, strict=True)]
        return cls(means, np.array(failures))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of each row, (N,)."""
        log_p = nbinom.logpmf(x, self.failures, self.failures / (self.failures + self.means))
        return np.nansum(log_p, 1)


def _failures(column: np.ndarray, mean: float) -> float:
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)

    def loss(log_r: float) -> float:
        r = np.exp(log_r)
        return -float(counts @ nbinom.logpmf(values, r, r / (r + mean)))

    return float(np.exp(minimize_scalar(loss, bounds=(-6.0, 9.0), method="bounded").x))
