"""Mixtures of independent bits, counts or categories, by EM; scikit-learn has those of normals
alone.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp
from scipy.stats import nbinom

MOST_STEPS = 200
TOLERANCE = 1e-5  # nats per row
LEAST_MEAN = 0.5  # rows of each kind that the mean is given beforehand (Jeffreys)


class Family(Protocol):
    """Independent features whose parameters are means of the statistics."""

    name: str

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Of each row, (N, D) -> (N, P)."""

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Over all rows, inside the parameters' range, (P,)."""

    def log_prob(self, statistics: np.ndarray, means: np.ndarray) -> np.ndarray:
        """log p(x) of each row and component but for what no mean changes, (N, P), (C, P) -> (N,
        C).
        """

    def constant(self, x: np.ndarray) -> np.ndarray:
        """The rest of log p(x), (N,)."""


class Bits:
    """Bernoulli features."""

    name = "Bernoullis"

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """The bits."""
        return x

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Frequency of ones."""
        return (statistics.sum(0) + LEAST_MEAN) / (len(statistics) + 2 * LEAST_MEAN)

    def log_prob(self, statistics: np.ndarray, means: np.ndarray) -> np.ndarray:
        """x log m + (1 - x) log(1 - m)."""
        return statistics @ np.log(means).T + (1 - statistics) @ np.log1p(-means).T

    def constant(self, x: np.ndarray) -> np.ndarray:
        """None."""
        return np.zeros(len(x))


class Counts:
    """Poisson features."""

    name = "Poissons"

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """The counts."""
        return x

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Mean count."""
        return (statistics.sum(0) + LEAST_MEAN) / len(statistics)

    def log_prob(self, statistics: np.ndarray, means: np.ndarray) -> np.ndarray:
        """x log m - m."""
        return statistics @ np.log(means).T - means.sum(1)

    def constant(self, x: np.ndarray) -> np.ndarray:
        """- log x!."""
        return -gammaln(x + 1).sum(1)


@dataclass(frozen=True)
class Categories:
    """Categorical features, each with the same number of categories."""

    num_categories: int
    name = "categoricals"

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Indicators of all categories of all features; none of a category beyond those known."""
        return (x[..., None] == np.arange(self.num_categories)).reshape(len(x), -1).astype(float)

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Frequencies."""
        return (statistics.sum(0) + LEAST_MEAN) / (
            len(statistics) + self.num_categories * LEAST_MEAN
        )

    def log_prob(self, statistics: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Of the category that is there."""
        return statistics @ np.log(means).T

    def constant(self, x: np.ndarray) -> np.ndarray:
        """None."""
        return np.zeros(len(x))


@dataclass(frozen=True)
class Mixture:
    """sum_c weight_c prod_d p(x_d given mean_cd)."""

    family: Family
    log_weights: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, family: Family, num_components: int, seed: int) -> "Mixture":
        """EM from k-means; each component's means are drawn to those of all rows, as if it had one
        row more.
        """
        from sklearn.cluster import KMeans

        statistics, overall = family.statistics(x), family.mean(family.statistics(x))
        num_components = min(num_components, len(np.unique(x, axis=0)))
        labels = KMeans(num_components, n_init=1, random_state=seed).fit_predict(x)
        shares = np.eye(num_components)[labels]
        previous = -np.inf
        for _ in range(MOST_STEPS):
            counts = shares.sum(0)
            means = (shares.T @ statistics + overall) / (counts[:, None] + 1)
            fitted = cls(family, np.log((counts + 1) / (len(x) + num_components)), means)
            joint = fitted.log_weights + family.log_prob(statistics, means)
            log_p = logsumexp(joint, axis=1)
            shares = np.exp(joint - log_p[:, None])
            if log_p.mean() - previous < TOLERANCE:
                break
            previous = log_p.mean()
        return fitted

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of each row, (N,)."""
        joint = self.log_weights + self.family.log_prob(self.family.statistics(x), self.means)
        return np.asarray(logsumexp(joint, axis=1)) + self.family.constant(x)


@dataclass(frozen=True)
class OverdispersedCounts:
    """Independent negative binomials with these means and numbers of failures r: the variance is m
    + m^2 / r.
    """

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
        return np.asarray(log_p.sum(1))


def _failures(column: np.ndarray, mean: float) -> float:
    values, counts = np.unique(column, return_counts=True)

    def loss(log_r: float) -> float:
        r = np.exp(log_r)
        return -float(counts @ nbinom.logpmf(values, r, r / (r + mean)))

    return float(np.exp(minimize_scalar(loss, bounds=(-6.0, 9.0), method="bounded").x))
