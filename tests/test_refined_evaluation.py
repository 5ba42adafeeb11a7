"""`ppl-vae evaluate --refine`: rows without an estimate get one, and the headline says which is
which."""

import numpy as np
import pytest

import ppl_vae as pv
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.experiment import Estimates, table
from ppl_vae.experiment.refined import refined_evidence
from ppl_vae.experiment.result_table import headline

METRICS = {
    **{
        "elbo": -20.0,
        "log_evidence": -18.5,
        "mc_se": 0.012,
        "data_se": 0.3,
        "mc_bias": 0.0,
        "kl": 9.0,
    },
    **{
        "active_units": 8,
        "latent_dim": 8,
        "num_data": 300,
        "num_particles": 1000,
        "mean_ess": 80.0,
    },
    **{"share_bad_k": 0.1, "share_estimate": 0.6, "run": {"data": "digits"}},
    "evaluation": {
        "split": "test",
        "method": {"name": "ImportanceSampling", "num_particles": 1000},
    },
}


def test_rows_without_an_estimate_get_one(tmp_path):
    """A narrow guide of a linear-Gaussian model: refined, it is exact to within its own errors."""
    bed = pv.beds.linear_gaussian(12, 3, guide_scale=0.2)
    path = tmp_path / "found.npz"
    options = {"seed": 0, "progress": False, "checkpoint": path}
    found = refined_evidence(
        bed.model, bed.guide, pv.Dataset(bed.x), ImportanceSampling(500), **options
    )
    assert found.checks["refined"].all()
    assert found.is_estimate.mean() > 0.8
    error = np.abs(found.log_evidence - bed.log_evidence.numpy())
    assert (error <= 4 * found.mc_se + 1e-3).all()
    np.testing.assert_array_equal(pv.Evidence.load(path).log_evidence, found.log_evidence)


def test_rows_with_an_estimate_are_left_alone():
    bed = pv.beds.linear_gaussian(6, 2)
    found = refined_evidence(
        bed.model, bed.guide, pv.Dataset(bed.x), ImportanceSampling(100), seed=0, progress=False
    )
    alone = pv.log_evidence(
        bed.model, bed.guide, pv.Dataset(bed.x), ImportanceSampling(100), seed=0, progress=False
    )
    assert not found.checks["refined"].any()
    np.testing.assert_array_equal(found.log_evidence, alone.log_evidence)


def test_a_bound_is_never_printed_as_an_estimate():
    metrics = Estimates(**METRICS)
    assert metrics.is_bound
    text = table(metrics)
    first = text.splitlines()[3]
    assert first.split() == ["lower", "bound,", "no", "estimate", "40.0", "%", "of", "the", "rows"]
    assert "log p(x) >=" in text
    assert "Monte Carlo standard error    unknown" in text
    assert "--refine" in text
    assert "evidence_interval" in text
    assert (
        headline(metrics)
        == ">= -18.500 nats per row, a lower bound for 40 % of the rows; data se 0.300"
    )


@pytest.mark.parametrize("known", [{"share_estimate": 1.0, "share_bad_k": 0.0}])
def test_an_estimate_is_printed_with_its_errors(known):
    metrics = Estimates(**METRICS | known)
    text = table(metrics)
    assert ">=" not in text
    assert "Monte Carlo standard error      0.012" in text
    assert headline(metrics) == "-18.500 nats per row; data se 0.300"
