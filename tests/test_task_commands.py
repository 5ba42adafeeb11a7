"""ppl-vae impute, anomaly, denoise and others: the rows of a new file, from runs of either kind."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import call, one_error
from test_mixed_columns import frame
from test_saved_runs import NUM_ROWS, ROOT

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.experiment import (
    ConfigError,
    SavedRun,
    calibration_rows,
    contrast_file,
    file_anomalies,
)
from ppl_vae.experiment.rows import sources
from ppl_vae.tasks.denoising import GaussianNoise

FAST = ["--method", "importance"]
UNRELIABLE = pytest.mark.filterwarnings("ignore:.*draws that are not reliable")  # of 20 steps
COLUMNS = ["income", "change", "visits", "region", "grade", "smokes"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A table to train on, and another with holes, a name for each row and a further column."""
    place = tmp_path_factory.mktemp("tables")
    rows = frame(2 * NUM_ROWS)
    rows["smokes"] = rows["smokes"].map({True: "yes", False: "no"})
    rows.iloc[:NUM_ROWS].to_csv(place / "train.csv", index=False)
    new = rows.iloc[NUM_ROWS:].reset_index(drop=True)
    holes = np.random.default_rng(0).random((NUM_ROWS, len(COLUMNS))) < 0.15
    new[COLUMNS] = new[COLUMNS].astype(object).mask(holes)
    new.insert(0, "id", [f"p{i}" for i in range(NUM_ROWS)])
    new["note"] = "kept"
    new.to_csv(place / "new.csv", index=False)
    return place


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """The folder of `ppl-vae fit`."""
    folder = tmp_path_factory.mktemp("runs") / "fitted"
    short = ["--num-steps", 20, "--set", "evaluation.num_particles=50", "--quiet", "--json"]
    result = call("fit", files / "train.csv", "--test", 20, "--output", folder, *short)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["num_data"] == 20
    assert str(folder / "README.md") in found["files"]
    return folder


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    """The same programs in a folder of `save_run`, without the rows."""
    found = pv.load_run(run)
    place = tmp_path_factory.mktemp("runs") / "saved"
    return pv.save_run(place, found.model, found.guide, found.data)


@pytest.fixture(params=["run", "saved"])
def folder(request):
    return request.getfixturevalue(request.param)


@UNRELIABLE
def test_imputations_are_those_of_python_in_the_form_of_mice(folder, files, tmp_path):
    output = tmp_path / "imputed.csv"
    options = ["-m", 2, *FAST, "--json", "--quiet"]
    result = call("impute", folder, files / "new.csv", "-o", output, *options)
    assert result.exit_code == 0, result.output
    original = pd.read_csv(files / "new.csv")
    figures = json.loads(result.stdout)
    assert figures["missing"] == int(original[COLUMNS].isna().sum().sum())
    assert figures["files"] == [str(output)]
    long = pd.read_csv(output)
    assert list(long) == [".imp", ".id", *original]
    assert long[".imp"].tolist() == [1] * NUM_ROWS + [2] * NUM_ROWS
    assert long[".id"].tolist() == 2 * [*range(1, NUM_ROWS + 1)]
    assert not long[COLUMNS].isna().any().any()
    trained = pv.load_run(folder)
    rows = trained.read(files / "new.csv")
    settings = {"num_imputations": 2, "method": "importance"}
    found = pv.impute(trained.model, trained.guide, rows, **settings)
    for i in range(2):
        part = long[long[".imp"] == i + 1].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[["id", "note"]], original[["id", "note"]])
        expected = found.complete(i).reset_index(drop=True)
        for name in ("region", "smokes"):
            assert part[name].tolist() == expected[name].tolist()
        np.testing.assert_allclose(
            part["income"].to_numpy(float), expected["income"].to_numpy(float), rtol=1e-6
        )


