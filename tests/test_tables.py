"""A statistician's own table: kinds of columns, levels by name, and the way back to a frame."""

import itertools
import re

import numpy as np
import pandas
import pytest
import torch
import xarray
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.rows.sources import new_rows
from ppl_vae.sklearn import VAE

NA = pandas.NA
GRADES = pandas.CategoricalDtype(["low", "mid", "high"], ordered=True)
LETTERS = pandas.CategoricalDtype(["b", "a", "c"])
# values, the numbers that stand for them, the kind, and the type in which they come back
COLUMNS = {
    "bool": ([True, False, True, True], [1, 0, 1, 1], "boolean", "bool"),
    "boolean": (pandas.array([True, NA, False, True]), [1, NA, 0, 1], "boolean", "boolean"),
    "objects": (np.array([True, None, False, True]), [1, NA, 0, 1], "boolean", "boolean"),
    "zero_one": ([0, 1, 1, 0], [0, 1, 1, 0], "boolean", "int64"),
    "letters": (pandas.array(["b", NA, "a", "b"], LETTERS), [0, NA, 1, 0], "category", LETTERS),
    "grades": (pandas.array(["high", NA, "low", "mid"], GRADES), [2, NA, 0, 1], "ordered", GRADES),
    "numbered": (pandas.Categorical([30, 1, NA, 30]), [1, 0, NA, 1], "category", ["1", "30"]),
    "str": (["m", NA, "f", "f"], [1, NA, 0, 0], "category", ["f", "m"]),
    "string": (pandas.array(["u", NA, "u", "u"], "string"), [0, NA, 0, 0], "category", ["u"]),
    "words": (np.array(["u", None, "v", "u"], object), [0, NA, 1, 0], "category", ["u", "v"]),
    "int": ([7, 9, 12, 8], [7, 9, 12, 8], "count", "int64"),
    "Int64": (pandas.array([7, NA, 0, 1]), [7, NA, 0, 1], "count", "Int64"),
    "missing_int": ([0.0, None, 5.0, 3.0], [0, NA, 5, 3], "count", "Int64"),
    "whole": ([61.0, 70.0, 85.0, 66.0], [61, 70, 85, 66], "positive", "float32"),
    "positive": ([1.5, 2.0, None, 3.0], [1.5, 2, NA, 3], "positive", "float32"),
    "negative": ([-1, 2, 5, 7], [-1, 2, 5, 7], "real", "int64"),
    "Float64": (pandas.array([1.5, NA, -2.0, 0.0]), [1.5, NA, -2, 0], "real", "float32"),
    "empty": ([None, None, None, None], [NA, NA, NA, NA], "real", "float32"),
}


def table():
    return pandas.DataFrame({name: each[0] for name, each in COLUMNS.items()}, index=list("abcd"))


def expected():
    return np.array([[np.nan if v is NA else v for v in each[1]] for each in COLUMNS.values()]).T


def vae(num_features, **options):
    guide = pv.Guide(posteriors.MeanFieldNormal(2), num_features, nn.Linear(num_features, 4))
    likelihood = likelihoods.Gaussian(num_features)
    return pv.Model(priors.StandardNormal(2), likelihood, nn.Linear(2, 4), **options), guide


def fitted(data):
    model, guide = vae(*pv.Dataset(data).event_shape)
    pv.fit(model, guide, data, training=pv.Training(num_epochs=1, progress=False))
    return model, guide


# -- frames in and out
# ----------------------------------------------------------------------------------------------


def test_every_type_of_column_becomes_numbers_and_has_a_kind():
    data = pv.Dataset(table())
    np.testing.assert_array_equal(data.x, expected())
    assert dict(zip(COLUMNS, data.kinds, strict=True)) == {k: v[2] for k, v in COLUMNS.items()}
    assert data.levels["grades"] == ("low", "mid", "high")
    assert data.levels["letters"] == ("b", "a", "c")
    assert data.levels["numbered"] == ("1", "30")
    assert data.constant_features == ("string",)
    assert data.unobserved_features == ("empty",)


