"""Wrong arguments of the public functions of a model, a guide and rows, by kind."""

import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae import diagnostics, likelihoods, posteriors, priors
from ppl_vae.errors import ArgumentError

torch.manual_seed(0)
MODEL = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(3))
GUIDE = pv.Guide(posteriors.MeanFieldNormal(2), 3)
BITS = np.random.default_rng(0).integers(2, size=(40, 3))
FUNCTIONS = [
    pv.active_units,
    pv.calibration,
    pv.conditional_pit,
    pv.elbo_surgery,
    pv.evidence_interval,
    pv.impute,
    pv.inference_gaps,
    pv.log_evidence,
    diagnostics.rate_distortion,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    "wrong",
    [
        {"model": float("nan")},
        {"guide": 3 + 4j},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": "3"},
        {"progress": 2},
        {"progress": []},
    ],
    ids=str,
)
def test_each_is_refused_in_one_line_that_names_the_argument(function, wrong):
    (name,) = wrong
    with pytest.raises((TypeError, ArgumentError), match=rf"^{name} is ") as caught:
        function(**{"model": MODEL, "guide": GUIDE, "data": BITS} | wrong)
    assert "\n" not in str(caught.value)
