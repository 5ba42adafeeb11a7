"""The command line: every command does what it says, every error is one line, and help loads
nothing."""

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cases import SMALL_NETWORKS
from typer.testing import CliRunner

from ppl_vae.cli import app
from ppl_vae.evidence import AIS, Evidence, ImportanceSampling, log_evidence
from ppl_vae.experiment import load_run, read_config
from ppl_vae.runtime.sealed import read_json
from ppl_vae.training.loop import Run

SMALL = f"""
[data]
name = "digits"
binarize = "dynamic"

[prior]
name = "VampPrior"
pseudo_inputs = 5
{SMALL_NETWORKS}
[training]
num_epochs = 3

[evaluation]
num_particles = 30
num_data = 12
"""
TIMES = ("seconds", "training_seconds", "evaluation_seconds")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, call("fit", small, "--output", folder)


def test_a_command_leaves_the_level_of_the_log(small, finished):
    logger = logging.getLogger("ppl_vae.experiment.run")
    before = logger.level
    for options in ([], ["--quiet"]):
        assert call("fit", small, "--output", finished[0], *options).exit_code == 0
        assert logger.level == before


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_error(result, code):
    """The message, after checking that it is all there is, and the exit code."""
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert result.stdout == ""
    return lines[0]


def lasting(folder):
    """The metrics without what a clock says."""
    metrics = read_json(folder / "metrics.json")
    metrics["history"].pop("seconds")
    return {name: value for name, value in metrics.items() if name not in TIMES}


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "evaluate", "score", "sample", "data", "demo"])
def test_help_has_examples(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples:\n +ppl-vae {command}", result.stdout)


def test_help_loads_nothing():
    code = """
import sys
from ppl_vae.cli import app
for command in ([], ["fit"], ["evaluate"], ["score"], ["sample"], ["data"], ["demo"]):
    app([*command, "--help"], standalone_mode=False)
print(sorted({"torch", "pyro", "arviz", "sklearn", "numpy", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_and_module():
    done = subprocess.run(
        [sys.executable, "-m", "ppl_vae", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"ppl-vae \d+\.\d+\S*\n", done.stdout)


def test_no_command_shows_help():
    result = call()
    assert result.exit_code == 0
    assert "Commands:" in result.stdout


# --- fit ------------------------------------------------------------------------------------------


def test_fit_ends_with_a_table(finished):
    folder, result = finished
    assert result.exit_code == 0, result.output
    metrics = json.loads((folder / "metrics.json").read_text())
    sign = "" if metrics["share_estimate"] == 1 else " >="
    names = {"ELBO": "elbo", f"log p\\(x\\){sign}": "log_evidence", "KL\\(q \\|\\| p\\)": "kl"}
    for name, key in names.items():
        assert re.search(
            rf"^  {name} +{metrics[key]:.3f}  nats per row$", result.stdout, re.MULTILINE
        ), name
    known = {
        "data": f"{metrics['data_se']:.3f}",
        "Monte Carlo": "unknown.*" if sign else f"{metrics['mc_se']:.3f}",
    }
    for name, value in known.items():
        assert re.search(rf"^    {name} standard error +{value}$", result.stdout, re.MULTILINE), (
            name
        )
    assert re.search(
        rf"^  active units +{metrics['active_units']}  of 2$", result.stdout, re.MULTILINE
    )
    assert f"files in {folder}:" in result.stdout
    assert "k-hat" in result.stdout


def test_progress_is_not_on_stdout(finished):
    _, result = finished
    assert "epochs/s" not in result.stdout


def test_quiet(small, tmp_path):
    result = call("fit", small, "--output", tmp_path / "run", "--quiet", "--num-epochs", 1)
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_warm_up_without_an_end_is_said(small, tmp_path):
    warm_up = ["--set", "training.kl_warmup_epochs=5", "--num-epochs", 1]
    assert "longer than num_epochs=1" in call("fit", small, "-o", tmp_path / "run", *warm_up).stderr


def test_flags_and_set_change_the_file(small, tmp_path):
    flags = [
        "--prior",
        "StandardNormal",
        "--latent-dim",
        3,
        "--num-epochs",
        1,
        "--seed",
        4,
        "--batch-size",
        99,
    ]
    sets = [
        "--set",
        "encoder.activation=Tanh",
        "--set",
        "decoder.hidden_dims=[4, 4]",
        "--learning-rate",
        0.01,
    ]
    assert call("fit", small, "--output", tmp_path / "run", *flags, *sets).exit_code == 0
    config = read_config(tmp_path / "run" / "config.toml")
    assert (config.prior.name, config.prior.keywords, config.latent_dim) == (
        "StandardNormal",
        {},
        3,
    )
    assert config.encoder.keywords["activation"] == "Tanh"
    assert config.decoder.keywords["hidden_dims"] == [4, 4]
    settings = {
        name: config.training.keywords[name]
        for name in ("num_epochs", "seed", "batch_size", "learning_rate")
    }
    assert settings == {"num_epochs": 1, "seed": 4, "batch_size": 99, "learning_rate": 0.01}


def test_a_finished_run_says_so(finished, small):
    folder, first = finished
    again = call("fit", small, "--output", folder)
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert "is already finished" in again.stderr


def test_an_interrupted_run_goes_on(finished, small, tmp_path, monkeypatch):
    epoch = Run._epoch

    def interrupted(self, number):
        if number == 3:
            raise KeyboardInterrupt
        return epoch(self, number)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_epoch", interrupted)
        result = call("fit", small, "--output", folder, "--quiet")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted: run the same command again to resume"
    assert not (folder / "metrics.json").exists()
    unfinished = call("evaluate", folder)
    assert "was not trained to the end" in one_error(unfinished, 2)
    assert call("fit", small, "--output", folder, "--quiet").exit_code == 0
    assert lasting(folder) == lasting(finished[0])


def test_another_configuration_is_refused(finished, small):
    folder, _ = finished
    error = one_error(call("fit", small, "--output", folder, "--seed", 9), 2)
    assert "holds another run (training.seed is 0, not 9)" in error


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "No such option: --nonsense"),
        (["--set", "training.num_epochs"], "is not KEY=VALUE"),
        (
            ["--set", "prior.pseudo_input=3"],
            "VampPrior takes no 'pseudo_input': did you mean pseudo_inputs?",
        ),
        (["--prior", "Vamp"], "Allowed: Categorical, ConditionalNormal, "),
        (["--data", "digit"], "'digit' is neither a file nor one of digits"),
        (["--num-epochs", "many"], "Invalid value for '--num-epochs'"),
    ],
)
def test_bad_usage_is_one_line_and_2(small, tmp_path, arguments, said):
    assert said in one_error(call("fit", small, "--output", tmp_path / "run", *arguments), 2)


@pytest.mark.parametrize("value", ["True", "true"])
def test_true_is_true_in_either_language(small, tmp_path, value):
    changes = ["--set", f"training.compile={value}", "--set", "training.compil=3"]
    assert "takes no 'compil'" in one_error(call("fit", small, "--output", tmp_path, *changes), 2)


def test_of_many_processes_the_first_says_what_all_would(small, tmp_path, monkeypatch):
    """All fail; what went wrong in one alone, that one says."""
    wrong, grey = (
        ["fit", *rest, "-q", "--output", tmp_path]
        for rest in ([small, "--prior", "V"], ["--data", "digits"])
    )
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "FlowPrior, GaussianMixture" in one_error(call(*wrong), 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    # torchrun ends a process that waits
    monkeypatch.setattr("ppl_vae.cli.errors.time.sleep", lambda _: sys.exit(15))
    for result in (call(*wrong), call("fit", "--nonsense")):
        assert (result.exit_code, result.output) == (15, "")
    assert "Bernoulli: x is 0.3125" in one_error(call(*grey), 1)


def test_no_data_set_is_bad_usage(tmp_path):
    assert "--data digits" in one_error(call("fit", "--output", tmp_path / "run"), 2)


def test_bad_toml_names_file_and_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[data]\nname = "digits\n')
    assert re.search(
        r"bad\.toml: not valid TOML: .*line 2",
        one_error(call("fit", path, "-o", tmp_path / "run"), 2),
    )


def test_a_failed_run_is_one_line_and_1(tmp_path):
    grey = ["fit", "--data", "digits", "--output", tmp_path / "grey", "--quiet"]
    assert "Bernoulli: x is 0.3125 at row 0" in one_error(call(*grey), 1)
    assert "Bernoulli: x is 0.3125 at row 0" in str(call("--debug", *grey).exception)


def test_an_error_inside_a_trace_is_one_line(finished, monkeypatch):
    """Pyro appends a table with the shapes of every site to what was raised inside a trace."""

    def broken(self, *_):
        raise ValueError("the decoder is broken")

    monkeypatch.setattr("ppl_vae.model.Model.likelihood_at", broken)
    said = one_error(call("evaluate", finished[0], "--quiet", "--seed", 5), 1)
    assert said == "error: the decoder is broken"


# --- the other commands ---------------------------------------------------------------------------


def test_evaluate(finished, tmp_path):
    folder, _ = finished
    output = tmp_path / "valid.json"
    same = call("evaluate", folder, "--quiet", "--output", output)
    assert same.exit_code == 0
    assert (
        json.loads(output.read_text())["log_evidence"]
        == json.loads((folder / "metrics.json").read_text())["log_evidence"]
    )
    assert f"files in {tmp_path}:\n  valid.json, valid.npz" in same.stdout
    other = call(
        "evaluate", folder, "--quiet", "--split", "valid", "--num-particles", 40, "--seed", 1
    )
    assert "valid split, 12 rows, ImportanceSampling with 40 particles each" in other.stdout
    assert "rows were used" not in same.stdout
    assert "rows were used" not in other.stdout  # without early stopping
    seen = call("evaluate", folder, "--quiet", "--split", "train", "--num-particles", 40, "--json")
    assert json.loads(seen.stdout)["rows_used_for"] == "training"


def test_evaluate_by_another_method(finished):
    folder, _ = finished
    ais = ["--method", "AIS", "--set", "num_chains=30", "--set", "method.num_temperatures=2"]
    result = call("evaluate", folder, "--quiet", *ais, "--set", "sampler.num_leapfrog=1")
    assert "12 rows, AIS with 30 chains each" in result.stdout
    (numbers,) = (folder / "evaluations").glob("test-AIS-*.json")
    assert json.loads(numbers.read_text())["evaluation"]["method"]["sampler"]["num_leapfrog"] == 1
    run = load_run(folder)
    method = AIS(30, 2, sampler=replace(AIS().sampler, num_leapfrog=1))
    exact = log_evidence(run.model, run.guide, run.held_out, method, progress=False)
    np.testing.assert_array_equal(
        Evidence.load(numbers.with_suffix(".npz")).log_evidence, exact.log_evidence
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "all"], "[evaluation] split = 'all'"),
        (["--method", "IAS"], "evidence has no 'IAS': did you mean AIS?"),
        (["--method", "AIS", "--num-particles", 40], "with method AIS takes no 'num_particles'"),
        (["--set", "num_chains=40"], "with method ImportanceSampling takes no 'num_chains'"),
        (["--set", "num_chains"], "is not KEY=VALUE"),
        (
            ["--output", "all.csv"],
            "all.csv: an evaluation is written to all.json and all.npz: name either file",
        ),
    ],
)
def test_evaluate_says_what_was_meant(finished, arguments, said):
    assert said in one_error(call("evaluate", finished[0], *arguments), 2)


@pytest.mark.parametrize("place", ["run", "elsewhere"])
@pytest.mark.parametrize("command", ["evaluate", "report", "sample"])
def test_a_read_only_folder_is_told_before_the_work(
    finished, tmp_path, monkeypatch, command, place
):
    folder = finished[0]
    output = {"evaluate": "new.json", "report": "", "sample": "new.csv"}[command]
    where = (folder if place == "run" else tmp_path / "new") / output
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write
    monkeypatch.setattr("ppl_vae.experiment.run.measure", pytest.fail)
    said = one_error(call(command, folder, "--output", where), 2)
    assert f"{where}" in said
    assert "cannot be written: its folder is read-only" in said
    if command != "sample" and place == "run":
        said = one_error(call(command, folder), 2)
        assert f"{folder}/" in said
        assert "read-only" in said


def test_an_interrupted_evaluation_goes_on(finished, tmp_path, monkeypatch):
    folder, blocks, estimate = finished[0], [], ImportanceSampling.estimate

    def interrupted(self, model, guide, data, *, seed):
        blocks.append(len(data))
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return estimate(self, model, guide, data, seed=seed)

    command = [
        "evaluate",
        folder,
        "--quiet",
        "--set",
        "chunk_size=90",
        "--output",
    ]  # 3 rows at once
    monkeypatch.setattr("ppl_vae.evidence.estimate.SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(ImportanceSampling, "estimate", interrupted)
    result = call(*command, tmp_path / "parts.json")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted: run the same command again to resume"
    with pytest.raises(ValueError, match="a checkpoint with 6 of 12 rows done"):
        Evidence.load(tmp_path / "parts.npz")
    assert not (tmp_path / "parts.json").exists()
    assert call(*command, tmp_path / "parts.json").exit_code == 0
    assert blocks == [3, 3, 3, 3, 3]  # two, the interrupted one, and only those that were left
    assert call(*command, tmp_path / "whole.json").exit_code == 0
    parts, whole = (Evidence.load(tmp_path / f"{name}.npz").arrays() for name in ("parts", "whole"))
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)


def test_a_killed_evaluation_goes_on(finished, tmp_path):
    """SIGKILL in the middle: what was written is whole, and the same command ends with the same
    numbers."""
    code = """
import os, sys
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.cli import app
module = sys.modules["ppl_vae.evidence.estimate"]
module.SECONDS_BETWEEN_WRITES, blocks, estimate = 0.0, [], ImportanceSampling.estimate
def killed(*arguments, **options):
    blocks.append(1)
    return estimate(*arguments, **options) if len(blocks) < 3 else os.kill(os.getpid(), 9)
ImportanceSampling.estimate = killed
app(sys.argv[1:])
"""
    command = ["evaluate", str(finished[0]), "--quiet", "--set", "chunk_size=90", "--output"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, str(tmp_path / "parts.json")], check=False
    )
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["parts.npz"]
    for name in ("parts", "whole"):
        assert call(*command, tmp_path / f"{name}.json").exit_code == 0
    parts, whole = (Evidence.load(tmp_path / f"{name}.npz") for name in ("parts", "whole"))
    np.testing.assert_array_equal(parts.log_evidence, whole.log_evidence)


def test_files_of_another_evaluation_are_left_alone(finished, tmp_path):
    output = tmp_path / "one.json"
    assert call("evaluate", finished[0], "--quiet", "--output", output).exit_code == 0
    before = output.read_bytes()
    assert "written with different settings" in one_error(
        call("evaluate", finished[0], "--seed", 3, "--output", output), 1
    )
    assert output.read_bytes() == before


@pytest.mark.parametrize("suffix", ["npz", "npy", "png"])
def test_sample(finished, tmp_path, suffix):
    folder, _ = finished
    output = tmp_path / f"samples.{suffix}"
    assert call("sample", folder, "--num-samples", 7, "--output", output).exit_code == 0
    if suffix == "png":
        assert output.read_bytes().startswith(b"\x89PNG")
        return
    if suffix == "npz":
        with np.load(output) as found:
            x = found["x"]
    else:
        x = np.load(output)
    assert x.shape == (7, 8, 8)
    assert set(np.unique(x)) == {0.0, 1.0}


def test_samples_have_a_seed(finished, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call(
            "sample",
            finished[0],
            "--num-samples",
            9,
            "--seed",
            seed,
            "--output",
            tmp_path / f"{name}.npy",
        )
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_sample_refuses_other_files(finished, tmp_path):
    assert "samples go to a file .png, .npz, .npy" in one_error(
        call("sample", finished[0], "-o", tmp_path / "x.txt"), 2
    )


def test_data_lists_and_describes():
    assert re.search(r"^digits +1,797 grey 8 x 8 .*CC BY 4.0", call("data").stdout, re.MULTILINE)
    described = call("data", "digits").stdout
    assert re.search(r"^event shape +8 x 8$", described, re.MULTILINE)
    assert re.search(r"^splits +train 1,297, valid 200, test 300$", described, re.MULTILINE)


def test_demo_is_the_demo(finished, small, tmp_path, monkeypatch):
    import ppl_vae.experiment as experiment

    monkeypatch.setattr(experiment, "demo_config", lambda seed: read_config(small))
    folder = tmp_path / "demo"
    first = call("demo", "--output", folder, "--quiet")
    assert first.exit_code == 0
    assert lasting(folder) == lasting(finished[0])
    again = call("demo", "--output", folder)
    assert "is already finished" in again.stderr
    assert again.stdout == first.stdout
