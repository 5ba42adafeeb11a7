"""Tests of several estimates at once from imputed data sets: D1 and D2."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.data.tables.frames import as_pandas, is_frame
from ppl_vae.data.validation import as_array, same_index
from ppl_vae.runtime.checks import one_line, suggestion, whole_number
from ppl_vae.runtime.text import echoed

__all__ = ["PooledTest", "pool_chi_squares"]


@dataclass(frozen=True)
class PooledTest:
    """A test of k values, with an F distribution as reference.

    Args:
        statistic: F.
        df1: Numerator degrees of freedom, k.
        df2: Denominator degrees of freedom; infinite where nothing differs between imputations.
        riv: Average relative increase in variance r due to missing values.
        method: "D1" or "D2".

    Example:
        >>> PooledTest(statistic=3.0, df1=2, df2=50.0, riv=0.2, method="D1")
        PooledTest(D1: F(2, 50) = 3, p = 0.0588)
    """

    statistic: float
    df1: int
    df2: float
    riv: float
    method: str

    @property
    def p_value(self) -> float:
        """P(F > statistic)."""
        from scipy import stats

        if math.isinf(self.df2):
            return float(stats.chi2.sf(self.df1 * self.statistic, self.df1))
        return float(stats.f.sf(self.statistic, self.df1, self.df2))

    def __repr__(self) -> str:
        shown = f"F({self.df1}, {self.df2:.4g}) = {self.statistic:.4g}, p = {self.p_value:.3g}"
        return f"PooledTest({self.method}: {shown})"


def pool_chi_squares(chi_squares: Any, df: int) -> PooledTest:
    """D2: chi-squared statistics of the imputed data sets, pooled.

    With d_i the m statistics (Wald or likelihood ratio), k their degrees of freedom and r = (1 +
    1/m) var(sqrt(d_i)),

        D2 = (mean(d_i) / k - r (m + 1) / (m - 1)) / (1 + r),
        df2 = k^(-3/m) (m - 1) (1 + 1/r)^2.

    It needs no covariance matrices, and loses power: prefer D1 (`Pooled.test`). D2 can be negative;
    its p-value is then 1.

    Args:
        chi_squares: (m,).
        df: Degrees of freedom k of each.

    Raises:
        ValueError: Fewer than two statistics, or one that is negative or NaN.

    References:
        Li, Meng, Raghunathan and Rubin (1991), Significance levels from repeated p-values with
        multiply imputed data, Statistica Sinica 1, 65-92.

    Example:
        >>> pool_chi_squares([8.1, 9.6, 7.2, 11.0], df=3)
        PooledTest(D2: F(3, 167.8) = 2.579, p = 0.0554)
    """
    k = whole_number(df, "df")
    values = as_array(chi_squares, np.float64)
    if values.ndim != 1 or len(values) < 2 or not (values >= 0).all():
        raise ValueError(
            f"chi_squares is {one_line(repr(chi_squares))}; give at least two statistics, none "
            "negative or NaN"
        )
    m = len(values)
    r = (1 + 1 / m) * float(np.sqrt(values).var(ddof=1))
    statistic = (float(values.mean()) / k - (m + 1) / (m - 1) * r) / (1 + r)
    df2 = math.inf
    if r > 0:
        df2 = k ** (-3 / m) * (m - 1) * (1 + 1 / r) ** 2
    return PooledTest(statistic, k, df2, r, "D2")


def wald_d1(values: np.ndarray, covariances: np.ndarray, dfcom: float) -> PooledTest:
    """D1 of values (m, k) that are 0 under the hypothesis, with covariances (m, k, k)."""
    m, k = values.shape
    mean = values.mean(0)
    within = covariances.mean(0)
    between = np.atleast_2d(np.cov(values, rowvar=False))
    r = (1 + 1 / m) * float(np.trace(np.linalg.solve(within, between))) / k
    statistic = float(mean @ np.linalg.solve(within, mean)) / k / (1 + r)
    df2 = _of_complete_rows(r, k, m)
    if math.isfinite(dfcom):
        df2 = _reiter(r, k, m, dfcom)
    return PooledTest(statistic, k, df2, r, "D1")


def wald_d2(values: np.ndarray, covariances: np.ndarray) -> PooledTest:
    """D2 of values (m, k) that are 0 under the hypothesis, with covariances (m, k, k)."""
    solved = np.linalg.solve(covariances, values[..., None])[..., 0]
    return pool_chi_squares((values * solved).sum(-1), values.shape[1])


def _of_complete_rows(r: float, k: int, m: int) -> float:
    """Denominator degrees of freedom of D1 for many rows (Li, Raghunathan and Rubin 1991)."""
    num = k * (m - 1)
    if r == 0:
        return math.inf
    if num > 4:
        return 4 + (num - 4) * (1 + (1 - 2 / num) / r) ** 2
    return num * (1 + 1 / k) * (1 + 1 / r) ** 2 / 2


def _reiter(r: float, k: int, m: int, dfcom: float) -> float:
    """Denominator degrees of freedom of D1 for few rows (Reiter 2007, equation 9).

    His expansion has no value where k (m - 1) <= 4 or where few degrees of freedom are observed.
    There those for many rows and those observed are combined as Barnard and Rubin do.
    """
    num = k * (m - 1)
    complete = (dfcom + 1) / (dfcom + 3) * dfcom
    a = r * num / (num - 2) if num > 4 else math.inf
    first = complete - 2 * (1 + a)
    second = complete - 4 * (1 + a)
    if num <= 4 or second <= 0:
        many = (k + 1) / 2 * (m - 1) * (1 + 1 / r) ** 2 if r > 0 else math.inf
        return 1 / (1 / many + (1 + r) / complete)
    terms = (
        a**2 * first / ((1 + a) ** 2 * second),
        8 * a**2 * first / ((1 + a) * second**2),
        4 * a**2 / ((1 + a) * second),
        4 * a**2 / (second * first),
        16 * a**2 * first / second**3,
        8 * a**2 / second**2,
    )
    return 4 + 1 / (1 / second + sum(terms) / (num - 4))


def contrasts(hypotheses: Any, names: tuple[str, ...]) -> np.ndarray:
    """Rows (k, p) of the hypotheses L q = value: all estimates, some by name, or L itself."""
    if hypotheses is None:
        return np.eye(len(names))
    hypotheses = as_pandas(hypotheses, "hypotheses")
    by_term = hypotheses.T if is_frame(hypotheses) else hypotheses
    chosen = [hypotheses] if isinstance(hypotheses, str) else list(hypotheses)
    if all(isinstance(each, str) for each in chosen) and not is_frame(hypotheses):
        for each in chosen:
            if each not in names:
                raise ValueError(f"no estimate is called {echoed(each)}; {suggestion(each, names)}")
        return np.eye(len(names))[[names.index(each) for each in chosen]]
    same_index(names, by_term, "the terms of hypotheses", "the estimates")
    rows = np.atleast_2d(as_array(hypotheses, np.float64))
    if rows.shape[1:] != (len(names),):
        raise ValueError(
            f"hypotheses have shape {rows.shape}; give names, or rows of {len(names)} coefficients"
        )
    return rows


def refuse_other_order(hypotheses: Any, values: Any, names: tuple[str, ...]) -> None:
    """Refuse a Series of values whose index is not that of the hypotheses."""
    labels: Any = names if hypotheses is None else hypotheses
    if is_frame(hypotheses):
        labels = hypotheses.index
    elif isinstance(hypotheses, str):
        labels = (hypotheses,)
    elif np.asarray(labels).dtype.kind not in "OU":  # coefficients without names
        labels = None
    same_index(labels, values, "values", "hypotheses")


def refuse_dependent(covariance: np.ndarray) -> None:
    """Raise ValueError unless the covariance matrix of what is tested has full rank."""
    sd = np.sqrt(np.diagonal(covariance))
    if (sd == 0).any() or np.linalg.matrix_rank(covariance / np.outer(sd, sd)) < len(sd):
        raise ValueError(
            "the hypotheses are not linearly independent, or an estimate has variance 0: leave "
            "one out"
        )
