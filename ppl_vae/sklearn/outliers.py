"""VAEOutlierDetector: outliers by log p(x)."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin

from ppl_vae.runtime.checks import real_number
from ppl_vae.sklearn.estimator import Estimator
from ppl_vae.sklearn.rows import training_rows

ROUNDING = 1e-9  # of log p(x), relative

__all__ = ["VAEOutlierDetector"]


@dataclass(eq=False, repr=False)
class VAEOutlierDetector(OutlierMixin, Estimator):
    """A detector of outliers: rows whose log p(x) is low under a fitted `VAE`.

    `decision_function` is log p(x) - `offset_`, where `offset_` is the quantile of log p(x) of the
    training rows at `contamination`; `predict` is -1 where it is negative. Outliers among the
    training rows pull the model towards them. log p(x) is low in every row of a high-dimensional
    tail and can be high for rows unlike any other (Nalisnick et al.): a low value is evidence that
    a row is unusual, a high one is no evidence that it is typical. A missing value adds nothing to
    log p(x), so that rows with many of them look normal.

    Args:
        contamination: Share of the training rows that are outliers, in (0, 0.5].
        others: Those of `VAE`.

    Shape:
        X (N, features) -> decision_function, score_samples, predict (N,)

    Raises:
        ValueError: A parameter is out of range, or X is infinite or has other columns than in
            `fit`.

    References:
        Nalisnick et al. (2019), Do deep generative models know what they don't know?,
        arXiv:1810.09136.

    Example:
        >>> X = np.append(np.random.default_rng(0).normal(size=(60, 2)), [[9.0, -9.0]], axis=0)
        >>> detector = VAEOutlierDetector(1, contamination=0.05, max_steps=20, random_state=0)
        >>> int(detector.fit_predict(X)[-1])
        -1
    """

    contamination: float = 0.1

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None) -> Self:
        """Fit the model, and the offset to the log p(x) of the training rows.

        Args:
            X: Rows, (N, features), at least 2.
            y: Not used.
            sample_weight: Sampling weights, (N,); rows of weight zero are left out.
            context: Covariates, as in `VAE`.
        """
        share = real_number(self.contamination, "contamination", above=0, at_most=0.5)
        self._train(training_rows(self, X, sample_weight, context))
        weights = None if self.data_.weights is None else self.data_.weights.numpy()
        limit = quantile(self._density(self.data_), share, weights)
        # Below any row at the limit, whose score differs by rounding from batch to batch.
        self.offset_ = limit - ROUNDING * max(1.0, abs(limit))
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None
    ) -> np.ndarray:
        """Fit to rows, and -1 for the outliers among them, 1 for the others, (N,).

        Args:
            X: Rows, (N, features).
            y: Not used.
            sample_weight: Sampling weights, (N,), as in `fit`.
            context: Covariates, as in `fit`.
        """
        return self.fit(X, y, sample_weight=sample_weight, context=context).predict(X, context)

    def score_samples(self, X: Any, context: Any = None) -> np.ndarray:
        """Estimates of log p(x) in nats, (N,); -inf outside the likelihood's support.

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some: log p(x given c).
        """
        return self._density(self._rows(X, context))

    def decision_function(self, X: Any, context: Any = None) -> np.ndarray:
        """log p(x) - `offset_`, (N,): negative for outliers.

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some.
        """
        return self.score_samples(X, context) - self.offset_

    def predict(self, X: Any, context: Any = None) -> np.ndarray:
        """-1 for outliers, 1 for other rows, (N,).

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some.
        """
        return np.where(self.decision_function(X, context) < 0, -1, 1)


def quantile(values: np.ndarray, share: float, weights: np.ndarray | None = None) -> float:
    """The quantile of values, interpolated; with equal weights that of NumPy.

    Example:
        >>> values, weights = np.arange(5.0), np.array([8.0, 1.0, 1.0, 1.0, 1.0])
        >>> quantile(values, 0.5), round(quantile(values, 0.5, weights), 3)
        (2.0, 0.6)
    """
    if weights is None:
        return float(np.percentile(values, 100 * share))
    order = np.argsort(values)
    weights = weights[order] / weights.mean()
    below = (weights.cumsum() - weights) / (len(weights) - 1)
    return float(np.interp(share, below, values[order]))
