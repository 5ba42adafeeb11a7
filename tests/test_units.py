"""Raw units in and out: log p(x) is in the units of x, and training does not depend on them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.families.units import Encoding

LATENT_DIM = 2


def table(num_rows=160):
    """Raw wine: means from 0.4 to 750, standard deviations from 0.1 to 300."""
    x = load_wine().data[np.random.default_rng(0).permutation(178)]
    return torch.from_numpy(x[:num_rows]).float()


def trained(x, likelihood, num_epochs=8):
    """Evidence of the last 40 rows under a VAE of the others, all defaults."""
    data = pv.Dataset(x, splits={"train": range(len(x) - 40), "test": range(len(x) - 40, len(x))})
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(LATENT_DIM), data.event_shape)
        model = pv.Model(priors.StandardNormal(LATENT_DIM), likelihood)
    training = pv.Training(num_epochs=num_epochs, progress=False)
    pv.fit(model, guide, data, training=training)
    return pv.log_evidence(model, guide, data.test, num_particles=100, progress=False)


FAMILIES = ("Gaussian", "StudentT", "Laplace", "LogNormal", "Gamma", "LowRankNormal")
LOG_LINKS = ("LogNormal", "Gamma")
UNITS = (("feature", 2.0**20, 1e-4), ("decoder", 2.0**-20, 1e-4))


@pytest.mark.parametrize(
    ("family", "scale", "factor", "tolerance"),
    [
        *((name, *unit) for name in FAMILIES for unit in UNITS),
        ("Gaussian", "feature", 1e6, 0.02),
        ("StudentT", "decoder", 1e6, 0.02),
    ],
)
def test_a_column_in_other_units_moves_log_p_by_the_jacobian(family, scale, factor, tolerance):
    x = table()
    rescaled = x.clone()
    rescaled[:, 3] *= factor
    kind = getattr(likelihoods, family)
    before = trained(x, kind(13, scale=scale)).log_evidence
    after = trained(rescaled, kind(13, scale=scale)).log_evidence
    tolerance *= 5 if family in LOG_LINKS else 1  # the logarithm of a mean rounds as it grows
    assert after + math.log(factor) == pytest.approx(before, abs=tolerance)


def test_a_shifted_column_has_the_same_density():
    x = table().double()
    shifted = x + torch.tensor([0.0, 1024.0] + 11 * [0.0])
    before = trained(x.float(), likelihoods.Gaussian(13, scale="feature")).log_evidence.mean()
    after = trained(shifted.float(), likelihoods.Gaussian(13, scale="feature")).log_evidence.mean()
    assert after == pytest.approx(before, abs=0.05)


def test_raw_columns_beat_independent_normals():
    x = table()
    train, test = x[:120].numpy(), x[120:].numpy()
    normals = stats.norm.logpdf(test, train.mean(0), train.std(0)).sum(1).mean()
    evidence = trained(x, likelihoods.Gaussian(13, scale="feature"), num_epochs=60)
    assert evidence.log_evidence.mean() > normals


def test_a_start_gives_the_marginals_in_the_units_of_x():
    x = table()
    x[3, 2] = torch.nan
    model = pv.Model(
        priors.StandardNormal(LATENT_DIM), likelihoods.Gaussian(13, scale="feature"), start=x
    )
    with torch.no_grad():
        model.likelihood.link.linear.weight.zero_()
    p = model.decode(torch.zeros(1, LATENT_DIM))
    assert p.mean[0].detach().numpy() == pytest.approx(np.nanmean(x, 0), rel=1e-5)
    assert p.stddev[0].detach().numpy() == pytest.approx(np.nanstd(x, 0), rel=1e-5)


def test_counts_are_read_on_the_scale_of_their_logarithm():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    x = torch.from_numpy(rng.poisson(np.exp(4.0 + z @ rng.normal(size=(2, 6))))).float()
    evidence = trained(x, likelihoods.Poisson(6), num_epochs=60)
    independent = stats.poisson.logpmf(x[260:].numpy(), x[:260].numpy().mean(0)).sum(1).mean()
    assert evidence.log_evidence.mean() > independent / 3


def test_bits_and_trained_weights_are_left_alone():
    bits = (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 4)
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(4))
    pv.fit(model, guide, bits, training=pv.Training(num_epochs=1, progress=False))
    assert (guide.units.centre == 0).all()
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 13)
        model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(13))
    with torch.no_grad():
        guide.posterior.link.linear.bias.add_(1.0)  # as another optimiser would
    pv.fit(model, guide, table(), training=pv.Training(num_epochs=1, progress=False))
    assert (guide.units.centre == 0).all()
    assert (model.likelihood.units.centre > 0).all()


def test_a_small_step_and_a_start_are_noticed():
    x = table()
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 13)
        started = pv.Guide(posteriors.MeanFieldNormal(1), 13, start=x[:50])
    assert guide.is_new
    with torch.no_grad():
        guide.posterior.link.linear.weight[0, 0] += 1e-4
    assert not guide.is_new
    assert not started.is_new
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(13))
    centre = started.units.centre.clone()
    pv.fit(model, started, x, training=pv.Training(num_epochs=1, progress=False))
    assert torch.equal(started.units.centre, centre)


def test_weights_of_before_have_no_units():
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
    old = {name: value for name, value in guide.state_dict().items() if "units" not in name}
    guide.load_state_dict(old)
    x = torch.randn(5, 3)
    assert (guide.inputs(x) == x).all()


def test_units_keep_what_is_missing_and_read_constant_columns():
    x = torch.tensor([[1.0, 5.0, torch.nan], [3.0, 5.0, torch.nan]])
    units = Encoding(3)
    units.fit_to(x)
    assert units(x)[:, :2].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert units(x)[:, 2].isnan().all()
