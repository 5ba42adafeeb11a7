"""A diagnosis from outside the package has its line, its panel and its part of the tree."""

import re

import numpy as np
import pytest
import xarray as xr
from scipy.special import logsumexp

import ppl_vae as pv
from ppl_vae.experiment import read_config, run_experiment
from ppl_vae.experiment.saved.run import SavedRun
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
from ppl_vae.report.diagnoses.evidence import Weights

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


def test_bounds_of_weighted_rows_are_weighted_means():
    """As log p(x) beside them: by NumPy, with the unbiased error of a weighted mean."""
    rng = np.random.default_rng(0)
    log_w = rng.normal(size=(500, 40))
    sampling = rng.gamma(2, size=40)
    found = Weights(log_w, np.arange(40), 40, sampling).bounds
    shares = sampling / sampling.sum()
    for size, (mean, mc_se, data_se) in found.items():
        values = logsumexp(log_w.reshape(-1, size, 40), axis=1) - np.log(size)
        by_row = values.mean(0)
        assert mean == pytest.approx(shares @ by_row)
        if len(values) > 1:
            error = values.std(0, ddof=1) / len(values) ** 0.5
            assert mc_se == pytest.approx(np.sqrt(((shares * error) ** 2).sum()))
        residual = shares * (by_row - shares @ by_row)
        apart = 1 - 2 * shares + (shares**2).sum()
        assert data_se == pytest.approx(np.sqrt((residual**2 / apart).sum()))


@pytest.mark.parametrize("refit", [False, True])
def test_plain_models_are_fitted_to_the_rows_that_the_model_was_fitted_to(refit):
    x = np.random.default_rng(0).normal(size=(60, 2))
    data = pv.Dataset(x, splits={"train": range(30), "valid": range(30, 45), "test": range(45, 60)})
    run = SavedRun.of(None, None, data, pv.FitResult(refit_epochs=3 * refit))
    assert len(run.fitted_rows.train) == (45 if refit else 30)
    assert run.fitted_rows.test.x.equal(data.test.x)
    rest = {name: rows for name, rows in data.splits.items() if name != "test"}
    without_test = SavedRun.of(None, None, data.with_splits(rest), run.result)
    assert run.used_rows_for == ""
    assert without_test.used_rows_for == ("training" if refit else "")