@UNRELIABLE
def test_the_original_comes_first_on_request_and_folders_hold_a_file_each(saved, files, tmp_path):
    new = files / "new.csv"
    options = ["-m", 2, *FAST, "--quiet", "--with-original"]
    output = tmp_path / "imputed.parquet"
    assert call("impute", saved, new, "-o", output, *options).exit_code == 0
    long = pd.read_parquet(output)
    assert long[".imp"].unique().tolist() == [0, 1, 2]
    first = long[long[".imp"] == 0]
    assert first["income"].isna().sum() == pd.read_csv(new)["income"].isna().sum()
    place = tmp_path / "several"
    assert call("impute", saved, new, "-m", 2, *FAST, "-o", place, "--quiet").exit_code == 0
    assert sorted(path.name for path in place.iterdir()) == ["imputation-1.csv", "imputation-2.csv"]
    again = call("impute", saved, new, "-m", 2, "-o", place)
    assert "is not empty: choose another folder" in one_error(again, 2)
    said = one_error(call("impute", saved, new, "-o", place, "--with-original"), 2)
    assert "--with-original" in said


@UNRELIABLE
def test_a_single_table_has_intervals_beside_what_was_imputed(saved, files, tmp_path):
    output = tmp_path / "single.csv"
    options = ["--single", "--level", 0.9, *FAST, "--quiet", "--json"]
    result = call("impute", saved, files / "new.csv", "-o", output, *options)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["num_imputations"] == 1
    found = pd.read_csv(output)
    original = pd.read_csv(files / "new.csv")
    hidden = original["income"].isna()
    assert (found["income.lower"].notna() == hidden).all()
    inside = found[hidden]
    assert (inside["income.lower"] < inside["income.upper"]).all()
    categories = found["region.probability"][original["region"].isna()]
    assert categories.between(1 / 3 - 1e-6, 1).all()
    assert found["region.probability"][original["region"].notna()].isna().all()


SPELLED = {"income": "{:.9f}", "visits": " {:.0f}.0", "id": "00{}", "big": "{}"}


def spelled(files, place, mark):
    """The new rows with cells that pandas would write in other ways, and holes marked so."""
    rows = pd.read_csv(files / "new.csv")
    rows["id"] = range(NUM_ROWS)
    rows["big"] = [2**60 + i for i in range(NUM_ROWS)]
    texts = pd.read_csv(files / "new.csv", dtype=str).assign(big="", version="1.10")
    for name, form in SPELLED.items():
        texts[name] = rows[name].map(form.format, na_action="ignore")
    texts["note"] = ["NA", "kept", "", "null"] * (NUM_ROWS // 4) + ["kept"] * (NUM_ROWS % 4)
    texts[COLUMNS] = texts[COLUMNS].fillna(mark)
    texts.to_csv(place / "spelled.csv", index=False)
    return texts, rows[COLUMNS].isna()


@UNRELIABLE
@pytest.mark.parametrize("mark", ["", "NA", " null "])
@pytest.mark.parametrize("form", [["-m", 2, "--with-original"], ["--single"], ["-m", 2]])
def test_only_holes_are_filled(saved, files, tmp_path, mark, form):
    before, holes = spelled(files, tmp_path, mark)
    output = tmp_path / ("several" if form == ["-m", 2] else "imputed.csv")
    result = call("impute", saved, tmp_path / "spelled.csv", "-o", output, *form, *FAST, "--quiet")
    assert result.exit_code == 0, result.output
    paths = sorted(output.iterdir()) if output.is_dir() else [output]
    after = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths])
    tables = [after.iloc[i : i + NUM_ROWS] for i in range(0, len(after), NUM_ROWS)]
    assert len(tables) == (1 if "--single" in form else 2 + ("--with-original" in form))
    for i, table in enumerate(tables):
        changed = table[list(before)].reset_index(drop=True) != before
        assert not changed.drop(columns=COLUMNS).any().any()
        expected = holes & (not (i == 0 and "--with-original" in form))
        pd.testing.assert_frame_equal(changed[COLUMNS], expected)
        for name in ("region", "grade", "smokes"):
            assert set(table[name]) <= {*before[name], *(() if expected.any().any() else [mark])}


@UNRELIABLE
def test_a_parquet_keeps_what_numbers_would_not(saved, files, tmp_path):
    before, holes = spelled(files, tmp_path, "NA")
    output = tmp_path / "imputed.parquet"
    result = call("impute", saved, tmp_path / "spelled.csv", "-o", output, "-m", 1, *FAST, "-q")
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(output)
    assert found["id"].tolist() == before["id"].tolist()
    assert found["version"].tolist() == before["version"].tolist()
    assert found["big"].tolist() == [2**60 + i for i in range(NUM_ROWS)]
    known = ~holes["income"]
    incomes = before["income"][known].astype(float)
    assert found["income"][known].tolist() == incomes.tolist()


