"""A study is a grid of ordinary runs: what the file means, what is kept, what fails, and how models
are compared."""

import json
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from cases import SMALL_NETWORKS
from joblib.parallel import SequentialBackend
from tqdm import tqdm
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli import app
from ppl_vae.errors import InUseError
from ppl_vae.evidence import Evidence
from ppl_vae.experiment import (
    Cell,
    ConfigError,
    Folder,
    Study,
    build,
    load_run,
    read_config,
    read_study,
    run_experiment,
    run_study,
    to_toml,
    write_baselines,
    write_study,
)
from ppl_vae.experiment.studies import plain_models
from ppl_vae.experiment.studies import run as study_module
from ppl_vae.experiment.studies.table import read_results

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BASE = f"""
[data]
name = "digits"
binarize = "static"
{SMALL_NETWORKS}
[training]
num_epochs = 1

[evaluation]
num_particles = 30
num_data = 12
"""
GRID = """
[grid]
prior = ["StandardNormal", {name = "VampPrior", pseudo_inputs = 5}]
training.seed = [0, 1]
"""


def file_of(folder, text):
    path = folder / "study.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return file_of(tmp_path_factory.mktemp("study"), BASE + GRID)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Draws and pictures of each run take longer than the run."""
    for part in ("write_posterior", "write_pictures"):
        monkeypatch.setattr(f"ppl_vae.experiment.run.{part}", lambda *_, **__: None)


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "study"
    with pytest.MonkeyPatch.context() as patch:
        for part in ("write_posterior", "write_pictures"):
            patch.setattr(f"ppl_vae.experiment.run.{part}", lambda *_, **__: None)
        return output, run_study(path, output, progress=False)


@pytest.fixture
def no_training(monkeypatch):
    """Whoever trains fails."""
    monkeypatch.setattr(study_module, "run_experiment", lambda *_, **__: pytest.fail("it trains"))


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- what a file says -----------------------------------------------------------------------------


def test_cells_are_the_product_of_the_lists(path):
    cells = read_study(path).cells
    assert [cell.name for cell in cells] == [
        "StandardNormal_seed=0",
        "StandardNormal_seed=1",
        "VampPrior-pseudo_inputs=5_seed=0",
        "VampPrior-pseudo_inputs=5_seed=1",
    ]
    assert [cell.model for cell in cells[1:3]] == ["StandardNormal", "VampPrior(pseudo_inputs=5)"]
    base = [("data.name", "digits"), ("data.binarize", "static"), ("posterior.latent_dim", 2)]
    base += [(f"{network}.hidden_dims", [8]) for network in ("encoder", "decoder")]
    base += [
        ("training.num_epochs", 1),
        ("evaluation.num_particles", 30),
        ("evaluation.num_data", 12),
        ("evaluation.split", "valid"),
    ]
    by_hand = [("prior.name", "VampPrior"), ("prior.pseudo_inputs", 5), ("training.seed", 1)]
    assert cells[3].config == read_config(changes=[*base, *by_hand])


def test_a_dotted_key_with_or_without_quotes(path, tmp_path):
    quoted = file_of(tmp_path, BASE + GRID.replace("training.seed", '"training.seed"'))
    assert read_study(quoted) == read_study(path)


def test_any_keyword_any_depth(tmp_path):
    grid = (
        "[grid]\nencoder.hidden_dims = [[8], [8, 4]]\nevaluation.method.num_particles = [30, 40]\n"
    )
    cells = read_study(file_of(tmp_path, BASE + grid)).cells
    assert [cell.config.encoder.keywords["hidden_dims"] for cell in cells] == [
        [8],
        [8],
        [8, 4],
        [8, 4],
    ]
    assert [cell.config.evaluation.method.keywords["num_particles"] for cell in cells] == [
        30,
        40,
        30,
        40,
    ]
    assert cells[3].name == "hidden_dims=8-4_num_particles=40"