def test_a_frame_comes_back_as_it_was():
    frame = table()
    data = pv.Dataset(frame)
    back = data.to_frame()
    for name, (_, _, _, dtype) in COLUMNS.items():
        wanted = pandas.CategoricalDtype(dtype) if isinstance(dtype, list) else dtype
        assert back[name].dtype == wanted, name
        np.testing.assert_array_equal(back[name].isna(), frame[name].isna())
        for one, other in zip(back[name].dropna(), frame[name].dropna(), strict=True):
            assert one == other or one == str(other), name
    assert back.index.equals(frame.index)
    again = pv.Dataset(back)
    np.testing.assert_array_equal(again.x, data.x)
    assert (again.kinds, again.levels) == (data.kinds, data.levels)


def test_kinds_and_levels_are_those_of_all_rows():
    data = pv.Dataset(table(), splits={"train": [0, 1], "test": [2, 3]})
    part = data[[2]]
    for some in (part, data.train, data.test, data.to(dtype=torch.float64), part[0]):
        assert (some.kinds, some.levels) == (data.kinds, data.levels)
    assert part.to_frame().index.tolist() == ["c"]
    assert part.to_frame()["str"].tolist() == ["f"]


def test_kinds_of_arrays_are_those_of_their_values():
    x = np.array([[0.0, 0.0, 0.5, -1.0], [1.0, 3.0, 2.5, 2.0], [np.nan, 4.0, 1.5, 1.0]])
    assert pv.Dataset(x).kinds == ("boolean", "count", "positive", "real")
    assert pv.Dataset(np.array([[3, 0], [7, 9]])).kinds == ("count", "count")
    assert pv.Dataset(torch.tensor([[3.0], [7.0]])).kinds == ("positive",)
    assert pv.Dataset(torch.zeros(2, 1, 2)).flatten().kinds == ("boolean", "boolean")


def test_draws_come_back_with_the_index_of_their_sample():
    data = pv.Dataset(table()[["str", "int", "bool"]])
    draws = torch.stack([data.x.nan_to_num(), 1 - data.x.nan_to_num()]) * torch.tensor([1, 7.0, 1])
    frame = data.to_frame(draws)
    assert frame.index.names == ["sample", None]
    assert frame.loc[(1, "b"), "str"] == "m"
    assert frame.loc[0, "int"].tolist() == [49, 63, 84, 56]
    one = data.to_frame(draws[0, :2].numpy())
    assert one.index.tolist() == [0, 1]
    means = data.to_frame(torch.tensor([[1.0, 7.5, 0.25]]))
    assert means.iloc[0].tolist() == ["m", 7.5, 0.25]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0.5, 1, 1]], "column 'str' of x is 0.5 at row 0: its levels 'f', 'm' have codes 0 to 1"),
        ([[0.0, 1]], r"x has shape (1, 2): give (rows, 3) or (samples, rows, 3), with the columns"),
    ],
)
def test_numbers_that_are_not_of_these_columns_are_refused(x, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pv.Dataset(table()[["str", "int", "bool"]]).to_frame(x)


def test_images_and_rows_in_a_file_are_no_tables(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    rows = pv.Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    with pytest.raises(ValueError, match="rows of 'data' are in a file: give data"):
        rows.to_frame()
    with pytest.raises(ValueError, match="kinds is for tables in memory, and rows of"):
        _ = rows.kinds
    assert rows[:2].to_frame().shape == (2, 2)
    with pytest.raises(ValueError, match=re.escape("rows of 'data' are of shape (2, 2): give")):
        pv.Dataset(torch.zeros(3, 2, 2)).to_frame()


# -- what is refused
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "column", "message"),
    [
        (TypeError, pandas.date_range("2020-01-01", periods=4), "holds times (datetime64"),
        (TypeError, pandas.to_timedelta([1, 2, 3, 4], "D"), "holds times (timedelta64"),
        (TypeError, pandas.period_range("2020", periods=4), "holds times (period"),
        (TypeError, list(pandas.date_range("2020", periods=4).date), "holds times (object): give"),
        (TypeError, ["a", 1, "b", 2], "holds object (mixed-integer), neither numbers nor"),
        (TypeError, [1j, 2, 3, 4], "holds complex128 (complex), neither numbers nor"),
        (ValueError, pandas.Categorical(["1", 1, 1, 1]), "has two levels '1': give each its own"),
    ],
)
def test_a_column_that_is_no_number_or_category_is_named(error, column, message):
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": column})
    with pytest.raises(error, match=re.escape("column 'b' ") + ".*" + re.escape(message)) as caught:
        pv.Dataset(frame)
    assert "\n" not in str(caught.value)


