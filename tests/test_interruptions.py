"""Runs that are killed, terminated, doubled, or run out of disk lose nothing that was finished."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.cli.outputs import check_output
from ppl_vae.errors import ArgumentError, DiskFullError, InUseError
from ppl_vae.experiment import (
    ConfigError,
    Folder,
    evaluate_run,
    load_run,
    read_config,
    recipe_config,
    run_experiment,
    to_toml,
)
from ppl_vae.experiment.folder import OWN
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.runtime.files import _temporary, is_partial, write_folder, write_tree, write_whole
from ppl_vae.runtime.locks import alone_in, alone_with
from ppl_vae.runtime.sealed import write_arrays, write_tensors


def table(folder, name="t.csv", num_rows=60):
    path = Path(folder) / name
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a:.3f},{b:.3f}" for a, b in rng.normal(size=(num_rows, 2)))
    path.write_text(f"a,b\n{rows}\n", encoding="utf-8")
    return path


def config(data, **more):
    changes = {
        "data.name": str(data),
        "likelihood.name": "Gaussian",
        "encoder.hidden_dims": [4],
        "decoder.hidden_dims": [4],
        "posterior.latent_dim": 1,
        "training.num_epochs": 2,
        "evaluation.num_particles": 30,
    }
    return read_config(changes=[*(changes | more).items()])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_experiment(config(table(folder)), folder / "run", progress=False)
    return folder / "run"


# -- names
# ------------------------------------------------------------------------------------------

NAMES = {
    "beyond 16 bits": "\U0001f600 \U0001d4c1",
    "bidirectional marks": "\u202eabc\u202c \u2066x",
    "line break": "a\nb\r\tc",
    "quotes": "a\"b'c\\d",
    "delete and controls": "a\x7f\x01\x1f\x85\u2028",
    "long": "x" * 251,
    "combining": "e\u0301 \u00e9 \ufeff",
}


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_is_read_back_from_the_toml(name, tmp_path):
    path = tmp_path / f"{NAMES[name]}.csv"
    wanted = config(path, **{"data.context": [NAMES[name], "b"]})
    text = to_toml(wanted)
    assert tomllib.loads(text)["data"]["name"] == str(path)
    folder = Folder(tmp_path / "run")
    folder.claim(wanted)
    assert folder.read_config() == wanted
    folder.claim(wanted)  # the same run


def test_every_character_is_read_back_from_the_toml():
    """All code points that a TOML file can hold, thirty thousand at a time."""
    signs = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(signs), 30_000):
        text = "".join(signs[start : start + 30_000])
        wanted = read_config(changes=[("data.name", text)])
        assert tomllib.loads(to_toml(wanted))["data"]["name"] == text


def test_a_link_is_read_under_its_own_name(tmp_path, monkeypatch):
    """The target has no suffix, as in an annex of files by their digests."""
    (tmp_path / "objects").mkdir()
    table(tmp_path).rename(tmp_path / "objects" / "9f86d081884c7d65")
    (tmp_path / "rain.csv").symlink_to(Path("objects") / "9f86d081884c7d65")
    monkeypatch.chdir(tmp_path)
    wanted = config("rain.csv")
    assert wanted.data.name == str(tmp_path / "rain.csv")
    assert load_data(wanted.data).name == "rain"


def test_a_name_that_no_file_can_hold_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written to a file in UTF-8: rename"):
        Folder(tmp_path / "run").claim(config("a\udcff.csv"))
    assert not (tmp_path / "run").exists()


# -- folders
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [".1234abcd.partial.toml", "config-1234abcd.partial.toml"])
def test_what_a_kill_leaves_of_a_first_file_does_not_block_the_folder(left, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("[da", encoding="utf-8")
    folder = Folder(tmp_path / "run")
    with folder.held(config(table(tmp_path))):
        assert [path.name for path in folder.path.iterdir() if "partial" in path.name] == []
        assert folder.files == ["config.toml"]


def test_a_folder_is_used_by_one_call_at_a_time(tmp_path):
    wanted = config(table(tmp_path))
    with Folder(tmp_path / "run").held(wanted):
        with pytest.raises(InUseError, match="run is in use by another process: wait until it"):
            run_experiment(wanted, tmp_path / "run", progress=False)
    with Folder(tmp_path / "run").held(wanted):
        pass  # the lock ended with its holder


def test_the_lock_ends_with_a_killed_holder(tmp_path):
    code = (
        "import sys, time\nfrom ppl_vae.runtime.locks import alone_in\n"
        f"with alone_in({str(tmp_path)!r}):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InUseError), alone_in(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with alone_in(tmp_path):
        pass


def test_a_checkpoint_is_written_by_one_fit_at_a_time(tmp_path):
    bed = beds.rainforth(num_data=5)
    path = tmp_path / "new" / "a.pt"
    training = pv.Training(num_epochs=1, checkpoint=path, progress=False)
    with alone_with(path), pytest.raises(InUseError, match=f"{path} is in use by another process"):
        pv.fit(bed.model, bed.amortised_guide, bed.x, training=training)
    Path(f"{path}.lock").touch()  # as a killed holder leaves it
    pv.fit(bed.model, bed.amortised_guide, bed.x, training=training)
    assert [each.name for each in path.parent.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("moment", ["fit", "measure", "write_pictures"])
def test_a_folder_that_is_removed_during_the_run_ends_it_with_an_error(
    moment, tmp_path, monkeypatch
):
    from ppl_vae.experiment import run as module

    original = getattr(module, moment)

    def removing(*arguments, **options):
        found = original(*arguments, **options)
        (tmp_path / "run").rename(tmp_path / f"moved-{moment}")
        return found

    monkeypatch.setattr(module, moment, removing)
    with pytest.raises(FileNotFoundError, match="was removed or replaced while the run was"):
        run_experiment(config(table(tmp_path)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_everything_that_training_writes_is_known(run):
    assert set(Folder(run).files) <= set(OWN)


@pytest.mark.parametrize("name", ["run.json", "evidence.npz", "k_hat.png", "README.md"])
def test_no_command_replaces_the_files_of_a_run(name, run):
    before = (run / name).read_bytes()
    with pytest.raises(ArgumentError, match="is a file of the run in .*: give another name"):
        check_output({"run": run, "output": run / name})
    assert (run / name).read_bytes() == before
    check_output({"run": run, "output": run / "scores.csv"})


@pytest.mark.parametrize(
    "name", ["metrics.json", "evidence.npz", "evidence.json", "metrics.npz", "run.json"]
)
def test_an_evaluation_does_not_replace_the_files_of_the_run(name, run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="is a file of the run in .*: give --output another"):
        evaluate_run(load_run(run), run / name, progress=False, num_particles=40)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


# -- signals
# ------------------------------------------------------------------------------------------


def start(folder, *more):
    command = [sys.executable, "-m", "ppl_vae", "fit", str(folder / "long.toml")]
    return subprocess.Popen(
        [*command, "--output", str(folder / "run"), "--quiet", *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_a_terminated_run_stops_cleanly_and_a_killed_one_goes_on(tmp_path):
    """The checkpoint of the last epoch survives both; then the same call finishes the run."""
    long = config(table(tmp_path), **{"training.num_epochs": 100_000, "training.compile": False})
    (tmp_path / "long.toml").write_text(to_toml(long), encoding="utf-8")
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    for number, code, said in (
        (signal.SIGTERM, 143, "terminated: run the same command again to resume"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ):
        process = start(tmp_path)
        wait_for(checkpoint, process)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == code, told
        assert [line for line in told.splitlines() if not line.startswith("warning")][-1:] == (
            [said] if said else []
        )
        assert torch.load(checkpoint, weights_only=True)["result"]["history"]["epoch"]
    state = torch.load(checkpoint, weights_only=True)
    done = len(state["result"]["history"]["epoch"])
    assert done >= 1


class Stopped(BaseException):
    """An end that no code expects."""


def stopping_at(number, monkeypatch):
    """Stop when so many files have been moved into place."""
    moved = os.replace
    count = 0

    def replace(*arguments):
        nonlocal count
        moved(*arguments)
        count += 1
        if count == number:
            raise Stopped

    monkeypatch.setattr(os, "replace", replace)


def fit_table(folder):
    """A recipe trains twice, so that the files are: the configuration, three checkpoints, three of
    the second training, the weights, the run, and others."""
    options = {"training.num_epochs": 3, "evaluation.num_particles": 30}
    options |= {"encoder.hidden_dims": [4], "decoder.hidden_dims": [4]}
    config = recipe_config(table(folder), [*options.items()])
    run_experiment(config, folder / "run", progress=False)
    return pv.Evidence.load(folder / "run" / "evidence.npz").log_evidence.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit_table(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("number", [3, 5, 9], ids=lambda n: f"after {n} files")
def test_a_fit_of_a_table_goes_on_wherever_it_stopped(number, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as stopping:
        stopping_at(number, stopping)
        with pytest.raises(Stopped):
            fit_table(tmp_path)
    assert fit_table(tmp_path) == whole


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(tmp_path):
    """The parts of other files, and those of processes that run, stay."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        for name in ("a.txt", "b.txt"):
            part = _temporary(tmp_path / name)
            number = part.name.replace(f"-{os.getpid()}-", f"-{process}-")
            part.with_name(number).write_text("cut o", encoding="utf-8")
    write_whole(tmp_path / "a.txt", lambda p: p.write_text("whole", encoding="utf-8"))
    left = [path.name.split("-")[1] for path in tmp_path.iterdir() if is_partial(path)]
    assert sorted(left) == sorted(map(str, [ended.pid, os.getpid(), os.getpid()]))


