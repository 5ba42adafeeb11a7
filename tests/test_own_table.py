"""docs/howto/own_table.md runs from top to bottom, and says what is so."""

import re
from pathlib import Path

import numpy as np
import pytest

import ppl_vae as pv
from ppl_vae.experiment import build, read_config, recipe_config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "own_table.md"


@pytest.fixture(scope="module")
def page():
    """The names that the page's code defines."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "own_table"}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    return names


def test_the_kinds_are_those_on_the_page(page):
    data = page["data"]
    shown = re.search(r"^# ({'smokes'.*?})$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert str(dict(zip(data.columns["x"], data.kinds, strict=True))) == re.sub(
        r"\n# +", " ", shown.group(1)
    )
    assert data.levels == {"sex": ("female", "male"), "grade": ("low", "mid", "high")}


def test_draws_are_of_the_types_of_the_frame(page):
    drawn, frame = page["drawn"], page["frame"]
    assert drawn["grade"].dtype == frame["grade"].dtype
    assert drawn["smokes"].dtype == bool
    assert drawn["visits"].dtype.kind == "i"


def test_older_people_have_a_higher_pressure(page):
    """By half a unit a year, as simulated; the network learns it roughly from 240 rows."""
    column = page["data"].columns["x"].index("pressure")
    own = page["frame"].loc[page["data"].test.coords["datum"], ["age", "pressure"]]
    shift = page["older"].mean[:, column] - own["pressure"]
    slope = np.polyfit(70 - own["age"], shift, 1)[0]
    assert 0.3 < slope < 0.7


def test_folds_hold_out_all_rows(page):
    comparison = page["comparison"]
    assert comparison.num_data == 90
    assert any("sampling weights" in note for note in comparison.notes)
    assert page["evidence"].summary().weighted
    strange = page["frame"].assign(sex="x")
    data = pv.Dataset(strange, context=["sex", "age"], weights="weight")
    with pytest.raises(ValueError, match="column 'sex' of context is 'x' at row 0.*which is none"):
        pv.log_evidence(page["model"], page["guide"], data)


def test_the_file_says_what_the_shell_says(page, tmp_path, monkeypatch):
    """The page's TOML is a configuration of the frame as a file."""
    monkeypatch.chdir(tmp_path)
    page["frame"].to_csv("survey.csv")
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    Path("survey.toml").write_text(block, encoding="utf-8")
    experiment = build(read_config("survey.toml"))
    given = [line.split() for line in repr(experiment.model.likelihood).splitlines()[1:-1]]
    assert [words[0] for words in given if words[-1] == "given"] == ["visits", "pressure"]
    recipe = recipe_config("survey.csv", [("likelihood.families.pressure", "Gaussian")])
    assert recipe.likelihood.keywords["families"] == {"pressure": "Gaussian"}


def test_a_reloaded_model_is_the_same(page):
    rows = page["data"].test
    options = {"num_particles": 30, "progress": False}
    one = pv.log_evidence(page["model"], page["guide"], rows, **options)
    other = pv.log_evidence(page["again"], page["its_guide"], rows, **options)
    np.testing.assert_array_equal(one.log_evidence, other.log_evidence)


def test_the_recipe_is_beside_plain_models(page):
    assert page["recipe"].data.sum_of_weights == page["data"].sum_of_weights
    assert "independent columns" in page["plain"]
