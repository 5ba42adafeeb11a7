"""Intervals hold the truth as often as they say: the small form of benchmarks/believability."""

import numpy as np
import pytest
from benchmarks.simulated_comparisons import coverage, rows, several, signal, trainings
from scipy import stats

import ppl_vae as pv
from ppl_vae.diagnostics import plot_models
from ppl_vae.evidence import EvidenceInterval

pytestmark = pytest.mark.statistical
LAW = (0.93, 0.97)  # of 95 % intervals; wider by two standard errors of the simulation below


def allowed(repeats, low=LAW[0], high=LAW[1]):
    """Shares that a coverage inside the law gives in all but one of 20 simulations."""
    return low - 2 * (low * (1 - low) / repeats) ** 0.5, high + 2 * (
        high * (1 - high) / repeats
    ) ** 0.5


@pytest.mark.parametrize(
    ("case", "repeats"),
    [
        (rows(20, "normal"), 200),
        (rows(50, "exponential"), 100),
        (trainings((3, 5), (4, 1)), 1000),
        (trainings((5, 3), (2, 1)), 1000),
        (rows(20, "normal", num_models=10), 150),
        (several(num_models=6, count=5), 150),
    ],
    ids=[
        "few rows",
        "skewed",
        "unequal spreads",
        "unequal numbers",
        "best of ten",
        "best of six, trained five times",
    ],
)
def test_intervals_of_compare_models_cover(case, repeats):
    low, high = allowed(repeats)
    assert low <= coverage(case, repeats) <= high


def test_two_trainings_have_cautious_intervals():
    """Satterthwaite's rule covers 90 % where the two spread three times as far as five others."""
    assert coverage(trainings((2, 5), (3, 1)), 60) >= allowed(60)[0]


@pytest.mark.parametrize("snr", [0.03, 0.1, 0.3])
def test_intervals_of_small_signal_to_noise_ratios_cover(snr):
    """At least 92 %; the jackknife alone covers 80 % at 0.1."""
    assert coverage(signal(snr, 50, 1), 200) >= allowed(200, low=0.92)[0]


# --- bounds ---------------------------------------------------------------------------------------


def evidence(values, k_hat=-np.inf):
    """Estimates where k-hat is good, lower bounds elsewhere."""
    zero = np.zeros(len(values))
    return pv.Evidence(
        values, zero, zero + 100, zero + k_hat, values, values, np.full(len(values), 1000)
    )


@pytest.mark.parametrize(
    ("first", "second", "proved"),
    [
        (False, False, (True, True)),
        (True, False, (True, False)),
        (False, True, (False, True)),
        (True, True, (False,) * 2),
    ],
    ids=["estimates", "a bound less an estimate", "an estimate less a bound", "two bounds"],
)
def test_an_interval_ends_where_a_bound_proves_it(first, second, proved):
    rng = np.random.default_rng(0)
    base = rng.normal(-50, 5, size=100)
    other = base - 1 + rng.normal(size=100)
    found = {
        "a": evidence(base, 0.9 if first else -np.inf),
        "b": evidence(other, 0.9 if second else -np.inf),
    }
    comparison = pv.compare_models(found, reference="b")
    low, high = comparison.interval[0]
    exact = pv.compare_models({"a": evidence(base), "b": evidence(other)}, reference="b").interval[
        0
    ]
    assert tuple(np.isfinite([low, high])) == proved
    np.testing.assert_array_equal(np.where(proved, [low, high], exact), exact)
    assert comparison.share_bound.tolist() == [float(first), float(second)]
    text = str(comparison)
    assert (" is a lower bound, not an estimate, for " in text) == (first or second)
    assert ("nothing proved" in text) == (first and second)
    assert ("or more" in text, "or less" in text) == (
        proved == (True, False),
        proved == (False, True),
    )
    plot_models(comparison)


def test_one_row_without_an_estimate_leaves_an_end_open():
    values = np.random.default_rng(0).normal(size=50)
    found = {
        "a": evidence(values + 0.5),
        "b": evidence(values, np.where(np.arange(50) == 3, 0.9, -np.inf)),
    }
    comparison = pv.compare_models(found, reference="a")
    assert comparison.table.loc["b", "share_bound"] == pytest.approx(0.02)
    assert comparison.table.loc["b", "high"] == np.inf


def test_a_model_is_not_worse_than_itself_refined():
    """The same model twice, the guide narrow in one: its lower bound proves nothing against the
    refined one."""
    bed = pv.beds.linear_gaussian(40, 10, guide_scale=0.3)
    exact = pv.beds.linear_gaussian(40, 10)
    found = {
        name: pv.log_evidence(each.model, each.guide, bed.x, num_particles=200)
        for name, each in (("narrow", bed), ("refined", exact))
    }
    low, high = pv.compare_models(found, reference="refined").table.loc["narrow", ["low", "high"]]
    assert low < 0 < high


def interval_of(lower, upper, verdict):
    noise = np.full(len(lower), np.nan)
    above = pv.Evidence(
        upper,
        0 * upper,
        noise,
        noise,
        noise,
        noise,
        np.full(len(lower), 10),
        bound="upper if converged",
    )
    return EvidenceInterval(evidence(lower), above, np.full(len(lower), verdict), 0.95)


def test_ends_of_evidence_intervals_are_taken():
    """Lower end from a's lower and b's upper bounds, upper end the other way round; the gap is
    paired by row."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(-50, 5, size=300) for _ in range(2))
    gap = rng.uniform(0.1, 0.5, size=300)
    found = {"a": interval_of(a, a + gap, "interval"), "b": evidence(b)}
    low, high = pv.compare_models(found, reference="b").interval[
        list(pv.compare_models(found).names).index("a")
    ]
    for end, differences, side in ((low, a - b, -1), (high, a + gap - b, 1)):
        by_hand = (
            differences.mean() + side * stats.t.ppf(0.975, 299) * differences.std(ddof=1) / 300**0.5
        )
        assert end == pytest.approx(by_hand, abs=0.06 * 1.97 * differences.std() / 300**0.5)
    unknown = {"a": interval_of(a, a + np.nan, "bound only"), "b": evidence(b)}
    ends = pv.compare_models(unknown, reference="b").table.loc["a"]
    assert (np.isfinite(ends.low), ends.high, ends.share_bound) == (True, np.inf, 1.0)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_what_is_not_finite_is_refused(value):
    broken = np.where(np.arange(20) == 7, value, 0.0)
    with pytest.raises(
        ValueError, match=rf"log p\(x\) of 'b' is {value} at row 7 \(1 of 20 rows\)"
    ):
        pv.compare_models({"a": evidence(np.zeros(20) - 1), "b": evidence(broken)})