def test_an_identifier_is_named_unless_its_levels_are_known():
    names = [f"person {i}" for i in range(30)]
    frame = pandas.DataFrame({"name": names, "age": range(30)})
    with pytest.raises(
        ValueError, match="'name' of x has 30 different strings in 30 rows, like an"
    ):
        pv.Dataset(frame)
    assert pv.Dataset(frame.set_index("name")).coords["datum"][3] == "person 3"
    assert pv.Dataset(frame, levels={"name": names[::-1]}).x[0, 0] == 29
    assert pv.Dataset(frame[:10]).levels["name"] == tuple(sorted(names[:10]))
    twice = pandas.DataFrame([["a", "b"]], columns=["name", "name"])
    with pytest.raises(ValueError, match="x has two columns 'name': rename one of them"):
        pv.Dataset(twice)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            list(map(str, range(30))),
            "'age' of x holds numbers as text: make them numbers .frame.as",
        ),
        ([*map(str, range(29)), "n/k"], "'age' of x is 'n/k' in 1 row, and a number in 29"),
        ([*map(str, range(29)), None], "'age' of x holds numbers as text"),
        ([f"a{i}" for i in range(20)] + list("1234567890"), "30 different strings in 30 rows"),
    ],
)
def test_a_text_among_numbers_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        pv.Dataset(pandas.DataFrame({"age": values, "height": range(30)}))


# -- levels by name
# ----------------------------------------------------------------------------------------------


