"""What is written for a row has its cells as they were given: digits, levels, names, types."""

import numpy as np
import pandas as pd
import pytest

import ppl_vae as pv
from ppl_vae.data.tables.files import Roles
from ppl_vae.experiment.rows.contrasted import contrast_file
from ppl_vae.experiment.rows.denoised import denoise_file
from ppl_vae.experiment.rows.imputed import impute_file
from ppl_vae.experiment.rows.latents import write_latents
from ppl_vae.experiment.saved.run import SavedRun
from ppl_vae.sklearn import VAE, VAEImputer
from ppl_vae.tasks.denoising import GaussianNoise

BIG = 10**18 + 7
FEW = {"num_imputations": 2, "num_particles": 50, "method": "importance", "progress": False}


def table(num=60, seed=0):
    rng = np.random.default_rng(seed)
    stamp = BIG + 1000 * rng.integers(0, 10**12, num)
    grade = pd.Categorical(rng.choice([1, 2, 3], num), ordered=True)
    return pd.DataFrame({"stamp": stamp, "x": rng.normal(size=num).round(3), "grade": grade})


@pytest.fixture(scope="module")
def run():
    """An untrained run of a table: what is written does not depend on the weights."""
    frame = table().astype({"grade": "int64"})
    with pv.seeded(0):
        recipe = pv.recipe(pv.Dataset(frame), num_steps=1, progress=False)
        recipe.fit()
    return SavedRun.of(recipe.model, recipe.guide, pv.Dataset(frame))


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*not reliable", "ignore:.*few rows", "ignore:.*rounded", "ignore:.*round"
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".parquet"])
def test_digits_of_kept_whole_numbers_are_kept(run, tmp_path, suffix, target):
    frame = table(6).astype({"stamp": "Int64", "grade": "int64"})
    frame.loc[2, "stamp"] = pd.NA
    frame.loc[4, "x"] = np.nan
    frame["word"] = ["NA", "null", "a", "b", "c", "d"]
    source = tmp_path / f"new{suffix}"
    frame.to_csv(source, index=False) if suffix == ".csv" else frame.to_parquet(source)
    kept = [0, 1, 3, 4, 5]
    output = tmp_path / f"out{target}"
    impute_file(run, source, output, **FEW).write(output)
    read = pd.read_parquet if target == ".parquet" else lambda p: pd.read_csv(p, na_filter=False)
    found = read(output)
    for number in (1, 2):
        part = found[found[".imp"] == number].reset_index(drop=True)
        assert [int(each) for each in part["stamp"][kept]] == frame["stamp"][kept].tolist()
        assert part["word"].tolist() == frame["word"].tolist()
    output = tmp_path / f"clean{target}"
    noise = GaussianNoise(0.1)
    denoise_file(run, source, noise, output, ["x"], **FEW).write(output)
    column = read(output)["stamp"]
    assert [int(each) for each in column[kept]] == frame["stamp"][kept].tolist()
    assert pd.isna(column[2]) or column[2] == ""


def test_a_column_of_floats_stays_one(run, tmp_path):
    frame = table(4).astype({"grade": "float64"})
    frame["x"] = [1.0, -0.0, np.nan, 2.0]
    found = impute_file(run, frame, tmp_path / "out.parquet", **FEW).table(0)
    assert found["x"].dtype == np.float64
    assert np.signbit(found["x"][1])


def test_imputed_numbers_may_be_larger_than_whole_ones_of_64_bits(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"mass": rng.gamma(2, 1e22, 60), "x": rng.normal(size=60)})
    recipe = pv.recipe(pv.Dataset(frame), num_steps=1, progress=False)
    recipe.fit()
    run = SavedRun.of(recipe.model, recipe.guide, pv.Dataset(frame))
    frame.loc[0, "mass"] = np.nan
    frame.to_csv(tmp_path / "new.csv", index=False)
    output = tmp_path / "out.csv"
    impute_file(run, tmp_path / "new.csv", output, **FEW).write(output)
    assert pd.read_csv(output)["mass"].notna().all()