# -- full disks
# ------------------------------------------------------------------------------------------

WRITERS = {
    "tensors": lambda path: write_tensors(path, {"x": torch.zeros(10**6)}),
    "arrays": lambda path: write_arrays(path, {"x": np.zeros(10**6)}),
    "tree": lambda path: write_tree(path, xr.DataTree(xr.Dataset({"x": ("a", np.zeros(10**6))}))),
    "text": lambda path: write_whole(path, lambda p: p.write_text("x" * 10**7)),
    "bytes": lambda path: write_whole(path, lambda p: p.write_bytes(bytes(10**7))),
}


@pytest.fixture
def small_disk(tmp_path):
    """Two megabytes, where the machine lets us mount them."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_the_old_file_stays(kind, small_disk):
    path = small_disk / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(DiskFullError, match="disk full, and the former file is as it was.*file"):
        WRITERS[kind](path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [each.name for each in small_disk.iterdir()] == ["file"]
    (small_disk / "other").write_text("there is room again", encoding="utf-8")


# -- folders that are written whole


def numbered(folder, last=5):
    for number in range(last):
        (folder / f"{number}.csv").write_text("x", encoding="utf-8")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_of_results_is_written_whole(is_there, tmp_path):
    target = tmp_path / "results"
    if is_there:
        target.mkdir()
    assert sorted(path.name for path in write_folder(target, numbered).iterdir()) == [
        f"{number}.csv" for number in range(5)
    ]
    with pytest.raises(OSError, match="not empty|exists"):
        write_folder(target, numbered)
    assert len(list(target.iterdir())) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("way", ["os.kill(os.getpid(), 9)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("last", range(5))
def test_a_stop_leaves_no_part_of_a_folder_of_results(last, way, tmp_path):
    """After each of its files; the next call removes what a killed one left beside it."""
    target = tmp_path / "results"
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ppl_vae.runtime.files import write_folder
def stopped(folder):
    for number in range({last}):
        (folder / f"{{number}}.csv").write_text("x")
    {way}
write_folder({str(target)!r}, stopped)
"""
    subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    assert not target.exists()
    write_folder(target, numbered)
    assert len(list(target.iterdir())) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