def test_levels_are_matched_by_name_and_not_by_code():
    frame = pandas.DataFrame(
        {"grade": ["B", "C", None], "size": [2, 1, 2], "ok": [True, False, True]}
    )
    levels = {"grade": "CBA", "size": [3, 2, 1], "ok": [True, False]}
    data = pv.Dataset(frame, levels=levels)
    np.testing.assert_array_equal(data.x, [[1, 1, 0], [0, 2, 1], [np.nan, 1, 0]])
    assert data.levels == {
        "grade": ("C", "B", "A"),
        "size": ("3", "2", "1"),
        "ok": ("True", "False"),
    }
    assert data.kinds == ("category",) * 3
    assert torch.equal(pv.Dataset(frame).with_levels(levels).x.nan_to_num(9), data.x.nan_to_num(9))
    codes = pv.Dataset(data.x, feature_names=list(levels), levels=levels)
    assert (codes.levels, codes.kinds) == (data.levels, data.kinds)
    assert pv.Dataset(frame, feature_names=list("xyz")).levels == {"x": ("B", "C")}


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (["a", "z"], {"g": "ab"}, "column 'g' of x is 'z' at row 1, which is none of its known"),
        ([1, 4], {"g": [1, 2]}, "column 'g' of x is '4' at row 1, which is none of its known"),
        (["a", "b"], {"h": "ab"}, "levels name 'h': Allowed: g"),
        (["a", "b"], {"g": "aa"}, "column 'g' has two levels 'a': give each its own name"),
    ],
)
def test_levels_that_do_not_fit_are_refused(x, levels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pv.Dataset(pandas.DataFrame({"g": x}), levels=levels)


def test_codes_and_scales_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'0' of x is 2 at row 0: its levels 'a', 'b' have codes"):
        pv.Dataset([[2.0]], levels={"0": "ab"})
    with pytest.raises(ValueError, match="scale=255 divides codes of categories: leave it out"):
        pv.Dataset(pandas.DataFrame({"g": ["a"]}), scale=255)


FRAME = pandas.DataFrame({"sex": ["f", "m", "f", "m"] * 5, "age": np.arange(20.0) + 0.5})


def test_a_model_reads_new_frames_in_the_levels_of_its_training(tmp_path):
    model, guide = fitted(FRAME)
    assert model.levels == guide.levels == {"sex": ("f", "m")}
    whole = pv.log_evidence(model, guide, FRAME, num_particles=30, seed=0)
    men = FRAME[FRAME["sex"] == "m"]
    assert pv.Dataset(men).x[0, 0] == 0.0
    some = pv.log_evidence(model, guide, men, num_particles=30, seed=0)
    coded = pv.log_evidence(model, guide, pv.Dataset(FRAME)[1::2], num_particles=30, seed=0)
    np.testing.assert_array_equal(some.log_evidence, coded.log_evidence)
    np.testing.assert_array_equal(some.digests, whole.digests[1::2])
    path = pv.save_weights(tmp_path / "weights.pt", model, guide)
    other = vae(2)
    pv.load_weights(path, *other)
    assert other[0].levels == other[1].levels == {"sex": ("f", "m")}


def test_weights_for_other_levels_or_columns_are_refused_and_change_nothing(tmp_path):
    model, guide = fitted(FRAME)
    path = pv.save_weights(tmp_path / "weights.pt", model, guide)
    others = FRAME.replace({"sex": {"m": "x"}}), FRAME.rename(columns={"age": "year"})
    said = "levels 'f', 'm' of 'sex'", "columns 'sex', 'age' of 'x'"
    for frame, words in zip(others, said, strict=True):
        for program, trained in zip(vae(2, start=frame), (model, guide), strict=True):
            program.columns, program.levels = pv.Dataset(frame).columns, pv.Dataset(frame).levels
            before = {key: value.clone() for key, value in program.state_dict().items()}
            with pytest.raises(ValueError, match=f"these weights are for {words}, and this"):
                program.load_state_dict(trained.state_dict())
            for key, value in program.state_dict().items():
                assert torch.equal(value, before[key])
        with pytest.raises(ValueError, match=f"weights.pt does not fit this model: .* {words}"):
            pv.load_weights(path, *vae(2, start=frame))
    stored = torch.load(path, weights_only=True)["model"]
    with pytest.raises(ValueError, match="these weights are for levels"):
        vae(2, start=others[0])[0].load_state_dict(stored)
    vae(2, start=others[0])[0].load_state_dict(dict(stored))  # nothing is known of these


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sex": ["x", *FRAME["sex"][1:]]}, "column 'sex' of x is 'x' at row 0, which is none of"),
        (
            {"sex": range(20)},
            "column 'sex' of x is '0' at row 0, which is none of its known levels",
        ),
        ({"age": ["old"] * 20}, "column 'age' of x has levels 'old'; the Model was trained with"),
    ],
)
def test_levels_that_training_did_not_see_are_refused(change, message):
    programs = fitted(FRAME)
    with pytest.raises(ValueError, match=re.escape(message)):
        pv.log_evidence(*programs, FRAME.assign(**change), num_particles=30)


def test_levels_come_from_the_start_and_reach_fit():
    model, guide = vae(2, start=FRAME)
    assert model.levels == {"sex": ("f", "m")}
    pv.fit(model, guide, FRAME[1::2], training=pv.Training(num_epochs=1, progress=False))
    assert guide.levels == {"sex": ("f", "m")}


# -- covariates
# ----------------------------------------------------------------------------------------------

PEOPLE = pandas.DataFrame(
    {
        "height": np.arange(12.0),
        "weight": np.arange(12.0) ** 2,
        "sex": ["f", "m", "m"] * 4,
        "age": range(30, 42),
        "smokes": [True, False] * 6,
        "dose": pandas.Categorical(["low", "high"] * 6, ["low", "mid", "high"], ordered=True),
        "species": ["a", "b"] * 6,
    }
)
TAKEN = {"context": ["sex", "age", "smokes", "dose"], "labels": "species"}