@pytest.mark.parametrize("output", ["imputed.csv", "imputed.parquet", "several"])
@pytest.mark.parametrize("number", [10**9, 10**10])
def test_more_imputations_than_fit_are_refused_with_their_size(
    saved, files, tmp_path, output, number
):
    result = call("impute", saved, files / "new.csv", "-o", tmp_path / output, "-m", number)
    said = one_error(result, 1)
    assert "GB of memory" in said or "more than 10,000 files" in said
    assert not (tmp_path / output).exists()
    trained = pv.load_run(saved)
    rows = trained.read(files / "new.csv")
    with pytest.raises(ValueError, match=f"num_imputations={number} .* GB of memory"):
        pv.impute(trained.model, trained.guide, rows, num_imputations=number)


@UNRELIABLE
def test_denoised_rows_keep_their_other_cells(saved, files, tmp_path):
    before, _ = spelled(files, tmp_path, "NA")
    output = tmp_path / "clean.csv"
    options = ["--noise", "gaussian", "--sd", 1, "--columns", "change", *FAST, "-q", "-o", output]
    result = call("denoise", saved, tmp_path / "spelled.csv", *options)
    assert result.exit_code == 0, result.output
    found = pd.read_csv(output, dtype=str, keep_default_na=False)
    others = [name for name in before if name != "change"]
    pd.testing.assert_frame_equal(found[others], before[others])


def test_latents_are_those_of_the_guide(folder, files, tmp_path):
    output = tmp_path / "latents.csv"
    result = call("transform", folder, files / "new.csv", "-o", output, "--json", "--quiet")
    assert json.loads(result.stdout)["rows"] == NUM_ROWS
    found = pd.read_csv(output, index_col="row")
    assert found.index[0] == "p0"
    trained = pv.load_run(folder)
    q = trained.guide.encode(trained.read(files / "new.csv").x)
    means = found.iloc[:, ::2].to_numpy()
    np.testing.assert_allclose(means, q.mean.detach().numpy(), rtol=1e-5)
    sds = found.iloc[:, 1::2].to_numpy()
    np.testing.assert_allclose(sds, q.variance.sqrt().detach().numpy(), rtol=1e-5)


def test_scores_are_told_as_json(folder, files, tmp_path):
    output = tmp_path / "scores.csv"
    options = ["--num-particles", 40, "--json", "--quiet"]
    result = call("score", folder, files / "new.csv", "-o", output, *options)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    scores = pd.read_csv(output)
    assert figures["log_evidence"] == pytest.approx(scores["log_evidence"].mean())
    assert figures["num_particles"] == 40


@pytest.fixture
def plain(monkeypatch):
    """Scores without refinement, which is slow."""
    from ppl_vae.tasks.anomaly import split_conformal
    from ppl_vae.tasks.anomaly.scores import LogEvidence

    def quick(**settings):
        return LogEvidence(**settings | {"num_particles": 30, "refinement": None})

    quick.__dataclass_fields__ = LogEvidence.__dataclass_fields__
    monkeypatch.setitem(split_conformal.SCORES, "log_evidence", quick)
    return quick


def test_anomalies_are_ranked_among_held_out_rows(run, saved, files, tmp_path, plain):
    output = tmp_path / "anomalies.csv"
    few = tmp_path / "few.csv"  # so that 20 rows of calibration can discover one of them
    pd.read_csv(files / "new.csv").iloc[:5].to_csv(few, index=False)
    options = ["--level", 0.4, "-o", output, "--json", "--quiet"]
    result = call("anomaly", run, few, *options)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    trained = pv.load_run(run)
    rows = trained.read(few)
    expected = pv.anomaly_pvalues(
        trained.model, trained.guide, trained.data.test, rows, score=plain(seed=0)
    )
    found = pd.read_csv(output, index_col="row")
    np.testing.assert_allclose(found["p_value"], expected.p_values)
    assert found["anomaly"].sum() == figures["anomalies"]
    assert figures["calibration_rows"] == 20
    used = call("anomaly", run, files / "new.csv", "--split", "train", "-o", output)
    assert "are also among the train rows" in used.stderr
    assert used.exit_code == 1
    unknown = call("anomaly", saved, files / "new.csv", "-o", output)
    assert "give rows of calibration in a file (--calibration)" in one_error(unknown, 2)
    trained = pv.load_run(saved)
    known = calibration_rows(trained, files / "train.csv")
    with pytest.warns(UserWarning, match="not checked whether training used"):
        found = file_anomalies(trained, few, known, level=0.4, progress=False)
    assert len(found.p_values.calibration_scores) == NUM_ROWS


