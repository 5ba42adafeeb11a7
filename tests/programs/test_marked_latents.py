"""Latents that the model marks for enumeration and the guide lacks, in trees and calibration."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv

SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 1.0], dtype=torch.float64)
X = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)


def model(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        k = pyro.sample("k", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        pyro.sample("obs", dist.Normal(MEANS[k] + z, 0.7), obs=x)


def guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


def data(x=X):
    return pv.Dataset(x, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_tree_draws_them_given_x(rows):
    tree = pv.to_datatree(model, guide, data(X[:rows]), num_samples=4_000, progress=False)
    z, k = (torch.as_tensor(tree["posterior"][name].values[0]) for name in ("z", "k"))
    x = X[:rows]
    log_x = dist.Normal(MEANS + z[..., None], 0.7).log_prob(x[:, None])
    given = (SHARES.log() + log_x).softmax(-1)[..., 1]
    error = (given * (1 - given)).mean(0).sqrt() / 4_000**0.5
    assert ((k.double() - given).mean(0).abs() <= 5 * error).all()
    found = tree["log_likelihood"]["obs"].values[0]
    np.testing.assert_allclose(found, log_x.gather(-1, k[..., None])[..., 0], atol=1e-9)
    of_k = tree["log_prior"]["k"].values[0]
    np.testing.assert_allclose(of_k, SHARES.log()[k], atol=1e-9)
    summed = (SHARES.log() + log_x).logsumexp(-1) + dist.Normal(0.0, 1.0).log_prob(z)
    np.testing.assert_allclose(tree["sample_stats"]["log_p"].values[0], summed, atol=1e-9)
    drawn = torch.as_tensor(tree["posterior_predictive"]["obs"].values[0])
    scores = (drawn - MEANS[k] - z) / 0.7
    assert (scores.mean(0).abs() < 5 / 4_000**0.5).all()


def test_calibration_leaves_them_out():
    found = pv.calibration(model, guide, data(), num_data=40, num_samples=20, progress=False)
    assert "k" not in found.names
    assert "z" in "".join(found.names)
