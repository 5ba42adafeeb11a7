"""Tables with missing values whose estimands are known, and what is estimated from completed ones.

Each truth draws complete rows and masks them; its estimands are means and coefficients of linear
regressions, which are estimated by least squares from any completed table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm

Rows = np.ndarray
NOISE = np.array([0.6, 0.8, 0.7, 0.9])
LOADING = np.array([[1.0, 0.0], [0.7, 0.6], [0.8, -0.5], [0.6, 0.9]])
MEAN = np.array([1.0, -2.0, 0.5, 3.0])
SLOPE = 0.5  # of the probit by which values go missing
SIGMA = LOADING @ LOADING.T + np.diag(NOISE**2)


@dataclass(frozen=True)
class Setting:
    """A truth, how values go missing (MCAR or MAR), their share, and the number of rows."""

    truth: str
    mechanism: str
    share: float
    num_rows: int

    def __str__(self) -> str:
        percent = f"{100 * self.share:.0f} %"
        return f"{self.truth}, {self.mechanism} {percent}, N = {self.num_rows:,}"


@dataclass(frozen=True)
class Truth:
    """How complete rows are drawn, which columns lose values, and the terms of the regression.

    The first column is complete; under MAR values go missing by it. The last is the response."""

    columns: tuple[str, ...]
    draw: Callable[[np.random.Generator, int], Rows]
    losing: tuple[int, ...]
    terms: Callable[[Rows], Rows]  # of completed rows, (N, p) without the constant
    estimands: dict[str, float]  # the means of the losing columns, then the coefficients
    discrete: tuple[int, ...] = ()


# --- truths ---------------------------------------------------------------------------------------


def linear_rows(rng: np.random.Generator, num_rows: int) -> Rows:
    """Two factors and noise."""
    z = rng.normal(size=(num_rows, 2))
    return MEAN + z @ LOADING.T + NOISE * rng.normal(size=(num_rows, 4))


def mixed_rows(rng: np.random.Generator, num_rows: int) -> Rows:
    """A number, a count and a binary variable that depend on it, and a response of all but the
    count."""
    age = rng.normal(size=num_rows)
    visits = rng.poisson(np.exp(0.5 + 0.4 * age))
    treated = rng.random(num_rows) < expit(-0.3 + 0.8 * age)
    pressure = 1 + 0.5 * age - 1.0 * treated + 0.8 * rng.normal(size=num_rows)
    return np.stack([age, visits, treated, pressure], axis=1).astype(float)


def curved_rows(rng: np.random.Generator, num_rows: int) -> Rows:
    """A response with a quadratic curve in one variable, linear in the other."""
    dose = rng.normal(size=num_rows)
    weight = 0.5 * dose + 0.8 * rng.normal(size=num_rows)
    response = 1 + 0.6 * dose - 0.5 * dose**2 + 0.7 * weight + 0.7 * rng.normal(size=num_rows)
    return np.stack([dose, weight, response], axis=1)


def share_treated() -> float:
    """E expit(-0.3 + 0.8 age), by Gauss and Hermite's rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(weights @ expit(-0.3 + 0.8 * nodes) / weights.sum())


def slopes(sigma: np.ndarray) -> np.ndarray:
    """Of the last variable on the others."""
    return np.linalg.solve(sigma[:-1, :-1], sigma[:-1, -1])


