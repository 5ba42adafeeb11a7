"""The law of the report's checklist, on the runs of tests/benchmarks/checklist.py.

A share is compared with its limit by the binomial distribution at level 0.001, so that few runs
decide little."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from scipy.stats import binom

RUNS = json.loads((Path(__file__).parents[1] / "docs" / "checklist.json").read_text())
LEVEL = 0.001
RIGHT = ("Bernoulli", "ContinuousBernoulli", "Gaussian", "StudentT", "Poisson", "NegativeBinomial")
WRONG = (
    "Bernoulli, dependent bits",
    "Gaussian, correlated noise",
    "Gaussian, heteroscedastic noise",
    "Gaussian, t3 noise",
    "Poisson, overdispersion",
)


def verdicts(setting):
    """By line, the verdicts of all runs in which it was judged."""
    found = defaultdict(list)
    for key, run in RUNS.items():
        if key.rpartition(" | ")[0] == setting:
            for line, (verdict, _) in run.items():
                if verdict != "skipped":
                    found[line].append(verdict)
    return found


def pages(setting):
    """The set of verdicts of each run."""
    return [
        {verdict for verdict, _ in run.values()}
        for key, run in RUNS.items()
        if key.rpartition(" | ")[0] == setting
    ]


@pytest.mark.parametrize("setting", [*RIGHT, "exact guide"])
def test_what_is_right_seldom_fails(setting):
    for line, found in verdicts(setting).items():
        for verdict, limit in (("fail", 8 / 200), ("look", 28 / 200)):
            number = found.count(verdict)
            assert binom.sf(number - 1, len(found), limit) > LEVEL, (line, verdict, number)
    failed = sum("fail" in page for page in pages(setting))
    assert binom.sf(failed - 1, len(pages(setting)), 0.05) > LEVEL


@pytest.mark.parametrize("setting", [*WRONG, "guide of sd x 0.8", "guide shifted by 0.2 sd"])
def test_what_is_wrong_is_seen(setting):
    found = pages(setting)
    seen = sum(bool(page & {"look", "fail"}) for page in found)
    assert binom.cdf(seen, len(found), 0.8) > LEVEL


def test_each_setting_was_run():
    assert min(len(pages(setting)) for setting in (*RIGHT, *WRONG)) >= 5
