"""Independent columns of normals, and of several families side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ppl_vae.diagnostics.models.mixtures import (
    Counts,
    Family,
    Mixture,
    OverdispersedCounts,
)

LEAST_VARIANCE = 1e-3  # of a component, the variance of all rows being 1


def positive_sd(x: np.ndarray) -> np.ndarray:
    """Standard deviation of each column; 1 where it is constant."""
    sd = np.nanstd(x, 0)
    return np.where(sd > 0, sd, 1.0)


class Normals(Family):
    """Normal features or logarithms: statistics y and y^2, standardised by the training rows."""

    def __init__(self, train: np.ndarray, *, logged: bool = False) -> None:
        self.logged = logged
        self.name = "independent lognormals" if logged else "independent normals"
        values = np.log(train) if logged else train
        self.centre = np.nanmean(values, 0)
        self.scale = positive_sd(values)
        self.least_variance = np.where(np.nanstd(values, 0) > 0, LEAST_VARIANCE, 1.0)

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """y and y^2."""
        values = np.log(x) if self.logged else x
        y = (values - self.centre) / self.scale
        return np.concatenate([y, y**2], axis=1)

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Mean over all rows."""
        return np.nanmean(statistics, 0)

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """- log s - (y^2 - 2 m y + m^2) / (2 s^2)."""
        location, square = np.split(means, 2, axis=1)
        variance = (square - location**2).clip(min=self.least_variance)
        y, y_squared = np.split(statistics, 2, axis=1)
        present = np.split(observed, 2, axis=1)[0]
        quadratic = y_squared @ (1 / variance).T - 2 * y @ (location / variance).T
        return -0.5 * (quadratic + present @ (location**2 / variance + np.log(variance)).T)

    def constant(self, x: np.ndarray) -> np.ndarray:
        """- D log(2 pi) / 2 - sum of log scales, and of log x if logarithms are normal."""
        each = 0.5 * np.log(2 * np.pi) + np.log(self.scale)
        jacobian = np.nansum(np.log(x), 1) if self.logged else 0.0
        return -((~np.isnan(x)) @ each) - jacobian


class Mixed(Family):
    """Independent columns of several families, each with its columns of x."""

    name = "independent columns"
    components = "sets of independent columns"

    def __init__(self, parts: Sequence[tuple[list[int], Family]]) -> None:
        self.parts = parts
        sizes = [family.statistics(np.ones((1, len(places)))).size for places, family in parts]
        self.ends = np.cumsum(sizes)[:-1]

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Statistics of all columns side by side."""
        each = [family.statistics(x[:, places]) for places, family in self.parts]
        return np.concatenate(each, axis=1)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Standardised statistics."""
        found = self.statistics(x)
        return np.nan_to_num((found - np.nanmean(found, 0)) / positive_sd(found))

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Mean over all rows."""
        each = np.split(statistics, self.ends, axis=1)
        pairs = zip(self.parts, each, strict=True)
        return np.concatenate([family.mean(values) for (_, family), values in pairs])

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """The sum over columns."""
        each = np.split(statistics, self.ends, axis=1)
        theirs = np.split(means, self.ends, axis=1)
        present = np.split(observed, self.ends, axis=1)
        found = [
            family.log_prob(values, m, seen)
            for (_, family), values, m, seen in zip(self.parts, each, theirs, present, strict=True)
        ]
        return np.sum(found, axis=0)

    def constant(self, x: np.ndarray) -> np.ndarray:
        """The sum over columns."""
        found = [family.constant(x[:, places]) for places, family in self.parts]
        return np.sum(found, axis=0)


class Marginals:
    """Independent columns, each with the law that describes its training rows best.

    Columns with a density have a normal law or Student's t, and positive columns may also have a
    lognormal or a gamma law, by maximum likelihood; the law with the highest log-likelihood minus
    number of parameters is used (Akaike 1974). Counts have negative binomials, and other columns
    their `Family`.
    """

    def __init__(
        self, train: np.ndarray, parts: Sequence[tuple[list[int], Family, bool]], seed: int
    ) -> None:
        self.scores: list[tuple[list[int], Callable[[np.ndarray], np.ndarray]]] = []
        for places, family, has_density in parts:
            rows = train[:, places]
            if has_density:
                laws = [_law(column[~np.isnan(column)]) for column in rows.T]
                self.scores += [([place], law) for place, law in zip(places, laws, strict=True)]
            elif isinstance(family, Counts):
                self.scores.append((places, OverdispersedCounts.fit(rows).log_prob))
            else:
                self.scores.append((places, Mixture.fit(rows, family, 1, seed).log_prob))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of each row, (N,)."""
        return np.sum([score(x[:, places]) for places, score in self.scores], axis=0)


def _law(column: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The best law of a column without missing values."""
    laws: list[tuple[Any, dict[str, float]]] = [(stats.norm, {}), (stats.t, {})]
    if column.min() > 0:
        laws += [(stats.lognorm, {"floc": 0.0}), (stats.gamma, {"floc": 0.0})]
    if column.min() == column.max():
        return lambda x: np.nansum(stats.norm.logpdf(x, column[0], 1.0), 1)
    # In units of its median absolute value, so that SciPy's starting values suit it.
    unit = np.median(np.abs(column)) or column.std()
    found = []
    for law, fixed in laws:
        with np.errstate(all="ignore"):  # a law that does not suit has no likelihood
            parameters = law.fit(column / unit, **fixed)
            log_p = law.logpdf(column / unit, *parameters).sum() - len(parameters) + len(fixed)
        found.append((log_p, law(*parameters)))
    best = max((each for each in found if np.isfinite(each[0])), key=lambda each: each[0])[1]
    return lambda x: np.nansum(best.logpdf(x / unit) - np.log(unit), 1)
