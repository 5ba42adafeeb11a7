"""The estimators for scikit-learn with rows and labels that they cannot use, or read in one way."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from ppl_vae import likelihoods
from ppl_vae.sklearn import VAE, VAEClassifier, VAEImputer, VAEOutlierDetector

pytestmark = pytest.mark.filterwarnings("ignore:.* not reliable")  # after so few steps
TINY = {"latent_dim": 1, "max_steps": 3, "num_particles": 5, "refine_steps": 0, "random_state": 0}
KINDS = [VAE, VAEImputer, VAEOutlierDetector, VAEClassifier]
NUMBERS = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"])
Y = np.arange(40) % 2
MIXED = NUMBERS.assign(site=np.where(np.arange(40) % 3, "left", "right"))
USES = {
    VAE: ["transform", "score_samples"],
    VAEImputer: ["transform"],
    VAEOutlierDetector: ["predict"],
    VAEClassifier: ["predict_proba"],
}


def fitted(kind, rows):
    return kind(**TINY).fit(rows, Y[: len(rows)])


@pytest.fixture(scope="module")
def known():
    """Each estimator, fitted to a frame of numbers, to an array of them, and with a category."""
    rows = {"numbers": NUMBERS, "array": NUMBERS.to_numpy(), "mixed": MIXED}
    return {(kind, name): fitted(kind, each) for kind in KINDS for name, each in rows.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (NUMBERS[:0], "0 sample(s)"),
        (MIXED[:0], "0 sample(s)"),
        (MIXED[:1], "1 sample(s) while a minimum of 2 is required"),
        (NUMBERS[[]], "X has no columns"),
        (NUMBERS * np.nan, "X holds no value: every entry is missing"),
        (MIXED.assign(a=None, b=np.nan, site=None), "X holds no value: every entry is missing"),
        (NUMBERS.assign(a=np.inf), "infinity"),
        (MIXED.assign(a=np.inf), "x is inf at row 0, feature a"),
        (NUMBERS.assign(a=[1, "x"] * 20), "neither numbers nor categories"),
        (NUMBERS.astype(str), "column 'a' of x holds numbers as text: make them numbers"),
        (NUMBERS.assign(a=pd.Timestamp("2020-01-01")), "column 'a' of x holds times"),
        (NUMBERS.set_axis(["a", "a"], axis=1), "'a'"),
        (MIXED.set_axis(["a", "a", "b"], axis=1), "'a'"),
    ],
)
def test_rows_that_cannot_be_fitted_to_are_refused(kind, rows, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fitted(kind, rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("numbers", NUMBERS.assign(c=1.0), "Feature names unseen at fit time"),
        ("numbers", NUMBERS[["b", "a"]], "same order"),
        ("numbers", NUMBERS[["a"]], "yet now missing"),
        ("numbers", NUMBERS.assign(a="x"), "column 'a' holds categories, and {} was fitted to num"),
        ("array", np.zeros((3, 5)), "X has 5 features, but {} is expecting 2"),
        ("mixed", MIXED.assign(site="up"), "'up' at row 0, which is none of its known levels"),
        ("mixed", MIXED.assign(site=0), "'0' at row 0, which is none of its known levels"),
        ("mixed", MIXED.assign(site=True), "'True' at row 0, which is none of its known levels"),
        ("mixed", MIXED[:0], "Found array with 0 sample(s)"),
    ],
)
def test_rows_unlike_those_of_the_fit_are_refused(known, kind, name, rows, message):
    for method in USES[kind]:
        with pytest.raises(ValueError, match=re.escape(message.format(kind.__name__))):
            getattr(known[kind, name], method)(rows)


@pytest.mark.filterwarnings("ignore:X has feature names, but")
@pytest.mark.parametrize("kind", KINDS)
def test_categories_are_no_numbers_of_an_array(known, kind):
    for method in USES[kind]:
        with pytest.raises(ValueError, match="column 'a' holds categories"):
            getattr(known[kind, "array"], method)(NUMBERS.assign(a="x"))


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_read_by_name_in_any_type(known, kind):
    expected = getattr(known[kind, "mixed"], USES[kind][-1])(MIXED)
    levels = ["up", "right", "left"]
    for site in (
        MIXED["site"].astype("category"),
        MIXED["site"].astype("string"),
        pd.Categorical(MIXED["site"], levels),
    ):
        found = getattr(known[kind, "mixed"], USES[kind][-1])(MIXED.assign(site=site))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_level_without_rows_is_known_if_the_type_names_it():
    site = pd.Categorical(MIXED["site"], ["left", "right", "up"])
    vae = fitted(VAE, MIXED.assign(site=site))
    assert np.isfinite(vae.score_samples(MIXED.assign(site="up"))).all()
    sorted_rows = MIXED.sort_values("site")  # each fold lacks a level
    frame = sorted_rows.assign(site=sorted_rows["site"].astype("category"))
    assert np.isfinite(cross_val_score(VAE(**TINY), frame, cv=2)).all()


def test_a_column_without_values_is_not_imputed():
    for rows in (NUMBERS.assign(a=np.nan), MIXED.assign(a=None)):
        with pytest.raises(ValueError, match="column 'a' of X is missing in all rows"):
            VAEImputer(**TINY).fit(rows)
    weights = np.repeat([1.0, 0.0], 20)
    rows = NUMBERS.assign(a=np.where(weights, np.nan, 1.0))
    with pytest.raises(ValueError, match="column 'a' of X is missing in all rows"):
        VAEImputer(**TINY).fit(rows, sample_weight=weights)


def test_latents_in_a_frame_are_decoded():
    vae = VAE(**TINY).set_output(transform="pandas").fit(MIXED)
    latents = vae.transform(MIXED)
    latents.to_numpy().flags.writeable = False
    assert list(vae.inverse_transform(latents).columns) == list(MIXED.columns)


def test_columns_of_an_array_are_named_by_number():
    likelihood = {1: "Laplace"}
    vae = VAE(**TINY, likelihood=likelihood).fit(NUMBERS.to_numpy())
    assert vae.model_.likelihood.families["1"] is likelihoods.Laplace


# --- labels ---------------------------------------------------------------------------------------


def test_the_column_of_the_class_is_not_overwritten():
    rows = NUMBERS.rename(columns={"a": "class (y)"})
    with pytest.raises(ValueError, match=re.escape("X has a column 'class (y)'")):
        VAEClassifier(**TINY).fit(rows, Y)


def test_unlabelled_rows_are_marked_by_minus_one_beside_any_two_labels():
    y = np.array([-2, -1, 3, 3] * 10)
    classifier = VAEClassifier(**TINY).fit(NUMBERS, y)
    assert classifier.classes_.tolist() == [-2, 3]
    codes = classifier.data_.x[:, -1].numpy()
    np.testing.assert_array_equal(codes, np.array([0, np.nan, 1, 1] * 10))
    found = classifier.predict(NUMBERS)
    labelled = y != -1
    assert classifier.score(NUMBERS, y) == (found == y)[labelled].mean()
    missing = np.where(labelled, y, np.nan)
    assert classifier.score(NUMBERS, missing) == (found == y)[labelled].mean()
    weights = np.arange(40)
    expected = np.average((found == y)[labelled], weights=weights[labelled])
    assert classifier.score(NUMBERS, y, sample_weight=weights) == pytest.approx(expected)
    with pytest.raises(ValueError, match="y holds no label"):
        classifier.score(NUMBERS, np.full(40, -1))


@pytest.mark.parametrize(
    "y",
    [
        np.array(["-1", "a", "b", "b"] * 10),
        np.array([True, False] * 20),
        pd.Series([True, None, False, True] * 10, dtype="boolean"),
        pd.Series([3, None, 5, 5] * 10, dtype="Int64"),
        pd.Series(["n", None, "y", "y"] * 10, dtype="string"),
        pd.Categorical(["n", None, "y", "y"] * 10),
        [None, "n", "y", "y"] * 10,
        [0.0, np.nan, 2.0, 2.0] * 10,
        ["n", np.nan, "y", "y"] * 10,
        [1, pd.NA, 2, 2] * 10,
    ],
)
def test_classes_keep_the_type_of_the_labels(y):
    labels = np.array([each for each in list(y) if not pd.isna(each)]).tolist()
    classifier = clone(VAEClassifier(**TINY)).fit(NUMBERS, y)
    assert classifier.classes_.tolist() == sorted(set(labels))
    assert {type(each) for each in classifier.predict(NUMBERS).tolist()} == {type(labels[0])}
    assert classifier.predict_proba(NUMBERS).sum(1) == pytest.approx(np.ones(40), abs=1e-12)
    assert 0 <= classifier.score(NUMBERS, y) <= 1


@pytest.mark.parametrize("names", ["uv", "uu", ""])
@pytest.mark.parametrize("values", [[0, 1], ["a", "b"]])
def test_classes_in_other_than_one_column_are_refused_in_a_line(names, values):
    y = pd.DataFrame(40 * [len(names) * values[:1]], columns=list(names))
    with pytest.raises(ValueError, match=rf"^y has {len(names)} columns: give one.*row$"):
        VAEClassifier(**TINY).fit(NUMBERS, y)


def test_two_columns_of_one_name_are_refused_in_a_line():
    rows = NUMBERS.set_axis(["x", "x"], axis=1)
    for estimator in (VAE(**TINY), VAEClassifier(**TINY)):
        with pytest.raises(ValueError, match="^X has two columns 'x': rename one of them$"):
            estimator.fit(rows, [0, 1] * 20)


def test_labels_of_two_types_are_refused():
    with pytest.raises(TypeError, match="y holds 'a' and 1: give labels that are all numbers, or"):
        VAEClassifier(**TINY).fit(NUMBERS, np.array(["a", 1] * 20, dtype=object))
    with pytest.raises(TypeError, match="y holds '1' and 1: give labels that are all numbers, or"):
        VAEClassifier(**TINY).fit(NUMBERS, ["1", 1] * 20)