def test_columns_of_the_frame_become_covariates_with_an_indicator_for_each_level():
    data = pv.Dataset(PEOPLE, **TAKEN)
    names = ("sex[f]", "sex[m]", "age", "smokes", "dose[low]", "dose[mid]", "dose[high]")
    assert data.columns == {"x": ("height", "weight"), "context": names}
    assert data.context[1].tolist() == [0, 1, 31, 0, 0, 0, 1]
    assert data.levels == {"sex": ("f", "m"), "dose": ("low", "mid", "high")}
    assert data.labels.tolist() == PEOPLE["species"].tolist()
    assert data.kinds == ("count", "count")
    apart = pv.Dataset(PEOPLE[["height", "weight"]], context=PEOPLE[["sex", "age"]])
    assert torch.equal(apart.context, data.context[:, :3])
    assert pv.Dataset(PEOPLE[["height", "sex"]], context="sex").context_names == names[:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": ["sexx"]}, "x has no column 'sexx' for context: did you mean sex?"),
        ({"labels": "kind"}, "x has no column 'kind' for labels: Allowed: height, weight, sex"),
        ({"context": PEOPLE["sex"].where(PEOPLE["age"] > 31)}, "context is nan at row 0, covaria"),
        ({"context": ["sex"], "levels": {"sex": ["f"]}}, "'sex' of context is 'm' at row 1, which"),
        ({"context": PEOPLE["age"][::-1]}, "row 0 is 0 in x and 11 in context: reindex one like"),
        (
            {"context": PEOPLE[["sex"]].replace("m", "x")},
            "column 'sex' of context has other levels than that of x: rename it, or give levels=",
        ),
    ],
)
def test_covariates_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pv.Dataset(PEOPLE, **change)


