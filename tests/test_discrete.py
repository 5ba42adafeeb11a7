"""Discrete latents: VIMCO and the score function train a Bernoulli-latent model, plain REINFORCE is
too noisy to."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives

BITS = 20


class Bits(nn.Module):
    """Sigmoid belief net of one layer on the digits: z of 20 bits, x of 64."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(BITS, 64), nn.Linear(64, BITS)
        self.prior = nn.Parameter(torch.zeros(BITS))

    def model(self, x):
        pyro.module("bits", self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(2 * z - 1)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("bits", self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(2 * x - 1)).to_event(1))


def guide_noise(gradient, program, x, repeats=60):
    objective, found = objectives.IWAE(10, gradient=gradient), []
    with pv.seeded(0):
        for _ in range(repeats):
            loss = objective.differentiable_loss(program.model, program.guide, x)
            found.append(torch.autograd.grad(loss, program.encoder.weight)[0].flatten())
    return torch.stack(found).var(0).sum().item()


@pytest.fixture(scope="module")
def digits():
    return pv.load("digits", binarize="dynamic", flatten=True)


@pytest.mark.parametrize(
    "gradient", [objectives.VIMCO(), objectives.ScoreFunction("moving-average")], ids=repr
)
def test_bernoulli_latents_train_on_digits(digits, gradient):
    """From -44.4 (all pixels at a half) past -27.5, which 64 independent pixels reach, in twelve
    epochs."""
    torch.manual_seed(0)
    program = Bits()
    objective = objectives.IWAE(10, gradient=gradient)
    training = pv.Training(num_epochs=12, batch_size=32, learning_rate=5e-3, progress=False)
    result = pv.fit(program.model, program.guide, digits, objective=objective, training=training)
    assert result.history["valid"][-1] > -27.0
    evidence = pv.log_evidence(program.model, program.guide, digits.valid, num_particles=200)
    assert (evidence.log_evidence >= evidence.elbo).all()


def test_baselines_lower_the_variance_of_reinforce_tenfold(digits):
    torch.manual_seed(0)
    program, x = Bits(), digits.train.x[:50]
    plain = guide_noise(objectives.ScoreFunction(None), program, x)
    for gradient in (
        objectives.VIMCO(),
        objectives.ScoreFunction(),
        objectives.ScoreFunction("moving-average"),
    ):
        assert guide_noise(gradient, program, x) < plain / 10


def test_variances_are_of_unbiased_estimators(digits):
    """Means of 60 gradients agree with VIMCO's within 4.5 standard errors, summed over weights
    (chi-square like)."""
    torch.manual_seed(0)
    program, x = Bits(), digits.train.x[:50]

    def mean_and_se(gradient):
        objective, found = objectives.IWAE(10, gradient=gradient), []
        with pv.seeded(1):
            for _ in range(100):
                loss = objective.differentiable_loss(program.model, program.guide, x)
                found.append(torch.autograd.grad(loss, program.encoder.bias)[0])
        found = torch.stack(found)
        return found.mean(0), found.std(0) / 10

    reference, se = mean_and_se(objectives.VIMCO())
    for gradient in (
        objectives.ScoreFunction(),
        objectives.ScoreFunction("moving-average"),
        objectives.ScoreFunction(None),
    ):
        mean, other = mean_and_se(gradient)
        assert ((mean - reference).abs() < 4.5 * torch.hypot(se, other)).all()
