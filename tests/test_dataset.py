"""Data sets and readers: what comes in is what is there, by name; what is wrong is named."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import Dataset, as_dataset, read

NAN = float("nan")


def grey(num_data=50, event=(6,), seed=0):
    x = np.random.default_rng(seed).uniform(size=(num_data, *event))
    x[3].flat[1] = x[-1].flat[0] = NAN
    return x


# -- what comes in
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["numpy", "torch", "list", "pandas", "xarray", "masked"])
def test_every_container_gives_the_same_data(kind, dtype):
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    x = grey()
    containers = {
        "numpy": lambda: x,
        "torch": lambda: torch.from_numpy(x),
        "list": lambda: [[None if np.isnan(v) else v for v in row] for row in x],
        "pandas": lambda: pandas.DataFrame(x),
        "xarray": lambda: xarray.DataArray(x, dims=("datum", "feature")),
        "masked": lambda: np.ma.masked_invalid(x),
    }
    data = Dataset(containers[kind](), dtype=dtype)
    torch.testing.assert_close(data.x, torch.tensor(x, dtype=dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(data.mask, torch.tensor(~np.isnan(x)))
    assert (len(data), data.event_shape, data.dims) == (50, (6,), ("datum", "feature"))
    assert data.train is data


def test_integers_booleans_and_vectors_are_data():
    assert Dataset(np.array([[0, 255]], np.uint8)).x.tolist() == [[0.0, 255.0]]
    assert Dataset([True, False]).x.tolist() == [[1.0], [0.0]]


def test_pandas_names_are_kept_and_missing_values_are_nan():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"age": pandas.array([31, None], dtype="Int64"), "ill": [True, False]}, index=["eve", "bob"]
    )
    data = Dataset(frame, context=pandas.Series([1.0, 2.0], index=["eve", "bob"], name="dose"))
    assert data.coords["feature"].tolist() == ["age", "ill"]
    assert data.coords["datum"].tolist() == ["eve", "bob"]
    assert data.mask.tolist() == [[True, True], [False, True]]
    assert data.context_names == ("dose",)
    assert data[[1]].coords["datum"].tolist() == ["bob"]


def test_pandas_rows_in_another_order_are_refused():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame({"a": [1.0, 2.0]}, index=["eve", "bob"])
    with pytest.raises(
        ValueError, match="row 0 is eve in x and bob in context: reindex one like the other"
    ):
        Dataset(x, context=x.iloc[::-1])


def test_xarray_dims_and_coords_are_kept():
    xarray = pytest.importorskip("xarray")
    x = xarray.DataArray(
        np.zeros((3, 2, 4)),
        dims=("row", "datum", "column"),
        coords={"datum": ["a", "b"], "row": [5, 6, 7]},
    )
    data = Dataset(x)
    assert data.dims == ("datum", "row", "column")
    assert (data.event_shape, data.image_shape) == ((3, 4), (3, 4))
    assert data.coords["row"].tolist() == [5, 6, 7]
    assert data.coords["column"].tolist() == [0, 1, 2, 3]
    assert data[1].coords["datum"].tolist() == ["b"]


@pytest.mark.parametrize(
    ("event", "dims"),
    [
        ((2,), ("feature",)),
        ((2, 3), ("row", "column")),
        ((1, 2, 3), ("channel", "row", "column")),
        ((1, 2, 3, 4), ("dim_0", "dim_1", "dim_2", "dim_3")),
    ],
)
def test_dims_are_named_by_the_shape_of_an_event(event, dims):
    data = Dataset(np.zeros((5, *event)))
    assert data.dims == ("datum", *dims)
    assert {dim: len(names) for dim, names in data.coords.items()} == dict(
        zip(data.dims, (5, *event), strict=True)
    )


def test_the_source_is_copied():
    for source in (np.zeros((2, 2), np.float32), torch.zeros(2, 2)):
        data = Dataset(source)
        source[:] = 1
        assert (data.x == 0).all()


def test_a_row_with_everything_missing_is_data():
    assert Dataset([[NAN, NAN], [1.0, 2.0]]).describe()["missing"] == 0.5


def test_context_becomes_two_dimensional_and_follows_the_rows():
    data = Dataset(np.zeros((4, 2)), context=[1, 2, 3, 4], labels=["a", "b", "c", "d"])
    assert data.context.tolist() == [[1.0], [2.0], [3.0], [4.0]]
    part = data[torch.tensor([3, 1])]
    assert (part.context.tolist(), part.labels.tolist()) == ([[4.0], [2.0]], ["d", "b"])


@pytest.mark.parametrize(
    "index",
    [slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([1, 2]), [False, True, True, False]],
)
def test_rows_by_any_index(index):
    data = Dataset(np.arange(8.0).reshape(4, 2), datum_names=list("abcd"))
    part = data[index]
    assert part.x.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert part.coords["datum"].tolist() == ["b", "c"]
    assert len(data[-1]) == 1
    with pytest.raises(IndexError):
        data[4]


def test_as_dataset_passes_a_dataset_through():
    data = Dataset(np.zeros((3, 2)))
    assert as_dataset(data) is data
    assert as_dataset(torch.zeros(3, 2, dtype=torch.float64)).x.dtype == torch.float64
    assert as_dataset(np.zeros((3, 2)), context=np.ones(3)).context.shape == (3, 1)
    with pytest.raises(ValueError, match="'data' is a Dataset and has its own context"):
        as_dataset(data, context=np.ones(3))


def test_to_moves_everything():
    data = Dataset(grey(), context=np.ones(50), binarize="dynamic").to("cpu", torch.float64)
    assert {data.x.dtype, data.context.dtype, data.intensity.dtype} == {torch.float64}
    assert data.to(device="meta").x.device.type == "meta"
    with pytest.raises(ValueError, match="torch.int64 cannot hold NaN"):
        data.to(dtype=torch.int64)


def test_repr_and_describe_say_what_is_there():
    data = Dataset(
        grey(), context=np.ones((50, 2)), labels=np.arange(50) % 3, binarize="static", name="rain"
    ).split(5, 10)
    assert repr(data) == (
        "Dataset('rain', 50 x (6,), 0.7% missing, context=['0', '1'], binarize='static', train 35 "
        "/ valid 5 / test 10)"
    )
    facts = data.describe()
    assert (facts["num_data"], facts["event_shape"], facts["range"], facts["labels"]) == (
        50,
        (6,),
        (0.0, 1.0),
        3,
    )
    assert facts["splits"] == {"train": 35, "valid": 5, "test": 10}


# -- splits
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (5, 10), (0, 10), (0.1, 0), (0, 0)])
def test_splits_are_disjoint_complete_and_reproducible(valid, test):
    data = Dataset(grey()).split(valid, test, seed=1)
    rows = np.concatenate(list(data.splits.values()))
    assert sorted(rows) == list(range(50))
    sizes = {
        name: 5 if name == "valid" else 10
        for name, share in (("valid", valid), ("test", test))
        if share
    }
    assert data.describe()["splits"] == {"train": 50 - sum(sizes.values())} | sizes
    again, other = (
        Dataset(grey()).split(valid, test, seed=1),
        Dataset(grey()).split(valid, test, seed=2),
    )
    assert all(np.array_equal(data.splits[name], again.splits[name]) for name in data.splits)
    assert not sizes or not np.array_equal(data.splits["train"], other.splits["train"])


def test_test_rows_do_not_depend_on_the_validation_share():
    data = Dataset(grey())
    assert np.array_equal(data.split(0, 10).splits["test"], data.split(20, 10).splits["test"])


def test_parts_carry_their_rows():
    x = np.arange(20.0)[:, None]
    data = Dataset(x, labels=np.arange(20), context=x).split(5, 5)
    for name in ("train", "valid", "test"):
        part = getattr(data, name)
        assert np.array_equal(part.labels, data.splits[name])
        assert np.array_equal(part.x[:, 0], part.labels)
        assert np.array_equal(part.context[:, 0], part.labels)
        assert np.array_equal(part.coords["datum"], part.labels)
    assert data.train is data.train
    assert data.test.splits == {}


def test_missing_splits_name_the_remedy():
    data = Dataset(grey(), name="rain")
    for part in (data, data.split(valid=0, test=5)):
        with pytest.raises(
            ValueError, match=r"'rain' has no valid rows: make them with data.split\("
        ):
            _ = part.valid
    with pytest.raises(ValueError, match="valid=30 and test=20 rows leave none of 50"):
        data.split(30, 20)
    with pytest.raises(
        ValueError, match=r"test=1.5 is neither a fraction in \[0, 1\) nor a number of rows"
    ):
        data.split(0.1, 1.5)


@pytest.mark.parametrize("labels", [[3, 1, 0, 2], [1, 2, 3, 4], list("abcd")])
def test_labels_of_pandas_are_not_row_numbers(labels):
    """Booleans in the order of the frame, row numbers and arrays are."""
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]}, index=labels)
    data = Dataset(frame)
    large = frame["a"] > 1.5
    rows = [2, 3]
    for given in (large, large.astype("boolean"), large.to_numpy(), rows, pd.Series(rows)):
        assert data[given].x.flatten().tolist() == rows
        assert Dataset(frame, splits={"test": given}).test.x.flatten().tolist() == rows
    said = {"row 0 is": large[::-1], "not row numbers": frame[large].index}
    for message, given in said.items():
        with pytest.raises(ValueError, match=message):
            data[given]
        with pytest.raises(ValueError, match=message):
            Dataset(frame, splits={"test": given})


def test_row_numbers_may_come_from_an_index_that_counts_the_rows():
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]})
    given = frame[frame["a"] > 1.5].index
    assert Dataset(frame, splits={"test": given}).test.x.flatten().tolist() == [2, 3]
    assert Dataset(frame.to_numpy())[given].x.flatten().tolist() == [2, 3]


def test_given_splits_are_checked():
    x = np.zeros((4, 2))
    mask = np.array([True, False, False, True])
    assert Dataset(x, splits={"train": ~mask, "test": mask}).splits["test"].tolist() == [0, 3]
    with pytest.raises(ValueError, match="row 1 is 2 times in the splits train, test"):
        Dataset(x, splits={"train": [0, 1], "test": [1]})
    with pytest.raises(ValueError, match="splits name row 9, x has rows 0 to 3"):
        Dataset(x, splits={"train": [0, 9]})


@pytest.mark.parametrize(("num_data", "num_folds", "valid"), [(11, 3, 0), (10, 10, 0), (20, 4, 3)])
def test_folds_hold_out_each_row_once(num_data, num_folds, valid):
    data = Dataset(np.arange(float(num_data)), labels=np.arange(num_data))
    folds = data.folds(num_folds, valid=valid, seed=1)
    assert len(folds) == num_folds
    held_out = np.concatenate([fold.test.labels for fold in folds])
    assert sorted(held_out) == list(range(num_data))
    assert np.ptp([len(fold.test) for fold in folds]) <= 1
    for fold in folds:
        rows = np.concatenate(list(fold.splits.values()))
        assert sorted(rows) == list(range(num_data))
        assert len(fold.splits.get("valid", [])) == valid
    again, other = data.folds(num_folds, seed=1), data.folds(num_folds, seed=2)
    assert np.array_equal(again[0].test.labels, folds[0].test.labels)
    assert not np.array_equal(again[0].test.labels, other[0].test.labels)


def test_folds_are_two_and_no_more_than_the_rows():
    with pytest.raises(ValueError, match="num_folds=6 is more than the 5 rows: give fewer"):
        Dataset(np.zeros(5)).folds(6)
    with pytest.raises(ValueError, match="num_folds is 1; it must be a whole number, at least 2"):
        Dataset(np.zeros(5)).folds(1)


# -- binarisation
# --------------------------------------------------------------------------------------------------


def test_dynamic_binarisation_draws_afresh_with_the_grey_value_as_mean():
    data = Dataset(grey(20, (5,)), binarize="dynamic")
    generator = torch.Generator().manual_seed(0)
    bits = torch.stack([data.draw(generator) for _ in range(2000)])
    seen = data.mask
    assert not torch.equal(bits[0][seen], bits[1][seen])
    assert bits[:, ~seen].isnan().all()
    assert set(bits[:, seen].unique().tolist()) == {0.0, 1.0}
    p = data.intensity[seen]
    error = (p * (1 - p) / 2000).sqrt()  # 98 entries, 4 standard errors each: level 0.6 %
    assert ((bits[:, seen].mean(0) - p).abs() < 4 * error).all()
    assert torch.equal(
        data.draw(torch.Generator().manual_seed(5)).nan_to_num(9),
        data.draw(torch.Generator().manual_seed(5)).nan_to_num(9),
    )


def test_a_row_has_the_same_evaluation_bits_in_every_split_and_subset():
    data = Dataset(grey(60, (4, 3)), binarize="dynamic", seed=3)
    for split in (data.split(10, 20, seed=0), data.split(20, 10, seed=1)):
        for name, rows in split.splits.items():
            assert torch.equal(getattr(split, name).x.nan_to_num(9), data.x[rows].nan_to_num(9))
    assert torch.equal(data[7].x, data.x[7:8])
    assert torch.equal(data.flatten().x.nan_to_num(9), data.x.flatten(1).nan_to_num(9))
    assert torch.equal(
        Dataset(grey(60, (4, 3)), binarize="static", seed=3).x.nan_to_num(9), data.x.nan_to_num(9)
    )
    assert not torch.equal(
        Dataset(grey(60, (4, 3)), binarize="static", seed=4).x.nan_to_num(9), data.x.nan_to_num(9)
    )


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_binarised_evaluation_data_are_fixed_bits_with_nan_where_missing(binarize):
    x = torch.tensor(grey(), dtype=torch.float32)
    data = Dataset(x, binarize=binarize)
    assert torch.equal(data.x.isnan(), x.isnan())
    assert torch.equal(data.intensity.nan_to_num(9), x.nan_to_num(9))
    assert set(data.x[data.mask].tolist()) == {0.0, 1.0}
    if binarize != "dynamic":
        assert data.draw(torch.Generator()) is data.x


def test_threshold_and_certain_pixels():
    x = [[0.0, 1.0, 0.49, 0.5]]
    assert Dataset(x, binarize="threshold").x.tolist() == [[0.0, 1.0, 0.0, 1.0]]
    certain = Dataset([[0.0, 1.0]] * 100, binarize="dynamic").draw(torch.Generator().manual_seed(0))
    assert certain.tolist() == [[0.0, 1.0]] * 100


def test_bits_leave_the_global_stream_alone():
    before = torch.random.get_rng_state()
    Dataset(grey(), binarize="dynamic").split().draw(torch.Generator())
    assert torch.equal(before, torch.random.get_rng_state())


# -- what is wrong is named
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "build"),
    [
        (
            ValueError,
            r"context has shape \(3, 1\), x has 2 rows",
            lambda: Dataset(np.zeros((2, 1)), context=[1, 2, 3]),
        ),
        (
            ValueError,
            r"labels have shape \(3,\), x has 2 rows",
            lambda: Dataset(np.zeros((2, 1)), labels=[1, 2, 3]),
        ),
        (
            ValueError,
            "x is -inf at row 1, feature b: x takes finite numbers",
            lambda: Dataset([[1, 2], [3, -np.inf]], feature_names=["a", "b"]),
        ),
        (ValueError, r"x is inf at row 0, feature \(1, 0\)", lambda: Dataset([[[1.0], [np.inf]]])),
        (ValueError, "x is inf at row 0, feature 0", lambda: Dataset([[1e300]])),
        (
            ValueError,
            "context is nan at row 1, covariate 0: it must be complete",
            lambda: Dataset(np.zeros((2, 1)), context=[1.0, NAN]),
        ),
        (ValueError, r"x of shape \(0, 2\) is empty", lambda: Dataset(np.zeros((0, 2)))),
        (ValueError, r"x of shape \(0, 1\) is empty", lambda: Dataset([])),
        (ValueError, "x is the single number 3.0", lambda: Dataset(3.0)),
        (
            ValueError,
            "selects none of the 2 rows of 'data'",
            lambda: Dataset(np.zeros((2, 1)))[[False, False]],
        ),
        (
            ValueError,
            r"x is 200 at row 0, feature 1: binarize takes grey values in \[0, 1\]; divide",
            lambda: Dataset([[0.0, 200.0]], binarize="dynamic"),
        ),
        (
            ValueError,
            "binarize is 'random'; it must be 'dynamic', 'static'",
            lambda: Dataset([[0.0]], binarize="random"),
        ),
        (
            ValueError,
            "feature_names has 1 names, x has 2",
            lambda: Dataset(np.zeros((2, 2)), feature_names=["a"]),
        ),
        (
            ValueError,
            "datum_names has 1 names, x has 2",
            lambda: Dataset(np.zeros((2, 2)), datum_names=["a"]),
        ),
        (
            ValueError,
            r"feature_names name one dim, an event has shape \(2, 2\): give an xarray DataArray",
            lambda: Dataset(np.zeros((2, 2, 2)), feature_names=["a", "b"]),
        ),
        (
            ValueError,
            r"image_shape \(2, 2\) does not hold the 5",
            lambda: Dataset(np.zeros((2, 5)), image_shape=(2, 2)),
        ),
        (
            ValueError,
            "dtype torch.int64 cannot hold NaN",
            lambda: Dataset([[1]], dtype=torch.int64),
        ),
        (TypeError, "x of type list is not an array of numbers", lambda: Dataset([[1, 2], [3]])),
        (TypeError, "x holds <U1: real numbers needed", lambda: Dataset([["a"]])),
        (TypeError, "x holds complex128: real numbers", lambda: Dataset(np.zeros((1, 1), complex))),
    ],
)
def test_errors_are_one_line_and_name_the_place(error, message, build):
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


# -- readers
# --------------------------------------------------------------------------------------------------


def test_npz_and_npy_round_trip(tmp_path):
    x = grey()
    np.savez(tmp_path / "a.npz", x=x, context=np.ones((50, 2)), labels=np.arange(50))
    np.save(tmp_path / "b.npy", x)
    data = read(tmp_path / "a.npz", dtype=torch.float64)
    np.testing.assert_array_equal(data.x, x)
    assert (data.context.shape, data.labels.tolist(), data.name) == ((50, 2), list(range(50)), "a")
    np.testing.assert_array_equal(read(tmp_path / "b.npy", dtype=torch.float64).x, x)


def test_npz_parts_become_splits(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=np.zeros((5, 2)),
        x_test=np.ones((3, 2)),
        y_train=np.zeros(5),
        y_test=np.ones(3),
    )
    data = read(tmp_path / "a.npz", binarize="threshold")
    assert data.describe()["splits"] == {"train": 5, "test": 3}
    assert (data.test.x == 1).all()
    assert (data.test.labels == 1).all()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_round_trip(tmp_path, suffix):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / f"rain{suffix}"
    frame = pandas.DataFrame(
        {"may": [1.5, NAN], "site": ["A", "B"], "june": [0.25, 2.0], "height": [10.0, 20.0]}
    )
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    data = read(path, label="site", context=["height"])
    assert data.coords["feature"].tolist() == ["may", "june"]
    assert data.x[:, 1].tolist() == [0.25, 2.0]
    assert data.mask.tolist() == [[True, True], [False, True]]
    assert (data.labels.tolist(), data.context.tolist()) == (["A", "B"], [[10.0], [20.0]])
    assert data.context_names == ("height",)
    with pytest.raises(
        KeyError, match="no column 'town' for label: Allowed: may, site, june, height"
    ):
        read(path, label="town")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    objects = np.array([{"a": 1}], dtype=object)
    if name == "a.npy":
        np.save(tmp_path / name, objects, allow_pickle=True)
    else:
        np.savez(tmp_path / name, x=objects)
    with pytest.raises(ValueError, match="pickled objects, which are refused"):
        read(tmp_path / name)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.npz: no such file"):
        read(tmp_path / "a.npz")
    with pytest.raises(
        ValueError, match="suffix '.pkl' is unknown, use one of .npz, .npy, .csv, .parquet"
    ):
        read(tmp_path / "a.pkl")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and then nothing")
    for name in ("empty.npz", "torn.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read(tmp_path / name)
    np.savez(tmp_path / "b.npz", z=np.zeros(3))
    with pytest.raises(KeyError, match="no array 'x' or 'x_train' among z"):
        read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.zeros(3))
    with pytest.raises(KeyError, match="no array 'colour' among x"):
        read(tmp_path / "c.npz", label="colour")


@pytest.mark.parametrize(
    "line", ["import ppl_vae.data", "from ppl_vae import Model, Guide, fit, likelihoods"]
)
def test_an_import_loads_no_library_that_is_not_needed_yet(line):
    code = (
        f"import sys; {line}; "
        "print({'pandas', 'xarray', 'sklearn', 'pooch', 'scipy'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


def test_other_values_of_x_are_matched_by_label_and_column():
    frame = pd.DataFrame({"dose": [1.0, 2.0], "age": [30.0, 40.0]}, index=["a", "b"])
    data = Dataset(frame, labels=["x", "y"], weights=[1.0, 2.0])
    other = data.with_x(frame[["age", "dose"]] + 1)
    assert other.x.tolist() == [[2.0, 31.0], [3.0, 41.0]]
    assert other.labels.tolist() == ["x", "y"]
    assert other.weights.tolist() == [1.0, 2.0]
    assert other.kinds == data.kinds
    assert data.x.tolist() == [[1.0, 30.0], [2.0, 40.0]]
    assert data.with_x([[1.0, np.nan], [2.0, 3.0]]).mask.tolist() == [[True, False], [True, True]]
    with pytest.raises(ValueError, match="x has shape"):
        data.with_x([[1.0, 2.0]])
    with pytest.raises(ValueError, match="rows"):
        data.with_x(frame.iloc[::-1])
    for wrong in ([["a", 1], ["b", 2]], [[np.inf, 1.0], [0.0, 0.0]]):
        with pytest.raises(ValueError, match="give finite numbers"):
            data.with_x(wrong)
    reversed_columns = np.array([[False, True], [True, True]])[:, ::-1]
    assert data.hiding(reversed_columns).x.isnan().tolist() == [[True, False], [True, True]]