def test_changes_are_for_all_cells_and_the_grid_wins(path):
    cells = read_study(path, [("training.num_epochs", 7), ("training.seed", 9)]).cells
    assert {cell.config.training.keywords["num_epochs"] for cell in cells} == {7}
    assert [cell.config.training.keywords["seed"] for cell in cells] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (
            "",
            "there is no [grid]: give it lists of values to try, as in prior = "
            '["StandardNormal", "VampPrior"]',
        ),
        ("[grid]", "there is no [grid]: give it lists"),
        (
            '[grid]\nprior = "VampPrior"',
            "[grid] prior = 'VampPrior': give lists of values to try",
        ),
        ("[grid]\nprior = []", "[grid] prior = []: give lists of values to try"),
        (
            '[grid]\npriors = ["VampPrior"]',
            "[grid] there is no table [priors]: did you mean prior? Allowed: data, ",
        ),
        ("[grid]\nseed = [0, 1]", "training.seed, or another table.keyword"),
        ("[grid]\nprior = [1]", "[grid] prior: 1 is neither a name nor a table with a name"),
        ('[grid]\nprior = ["Vamp"]', "[prior] priors has no 'Vamp': did you mean "),
        ("[grid]\ntraning.seed = [0]", "there is no table [traning]: did you mean training?"),
        ("[grid]\ntraining.sed = [0]", "[training] Training takes no 'sed': did you mean seed?"),
        (
            "[grid]\ntraining.seed = [0, 0]",
            "[grid] gives two cells with the name 'seed=0': one of its lists has a va",
        ),
        (
            '[grid]\nobjective = [{name = "IWAE", num_particle = 5}]',
            "IWAE takes no 'num_particle': did you mean num_p",
        ),
        (
            "[prio]\nname = 1\n[grid]\ntraining.seed = [0]",
            "there is no table [prio]: did you mean prior?",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, grid, said):
    path = file_of(tmp_path, BASE + grid)
    with pytest.raises(ConfigError) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_study(tmp_path / "none.toml")


def test_the_example_is_built():
    cells = read_study(EXAMPLES / "study.toml").cells
    assert len(cells) == 12
    assert {cell.model for cell in cells} == {
        f"{prior}, {objective}"
        for prior in ("StandardNormal", "VampPrior")
        for objective in ("MeanFieldELBO", "IWAE(num_particles=5)")
    }
    assert repr(build(cells[-1].config).objective).startswith("IWAE(num_particles=5")


# --- what is run ----------------------------------------------------------------------------------


def test_each_cell_is_an_ordinary_run(finished, tmp_path):
    output, result = finished
    cell = result.study.cells[3]
    alone = run_experiment(cell.config, tmp_path / "alone", progress=False)
    folder = output / "cells" / cell.name
    again = load_run(folder)
    for name in ("log_evidence", "elbo", "kl"):
        assert result.metrics[cell.name][name] == pytest.approx(alone[name], rel=1e-6), name
    assert again.config == cell.config
    assert result.failures == {}
    assert not list((output / "errors").glob("*"))


def test_seeds_are_trainings_of_one_model(finished):
    output, result = finished
    evidence = {
        cell.name: pv.Evidence.load(output / "cells" / cell.name / "evidence.npz")
        for cell in result.study.cells
    }
    (a, b), (c, d) = (list(evidence.values())[i : i + 2] for i in (0, 2))
    by_hand = pv.compare_models({"StandardNormal": [a, b], "VampPrior(pseudo_inputs=5)": [c, d]})
    (comparison,) = result.comparisons
    pd.testing.assert_frame_equal(comparison.table, by_hand.table)
    assert comparison.table["num_trainings"].tolist() == [2, 2]
    assert not any(
        "Not checked" in note for note in comparison.notes
    )  # runs know their rows and measure


def test_a_second_call_trains_nothing(finished, path, no_training):
    output, result = finished
    again = run_study(path, output, progress=False)
    assert again.metrics == result.metrics
    pd.testing.assert_frame_equal(again.table, result.table)


def test_a_larger_grid_keeps_what_is_there(finished, path, tmp_path, monkeypatch):
    output, trained = finished[0], []
    monkeypatch.setattr(
        study_module, "run_experiment", lambda config, path, **_: trained.append(path.name)
    )
    larger = file_of(tmp_path, BASE + GRID.replace("[0, 1]", "[0, 1, 2]"))
    run_study(larger, output, progress=False)
    assert trained == ["StandardNormal_seed=2", "VampPrior-pseudo_inputs=5_seed=2"]