TREATED = share_treated()
TRUTHS = {
    "linear-Gaussian": Truth(
        ("a", "b", "c", "y"),
        linear_rows,
        losing=(1, 2, 3),
        terms=lambda x: x[:, :3],
        estimands=dict(zip(("mean b", "mean c", "mean y"), MEAN[1:], strict=True))
        | dict(zip(("y on a", "y on b", "y on c"), slopes(SIGMA), strict=True)),
    ),
    "mixed": Truth(
        ("age", "visits", "treated", "pressure"),
        mixed_rows,
        losing=(2, 3),
        terms=lambda x: x[:, [0, 2]],
        estimands={
            "mean treated": TREATED,
            "mean pressure": 1 - TREATED,
            "pressure on age": 0.5,
            "pressure on treated": -1.0,
        },
        discrete=(1, 2),
    ),
    "nonlinear": Truth(
        ("dose", "weight", "response"),
        curved_rows,
        losing=(2,),
        terms=lambda x: np.stack([x[:, 0], x[:, 0] ** 2, x[:, 1]], axis=1),
        estimands={
            "mean response": 0.5,
            "response on dose": 0.6,
            "response on dose squared": -0.5,
            "response on weight": 0.7,
        },
    ),
}


# --- missing values -------------------------------------------------------------------------------


def simulated(setting: Setting, seed: int) -> tuple[Rows, Rows]:
    """Complete rows, and the same with missing values; no row is missing altogether."""
    rng = np.random.default_rng([seed, *str(setting).encode()])
    truth = TRUTHS[setting.truth]
    complete = truth.draw(rng, setting.num_rows)
    chance = np.full(setting.num_rows, setting.share)
    if setting.mechanism == "MAR":
        sd = np.sqrt(SIGMA[0, 0]) if setting.truth == "linear-Gaussian" else 1.0
        mean = MEAN[0] if setting.truth == "linear-Gaussian" else 0.0
        # A probit whose mean over the first column, a normal variable, is the share.
        score = SLOPE * (complete[:, 0] - mean) / sd
        chance = norm.cdf(np.sqrt(1 + SLOPE**2) * norm.ppf(setting.share) + score)
    observed = complete.copy()
    for column in truth.losing:
        observed[rng.random(setting.num_rows) < chance, column] = np.nan
    return complete, observed


# --- estimates ------------------------------------------------------------------------------------


