"""What the analyses of imputed data sets return, as arrays: estimates and their variances."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.validation import as_array, index_of, same_rows

__all__ = ["Analyses", "read_analyses"]

SYMMETRY = 1e-8  # largest |U - U'| / |U| of a covariance matrix
ROUNDING = 1e-6  # least eigenvalue of its correlations, with the sign changed


@dataclass(frozen=True, eq=False)
class Analyses:
    """Estimates of m imputed data sets, with their variances or covariance matrices.

    Args:
        estimates: (m,) or (m, p).
        variances: Of the same shape.
        names: One for each estimate.
        dfcom: Degrees of freedom of the analysis of complete rows, if it states any.
        covariances: (m, p, p), or None.

    Raises:
        ValueError: One imputation only; a NaN, a negative variance, shapes that do not agree.

    Example:
        >>> Analyses(np.ones(2), np.ones(2), ("mean",)).num_imputations
        2
    """

    estimates: np.ndarray
    variances: np.ndarray
    names: tuple[str, ...]
    dfcom: float = math.inf
    covariances: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.num_imputations < 2:
            raise ValueError(
                "estimates come from 1 imputation; the variance between imputations needs 2 or "
                "more: impute(..., num_imputations=20)"
            )
        _refuse(self.estimates, ~np.isfinite(self.estimates), "estimates", "look at that analysis")
        bad = ~np.isfinite(self.variances) | (self.variances < 0)
        _refuse(self.variances, bad, "variances", "give squared standard errors")
        unsaid = (self.variances.mean(0) == 0) & (np.ptp(self.estimates, axis=0) > 0)
        if unsaid.any():
            name = self.names[int(np.atleast_1d(unsaid).argmax())]
            raise ValueError(
                f"the variances of {name} are all 0 and its estimates differ: give the squared "
                "standard error of each analysis"
            )

    @property
    def num_imputations(self) -> int:
        """Number of imputations m."""
        return len(self.estimates)

    def without(self, left_out: int) -> "Analyses":
        """The analyses of all imputed data sets but one."""
        kept = np.arange(self.num_imputations) != left_out
        return Analyses(self.estimates[kept], self.variances[kept], self.names, self.dfcom)


def read_analyses(estimates: Any, variances: Any = None, names: Any = None) -> Analyses:
    """Estimates and variances from arrays, pairs or fitted models.

    Args:
        estimates: Arrays (m,) or (m, p); without variances a list of fitted models (`params`,
            `cov_params()`, `df_resid`) or of pairs (estimate, variance).
        variances: (m,), (m, p) or covariance matrices (m, p, p).
        names: Names of the estimates; None takes those of the models, Series and frames.

    Raises:
        ValueError: They cannot be read, or name other terms; the message names the place.

    Example:
        >>> read_analyses([([1.0, 2.0], [0.1, 0.1]), ([1.5, 2.5], [0.1, 0.1])]).names
        ('0', '1')
    """
    dfcom = math.inf
    if variances is None:
        results = _as_list(estimates)
        found = [_read(result, f"estimates[{i}]") for i, result in enumerate(results)]
        terms = _terms_of_results(results)
        dfcom = min(_residual_df(result) for result in results)
        estimates = _stacked([pair[0] for pair in found], "estimates")
        variances = _stacked([pair[1] for pair in found], "variances")
    else:
        same_rows(None, estimates=estimates, variances=variances)
        terms = _terms_of_all(estimates, "estimates") | _terms_of_all(variances, "variances")
    names = _agreed(terms, names)
    values = _numbers(estimates, "estimates")
    spread = _numbers(variances, "variances")
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(
            f"estimates has shape {values.shape}; give (m,) or (m, p): m imputations, p estimates"
        )
    matrices = None
    if spread.shape == (*values.shape, values.shape[-1]) and values.ndim == 2:
        matrices = spread
        spread = np.diagonal(matrices, axis1=1, axis2=2)
        _refuse_asymmetric(matrices)
    if spread.shape != values.shape:
        allowed = [values.shape, (*values.shape, values.shape[-1])][: values.ndim]
        raise ValueError(
            f"variances has shape {spread.shape} and estimates {values.shape}: give variances of "
            f"shape {' or '.join(map(str, allowed))}"
        )
    return Analyses(values, spread, _named(names, values), dfcom, matrices)


def _as_list(results: Any) -> Sequence[Any]:
    """Results of analyses; arrays of numbers are refused."""
    if isinstance(results, Iterator):
        results = list(results)
    is_sequence = isinstance(results, Sequence) and not isinstance(results, str)
    if not is_sequence or not results or not all(map(_is_result, results)):
        raise ValueError(
            "estimates without variances: give pool(estimates, variances), or a list of fitted "
            "models (params, cov_params()) or of pairs (estimate, variance)"
        )
    return results


def _is_result(result: Any) -> bool:
    is_pair = isinstance(result, tuple) and len(result) == 2
    return is_pair or (hasattr(result, "params") and hasattr(result, "cov_params"))


def _read(result: Any, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and variances of one analysis."""
    if isinstance(result, tuple):
        estimate, variance = result
        return _numbers(estimate, place), _numbers(variance, place)
    estimates = _numbers(result.params, f"{place}.params")
    if estimates.ndim != 1:
        raise ValueError(
            f"{place}.params has {estimates.ndim} dimensions; give pool(estimates, variances) with "
            "estimates (m, p)"
        )
    return estimates, _numbers(result.cov_params(), f"{place}.cov_params()")