def test_a_folder_of_another_study_is_refused(finished, tmp_path, no_training):
    other = file_of(tmp_path, BASE.replace("num_epochs = 1", "num_epochs = 2") + GRID)
    with pytest.raises(
        ConfigError,
        match="StandardNormal_seed=0 holds another run .training.num_epochs is 1, not 2",
    ):
        run_study(other, finished[0], progress=False)


def test_validation_rows_choose_the_model_and_test_rows_judge_it(finished, monkeypatch):
    """They are evaluated once, by the run's own method."""
    output, result = finished
    assert {each.evaluation["split"] for each in result.metrics.values()} == {"valid"}
    text, files = write_baselines(result, output)
    best = result.comparisons[0].names[0]
    cell = next(cell for cell in result.study.cells if cell.model == best)
    run = load_run(output / "cells" / cell.name)
    test = run.data.test[:12]
    found = pv.log_evidence(run.model, run.guide, test, num_particles=30, progress=False)
    assert f"{best} is the best model. On 12 test rows: {found.summary()}." in text
    assert files == ["baselines.md"]
    monkeypatch.setattr(plain_models, "evaluate_run", lambda *_, **__: pytest.fail("again"))
    assert write_baselines(result, output)[0] == text


@pytest.mark.parametrize(
    ("change", "split"),
    [("[data]\nvalid = 0", "test"), ("[evaluation]\nsplit = 'test'", "test"), ("", "valid")],
)
def test_models_are_compared_on_validation_rows_if_there_are_any(tmp_path, change, split):
    table = change.partition("\n")[0]
    text = BASE.replace(table, change, 1) if change else BASE
    cells = read_study(file_of(tmp_path, text + GRID)).cells
    assert {cell.config.evaluation.split for cell in cells} == {split}


def test_files_say_what_was_found(finished, tmp_path):
    _, result = finished
    assert write_study(result, tmp_path) == [
        *("study.md", "study.json", "cells.csv", "comparison.csv", "comparison.png"),
    ]
    cells = pd.read_csv(tmp_path / "cells.csv", index_col="cell")
    assert cells["training.seed"].tolist() == [0, 1, 0, 1]
    assert cells["prior"].tolist() == ["StandardNormal"] * 2 + ["VampPrior(pseudo_inputs=5)"] * 2
    for name, metrics in result.metrics.items():
        assert cells.loc[name, "log_evidence"] == pytest.approx(metrics["log_evidence"])
    table = result.comparisons[0].table
    comparison = pd.read_csv(tmp_path / "comparison.csv", index_col="model")
    np.testing.assert_allclose(comparison["mlpd_diff"], table["mlpd_diff"])
    document = json.loads((tmp_path / "study.json").read_text())
    assert document["cells"][2]["prior"] == "VampPrior(pseudo_inputs=5)"
    assert document["comparisons"][0][1]["mlpd_diff"] == pytest.approx(table["mlpd_diff"].iloc[1])
    text = (tmp_path / "study.md").read_text()
    assert result.comparisons[0].to_markdown() in text
    assert "](comparison.png)" in text
    value = f"{cells.loc['StandardNormal_seed=0', 'log_evidence']:.3f}"
    assert re.search(rf"\| `StandardNormal_seed=0` \| (>= )?{value} \| ", text)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


# --- failures -------------------------------------------------------------------------------------