@pytest.mark.parametrize("command", ["impute", "anomaly", "transform", "score"])
def test_errors_are_one_line(command, run, saved, files, tmp_path):
    new = pd.read_csv(files / "new.csv")
    paths = {}
    for name, table in (
        ("lacking", new.drop(columns="income")),
        ("level", new.assign(region="east")),
        ("number", new.assign(income="much")),
    ):
        paths[name] = tmp_path / f"{name}.csv"
        table.to_csv(paths[name], index=False)
    output = ["-o", tmp_path / "out.csv"]
    for name, said in (
        ("lacking", "no column 'income'"),
        ("level", "'east' at row 0 ('p0'), which is none of its known levels"),
        ("number", "trained with numbers there"),
    ):
        assert said in one_error(call(command, run, paths[name], *output), 2)
    assert "no such file" in one_error(call(command, run, tmp_path / "none.csv", *output), 2)
    nowhere = call(command, tmp_path, files / "new.csv", *output)
    assert "holds no run" in one_error(nowhere, 2)
    suffix = call(command, run, files / "new.csv", "-o", tmp_path / "out.xlsx")
    assert "file .csv or .parquet" in one_error(suffix, 2)
    assert not (tmp_path / "out.csv").exists()


def test_a_run_is_loaded_where_its_table_is_gone(run, files, tmp_path):
    import shutil

    other = tmp_path / "moved"
    shutil.copytree(run, other)
    text = (other / "config.toml").read_text().replace("train.csv", "gone.csv")
    (other / "config.toml").write_text(text)
    with pytest.warns(UserWarning, match=r"table of the run in .* is gone"):
        found = pv.load_run(other)
    assert isinstance(found, SavedRun)
    rows = found.read(files / "new.csv")
    assert torch.equal(rows.x.nan_to_num(), pv.load_run(run).read(files / "new.csv").x.nan_to_num())


def test_runs_of_an_earlier_version_are_loaded():
    run = pv.load_run(ROOT / "tests" / "old_run")
    log_w = pv.log_weights(run.model, run.guide, run.data.test.x[:2], num_particles=100, seed=0)
    found = log_w.logsumexp(0) - np.log(100)
    assert found.tolist() == pytest.approx([-30.0944, -25.7252], abs=1e-2)
    assert run.model.num_train == 1297


def test_commands_about_experiments_refuse_runs_from_python(saved):
    for command in ("evaluate", "sample"):
        assert "was saved from Python" in one_error(call(command, saved), 2)
    assert "does not hold the rows" in one_error(call("report", saved), 2)


def test_a_report_puts_its_verdicts_in_the_card(run, tmp_path):
    report = pv.write_report(run, tmp_path, num_data=10, diagnoses=[], progress=False)
    assert report.checks == []
    found = pv.load_run(run)
    rows = found.data[:30].split(valid=0, test=10)
    place = pv.save_run(tmp_path / "run", found.model, found.guide, rows, keep_data=True)
    from ppl_vae.report.diagnoses.run import DATA

    pv.write_report(place, num_data=10, diagnoses=[DATA], progress=False)
    text = (place / "README.md").read_text()
    assert "- pass Held-out data: The evaluated rows were not used in training." in text
    assert "No report has been written" not in text
    assert (place / "report.html").exists()
    with pytest.raises(ConfigError, match="give output=, a folder"):
        pv.write_report((found.model, found.guide, rows), progress=False)