def _residual_df(result: Any) -> float:
    """Residual degrees of freedom, infinite where none are stated."""
    df = float(getattr(result, "df_resid", math.inf))
    return math.inf if math.isnan(df) else df


def _agreed(terms: Mapping[str, list[Any]], names: Any) -> Any:
    """Names of the terms, which all analyses must give in one order; other `names` replace them."""
    if not terms:
        return names
    (first, ours), *others = terms.items()
    if names is not None and sorted(map(str, names)) == sorted(map(str, ours)):
        first, ours, others = "names", list(names), list(terms.items())
    for place, theirs in others:
        pairs = enumerate(zip_longest(ours, theirs, fillvalue="missing"))
        differ = [(i, mine, its) for i, (mine, its) in pairs if str(mine) != str(its)]
        if differ:
            i, mine, its = differ[0]
            raise ValueError(
                f"term {i} is {mine!s} in {first} and {its!s} in {place}: give the same terms in "
                "the same order, with the same levels of categories"
            )
    return ours if names is None else names


def _terms_of_results(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Names of the terms of fitted models or pairs, by place, where they have names."""
    found: dict[str, list[Any]] = {}
    for i, result in enumerate(results):
        if isinstance(result, tuple):
            estimate, variance = result
        else:
            estimate, variance = result.params, result.cov_params()
        terms = _terms(estimate, f"estimates[{i}]")
        regressors = getattr(getattr(result, "model", None), "exog_names", None)
        if not terms and regressors is not None:
            terms = {f"estimates[{i}]": list(regressors)}
        found |= terms | _terms(variance, f"variances[{i}]")
    return found


def _terms_of_all(given: Any, what: str) -> dict[str, list[Any]]:
    """Names of the terms of a frame (m, p), or of a list with an entry for each imputation."""
    if is_frame(given):
        rows, columns = (list(labels) for labels in (given.index, given.columns))
        named = {isinstance(each, str) for each in rows}
        if named == {True} and not any(isinstance(each, str) for each in columns):
            raise ValueError(
                f"{what} has the names {rows[0]!r}, ... in its rows: give a row for each "
                "imputation and a column for each estimate (frame.T)"
            )
        return {what: columns}
    parts = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    found: dict[str, list[Any]] = {}
    for i, part in enumerate(parts):
        found |= _terms(part, f"{what}[{i}]")
    return found


def _terms(given: Any, place: str) -> dict[str, list[Any]]:
    """Names of the terms of a Series, or of the rows and columns of a frame of covariances."""
    index = index_of(given)
    if index is None:
        return {}
    rows = {place: list(index)}
    return rows | {f"the columns of {place}": list(given.columns)} if is_frame(given) else rows


def _named(names: Any, values: np.ndarray) -> tuple[str, ...]:
    """A name for each estimate; by number where none are given."""
    num = values[0].size
    if names is None:
        return ("estimate",) if values.ndim == 1 else tuple(map(str, range(num)))
    given = (names,) if isinstance(names, str) else tuple(map(str, names))
    if len(given) != num or len(set(given)) != num:
        raise ValueError(f"names are {given} for {num} estimates: give each a name of its own")
    return given


def _numbers(values: Any, name: str) -> np.ndarray:
    """An array of float64."""
    try:
        return as_array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is not an array of numbers of equal lengths") from None


def _stacked(arrays: list[np.ndarray], name: str) -> np.ndarray:
    """One array of all analyses; the first of another shape is named."""
    for i, each in enumerate(arrays):
        if each.shape != arrays[0].shape:
            raise ValueError(
                f"{name}[{i}] has shape {each.shape} and {name}[0] {arrays[0].shape}: run the same "
                "analysis on every imputed data set, with the same levels of categories"
            )
    return np.stack(arrays)


def _refuse(values: np.ndarray, bad: np.ndarray, name: str, remedy: str) -> None:
    """Raise ValueError at the first bad value."""
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        shown = ", ".join(map(str, place))
        raise ValueError(f"{name}[{shown}] is {values[tuple(place)]:g}: {remedy}")


def _refuse_asymmetric(matrices: np.ndarray) -> None:
    """Raise ValueError at the first matrix that is no covariance matrix."""
    _refuse(matrices, ~np.isfinite(matrices), "variances", "give covariance matrices")
    apart = np.abs(matrices - matrices.swapaxes(1, 2)).max((1, 2))
    bad = apart > SYMMETRY * np.abs(matrices).max((1, 2))
    if bad.any():
        raise ValueError(
            f"variances[{int(bad.argmax())}] is not symmetric: give covariance matrices (m, p, p)"
        )
    sd = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2).clip(min=0))
    sd[sd == 0] = 1.0
    least = np.linalg.eigvalsh(matrices / (sd[:, :, None] * sd[:, None, :]))[:, 0]
    if (least < -ROUNDING).any():
        raise ValueError(
            f"variances[{int(least.argmin())}] is not positive semidefinite (a correlation matrix "
            f"with eigenvalue {least.min():.2g}): give covariance matrices (m, p, p)"
        )
