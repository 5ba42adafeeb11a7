"""The README's example runs as it is written, with fewer epochs, and says what it promises."""

import re
from pathlib import Path

import pytest
from xarray import DataTree

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_notebook_example(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(link):
    assert (Path(__file__).parent.parent / link).exists()