# --- denoise and contrast, by the run that was trained; compress by a model of discrete columns ---


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A run of two Gaussian columns and a category, of weights that were not trained."""
    rows = frame(40)[["income", "change", "region"]]
    data = pv.Dataset(rows)
    with pv.seeded(0):
        families = {"income": likelihoods.Gaussian, "change": likelihoods.Gaussian}
        likelihood = likelihoods.Columns(families | {"region": likelihoods.Categorical(1, 3)})
        guide = pv.Guide(posteriors.MeanFieldNormal(2), data.event_shape, start=data)
        model = pv.Model(priors.StandardNormal(2), likelihood, start=data)
    place = tmp_path_factory.mktemp("runs")
    rows.to_csv(place / "rows.csv", index=False)
    return pv.save_run(place / "plain", model, guide, data), place / "rows.csv"


@UNRELIABLE
def test_noisy_columns_are_replaced_by_their_posterior_means(plain_run, tmp_path):
    folder, table = plain_run
    output = tmp_path / "clean.csv"
    noise = ["--noise", "gaussian", "--sd", 0.5, "--columns", "change"]
    options = ["--method", "importance", "--level", 0.9, "--json", "--quiet"]
    result = call("denoise", folder, table, "-o", output, *noise, *options)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["columns"] == ["change"]
    assert figures["rows"] == 40
    found, original = pd.read_csv(output), pd.read_csv(table)
    beside = ["change.sd", "change.lower", "change.upper"]
    assert list(found) == ["income", "change", *beside, "region", "reliable"]
    pd.testing.assert_frame_equal(found[["income", "region"]], original[["income", "region"]])
    assert (found["change"].isna() == original["change"].isna()).all()
    run = pv.load_run(folder)
    expected = pv.denoise(
        run.model, run.guide, run.read(table), {"change": GaussianNoise(0.5)}, method="importance"
    )
    known = original["change"].notna()
    np.testing.assert_allclose(found["change"][known], expected.mean[known, 1], rtol=1e-6)
    assert found["reliable"].tolist() == expected.rows["reliable"].tolist()
    low = expected.interval(0.9)[0, :, 1]
    np.testing.assert_allclose(found["change.lower"][known], low[known], rtol=1e-6)
    for wrong, said in (
        (["--noise", "gaussian"], "gaussian noise takes --sd, and nothing was given"),
        (["--noise", "speckle", "--sd", 1], "noise is 'speckle'"),
        (["--sd", 1, "--peak", 2], "and --sd, --peak was given"),
        (["--sd", 1, "--columns", "region"], "column 'region' holds categories"),
        (["--sd", 1, "--columns", "age"], "column 'age' is not modelled"),
    ):
        assert said in one_error(call("denoise", folder, table, "-o", output, *wrong), 2)


@UNRELIABLE
@pytest.mark.parametrize("noise", ["salt-and-pepper", "dropout"])
def test_cells_that_noise_cannot_have_changed_are_those_of_the_file(plain_run, tmp_path, noise):
    """To the last bit, with both ends of their intervals; a replaced value is 0 or 1."""
    folder, table = plain_run
    rows = pd.read_csv(table)
    rows.loc[::5, "change"] = 0.0
    rows.to_csv(tmp_path / "rows.csv", index=False)
    output = tmp_path / "clean.csv"
    options = ["--noise", noise, "--probability", 0.2, "--method", "importance", "-q"]
    result = call("denoise", folder, tmp_path / "rows.csv", "-o", output, *options)
    assert result.exit_code == 0, result.output
    found = pd.read_csv(output)
    for name in ("income", "change"):
        kept = ~rows[name].isin([0.0, 1.0]) & rows[name].notna()
        for suffix in ("", ".lower", ".upper"):
            assert (found[f"{name}{suffix}"][kept] == rows[name][kept]).all()
        assert (found[f"{name}.sd"][kept] == 0).all()


@UNRELIABLE
def test_names_of_the_rows_of_a_parquet_are_kept(plain_run, tmp_path):
    folder, table = plain_run
    rows = pd.read_csv(table)
    rows.loc[::3, "income"] = np.nan
    rows.index = pd.Index([f"p{i}" for i in range(len(rows))], name="who")
    rows.to_parquet(tmp_path / "named.parquet")
    fast = ["--method", "importance", "-q"]
    noise = ["--noise", "gaussian", "--sd", 0.5, "--columns", "change"]
    for command in (["denoise", *noise], ["impute", "--single"]):
        for suffix in (".parquet", ".csv"):
            output = tmp_path / f"{command[0]}{suffix}"
            given = [command[0], folder, tmp_path / "named.parquet", "-o", output, *command[1:]]
            result = call(*given, *fast)
            assert result.exit_code == 0, result.output
            is_text = suffix == ".csv"
            found = pd.read_csv(output, index_col=0) if is_text else pd.read_parquet(output)
            assert found.index.equals(rows.index)
            known = rows["region"].notna()
            assert found["region"][known].tolist() == rows["region"][known].tolist()


@UNRELIABLE
def test_a_table_with_the_columns_of_a_result_is_refused_before_the_work(plain_run, tmp_path):
    folder, table = plain_run
    rows = pd.read_csv(table).assign(**{"change.sd": 1.0})
    rows.to_csv(tmp_path / "again.csv", index=False)
    noise = ["--noise", "gaussian", "--sd", 0.5, "--columns", "change"]
    output = tmp_path / "clean.csv"
    result = call("denoise", folder, tmp_path / "again.csv", "-o", output, *noise, "-q")
    said = "the rows have a column 'change.sd', where a result would go: rename it"
    assert said in one_error(result, result.exit_code)
    assert not output.exists()


TAKEN = [(".imp", ["-m", 2]), (".id", ["-m", 2]), ("change.lower", ["--single"])]


@pytest.mark.parametrize(("name", "form"), TAKEN)
def test_a_table_with_a_column_of_imputations_is_refused_before_the_work(
    name, form, plain_run, tmp_path, monkeypatch
):
    folder, table = plain_run
    rows = pd.read_csv(table).assign(**{name: 1.0})
    rows.loc[3, "change"] = np.nan
    rows.to_csv(tmp_path / "again.csv", index=False)
    monkeypatch.delattr("ppl_vae.experiment.rows.imputed.impute")
    output = tmp_path / "imputed.csv"
    result = call("impute", folder, tmp_path / "again.csv", "-o", output, *form, "-q")
    said = f"the rows have a column {name!r}, where a result would go: rename it"
    assert said in one_error(result, result.exit_code)
    assert not output.exists()


def test_the_file_of_a_contrast_is_read_once(plain_run, tmp_path, monkeypatch):
    """Codes are kept apart that are one number, and a stratum may be a modelled column."""
    folder, table = plain_run
    rows = pd.read_csv(table, dtype=str).dropna()
    number = np.arange(len(rows))
    rows["arm"] = np.array(["01", "1"])[number % 2]
    rows["subject"] = [f"{i}.0" for i in number]
    rows.to_csv(tmp_path / "arms.csv", index=False)
    read = []
    real = sources.read_frame
    monkeypatch.setattr(sources, "read_frame", lambda *a: read.append(a[0]) or real(*a))
    design = {"strata": ["region"], "subjects": "subject", "num_samples": 2, "progress": False}
    trained = pv.load_run(folder)
    found = contrast_file(trained, tmp_path / "arms.csv", "arm", num_permutations=1999, **design)
    assert read == [tmp_path / "arms.csv"]
    assert found.contrast.design.names == ("01", "1")
    assert len(found.contrast.design.second) == len(rows)


@pytest.mark.parametrize("name", ["a.npz", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize("command", ["score", "impute", "contrast"])
def test_a_file_that_is_no_table_is_named_with_the_remedy(plain_run, tmp_path, name, command):
    (tmp_path / name).write_bytes(b"")
    options = ["--groups", "arm"] if command == "contrast" else ["-o", tmp_path / "out.csv"]
    said = one_error(call(command, plain_run[0], tmp_path / name, *options), 2)
    assert f"{tmp_path / name}: a table is a file .csv or .parquet: write one, a column for" in said


def test_contrasts_of_a_file_are_those_of_python(run, files, tmp_path):
    new = pd.read_csv(files / "new.csv")
    rng = np.random.default_rng(1)
    new["patient"] = np.arange(len(new)) // 2
    new["arm"] = rng.permuted(np.arange(new["patient"].max() + 1) % 2)[new["patient"]]
    new["arm"] = new["arm"].map({0: "placebo", 1: "drug"})
    new["site"] = np.where(new["patient"] < 10, "a", "b")
    table, output = tmp_path / "arms.csv", tmp_path / "contrast.csv"
    new.to_csv(table, index=False)
    design = ["--groups", "arm", "--reference", "placebo", "--subjects", "patient"]
    sizes = ["--num-samples", 20, "--num-permutations", 499, "--json", "--quiet"]
    result = call("contrast", run, table, "-o", output, *design, "--strata", "site", *sizes)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["groups"] == ["placebo", "drug"]
    assert sum(figures["units"]) == new["patient"].nunique()
    found = pd.read_csv(output, index_col=["kind", "name"])
    trained = pv.load_run(run)
    expected = pv.contrast(
        trained.model,
        trained.guide,
        trained.read(table),
        new["arm"].to_numpy(),
        strata=new["site"].to_numpy(),
        subjects=new["patient"].to_numpy(),
        reference="placebo",
        num_samples=20,
        num_permutations=499,
    )
    np.testing.assert_allclose(found["p_value"], expected.to_frame()["p_value"])
    np.testing.assert_allclose(found["difference"], expected.to_frame()["difference"])
    assert "region=north" in found.loc["feature"].index or found.loc["feature"].shape[0] > 6
    for wrong, said in (
        (["--groups", "weight"], "groups: no column 'weight'"),
        (["--groups", "smokes"], "was trained with column 'smokes'"),
        (["--groups", "arm", "--strata", "town"], "strata: no column 'town'"),
    ):
        assert said in one_error(call("contrast", run, table, "-o", output, *wrong, *sizes), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        few = call("contrast", run, table, "-o", output, *design, "--num-permutations", 9)
    assert "the smallest p-value that 9 permutations allow" in few.stderr.replace("\n", " ")
    several = call("contrast", run, table, "-o", output, "--groups", "patient", *sizes)
    assert "values (" in one_error(several, 2)


@pytest.fixture(scope="module")
def discrete_run(tmp_path_factory):
    """A run of discrete columns and a covariate, of weights that were not trained."""
    pytest.importorskip("constriction")
    rng = np.random.default_rng(2)
    rows = pd.DataFrame(
        {
            "visits": rng.poisson(3.0, 50),
            "region": rng.choice(["north", "south", "west"], 50),
            "smokes": rng.choice(["no", "yes"], 50),
            "sex": rng.choice(["female", "male"], 50),
        }
    )
    data = pv.Dataset(rows, context=["sex"])
    with pv.seeded(0):
        likelihood = likelihoods.Columns.of(data)
        guide = pv.Guide(posteriors.MeanFieldNormal(2), data.event_shape, start=data)
        model = pv.Model(priors.GaussianMixture(2), likelihood, start=data)
    place = tmp_path_factory.mktemp("runs")
    rows.to_csv(place / "rows.csv", index=False)
    return pv.save_run(place / "discrete", model, guide, data), place / "rows.csv", rows


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_are_compressed_and_come_back(discrete_run, tmp_path, suffix):
    folder, table, rows = discrete_run
    bits, output = tmp_path / "rows.bits", tmp_path / f"back{suffix}"
    result = call("compress", folder, table, "-o", bits, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["bytes"] == bits.stat().st_size
    assert figures["bits_per_row"] == pytest.approx(8 * figures["bytes"] / 50)
    options = ["-o", output, "--context", table, "--quiet"]
    result = call("decompress", folder, bits, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("50 rows of 3 columns")
    back = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    for name in ("visits", "region", "smokes"):
        assert back[name].astype(str).tolist() == rows[name].astype(str).tolist()


def test_what_cannot_be_compressed_or_decompressed_is_one_line(
    discrete_run, plain_run, run, files, tmp_path
):
    folder, table, rows = discrete_run
    bits = tmp_path / "rows.bits"
    assert call("compress", folder, table, "-o", bits, "--quiet").exit_code == 0
    assert "go to a file .bits" in one_error(call("compress", folder, table, "-o", "a.zip"), 2)
    back = ["-o", tmp_path / "back.csv"]
    without = call("decompress", folder, bits, *back)
    assert "the model has covariates (sex): give a table" in one_error(without, 2)
    useless = call("decompress", plain_run[0], bits, "--context", table, *back)
    assert f"{table}: the run has no covariates, so it takes no --context" in one_error(useless, 2)
    other = tmp_path / "other.csv"
    rows.assign(sex=rows["sex"].iloc[::-1].to_numpy()).to_csv(other, index=False)
    wrong = call("decompress", folder, bits, "--context", other, *back)
    assert f"{bits}: context differs" in one_error(wrong, 1)
    bits.write_bytes(bits.read_bytes()[:-1])
    damaged = call("decompress", folder, bits, "--context", table, *back)
    assert f"{bits}: the compressed rows are damaged or incomplete" in one_error(damaged, 1)
    nothing = call("decompress", folder, tmp_path / "none.bits", "--context", table, *back)
    assert "no such file" in one_error(nothing, 2)
    missing = tmp_path / "missing.csv"
    rows.assign(visits=rows["visits"].where(rows.index > 0)).to_csv(missing, index=False)
    assert "visits" in one_error(call("compress", folder, missing, "-o", bits), 1)
    train = call("compress", run, files / "train.csv", "-o", bits)
    assert train.exit_code == 1
    assert "error: " in train.stderr
    assert not (tmp_path / "back.csv").exists()


# --- what is not overwritten, and what has changed ------------------------------------------------


@pytest.mark.parametrize("which", ["rows", "table of the run"])
def test_a_command_does_not_replace_what_it_reads(tmp_path, which):
    table, new = tmp_path / "table.csv", tmp_path / "new.csv"
    for path in (table, new):
        path.write_text("a,b\n" + "\n".join(f"{i}.5,{i % 7}" for i in range(60)))
    folder = tmp_path / "run"
    small = ["--num-steps", 3, "--latent-dim", 1, "--quiet"]
    assert call("fit", table, "--output", folder, *small).exit_code == 0
    output = new if which == "rows" else table
    before = output.read_bytes()
    result = call("score", folder, new, "--output", output, "--quiet")
    assert result.exit_code == 2
    assert "is a file that this command reads: give another name" in result.output
    assert output.read_bytes() == before
    link = tmp_path / "link.csv"
    link.symlink_to(output)
    assert call("sample", folder, "--output", link).exit_code == (2 if output == table else 0)


def test_rows_that_changed_since_training_are_refused(tmp_path):
    table, folder = tmp_path / "table.csv", tmp_path / "run"
    rows = [f"{i}.5,{i % 7}" for i in range(60)]
    table.write_text("a,b\n" + "\n".join(rows))
    small = ["--num-steps", 3, "--latent-dim", 1, "--quiet"]
    assert call("fit", table, "--output", folder, *small).exit_code == 0
    for changed in (rows[1:], rows[::-1], [f"1{row}" for row in rows]):
        table.write_text("a,b\n" + "\n".join(changed))
        for command in (("evaluate", folder), ("report", folder)):
            result = call(*command, "--quiet")
            assert result.exit_code == 2
            assert "was trained on other rows than those of 'table' now" in result.output
    table.write_text("a,b\n" + "\n".join(rows))
    assert call("evaluate", folder, "--quiet", "--num-particles", 30).exit_code == 0


def test_estimates_of_an_earlier_training_are_not_adopted(tmp_path):
    table, folder = tmp_path / "table.csv", tmp_path / "run"
    table.write_text("a,b\n" + "\n".join(f"{i}.5,{i % 7}" for i in range(60)))
    (folder / "evaluations").mkdir(parents=True)
    (folder / "evaluations" / "test.json").write_text("{}")
    result = call("fit", table, "--output", folder, "--num-steps", 3, "--quiet")
    assert result.exit_code == 2
    assert "is not empty and holds no run" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "a.csv", "-o", "r", "--data", "b.csv"], "--data: names other rows than the table"),
        (
            ["fit", "a.csv", "-o", "r", "--num-steps", 5, "--num-epochs", 2],
            "and --num-epochs both set",
        ),
        (
            ["fit", "a.csv", "-o", "r", "--num-epochs", 1, "--set", "training.num_epochs=2"],
            "training.num_epochs is also given by a flag",
        ),
        (["impute", "run", "a.csv", "--level", 0.5], "--level: is for --single"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(arguments, said):
    result = call(*arguments)
    assert said in one_error(result, 2).replace("'", "")
