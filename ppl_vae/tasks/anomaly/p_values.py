"""Conformal p-values, and the rows that they discover."""

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae.data.validation import as_array, index_of, row_names, same_index
from ppl_vae.runtime.checks import one_of, real_number, warn_caller
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import generator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AnomalyPValues", "conformal_p_values"]

METHODS = ("bh", "by")


def conformal_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(1 + number of calibration rows at least as odd) / (n + 1) of each row, (m,).

    Args:
        calibration: Scores of the n rows of calibration; larger is odder.
        scores: Scores of the m rows.

    References:
        Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world, Springer.

    Example:
        >>> conformal_p_values(np.array([0.0, 1.0, 2.0]), np.array([1.0, 9.0])).tolist()
        [0.75, 0.25]
    """
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


@dataclass(frozen=True, repr=False)
class AnomalyPValues(Shown):
    """A p-value of each row for the hypothesis that it is exchangeable with those of calibration.

    P(p <= u) <= u for each such row, over the draw of calibration and row together: not given the
    rows of calibration, for which the level is a random number near u. The p-values of independent
    rows depend on each other positively (PRDS), through the calibration that they share, and the
    procedure of Benjamini and Hochberg keeps the false discovery rate below alpha times the share
    of rows without anomaly. Equal scores count as odder, which is conservative.

    Args:
        p_values: p, (m,).
        scores: The rows' scores, (m,); larger is odder.
        calibration_scores: Those of the rows of calibration, (n,).
        names: Names of the rows, (m,).
        score: What the score is, in words.
        smallest: The smallest value that p can take, 1 / (n + 1).
        calibration_names: Names of the rows of calibration, (n,); None if they have none.
        weights: With `weighted`, the weights of the rows, (m,); None weights them equally.
        calibration_weights: Those of the rows of calibration, (n,), likewise.

    References:
        Bates et al. (2023), Testing for outliers with conformal p-values, Annals of Statistics 51;
        Benjamini and Yekutieli (2001), The control of the false discovery rate in multiple testing
        under dependency, Annals of Statistics 29.

    Example:
        >>> found = AnomalyPValues.from_scores(np.arange(99.0), [50.0, 200.0, 300.0])
        >>> found.p_values.tolist(), found.discoveries(alpha=0.05).tolist()
        ([0.5, 0.01, 0.01], [False, True, True])
    """

    p_values: np.ndarray
    scores: np.ndarray
    calibration_scores: np.ndarray
    names: np.ndarray
    score: str
    smallest: float
    calibration_names: np.ndarray | None = None
    weights: np.ndarray | None = None
    calibration_weights: np.ndarray | None = None

    @classmethod
    def from_scores(
        cls,
        calibration: Any,
        scores: Any,
        *,
        names: Any = None,
        score: str = "score",
        calibration_names: Any = None,
    ) -> "AnomalyPValues":
        """P-values from scores of any detector, larger is odder, computed alike for all rows.

        Args:
            calibration: Scores of the rows of calibration, (n,), which the detector has not seen.
            scores: Scores of the rows, (m,).
            names: Names of the rows; None takes the index of a Series of scores, and numbers an
                array. A Series of scores has these names, in their order, as its index.
            score: What the score is, in words.
            calibration_names: Names of the rows of calibration, likewise; an array has none.

        Raises:
            ValueError: No rows, NaN, another shape than one number for each row, another number of
                names, or scores with another index.
        """
        known = _numbers(calibration, "calibration")
        values = _numbers(scores, "test")
        if len(np.unique(np.concatenate([known, values]))) == 1:
            warn_caller(f"all rows have the score {values[0]:g}: every p-value is 1")
        found = _names(names, scores, len(values), "")
        return cls(
            p_values=conformal_p_values(known, values),
            scores=values,
            calibration_scores=known,
            names=np.arange(len(values)) if found is None else found,
            score=score,
            smallest=1 / (len(known) + 1),
            calibration_names=_names(calibration_names, calibration, len(known), "calibration_"),
        )

    def __len__(self) -> int:
        return len(self.p_values)

    def __repr__(self) -> str:
        num = len(self.calibration_scores)
        return (
            f"AnomalyPValues({len(self)} rows, {self.score}, calibrated by {num} rows; p from "
            f"{self.p_values.min():.2g} to {self.p_values.max():.2g}, {self._found(0.1)} "
            "discoveries at an FDR of 0.1)"
        )

    def adjusted(self, method: Literal["bh", "by"] = "bh") -> np.ndarray:
        """Adjusted p-values, (m,): the smallest alpha at which each row is discovered.

        Args:
            method: "bh" (Benjamini and Hochberg), or "by" (Benjamini and Yekutieli) for p-values
                that depend on each other in any way, such as those of dependent rows.
        """
        from scipy.stats import false_discovery_control

        one_of(method, "method", METHODS)
        return false_discovery_control(self.p_values, method=method)

    def discoveries(self, alpha: float = 0.05, method: Literal["bh", "by"] = "bh") -> np.ndarray:
        """The rows declared anomalous at a false discovery rate of alpha, (m,) booleans.

        The smallest p-value is 1 / (n + 1), and k rows are discovered where the k-th smallest is at
        most alpha k / m. At least m / (alpha (n + 1)) rows must be as odd as that before one is
        discovered; where this exceeds one and none is, a warning says so. For "by" alpha is divided
        by 1 + 1/2 + ... + 1/m.

        Args:
            alpha: The false discovery rate.
            method: As in `adjusted`.

        Raises:
            ValueError: alpha outside (0, 1).
        """
        real_number(alpha, "alpha", above=0, below=1)
        found = self.adjusted(method) <= alpha
        if not found.any():
            self._warn_of_few(alpha, method)
        return found

    def randomised(self, seed: int = 0) -> "AnomalyPValues":
        """The same with ties broken at random, which makes p uniform under the hypothesis.

        p = (number odder + U (1 + number of ties)) / (n + 1), with U uniform for each row; the
        weights of rows take the place of numbers after `weighted`.

        Args:
            seed: Seed of U.
        """
        odder, tied, total = self._sums()
        p_values = (odder + generator(seed).random(len(self)) * tied) / total
        return replace(self, p_values=p_values, smallest=0.0)

    def weighted(self, calibration_weights: Any, weights: Any) -> "AnomalyPValues":
        """P-values under a shift of covariates whose density ratio is known.

        p = (sum of w_i over calibration rows at least as odd + w) / (sum of all w_i + w). Each
        p-value is valid; for several at once `weighted_discoveries` keeps the false discovery rate.

        Args:
            calibration_weights: w_i = density of the covariates of test rows over that of
                calibration rows, up to a factor, at each row of calibration, (n,).
            weights: The same at each row, (m,). A Series has the names of the rows as its index.

        Raises:
            ValueError: Weights that are negative, not finite, of another number, or a Series in
                another order than the rows.

        References:
            Tibshirani et al. (2019), Conformal prediction under covariate shift, arXiv:1904.06019;
            Jin and Candes (2023), Model-free selective inference under covariate shift,
            arXiv:2307.09291.
        """
        known, own = self._weights(calibration_weights, weights)
        found = replace(self, calibration_weights=known, weights=own)
        odder, tied, total = found._sums()
        return replace(found, p_values=(odder + tied) / total, smallest=float((own / total).min()))

    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of the calibration rows that are odder, and as odd with the row's; of all."""
        known, own = self.calibration_weights, self.weights
        known = np.ones(len(self.calibration_scores)) if known is None else known
        own = np.ones(len(self)) if own is None else own
        order = np.argsort(self.calibration_scores)
        above = np.append(known[order][::-1].cumsum()[::-1], 0.0)
        scores = self.calibration_scores[order]
        at_least, odder = (
            above[np.searchsorted(scores, self.scores, side=side)] for side in ("left", "right")
        )
        return odder, at_least - odder + own, known.sum() + own

    def to_frame(self) -> "pd.DataFrame":
        """A frame with a row for each row: score, p-value, and p adjusted by "bh"."""
        import pandas as pd

        columns = {"score": self.scores, "p_value": self.p_values, "adjusted": self.adjusted()}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="row"))

    def weighted_discoveries(
        self, calibration_weights: Any, weights: Any, alpha: float = 0.05, seed: int | None = None
    ) -> np.ndarray:
        """The rows declared anomalous at a false discovery rate of alpha under a shift, (m,).

        Weighted p-values of several rows share calibration in a way that procedures such as "bh"
        need not survive; weighted conformalised selection keeps the rate. By the package
        nonconform.

        Args:
            calibration_weights: As in `weighted`.
            weights: As in `weighted`.
            alpha: The false discovery rate.
            seed: None prunes without chance, which keeps the rate too; a seed prunes by one uniform
                number for all rows, which discovers more.

        Raises:
            ImportError: nonconform is not installed.
            ValueError: Weights as in `weighted`, a score that is infinite, or alpha outside (0, 1).

        References:
            Jin and Candes (2023), Model-free selective inference under covariate shift via weighted
            conformal p-values, arXiv:2307.09291, algorithm 1.
        """
        real_number(alpha, "alpha", above=0, below=1)
        scores = {"test_scores": self.scores, "calib_scores": self.calibration_scores}
        if not all(np.isfinite(each).all() for each in scores.values()):
            raise ValueError("a score is infinite, and selection needs finite ones: clip them")
        try:
            from nonconform import fdr
        except ImportError as error:
            raise ImportError(
                "weighted_discoveries needs the package nonconform: pip install 'nonconform>=2'"
            ) from error
        known, own = self._weights(calibration_weights, weights)
        chance = fdr.Pruning.DETERMINISTIC if seed is None else fdr.Pruning.HOMOGENEOUS
        return fdr.weighted_false_discovery_control_from_arrays(
            p_values=self.weighted(known, own).p_values,
            **scores,
            test_weights=own,
            calib_weights=known,
            alpha=alpha,
            pruning=chance,
            seed=seed,
        )

    def _weights(self, calibration_weights: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the rows of calibration, and of the rows; not all of them zero."""
        known = _weights(calibration_weights, len(self.calibration_scores), "calibration_weights")
        own = _weights(weights, len(self), "weights")
        pair = calibration_weights, "calibration_weights"
        same_index(self.calibration_names, *pair, "calibration_names")
        same_index(self.names, weights, "weights", "names")
        if not known.sum() + own.min() > 0:
            raise ValueError(
                "all calibration_weights and a weight are 0, so that a p-value is 0 / 0: leave out "
                "rows of weight 0"
            )
        return known, own

    def _found(self, alpha: float) -> int:
        return int((self.adjusted() <= alpha).sum())

    def _warn_of_few(self, alpha: float, method: str) -> None:
        """Say that calibration is too small for one odd row to be discovered."""
        level = alpha
        if method == "by":
            level = alpha / (1 / np.arange(1, len(self) + 1)).sum()
        needed = ceil(self.smallest * len(self) / level)
        if needed <= 1:
            return
        given = len(self.calibration_scores)
        possible = f"{needed} or more of the {len(self)} rows at the smallest p-value"
        if needed > len(self):
            possible = "more rows than there are"
        enough = ceil(len(self) / level) - 1
        warn_caller(
            f"no discovery: with {given} rows of calibration the smallest p-value is "
            f"{self.smallest:.2g}, and alpha={alpha:g} takes {possible}; {enough} rows of "
            "calibration would do for one"
        )


def _names(names: Any, scores: Any, size: int, kind: str) -> np.ndarray | None:
    """Names of the rows, those of a Series of scores if none are given; None if there are none."""
    if names is None:
        return row_names(scores)
    found = np.asarray(names)
    if found.shape != (size,):
        raise ValueError(
            f"{kind}names has the shape {found.shape} for {size} rows: give one for each"
        )
    index = index_of(names)  # of a column of a frame
    labels = names if index is None else index
    same_index(labels, scores, f"{kind}scores", f"{kind}names")
    return found


def _numbers(values: Any, what: str) -> np.ndarray:
    """Scores as an array of at least one number, none NaN."""
    array = _floats(values, f"{what} scores")
    if not array.size:
        raise ValueError(f"there are no {what} scores: give at least one row")
    if array.ndim != 1:
        raise ValueError(
            f"{what} scores have the shape {array.shape}: give one number for each row, (rows,)"
        )
    if np.isnan(array).any():
        raise ValueError(
            f"the score of {what} row {np.isnan(array).argmax()} is NaN: give a number, or inf for "
            "a row that is odder than all others"
        )
    return array


def _floats(values: Any, name: str) -> np.ndarray:
    """Numbers as an array."""
    try:
        return as_array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are no numbers ({error}): give one for each row") from error


def _weights(values: Any, size: int, name: str) -> np.ndarray:
    """Weights of the rows."""
    array = _floats(values, name)
    if array.shape != (size,):
        raise ValueError(
            f"{name} has the shape {array.shape} for {size} rows: give one weight for each"
        )
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name} is {array[row]:g} at row {row}: a ratio of densities is finite and at least 0"
        )
    return array