def test_a_model_knows_its_covariates_and_their_levels():
    data = pv.Dataset(PEOPLE, **TAKEN)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=data)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data)
    assert model.context_dim == guide.context_dim == 7
    pv.fit(model, guide, data, training=pv.Training(num_epochs=1, progress=False))
    women = pv.Dataset(PEOPLE[PEOPLE["sex"] == "f"], **TAKEN)
    assert women.context_names[:2] == ("sex[f]", "age")
    found = pv.log_evidence(model, guide, women, num_particles=30, seed=0)
    again = pv.log_evidence(model, guide, data[::3], num_particles=30, seed=0)
    np.testing.assert_array_equal(found.log_evidence, again.log_evidence)
    np.testing.assert_array_equal(found.digests, again.digests)
    for change, message in (
        ({"sex": "other"}, "column 'sex' of context is 'other' at row 0, which is none of its"),
        ({"dose": range(12)}, "column 'dose' of context is '0' at row 0, which is none of its"),
        ({"age": "old"}, "context has no column 'age', which the Model was trained with"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pv.log_evidence(model, guide, pv.Dataset(PEOPLE.assign(**change), **TAKEN))


def test_contradictory_numbers_of_covariates_are_refused():
    data = pv.Dataset(PEOPLE, **TAKEN)
    for build in (
        lambda: pv.Guide(posteriors.MeanFieldNormal(1), 2, context_dim=3, start=data),
        lambda: vae(2, context_dim=3, start=data),
    ):
        with pytest.raises(ValueError, match="context_dim is 3, and start has 7 covariates: leave"):
            build()
    assert vae(2, start=data.x)[0].context_dim == 0


def test_covariates_are_changed_in_their_own_terms():
    data = pv.Dataset(PEOPLE, **TAKEN)
    changed = data.with_context({"sex": "f", "age": 50, "smokes": True})
    assert changed.context.unique(dim=0)[:, :4].tolist() == [[1, 0, 50, 1]] * 2
    assert torch.equal(changed.context[:, 4:], data.context[:, 4:])
    each = data.with_context(PEOPLE[["dose"]].iloc[::-1].set_axis(PEOPLE.index))
    assert torch.equal(each.context[:, 4:], data.context[:, 4:].flip(0))
    assert torch.equal(data.with_context(data.context.numpy()).context, data.context)
    for context, message in (
        ({"sex": "x"}, "column 'sex' of context is 'x' at row 0, which is none of its known"),
        ({"ages": 3}, "there is no covariate 'ages': did you mean age? Allowed: sex, age, smokes"),
        ({"age": "old"}, "covariate 'age' takes numbers, and was given 'old'"),
        ({"age": None}, "context is nan at row 0, covariate age: it must be complete"),
        (np.zeros((12, 2)), "context has 2 covariates, 'data' has ['sex[f]', 'sex[m]', 'age', "),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            data.with_context(context)
    with pytest.raises(ValueError, match="'data' has no covariates: give Dataset"):
        pv.Dataset([[0.0]]).with_context({"age": 3})


@pytest.mark.parametrize("binary", [False, True])
def test_units_of_covariates_do_not_matter(binary):
    """Training is the same in years and in days."""
    rng = np.random.default_rng(0)
    age = rng.normal(50, 15, size=64)
    x = np.outer(age - 50, [0.1, -0.1]) + rng.normal(size=(64, 2))
    if binary:
        x = (x > 0).astype(float)

    def trained(context):
        data = pv.Dataset(x, context=context)
        likelihood = likelihoods.Bernoulli(2) if binary else likelihoods.Gaussian(2)
        with pv.seeded(0):
            prior = priors.LearnedNormal(1, context_dim=1)
            model = pv.Model(prior, likelihood, nn.Linear(2, 4), context_dim=1)
            guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, nn.Linear(3, 4), context_dim=1)
        training = pv.Training(num_epochs=3, batch_size=16, progress=False)
        return pv.fit(model, guide, data, training=training).history["train"]

    np.testing.assert_allclose(trained(365 * age), trained(age), rtol=1e-4)


def test_a_model_standardises_its_covariates():
    age = np.random.default_rng(0).normal(50, 15, size=64)
    units = []
    for context in (age, 365 * age - 7000):
        data = pv.Dataset(np.zeros((64, 2)), context=context)
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(2), start=data)
        units.append(model.covariates(data.context))
    torch.testing.assert_close(*units, rtol=1e-4, atol=1e-4)
    assert units[0].std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


def test_indicators_keep_their_values_and_units_travel_with_the_weights(tmp_path):
    data = pv.Dataset(PEOPLE, **TAKEN)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=data)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data)
    units = model.covariates(data.context)
    assert torch.equal(units[:, [0, 1, 3, 4, 5, 6]], data.context[:, [0, 1, 3, 4, 5, 6]])
    torch.testing.assert_close(units[:, 2].mean(), torch.tensor(0.0))
    path = pv.save_weights(tmp_path / "weights.pt", model, guide)
    other = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), context_dim=7)
    pv.load_weights(path, other, pv.Guide(posteriors.MeanFieldNormal(1), 2, context_dim=7))
    assert torch.equal(other.covariates(data.context), units)


# -- counterfactuals
# ----------------------------------------------------------------------------------------------

LOADING = torch.tensor([[1.0], [-0.5], [2.0]])
EFFECTS = torch.tensor([[3.0, 1.0, 0.2], [0.0, -2.0, 0.1], [1.0, 1.0, -0.1]])  # f, m, age
NOISE = 0.5


def linear_gaussian(data):
    """x = W z + B c + e, its exact posterior (moved, so that weights matter), and E[z given x]."""
    likelihood = likelihoods.Gaussian(3, scale=NOISE)
    model = pv.Model(priors.StandardNormal(1), likelihood, nn.Identity(), context_dim=3)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, nn.Identity(), context_dim=3)
    precision = 1 + LOADING.square().sum() / NOISE**2
    slopes = (LOADING.T / NOISE**2 / precision) @ torch.cat([torch.eye(3), -EFFECTS], dim=1)
    decoder, encoder = model.likelihood.link.linear, guide.posterior.link.linear
    with torch.no_grad():
        decoder.weight.copy_(torch.cat([LOADING, EFFECTS], dim=1))
        decoder.bias.zero_()
        encoder.weight.copy_(torch.cat([slopes, torch.zeros_like(slopes)]))
        encoder.bias.copy_(torch.tensor([0.1, (1.3 * precision.rsqrt()).expm1().log().item()]))
    mean = torch.cat([data.x, data.context], dim=1) @ slopes.T
    return model, guide, mean, 1 / precision


