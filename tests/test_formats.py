"""Every file that is read back has the number of its format; later versions read earlier ones."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae.errors import PplVaeError
from ppl_vae.experiment import Metrics, evaluate_run, load_run, read_config
from ppl_vae.runtime import files
from ppl_vae.runtime.sealed import (
    read_arrays,
    read_json,
    read_tensors,
    write_arrays,
    write_json,
    write_tensors,
)

STORED = Path(__file__).parent / "run_of_format_1"


def in_text(path):
    """A file with another number than 1 in its text."""
    text = (STORED / path.name).read_text(encoding="utf-8")
    newer = text.replace('"format": 1', '"format": 2').replace("format = 1", "format = 2")
    assert newer != text
    path.write_text(newer, encoding="utf-8")


def in_archive(path):
    """Archives as a later version writes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppl_vae.runtime.sealed.FORMAT", 2)
        write = write_arrays if path.suffix == ".npz" else write_tensors
        write(path, {"x": np.zeros(3) if path.suffix == ".npz" else torch.zeros(3)})


NEWER = {
    "config.toml": (in_text, read_config),
    "metrics.json": (in_text, Metrics.read),
    "run.json": (in_text, lambda path: load_run(path.parent)),
    "evidence.npz": (in_archive, pv.Evidence.load),
    "fits.pt": (in_archive, lambda path: read_tensors(path, "fits")),
}


@pytest.mark.parametrize("name", NEWER)
def test_a_file_of_a_newer_format_is_refused_in_one_line(name, tmp_path):
    write, read = NEWER[name]
    path = shutil.copytree(STORED, tmp_path / "run") / name
    write(path)
    with pytest.raises(PplVaeError, match=f"{name} has format 2, .* up to 1: update") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ['"new"', "0", "-1", "1.5", "[]", '"9999999999999999999"'])
def test_a_format_that_is_no_number_is_refused_in_one_line(number, tmp_path):
    (tmp_path / "a.toml").write_text(f'format = {number}\n[data]\nname = "digits"\n')
    with pytest.raises(PplVaeError, match=r"a.toml has format .* whole number from 1 on"):
        read_config(tmp_path / "a.toml")


def test_the_run_that_this_format_wrote_is_read():
    """Model, guide, metrics and evidence; a later version keeps this folder and this test."""
    run = load_run(STORED)
    metrics = Metrics.read(STORED / "metrics.json")
    evidence = pv.Evidence.load(STORED / "evidence.npz")
    assert evidence.log_evidence.mean() == pytest.approx(metrics.log_evidence, abs=1e-9)
    again = evaluate_run(run, progress=False)
    assert again.log_evidence == pytest.approx(metrics.log_evidence, abs=1e-3)


def test_an_earlier_format_is_converted_in_one_place(tmp_path, monkeypatch):
    """By a table of functions, from each format to the next."""

    def renamed(values):
        return {("elbo" if name == "bound_of_z" else name): each for name, each in values.items()}

    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"format": 1, "bound_of_z": -3.5, "num_data": 7}))
    write_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    monkeypatch.setattr(files, "FORMAT", 3)
    monkeypatch.setitem(files.MIGRATIONS, ("metrics", 2), renamed)
    monkeypatch.setitem(files.MIGRATIONS, ("arrays", 1), lambda arrays: {"y": arrays["x"]})
    found = Metrics.read(path)
    assert (found.elbo, found.num_data) == (-3.5, 7)
    assert list(read_arrays(tmp_path / "a.npz")) == ["y"]


def test_every_file_of_a_run_that_is_read_back_has_a_number():
    config = (STORED / "config.toml").read_text(encoding="utf-8")
    assert config.startswith("format = 1\n")
    for name in ("metrics.json", "run.json"):
        assert json.loads((STORED / name).read_text(encoding="utf-8"))["format"] == 1
    with np.load(STORED / "evidence.npz") as arrays:
        assert arrays["format"] == 1


# --- checksums of plain values --------------------------------------------------------------------

VALUES = {
    "elbo": -18.5,
    "num_data": 100,
    "bound": "lower",
    "weighted": False,
    "mc_se": None,
    "rows": {"train": 80, "test": 20},
    "at_floor": ["may", "june"],
}


def test_values_come_back_as_they_were_written(tmp_path):
    path = write_json(tmp_path / "a.json", VALUES)
    assert read_json(path) == {"format": 1, **VALUES}


def test_layout_and_order_are_free(tmp_path):
    path = write_json(tmp_path / "a.json", VALUES)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items()))))
    assert read_json(path) == {"format": 1, **VALUES}


def test_every_changed_character_is_refused_or_changes_no_value(tmp_path):
    """One character of a written file at a time: a digit, a letter, a name, a bracket."""
    path = write_json(tmp_path / "a.json", VALUES)
    text = path.read_text()
    for place, old in enumerate(text):
        path.write_text(text[:place] + ("7" if old != "7" else "8") + text[place + 1 :])
        with suppress(PplVaeError):
            found = read_json(path)
            assert {"format": 1, **VALUES}.items() <= found.items() or found["format"] > 1


def changes_of(value):
    """The same values with one of them changed."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: each} for each in changes_of(item))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from ([*value[:place], each, *value[place + 1 :]] for each in changes_of(item))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, str):
        yield value + "x"
    else:
        yield (value or 0) + 1


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
def test_a_value_that_was_changed_by_hand_is_refused(name, tmp_path):
    """The stored run as this version writes it, with one value changed at a time."""
    folder = shutil.copytree(STORED, tmp_path / "run")
    path = folder / name
    write_json(path, json.loads(path.read_text()))
    read = {"metrics.json": Metrics.read, "run.json": lambda path: load_run(path.parent)}[name]
    read(path)
    written = json.loads(path.read_text())
    values = {key: value for key, value in written.items() if key not in ("format", "sha256")}
    for changed in changes_of(values):
        path.write_text(json.dumps(written | changed))
        with pytest.raises(PplVaeError, match=f"{name} is damaged: its checksum is not that"):
            read(path)
