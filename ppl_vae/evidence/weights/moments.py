"""Central moments of importance weights, merged block by block."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Number of weights, their mean, and sums of squared and cubed deviations from it, each (B,).

    Merged as central moments, since differences of raw ones lose the digits of weights that are
    nearly equal.
    Pébay (2008), Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments, Sandia report SAND2008-6212, eq. 2.1 and 2.2.
    """

    number: int
    mean: np.ndarray
    squares: np.ndarray
    cubes: np.ndarray

    @staticmethod
    def of(weights: np.ndarray) -> "Moments":
        """Moments of each row, (B, K)."""
        mean = weights.mean(1)
        deviations = weights - mean[:, None]
        squares = np.square(deviations)
        return Moments(weights.shape[1], mean, squares.sum(1), (squares * deviations).sum(1))

    def scaled(self, factor: np.ndarray) -> "Moments":
        """Moments of `factor` times the weights."""
        squares = factor**2 * self.squares
        return Moments(self.number, factor * self.mean, squares, factor**3 * self.cubes)

    def __add__(self, other: "Moments") -> "Moments":
        number = self.number + other.number
        share, rest = other.number / number, self.number / number
        apart = other.mean - self.mean
        between = self.number * share * np.square(apart)
        crossed = 3 * apart * (rest * other.squares - share * self.squares)
        return Moments(
            number,
            self.mean + share * apart,
            self.squares + other.squares + between,
            self.cubes + other.cubes + (rest - share) * between * apart + crossed,
        )

    @property
    def raw_squares(self) -> np.ndarray:
        """Sum of the squared weights."""
        return self.squares + self.number * np.square(self.mean)

    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squares and cubes of deviations times (K / (K - 1))^(1/2)."""
        if self.number == 1:
            return np.full_like(self.squares, np.nan), np.full_like(self.cubes, np.nan)
        factor = self.number / (self.number - 1)
        return factor * self.squares, factor**1.5 * self.cubes