def test_a_failed_cell_is_reported_and_the_rest_go_on(tmp_path, monkeypatch):
    grid = '[grid]\nprior = [{name = "VampPrior", pseudo_inputs = 5000}, "StandardNormal"]\n'
    path, output = file_of(tmp_path, BASE + grid), tmp_path / "out"
    result = call("compare", path, "--output", output, "--quiet")
    assert result.exit_code == 1
    name, reason = "VampPrior-pseudo_inputs=5000", "only 1297 training rows have no missing value"
    assert re.search(
        rf"^failed: {name}: ConfigError: \[prior\] .*{reason}$", result.stdout, re.MULTILINE
    )
    assert "1 of 2 cells are finished" in result.stdout
    assert re.search(
        r"Not compared, since no other model has the same rows and kind: StandardNormal, "
        r".*log p\(x\) >?= ",
        result.stdout,
    )
    assert reason in (output / "study.md").read_text()
    assert reason in pd.read_csv(output / "cells.csv", index_col="cell").loc[name, "failed"]
    assert (output / "errors" / f"{name}.txt").read_text().startswith("Traceback")
    tried = []

    def repaired(config, path, **_):
        tried.append(path.name)

    monkeypatch.setattr(study_module, "run_experiment", repaired)
    assert run_study(path, output, progress=False).failures == {}
    assert tried == [name]
    assert not (output / "errors" / f"{name}.txt").exists()


