"""A diagnosis from outside the package has its line, its panel and its part of the tree."""

import re

import numpy as np
import pytest
import xarray as xr

from ppl_vae.experiment import read_config, run_experiment
from ppl_vae.report import (
    DIAGNOSES,
    Diagnosis,
    Findings,
    Measured,
    NotApplicable,
    Panel,
    Rule,
    write_report,
)

BRIGHTNESS = Diagnosis(
    "brightness",
    title="Brightness of the rows",
    section="Is the model right?",
    compute=lambda found: found.subject.rows.x.flatten(1).mean(1).numpy(),
    rules=[
        Rule(
            "The rows are bright",
            lambda found: Measured(found["brightness"].mean(), f"{found['brightness'].mean():.2f}"),
            "Mean of x",
            passes=0.2,
            fails=0.1,
            words=("They are.", "They are dim: use a lamp.", "They are dark: use two lamps."),
            better="more",
        )
    ],
    panel=lambda found: Panel([f"{len(found['brightness'])} rows were measured."]),
    tree=lambda found: {"brightness": xr.Dataset({"mean": ("row", found["brightness"])})},
)
FACTS = [each for each in DIAGNOSES if each.name in ("configuration", "data")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    changes = [
        ("data.name", "digits"),
        ("data.binarize", "static"),
        ("encoder.hidden_dims", [4]),
        ("decoder.hidden_dims", [4]),
        ("training.num_epochs", 1),
        ("evaluation.num_data", 10),
        ("evaluation.num_particles", 30),
    ]
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run_experiment(read_config(changes=changes), folder, progress=False)
    return folder


def reported(folder, output, *diagnoses):
    report = write_report(
        folder, output, num_data=8, diagnoses=[*FACTS, *diagnoses], progress=False
    )
    return report, (output / "report.html").read_text(), xr.open_datatree(output / "report.nc")


def test_a_diagnosis_of_the_user_is_on_the_page(folder, tmp_path):
    report, page, tree = reported(folder, tmp_path, BRIGHTNESS)
    [held_out, bright] = report.checks
    assert (held_out.title, held_out.panel) == ("Held-out data", "data")
    assert (bright.title, bright.verdict) == ("The rows are bright", "pass")
    assert bright.number == f"{bright.value:.2f}"
    assert f"<p>{bright.says}</p>" in page
    assert f"{bright.rule}. " in page
    [panel] = re.findall(r'<h3 id="brightness-of-the-rows">(.*?)</article>', page, re.DOTALL)
    assert "8 rows were measured." in panel
    assert re.findall(r'<h2 id="group-\d">(.*?)</h2>', page) == [
        "What was run",
        "Is the model right?",
    ]
    with tree:
        assert tree["brightness"]["mean"].values.mean() == pytest.approx(bright.value)
        assert "The rows are bright" in tree["verdicts"]["check"].values


@pytest.mark.parametrize(
    ("error", "line", "shown", "failed"),
    [
        (NotApplicable("there is no lamp."), "there is no lamp", "Not for this run", False),
        (RuntimeError("the lamp\nbroke"), "RuntimeError: the lamp broke", "Failed", True),
    ],
)
def test_a_failure_becomes_a_line_and_the_others_go_on(
    folder, tmp_path, error, line, shown, failed
):
    def compute(found):
        raise error

    dark = Diagnosis(**vars(BRIGHTNESS) | {"compute": compute})
    report, page, tree = reported(folder, tmp_path, dark)
    [held_out, bright] = report.checks
    assert held_out.verdict == "pass"
    assert (bright.verdict, bright.says) == ("skipped", f"Not checked: {line}.")
    assert np.isnan(bright.value)
    assert f'<p class="problem">{shown}: {line}.</p>' in page
    with tree:
        assert ("brightness" in tree.children) == failed
        assert not failed or tree["brightness"].attrs["failed"] == line


@pytest.mark.parametrize("wrong", ["measure", "panel", "tree"])
def test_a_function_that_returns_something_else_is_a_failure(folder, tmp_path, wrong):
    [rule] = BRIGHTNESS.rules
    changes = {
        "measure": {"rules": [Rule(**vars(rule) | {"measure": lambda found: 0.5})]},
        "panel": {"panel": lambda found: "a sentence"},
        "tree": {"tree": lambda found: 0.5},
    }
    broken = Diagnosis(**vars(BRIGHTNESS) | changes[wrong])
    report, page, tree = reported(folder, tmp_path, broken)
    assert (report.checks[1].verdict == "skipped") == (wrong == "measure")
    assert ("Failed: AttributeError" in page) == (wrong == "panel")
    with tree:
        assert ("failed" in tree["brightness"].attrs) == (wrong == "tree")


def test_a_number_that_is_not_known_does_not_pass():
    [rule] = BRIGHTNESS.rules
    check = rule.check({"brightness": np.array([np.nan])})
    assert (check.verdict, check.says) == ("skipped", "Not checked: the number is not known.")


def test_a_diagnosis_is_computed_once_and_only_when_asked_for():
    calls = []
    one = Diagnosis("one", compute=lambda found: calls.append("one") or 1)
    two = Diagnosis("two", compute=lambda found: calls.append("two") or found["one"] + 1)
    found = Findings(None, [one, two])
    assert calls == []
    assert (found["two"], found["one"], found["two"]) == (2, 1, 2)
    assert calls == ["two", "one"]


def test_names_are_unique_and_known():
    with pytest.raises(ValueError, match="two diagnoses are called 'brightness'"):
        Findings(None, [BRIGHTNESS, BRIGHTNESS])
    with pytest.raises(KeyError, match="no diagnosis computes 'darkness'"):
        Findings(None, [BRIGHTNESS])["darkness"]


def test_the_diagnoses_of_the_library_have_a_place():
    names = [each.name for each in DIAGNOSES]
    assert len(set(names)) == len(names)
    titles = [each.title for each in DIAGNOSES if each.panel is not None]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    assert all(each.section for each in DIAGNOSES if each.panel is not None)
