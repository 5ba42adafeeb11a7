"""Objects of pandas beside rows or terms with labels: in the same order of labels, where they are
what arrays are, or refused in one line."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import ppl_vae as pv
from ppl_vae import AnomalyPValues, Evidence, beds, likelihoods, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.data.arrays import storable
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.errors import ArgumentError
from ppl_vae.evidence import pooled, reduce_log_weights
from ppl_vae.sklearn.rows import checked_context
from ppl_vae.tasks import denoising
from ppl_vae.tasks.contrasts.design import Design
from ppl_vae.tasks.imputation import pooling

NUM = 12
NAMES = list("abcdefghijkl")
X = np.random.default_rng(0).normal(size=(NUM, 2))
FRAME = pd.DataFrame(X, columns=["u", "v"], index=NAMES)
NUMBERS = pd.Series(np.arange(NUM) + 1.0, index=NAMES)
FLAGS = FRAME > 0
EXACT = {"measure": "lebesgue"}
SCORES = AnomalyPValues.from_scores(NUMBERS, NUMBERS)
BED = beds.rainforth(num_data=NUM, latent_dim=2)
ROWS = pd.DataFrame(BED.x.numpy(), index=NAMES)


def compared(exact):
    objectives = {"elbo": pv.objectives.TraceELBO()}
    options = {"exact": exact, "num_replicates": 4, "reference_particles": 2, "progress": False}
    data = Dataset(ROWS, dtype=BED.x.dtype)
    found = pv.compare_estimators(BED.model, BED.amortised_guide, data, objectives, **options)
    return found.reference.log_evidence


BESIDE = {
    "weights beside a frame": lambda s: Dataset(FRAME, weights=s).weights,
    "weights beside names": lambda s: Dataset(X, datum_names=NAMES, weights=s).weights,
    "weights beside labels": lambda s: Dataset(X, labels=NUMBERS, weights=s).weights,
    "args beside labels": lambda s: Dataset(X, labels=NUMBERS, args={"w": s}).args["w"],
    "args beside args": lambda s: Dataset(X, args={"v": NUMBERS, "w": s}).args["w"],
    "log_p beside a frame": lambda s: Evidence.exact(s, FRAME, **EXACT).log_evidence,
    "log_p beside a Dataset": lambda s: Evidence.exact(s, Dataset(FRAME), **EXACT).log_evidence,
    "log_p beside other units": lambda s: (
        Evidence.exact(s, Dataset(FRAME, scale=2.0), **EXACT).log_evidence
    ),
    "weights beside x": lambda s: Evidence.exact(X[:, 0], FRAME, weights=s, **EXACT).weights,
    "weights beside log_p": lambda s: Evidence.exact(NUMBERS, X, weights=s, **EXACT).weights,
    "scores beside names": lambda s: AnomalyPValues.from_scores(X[:, 0], s, names=NAMES).scores,
    "scores beside an index": lambda s: (
        AnomalyPValues.from_scores(X[:, 0], s, names=NUMBERS.index).scores
    ),
    "scores beside a column": lambda s: (
        AnomalyPValues.from_scores(X[:, 0], s, names=NUMBERS.map(str)).scores
    ),
    "weights beside scores": lambda s: SCORES.weighted(np.ones(NUM), s).p_values,
    "weights of calibration": lambda s: SCORES.weighted(s, np.ones(NUM)).p_values,
    "exact beside a frame": compared,
}


@pytest.mark.parametrize("what", list(BESIDE))
def test_rows_are_in_the_order_of_their_labels_or_refused(what):
    call = BESIDE[what]
    np.testing.assert_array_equal(call(NUMBERS), call(NUMBERS.to_numpy()))
    with pytest.raises(ValueError, match="row 0 is a in .* and l in .*: reindex") as error:
        call(NUMBERS[::-1])
    assert "\n" not in str(error.value)


DIFFERENT = [
    (1, "1"),
    (True, "True"),
    (0.5, "0.5"),
    (pd.Timestamp("2020-01-02"), "2020-01-02 00:00:00"),
]
LABELLED = {
    "labels": lambda each: Dataset(X, labels=each),
    "groups": lambda each: Design.of(NUM, each),
    "strata": lambda each: Design.of(NUM, 6 * ["a", "b"], strata=each),
    "subjects": lambda each: Design.of(NUM, 6 * ["a", "b"], subjects=each),
}


@pytest.mark.parametrize("pair", DIFFERENT, ids=repr)
@pytest.mark.parametrize("what", list(LABELLED))
def test_different_labels_that_are_one_text_are_refused(what, pair):
    """As a list, an array of objects, and a column: they were merged, or had one name."""
    labels = 3 * (2 * [pair[0]] + 2 * [pair[1]])
    array = np.empty(NUM, dtype=object)
    array[:] = labels
    for given in (labels, array, pd.Series(array), pd.Series(array).astype("category")):
        with pytest.raises(ArgumentError, match=f"{what} holds .*, different labels that are one"):
            LABELLED[what](given)


def test_a_dataset_is_no_frame_and_no_array():
    """It has columns, an index, dims and coords as these have; its x was taken for covariates."""
    data = Dataset(FRAME, context=NUMBERS)
    assert not is_frame(data)
    beside = {
        "context": lambda: Dataset(X, context=data),
        "labels": lambda: Dataset(X, labels=data),
        "weights": lambda: Dataset(X, weights=data),
        "hidden": lambda: data.hiding(data),
        "changed": lambda: data.with_context(data),
        "scikit-learn": lambda: checked_context(FRAME, data),
    }
    for call in beside.values():
        with pytest.raises(TypeError, match="is a Dataset, which has several arrays: give one of"):
            call()


def test_names_that_would_be_one_text_are_told_apart():
    names = pd.MultiIndex.from_tuples([("a", "1"), ("a", 1), ("a, b", "c"), ("a", "b, c")])
    rows = pd.DataFrame(X[:4], index=names)
    assert len(set(Dataset(rows).row_labels)) == 4
    with pytest.raises(ValueError, match="row 0 is"):
        Dataset(rows, weights=pd.Series(np.arange(4) + 1.0, index=names[[1, 0, 3, 2]]))
    assert len(set(Dataset(X[:2], datum_names=[1, "1"]).row_labels)) == 2
    assert storable(np.array([1, "1", "a"], dtype=object)).tolist() == ["1", "'1'", "'a'"]
    assert storable(np.array([1, "a"], dtype=object)).tolist() == ["1", "a"]


def test_entries_hidden_after_a_change_of_units_have_the_index_of_the_rows():
    for data in (Dataset(FRAME, scale=2.0), Dataset(FRAME).hiding(FLAGS)):
        assert data.hiding(FLAGS).x.isnan().numpy()[0].tolist() == FLAGS.iloc[0].tolist()
        with pytest.raises(ValueError, match="row 0 is a in x and l in hidden"):
            data.hiding(FLAGS[::-1])
        with pytest.raises(ValueError, match="labels are not row numbers"):
            data[pd.Index([3, 4])]


def test_p_values_keep_the_names_of_a_series():
    assert SCORES.to_frame().index.tolist() == NAMES
    plain = AnomalyPValues.from_scores(X[:, 0], X[:, 1])
    assert plain.names.tolist() == list(range(NUM))
    assert plain.calibration_names is None


# --- exact log p(x) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-np.ones(NUM), "weight -1 at row 0"),
        (np.r_[np.nan, np.ones(NUM - 1)], "weight nan at row 0"),
        (np.r_[1.0, np.inf, np.ones(NUM - 2)], "weight inf at row 1"),
        (np.zeros(NUM), "weight 0 at row 0"),
        (np.where(np.arange(NUM) % 2, 1.0, -1.0), "weight -1 at row 0"),
        (np.ones(3), "weights have shape (3, 1), x has 12 rows"),
    ],
)
def test_weights_of_exact_evidence_are_those_of_a_dataset(weights, message):
    calls = (
        lambda: Evidence.exact(X[:, 0], X, weights=weights, **EXACT),
        lambda: Dataset(X, weights=weights),
    )
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_exact_evidence_takes_a_dataset_with_its_weights():
    weights = NUMBERS.to_numpy()
    data = Dataset(FRAME, weights=weights)
    found = Evidence.exact(X[:, 0], data, **EXACT)
    plain = Evidence.exact(X[:, 0], X, weights=weights, **EXACT)
    for name in ("digests", "weights", "log_evidence"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    with pytest.raises(ValueError, match="give its weights as Dataset"):
        Evidence.exact(X[:, 0], data, weights=weights, **EXACT)


def test_evidence_with_and_without_what_belongs_to_rows_is_not_pooled():
    weighted = Evidence.exact(X[:, 0], X, weights=NUMBERS, **EXACT)
    plain = Evidence.exact(X[:, 0], X, **EXACT)
    unknown = reduce_log_weights(np.zeros((50, NUM)))
    cases = ((weighted, plain, "weights"), (plain, unknown, "digests"))
    for one, other, what in cases:
        for parts in ([one, other], [other, one]):
            with pytest.raises(ValueError, match=f"with and without {what} of its rows"):
                pooled(parts)
    assert pooled([weighted[:5], weighted[5:]]).weights.tolist() == NUMBERS.tolist()


def test_densities_and_probabilities_are_not_pooled():
    density, probability = (
        Evidence.exact(X[:, 0], X, measure=measure) for measure in ("lebesgue", "counting")
    )
    for parts in ([density, probability], [probability, density]):
        with pytest.raises(ValueError, match="two measures cannot be joined: 'counting' and 'leb"):
            pooled(parts)
    unknown = reduce_log_weights(np.zeros((50, NUM)))
    assert pooled([density[:5], density[5:]]).measure == "lebesgue"
    assert pooled([unknown, unknown]).measure == ""


# --- terms of pooled analyses ---------------------------------------------------------------------

TERMS = ["one", "age", "dose"]
OTHER = ["dose", "one", "age"]
ESTIMATES = [pd.Series([10.0 + i, 0.5, -3.0], index=TERMS) for i in range(3)]
MATRIX = pd.DataFrame(np.diag([0.1, 0.01, 0.04]), index=TERMS, columns=TERMS)
VARIANCES = pd.Series(np.diag(MATRIX), index=TERMS)


def reordered(parts, place):
    """The same parts, of which one has its terms in another order."""
    other = list(parts)
    other[place] = parts[place][OTHER]
    return other


def crossed(matrix):
    """Rows in one order of the terms, columns in another."""
    return [MATRIX, MATRIX[OTHER] if matrix else MATRIX.loc[OTHER], MATRIX]


POOLED = {
    "estimates[1]": lambda: (reordered(ESTIMATES, 1), [MATRIX] * 3),
    "variances[2]": lambda: (ESTIMATES, [MATRIX, MATRIX, MATRIX.loc[OTHER, OTHER]]),
    "variances[0]": lambda: (ESTIMATES, reordered([VARIANCES] * 3, 0)),
    "the columns of variances[1]": lambda: (ESTIMATES, crossed(1)),
    "variances[1]": lambda: (ESTIMATES, crossed(0)),
    "variances": lambda: (pd.DataFrame(ESTIMATES), pd.DataFrame([VARIANCES] * 3)[OTHER]),
    "estimates[2]": lambda: (list(zip(reordered(ESTIMATES, 2), [VARIANCES] * 3, strict=True)),),
}


@pytest.mark.parametrize("place", list(POOLED))
def test_terms_are_in_one_order_or_refused(place):
    message = f"term 0 is one in .* and dose in {re.escape(place)}: give the same terms"
    with pytest.raises(ValueError, match=message):
        pv.pool(*POOLED[place]())


def test_other_terms_and_names_in_another_order_are_refused():
    other = [ESTIMATES[0], ESTIMATES[1].rename({"dose": "sex"}), ESTIMATES[2]]
    with pytest.raises(ValueError, match=r"term 2 is dose in estimates\[0\] and sex in est"):
        pv.pool(other, [MATRIX] * 3)
    with pytest.raises(ValueError, match=r"term 0 is dose in names and one in estimates\[0\]"):
        pv.pool(ESTIMATES, [MATRIX] * 3, names=OTHER)
    with pytest.raises(ValueError, match="row 0 is 0 in estimates and 2 in variances"):
        pv.pool(pd.Series([1.0, 2.0, 3.0]), pd.Series([0.1, 0.2, 0.3])[::-1])
    assert pv.pool(ESTIMATES, [MATRIX] * 3, names=["A", "B", "C"]).names == ("A", "B", "C")


def test_terms_keep_their_names():
    plain = pv.pool(np.array(ESTIMATES), np.array([MATRIX] * 3), names=TERMS)
    given = (
        (ESTIMATES, [MATRIX] * 3),
        (pd.DataFrame(ESTIMATES), np.array([MATRIX] * 3)),
        (np.array(ESTIMATES), [MATRIX] * 3),
        (list(zip(ESTIMATES, [MATRIX] * 3, strict=True)),),
    )
    for each in given:
        pd.testing.assert_frame_equal(pv.pool(*each).to_frame(), plain.to_frame())


def test_hypotheses_in_a_frame_are_coefficients_of_the_terms_in_their_order():
    found = pv.pool(ESTIMATES, [MATRIX] * 3)
    rows = pd.DataFrame([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]], index=["p", "q"], columns=TERMS)
    values = pd.Series([0.5, 1.0], index=["p", "q"])
    assert found.test(rows, values) == found.test(rows.to_numpy(), values.to_numpy())
    named = pd.Series([9.0, 1.0], index=["one", "dose"])
    assert found.test(["one", "dose"], named) == found.test(["one", "dose"], [9.0, 1.0])
    refused = (
        (rows[OTHER], 0.0),
        (rows.loc["p"][OTHER], 0.0),
        (rows, values[::-1]),
        (["one", "dose"], named[::-1]),
        (None, ESTIMATES[0][OTHER]),
    )
    for hypotheses, value in refused:
        with pytest.raises(ValueError, match="row 0 is .* reindex one like the other"):
            found.test(hypotheses, value)


# --- covariates in a frame ------------------------------------------------------------------------


def test_covariates_in_a_frame_are_matched_by_name():
    sex = ["f", "m"] * (NUM // 2)
    frame = pd.DataFrame({"u": (X[:, 0] > 0) * 1.0, "sex": sex, "age": X[:, 1]})
    data = Dataset(frame, context=["sex", "age"])
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(1), start=data)
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 1, start=data)
    file = pv.compress(model, guide, data)
    context = frame[["sex", "age"]]
    other = context.assign(sex=pd.Categorical(sex, ["m", "f"]))
    reversed_view = np.flip(np.flip(data.context.numpy(), 0).copy(), 0)
    for given in (context, other, data.context, reversed_view):
        assert torch.equal(pv.decompress(model, guide, file, context=given), data.x)
    for bad, message in (
        (context[["age", "sex"]], "column 0 of context is 'age'"),
        (context.assign(sex="x"), "column 'sex' of context is 'x' at row 0"),
        (context[::-1], "context differs from the covariates of the compressed rows"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.decompress(model, guide, file, context=bad)


# --- labels of xarray, and of classes -------------------------------------------------------------

ARRAY = xarray.DataArray(X, dims=("datum", "feature"), coords={"datum": NAMES})
OF_ARRAY = {
    "weights": lambda s: Dataset(ARRAY, weights=s).weights,
    "labels": lambda s: Dataset(ARRAY, labels=s).labels,
    "args": lambda s: Dataset(ARRAY, args={"w": s}).args["w"],
    "context": lambda s: Dataset(ARRAY, context=s).context[:, 0],
    "splits": lambda s: Dataset(ARRAY, splits={"train": s > 3}).train.coords["datum"],
    "some rows": lambda s: Dataset(ARRAY)[s > 3].coords["datum"],
    "log_p": lambda s: Evidence.exact(s, ARRAY, **EXACT).log_evidence,
    "exact": lambda s: Evidence.exact(s, Dataset(ARRAY), **EXACT).log_evidence,
}


@pytest.mark.parametrize("what", list(OF_ARRAY))
@pytest.mark.parametrize("kind", [pd.Series, xarray.DataArray])
def test_rows_of_xarray_have_labels_too(what, kind):
    call = OF_ARRAY[what]
    given = NUMBERS if kind is pd.Series else xarray.DataArray(NUMBERS, coords={"datum": NAMES})
    np.testing.assert_array_equal(call(given), call(NUMBERS.to_numpy()))
    with pytest.raises(ValueError, match="row 0 is a in .* and l in .*: reindex"):
        call(given[::-1])


def test_xarray_beside_a_frame_has_its_labels():
    given = xarray.DataArray(NUMBERS, coords={"datum": NAMES})
    assert Dataset(FRAME, weights=given).weights.tolist() == NUMBERS.tolist()
    with pytest.raises(ValueError, match="row 0 is a in x and l in weights"):
        Dataset(FRAME, weights=given[::-1])
    assert Dataset(X, weights=given[::-1]).weights.tolist() == NUMBERS[::-1].tolist()


def classes_of(weights=None):
    """Class probabilities of a mixture for the rows of a frame."""
    with pv.seeded(0):
        model = pv.Model(priors.GaussianMixture(1, 3), likelihoods.Gaussian(2))
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 2)
    data = Dataset(FRAME, weights=weights)
    return pv.class_probabilities(model, guide, data, num_particles=50, progress=False)


def test_true_classes_have_the_labels_of_the_rows():
    found = classes_of()
    labels = pd.Series(found.predict(), index=NAMES)
    assert found.error(labels) == found.error(labels.to_numpy()) == (0.0, 0.0)
    for call in (found.error, found.calibration):
        with pytest.raises(ValueError, match="row 0 is a in the rows and l in labels: reindex"):
            call(labels[::-1])
        hidden = np.ma.array(labels, mask=np.arange(NUM) == 4)
        with pytest.raises(ValueError, match="labels is nan at row 4"):
            call(hidden)
        with pytest.raises(ValueError, match="labels are booleans, and there are 3 classes"):
            call(labels > 0)


def test_errors_of_classes_are_weighted():
    weights = NUMBERS.to_numpy()
    found = classes_of(weights)
    labels = np.where(np.arange(NUM) < 4, (found.predict() + 1) % 3, found.predict())
    wrong = np.arange(NUM) < 4
    share = weights[wrong].sum() / weights.sum()
    error, se = found.error(labels)
    assert error == pytest.approx(share)
    shares = weights / weights.sum()
    apart = 1 - 2 * shares + np.square(shares).sum()
    assert se == pytest.approx(np.sqrt((shares**2 * (wrong - share) ** 2 / apart).sum()))
    calibration = found.calibration(labels, num_bins=1)
    confidence = np.average(found.probabilities.max(1), weights=weights)
    assert calibration.error == pytest.approx(abs(confidence - (1 - share)))
    assert calibration.reliability.frequency == pytest.approx(1 - share)
    equally, plain = (classes_of(each).calibration(labels) for each in (np.ones(NUM), None))
    assert str(equally) == str(plain)


def test_rows_in_several_parts_are_told():
    whole = Evidence.exact(X[:, 0], X, **EXACT)
    for parts, number in (([whole, whole], 12), ([whole[:8], whole[5:]], 3)):
        with pytest.warns(UserWarning, match=f"{number} rows of 12 are in more than one part"):
            assert len(pooled(parts)) == sum(map(len, parts))
    bits = Evidence.exact(X[:, 0], X > 0, **EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled([whole[:5], whole[5:]])
        pooled([bits[:7], bits[7:]])


# --- frames beside tables, masked arrays ----------------------------------------------------------


def test_hidden_entries_in_a_frame_are_matched_by_column():
    hidden = pd.DataFrame(False, index=NAMES, columns=["u", "v"]).assign(u=True)
    for given in (hidden, hidden[["v", "u"]], hidden.astype("boolean")):
        found = Dataset(FRAME).hiding(given).to_frame()
        assert found.isna().sum().to_dict() == {"u": NUM, "v": 0}
    with pytest.raises(ValueError, match=r"hidden has the columns \['w', 'v'\]: give one for each"):
        Dataset(FRAME).hiding(hidden.rename(columns={"u": "w"}))


def programs_of(data):
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=data)
        return model, pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data)


def test_clean_rows_have_the_labels_and_columns_of_the_noisy_ones():
    data = Dataset(FRAME)
    found = pv.denoise(*programs_of(data), data, denoising.GaussianNoise(0.3), progress=False)
    plain = found.psnr(X)
    np.testing.assert_allclose(
        plain, 10 * np.log10(1 / np.square(found.mean - X).mean(1)), rtol=1e-5
    )
    np.testing.assert_allclose(found.psnr(FRAME), plain, rtol=1e-5)
    with pytest.raises(ValueError, match="row 0 is a in x and l in clean"):
        found.psnr(FRAME[::-1])
    with pytest.raises(ValueError, match=r"clean has the columns \['v', 'u'\], and the noisy"):
        found.psnr(FRAME[["v", "u"]])


def test_other_coordinates_have_the_labels_of_the_rows():
    names = [f"r{i}" for i in range(60)]
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), index=names)
    _, guide = programs_of(Dataset(x))
    options = {"num_neighbours": 3, "progress": False}
    named = pv.embedding_quality(guide, x, x, others={"own": x}, **options)
    plain = pv.embedding_quality(guide, x, x, others={"own": x.to_numpy()}, **options)
    np.testing.assert_array_equal(named.values, plain.values)
    with pytest.raises(ValueError, match=r"row 0 is r0 in x and r59 in others\['own'\]"):
        pv.embedding_quality(guide, x, x, others={"own": x[::-1]}, **options)


MASKED = np.ma.array(np.arange(NUM) + 1.0, mask=np.arange(NUM) == 2)
HELD = AnomalyPValues.from_scores(X[:, 0], X[:, 1])
REFUSED = {
    "weights": (lambda v: Dataset(X, weights=v), "weight nan at row 2"),
    "context": (lambda v: Dataset(X, context=v), "context is nan at row 2"),
    "log_p": (lambda v: Evidence.exact(v, X, **EXACT), "give a finite number"),
    "scores": (lambda v: AnomalyPValues.from_scores(X[:, 0], v), "test row 2 is NaN"),
    "calibration": (lambda v: AnomalyPValues.from_scores(v, X[:, 0]), "calibration row 2 is NaN"),
    "weights of rows": (lambda v: HELD.weighted(np.ones(NUM), v), "weights is nan at row 2"),
    "estimates": (lambda v: pv.pool(v, np.ones(NUM)), r"estimates\[2\] is nan"),
    "variances": (lambda v: pv.pool(X[:, 0], v), r"variances\[2\] is nan"),
    "chi-squared": (lambda v: pooling.pool_chi_squares(v, df=2), "none negative or NaN"),
    "hidden": (lambda v: Dataset(X).hiding(np.ma.array(X > 0, mask=X > 0)), "give booleans"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_lies_under_a_mask_is_no_number(what):
    call, said = REFUSED[what]
    with pytest.raises(ValueError, match=said):
        call(MASKED)


def test_masked_entries_are_missing():
    assert Dataset(MASKED).x[:, 0].isnan().nonzero().tolist() == [[2]]
    assert Dataset(X, args={"n": MASKED}).args["n"].isnan().nonzero().tolist() == [[2]]
    labels = Dataset(X, labels=np.ma.array(list("ab") * 6, mask=np.arange(NUM) == 2)).labels
    assert labels.tolist() == ["a", "b", "missing", *"bababa", "b", "a", "b"][:NUM]


def test_names_in_a_file_of_evidence_are_its_own(tmp_path):
    found = Evidence.exact(X[:, 0], X, **EXACT)
    for name in (*found.arrays(), "weights", "checks.x", "format", "num_data"):
        with pytest.raises(ValueError, match=f"the file needs the name '{name}' itself"):
            found.save(tmp_path / "a.npz", **{name: np.zeros(NUM)})
    found.save(tmp_path / "a.npz", site=np.array(NAMES))
    np.testing.assert_array_equal(Evidence.load(tmp_path / "a.npz").log_evidence, X[:, 0])


def test_a_checkpoint_of_evidence_has_the_present_weights(tmp_path):
    path = tmp_path / "a.npz"
    bed = beds.linear_gaussian(num_data=10)
    for weights in (np.arange(10) + 1.0, np.arange(10)[::-1] + 1.0, None):
        data = Dataset(bed.x, weights=weights, dtype=bed.x.dtype)
        options = {"num_particles": 30, "progress": False, "checkpoint": path}
        found = pv.log_evidence(bed.model, bed.guide, data, **options)
        mean = np.average(found.log_evidence, weights=weights)
        assert found.summary().log_evidence == pytest.approx(mean)
        assert Evidence.load(path).summary().log_evidence == found.summary().log_evidence


def test_what_is_no_evidence_is_refused_in_a_line():
    found = Evidence.exact(X[:, 0], X, **EXACT)
    for call, said in (
        (lambda: pooled([]), "given no part"),
        (lambda: pooled([found, 1]), "given a int"),
        (lambda: found[[]].summary(), "there is no row"),
        (lambda: found[NUM], "does not fit the 12 rows of 'evidence'"),
        (lambda: found[pd.Index(["a"])], "does not fit the 12 rows"),
        (lambda: pv.compare_models({2: found, 4: found}), "a model is called 2"),
    ):
        with pytest.raises((ValueError, IndexError), match=said):
            call()
    with pytest.raises(TypeError, match="x is a Dataset already"):
        Dataset(Dataset(X), weights=np.ones(NUM))


@pytest.mark.parametrize("kind", ["index", "series", "flags"])
def test_splits_by_labels_are_refused_also_later(kind):
    """Whole numbers in another order are no row numbers, as in `Dataset(splits=...)`."""
    frame = FRAME.reset_index(drop=True).sample(frac=1, random_state=1)
    chosen = frame.index[frame["u"] > 0]
    rows = {
        "index": chosen,
        "series": chosen.to_series(),
        "flags": (frame["u"] > 0).sort_index(),
    }[kind]
    said = "labels are not row numbers" if kind != "flags" else "reindex one like the other"
    for make in (
        lambda: Dataset(frame, splits={"train": rows}),
        lambda: Dataset(frame).with_splits({"train": rows}),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    by_position = np.flatnonzero(frame["u"] > 0)
    assert len(Dataset(frame).with_splits({"train": by_position}).train) == len(chosen)