def test_names_of_rows_are_kept_by_every_form(run, tmp_path):
    frame = table(3).astype({"grade": "int64"}).set_axis(["eve", "bob", "eve"])
    frame.iloc[1, 1] = np.nan
    frame.to_parquet(tmp_path / "new.parquet")
    made = impute_file(run, tmp_path / "new.parquet", tmp_path / "out.parquet", **FEW)
    assert made.long()[".id"].tolist() == ["eve", "bob", "eve"] * 2
    assert made.table(0).index.tolist() == ["eve", "bob", "eve"]
    files = made.write(tmp_path / "folder")
    assert pd.read_csv(files[0], index_col=0).index.tolist() == ["eve", "bob", "eve"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_without_a_value_is_filled_in_its_type(tmp_path, suffix):
    """Booleans as such and levels by name: an empty column is read as numbers."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "ill": rng.random(60) < 0.5})
    frame["site"] = rng.choice(["north", "south"], 60)
    recipe = pv.recipe(pv.Dataset(frame), num_steps=1, progress=False)
    recipe.fit()
    run = SavedRun.of(recipe.model, recipe.guide, pv.Dataset(frame))
    new = frame[:5].assign(ill=np.nan, site=np.nan)
    source, output = tmp_path / f"new{suffix}", tmp_path / f"out{suffix}"
    new.to_csv(source, index=False) if suffix == ".csv" else new.to_parquet(source)
    impute_file(run, source, output, **FEW).write(output)
    found = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert set(found["site"]) <= {"north", "south"}
    assert found["ill"].dtype in (bool, pd.BooleanDtype())


def test_truth_values_are_no_measurements(run, tmp_path):
    new = table(3).astype({"grade": "int64"}).assign(x=[True, False, True])
    with pytest.raises(ValueError, match="column 'x' of x has True and False"):
        run.read(new)
    new = new.assign(x=0.5, grade=[1, 2, 3])
    assert len(run.read(new)) == 3


def test_files_of_results_need_a_table(run, tmp_path):
    data = pv.Dataset(table(3).astype({"grade": "int64"}))
    calls = (
        lambda rows: impute_file(run, rows, tmp_path / "out.csv", **FEW),
        lambda rows: denoise_file(run, rows, GaussianNoise(0.1), tmp_path / "out.csv", **FEW),
        lambda rows: contrast_file(run, rows, "grade"),
    )
    for call in calls:
        for rows in (data, np.zeros((3, 3))):
            with pytest.raises(ValueError, match=f"rows is of type {type(rows).__name__}; give"):
                call(rows)


def test_a_folder_of_imputations_is_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    new = table(3).astype({"grade": "int64"})
    new.loc[0, "x"] = np.nan
    made = impute_file(run, new, tmp_path / "folder", **FEW)

    def second_fails(self, i):
        if i:
            raise OSError(28, "No space left on device")
        return table_of(self, i)

    table_of = type(made).table
    with monkeypatch.context() as patch:
        patch.setattr(type(made), "table", second_fails)
        with pytest.raises(OSError, match="disk full"):
            made.write(tmp_path / "folder")
    assert list(tmp_path.glob("**/*.csv")) == []
    assert len(made.write(tmp_path / "folder")) == 2


def test_categories_of_numbers_survive_a_parquet(tmp_path):
    frame = table()
    frame["site"] = pd.Categorical(np.arange(60) % 2 * 10)
    frame.to_parquet(tmp_path / "t.parquet")
    found = pv.read(tmp_path / "t.parquet")
    expected = pv.Dataset(frame)
    assert found.kinds == expected.kinds == ("count", "real", "ordered", "category")
    assert found.levels == expected.levels
    assert found.x.equal(expected.x)


def test_an_array_holds_no_levels_after_a_fit_to_categories():
    frame = table().drop(columns="stamp")
    options = {"max_steps": 5, "refine_steps": 0, "random_state": 0}
    for estimator, method in (
        (VAE(1, **options), "score_samples"),
        (VAE(1, **options), "transform"),
    ):
        getattr(estimator.fit(frame), method)(frame[:3])
        with pytest.raises(ValueError, match="column 'grade' held categories in the fit"):
            getattr(estimator, method)(frame[:3].astype(float).to_numpy())
    imputer = VAEImputer(1, **options).fit(frame)
    with pytest.raises(ValueError, match="held categories"):
        imputer.transform(frame[:3].astype(float).to_numpy())


def test_latents_of_rows_outside_the_support_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    counts = pd.DataFrame({"count": rng.poisson(3, 60), "x": rng.normal(size=60)})
    recipe = pv.recipe(pv.Dataset(counts), num_steps=1, progress=False)
    recipe.fit()
    run = SavedRun.of(recipe.model, recipe.guide, pv.Dataset(counts))
    counts["count"] = counts["count"].astype(float)
    counts.loc[1, "count"] = 2.5
    with pytest.raises(ValueError, match=r"2\.5"):
        write_latents(run, counts, tmp_path / "z.csv", progress=False)
    with pytest.raises(ValueError, match=r"2\.5"):
        VAE(1, max_steps=5).fit(counts[2:].astype({"count": int})).transform(counts)


def test_weights_of_an_npz_are_read(tmp_path):
    parts = {"x_train": np.ones((3, 2)), "x_test": np.zeros((2, 2))}
    weights = {"weights_train": np.arange(1.0, 4.0), "weights_test": np.ones(2)}
    np.savez(tmp_path / "a.npz", **parts, **weights)
    assert pv.read(tmp_path / "a.npz").weights.tolist() == [1.0, 2.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    ["height\n1,57\n1,62\n0,98\n", "t,y\n0,5,3\n0,7,4\n", "a,b\n1.5,7.25,7\n2.5,8.0,9\n"],
)
def test_parts_of_numbers_are_no_row_names(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match="numbers before it that name no rows.* quotation marks"):
        pv.read(tmp_path / "a.csv")
    named = "a,b\n1,0.5,1\n2,0.7,3\n7,0.9,2\n"  # as R writes a table
    (tmp_path / "a.csv").write_text(named)
    assert pv.read(tmp_path / "a.csv").row_labels.tolist() == [1, 2, 7]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"columns": ("p", "a"), "drop": ("a",)}, "'a' of f.csv is in columns and in drop"),
        ({"columns": ("p", "w"), "weights": "w"}, "'w' of f.csv is in columns and in weights"),
        ({"columns": ("p", "s"), "split": "s"}, "'s' of f.csv is in columns and in split"),
        ({"context": ("a",), "drop": ("a",)}, "'a' of f.csv is in context and in drop"),
        ({"context": ("w",), "weights": "w"}, "'w' of f.csv is in context and in weights"),
        ({"weights": "w", "drop": ("w",)}, "'w' of f.csv is in weights and in drop"),
        ({"label": "a", "drop": ("a",)}, "'a' of f.csv is in label and in drop"),
    ],
)
def test_a_column_has_one_role(roles, said):
    values = {"p": [0.5, 1.5], "a": [1, 2], "w": [1.0, 2.0], "s": ["train", "test"]}
    frame = pd.DataFrame(values)
    with pytest.raises(ValueError, match=said):
        Roles(**roles).fields(frame, "f.csv")
    labelled = Roles(columns=("p", "a"), label="a").fields(frame, "f.csv")
    assert list(labelled["x"]) == ["p", "a"]


@pytest.mark.parametrize("name", ["x_val", "weight", "labels", "contexts_train"])
def test_arrays_that_seem_to_be_misspelt_are_refused(tmp_path, name):
    arrays = {"x_train": np.ones((3, 2)), "x_test": np.zeros((2, 2)), "ids": np.arange(5)}
    np.savez(tmp_path / "a.npz", **arrays, **{name: np.ones(3)})
    with pytest.raises(KeyError, match=f"array '{name}' is none of x_train, x_test, labels"):
        pv.read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(pv.read(tmp_path / "a.npz")) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a,b\n1,2\n""\n3,4\n', "line 3 .* has 1 cell, not 2"),
        ("a;b, c;d\n1;2,5;3\n", "has 2 cells if ',' separates them, and 3 if ';' does"),
    ],
)
def test_lines_that_could_be_read_in_two_ways_are_refused(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        pv.read(tmp_path / "a.csv")