def test_an_error_of_pyro_is_one_line(tmp_path, path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("the decoder\nis broken\nTrace Shapes:\n Param Sites:")

    monkeypatch.setattr(study_module, "run_experiment", broken)
    failures = run_study(path, tmp_path, progress=False).failures
    assert set(failures.values()) == {"ValueError: the decoder is broken"}
    assert len(failures) == 4


def test_an_interrupted_study_goes_on(tmp_path, path, monkeypatch):
    started = []

    def interrupted(config, path, **_):
        started.append(path.name)
        if len(started) == 2:
            raise KeyboardInterrupt
        write_run(path, config, np.zeros(4))

    monkeypatch.setattr(study_module, "run_experiment", interrupted)
    result = call("compare", path, "--output", tmp_path / "out", "--quiet")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted: run the same command again to resume"
    call("compare", path, "--output", tmp_path / "out", "--quiet")
    assert started == [started[0], *started[1:2] * 2, *started[3:]]
    assert len(started) == 5


# --- what is compared -----------------------------------------------------------------------------


def write_run(folder, config, values, measure="counting", rows=None):
    """What a finished run leaves of its numbers."""
    zero, place = np.zeros(len(values)), Folder(folder)
    rows = np.arange(len(values), dtype=np.uint64) if rows is None else rows
    evidence = pv.Evidence(
        values, zero, zero + 9, zero, values, values, zero + 9, digests=rows, measure=measure
    )
    evidence.save(place.evidence)
    place.config.write_text(to_toml(config))
    place.metrics.write_text(
        json.dumps({"log_evidence": float(values.mean()), "share_bad_k": None})
    )


def test_only_like_models_are_compared(tmp_path):
    config = read_config(changes=[("data.name", "digits")])
    names = ("Poisson", "NegativeBinomial", "Gaussian", "StudentT", "Categorical")
    study = Study(tuple(Cell({"likelihood": name}, config) for name in names))
    rng = np.random.default_rng(0)
    for name, measure in zip(
        names, ("counting", "counting", "lebesgue", "lebesgue", "counting"), strict=True
    ):
        other = np.arange(100, 120, dtype=np.uint64) if name == "Categorical" else None
        write_run(tmp_path / "cells" / name, config, rng.normal(size=20), measure, other)
    result = read_results(study, tmp_path, {})
    assert [set(each.names) for each in result.comparisons] == [
        {"Poisson", "NegativeBinomial"},
        {"Gaussian", "StudentT"},
    ]
    assert result.notes[0].startswith(
        "Models of different data are not compared, nor are densities with probabilities"
    )
    alone = Evidence.load(tmp_path / "cells" / "Categorical" / "evidence.npz").summary()
    said = "Not compared, since no other model has the same rows and kind"
    assert result.notes[1] == f"{said}: Categorical, {alone}."
    names = write_study(result, tmp_path)
    assert [name for name in names if name.startswith("comparison")] == [
        *("comparison-1.csv", "comparison-1.png", "comparison-2.csv", "comparison-2.png"),
    ]
    assert (tmp_path / "study.md").read_text().count("| model |") == 2
    assert "| `Gaussian` | " in (tmp_path / "study.md").read_text()


# --- several at once ------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_at_once_find_the_same(finished, tmp_path):
    output, one = finished
    study = Study(one.study.cells[::2])
    two = run_study(study, tmp_path, n_jobs=2, progress=False)
    assert two.failures == {}
    for name in ("log_evidence", "elbo", "kl"):
        np.testing.assert_allclose(two.table[name], one.table[name].iloc[::2], rtol=1e-5)


def test_a_folder_is_of_one_study_at_a_time(tmp_path, path, monkeypatch):
    """A second call would report the cells that the first one trains as failures."""
    said = []

    def at_work(config, place, **_):
        if not said:
            with pytest.raises(InUseError) as caught:
                run_study(path, tmp_path, progress=False)
            said.append(str(caught.value))
        write_run(place, config, np.zeros(4))

    monkeypatch.setattr(study_module, "run_experiment", at_work)
    assert run_study(path, tmp_path, progress=False).failures == {}
    assert said[0].startswith(f"{tmp_path} is in use by another process: wait until it ends")
    assert not list(tmp_path.rglob("errors/*"))


def test_a_registered_backend_is_used(path, tmp_path, monkeypatch):
    """As Dask's or Ray's would be."""
    monkeypatch.setattr(
        study_module,
        "run_experiment",
        lambda config, path, **_: write_run(path, config, np.ones(3)),
    )
    used = []

    class Backend(SequentialBackend):
        def effective_n_jobs(self, n_jobs):
            used.append(n_jobs)
            return 1

    joblib.register_parallel_backend("elsewhere", Backend)
    with joblib.parallel_config("elsewhere", n_jobs=7):
        assert len(run_study(path, tmp_path, progress=False).metrics) == 4
    assert set(used) == {7}


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(study_module, "cpu_count", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert [study_module._threads(jobs) for jobs in (0, 1, 2, 3, 8, 20)] == [None, None, 4, 2, 1, 1]
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # as OMP_NUM_THREADS=1 says
    assert study_module._threads(2) == 1


def test_the_bar_counts_cells(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        study_module,
        "run_experiment",
        lambda config, path, **_: write_run(path, config, np.ones(3)),
    )
    bars = []
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(
        "ppl_vae.runtime.progress._kind",
        lambda: lambda **options: bars.append(tqdm(**options)) or bars[-1],
    )
    run_study(path, tmp_path)
    assert [(bar.n, bar.total) for bar in bars] == [(4, 4)]
    assert capsys.readouterr().out == ""


# --- the command ----------------------------------------------------------------------------------


def test_command(finished, path, no_training):
    output, result = finished
    done = call("compare", path, "--output", output, "--quiet")
    assert done.exit_code == 0, done.output
    assert str(result.comparisons[0]) in done.stdout
    assert "4 of 4 cells are finished" in done.stdout
    assert (
        f"files in {output}:\n  study.md, study.json, cells.csv, comparison.csv, comparison.png"
        in done.stdout
    )
    assert done.stderr == ""


def test_command_changes_all_runs(path, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        study_module, "run_experiment", lambda config, *_, **__: found.append(config)
    )
    call(
        "compare",
        path,
        "-o",
        tmp_path,
        "-q",
        "--set",
        "training.num_epochs=3",
        "--data-dir",
        tmp_path,
        "-j",
        1,
    )
    assert {config.training.keywords["num_epochs"] for config in found} == {3}
    assert {config.data.data_dir for config in found} == {str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE, "there is no [grid]"),
        (BASE + "[grid]\npriors = [1]", "did you mean prior?"),
        ("[data", "study.toml: "),
    ],
)
def test_bad_usage_is_one_line_and_2(tmp_path, text, said):
    result = call("compare", file_of(tmp_path, text), "--output", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_help_has_examples_and_loads_nothing():
    code = """
import sys
from ppl_vae.cli import app
app(["compare", "--help"], standalone_mode=False)
heavy = {"torch", "pyro", "arviz", "sklearn", "numpy", "matplotlib", "joblib"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "ppl-vae compare examples/study.toml --output runs/study --jobs 4" in done.stdout