def estimates(truth: Truth, x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Means and coefficients with their variances, from completed rows."""
    means = x[:, truth.losing]
    design = np.column_stack([np.ones(len(x)), truth.terms(x)])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ x[:, -1]
    residuals = x[:, -1] - design @ coefficients
    variance = residuals @ residuals / (len(x) - design.shape[1])
    values = np.concatenate([means.mean(0), coefficients[1:]])
    variances = np.concatenate([means.var(0, ddof=1) / len(x), variance * np.diag(inverse)[1:]])
    return values, variances


def residual_df(truth: Truth, num_rows: int) -> np.ndarray:
    """Degrees of freedom of each estimate from complete rows."""
    num_means = len(truth.losing)
    num_terms = len(truth.estimands) - num_means
    return np.repeat([num_rows - 1, num_rows - 1 - num_terms], [num_means, num_terms]).astype(float)


def all_estimates(truth: Truth, tables: Sequence[Rows]) -> tuple[np.ndarray, np.ndarray]:
    """Of each completed table, (m, p) each."""
    found = [estimates(truth, table) for table in tables]
    return np.stack([pair[0] for pair in found]), np.stack([pair[1] for pair in found])


# --- the normal distribution with missing values --------------------------------------------------


def patterns(x: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which columns are observed, and the rows in which just these are."""
    kinds, which = np.unique(~np.isnan(x), axis=0, return_inverse=True)
    for number, seen in enumerate(kinds):
        yield seen, np.flatnonzero(which.ravel() == number)


def conditional(
    mean: np.ndarray, sigma: np.ndarray, seen: np.ndarray, values: Rows
) -> tuple[Rows, np.ndarray]:
    """Mean and covariance of the missing columns given the observed ones."""
    weights = np.linalg.solve(sigma[np.ix_(seen, seen)], sigma[np.ix_(seen, ~seen)])
    means = mean[~seen] + (values - mean[seen]) @ weights
    return means, sigma[np.ix_(~seen, ~seen)] - sigma[np.ix_(~seen, seen)] @ weights


def em(
    x: Rows, weights: np.ndarray | None = None, tolerance: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """Means (F, p) and covariances (F, p, p) of normals by maximum likelihood from incomplete rows.

    Each row of `weights` (F, N) says how often a row of x counts in that fit. An iteration needs
    the moments of the observed columns of each pattern alone, which are summed over rows once."""
    centre = np.nanmean(x, axis=0)
    scale = np.nanstd(x, axis=0)
    x = (x - centre) / scale
    weights = np.ones((1, len(x))) if weights is None else weights
    parts = [
        (seen, *moments(x[np.ix_(rows, seen)], weights[:, rows])) for seen, rows in patterns(x)
    ]
    mean = np.zeros((len(weights), x.shape[1]))
    sigma = np.tile(np.eye(x.shape[1]), (len(weights), 1, 1))
    for _ in range(1000):
        sums = [expected(mean, sigma, *part) for part in parts]
        new_mean = sum(first for first, _ in sums) / len(x)
        new_sigma = sum(second for _, second in sums) / len(x)
        new_sigma -= new_mean[:, :, None] * new_mean[:, None, :]
        moved = max(np.abs(new_mean - mean).max(), np.abs(new_sigma - sigma).max())
        mean, sigma = new_mean, new_sigma
        if moved < tolerance:
            break
    return centre + mean * scale, sigma * np.outer(scale, scale)


def moments(x: Rows, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted counts (F), sums (F, o) and sums of products (F, o, o)."""
    return weights.sum(1), weights @ x, np.einsum("fn,ni,nj->fij", weights, x, x, optimize=True)


def expected(
    mean: np.ndarray,
    sigma: np.ndarray,
    seen: np.ndarray,
    count: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of rows and of their products, expected given the observed columns."""
    gone = ~seen
    slope = np.linalg.solve(sigma[:, seen][:, :, seen], sigma[:, seen][:, :, gone])
    level = mean[:, gone] - np.einsum("fo,fom->fm", mean[:, seen], slope)
    rest = sigma[:, gone][:, :, gone] - sigma[:, gone][:, :, seen] @ slope
    of_first = np.einsum("fo,fom->fm", first, slope)
    cross = first[:, :, None] * level[:, None, :] + second @ slope
    mixed = level[:, :, None] * of_first[:, None, :]
    squares = count[:, None, None] * (level[:, :, None] * level[:, None, :] + rest)
    squares = squares + mixed + mixed.swapaxes(1, 2) + slope.swapaxes(1, 2) @ second @ slope
    order = np.argsort(np.concatenate([np.flatnonzero(seen), np.flatnonzero(gone)]))
    sums = np.concatenate([first, count[:, None] * level + of_first], axis=1)
    products = np.block([[second, cross], [cross.swapaxes(1, 2), squares]])
    return sums[:, order], products[:, order][:, :, order]


def bootstrap_em(x: Rows, num_fits: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maximum likelihood from rows drawn with replacement."""
    rng = np.random.default_rng([seed, 1])
    drawn = [rng.integers(len(x), size=len(x)) for _ in range(num_fits)]
    counts = np.stack([np.bincount(rows, minlength=len(x)) for rows in drawn]).astype(float)
    return list(zip(*em(x, counts), strict=True))


def normal_imputations(
    x: Rows, thetas: Sequence[tuple[np.ndarray, np.ndarray]], seed: int
) -> list[Rows]:
    """One completed table for each mean and covariance."""
    rng = np.random.default_rng([seed, 2])
    groups = list(patterns(x))
    tables = []
    for mean, sigma in thetas:
        filled = x.copy()
        for seen, rows in groups:
            if not seen.all():
                means, rest = conditional(mean, sigma, seen, x[np.ix_(rows, seen)])
                noise = rng.normal(size=means.shape) @ np.linalg.cholesky(rest).T
                filled[np.ix_(rows, ~seen)] = means + noise
        tables.append(filled)
    return tables
