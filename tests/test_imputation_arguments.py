"""Wrong arguments of imputation: each is one line that names what was given and what to give."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from torch import nn

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.tasks import imputation

NAN = float("nan")
WRONG = {
    "None": None,
    "number": -1.5,
    "NaN": NAN,
    "text": "wrong",
    "path": "table.csv",
    "empty list": [],
    "list of None": [None, None],
    "dict": {"a": 1},
    "object": object(),
    "class": dict,
    "complex": 1j,
    "strings": np.array(["a", "b"]),
    "ragged": [[1.0], [1.0, 2.0]],
    "function": len,
    "module": nn.Linear(1, 1),
    "empty frame": pd.DataFrame(),
}
BED = beds.linear_gaussian(num_data=12)
X = BED.x.numpy().copy()
X[::3, 0] = NAN
FEW = {"num_imputations": 2, "num_particles": 50, "method": "importance", "progress": False}
IMPUTATIONS = pv.impute(BED.model, BED.guide, X, **FEW)
POOLED = ([1.0, 2.0], [0.1, 0.1])


def mean(x):
    return x[:, 0].mean(), x[:, 0].var() / len(x)


SMALL = pv.Training(num_epochs=1, batch_size=50)
ROWS = np.random.default_rng(0).normal(size=(20, 3))
GUIDE = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3, start=ROWS)
MODEL = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(3), start=ROWS)
REFITS = {"training": SMALL, "num_fits": 1, "progress": False}
# Each function with its right arguments, and the kinds of WRONG that are right for some of them; a
# module of the user may raise an error of its own.
CALLS = {
    "impute": (
        partial(pv.impute, **FEW),
        {"model": BED.model, "guide": BED.guide, "data": X},
        {
            "model": ["module"],
            "guide": ["module"],
            "fits": ["None"],
            "do_not_impute": ["None", "empty list"],
            "seed": ["None"],
            "num_imputations": [],
        },
    ),
    "overimpute": (
        partial(pv.overimpute, **FEW),
        {"model": BED.model, "guide": BED.guide, "data": X},
        {
            "model": ["module"],
            "guide": ["module"],
            "share": [],
            "do_not_impute": ["None", "empty list"],
        },
    ),
    "bootstrap_fits": (
        partial(pv.bootstrap_fits, **REFITS),
        {"model": MODEL, "guide": GUIDE, "data": ROWS},
        {
            "model": ["module"],
            "guide": ["module"],
            "objective": ["None"],
            "training": ["None"],
            "num_fits": [],
            "seed": [],
            "num_jobs": [],
        },
    ),
    "refit_training": (imputation.refit_training, {"data": ROWS}, {"data": ["list of None"]}),
    "pool": (
        pv.pool,
        {"estimates": POOLED[0], "variances": POOLED[1]},
        {"dfcom": ["None"], "level": [], "names": ["None", "text", "path", "dict"]},
    ),
    "pool_chi_squares": (imputation.pool_chi_squares, {"chi_squares": [1.0, 2.0], "df": 2}, {}),
    "tipping_point": (
        pv.tipping_point,
        {"imputations": IMPUTATIONS, "column": "0", "analysis": mean},
        {
            "analysis": ["module"],
            "deltas": ["None", "number"],
            "estimate": ["None"],
            "null": ["number"],
            "scale": [],
        },
    ),
}


def cases():
    for name, (_, given, others) in CALLS.items():
        allowed = dict.fromkeys(given, []) | others
        for argument, right in allowed.items():
            for kind in WRONG:
                if kind not in right:
                    yield name, argument, kind


@pytest.mark.parametrize(("name", "argument", "kind"), list(cases()))
def test_wrong_arguments_are_refused_in_one_line(name, argument, kind):
    function, given, _ = CALLS[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**(given | {argument: WRONG[kind]}))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    where = caught.traceback[-1].path
    assert "ppl_vae" in str(where), f"raised in {where}: {message}"
