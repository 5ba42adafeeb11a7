"""Latents that the model marks for enumeration and the guide lacks, in trees and calibration."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.evidence import Defensive

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


LENGTHS = torch.tensor([1, 3, 2, 4])
START = torch.tensor([0.6, 0.4], dtype=torch.float64)
MOVES = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
MASKED = {
    "by a handler": lambda law, mask: (law, mask),
    "by the law": lambda law, mask: (law.mask(mask), True),
}


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("way", MASKED)
def test_chains_of_unequal_lengths_equal_the_forward_algorithm(way, dim):
    """A masked state is summed over a density of one, whatever its number of values."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def chain(x, lengths):
        state = None
        rows = (len(x),) + (1,) * (-1 - dim)
        with pyro.plate("rows", len(x), dim=dim):
            for t in pyro.markov(range(x.shape[1])):
                mask = (t < lengths).reshape(rows)
                law = dist.Categorical(START if state is None else MOVES[state])
                law, handled = MASKED[way](law.expand(law.batch_shape or rows), mask)
                with pyro.poutine.mask(mask=handled):
                    state = pyro.sample(f"state_{t}", law, infer={"enumerate": "parallel"})
                with pyro.poutine.mask(mask=mask):
                    emission = dist.Normal(2.0 * state, 1.0)
                    pyro.sample(f"x_{t}", emission, obs=x[:, t].reshape(rows))

    rows = pv.Dataset(x, args={"lengths": LENGTHS}, dtype=torch.float64)
    found = pv.log_evidence(chain, lambda x, lengths: None, rows, num_particles=30, progress=False)
    emission = dist.Normal(torch.tensor([0.0, 2.0], dtype=torch.float64), 1.0).log_prob(
        x[..., None]
    )
    forward = [START.log() + emission[:, 0]]
    for t in range(1, 4):
        moved = (forward[-1].unsqueeze(-1) + MOVES.log()).logsumexp(1)
        forward.append(moved + emission[:, t])
    exact = torch.stack(forward).logsumexp(-1)[LENGTHS - 1, torch.arange(4)]
    np.testing.assert_allclose(found.log_evidence, exact, atol=1e-9)


@pytest.mark.parametrize("dims", [(-1, -2), (-2, -1)])
@pytest.mark.parametrize("proposal", ["prior", Defensive("prior")])
def test_words_in_plates_of_any_dim_are_summed_under_the_prior(proposal, dims):
    """Shares of two topics are uniform, so that p(words) is a polynomial's integral."""
    topics = torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)
    documents = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 1]])

    def words(x):
        with pyro.plate("documents", len(x), dim=dims[0]):
            shares = pyro.sample("shares", dist.Dirichlet(topics.new_ones(2)))
            with pyro.plate("words", x.shape[1], dim=dims[1]):
                topic = pyro.sample(
                    "topic", dist.Categorical(shares), infer={"enumerate": "parallel"}
                )
                observed = x.long() if dims[0] == -2 else x.long().mT
                pyro.sample("word", dist.Categorical(topics[topic]), obs=observed)

    def broad(x):
        with pyro.plate("documents", len(x), dim=dims[0]):
            pyro.sample("shares", dist.Dirichlet(2 * topics.new_ones(2)))

    rows = pv.Dataset(documents, dtype=torch.float64)
    options = {"num_particles": 2_000, "proposal": proposal, "progress": False}
    found = pv.log_evidence(words, broad, rows, **options)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    share = torch.as_tensor((nodes + 1) / 2)[:, None, None]
    by_word = share * topics[0, documents] + (1 - share) * topics[1, documents]
    exact = (torch.as_tensor(weights / 2)[:, None] * by_word.prod(-1)).sum(0).log()
    assert (abs(found.log_evidence - exact.numpy()) <= 4.5 * found.mc_se).all()
