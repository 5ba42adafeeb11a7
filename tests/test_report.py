"""The report: rules judge as they say; the page has the numbers of its run, needs nothing else, and
escapes names."""

import base64
import json
import math
import re
import shutil
import warnings
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_rgba
from scipy.special import ndtr
from typer.testing import CliRunner

from ppl_vae import beds
from ppl_vae.cli import app
from ppl_vae.data import Dataset
from ppl_vae.diagnostics import PIT, plot_k_hat
from ppl_vae.diagnostics.report_plots import plot_weights
from ppl_vae.diagnostics.sbc.summary import summarise
from ppl_vae.diagnostics.uniformity import uniformity_p_value
from ppl_vae.evidence import Evidence, reduce_log_weights
from ppl_vae.evidence.fingerprints import digests
from ppl_vae.experiment import ConfigError, load_run, read_config, run_experiment
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Metrics
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.report import DIAGNOSES, NotApplicable, draw, page, write_report
from ppl_vae.report.answers import SHARE, answers
from ppl_vae.report.diagnoses import calibration, evidence, latents, predictive, training
from ppl_vae.report.diagnoses import run as facts
from ppl_vae.report.diagnoses.baselines import AGAINST
from ppl_vae.report.diagnoses.missing import MISSING, OVERIMPUTATION
from ppl_vae.report.diagnoses.worst import described
from ppl_vae.report.diagnosis import NUM_WORST, Findings
from ppl_vae.report.elements import STYLE, number, slug
from ppl_vae.report.rules import WORST_FIRST, Check
from ppl_vae.runtime.sealed import write_json

ALL = [*DIAGNOSES, AGAINST]
RULES = [rule for each in ALL for rule in each.rules]
TITLES = {each.title for each in DIAGNOSES if each.panel is not None}
OF = {rule.title: each for each in ALL for rule in each.rules}
DOCS = Path(__file__).resolve().parent.parent / "docs"
HOSTILE = "<script>alert('x')</script>"
SMALL = [
    ("posterior.latent_dim", 2),
    ("encoder.hidden_dims", [8]),
    ("decoder.hidden_dims", [8]),
    ("training.num_epochs", 6),
    ("evaluation.num_particles", 40),
]
FEW = {
    evidence: {"NUM_PARTICLES": 100, "BOUNDS": (1, 10, 100)},
    calibration: {"NUM_DRAWS": 30, "NUM_SIMULATED": 60},
    predictive: {"NUM_PREDICTED": 30, "NUM_CONDITIONED": 30},
}


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Diagnoses that take no time: what is tested here is the page, without an address of docs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_site", lambda: "")
        for module, sizes in FEW.items():
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        patch.setitem(STYLE, "savefig.dpi", 50)
        yield


def fitted(folder, *changes):
    run_experiment(read_config(changes=[*changes, *SMALL]), folder, progress=False)
    return folder


