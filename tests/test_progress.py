"""Progress bars: a line of a log each half minute, none where switched off, and no warning."""

import re
import subprocess
import sys

import pytest

from ppl_vae.runtime.progress import progress_bar, show_step


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(("seconds", "lines"), [(20, 0), (61, 2), (601, 20)])
def test_a_log_has_a_line_each_half_minute(capsys, clock, seconds, lines):
    """Whatever the number of updates, and none of a short task."""
    with progress_bar(10 * seconds, "fit", unit="epochs") as bar:
        bar._time, bar.start_t, bar.last_print_t = clock, clock.now, clock.now
        for _ in range(10 * seconds):
            clock.now += 0.1
            bar.set_postfix({"train": "-1"}, refresh=False)
            bar.update()
    written = capsys.readouterr().err
    found = written.splitlines()
    assert lines <= len(found) <= lines + 1  # and one at the end
    assert "\r" not in written
    assert all(line.startswith("fit: ") and "train=-1" in line for line in found)


def test_a_long_epoch_shows_its_steps(capsys, clock):
    with progress_bar(3, "fit", unit="epochs") as bar:
        bar._time, bar.start_t, bar.last_print_t = clock, clock.now, clock.now
        for epoch in range(2):
            for step in range(100):
                clock.now += 1.0
                show_step(bar, step + 1, 100)
            bar.update()
            assert bar.n == epoch + 1
    found = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert len(found) == 7  # one every half minute of two hundred seconds, and one at the end
    assert found[0] == "fit, step 30 of 100"
    assert all(re.fullmatch(r"fit, step \d+ of 100", line) for line in found)


@pytest.mark.parametrize("value", ["1", "true"])
def test_the_environment_switches_bars_off(capsys, clock, monkeypatch, value):
    monkeypatch.setenv("TQDM_DISABLE", value)
    with progress_bar(3, "fit") as bar:
        bar._time = clock
        clock.now += 100
        bar.update(3)
    assert bar.disable
    assert capsys.readouterr().err == ""


def test_a_kernel_without_widgets_gets_no_warning():
    """tqdm warns there, and so would every cell that shows a bar."""
    code = """
import sys, types, warnings
warnings.simplefilter("error")
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
for name in ("ipywidgets", "IPython.html.widgets", "IPython.html"):
    sys.modules[name] = None
from ppl_vae.runtime.progress import progress_bar, show_step
with progress_bar(3, "fit") as bar:
    bar.update(3)
print(type(bar).__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("tqdm.std\n", "")