def test_a_counterfactual_keeps_z_and_changes_the_covariates():
    generator = torch.Generator().manual_seed(0)
    frame = pandas.DataFrame(torch.randn(4, 3, generator=generator).numpy(), columns=list("abc"))
    frame = frame.assign(sex=["f", "m", "m", "f"], age=[30.0, 40.0, 50.0, 60.0])
    data = pv.Dataset(frame, context=["sex", "age"])
    model, guide, mean, variance = linear_gaussian(data)
    found = pv.counterfactual(
        model, guide, data, {"sex": "f", "age": frame["age"] + 1}, num_samples=4000
    )
    context = torch.tensor([[1.0, 0.0, age + 1] for age in frame["age"]])
    expected = mean @ LOADING.T + context @ EFFECTS.T
    sd = (variance * LOADING[:, 0].square() + NOISE**2).sqrt()
    error = sd / 4000**0.5 + 0.02 * variance.sqrt() * LOADING[:, 0].abs()
    assert (np.abs(found.mean - expected.numpy()) < 4 * error.numpy()).all()
    np.testing.assert_allclose(found.draws.std(0), sd.expand(4, 3), rtol=0.05)
    low, high = found.interval(0.9)
    np.testing.assert_allclose(high - low, 2 * 1.645 * sd.expand(4, 3), rtol=0.08)
    assert found.to_frame().loc[(0, 2), "b"] == found.draws[0, 2, 1]
    assert repr(found) == "Counterfactual(4 rows, 4000 draws each, k-hat > 0.7 for 0 % of the rows)"
    with pytest.raises(ValueError, match="'data' has no covariates"):
        pv.counterfactual(*vae(3), data.x, {"sex": "f"})


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"age": [1, 2]}, "'age' was given values of shape (2,) for 4 rows: give one for all rows"),
        ({"sex": ["f", "m"]}, "covariate 'sex' was given values of shape (2,) for 4 rows"),
        ({"age": [30, 40, np.inf, 50]}, "context is inf at row 2, covariate age"),
        (70, "context is 70: give values by column, as in {'sex': ...}, or all covariates, (4, 3)"),
        ("age", "context is 'age': give values by column"),
    ],
)
def test_other_covariates_that_do_not_fit_are_named(context, said):
    frame = pandas.DataFrame({"x": np.arange(4.0), "sex": list("fmmf"), "age": [30.0, 40, 50, 60]})
    data = pv.Dataset(frame, context=["sex", "age"])
    with pytest.raises(ValueError, match=re.escape(said)):
        data.with_context(context)


def test_other_covariates_are_taken_in_the_order_of_the_rows_whatever_their_index():
    frame = pandas.DataFrame({"x": np.arange(3.0), "age": [30.0, 40, 50]}, index=list("uvw"))
    data = pv.Dataset(frame, context="age")
    assert data.with_context({"age": frame["age"] + 1}).context[:, 0].tolist() == [31, 41, 51]


def test_columns_are_named_by_whole_numbers_too():
    frame = pandas.DataFrame(np.arange(20.0).reshape(5, 4))
    data = pv.Dataset(frame, context=[1, 3], weights=2)
    assert data.columns == {"x": ("0",), "context": ("1", "3")}
    assert data.context[0].tolist() == [1, 3]
    assert pv.Dataset(frame, context=1).context[:, 0].tolist() == frame[1].tolist()
    values = pv.Dataset(frame, context=[0, 0, 1, 1, 1])  # one for each row
    assert values.context[:, 0].tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="x has no column 7 for context"):
        pv.Dataset(frame, context=[7])


def test_a_counterfactual_fills_missing_entries_and_has_no_mean_of_categories():
    frame = pandas.DataFrame({"a": ["u", "v", "u"], "b": [0, 1, 1], "dose": [0.0, 1.0, 2.0]})
    data = pv.Dataset(frame, context="dose")
    data.x[0, 1] = torch.nan
    model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(2), start=data)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data)
    found = pv.counterfactual(model, guide, data, {"dose": 1.0}, num_samples=10)
    assert np.isin(found.draws, (0, 1)).all()
    assert np.isnan(found.mean[:, 0]).all()
    assert np.isfinite(found.mean[:, 1]).all()
    assert set(found.to_frame()["a"]) == {"u", "v"}


