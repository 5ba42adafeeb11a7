"""What `is_estimate` claims: nominal intervals cover wherever it passes. docs/believability.md has
the large tables."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import EvidenceSummary, ImportanceSampling, reduce_log_weights
from ppl_vae.evidence.errors import quartiles
from ppl_vae.evidence.result import concatenate
from ppl_vae.runtime.text import percent

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from believability import VERDICTS, missing, page, totals
from simulated_weights import ROWS_OF_KINDS, log_weights

RIGHT = ("correlated D=2 0.1", "correlated D=10 0.2", "correlated D=30 0.2")
WRONG = ("correlated D=10 0.7", "correlated D=30 0.7", "scale D=10 0.7", "t D=10 3.0")


def simulated(shape, num_particles, num_evaluations=4):
    found = [
        VERDICTS["is_estimate"].simulate(f"{shape}, K={num_particles}", seed)
        for seed in range(num_evaluations)
    ]
    return {name: sum(each[name] for each in found) for name in found[0]}


@pytest.mark.parametrize("num_particles", [100, 1_000])
@pytest.mark.parametrize(
    "shape", [*RIGHT, *WRONG, "skewed D=10 2", "bimodal D=10 1.3", "correlated D=10 0.34"]
)
def test_intervals_cover_among_the_rows_that_pass(shape, num_particles):
    """0.93 of nominal 95 % intervals, within 2 binomial standard errors, where any pass."""
    counts = simulated(shape, num_particles)
    if counts["passed"]:
        share = counts["covered"] / counts["passed"]
        assert share > 0.93 - 2 * np.sqrt(0.93 * 0.07 / counts["passed"])


@pytest.mark.parametrize("shape", RIGHT)
def test_good_guides_pass(shape):
    """True k of 0.2 or less, K = 1,000: at least 80 % of the rows."""
    counts = simulated(shape, 1_000, 2)
    assert counts["passed"] >= 0.8 * counts["rows"]


@pytest.mark.parametrize("shape", WRONG)
@pytest.mark.parametrize("num_particles", [100, 1_000])
def test_bad_guides_do_not_pass(shape, num_particles):
    counts = simulated(shape, num_particles, 2)
    assert counts["passed"] <= 0.05 * counts["rows"]


def test_rows_of_two_kinds_are_told_apart():
    """Of k 0.1 and 0.7 in equal numbers: most of the first, few of the second."""
    rng = np.random.default_rng(0)
    drawn = [log_weights("correlated", 10, k, (1_000, 150), rng) for k in (0.1, 0.7)]
    passed = reduce_log_weights(np.concatenate(drawn, axis=1)).is_estimate
    assert passed[:150].mean() > 0.7
    assert passed[150:].mean() < 0.1


def test_one_lucky_row_does_not_pass():
    """Alone, a row of k = 0.7 passes in at most 4 of 100 evaluations, though its own k-hat often
    looks good."""
    rng = np.random.default_rng(1)
    log_w = log_weights("correlated", 10, 0.7, (1_000, 100), rng)
    passed = [reduce_log_weights(log_w[:, [i]]).is_estimate[0] for i in range(100)]
    assert sum(passed) <= 4


def test_a_row_of_large_k_hat_is_no_estimate_among_good_ones():
    """Its neighbours pass, and with it k-hat above 0.7 never does."""
    rng = np.random.default_rng(2)
    log_w = log_weights("correlated", 10, 0.1, (1_000, 200), rng)
    tail = log_w[:, 7].argsort()[-150:]  # which no quartile shows, of k = 1.5
    log_w[tail, 7] = log_w[tail[0], 7] + 1.5 * rng.exponential(size=150)
    found = reduce_log_weights(log_w)
    assert found.pareto_k[7] > 0.7
    assert found.believed[7]
    assert found.is_estimate.tolist() == [row != 7 for row in range(200)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_guides_pass_at_any_number_of_rows(dtype):
    for num_rows in (1, 3, 200):
        noise = 1e-7 if dtype == np.float32 else 1e-15
        log_w = -30 + 30 * noise * np.random.default_rng(0).normal(size=(100, num_rows))
        assert reduce_log_weights(log_w.astype(dtype)).is_estimate.all()


def test_a_subset_and_a_file_keep_the_verdicts(tmp_path):
    rng = np.random.default_rng(2)
    drawn = [log_weights("correlated", 10, k, (300, 150), rng) for k in (0.1, 0.7)]
    whole = reduce_log_weights(np.concatenate(drawn, axis=1))
    rows = rng.permutation(300)[:7]
    assert whole.is_estimate.any()
    assert not whole.is_estimate.all()
    np.testing.assert_array_equal(whole[rows].is_estimate, whole.is_estimate[rows])
    joined = concatenate([whole[:50], whole[50:]])
    loaded = pv.Evidence.load(whole.save(tmp_path / "evidence.npz"))
    for other in (joined, loaded, whole.judged()):
        np.testing.assert_array_equal(other.is_estimate, whole.is_estimate)


def test_the_verdict_does_not_depend_on_chunks_nor_on_an_interruption(tmp_path, monkeypatch):
    """It is made once, of all rows, however they were computed."""
    bed = beds.linear_gaussian(120, latent_dim=4, guide_scale=0.8)
    method = ImportanceSampling(200, chunk_size=200 * 30)
    whole = pv.log_evidence(bed.model, bed.guide, bed.x, method)
    np.testing.assert_array_equal(whole.is_estimate, whole.judged().is_estimate)
    file = tmp_path / "evidence.npz"
    estimate = ImportanceSampling.estimate
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(0)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return estimate(*args, **kwargs)

    monkeypatch.setattr("ppl_vae.evidence.estimate.SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(ImportanceSampling, "estimate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    monkeypatch.setattr(ImportanceSampling, "estimate", estimate)
    resumed = pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    np.testing.assert_array_equal(resumed.is_estimate, whole.is_estimate)
    np.testing.assert_array_equal(pv.Evidence.load(file).is_estimate, whole.is_estimate)


@pytest.mark.parametrize("guide_scale", [1.0, 0.9, 1.3])
def test_a_target_is_met_without_bias(guide_scale):
    """One square of the target, or 2 standard errors of the mean error of 400 rows."""
    counts = [
        VERDICTS["target_se"].simulate(f"width={guide_scale}, target=0.1", seed)
        for seed in range(4)
    ]
    total, squares, rows = (
        sum(each[name] for each in counts) for name in ("sum", "squares", "rows")
    )
    error = np.sqrt(squares / rows - (total / rows) ** 2) / rows**0.5
    assert abs(total / rows) < max(1, 2 * error)


def test_the_page_names_what_was_not_measured():
    rows = {
        "target_se | width=1.0, target=0.1 | 0": {
            "rows": 2,
            "sum": 1.0,
            "squares": 1.0,
            "used": 200,
        }
    }
    assert totals("target_se", "width=1.0, target=0.1", rows)["rows"] == 2
    written = page(rows)
    assert "| width=1.0, target=0.1 | 0.50 ± 0.35 | 100 |" in written
    assert "not measured" in written


def counted(passed, covered):
    return {"rows": 1_000, "passed": passed, "covered": covered, "covered of all": 900}


def test_the_page_has_a_column_for_each_number_of_particles_and_marks_what_breaks_the_law():
    rows = {
        "is_estimate | correlated D=2 0.1, K=100 | 0": counted(500, 475),
        "is_estimate | correlated D=2 0.1, K=1000 | 0": counted(500, 475),  # too few pass
        "is_estimate | correlated D=2 0.1, K=10000 | 0": counted(1_000, 900),  # too few are covered
        "is_estimate | scale D=2 1.0, K=100 | 0": counted(999, 999),  # an exact guide does not pass
        "is_estimate | correlated D=2 0.7, K=100 | 0": counted(0, 0),
    }
    written = page(rows)
    assert "| setting | K = 100 | K = 1,000 | K = 10,000 |" in written
    assert (
        "| correlated D=2 0.1 | 0.50: 0.950 ± 0.010 | 0.50: 0.950 ± 0.010 ✗ | 1.00: 0.900 ± 0.009 "
        "✗ |" in written
    )
    assert "| scale D=2 1.0 | 1.00: 1.000 ± 0.000 ✗ |" in written
    assert "| correlated D=2 0.7 | 0 |" in written


@pytest.mark.parametrize(
    ("passed", "goes_on"), [(0, False), (1, True), (999, True), (1_000, False)]
)
def test_settings_in_which_few_rows_pass_go_on(passed, goes_on):
    """By how many pass alone, never by how many are covered."""
    verdict = VERDICTS["is_estimate"]
    rows = {
        f"is_estimate | {each} | {seed}": counted(0, 0)
        for each in verdict.settings
        for seed in range(10)
    }
    setting = verdict.settings[0]
    rows[f"is_estimate | {setting} | 0"] = counted(passed, passed)
    left = [(each, seed) for _, _, each, seed in missing(["is_estimate"], rows)]
    assert left == [(setting, seed) for seed in range(10, 100) if goes_on]


@pytest.mark.parametrize("num_rows", range(45, 60))
def test_no_weights_are_too_skewed_where_k_hat_explains_all(num_rows):
    """Shares that add up to one but for rounding."""
    summary = EvidenceSummary(
        **{name: 0.0 for name in ("log_evidence", "mc_se", "data_se", "mc_bias", "elbo")},
        mean_ess=1.0,
        share_bad_k=1 / num_rows,
        num_data=num_rows,
        num_particles=1000,
        share_estimate=(num_rows - 1) / num_rows,
        bound="lower",
    )
    assert "skewed" not in str(summary)
    assert "skewed" not in summary.brief()
    skewed = replace(summary, share_estimate=(num_rows - 2) / num_rows)
    assert f"weights of {percent(1 / num_rows)} are too skewed" in str(skewed)


@pytest.mark.parametrize("num_rows", [100, 200, 1000])
def test_one_row_of_many_without_an_estimate_is_not_rounded_away(num_rows):
    log_weights = np.random.default_rng(0).normal(scale=0.3, size=(1000, num_rows))
    log_weights[0, 0] = 50.0
    said = reduce_log_weights(log_weights).summary()
    for text in (str(said), said.brief()):
        assert "an estimate for 99 %" in text or "an estimate for more than 99 %" in text
        assert "k-hat > 0.7 for 1 %" in text or "k-hat > 0.7 for less than 1 %" in text
        assert "100 %" not in text
        assert " 0 %" not in text


# --- a few rows of another kind -------------------------------------------------------------------


def of_scale(scale, num_rows, rng, num_particles=1000):
    """log w of a standard normal posterior and a guide of this scale; log p(x) = 0."""
    z = scale * rng.normal(size=(num_particles, num_rows))
    return 0.5 * z**2 * (scale**-2 - 1) + np.log(scale)


@pytest.mark.parametrize(("scale", "share"), [(0.7, 0.02), (0.7, 0.05), (0.63, 0.05), (0.55, 0.02)])
def test_a_minority_of_narrow_guides_does_not_pass_with_wide_ones(scale, share):
    """True k of 0.51 to 0.70, among rows with the same interquartile range and bounded weights."""
    rng = np.random.default_rng([int(100 * scale), int(100 * share)])
    num_narrow = int(500 * share)
    wide = (2 - scale**2) ** 0.5
    for _ in range(4):
        parts = of_scale(scale, num_narrow, rng), of_scale(wide, 500 - num_narrow, rng)
        found = reduce_log_weights(np.concatenate(parts, axis=1))
        assert not found.is_estimate[:num_narrow].any()
        of_all = replace(found, asymmetry=None).judged().is_estimate  # as of earlier files
        assert of_all[:num_narrow].any()
        assert not (found.is_estimate & ~of_all).any()
        assert found.is_estimate[num_narrow:].sum() > 0.95 * of_all[num_narrow:].sum()


@pytest.mark.parametrize("num_particles", [3, 4, 5, 50, 1001])
def test_the_asymmetry_is_the_quartile_skewness(num_particles):
    log_weights = np.random.default_rng(0).gumbel(size=(7, num_particles))
    spread, asymmetry = quartiles(log_weights)
    quarter = num_particles // 4
    for row, width, lean in zip(np.sort(log_weights), spread, asymmetry, strict=True):
        low, high, middle = row[quarter], row[-1 - quarter], row[num_particles // 2]
        assert width == high - low
        assert lean == pytest.approx((high + low - 2 * middle) / width)
    spread, asymmetry = quartiles(np.zeros((2, num_particles)))
    assert (spread == 0).all()
    assert (asymmetry == 0).all()


# --- sampled discrete latents ---------------------------------------------------------------------

SAMPLED = [name for name in ROWS_OF_KINDS if name.startswith("sampled")]


@pytest.mark.parametrize("num_particles", [100, 1_000])
@pytest.mark.parametrize("name", SAMPLED)
def test_draws_that_are_all_the_same_are_not_exact(name, num_particles):
    """Equal weights of a row say nothing where other rows show that values were missed."""
    found = VERDICTS["is_estimate, rows of several kinds"].simulate(f"{name}, K={num_particles}", 0)
    if found["passed"]:
        share = found["covered"] / found["passed"]
        assert share > 0.93 - 2 * np.sqrt(0.93 * 0.07 / found["passed"])
    if name == "sampled bits, logits x 1":  # an exact guide
        assert found["passed"] == found["rows"]


def test_exact_rows_stay_estimates_among_rows_of_larger_spread():
    rng = np.random.default_rng(0)
    wild = log_weights("correlated", 10, 0.7, (1_000, 150), rng)
    found = reduce_log_weights(np.concatenate([np.zeros((1_000, 20)), wild], axis=1))
    assert found.is_estimate[:20].all()
    assert found.is_estimate[20:].mean() < 0.1
