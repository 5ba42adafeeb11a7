"""Rubin's rules: analyses of imputed data sets, pooled."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae.data.validation import as_array
from ppl_vae.runtime.checks import one_of, real_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table
from ppl_vae.tasks.imputation.pooling.analyses import Analyses, read_analyses
from ppl_vae.tasks.imputation.pooling.hypotheses import (
    PooledTest,
    contrasts,
    refuse_dependent,
    refuse_other_order,
    wald_d1,
    wald_d2,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pooled", "pool"]

LEAST_LAMBDA = 1e-4  # as in R's mice: degrees of freedom stay finite
JACKKNIFED = ("se", "lower", "upper", "statistic", "p_value", "df", "fmi")


@dataclass(frozen=True, repr=False, eq=False)
class Pooled(Shown):
    """Estimates pooled over m imputed data sets; what `pool` returns, where the formulas are.

    Args:
        analyses: Estimates and variances of each imputed data set.
        dfcom: Degrees of freedom of the analysis of complete rows.
        level: Probability of the intervals.

    Shape:
        every number: () for scalars, (p,) for vectors; interval (2,) or (2, p)

    Example:
        >>> pooled = pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
        >>> float(pooled.estimate), float(pooled.between), round(float(pooled.total), 3)
        (2.0, 1.0, 1.833)
    """

    analyses: Analyses
    dfcom: float
    level: float

    @property
    def num_imputations(self) -> int:
        """Number of imputations m."""
        return self.analyses.num_imputations

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the estimates."""
        return self.analyses.names

    @cached_property
    def estimate(self) -> np.ndarray:
        """Mean of the estimates, in their units."""
        return self.analyses.estimates.mean(0)

    @cached_property
    def within(self) -> np.ndarray:
        """Mean of the variances (ubar), in squared units."""
        return self.analyses.variances.mean(0)

    @cached_property
    def between(self) -> np.ndarray:
        """Variance of the estimates between imputations (b), in squared units."""
        return self.analyses.estimates.var(0, ddof=1)

    @cached_property
    def total(self) -> np.ndarray:
        """Variance of the pooled estimate (t), in squared units."""
        return self.within + self._from_missing

    @property
    def covariance(self) -> np.ndarray:
        """Covariance matrix of the pooled estimates, (p, p).

        Raises:
            ValueError: The analyses had variances only.
        """
        between = np.cov(self.analyses.estimates, rowvar=False)
        return self._covariances.mean(0) + (1 + 1 / self.num_imputations) * between

    @cached_property
    def se(self) -> np.ndarray:
        """Standard error, the root of the total variance."""
        return np.sqrt(self.total)

    @property
    def riv(self) -> np.ndarray:
        """Relative increase in variance due to missing values, (1 + 1/m) b / ubar."""
        return _ratio(self._from_missing, self.within)

    @property
    def lambda_(self) -> np.ndarray:
        """Share of the total variance that is due to missing values, (1 + 1/m) b / t."""
        return _ratio(self._from_missing, self.total)

    @cached_property
    def df(self) -> np.ndarray:
        """Degrees of freedom of Barnard and Rubin (1999)."""
        share = np.maximum(self.lambda_, LEAST_LAMBDA)
        many_rows = (self.num_imputations - 1) / share**2
        if math.isinf(self.dfcom):
            return many_rows
        observed = (self.dfcom + 1) / (self.dfcom + 3) * self.dfcom * (1 - share)
        return many_rows * observed / (many_rows + observed)

    @property
    def fmi(self) -> np.ndarray:
        """Fraction of missing information, (riv + 2 / (df + 3)) / (riv + 1)."""
        return (self.riv + 2 / (self.df + 3)) / (self.riv + 1)

    @property
    def statistic(self) -> np.ndarray:
        """t statistic of the hypothesis that the quantity is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.estimate / self.se

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided p-value of the t statistic."""
        from scipy import stats

        return 2 * stats.t.sf(np.abs(self.statistic), self.df)

    @property
    def interval(self) -> np.ndarray:
        """Confidence interval: the estimate plus and minus a t quantile times the se."""
        from scipy import stats

        half = stats.t.ppf((1 + self.level) / 2, self.df) * self.se
        return np.stack([self.estimate - half, self.estimate + half])

    @property
    def lower(self) -> np.ndarray:
        """Lower end of the interval."""
        return self.interval[0]

    @property
    def upper(self) -> np.ndarray:
        """Upper end of the interval."""
        return self.interval[1]

    @cached_property
    def monte_carlo_errors(self) -> dict[str, np.ndarray]:
        """Standard deviations over repeated imputation, by the name of what is pooled.

        sqrt(b / m) for the estimate; for se, lower, upper, statistic, p_value, df and fmi the
        jackknife, sqrt((m - 1) / m sum_i (v_i - mean v)^2) with v_i from all imputations but the
        i-th. NaN with two imputations.
        """
        m = self.num_imputations
        errors = {"estimate": np.sqrt(self.between / m)}
        if m == 2:
            return errors | dict.fromkeys(JACKKNIFED, np.full_like(self.estimate, math.nan))
        rest = [replace(self, analyses=self.analyses.without(i)) for i in range(m)]
        for name in JACKKNIFED:
            values = np.stack([getattr(each, name) for each in rest])
            errors[name] = np.sqrt((m - 1) * values.var(0))
        return errors

    def needed(self, cv: float = 0.05) -> np.ndarray:
        """Number of imputations that would do: the se would vary by a share `cv` if repeated.

        Von Hippel's second stage, the pooled imputations being the first: m = 1 + (f / cv)^2 / 2,
        rounded up, where f is the upper end of a 95 % interval of the fraction of missing
        information, logit(fmi) + 1.96 sqrt(2 / m); at least 2.

        Args:
            cv: Coefficient of variation of the standard error over repeated imputation.

        References:
            Von Hippel (2020), How many imputations do you need? A two-stage calculation using a
            quadratic rule, Sociological Methods and Research 49(3), arXiv:1608.05406.
        """
        from scipy import special, stats

        real_number(cv, "cv", above=0)
        half = stats.norm.ppf(0.975) * math.sqrt(2 / self.num_imputations)
        fmi = special.expit(special.logit(self.fmi) + half)
        return np.maximum(2, np.ceil(1 + (fmi / cv) ** 2 / 2)).astype(int)

    def test(
        self, hypotheses: Any = None, values: Any = 0.0, *, method: Literal["D1", "D2"] = "D1"
    ) -> PooledTest:
        """Test of k hypotheses at once, L q = values.

        D1 = (L qbar - values)' (L Ubar L')^-1 (L qbar - values) / (k (1 + r)), with r = (1 + 1/m)
        tr(L B L' (L Ubar L')^-1) / k, against F with k and df2 degrees of freedom: those of Reiter
        (2007) where dfcom is finite, else of Li, Raghunathan and Rubin (1991). Reiter's have no
        value where k (m - 1) <= 4 or dfcom is small beside r; there those of Li et al. for k (m -
        1) <= 4 and the observed ones are combined as Barnard and Rubin (1999) do. D1 assumes that
        all quantities miss about the same share of information. D2 pools the chi-squared statistics
        (`pool_chi_squares`).

        For one hypothesis, the p-value of the table has better degrees of freedom.

        Args:
            hypotheses: Names of estimates; or coefficients L, (k, p), the columns of a frame being
                the estimates in their order; None is all estimates.
            values: Their values under the hypothesis.
            method: "D1" or "D2".

        Raises:
            ValueError: The analyses had variances only, there is no such name, the hypotheses are
                not linearly independent, or an object of pandas has its labels in another order.

        References:
            Li, Raghunathan and Rubin (1991), Large-sample significance levels from multiply imputed
            data using moment-based statistics and an F reference distribution, JASA 86; Reiter
            (2007), Small-sample degrees of freedom for multi-component significance tests with
            multiple imputation for missing data, Biometrika 94.
        """
        one_of(method, "method", ("D1", "D2"))
        rows = contrasts(hypotheses, self.names)
        refuse_other_order(hypotheses, values, self.names)
        covariances = rows @ self._covariances @ rows.T
        refuse_dependent(covariances.mean(0))
        differences = self.analyses.estimates @ rows.T - as_array(values, np.float64)
        if method == "D2":
            return wald_d2(differences, covariances)
        return wald_d1(differences, covariances, self.dfcom)

    def to_frame(self) -> "pd.DataFrame":
        """A row for each estimate, with every number and the Monte Carlo error of the estimate."""
        import pandas as pd

        columns = {
            "estimate": self.estimate,
            "se": self.se,
            "lower": self.lower,
            "upper": self.upper,
            "statistic": self.statistic,
            "df": self.df,
            "p_value": self.p_value,
            "within": self.within,
            "between": self.between,
            "total": self.total,
            "riv": self.riv,
            "lambda": self.lambda_,
            "fmi": self.fmi,
            "mc_se": self.monte_carlo_errors["estimate"],
        }
        flat = {name: np.atleast_1d(values) for name, values in columns.items()}
        return pd.DataFrame(flat, index=pd.Index(self.names, name="name"))

    def __repr__(self) -> str:
        num = len(self.names)
        return f"Pooled({num} estimate{'s' * (num > 1)} of {self.num_imputations} imputations)"

    def __str__(self) -> str:
        tail = 50 * (1 - self.level)
        ends = (f"{tail:g} %", f"{100 - tail:g} %")
        rows = [["", "estimate", "se", *ends, "t", "df", "p", "fmi"]]
        for row in self.to_frame().itertuples():
            numbers = (row.estimate, row.se, row.lower, row.upper, row.statistic)
            cells = [f"{number:.4g}" for number in numbers]
            cells += [f"{row.df:.1f}", f"{row.p_value:.2g}", f"{row.fmi:.2f}"]
            rows.append([row.Index, *cells])
        return f"{table(rows)}\n{self._notes()}"

    def _notes(self) -> str:
        """What stands below the table."""
        error = _ratio(self.monte_carlo_errors["estimate"], self.se).max()
        return (
            f"{self.num_imputations} imputations; Monte Carlo error of an estimate: up to "
            f"{error:.2g} se; imputations for standard errors that repeat within 5 %: "
            f"{self.needed().max()}"
        )

    @property
    def _from_missing(self) -> np.ndarray:
        """Variance that is due to missing values."""
        return (1 + 1 / self.num_imputations) * self.between

    @property
    def _covariances(self) -> np.ndarray:
        """The covariance matrix of each analysis."""
        if self.analyses.covariances is None:
            raise ValueError("no covariances are known: give pool covariance matrices (m, p, p)")
        return self.analyses.covariances


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where both are 0."""
    with np.errstate(invalid="ignore"):
        return np.where(part == 0, 0.0, part / whole)


def pool(
    estimates: Any,
    variances: Any = None,
    *,
    dfcom: float | None = None,
    level: float = 0.95,
    names: Any = None,
) -> Pooled:
    """Estimates of m imputed data sets pooled by Rubin's rules.

    With estimates q_i and variances u_i, i = 1..m::

        estimate  qbar = mean(q_i)
        within    ubar = mean(u_i)
        between   b = sum_i (q_i - qbar)^2 / (m - 1)
        total     t = ubar + (1 + 1/m) b = se^2
        riv       (1 + 1/m) b / ubar
        lambda    (1 + 1/m) b / t
        df        v_m v_obs / (v_m + v_obs), with v_m = (m - 1) / lambda^2 and
                  v_obs = (1 - lambda) dfcom (dfcom + 1) / (dfcom + 3)
        fmi       (riv + 2 / (df + 3)) / (riv + 1)

    and the interval qbar +- t_df sqrt(t). As in R's mice, lambda is at least 1e-4 in the formula of
    df. Estimates should be nearly normal: pool a log odds ratio, not the odds ratio; Fisher's z,
    not a correlation. The outcome of the analysis, and interactions and transformations in it,
    belong in the model of the imputations.

    Args:
        estimates: Scalars (m,) or vectors (m, p) of the m imputed data sets; or, without variances,
            a list of fitted models with `params`, `cov_params()` and `df_resid` (as those of
            statsmodels) or of pairs (estimate, variance).
        variances: Squared standard errors, of the shape of the estimates, or covariance matrices
            (m, p, p), which `Pooled.test` needs.
        dfcom: Degrees of freedom of the same analysis of complete rows, such as N - p. None takes
            the smallest `df_resid` of the models, and infinity for arrays.
        level: Probability of the intervals.
        names: Names of the estimates; None takes those of the models, Series and frames, which
            must name the same terms in the same order.

    Returns:
        The pooled estimates; print them.

    Raises:
        ValueError: Fewer than two imputations, a NaN or a negative variance (its place is named),
            shapes that do not agree, terms that differ or are in another order.

    References:
        Rubin (1987), Multiple imputation for nonresponse in surveys, chapter 3; Barnard and Rubin
        (1999), Small-sample degrees of freedom with multiple imputation, Biometrika 86; Royston,
        Carlin and White (2009), Multiple imputation of missing values: new features for mim, Stata
        Journal 9 (Monte Carlo errors).

    Example:
        >>> estimates = [[0.1, 2.0], [0.3, 2.2], [0.2, 1.9]]
        >>> variances = [[0.04, 0.09], [0.04, 0.10], [0.05, 0.09]]
        >>> pooled = pool(estimates, variances, dfcom=60, names=["age", "dose"])
        >>> print(str(pooled).partition("3 imputations")[0].rstrip())
              estimate      se    2.5 %  97.5 %       t    df        p   fmi
        age        0.2   0.238  -0.2967  0.6967  0.8402  19.9     0.41  0.30
        dose     2.033  0.3528    1.293   2.773   5.764  18.4  1.7e-05  0.32
    """
    analyses = read_analyses(estimates, variances, names)
    df = analyses.dfcom
    if dfcom is not None:
        df = float(dfcom)
    if not df > 0:
        raise ValueError(f"dfcom is {df:g}; it must be positive, such as N - p, or math.inf")
    return Pooled(analyses, df, real_number(level, "level", above=0, below=1))