# -- tables of other libraries
# --------------------------------------------------------------------------------------------------

PATIENTS = pandas.DataFrame(
    {
        "age": pandas.array([41, None, 39, 2**53 + 1], dtype="Int64"),
        "sex": ["male", "female", None, "male"],
        "ill": pandas.array([True, None, False, True], dtype="boolean"),
        "dose": [0.5, float("nan"), 1.5, 2.5],
        "weight": [1.0, 2.0, 3.0, 4.0],
    }
)


class Foreign:
    """A table of a library that can be converted, and that NumPy reads without its names."""

    def __init__(self, frame):
        self.frame = frame
        self.columns = list(frame)

    def __array__(self, dtype=None, copy=None):
        return self.frame.to_numpy(dtype)

    def to_pandas(self):
        return self.frame.copy()


def arrow(frame):
    """A table of pyarrow without what pandas notes of its types."""
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def polars(frame):
    return pytest.importorskip("polars").from_arrow(arrow(frame))


def named_array(frame):
    return xarray.DataArray(frame.to_numpy(), dims=["person", "what"], coords={"what": list(frame)})


FOREIGN = {"stand-in": Foreign, "pyarrow": arrow, "polars": polars}


@pytest.mark.parametrize("convert", FOREIGN.values(), ids=FOREIGN)
def test_a_table_of_another_library_is_the_same_frame_of_pandas(convert):
    """Names, types, levels, missing values, and columns that have another role."""
    for options in ({}, {"labels": "sex"}, {"weights": "weight"}):
        found, expected = (
            pv.Dataset(each, dtype=torch.float64, **options)
            for each in (convert(PATIENTS), PATIENTS)
        )
        assert found.schema == expected.schema
        np.testing.assert_array_equal(found.exact, expected.exact)
        assert str(found.labels) == str(expected.labels)
        assert str(found.weights) == str(expected.weights)
    rest = PATIENTS[["dose"]]
    beside = pv.Dataset(rest, context=convert(PATIENTS[["weight"]]))
    assert beside.schema == pv.Dataset(rest, context=PATIENTS[["weight"]]).schema
    assert pv.Dataset(convert(PATIENTS), context=["weight"]).context_names == ("weight",)


@pytest.mark.parametrize("convert", [*FOREIGN.values(), named_array], ids=[*FOREIGN, "xarray"])
def test_columns_of_another_library_are_matched_by_name(convert):
    """Rows, covariates, entries and rows of scikit-learn, in every order of the columns."""
    frame = pandas.DataFrame(
        np.random.default_rng(0).normal([0, 9, 99], size=(40, 3)), columns=[*"abc"]
    )
    data = pv.Dataset(frame)
    given = pv.Dataset(frame[["a"]], context=frame[["b", "c"]])
    fitted = VAE(latent_dim=1, max_steps=2, random_state=0).fit(frame)
    for order in itertools.permutations("abc"):
        other = convert(frame[list(order)])
        assert torch.equal(new_rows(other, data.schema).x, data.x)
        assert data.hiding(convert(frame[list(order)] > 50)).x.isnan().sum() == 40
        if order != tuple("abc"):
            with pytest.raises(ValueError, match="order|there"):
                fitted.score_samples(other)
    swapped = new_rows(frame[["a"]].to_numpy(), given.schema, convert(frame[["c", "b"]]))
    assert torch.equal(swapped.context, given.context)
    changed = given.with_context(convert(frame[["c", "b"]]))
    assert torch.equal(changed.context, given.context)


def test_a_table_without_rows_is_collected_first():
    class Lazy:
        def collect_schema(self):
            return {}

    with pytest.raises(TypeError, match=r"x is a Lazy without rows: give .collect\(\)"):
        pv.Dataset(Lazy())
    with pytest.raises(ConfigError, match=r"give .collect\(\)"):
        new_rows(Lazy(), pv.Dataset(PATIENTS[["dose"]]).schema)
