"""All functions on Pyro programs of every kind; what one cannot do is refused in words."""

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from guides import GUIDES
from kinds import KINDS, ROWS

import ppl_vae as pv
from ppl_vae import HMC, objectives
from ppl_vae.evidence import AIS, ImportanceSampling, ReverseAIS, Sandwich
from ppl_vae.refinement import GradientRefinement

ALL = KINDS | GUIDES
OUTSIDE = "outside the plate|does not split by row"
NO_NEW_ROWS = "is not among the 5 rows for which the guide has parameters"
SHARED = {"evidence_interval": OUTSIDE, "calibration": OUTSIDE}
REFUSED = {
    "gamma_family": SHARED,
    "sequences": SHARED,
    "baseball": SHARED,
    "pooled": SHARED,
    "row_parameters": {"calibration": NO_NEW_ROWS},
    "easy": SHARED | {"calibration": NO_NEW_ROWS},
    "listed": SHARED | {"calibration": NO_NEW_ROWS},
    "unpooled": {
        "evidence_interval": "is not a latent of the model, so q",
        "calibration": NO_NEW_ROWS,
    },
}
SCORE = objectives.TraceELBO(2, gradient=objectives.PathAndScore())
CHAINS = HMC(3, 2, num_leapfrog=2)
QUICK = Sandwich(
    ImportanceSampling(20), check=None, upper=ReverseAIS(AIS(2, 2), HMC(2, 2, num_leapfrog=2), 2)
)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fit(kind, name):
    training = pv.Training(num_epochs=1, batch_size=3, progress=False)
    objective = SCORE if name == "objects" else objectives.TraceELBO()
    result = pv.fit(kind.model, kind.guide, kind.data, objective=objective, training=training)
    assert result.num_epochs == 1


def log_evidence(kind, _):
    found = pv.log_evidence(kind.model, kind.guide, kind.data, num_particles=30, progress=False)
    assert len(found) == ROWS
    assert (found.elbo <= found.log_evidence + 1e-9).all()


def refine(kind, _):
    method = GradientRefinement(num_steps=2)
    refined = pv.refine(kind.model, kind.guide, kind.data, method, progress=False)
    found = pv.log_evidence(kind.model, refined, kind.data, num_particles=30, progress=False)
    assert (found.elbo <= found.log_evidence + 1e-9).all()


def evidence_interval(kind, name):
    # The chains of two discrete latents take a quarter of a minute.
    method = replace(QUICK, upper=None) if name == "objects" else QUICK
    found = pv.evidence_interval(kind.model, kind.guide, kind.data, method, progress=False)
    assert (found.lower <= found.upper).all()


def sample_posterior(kind, _):
    """Of rows alone or of all rows with what they share: every continuous latent of the guide."""
    chains = pv.sample_posterior(kind.model, kind.guide, kind.data, num_chains=2, sampler=CHAINS)
    tree = chains.to_datatree()
    for name, values in chains.sites.items():
        assert values.isfinite().all()
        assert values.shape[2:3] == (ROWS,) or name in chains.shared
        assert tree.posterior[name].shape[:2] == (2, 3)


def to_datatree(kind, _):
    tree = pv.to_datatree(kind.model, kind.guide, kind.data, num_samples=10)
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_weights"], stats["log_p"] - stats["log_q"], atol=1e-9)


def calibration(kind, _):
    found = pv.calibration(
        kind.model, kind.guide, kind.data, num_data=10, num_samples=10, progress=False
    )
    assert len(found) == 10
    pit = found.pit[~np.isnan(found.pit)]  # masked latents are not ranked
    assert ((pit >= 0) & (pit <= 1)).all()


def compare_estimators(kind, name):
    """Our ELBO and Pyro's have one expectation."""
    ours = SCORE if name == "objects" else objectives.TraceELBO()
    found = pv.compare_estimators(
        kind.model,
        kind.guide,
        kind.data,
        {"ours": ours, "Pyro's": pyro.infer.Trace_ELBO()},
        num_replicates=12,
        reference_particles=10,
        progress=False,
    )
    first, second = (row.values for row in found.rows)
    error = np.hypot(first.std(ddof=1), second.std(ddof=1)) / np.sqrt(12)
    assert abs(first.mean() - second.mean()) <= 5 * error + 1e-9


FUNCTIONS = (
    fit,
    log_evidence,
    refine,
    evidence_interval,
    sample_posterior,
    to_datatree,
    calibration,
    compare_estimators,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", ALL)
def test_every_function_takes_every_kind(name, function):
    kind = ALL[name]()
    said = REFUSED.get(name, {}).get(function.__name__)
    if said is None:
        function(kind, name)
    else:
        with pytest.raises(ValueError, match=said):
            function(kind, name)
