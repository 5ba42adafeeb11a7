"""Results in a console and in a notebook: short, without arrays, and tables as tables."""

import dataclasses
import importlib
import inspect
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae import beds, diagnostics, evidence, experiment, hmc, report, tasks, training
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.runtime.display import LONGEST, Shown
from ppl_vae.runtime.text import table

ROOMS = (diagnostics, evidence, experiment, hmc, report, training)
TASKS = (
    "anomaly",
    "compression",
    "contrasts",
    "denoising",
    "imputation",
    "reduction",
    "other_covariates",
)
HOSTILE = "<script>alert('x')</script>"


def is_result(found):
    """Whether it holds arrays, or prints as text that somebody wrote."""
    if not inspect.isclass(found) or issubclass(found, Exception):
        return False
    holds = " ".join(map(str, getattr(found, "__annotations__", {}).values()))
    has_arrays = dataclasses.is_dataclass(found) and "ndarray" in holds
    return has_arrays or "__str__" in vars(found)


def results():
    """The results that the rooms export, and those that `ppl_vae` does."""
    rooms = [*ROOMS, *(importlib.import_module(f"{tasks.__name__}.{name}") for name in TASKS), pv]
    exported = [getattr(room, name) for room in rooms for name in room.__all__]
    return sorted(set(filter(is_result, exported)), key=lambda each: each.__name__)


@pytest.mark.parametrize("kind", results(), ids=lambda kind: kind.__name__)
def test_every_result_is_shown_in_the_same_way(kind):
    """Settings and stored arrays are no results; they are named."""
    assert issubclass(kind, Shown)


@pytest.fixture(scope="module")
def bed():
    return beds.linear_gaussian(num_data=300, guide_scale=1.1)


def found_on(bed):
    """Results of many kinds."""
    programs = bed.model, bed.guide
    options = {"progress": False}
    estimate = pv.log_evidence(*programs, bed.x, num_particles=100, **options)
    other = reduce_log_weights(np.random.default_rng(0).normal(size=(100, 300)))
    pit = pv.marginal_pit(bed.model, bed.x, num_samples=30, **options)
    ranks = pv.calibration(*programs, bed.x[:50], num_samples=30, num_data=50, **options)
    missing = bed.x.clone()
    missing[:50, 0] = torch.nan
    return [
        estimate,
        estimate.summary(),
        pv.compare_models({"one": other, "two": reduce_log_weights(np.zeros((100, 300)))}),
        pv.compare_models({HOSTILE: other, "two": other}),
        pit,
        pit.summary(),
        ranks,
        ranks.summary(),
        pv.predictive_check(*programs, bed.x, num_samples=30, **options),
        pv.active_units(*programs, bed.x, **options),
        pv.elbo_surgery(*programs, bed.x, **options),
        pv.rate_distortion(*programs, bed.x, **options),
        pv.impute(*programs, missing, num_imputations=3, **options),
        training.FitResult({"epoch": list(range(9000))}),
        experiment.metrics.Metrics(history={"train": [0.0] * 9000}),
        report.Report([report.Check("a", "pass", HOSTILE * 20, "", 0.0, "", "", "")], []),
    ]


@pytest.fixture(scope="module")
def shown(bed):
    return found_on(bed)


def test_a_repr_is_short_and_has_no_arrays(shown):
    for each in shown:
        assert len(repr(each)) <= LONGEST, repr(each)
        assert not re.search(r"array\(|tensor\(|\n", repr(each))
        assert repr(each).startswith(type(each).__name__)


class Page(HTMLParser):
    """The tags and the words of a piece of HTML."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data.split()


def test_a_notebook_shows_what_print_shows(shown):
    for each in shown:
        page = Page(each._repr_html_())
        assert page.words == str(each).split()
        assert set(page.tags) <= {"div", "table", "tr", "th", "td"}
        assert len(each._repr_html_()) < 30_000


def test_tables_are_tables(shown):
    comparison = shown[2]
    page = Page(comparison._repr_html_())
    assert page.tags.count("tr") == 3
    assert page.tags.count("th") == len(comparison.cells[0])


@pytest.mark.parametrize("words", ["a", "two words", "-", HOSTILE, "1.0 (0.2)"])
@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_any_table_keeps_its_cells(words, size):
    """Whatever is in its cells, with an empty corner."""

    class Text(Shown):
        def __str__(self):
            return f"{table(rows)}\nand a sentence"

    num_rows, num_columns = size
    rows = [["", *[f"{words} {i}" for i in range(1, num_columns)]] for _ in range(num_rows)]
    rows[1:] = [[f"name {i}", *row[1:]] for i, row in enumerate(rows[1:])]
    page = Page(Text()._repr_html_())
    assert page.tags.count("td") == (num_rows - 1) * num_columns
    assert page.tags.count("th") == num_columns
    assert page.words == str(Text()).split()


def test_code_is_no_table():
    class Code(Shown):
        def __str__(self):
            return "if x:\n    y = 1\n    z = 2"

    assert "table" not in Page(Code()._repr_html_()).tags


def test_the_evidence_shows_both_errors_by_name(bed):
    found = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=100, progress=False)
    for each in (repr(found), found._repr_html_(), str(found.summary())):
        assert re.search(r"Monte Carlo se (unknown|\d)", each)
        assert re.search(r"data se \d", each)
