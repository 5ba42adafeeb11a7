"""Pooled analyses of imputed data sets, against R's mice and mitml."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ppl_vae as pv
from ppl_vae.tasks.imputation import pool_chi_squares

HERE = Path(__file__).resolve().parent
REFERENCE = json.loads((HERE / "pooling_reference.json").read_text(encoding="utf-8"))
CELLS = REFERENCE["cells"]
IDS = [f"m={cell['m']} dfcom={cell['dfcom']} scale={cell['scale']}" for cell in CELLS]
HYPOTHESES = [(np.eye(3), 0), ([[1, -1, 0], [0, 0, 1]], [0, 1]), ("c", 0)]
ABC = ("a", "b", "c")
CLOSE = {"rtol": 1e-8, "atol": 1e-11}


def analyses(m, scale):
    """Estimates (m, 3) and covariance matrices (m, 3, 3), as pooling_reference.R makes them."""
    i = np.arange(1, m + 1)[:, None]
    j = np.arange(1, 4)
    own = 1 + 0.5 * np.sin(i * j)
    matrices = own[:, None] * np.eye(3) + 0.3 * (1 - np.eye(3))
    return j - 1.5 + scale * np.sin(7 * i**2 + j), matrices


def regressions():
    """Least squares of the script's five data sets, with the attributes of statsmodels' results."""
    n = np.arange(1, 31)
    for i in range(1, 6):
        x1 = np.sin(n)
        x2 = np.cos(n**2) + 0.3 * np.sin(i * n)
        y = x1 + 0.5 * x2 + np.cos(3 * n**2)
        design = np.column_stack([np.ones(30), x1, x2])
        fitted, (sse,), *_ = np.linalg.lstsq(design, y)
        covariance = np.linalg.inv(design.T @ design) * sse / 27
        params = pd.Series(fitted, ["intercept", "x1", "x2"])
        yield SimpleNamespace(params=params, cov_params=lambda u=covariance: u, df_resid=27.0)


def pooled_cell(cell):
    estimates, matrices = analyses(cell["m"], cell["scale"])
    dfcom = np.inf if cell["dfcom"] is None else cell["dfcom"]
    return pv.pool(estimates, matrices, dfcom=dfcom, names=ABC)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_pooled_numbers_are_those_of_mice_and_mitml(cell):
    pooled = pooled_cell(cell)
    total, riv, df, fmi = map(np.array, cell["mice"])
    np.testing.assert_allclose([pooled.total, pooled.riv, pooled.df], [total, riv, df], **CLOSE)
    np.testing.assert_allclose(pooled.fmi, fmi, **CLOSE)
    np.testing.assert_allclose(pooled.total, np.diag(pooled.covariance), **CLOSE)
    if pooled.lambda_.min() > 1e-4:  # below, mitml's degrees of freedom have no limit
        numbers = (pooled.se, pooled.statistic, pooled.df, pooled.p_value, pooled.riv, pooled.fmi)
        np.testing.assert_allclose(numbers, cell["mitml"], **CLOSE)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_tests_of_vectors_are_those_of_mitml(cell):
    pooled = pooled_cell(cell)
    for method, figures in cell["tests"].items():
        for (rows, values), figure in zip(HYPOTHESES, zip(*figures, strict=True), strict=True):
            statistic, k, df2, p_value, riv = figure
            test = pooled.test(rows, values, method=method)
            shown = (test.statistic, test.df1, test.riv)
            np.testing.assert_allclose(shown, (statistic, k, riv), **CLOSE)
            num = k * (cell["m"] - 1)
            a = riv * num / (num - 2) if num > 4 else np.inf
            is_finite = cell["dfcom"] is not None
            complete = is_finite and cell["dfcom"] * (cell["dfcom"] + 1) / (cell["dfcom"] + 3)
            if method == "D1" and is_finite and (num <= 4 or complete <= 4 * (1 + a)):
                continue  # mitml's formula has no value there
            if df2 is not None:
                np.testing.assert_allclose((test.df2, test.p_value), (df2, p_value), **CLOSE)


def test_regressions_are_pooled_as_by_mice():
    pooled = pv.pool(list(regressions()))
    assert pooled.dfcom == 27
    assert pooled.names == ("intercept", "x1", "x2")
    numbers = (pooled.estimate, pooled.within, pooled.between, pooled.total)
    shares = (pooled.df, pooled.riv, pooled.lambda_, pooled.fmi)
    figures = REFERENCE["regression"]
    np.testing.assert_allclose([*numbers, *shares], figures["pool"], **CLOSE)
    inference = (pooled.se, pooled.statistic, pooled.p_value, pooled.lower, pooled.upper)
    np.testing.assert_allclose(inference, figures["summary"], **CLOSE)
    for method in ("D1", "D2"):
        test = pooled.test(["x1", "x2"], method=method)
        shown = (test.statistic, test.df1, test.df2, test.p_value, test.riv)
        np.testing.assert_allclose(shown, figures[method], **CLOSE)


def test_r_gives_the_stored_figures():
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    script = HERE / "pooling_reference.R"
    done = subprocess.run(["Rscript", script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("mice, mitml or jsonlite is not installed")
    found = json.loads(done.stdout)
    for cell, stored in zip(found["cells"], CELLS, strict=True):
        np.testing.assert_allclose(cell["mice"], stored["mice"], rtol=1e-9)
    np.testing.assert_allclose(found["regression"]["pool"], REFERENCE["regression"]["pool"])


def test_one_hypothesis_with_few_imputations_has_the_degrees_of_freedom_of_the_table():
    estimates, matrices = analyses(3, 1.0)
    pooled = pv.pool(estimates, matrices, dfcom=40, names=ABC)
    test = pooled.test("b")
    assert test.df2 == pytest.approx(pooled.df[1])
    assert test.p_value == pytest.approx(pooled.p_value[1])


def test_intervals_cover_and_monte_carlo_errors_are_standard_deviations_of_repeated_imputation():
    rng = np.random.default_rng(0)
    m, repeats = 10, 4000
    # Q_i ~ N(0, b), U_i ~ ubar gamma: the estimate and ends vary over the imputations.
    estimates = rng.normal(size=(m, repeats))
    variances = 3 * rng.gamma(20, 1 / 20, size=(m, repeats))
    pooled = pv.pool(estimates, variances, dfcom=50)
    for name in ("estimate", "lower", "upper", "se", "df", "fmi"):
        errors = pooled.monte_carlo_errors[name]
        true = getattr(pooled, name).std()
        # The sd of 4,000 repetitions has a standard error of 1.2 %; the jackknife is exact for the
        # estimate and conservative for curved statistics of ten imputations (Efron and Stein 1981).
        ratio = np.sqrt((errors**2).mean()) / true
        assert 0.95 < ratio < (1.05 if name == "estimate" else 1.2), name
    # Given the data the truth is N(qbar_infinity, ubar + b): 95 % intervals with t quantiles.
    truth = rng.normal(0, np.sqrt(3 + 1), size=repeats)
    inside = ((pooled.lower < truth) & (truth < pooled.upper)).mean()
    assert abs(inside - 0.95) < 4 * np.sqrt(0.95 * 0.05 / repeats)


def test_enough_imputations_by_von_hippels_rule():
    # how_many_imputations(cv = .05) of R's howManyImputations: ceiling(1 + (f / cv)^2 / 2).
    pooled = pv.pool(*analyses(20, 1.0))
    upper = stats.logistic.cdf(stats.logistic.ppf(pooled.fmi) + 1.959964 * np.sqrt(2 / 20))
    np.testing.assert_array_equal(pooled.needed(), np.ceil(1 + 0.5 * (upper / 0.05) ** 2))
    assert (pooled.needed(0.5) < pooled.needed(0.05)).all()
    assert pv.pool([1.0, 1.0], [1.0, 1.0]).needed() == 2


def test_scalars_vectors_and_pairs_agree():
    estimates, matrices = analyses(5, 0.3)
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    by_matrix = pv.pool(estimates, matrices, dfcom=60)
    by_vector = pv.pool(estimates, variances, dfcom=60)
    pairs = pv.pool(list(zip(estimates, matrices, strict=True)), dfcom=60)
    scalar = pv.pool(estimates[:, 1], variances[:, 1], dfcom=60)
    for name in ("interval", "p_value", "fmi"):
        expected = getattr(by_matrix, name)
        np.testing.assert_array_equal(getattr(by_vector, name), expected)
        np.testing.assert_array_equal(getattr(pairs, name), expected)
        np.testing.assert_allclose(getattr(scalar, name), expected[..., 1])
    assert scalar.estimate.shape == ()
    assert scalar.interval.shape == (2,)


def test_estimates_without_variance_have_intervals_of_no_width():
    pooled = pv.pool([[0.0, 1.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 1.0]], dfcom=20)
    assert pooled.interval[:, 0].tolist() == [0, 0]
    assert (pooled.riv[0], pooled.lambda_[0]) == (0, 0)
    assert "nan" in str(pooled)  # t = 0 / 0


def test_a_pooled_analysis_is_printed_as_a_table():
    pooled = pv.pool(list(regressions()))
    text = str(pooled)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == list(pooled.names)
    assert text.splitlines()[0].split() == "estimate se 2.5 % 97.5 % t df p fmi".split()
    assert "5 imputations" in text
    assert repr(pooled) == "Pooled(3 estimates of 5 imputations)"
    frame = pooled.to_frame()
    assert frame.loc["x1", "lambda"] == pooled.lambda_[1]
    assert frame.loc["x1", "mc_se"] == pytest.approx(np.sqrt(pooled.between[1] / 5))


BAD = {
    "1 imputation": lambda: pv.pool([1.0], [1.0]),
    r"estimates\[1, 0\] is nan": lambda: pv.pool([[1.0], [np.nan]], [[1.0], [1.0]]),
    r"variances\[0\] is -1": lambda: pv.pool([1.0, 2.0], [-1.0, 1.0]),
    r"variances has shape \(2, 3\) and estimates \(2, 2\)": lambda: pv.pool(
        np.ones((2, 2)), np.ones((2, 3))
    ),
    r"estimates\[1\] has shape \(1,\)": lambda: pv.pool([([1, 2], [1, 1]), ([1], [1])]),
    "without variances": lambda: pv.pool(np.ones((5, 2))),
    "variances of effect are all 0": lambda: pv.pool([1.0, 2.0], [0.0, 0.0], names="effect"),
    "not symmetric": lambda: pv.pool(np.ones((2, 2)), [[[1, 0], [1, 1]]] * 2),
    "3 estimates": lambda: pv.pool(*analyses(3, 1.0), names=["a", "a", "b"]),
    "dfcom is 0": lambda: pv.pool([1.0, 2.0], [1.0, 1.0], dfcom=0),
    "level is 95": lambda: pv.pool([1.0, 2.0], [1.0, 1.0], level=95),
    "no estimate is called 'd'": lambda: pv.pool(*analyses(3, 1.0), names=ABC).test("d"),
    "not linearly independent": lambda: pv.pool(*analyses(3, 1.0), names=ABC).test(["a", "a"]),
    "no covariances": lambda: pv.pool([[1, 2], [2, 1]], [[1, 1], [1, 1]]).test(),
    "at least two statistics": lambda: pool_chi_squares([3.0], 2),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_place_and_the_remedy(message):
    with pytest.raises(ValueError, match=message) as caught:
        BAD[message]()
    assert "\n" not in str(caught.value)


def test_estimates_with_other_names_are_refused():
    def pair(names):
        values = pd.Series([1.0, 2.0], index=names)
        return values, values

    pooled = pv.pool([pair(["u", "v"]), pair(["u", "v"])])
    assert list(pooled.names) == ["u", "v"]
    with pytest.raises(ValueError, match=r"term 0 is u in estimates\[0\] and v in estimates\[1\]"):
        pv.pool([pair(["u", "v"]), pair(["v", "u"])])


def test_estimates_in_rows_are_refused():
    estimates = pd.DataFrame(np.arange(6.0).reshape(2, 3), index=["age", "dose"])
    with pytest.raises(
        ValueError, match=r"estimates has the names 'age', ... in its rows.*frame.T"
    ):
        pv.pool(estimates, estimates + 1)
    assert pv.pool(estimates.T, estimates.T + 1).names == ("age", "dose")