def reported(folder, **options):
    return SimpleNamespace(
        report=write_report(folder, num_data=24, progress=False, **options),
        page=Page((folder / "report.html").read_text(encoding="utf-8")),
        text=(folder / "report.md").read_text(encoding="utf-8"),
        metrics=json.loads((folder / "metrics.json").read_text()),
        folder=folder,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    digits = [("data.name", "digits"), ("data.binarize", "static"), ("prior.name", "VampPrior")]
    return reported(
        fitted(tmp_path_factory.mktemp("runs") / "digits", *digits, ("evaluation.num_data", 40))
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Measurements in units of their own, with gaps, a covariate, and names that mean harm."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    x = rng.normal([170.0, 0.02], [8.0, 0.003], (200, 2))
    x[rng.random(x.shape) < 0.2] = np.nan
    rows = [f'{a},{b},{c},"{HOSTILE}"' for (a, b), c in zip(x, rng.normal(size=200), strict=True)]
    (folder / "own.csv").write_text(
        "\n".join([f'"{HOSTILE}",price in $|$x_1$,age,kind', *rows]).replace("nan", "")
    )
    data = [
        ("data.name", str(folder / "own.csv")),
        ("data.label", "kind"),
        ("data.context", ["age"]),
    ]
    return reported(fitted(folder / "run", *data, ("likelihood.name", "Gaussian")))


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Counts, one latent dimension."""
    folder = tmp_path_factory.mktemp("counts")
    np.save(folder / "counts.npy", np.random.default_rng(0).poisson(3.0, (200, 4)))
    data = [("data.name", str(folder / "counts.npy")), ("likelihood.name", "Poisson")]
    changes = [*data, *SMALL, ("posterior.latent_dim", 1)]
    run_experiment(read_config(changes=changes), folder / "run", progress=False)
    return reported(folder / "run")


class Page(HTMLParser):
    """What is in a page, by kind."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.words = text, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def every(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def said(self):
        return " ".join(" ".join(self.words).split())


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_rules_are_sharp_at_their_limits(rule):
    worse = -math.inf if rule.better == "more" else math.inf
    beyond = {
        limit: rule.grade(math.nextafter(limit, worse)) for limit in (rule.passes, rule.fails)
    }
    assert rule.grade(rule.passes) == "pass"
    if rule.passes == rule.fails:
        assert beyond[rule.passes] == "fail"
    else:
        assert beyond[rule.passes] == "look"
        assert rule.grade(rule.fails) == "look"
    if "never fails" in rule.text:
        assert rule.grade(0.0 if rule.better == "more" else 1e300) == "look"
    else:
        assert beyond[rule.fails] == "fail"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_rules_name_their_limits_a_panel_and_a_page_that_exist(rule):
    assert rule.limits or rule.form.format(rule.passes) in rule.text
    bounded = not rule.limits and "never fails" not in rule.text
    assert not bounded or rule.form.format(rule.fails) in rule.text
    assert (rule.panel or OF[rule.title].title) in TITLES | {AGAINST.title}
    file, _, anchor = (rule.page or OF[rule.title].page).partition("#")
    headings = re.findall(r"^#+ (.*)$", (DOCS / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert not anchor or anchor in map(slug, headings)


def test_the_documentation_has_every_rule():
    text = (DOCS / "howto" / "report.md").read_text(encoding="utf-8")
    assert [rule.title for rule in RULES if f"| {rule.title} | {rule.text} |" not in text] == []


class Found(dict):
    """Findings that were not found, but given."""

    def __init__(self, metrics=None, patience=None, split="test", refitted=False, **found):
        super().__init__(found)
        evaluation = SimpleNamespace(split=split)
        run = SimpleNamespace(patience=patience, evaluation=evaluation, is_refitted=refitted)
        run.used_rows_for = TrainedRun.used_rows_for.fget(run)
        self.subject = SimpleNamespace(metrics=Metrics(**(metrics or {})), run=run)


def history(bound, valid=True, warm_up=0):
    weight = [min(1.0, (i + 1) / (warm_up + 1)) for i in range(len(bound))]
    return {
        "history": {"epoch": [], "valid" if valid else "train": list(bound), "kl_weight": weight},
        "best_epoch": 3,
    }


def test_gain_is_the_slope_over_a_tenth_of_the_epochs():
    assert training.gain(Found(history(0.03 * np.arange(100)))).number == pytest.approx(0.3)
    assert training.gain(Found(history(-0.03 * np.arange(100)))).number == pytest.approx(0.3)
    assert training.gain(Found(history(-0.03 * np.arange(100)), patience=10)).number == 0.0
    # a fall during the warm-up does not count
    bound = np.concatenate([np.linspace(0, -50, 50), np.full(50, -50.0)])
    assert training.gain(Found(history(bound, warm_up=50))).number == pytest.approx(0.0)
    with pytest.raises(NotApplicable, match="no training history of two epochs"):
        training.gain(Found(history([-1.0])))


def test_loss_is_the_distance_from_the_best_epoch():
    bound = [-9.0, -5.0, *[-7.0] * 8]
    assert training.loss(Found(history(bound))).number == 2.0
    assert training.loss(Found(history(bound, valid=False), patience=10)).number == 2.0
    assert training.loss(Found(history(bound), patience=10)).number == 0.0


@pytest.mark.parametrize(
    ("split", "patience", "refitted", "number"),
    [
        ("test", 5, True, 0),
        ("valid", None, False, 0),
        ("valid", 5, False, 1),
        ("valid", 5, True, 2),
        ("train", None, False, 2),
    ],
)
def test_rows_that_training_used(split, patience, refitted, number):
    found = Found(split=split, patience=patience, refitted=refitted)
    assert facts.use_of_the_rows(found).number == number


def evidence_with(k_hat):
    one = np.ones(len(k_hat))
    believed = np.asarray(k_hat) < 0.7
    return Evidence(
        -one,
        0.1 * one,
        50 * one,
        np.asarray(k_hat),
        -2 * one,
        -one,
        10_000 * one,
        believed=believed,
    )


def test_share_of_rows_with_an_estimate():
    metrics = {"mc_se": 0.02, "mc_bias": -0.05, "data_se": 0.5, "share_bad_k": 0.25}
    found = Found(metrics, importance=evidence_with([0.1, 0.2, 0.6, 0.71]))
    assert evidence.share_bounded(found).number == 0.25
    assert evidence.monte_carlo(found).number == pytest.approx(0.1)  # the bias is the larger
    worse = Found(metrics, importance=evidence_with([0.1, 0.8, 0.6, 0.71]))
    with pytest.raises(NotApplicable, match=r"a lower bound for 50\.0% of 4 rows"):
        evidence.monte_carlo(worse)


@pytest.mark.parametrize(
    ("parts", "number"),
    [
        ((3.0, 0.9, 2.2), 0.9),
        ((9.0, 5.0, 4.5), 4.5),
        ((9.0, 5.0, 8.5), None),
        ((3.0, 1.5, 1.9), 1.1),
        ((0.1, -0.05, 0.2), 0.0),
    ],
)
def test_the_marginal_kl_is_judged_from_the_safe_side(parts, number):
    mean = dict(zip(("rate", "marginal_kl", "leave_one_out"), parts, strict=True))
    summary = SimpleNamespace(mean=mean, num_data=100)
    found = Found(surgery=SimpleNamespace(summary=lambda: summary))
    if number is None:
        with pytest.raises(NotApplicable, match="100 rows are too few"):
            latents.marginal_kl(found)
    else:
        assert latents.marginal_kl(found).number == pytest.approx(number)


COVERAGE, MARGINAL_PIT = (
    next(rule for rule in RULES if rule.title == title)
    for title in ("Encoder: coverage", "Features on their own")
)


def sbc_of(pit):
    """A calibration of one latent dimension with these PITs, (N, 2): z and hpd."""
    return Found(sbc=SimpleNamespace(summary=lambda: summarise(pit, ("z", "hpd"), 1)))


def stretched(coverage, num_data=500):
    """Even PITs of hpd of which this share is below 0.9, and even ones of z."""
    even = (np.arange(num_data) + 0.5) / num_data
    return np.stack([even, np.interp(even, [0, coverage, 1], [0, 0.9, 1])], axis=1)


def test_a_right_encoder_passes_coverage_in_19_of_20_reports():
    rng, repeats = np.random.default_rng(0), 1000
    found = [COVERAGE.check(sbc_of(rng.random((200, 2)))).verdict for _ in range(repeats)]
    assert (
        1 - found.count("pass") / repeats < 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
    )  # three standard errors


@pytest.mark.parametrize(
    ("coverage", "verdict"), [(0.9, "pass"), (0.888, "pass"), (0.862, "look"), (0.838, "fail")]
)
def test_coverage_is_judged_by_its_p_value(coverage, verdict):
    check = COVERAGE.check(sbc_of(stretched(coverage)))
    assert check.verdict == verdict
    assert f"{coverage:.1%} of 500 truths" in check.number


def test_coverage_does_not_pass_where_hpd_is_flagged():
    pit = stretched(0.9)
    pit[:, 1] = np.interp(
        pit[:, 1], [0, 0.45, 0.9, 1], [0, 0.3, 0.9, 1]
    )  # right at 90 % and nowhere below
    found = sbc_of(pit)
    assert found["sbc"].summary().flagged == ("hpd",)
    assert COVERAGE.check(found).verdict == "look"


def pit_of(values):
    dims = {"dims": ("datum", "feature"), "coords": {"feature": np.arange(values.shape[1])}}
    rest = dict.fromkeys(("below", "at", "at_halves", "observed"), values)
    return PIT(
        values=values, pareto_k=np.full((1, len(values)), -np.inf), kind="marginal", **rest, **dims
    )


def test_few_rows_pass_nothing_but_may_convict():
    even = np.tile((np.arange(40)[:, None] + 0.5) / 40, (1, 3))
    few, enough = (MARGINAL_PIT.check(Found(marginal_pit=pit_of(x))) for x in (even[::2], even))
    assert few.verdict == "skipped"
    assert "20 rows are too few to tell" in few.says
    assert enough.verdict == "pass"
    assert enough.number.endswith("; 40 rows")
    assert MARGINAL_PIT.check(Found(marginal_pit=pit_of(even[::2] ** 9))).verdict == "fail"


def test_enough_rows_are_enough_to_see_one_feature_of_a_hundred_that_is_an_sd_off():
    pit = ndtr(np.random.default_rng(0).normal(1.0, 1.0, (1000, predictive.FEWEST_ROWS)))
    assert (uniformity_p_value(pit) < predictive.LEVEL / 100).mean() > 0.85


def test_bounds_are_means_over_groups_of_particles():
    log_w = np.random.default_rng(0).normal(size=(100, 3))
    found = evidence.Weights(log_w, np.arange(3), num_first=2)
    assert found.bounds[1][0] == pytest.approx(log_w[:, :2].mean())
    groups = np.log(np.exp(log_w[:, :2]).reshape(10, 10, 2).mean(1))
    assert found.bounds[10][0] == pytest.approx(groups.mean())
    whole = reduce_log_weights(log_w[:, :2]).summary()
    assert found.bounds[100][:2] == pytest.approx((whole.log_evidence, whole.mc_se))
    assert found.largest == pytest.approx((np.exp(log_w) / np.exp(log_w).sum(0)).max(0))


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(params=["digits", "table", "counts"])
def run(request):
    return request.getfixturevalue(request.param)


def test_the_page_needs_nothing_else(run):
    addresses = [
        attrs[key] for _, attrs in run.page.tags for key in ("src", "href") if attrs.get(key)
    ]
    assert not [address for address in addresses if not re.match(r"#|data:", address)]
    points = {"type": "application/json", "class": "points"}  # values, which no browser runs
    assert run.page.every("script") == [points, {}]  # and its own, at the end
    assert "@import" not in run.page.source
    assert "url(" not in run.page.source


def test_every_picture_says_what_is_seen(run):
    pictures = run.page.every("img")
    assert len(pictures) > 20
    assert all(len(attrs["alt"]) > 5 for attrs in pictures)
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in pictures)


def test_links_lead_somewhere_and_headings_descend(run):
    ids = [attrs["id"] for _, attrs in run.page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in run.page.every("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    labels = {attrs["aria-labelledby"] for _, attrs in run.page.tags if "aria-labelledby" in attrs}
    assert labels <= set(ids)
    levels = [int(tag[1]) for tag, _ in run.page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1


def test_nothing_failed(run):
    assert re.findall("Failed:.{0,300}", run.page.said) == []
    # Nothing is missing here, there are no clusters, and few rows have labels.
    absent = {"Missing values", "Classes", "Contrast of two groups"}
    assert all(title in run.page.said for title in TITLES - absent)


def test_missing_values_have_a_table_of_patterns_and_hidden_ones_are_judged():
    bed = beds.linear_gaussian(num_data=200)
    x = bed.x.clone()
    x[:30, :2] = np.nan
    programs = SimpleNamespace(model=bed.model, guide=bed.guide)
    subject = SimpleNamespace(rows=Dataset(x), seed=0, run=programs)
    found = Findings(subject, [MISSING, OVERIMPUTATION])
    panel = MISSING.titled_panel(found)
    assert panel.tables[0].rows[:2] == [("nothing", "170", "85.0%"), ("0, 1", "30", "15.0%")]
    assert panel.tables[1].rows == [("0", "15.0%"), ("1", "15.0%")]
    [check] = [rule.check(found) for rule in OVERIMPUTATION.rules]
    assert check.verdict == "pass"  # p > 0.05 at this seed
    panel = OVERIMPUTATION.titled_panel(found)
    assert (len(panel.pictures), len(panel.tables[0].rows)) == (4, 5)
    subject.rows = Dataset(bed.x)
    assert MISSING.titled_panel(found) is None


def test_numbers_are_those_of_the_run(run):
    """The Monte Carlo error is printed only where every row is an estimate."""
    evidence = Evidence.load(run.folder / "evidence.npz")
    known = ("mc_se", "mc_bias") if evidence.is_estimate.all() else ()
    shown = [run.metrics[name] for name in ("elbo", "log_evidence", "data_se", *known)]
    assert all(f" {number(value)} " in run.page.said for value in shown)
    with xr.open_datatree(run.folder / "report.nc", engine="h5netcdf") as tree:
        for name in ("log_evidence", "mc_se", "ess", "pareto_k", "elbo"):
            assert np.array_equal(
                tree["importance"][name].values, getattr(evidence, name), equal_nan=True
            )
        assert tree["verdicts"]["verdict"].values.tolist() == [
            check.verdict for check in run.report.checks
        ]
    values = {check.title: check.value for check in run.report.checks}
    assert values["Latents carry information"] == run.metrics["kl"]
    assert (
        values["Every latent is used"]
        == 1 - run.metrics["active_units"] / run.metrics["latent_dim"]
    )
    if run.metrics["share_bad_k"] is not None:
        assert values["log p(x) is an estimate"] == pytest.approx(1 - run.metrics["share_estimate"])


def test_markdown_has_the_same_verdicts_and_its_pictures(run):
    rows = re.findall(r"^\| \*\*(\w+)\*\* \| (.*?) \|", run.text, re.MULTILINE)
    plain = [(verdict, re.sub(r"\\(.)", r"\1", title)) for verdict, title in rows]
    assert plain == [(check.verdict, check.title) for check in run.report.checks]
    assert all(f"{check.title} " in run.page.said for check in run.report.checks)
    pictures = re.findall(r"\]\((report/[^)]*)\)", run.text)
    assert len(pictures) == len(run.page.every("img"))
    assert all((run.folder / picture).read_bytes()[1:4] == b"PNG" for picture in pictures)


def test_the_tree_survives_its_file(digits, tmp_path):
    with (
        xr.open_datatree(digits.folder / "report.nc", engine="h5netcdf") as tree,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings(
            "ignore", message=".*(Zarr V3|Zarr format 3) specification"
        )  # text labels: zarr's own
        groups = set(tree.children)
        computed = {each.name for each in DIAGNOSES if each.compute is not None}
        of_holes = {"missing", "overimputation"}
        of_classes = {"classes", "contrasts"}
        expected = computed - {"predictive", "concerns"} - of_holes - of_classes
        assert groups - {"verdicts"} >= expected
        assert groups >= {"bounds", "prior_predictive", "posterior_predictive", "observed_data"}
        tree.load().to_zarr(tmp_path / "report.zarr", consolidated=False)
        with xr.open_datatree(tmp_path / "report.zarr", engine="zarr", consolidated=False) as again:
            assert all(
                again[group].to_dataset().equals(tree[group].to_dataset()) for group in groups
            )


# --- kinds of data --------------------------------------------------------------------------------


def not_for(run):
    return {check.title for check in run.report.checks if check.verdict == "skipped"}


def test_pictures_are_traversed_and_shown(digits):
    alts = [attrs["alt"] for attrs in digits.page.every("img")]
    assert any(alt.startswith("A grid of pictures") for alt in alts)
    assert sum(alt.startswith("picture of row ") for alt in alts) == 2 * NUM_WORST
    assert "Bernoulli has no scale to learn" in digits.page.said


def test_names_are_text_and_nothing_else(table):
    assert HOSTILE not in table.page.source
    assert "&lt;script&gt;alert(" in table.page.source
    assert HOSTILE in table.page.said
    assert "<script" not in re.sub(r"\\.", "", table.text)
    assert "price in $|$x_1$" in table.page.said


def test_data_that_are_no_pictures(table, counts):
    for run in (table, counts):
        assert "decoded from points" not in run.page.said
        assert {"Bits"} <= not_for(run)
    assert "missing" in table.page.said
    assert "The likelihood's scale" not in not_for(table)
    assert counts.metrics["latent_dim"] == 1


def test_the_page_refers_to_no_file_that_it_does_not_link(run):
    assert "docs/" not in run.page.source
    assert "docs/" not in run.text


def test_what_is_not_there_is_not_spoken_of(digits, table):
    assert "Blue is missing" not in digits.page.said
    names = table.page.every("img")
    [latents] = [
        attrs["alt"]
        for attrs in names
        if attrs["alt"].startswith("ECDF") and " 2 latent" in attrs["alt"]
    ][:1]
    assert "hpd" not in latents
    assert "All 24 evaluated data" not in digits.page.said


def test_a_short_logarithmic_axis_has_numbers():
    """Less than a decade, and no power of ten in it."""
    for limits in ((210.0, 480.0), (0.2, 0.9), (12.0, 5000.0)):
        seen = []

        def plot(ax, limits=limits, seen=seen):
            ax.set(yscale="log", ylim=limits)
            seen.append(ax)

        draw(plot, "an axis")
        low, high = limits
        ticks = [tick for tick in seen[0].get_yticks() if low <= tick <= high]
        assert len(ticks) >= 2
        assert seen[0].yaxis.get_major_formatter()(ticks[0]) == f"{ticks[0]:g}"


def test_classes_of_k_hat_are_the_same_in_both_pictures():
    evidence = evidence_with([0.1, 0.5, 0.6, 0.71])
    histogram, points = plot_k_hat(evidence).get_legend(), plot_weights(evidence)[0]
    names = [text.get_text().partition(":")[0] for text in histogram.get_texts()]
    assert names == [text.get_text() for text in points.get_legend().get_texts()]
    assert [len(line.get_xdata()) for line in points.get_lines()] == [2, 1, 1]
    colours = [patch.get_facecolor() for patch in histogram.get_patches()]
    assert colours == [to_rgba(line.get_color()) for line in points.get_lines()]


def test_rows_are_described_by_their_rarest_values():
    frame = pd.DataFrame(
        {"age": [40.0, 41, 42, 43, 99], "sex": ["f", "f", "f", "m", None], "n": [1, 1, 1, 1, 7]}
    )
    said = described(Dataset(frame), np.array([1, 3, 4]))
    assert said[1].startswith("sex = m; ")
    assert said[2].endswith("sex = missing")
    assert sorted(said[2].split("; ")[:2]) == ["age = 99", "n = 7"]
    assert described(Dataset(np.eye(3)), np.array([0]))[0].count(";") == 2
    wide = described(Dataset(np.eye(9)), np.array([0]))
    assert wide[0].endswith("and 5 more")


def test_the_largest_error_is_named():
    rng = np.random.default_rng(0)
    pit = np.stack([rng.random(500), ndtr(rng.normal(0.5, 1, 500))], 1)  # hpd off by half an sd
    said = calibration.largest_error(sbc_of(pit)).shown
    assert re.match(r"0\.[45]\d sd, of hpd; smallest p .*, 500 rows$", said)


def test_the_row_of_hpd_says_what_its_regions_hold(digits):
    with xr.open_datatree(digits.folder / "report.nc", engine="h5netcdf") as tree:
        held = (tree["sbc"]["hpd"].values <= 0.9).mean()
    [row] = re.findall(r"^\| hpd \|.*\|$", digits.text.partition("weighted draws")[0], re.MULTILINE)
    assert row.split("|")[-2].strip() == f"{held:.1%}"


def test_the_parameters_add_up(run):
    assert f"{run.metrics['num_parameters']:,} parameters." in run.page.said
    assert f"all {run.metrics['num_parameters']:,}" in run.page.said


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_panel_that_fails_says_so_and_the_others_go_on(digits, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError(f"boom {HOSTILE}\nsecond line")

    monkeypatch.setattr(latents, "elbo_surgery", broken)
    arguments = [
        "report",
        str(digits.folder),
        "--num-data",
        "10",
        "--output",
        str(tmp_path),
        "--quiet",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"Failed: RuntimeError: boom {HOSTILE} second line." in found.said
    assert found.source.count("Failed:") == 1
    assert HOSTILE not in found.source
    text = result.stdout.partition("\n\n")[2]
    *checks, counts, _, where, files = text.splitlines()
    assert (
        f"skipped  q(z) is the prior: Not checked: RuntimeError: boom {HOSTILE} second line."
        in checks
    )
    assert [line.split()[0] for line in checks].count("skipped") == int(counts.split()[-2])
    assert (where, files) == (f"files in {tmp_path}:", "  report.html, report.md, report.nc")


def test_only_a_finished_run_is_reported(digits, tmp_path):
    for name in ("config.toml", "run.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((digits.folder / name).read_bytes())
    with pytest.raises(ConfigError, match="was not evaluated: ppl-vae fit"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="at least 2 rows"):
        write_report(digits.folder, num_data=1)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("metrics.json", b'{"elbo": -1'), ("evidence.npz", b"PK"), ("evidence.npz", None)],
)
def test_a_damaged_run_names_the_file_and_the_remedy(digits, tmp_path, name, damage):
    names = ("config.toml", "run.json", "weights.safetensors", "metrics.json", "evidence.npz")
    for file in names:
        (tmp_path / file).write_bytes((digits.folder / file).read_bytes())
    (tmp_path / name).unlink() if damage is None else (tmp_path / name).write_bytes(damage)
    with pytest.raises(
        ConfigError, match=rf"{name} cannot be read \(.*\): remove it, and ppl-vae fit .* again$"
    ):
        write_report(tmp_path, progress=False)


def test_documentation_is_linked_on_its_site_or_inside_a_checkout(tmp_path, monkeypatch):
    asked = "howto/report.md#scale"
    assert page._link_from(tmp_path)(asked) == ""
    monkeypatch.setattr(page, "ROOT", tmp_path)
    run = tmp_path / "runs" / "demo"
    assert page._link_from(run)(asked) == ""  # a wheel has no docs
    (tmp_path / "docs").mkdir()
    assert page._link_from(run)(asked) == f"../../docs/{asked}"
    assert page._link_from(run)("") == ""
    monkeypatch.setattr(page, "_site", lambda: "https://docs.example.org/ppl-vae")
    assert page._link_from(run)(asked) == "https://docs.example.org/ppl-vae/howto/report.html#scale"


# --- the first screen -----------------------------------------------------------------------------


def line(verdict, about, title="Bits"):
    return Check(title, verdict, "They are.", "p = 0.1", 0.1, "", "", "", about=about)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, "log p(x): usable for all rows."),
        (0.97, "log p(x): usable for 97 % of the rows; 3 % are lower bounds."),
        (0.999, "log p(x): usable for more than 99 % of the rows; less than 1 % are lower bounds."),
        (0.0, "log p(x): a lower bound for every row, not an estimate."),
    ],
)
def test_the_first_sentence_counts_the_rows(share, said):
    found = answers([], Metrics(share_estimate=share, share_bad_k=0.01))
    assert [str(answer) for answer in found][0] == said


def test_the_first_screen_answers_by_the_worst_verdict():
    metrics = Metrics(share_estimate=1.0, share_bad_k=0.0)
    checks = [line("fail", "Model", "A"), line("look", "Model", "B"), line("pass", "Encoder")]
    checks += [line("skipped", "Encoder", "C"), line("look", "log p(x)", "D")]
    checks += [line("pass", "Training"), line("pass", "Plain models"), line("fail", "", "Own")]
    found = {answer.about: (answer.verdict, answer.says) for answer in answers(checks, metrics)}
    assert found == {
        "log p(x)": ("look", "usable for all rows. They are."),
        "Encoder": ("pass", "no error found in its credible regions. Not checked: C."),
        "Model": ("fail", "misfit: see A."),
        "Also": ("fail", "see Own."),
        "Plain models": ("pass", "they are (p = 0.1)."),
    }


def test_a_model_that_no_line_compares_with_rows_is_not_checked():
    metrics = Metrics(share_estimate=1.0, share_bad_k=0.0)
    scale = line("pass", "Model", "The likelihood's scale")
    checks = [scale, line("skipped", "Model", "A")]
    assert str(answers(checks, metrics)[2]) == "Model: not checked."
    checks.append(line("pass", "Model", "B"))
    assert str(answers(checks, metrics)[2]) == "Model: no misfit detected. Not checked: A."
    checks[0] = line("fail", "Model", "The likelihood's scale")
    assert str(answers(checks, metrics)[2]) == "Model: misfit: see The likelihood's scale."


def test_an_encoder_whose_regions_cover_is_not_said_to_miss_them():
    checks = [line("fail", "Encoder", "Each"), line("pass", "Encoder", "Encoder: coverage")]
    [_, encoder, _] = answers(checks, Metrics(share_estimate=1.0, share_bad_k=0.0))
    assert encoder.says == "its credible regions cover, but its draws are off: see Each."


def test_every_question_of_the_first_screen_has_an_answer(run):
    named = {each.about for each in DIAGNOSES if each.rules}
    assert named == {"log p(x)", "Encoder", "Model", "Training", "Latents", "Plain models"}
    shown = [answer.about for answer in run.report.answers]
    assert shown[:3] == ["log p(x)", "Encoder", "Model"]
    assert all(f"{answer.about}: {answer.says}" in run.page.said for answer in run.report.answers)
    assert str(run.report).startswith(f"log p(x): {run.report.answers[0].says}\nEncoder: ")


def test_failures_come_first_each_with_its_remedy(run):
    order = [WORST_FIRST.index(check.verdict) for check in run.report.checks]
    assert order == sorted(order)
    for check in run.report.checks:
        assert bool(check.remedy) == (check.verdict in ("look", "fail"))
        assert all(part.strip() in run.page.said for part in check.remedy.split("`"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_every_rule_that_can_fail_has_a_remedy(rule):
    assert rule.remedy.endswith(".")


# --- the map --------------------------------------------------------------------------------------


def points_of(run):
    """The values of the map, as a browser reads them."""
    [block] = re.findall(
        r'<script type="application/json" class="points">(.*?)</script>', run.page.source
    )
    return json.loads(block, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_map_has_each_row_with_its_numbers(run):
    points = points_of(run)
    evidence = Evidence.load(run.folder / "evidence.npz")
    colours = {each["name"]: each for each in points["colours"]}
    assert {"k-hat", "log p(x)"} <= set(colours)
    size = len(points["points"])
    assert size == len(points["names"]) == min(24, len(evidence))
    shown = [f"{value:.2f}" for value in evidence.log_evidence[:size]]
    assert colours["log p(x)"]["shown"] == shown
    for each in points["colours"]:
        places = each.get("places", each.get("scale"))
        assert len(places) == len(each["shown"]) == size
        assert "levels" not in each or max(places) < len(each["levels"]) == len(each["colours"])


def test_the_map_shows_what_a_row_is(digits, table):
    pictures = points_of(digits)["pictures"]
    raw = np.frombuffer(base64.b64decode(pictures["bytes"][3]), np.uint8)
    assert raw.shape == (pictures["width"] * pictures["height"],) == (64,)
    assert set(raw) <= {0, 255}
    points = points_of(table)
    assert points["pictures"] == {}
    assert HOSTILE in points["texts"][0]
    assert points["colours"][0]["levels"] == [HOSTILE]


def test_the_script_writes_text_and_no_markup(digits):
    """Nor buttons, which printed headers leave out."""
    script = re.findall(r"<script>(.*?)</script>", digits.page.source, re.DOTALL)[0]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|Element\(.button", script
    )


# --- another run ----------------------------------------------------------------------------------


def test_another_run_of_the_same_rows_is_compared(digits, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(digits.folder, other)
    mine = Evidence.load(digits.folder / "evidence.npz")
    better = replace(mine, log_evidence=mine.log_evidence + 1.0, believed=mine.pareto_k < 9)
    better.save(other / "evidence.npz")
    facts_only = {"num_data": 24, "progress": False, "diagnoses": DIAGNOSES[:1]}
    report = write_report(digits.folder, tmp_path / "page", against=other, **facts_only)
    [check] = report.checks
    assert (check.title, check.verdict) == ("Better than the other run", "look"), check.says
    assert report.answers[-1].about == "Other run"
    found = Page((tmp_path / "page" / "report.html").read_text(encoding="utf-8"))
    assert f"{other}" in found.said
    with pytest.raises(ConfigError, match="holds no run: there is no such folder"):
        write_report(digits.folder, tmp_path / "page", against=tmp_path / "none", **facts_only)


def test_another_run_of_other_rows_is_not_compared(digits, counts, tmp_path):
    options = {"num_data": 24, "progress": False, "diagnoses": DIAGNOSES[:1]}
    report = write_report(digits.folder, tmp_path, against=counts.folder, **options)
    assert report.checks[0].verdict == "skipped"
    assert "same rows" in report.checks[0].says


# --- after a refinement ---------------------------------------------------------------------------


def test_the_report_judges_the_refined_estimates(counts, tmp_path):
    """Of several evaluations of the same rows, that with the most estimates; the run's own is then
    listed as another one. Evaluations of other rows are not judged."""
    folder = tmp_path / "run"
    shutil.copytree(counts.folder, folder)
    experiment = load_run(folder)
    before = Folder(folder).read_metrics()
    part = experiment.part(before.evaluation["split"])
    exact = reduce_log_weights(np.full((before.num_particles, len(part)), -7.0))
    refined = replace(exact, checks={"refined": np.ones(len(part))}, digests=digests(part.x))
    estimates = dict(before) | asdict(exact.summary()) | {"num_refined": len(part)}
    for name, changes in {"same": {}, "fewer": {"num_data": 3}}.items():
        file = folder / "evaluations" / f"{name}.json"
        write_json(file, estimates | {"share_estimate": 1.0} | changes)
        refined.save(file.with_suffix(".npz"))
    few = [each for each in DIAGNOSES if each.name in ("weights", "importance")]
    report = write_report(folder, tmp_path / "out", diagnoses=few, progress=False)
    after = f"with the guide refined for {len(part)} rows, usable for all rows."
    assert report.answers[0].says == after
    tree = xr.open_datatree(report.files[2], engine="h5netcdf")
    assert (tree["importance"].log_evidence == -7.0).all()
    text = report.files[1].read_text("utf-8")
    assert "-7.0" in text
    assert f"{before.log_evidence:.2f}" in text


def test_an_evaluation_without_its_rows_is_refused_by_name(counts, tmp_path):
    folder = shutil.copytree(counts.folder, tmp_path / "run")
    before = Folder(folder).read_metrics()
    file = folder / "evaluations" / "test.json"
    write_json(file, dict(before) | {"num_refined": 1})
    said = r"test.npz is missing, which test.json was computed from: .* --refine$"
    with pytest.raises(ConfigError, match=said):
        write_report(folder, tmp_path / "out", progress=False)


def test_without_a_refinement_the_runs_own_estimates_are_judged(counts):
    subject = page._finished(Folder(counts.folder), {})
    assert subject.judged is None
    assert subject.metrics == Folder(counts.folder).read_metrics()


# --- programs of Pyro -----------------------------------------------------------------------------


def test_a_program_of_pyro_has_a_report(tmp_path):
    """Its plate has another name. Lines about a prior or a likelihood say that there is none, and
    remedies are calls in Python."""
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            loc = z.expand(*z.shape[:-1], 2)
            pyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x.sum(-1, keepdim=True), 0.4).to_event(1))

    titles = ("Every latent is used", "Better than plain models", SHARE)
    few = [each for each in DIAGNOSES if each in [OF[title] for title in titles]]
    report = write_report((model, guide, noise), tmp_path, diagnoses=few, progress=False)
    lines = {check.title: check for check in report.checks}
    assert lines["Every latent is used"].number == "1 of 1 are active"
    assert "a Pyro program of its own, and no `Model`" in lines["Better than plain models"].says
    assert "RUN" not in str(report)
    assert not [check for check in report.checks if "Error:" in check.says]
