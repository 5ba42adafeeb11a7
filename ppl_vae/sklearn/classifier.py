"""VAEClassifier: the class as one more column of the table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from ppl_vae.data import Dataset
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.validation import filled, same_rows
from ppl_vae.sklearn.estimator import Estimator
from ppl_vae.sklearn.rows import (
    checked,
    checked_context,
    checked_weights,
    known_rows,
    read,
    require_size,
    with_positive_weights,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VAEClassifier"]

TARGET = "class (y)"
UNLABELLED = -1


@dataclass(eq=False, repr=False)
class VAEClassifier(ClassifierMixin, Estimator):
    """A classifier by the joint density of x and its class, p(y given x) = p(x, y) / sum_y p(x, y).

    The class is one more column of the table of a `VAE`. Rows without a label (NaN, None or pd.NA,
    or -1 where y has two other labels at least) are rows where that column is missing: they train
    the model of x. Values of x may be missing too. Where labels are many and x is complete, a
    classifier that models p(y given x) alone is usually better.

    Args:
        latent_dim: Number of latent dimensions D, as in `VAE`.
        likelihood: As in `VAE`, for the columns of x: "auto", a dictionary by column, or a name of
            `likelihoods` or a function, used for each column.
        others: Those of `VAE`.

    Shape:
        X (N, features), y (N,) -> predict (N,), predict_proba (N, classes)

    Raises:
        ValueError: A parameter is out of range, y holds fewer than two classes or no classes, or X
            is infinite or has other columns than in `fit`.

    References:
        Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative
        models, arXiv:1406.5298 (whose model has no path from z to y).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 30)
        >>> X = rng.normal(size=(60, 2)) + 6 * y[:, None]
        >>> classifier = VAEClassifier(1, max_steps=60, random_state=0).fit(X, y)
        >>> classifier.predict([[0.0, 0.0], [6.0, 6.0]]).tolist()
        [0, 1]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, context: Any = None) -> Self:
        """Fit the joint model of x and the class.

        Args:
            X: Rows, (N, features); NaN is missing.
            y: Classes, (N,); NaN, None and pd.NA are unlabelled, and so is -1 where there are two
                other labels at least.
            sample_weight: Sampling weights, (N,); rows of weight zero are left out.
            context: Covariates, as in `VAE`.
        """
        same_rows(X, y=y, sample_weight=sample_weight)
        table = checked(self, X, reset=True)
        joint = self._joint(table, self._read_classes(table, y))
        given = checked_context(X, context)
        rows = with_positive_weights(self, joint, given, sample_weight)
        return self._train(require_size(read(self, *rows)))

    def predict_proba(self, X: Any, context: Any = None) -> np.ndarray:
        """p(y given x) in the order of `classes_`, (N, classes).

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some: p(y given x, c).

        Raises:
            ValueError: A value lies outside the likelihood's support, so that p(x) is 0 whatever
                the class.
        """
        check_is_fitted(self)
        table = checked(self, X, reset=False)
        given = checked_context(X, context)
        columns = []
        for code in range(len(self.classes_)):
            joint = self._joint(table, np.full(len(table), code))
            rows = known_rows(self, read(self, joint, given))
            self.model_.check(rows.x, rows.context)
            columns.append(self._density(rows))
        log_p = np.stack(columns, axis=1)
        log_p[np.isneginf(log_p).all(1)] = 0.0  # too far out for floats
        return softmax(log_p, axis=1)

    def predict(self, X: Any, context: Any = None) -> np.ndarray:
        """The most probable class, (N,).

        Args:
            X: Rows, (N, features).
            context: Covariates, if the model was fitted with some.
        """
        best = self.predict_proba(X, context).argmax(1)
        return self.classes_[best]

    def score(self, X: Any, y: Any, sample_weight: Any = None, context: Any = None) -> float:
        """Share of the rows whose class is predicted; rows without a label are left out.

        Args:
            X: Rows, (N, features).
            y: Classes, (N,).
            sample_weight: Weights of the rows in this share, (N,).
            context: Covariates, if the model was fitted with some.
        """
        same_rows(X, y=y, sample_weight=sample_weight)
        found = self.predict(X, context)
        labels, has_label = observed_labels(y)
        check_consistent_length(found, has_label)
        if UNLABELLED not in self.classes_.tolist():
            is_labelled = labels != UNLABELLED
            has_label[has_label] = is_labelled
            labels = labels[is_labelled]
        if not has_label.any():
            raise ValueError("y holds no label: there is nothing to compare with")
        if sample_weight is not None:
            sample_weight = checked_weights(found, sample_weight)[has_label]
        return accuracy_score(labels, found[has_label], sample_weight=sample_weight)

    def _read_classes(self, table: Any, y: Any) -> np.ndarray:
        """The code of each row's class, -1 where it has none; sets `classes_`."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        labels, has_label = observed_labels(y)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        check_consistent_length(table, has_label)
        codes = np.full(len(has_label), UNLABELLED)
        self.classes_, codes[has_label] = np.unique(labels, return_inverse=True)
        marked = np.flatnonzero(self.classes_ == UNLABELLED)
        if len(self.classes_) > 2 and len(marked):
            self.classes_ = np.delete(self.classes_, marked)
            codes = np.where(codes == marked, UNLABELLED, codes - (codes > marked))
        if len(self.classes_) < 2:
            known = [f"one class, {each!r}" for each in self.classes_.tolist()]
            said = known[0] if known else "no label"
            raise ValueError(f"y holds {said}: a classifier needs two classes")
        return codes

    def _joint(self, table: Any, codes: np.ndarray) -> "pd.DataFrame":
        """The columns of x, and that of the class."""
        import pandas as pd

        frame = table if is_frame(table) else pd.DataFrame(table, columns=self._names)
        if TARGET in map(str, frame.columns):
            raise ValueError(f"X has a column {TARGET!r}, the name of the class here: rename it")
        names = [str(each) for each in self.classes_]
        target = pd.Categorical.from_codes(codes, categories=names)
        return frame.assign(**{TARGET: target})

    @property
    def _names(self) -> list[str]:
        """Names of the columns of x."""
        numbers = [str(place) for place in range(self.n_features_in_)]
        return list(getattr(self, "feature_names_in_", numbers))

    def _families(self, data: Dataset) -> Any:
        """A family for each column of x."""
        families = super()._families(data)
        if families is None or isinstance(families, dict):
            return families
        return dict.fromkeys(data.feature_names[:-1], families)


def observed_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels that are there, in a type of their own, and which rows have one."""
    import pandas as pd

    if is_frame(y) and y.shape[1] != 1:
        raise ValueError(f"y has {y.shape[1]} columns: give one, the class of each row")
    if isinstance(getattr(y, "dtype", None), pd.api.extensions.ExtensionDtype):
        y = np.asarray(y, dtype=object)
    if isinstance(y, list | tuple) and len({type(each) for each in y}) > 1:
        y = np.array(y, dtype=object)  # NumPy would make the texts "1" and "nan" of 1 and NaN
    y = column_or_1d(filled(y), warn=True)
    has_label = ~pd.isna(y)
    labels = y[has_label]
    if labels.dtype == object:  # as whole numbers beside None are
        inferred = pd.Series(labels).infer_objects()
        labels = inferred.to_numpy() if inferred.dtype.kind in "biuf" else labels
    kinds = {isinstance(each, str): each for each in labels.tolist()}
    if len(kinds) == 2:
        raise TypeError(
            f"y holds {kinds[True]!r} and {kinds[False]!r}: give labels that are all numbers, or "
            "all strings"
        )
    return labels, has_label
