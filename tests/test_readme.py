"""The README's example runs as it is written, with fewer epochs, and says what it promises."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xarray import DataTree

README = (Path(__file__).parent.parent / "README.md").read_text()


def snippets():
    """The Python examples, in order."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_notebook_example(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = snippets()[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    space = {}
    exec(
        code.replace("num_epochs=60, kl_warmup_epochs=20", "num_epochs=3").replace("=1000", "=50"),
        space,
    )
    assert space["evidence"].log_evidence.shape == (300,)
    assert isinstance(space["tree"], DataTree)
    assert "k-hat > 0.7 for" in capsys.readouterr().out
    assert space["result"].history["valid"][-1] > space["result"].history["valid"][0]


def test_the_example_of_a_table(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    sick = rng.random(80) < 0.4
    table = {
        "age": rng.integers(20, 80, size=80),
        "marker": np.exp(sick + 0.5 * rng.normal(size=80)),
        "ward": np.where(sick, "A", "B"),
    }
    pd.DataFrame(table).to_csv(tmp_path / "patients.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = snippets()[0].replace("recipe(data)", "recipe(data, num_steps=40)")
    exec(code, {})
    printed = capsys.readouterr().out
    assert re.search(r"ward +Categorical +category, 2 levels", printed)
    assert "independent columns" in printed
    assert "result = pv.fit(" in printed
    assert printed.splitlines()[-6].split() == ["age", "marker", "ward"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(link):
    assert (Path(__file__).parent.parent / link).exists()
