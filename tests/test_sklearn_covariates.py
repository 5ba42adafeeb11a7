"""Covariates of the scikit-learn estimators: values against closed forms, and their routing."""

import re

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
import xarray as xr
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_vae as pv
from ppl_vae import priors
from ppl_vae.report import DIAGNOSES
from ppl_vae.sklearn import VAE, VAEClassifier, VAEImputer, VAEOutlierDetector

pytestmark = pytest.mark.filterwarnings("ignore:.* not reliable")  # after so few steps
TINY = {"latent_dim": 1, "max_steps": 3, "num_particles": 5, "refine_steps": 0, "random_state": 0}
LINEAR = {
    "likelihood": "Gaussian",
    "encoder": torch.nn.Identity(),
    "decoder": torch.nn.Identity(),
    "num_particles": 2000,
    "refine_steps": 50,
}
RNG = np.random.default_rng(0)
C = RNG.normal(size=(60, 2))
SLOPE = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
X = C @ SLOPE + RNG.normal(size=(60, 1)) @ [[1.0, 2.0, -1.0]] + 0.5 * RNG.normal(size=(60, 3))
FRAME = pd.DataFrame({"age": C[:, 0], "sex": np.where(C[:, 1] > 0, "male", "female")})


@pytest.fixture
def routing():
    """Metadata are routed, as `set_fit_request` and the like ask."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module", params=["StandardNormal", "LearnedNormal"])
def fitted(request):
    """z ~ N(m(c), s(c)^2), x ~ N(A z + B c + d, diag): everything is known exactly."""
    return VAE(**TINY | LINEAR | {"max_steps": 60}, prior=request.param).fit(X, context=C)


def exact(model, context):
    """Means (N, 3) and covariances (N, 3, 3) of x given c."""
    c = torch.as_tensor(context)
    with torch.no_grad():
        prior = model.prior_at(c).expand((len(c),))
        noise = model.decode(prior.mean, c).variance
        zero, one = (model.decode(torch.full((len(c), 1), z).double(), c).mean for z in (0, 1))
    loading = (one - zero).numpy()
    mean = zero.numpy() + loading * prior.mean.numpy()
    outer = loading[:, :, None] * loading[:, None, :] * prior.variance.numpy()[:, :, None]
    return mean, outer + np.stack([np.diag(each) for each in noise.numpy()])


def log_density(model, x, context):
    """log p(x given c) of each row."""
    rows = zip(x, *exact(model, context), strict=True)
    return np.array([stats.multivariate_normal(mean, cov).logpdf(row) for row, mean, cov in rows])


def test_log_p_given_covariates_is_exact(fitted):
    log_p = log_density(fitted.model_, X, C)
    assert fitted.score_samples(X, C) == pytest.approx(log_p, abs=0.1)
    assert fitted.score(X, context=C) == pytest.approx(log_p.mean(), abs=0.02)
    other = log_density(fitted.model_, X[:9], C[9:18])
    assert fitted.score_samples(X[:9], C[9:18]) == pytest.approx(other, rel=0.02)
    assert abs(other - log_p[:9]).max() > 0.5
    weights = np.arange(9) % 3
    expected = np.average(fitted.score_samples(X[:9], C[:9]), weights=weights)
    found = fitted.score(X[:9], sample_weight=weights, context=C[:9])
    assert found == pytest.approx(expected, abs=1e-12)


def test_draws_have_the_mean_and_covariance_given_covariates(fitted):
    context = C[:2]
    num = 3000
    drawn, labels = fitted.sample(num, context)
    assert drawn.shape == (2 * num, 3)
    assert not labels.any()
    for row, (mean, covariance) in enumerate(zip(*exact(fitted.model_, context), strict=True)):
        error = drawn[row::2] - mean
        distance = num * error.mean(0) @ np.linalg.solve(covariance, error.mean(0))
        assert stats.chi2(3).sf(distance) > 1e-3
        squares = (error * np.linalg.solve(covariance, error.T).T).sum()  # chi-squared, 3 num
        assert abs(squares - 3 * num) < 4 * np.sqrt(6 * num)


def test_decoded_latents_follow_the_covariates(fitted):
    z = fitted.transform(X, C)
    mean = fitted.inverse_transform(z, C)
    other = fitted.inverse_transform(z, C + [1.0, 0.0])
    step = exact(fitted.model_, C + [1.0, 0.0])[0] - exact(fitted.model_, C)[0]
    if isinstance(fitted.model_.prior, priors.StandardNormal):  # z itself does not move with c
        np.testing.assert_allclose(other - mean, step, atol=1e-9)
    assert abs(other - mean).min(0).max() > 0.1


def test_missing_values_become_their_means_given_covariates():
    imputer = VAEImputer(**TINY | LINEAR | {"max_steps": 60}, prior="StandardNormal")
    holes = X[:6].copy()
    holes[np.arange(6), [0, 1, 2, 0, 1, 2]] = np.nan
    found = imputer.fit(X, context=C).transform(holes, C[:6])
    for row, (mean, covariance) in enumerate(zip(*exact(imputer.model_, C[:6]), strict=True)):
        gone = np.isnan(holes[row])
        known = covariance[~gone][:, ~gone]
        slope = np.linalg.solve(known, covariance[~gone][:, gone]).T
        expected = mean[gone] + slope @ (holes[row, ~gone] - mean[~gone])
        assert found[row, gone] == pytest.approx(expected, abs=0.15)
    np.testing.assert_array_equal(imputer.transform(holes[[4]], C[[4]]), found[[4]])


def test_classes_have_their_probabilities_given_covariates():
    y = (X[:, 0] > C[:, 0]).astype(int)
    settings = TINY | LINEAR | {"max_steps": 60}
    classifier = VAEClassifier(**settings, prior="StandardNormal").fit(X, y, context=C)
    grid = torch.linspace(-9, 9, 801, dtype=torch.float64)[:, None, None]
    few = slice(20)
    given = torch.as_tensor(C[few])
    log_joint = []
    with torch.no_grad():
        for code in (0.0, 1.0):
            x = torch.as_tensor(np.column_stack([X[few], np.full(20, code)]))
            p = classifier.model_.decode(grid.expand(-1, 20, -1), given)
            terms = p.log_prob(x) - 0.5 * grid[:, :, 0] ** 2
            log_joint.append(terms.logsumexp(0))
    expected = torch.stack(log_joint, 1).softmax(1).numpy()
    assert classifier.predict_proba(X[few], C[few]) == pytest.approx(expected, abs=0.03)
    accuracy = (classifier.predict(X[few], C[few]) == y[few]).mean()
    assert classifier.score(X[few], y[few], context=C[few]) == accuracy


def test_outliers_are_those_given_covariates():
    settings = TINY | LINEAR | {"max_steps": 60, "num_particles": 200, "refine_steps": 0}
    detector = VAEOutlierDetector(**settings, prior="StandardNormal", contamination=0.05)
    found = detector.fit_predict(X, context=C)
    assert (found == -1).sum() == 3
    np.testing.assert_array_equal(detector.predict(X, C), found)
    expected = detector.score_samples(X, C) - detector.offset_
    np.testing.assert_array_equal(detector.decision_function(X, C), expected)
    far = int(abs(C @ SLOPE).sum(1).argmax())
    other = X[[far]] - 2 * C[[far]] @ SLOPE  # as if under the opposite covariates
    assert detector.predict(other, C[[far]]) == -1
    assert detector.predict(other, -C[[far]]) == 1


def test_results_for_a_row_depend_on_its_covariates_alone():
    vae = VAE(**TINY | {"num_particles": 30}).fit(X, context=FRAME)
    whole = vae.score_samples(X, FRAME)
    order = RNG.permutation(len(X))
    assert vae.score_samples(X[order], FRAME.iloc[order]) == pytest.approx(whole[order], abs=1e-9)
    women = np.flatnonzero(FRAME["sex"] == "female")  # one of the two levels: codes are by name
    alone = vae.score_samples(X[women], FRAME.iloc[women])
    assert alone == pytest.approx(whole[women], abs=1e-9)
    assert not np.allclose(vae.score_samples(X, FRAME.assign(sex="male"))[women], alone)
    assert vae.model_.columns["context"] == ("age", "sex[female]", "sex[male]")


def test_rows_of_weight_zero_leave_with_their_covariates():
    weights = np.repeat([0.0, 2.0], 30)
    y = np.arange(60) % 2
    for kind in (VAE, VAEClassifier):
        some = kind(**TINY).fit(X[30:], y[30:], context=FRAME[30:])
        rest = kind(**TINY).fit(X, y, sample_weight=weights, context=FRAME)
        np.testing.assert_array_equal(some.data_.x, rest.data_.x)
        np.testing.assert_array_equal(some.data_.context, rest.data_.context)


def test_parts_are_given_the_number_of_covariates():
    for prior in (
        "ConditionalNormal",
        priors.ConditionalNormal,
        lambda size, context_dim: priors.ConditionalNormal(size, context_dim),
    ):
        vae = VAE(**TINY, prior=prior).fit(X, context=C)
        assert vae.model_.prior.context_dim == 2


# --- routing --------------------------------------------------------------------------------------


def requesting(vae):
    """A VAE that asks for covariates in `fit` and `score`."""
    return vae.set_fit_request(context=True).set_score_request(context=True)


def test_a_search_routes_covariates(routing):
    pipeline = make_pipeline(StandardScaler(), requesting(VAE(**TINY)))
    folds = KFold(3)
    search = GridSearchCV(pipeline, {"vae__latent_dim": [1, 2]}, cv=folds).fit(X, context=FRAME)
    by_hand = []
    for train, test in folds.split(X):
        scaler = StandardScaler().fit(X[train])
        vae = VAE(**TINY | {"latent_dim": search.best_params_["vae__latent_dim"]})
        vae.fit(scaler.transform(X[train]), context=FRAME.iloc[train])
        by_hand.append(vae.score(scaler.transform(X[test]), context=FRAME.iloc[test]))
    assert search.best_score_ == pytest.approx(np.mean(by_hand), abs=1e-9)
    scores = cross_val_score(search.best_estimator_, X, cv=folds, params={"context": FRAME})
    assert scores == pytest.approx(by_hand, abs=1e-9)
    assert search.score(X, context=FRAME) == search.best_estimator_.score(X, context=FRAME)


def test_latents_and_completed_rows_go_on_in_a_pipeline(routing):
    y = (C[:, 0] > 0).astype(int)
    holes = X.copy()
    holes[::7, 0] = np.nan
    first = VAEImputer(**TINY).set_fit_request(context=True).set_transform_request(context=True)
    second = VAE(**TINY).set_fit_request(context=True).set_transform_request(context=True)
    pipeline = make_pipeline(first, second, LogisticRegression()).fit(holes, y, context=C)
    completed = VAEImputer(**TINY).fit_transform(holes, context=C)
    latents = VAE(**TINY).fit_transform(completed, context=C)
    np.testing.assert_allclose(pipeline[:-1].transform(holes, context=C), latents, atol=1e-9)
    expected = LogisticRegression().fit(latents, y).predict(latents)
    np.testing.assert_array_equal(pipeline.predict(holes, context=C), expected)


def test_classes_and_outliers_ask_for_covariates(routing):
    y = np.arange(60) % 2
    classifier = VAEClassifier(**TINY).set_fit_request(context=True)
    classifier.set_score_request(context=True)
    found = cross_val_score(classifier, X, y, cv=2, params={"context": C})
    assert ((found >= 0) & (found <= 1)).all()
    detector = VAEOutlierDetector(**TINY).set_predict_request(context=True)
    detector.set_fit_request(context=True)
    pipeline = make_pipeline(StandardScaler(), detector).fit(X, context=C)
    assert pipeline.predict(X, context=C).shape == (60,)
    requested = clone(detector).get_metadata_routing().consumes("fit_predict", ["context"])
    assert requested == {"context"}


# --- refusals -------------------------------------------------------------------------------------


def with_hole():
    holes = C.copy()
    holes[3, 1] = np.nan
    return holes


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (C[:5], "context has 5 rows and X 60: give one for each row of X"),
        (3.0, "context has 1 rows and X 60"),
        (with_hole(), "context is nan at row 3, covariate 1: it must be complete"),
        (np.full((60, 1), np.inf), "context is inf at row 0"),
        (np.ma.masked_greater(C, 2.0), "it must be complete"),
        (np.full((60, 1), 1e40), "context is 1e+40 at row 0, column 0, beyond 1e+30"),
        (["a", "b"], "context holds <U1: give numbers, or a frame with a column for each"),
        (np.array(["a"] * 60, dtype=object), "context holds object: give numbers, or a frame"),
        (np.zeros((60, 2, 2)), "context has shape (60, 2, 2)"),
        (pd.DataFrame(np.zeros((60, 2)), columns=["a", "a"]), "context has two columns 'a'"),
    ],
)
def test_bad_covariates_are_refused_in_one_line(context, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        VAE(**TINY).fit(X, context=context)
    assert "\n" not in str(error.value)


CALLS = {
    "transform": lambda vae, **c: vae.transform(X, **c),
    "score_samples": lambda vae, **c: vae.score_samples(X, **c),
    "score": lambda vae, **c: vae.score(X, **c),
    "inverse_transform": lambda vae, **c: vae.inverse_transform(np.zeros((60, 1)), **c),
    "sample": lambda vae, **c: vae.sample(2, **c),
}


@pytest.fixture(scope="module")
def with_covariates():
    return VAE(**TINY).fit(X, context=FRAME)


@pytest.mark.parametrize("name", list(CALLS))
def test_other_covariates_than_in_fit_are_refused(with_covariates, name):
    call = CALLS[name]
    without = VAE(**TINY).fit(X)
    for vae, given, message in (
        (with_covariates, {}, "VAE was fitted with covariates: give context= here too"),
        (with_covariates, {"context": C}, "has 2 columns, and VAE was fitted with 3: age, sex[fem"),
        (with_covariates, {"context": FRAME[["age"]]}, "context has no column 'sex[female]'"),
        (with_covariates, {"context": FRAME[["sex", "age"]]}, "column 0 of context is 'sex[fem"),
        (with_covariates, {"context": FRAME.assign(sex="x")}, "'x' at row 0"),
        (without, {"context": C}, "VAE was fitted without covariates: leave context out"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            call(vae, **given)
        assert "\n" not in str(error.value)


def test_frames_in_another_order_are_refused():
    frame = pd.DataFrame(X, columns=list("abc"))
    with pytest.raises(ValueError, match="row 0 is 0 in x and 59 in context: reindex"):
        VAE(**TINY).fit(frame, context=FRAME[::-1])


def test_latents_that_rows_share_are_refused():
    for prior in ("GaussianProcess", lambda size: priors.GaussianProcess(size, context_dim=2)):
        with pytest.raises(ValueError, match="GaussianProcess, under which rows share latents"):
            VAE(**TINY, prior=prior).fit(X, context=C)


@pytest.mark.filterwarnings("ignore:few rows")
def test_a_report_takes_an_estimator(fitted, tmp_path):
    """Its log p(x) given c of the validation rows is exact within five standard errors."""
    few = [each for each in DIAGNOSES if each.name in ("weights", "importance")]
    report = pv.write_report(fitted, tmp_path, diagnoses=few, progress=False)
    tree = xr.open_datatree(report.files[-1], engine="h5netcdf")
    found = tree["importance"]
    rows = tree["importance"].datum.values
    assert 0 < len(rows) < len(X)
    log_p = log_density(fitted.model_, X[rows], C[rows])
    assert (np.abs(found.log_evidence - log_p) < 5 * found.mc_se + 1e-6).all()


@pytest.mark.parametrize("run", [3, {}, ("model", "guide")])
def test_a_report_refuses_what_is_no_run(run, tmp_path):
    with pytest.raises(ValueError, match="run is .*: give the folder"):
        pv.write_report(run, tmp_path)


# --- kind and index of the result -----------------------------------------------------------------

ORDER = np.random.default_rng(1).permutation(60)
GIVEN = {"none": None, "numbers": FRAME[["age"]], "categories": FRAME[["sex"]]}


def as_given(kind, values, columns):
    """An array, or a frame whose index is no order."""
    return values if kind == "array" else pd.DataFrame(values, ORDER, columns)


@pytest.mark.parametrize("name", list(GIVEN))
@pytest.mark.parametrize("kind", ["array", "frame"])
@pytest.mark.parametrize("categories", [False, True])
def test_results_have_the_kind_and_index_that_they_have_without_covariates(kind, name, categories):
    context = GIVEN[name]
    if context is not None and (kind == "frame" or categories):
        context = context.set_axis(ORDER)
    rows = as_given("frame" if categories else kind, X, list("abc"))
    if categories:
        rows = rows.assign(c=np.where(X[:, 2] > 0, "high", "low"))
    holes = rows.copy()
    (holes if isinstance(holes, np.ndarray) else holes.iloc)[0, 0] = np.nan
    imputed = VAEImputer(**TINY).fit(rows, context=context).transform(holes, context=context)
    vae = VAE(**TINY).fit(rows, context=context)
    latents = as_given(kind, vae.transform(rows, context=context), ["vae0"])
    drawn, _ = vae.sample(60 if context is None else 1, context=context)
    back = vae.inverse_transform(latents, context=context)
    if not categories:
        assert {type(each) for each in (imputed, drawn, back)} == {np.ndarray}
        return
    numbers = list(range(60))
    assert imputed.index.tolist() == ORDER.tolist()
    assert drawn.index.tolist() == numbers
    assert back.index.tolist() == (numbers if kind == "array" else ORDER.tolist())
    for each in (imputed, drawn, back):
        assert set(each["c"]) <= {"high", "low"}


def test_latents_in_another_order_are_refused_and_views_are_decoded():
    vae = VAE(**TINY | {"latent_dim": 2}).set_output(transform="pandas").fit(X)
    latents = vae.transform(X)
    found = vae.inverse_transform(latents)
    np.testing.assert_array_equal(vae.inverse_transform(latents.to_numpy()[::-1])[::-1], found)
    renamed = latents.set_axis(["z0", "z1"], axis=1)
    np.testing.assert_array_equal(vae.inverse_transform(renamed), found)
    with pytest.raises(ValueError, match=re.escape("column 0 of X is 'vae1', which is latent 1")):
        vae.inverse_transform(latents[["vae1", "vae0"]])
