"""The estimators for scikit-learn: its own checks, and values against quadrature."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_classifiers_train, parametrize_with_checks

from ppl_vae import likelihoods, priors
from ppl_vae.sklearn import VAE, VAEClassifier, VAEImputer, VAEOutlierDetector
from ppl_vae.sklearn.outliers import quantile
from ppl_vae.sklearn.vae import _components

pytestmark = pytest.mark.filterwarnings("ignore:log p.x. is not reliable")  # after so few steps
PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "scikit_learn.md"
TINY = {"latent_dim": 1, "max_steps": 3, "num_particles": 5, "refine_steps": 0, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 1)) @ [[1.0, 2.0, -1.0]] + 0.3 * RNG.normal(size=(40, 3))
GRID = torch.linspace(-9, 9, 4001, dtype=torch.float64)


def to_fail(estimator):
    """What scikit-learn expects to fail for its own KernelDensity and IsolationForest."""
    if isinstance(estimator, VAEImputer):
        return {}  # rows without missing values stay as they are
    found = {
        "check_sample_weight_equivalence_on_dense_data": "weights are not numbers of repetitions"
    }
    if isinstance(estimator, VAEClassifier):
        found["check_classifiers_train"] = "three steps are too few; see below"
    return found


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [VAE(**TINY), VAEImputer(**TINY), VAEOutlierDetector(**TINY), VAEClassifier(**TINY)],
    expected_failed_checks=to_fail,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
def test_the_classifier_is_as_accurate_as_scikit_learn_asks():
    enough = VAEClassifier(**TINY | {"latent_dim": 2, "max_steps": 60})
    check_classifiers_train("VAEClassifier", enough, readonly_memmap=True, X_dtype="float32")


@pytest.fixture(scope="module")
def vae():
    """Normal columns given one standard normal latent."""
    parts = {"likelihood": "Gaussian", "prior": "StandardNormal"}
    return VAE(1, max_steps=60, num_particles=1000, random_state=0, **parts).fit(X)


def joint_on_grid(model, x):
    """log p(x_obs, z) on a grid of z, (G, N), and the conditional means of x, (G, features)."""
    with torch.no_grad():
        p = model.decode(GRID[:, None])
        values = torch.as_tensor(x)[:, None].nan_to_num()
        each = p.base_dist.log_prob(values).masked_fill(torch.as_tensor(np.isnan(x))[:, None], 0)
        log_joint = each.sum(-1) + model.prior_at().log_prob(GRID[:, None])
    return log_joint.T, p.mean


def test_log_p_is_that_of_quadrature(vae):
    log_joint, _ = joint_on_grid(vae.model_, X)
    exact = (log_joint.logsumexp(0) + (GRID[1] - GRID[0]).log()).numpy()
    assert vae.score_samples(X) == pytest.approx(exact, abs=0.15)
    assert vae.score(X) == pytest.approx(exact.mean(), abs=0.03)


@pytest.mark.parametrize("posterior", ["MeanFieldNormal", "StudentT"])
def test_rows_are_scored_as_if_alone(vae, posterior):
    """With a guide that is poor, so that rows are refined; those of StudentT one by one."""
    poor = clone(vae).set_params(max_steps=1, num_particles=40, refine_steps=0)
    poor.set_params(posterior=posterior).fit(X)
    plain = poor.score_samples(X)
    poor.set_params(refine_steps=20)
    refined = poor.score_samples(X)
    changed = plain != refined
    assert 0 < changed.sum() < len(X)
    order = RNG.permutation(len(X))
    assert poor.score_samples(X[order]) == pytest.approx(refined[order], abs=1e-9)
    row = int(changed.argmax())
    assert poor.score_samples(X[[row]]) == pytest.approx(refined[[row]], abs=1e-9)
    log_joint, _ = joint_on_grid(poor.model_, X)
    exact = (log_joint.logsumexp(0) + (GRID[1] - GRID[0]).log()).numpy()
    error, before = (np.abs(each - exact)[changed].mean() for each in (refined, plain))
    assert error < before


def test_missing_values_become_their_conditional_means(vae):
    imputer = VAEImputer(**vae.get_params()).set_params(refine_steps=0).fit(X)
    holes = X[:6].copy()
    holes[[0, 1, 2, 3], [0, 1, 2, 0]] = np.nan
    holes[3, 1] = np.nan
    found = imputer.transform(holes)
    log_joint, mean = joint_on_grid(imputer.model_, holes)
    exact = (log_joint.softmax(0).T @ mean).numpy()
    missing = np.isnan(holes)
    assert found[missing] == pytest.approx(exact[missing], abs=0.15)
    np.testing.assert_array_equal(found[~missing], holes[~missing])
    np.testing.assert_array_equal(imputer.transform(holes[[3, 0]]), found[[3, 0]])
    for weights in imputer.guide_.posterior.parameters():
        weights.data += 5
    with pytest.warns(UserWarning, match="draws are not reliable for . of 6 rows"):
        imputer.transform(holes)


@pytest.mark.filterwarnings("ignore:draws are not reliable")  # after so few steps
def test_a_frame_with_categories():
    z = np.random.default_rng(1).normal(size=30)
    frame = pd.DataFrame({"size": z, "place": np.where(z > 0, "north", "south"), "flag": z > 1})
    frame.loc[3, "place"] = None
    completed = VAEImputer(**TINY).fit_transform(frame)
    assert completed["place"].iloc[3] in ("north", "south")
    assert (completed["place"].drop(index=3) == frame["place"].drop(index=3)).all()
    model = VAE(**TINY).fit(frame)
    back = model.inverse_transform(model.transform(frame))
    drawn, _ = model.sample(5)
    assert set(back["place"]) | set(drawn["place"]) <= {"north", "south"}
    assert np.isneginf(model.score_samples(frame.assign(flag=2)[:2])).all()


def test_positive_columns_beside_categories_are_decoded():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"p": np.exp(rng.normal(size=60)), "s": rng.choice(["f", "m"], 60)})
    vae = VAE(1, max_steps=5, refine_steps=0, random_state=0).fit(frame)
    found = vae.inverse_transform([[0.0], [1.0]])
    assert (found["p"] > 0).all()
    assert set(found["s"]) <= {"f", "m"}


def test_rows_at_the_limit_are_alike_in_every_batch():
    settings = {"max_steps": 5, "refine_steps": 0, "random_state": 0}
    x = np.random.default_rng(1).normal(size=(51, 3))  # the tenth percentile is a row's own score
    detector = VAEOutlierDetector(2, contamination=0.1, **settings).fit(x)
    alone = [detector.predict(row[None])[0] for row in x]
    np.testing.assert_array_equal(detector.predict(x), alone)
    same = np.ones((60, 2))
    assert (VAEOutlierDetector(2, contamination=0.1, **settings).fit(same).predict(same) == 1).all()


def test_labels_of_draws_are_components_of_the_prior():
    prior = priors.GaussianMixture(1, num_components=3)
    with torch.no_grad():
        p = prior()
        z = p.sample((4000,))
        shares = p.mixture_distribution.logits.double().softmax(0)
    counts = np.bincount(_components(p, z).numpy(), minlength=3)
    assert stats.chisquare(counts, 4000 * shares.numpy()).pvalue > 0.001
    assert not _components(priors.StandardNormal(2)(), torch.zeros(3, 2)).any()


def test_outliers_are_the_share_asked_for():
    far = np.append(X, [[30.0, -30.0, 30.0]], axis=0)
    parts = TINY | {"max_steps": 60, "num_particles": 50}
    detector = VAEOutlierDetector(**parts, contamination=0.1).fit(far)
    assert detector.predict(far)[-1] == -1
    assert (detector.predict(far) == -1).sum() == 4
    expected = detector.score_samples(far) - detector.offset_
    np.testing.assert_array_equal(detector.decision_function(far), expected)


def test_classes_have_the_probabilities_of_quadrature():
    y = (X[:, 0] > 0).astype(int)
    y[::5] = -1
    parts = {"likelihood": "Gaussian", "prior": "StandardNormal", "num_particles": 1000}
    classifier = VAEClassifier(**TINY | parts | {"max_steps": 40}).fit(X, y)
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.data_.x[:, -1].isnan().numpy().tolist() == (y == -1).tolist()
    rows = [np.column_stack([X, np.full(len(X), code)]) for code in (0, 1)]
    log_joint = [joint_on_grid(classifier.model_, each)[0].logsumexp(0) for each in rows]
    exact = torch.stack(log_joint, 1).softmax(1).numpy()
    assert classifier.predict_proba(X) == pytest.approx(exact, abs=0.05)
    np.testing.assert_array_equal(classifier.predict(X), exact.argmax(1))
    binary = clone(classifier).set_params(max_steps=1).fit(X, np.where(X[:, 0] > 0, 1, -1))
    assert binary.classes_.tolist() == [-1, 1]
    with pytest.raises(ValueError, match="y holds one class, 3: a classifier needs two classes"):
        binary.fit(X, np.full(len(X), 3))


def test_the_seed_makes_the_fit_and_parts_are_copied():
    decoder = torch.nn.Linear(1, 4)
    before = decoder.weight.clone()
    first = VAE(**TINY, decoder=decoder, likelihood=likelihoods.Laplace).fit(X)
    again = pickle.loads(pickle.dumps(clone(first).fit(X)))
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))
    np.testing.assert_array_equal(first.sample(3)[0], again.sample(3)[0])
    assert first.decoder is decoder
    assert torch.equal(decoder.weight, before)
    assert not torch.equal(first.model_.decoder.weight, before)
    other = clone(first).set_params(random_state=1).fit(X)
    assert not np.allclose(first.score_samples(X), other.score_samples(X))


def test_rows_of_weight_zero_are_left_out():
    weights = np.repeat([0.0, 2.0], 20)
    some = VAE(**TINY).fit(X[20:], sample_weight=weights[20:])
    all_rows = VAE(**TINY).fit(X, sample_weight=weights)
    np.testing.assert_array_equal(some.score_samples(X), all_rows.score_samples(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "Normal"}, "prior is 'Normal', which the library does not have"),
        ({"prior": "VampPrior"}, "needs guide and pseudo_inputs: these estimators have none"),
        ({"prior": "ConditionalNormal"}, "needs context_dim: give covariates, fit(X, context=...)"),
        ({"prior": "GaussianProcess"}, "under which rows share latents, and results here are"),
        ({"posterior": "GaussianProcess"}, "under which rows share latents, and results here are"),
        ({"likelihood": "Columns"}, "needs families: give a dictionary of families by column"),
        ({"likelihood": "Binomial"}, "in lambda size: likelihoods.Binomial(size, total=...)"),
        ({"likelihood": "Gausian"}, "did you mean Gaussian? Allowed: Beta, ContinuousBernoulli,"),
        ({"likelihood": 3}, "likelihood is 3: give a name"),
        ({"max_steps": 0}, "max_steps is 0; it must be a whole number, at least 1"),
        ({"num_particles": 0}, "num_particles is 0"),
    ],
)
def test_errors_name_the_parameter(settings, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        VAE(**(TINY | settings)).fit(X)


def test_no_name_is_offered_that_would_be_refused():
    for part in ("prior", "posterior", "likelihood"):
        with pytest.raises(ValueError, match="does not have") as caught:
            VAE(**TINY, **{part: "Foo"}).fit(X)
        listed = str(caught.value).partition("Allowed: ")[2].split(", ")
        assert len(listed) > 9
        assert not {"VampPrior", "GaussianProcess", "ConditionalNormal", "Columns"} & set(listed)


def test_rows_outside_the_support_have_no_class():
    counts = np.random.default_rng(0).poisson(4, size=(40, 2)).astype(float)
    y = np.arange(40) % 2
    classifier = VAEClassifier(**TINY).fit(counts, y)
    assert classifier.predict_proba(counts).shape == (40, 2)
    counts[[5, 7], [1, 0]] = 1.5
    with pytest.raises(ValueError, match="x is 1.5 at row 5, feature 1"):
        classifier.predict_proba(counts)


@pytest.mark.parametrize("value", [1e300, -1e31])
def test_values_that_cannot_be_squared_are_refused(value):
    far = X.copy()
    far[3, 2] = value
    y = np.arange(len(X)) % 2
    message = re.escape(f"X is {value:g} at row 3, column 2, beyond 1e+30: use NaN")
    for estimator in (VAE(**TINY), VAEImputer(**TINY), VAEClassifier(**TINY)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(far, y)
    assert np.isneginf(VAE(**TINY).fit(X).score_samples(np.full((1, 3), 1e300))).all()


@pytest.mark.parametrize("kind", ["NaN", "None", "NA", "text"])
def test_labels_may_be_missing_in_any_way(kind):
    y = np.arange(len(X)) % 2
    unlabelled = np.arange(len(X)) % 5 == 0
    series = pd.Series(y).astype("Int64").mask(unlabelled)
    forms = {
        "NaN": np.where(unlabelled, np.nan, y),
        "None": np.where(unlabelled, None, y),
        "NA": series,
        "text": np.where(unlabelled, None, np.array(["no", "yes"], dtype=object)[y]),
    }
    found = VAEClassifier(**TINY).fit(X, forms[kind])
    assert found.classes_.tolist() == (["no", "yes"] if kind == "text" else [0, 1])
    by_number = VAEClassifier(**TINY).fit(X, np.where(unlabelled, -1, y))
    np.testing.assert_array_equal(found.data_.x, by_number.data_.x)
    with pytest.raises(ValueError, match="y holds no label: a classifier needs two classes"):
        found.fit(X, np.full(len(X), np.nan))


def test_poor_weights_are_not_quiet(vae):
    poor = clone(vae).set_params(max_steps=1, num_particles=40, refine_steps=0).fit(X)
    with pytest.warns(UserWarning, match="log p.x. is not reliable for .* of 40 rows .k-hat > 0.7"):
        poor.score_samples(X)


@pytest.mark.filterwarnings("ignore:draws are not reliable")  # after so few steps
def test_missing_counts_become_whole_numbers():
    counts = np.random.default_rng(0).poisson(4, size=(40, 2)).astype(float)
    table = np.column_stack([counts, X[:, 0]])
    table[:9, [0, 2]] = np.nan
    found = VAEImputer(**TINY | {"num_particles": 40}).fit_transform(table)
    assert (found[:, 0] == np.rint(found[:, 0])).all()
    assert (found[:9, 2] != np.rint(found[:9, 2])).all()


def test_other_latents_and_shares_are_refused():
    with pytest.raises(ValueError, match="X has 2 columns, and the model 1 latent"):
        VAE(**TINY).fit(X).inverse_transform(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="contamination is 0.7"):
        VAEOutlierDetector(**TINY, contamination=0.7).fit(X)


@pytest.mark.filterwarnings("ignore:.* not reliable")  # after so few steps
def test_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "scikit_learn"}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    assert list(names["Z"].columns) == ["vae0", "vae1"]
    assert np.isfinite(names["scores"]).all()
    assert not names["completed"].isna().any(axis=None)
    observed = names["holes"].notna()
    pd.testing.assert_frame_equal(names["completed"][observed], names["holes"])
    assert names["is_outlier"].sum() == 9
    assert names["drawn"].shape == (5, 4)
    assert len(names["conditional"]) == 3
    assert (names["classes"] == names["y"]).mean() > 0.6


def test_labels_of_series_are_those_of_the_rows():
    """Weights and classes in another order of the labels are refused, as covariates are."""
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["u", "v"])
    X.index = [f"r{i}" for i in range(30)]
    y = pd.Series(np.where(X["u"] > 0, "high", "low"), index=X.index)
    weights = pd.Series(np.arange(30) + 1.0, index=X.index)
    small = {"max_steps": 5, "refine_steps": 0, "random_state": 0, "num_particles": 30}
    vae = VAE(1, **small).fit(X, sample_weight=weights)
    assert vae.data_.weights.tolist() == weights.tolist()
    classifier = VAEClassifier(1, **small).fit(X, y)
    for call in (
        lambda: VAE(1, **small).fit(X, sample_weight=weights[::-1]),
        lambda: VAEOutlierDetector(1, **small).fit(X, sample_weight=weights[::-1]),
        lambda: VAEImputer(1, **small).fit(X, sample_weight=weights[::-1]),
        lambda: vae.score(X, sample_weight=weights[::-1]),
        lambda: VAEClassifier(1, **small).fit(X, y[::-1]),
        lambda: VAEClassifier(1, **small).fit(X, y, sample_weight=weights[::-1]),
        lambda: classifier.score(X, y[::-1]),
        lambda: classifier.score(X, y, sample_weight=weights[::-1]),
    ):
        with pytest.raises(ValueError, match="row 0 is r0 in x and r29 in"):
            call()


def test_masked_arrays_have_missing_values():
    X = np.random.default_rng(0).normal(size=(40, 2))
    masked = np.ma.array(np.where(X > 1, -999.0, X), mask=X > 1)
    small = {"max_steps": 5, "refine_steps": 0, "random_state": 0, "num_particles": 30}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws that are not reliable after five steps
        completed = VAEImputer(1, **small).fit(masked).transform(masked)
    assert (completed > -999).all()
    vae = VAE(1, **small).fit(masked)
    assert vae.score(masked) == vae.score(masked.filled(np.nan))
    labels = np.ma.array(np.arange(40) % 2, mask=np.arange(40) < 20)
    classifier = VAEClassifier(1, **small).fit(X, labels)
    assert classifier.score(X, labels) == classifier.score(X[20:], labels.data[20:])
    with pytest.raises(ValueError, match="NaN"):
        VAE(1, **small).fit(X, sample_weight=np.ma.array(np.ones(40), mask=np.arange(40) < 3))


def test_the_limit_of_outliers_is_weighted():
    X = np.random.default_rng(0).normal(size=(60, 2))
    small = {"max_steps": 5, "refine_steps": 0, "random_state": 0, "num_particles": 30}
    weights = np.where(X[:, 0] > 0, 5.0, 1.0)
    detector = VAEOutlierDetector(1, contamination=0.2, **small).fit(X, sample_weight=weights)
    share = weights[detector.predict(X) < 0].sum() / weights.sum()
    assert abs(share - 0.2) < weights.max() / weights.sum()
    values = np.random.default_rng(1).normal(size=21)
    for q in (0.05, 0.1, 0.37, 0.5):
        expected = np.percentile(values, 100 * q)
        assert quantile(values, q, np.full(21, 3.0)) == pytest.approx(expected)
