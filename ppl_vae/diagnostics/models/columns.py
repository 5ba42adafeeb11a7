"""Independent columns of normals, and of several families side by side."""

from collections.abc import Sequence

import numpy as np

from ppl_vae.diagnostics.models.mixtures import Family

FLOOR = 1e-6  # added to variances, as scikit-learn does
LEAST_VARIANCE = 1e-3  # of a component, the variance of all rows being 1


class Normals(Family):
    """Normal features: statistics x and x^2 of features standardised by the training rows."""

    name = "independent normals"

    def __init__(self, train: np.ndarray) -> None:
        self.centre = np.nanmean(train, 0)
        self.scale = np.sqrt(np.nanvar(train, 0) + FLOOR)

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """y and y^2."""
        y = (x - self.centre) / self.scale
        return np.concatenate([y, y**2], axis=1)

    def mean(self, statistics: np.ndarray) -> np.ndarray:
        """Mean over all rows."""
        return np.nanmean(statistics, 0)

    def log_prob(
        self, statistics: np.ndarray, means: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """- log s - (y^2 - 2 m y + m^2) / (2 s^2)."""
        location, square = np.split(means, 2, axis=1)
        variance = (square - location**2).clip(min=LEAST_VARIANCE)
        y, y_squared = np.split(statistics, 2, axis=1)
        present = np.split(observed, 2, axis=1)[0]
        quadratic = y_squared @ (1 / variance).T - 2 * y @ (location / variance).T
        return -0.5 * (quadratic + present @ (location**2 / variance + np.log(variance)).T)

    def constant(self, x: np.ndarray) -> np.ndarray:
        """- D log(2 pi) / 2 - sum of log scales."""
        each = 0.5 * np.log(2 * np.pi) + np.log(self.scale)
        return -((~np.isnan(x)) @ each)


class Mixed(Family):
    """Independent columns of several families, each with its columns of x."""

    name = "independent columns"

    def __init__(self, parts: Sequence[tuple[list[int], Family]]) -> None:
        self.parts = parts
        sizes = [family.statistics(np.zeros((1, len(places)))).size for places, family in parts]
        self.ends = np.cumsum(sizes)[:-1]

    def statistics(self, x: np.ndarray) -> np.ndarray:
        """Statistics of all columns side by side."""
        each = [family.statistics(x[:, places]) for places, family in self.parts]
        return np.concatenate(each, axis=1)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Standardised statistics."""
        found = self.statistics(x)
        return np.nan_to_num((found - np.nanmean(found, 0)) / np.sqrt(np.nanvar(found, 0) + FLOOR))

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
