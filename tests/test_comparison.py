"""Paired comparison of models: arithmetic by hand, coverage in simulation."""

import numpy as np
import pytest
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import reduce_log_weights


def evidence_of(values, noise=0.0, num_particles=200, seed=0):
    """Log-weights with given means and lognormal spread."""
    z = np.random.default_rng(seed).standard_normal((num_particles, len(values)))
    return reduce_log_weights(values + noise * z - noise**2 / 2)


def test_differences_are_a_paired_t_by_hand():
    rng = np.random.default_rng(0)
    a = rng.normal(-90, 10, size=300)
    b = a - 0.5 + rng.normal(0, 0.3, size=300)
    comparison = pv.compare_models({"b": evidence_of(b), "a": evidence_of(a)})
    assert comparison.names == ("a", "b")
    t = stats.ttest_rel(b, a)
    np.testing.assert_allclose(comparison.difference[1] / comparison.difference_se[1], t.statistic)
    np.testing.assert_allclose(comparison.data_se[0], a.std(ddof=1) / 300**0.5)
    assert comparison.difference_se[1] < comparison.data_se[1] / 20
    assert "paired se" in str(comparison)


def test_paired_intervals_cover():
    """300 repeats of 80 data with Monte Carlo noise: 95 % intervals hold the true difference in 91 to 98.5 %."""
    rng, covered = np.random.default_rng(1), 0
    for repeat in range(300):
        a = rng.normal(-50, 5, size=80)
        b = a - 0.4 + rng.normal(0, 0.5, size=80)
        pair = {"a": evidence_of(a, 0.3, seed=repeat), "b": evidence_of(b, 0.3, seed=1000 + repeat)}
        comparison = pv.compare_models(pair)
        sign = 1 if comparison.names[0] == "a" else -1
        covered += abs(sign * comparison.difference[1] + 0.4) < 1.99 * comparison.difference_se[1]
    assert 0.91 < covered / 300 < 0.985


def test_the_true_model_wins_by_the_exact_difference():
    bed, poor = beds.linear_gaussian(200), beds.linear_gaussian(200, noise=1.0)
    found = {
        name: pv.log_evidence(each.model, each.guide, bed.x, num_particles=30)
        for name, each in (("true", bed), ("poor", poor))
    }
    comparison = pv.compare_models(found)
    exact = poor.exact_log_evidence(bed.x) - bed.log_evidence
    np.testing.assert_allclose(comparison.difference[1], exact.mean(), atol=1e-9)


def test_different_rows_are_refused():
    with pytest.raises(ValueError, match=r"on the same rows; given {'a': 3, 'b': 4}"):
        pv.compare_models({"a": evidence_of(np.zeros(3)), "b": evidence_of(np.zeros(4))})
    with pytest.raises(ValueError, match="two models or more"):
        pv.compare_models({"a": evidence_of(np.zeros(3))})


def test_evidence_goes_to_a_file_and_comes_back(tmp_path):
    evidence = evidence_of(np.arange(4.0), 0.5)
    again = pv.Evidence.load(evidence.save(tmp_path / "evidence.npz"))
    np.testing.assert_array_equal(again.pareto_k, evidence.pareto_k)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="holds no evidence: there is no 'log_evidence' in it"):
        pv.Evidence.load(tmp_path / "other.npz")
