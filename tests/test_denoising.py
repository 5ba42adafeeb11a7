"""Clean rows given noisy ones, against exact posteriors; intervals that cover."""

import dataclasses

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from cases import LIKELIHOODS
from pyro import distributions as dist
from scipy import integrate, stats
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.errors import ArgumentError
from ppl_vae.families.entries import entries_of
from ppl_vae.refinement import GradientRefinement
from ppl_vae.tasks.denoising import Dropout, GaussianNoise, PoissonNoise, SaltAndPepper
from ppl_vae.tasks.denoising.noisy_model import NoisyModel
from ppl_vae.tasks.imputation.methods import Entries, Pool
from ppl_vae.tasks.imputation.predictive import Predictive

W = torch.tensor([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3], [0.7, 0.0]])
SD, NOISE = 0.4, 0.6
REPLACING = [SaltAndPepper(0.3), Dropout(0.3)]
NOISES = [*REPLACING, GaussianNoise(0.5), PoissonNoise(5.0)]


def linear_gaussian():
    """x = W z + noise of sd 0.4, and a guide that was not trained."""
    likelihood = likelihoods.Gaussian(4, scale=SD)
    model = pv.Model(priors.StandardNormal(2), likelihood, nn.Identity())
    with torch.no_grad():
        for weights in likelihood.link.parameters():
            weights.copy_(W.reshape(weights.shape) if weights.dim() > 1 else torch.zeros(4))
    with pv.seeded(1):
        guide = pv.Guide(posteriors.FullRankNormal(2), 4, nn.Identity())
    return model.double(), guide.double()


@pytest.mark.statistical
@pytest.mark.parametrize("offset", [0.0, 50.0], ids=["near", "far"])
def test_the_posterior_of_a_linear_gaussian_model_is_exact(offset):
    """From the guide's start, and from the prior's where noise leads the guide astray."""
    model, guide = linear_gaussian()
    with torch.no_grad():
        for weights in guide.posterior.link.parameters():
            weights += offset * (weights.dim() == 1)
    with pv.seeded(2):
        clean = model.sample(60)
        noisy = GaussianNoise(NOISE).corrupt(clean)
    noisy[3, 1] = torch.nan
    data = pv.Dataset(noisy, dtype=torch.float64)
    options = {"method": "refined", "refinement": GradientRefinement(num_steps=100)}
    found = pv.denoise(model, guide, data, GaussianNoise(NOISE), num_particles=100, **options)
    w = W.double().numpy()
    sigma = w @ w.T + SD**2 * np.eye(4)
    for row in range(60):
        seen = ~np.isnan(noisy[row].numpy())
        of_seen = sigma[np.ix_(seen, seen)] + NOISE**2 * np.eye(seen.sum())
        gain = sigma[:, seen] @ np.linalg.inv(of_seen)
        mean = gain @ noisy[row].numpy()[seen]
        sd = np.sqrt(np.diag(sigma - gain @ sigma[seen]))
        ess = found.rows["ess"].iloc[row]
        # 4 standard errors of a mean of so many effective draws, 240 of them: level 0.015
        assert np.abs(found.mean[row] - mean).max() < 4 * (sd / np.sqrt(ess)).max()
        assert found.sd[row] == pytest.approx(sd, rel=5 / np.sqrt(2 * ess))
    low, high = found.interval(0.9)
    covered = ((low <= clean.numpy()) & (clean.numpy() <= high)).mean(1)
    assert abs(covered.mean() - 0.9) < 4 * covered.std() / np.sqrt(60) + 0.01
    with pytest.raises(ValueError, match=r"clean has shape \(2, 4\), and the denoised rows"):
        found.psnr(clean[:2])
    assert (found.psnr(clean, peak=4.0).mean()) > 10 * np.log10(16 / NOISE**2)


def prior_guide(x, context=None):
    """q(z given x) = N(0, 1), the prior: its weights are bounded."""
    with pyro.plate("data", len(x), dim=-1):
        return pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")  # one row: its ESS is used
@pytest.mark.statistical
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_bits_agree_with_quadrature(noise):
    """One latent: p(x_i = 1 given y) by sums over z on a grid."""
    with pv.seeded(3):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(6), nn.Linear(1, 6))
        for weights in model.parameters():
            weights.data = torch.randn_like(weights)
        model = model.double()
        noisy = noise.corrupt(model.sample(10))
    data = pv.Dataset(noisy, dtype=torch.float64)
    options = {"method": "importance", "num_particles": 800}
    found = pv.denoise(model, prior_guide, data, noise, **options)
    z = torch.linspace(-8, 8, 4001).double().reshape(-1, 1)
    with torch.no_grad():
        log_p = model.decode(z).base_dist.logits  # (grid, 6)
        prior = dist.Normal(0.0, 1.0).log_prob(z)
    ones, zeros = torch.nn.functional.logsigmoid(log_p), torch.nn.functional.logsigmoid(-log_p)
    for row, y in enumerate(noisy):
        one = ones + noise.log_prob(y, torch.ones(6).double())
        zero = zeros + noise.log_prob(y, torch.zeros(6).double())
        each = torch.logaddexp(one, zero)
        weights = (prior.squeeze(1) + each.sum(1)).softmax(0)
        exact = (weights[:, None] * (one - each).exp()).sum(0).numpy().clip(0, 1)
        error = np.sqrt(exact * (1 - exact) / found.rows["ess"].iloc[row])
        assert (np.abs(found.mean[row] - exact) < 4.5 * error + 1e-9).all()  # level 4e-4 in all


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_marginals_are_those_of_simulated_noise(noise):
    """p(y) of a discrete x by summation is a distribution, and that of `corrupt`."""
    base = dist.Binomial(3, torch.tensor([0.2, 0.6]))
    with pv.seeded(4):
        y = noise.corrupt(base.sample((40_000,)))
    if isinstance(noise, GaussianNoise):
        for i, p in enumerate((0.2, 0.6)):
            k = np.arange(4)
            weights = stats.binom.pmf(k, 3, p)
            at = torch.full((2,), 0.7)
            density = (weights * stats.norm.pdf(0.7, k, noise.sd)).sum()
            assert noise.marginal(base, at)[i].exp() == pytest.approx(density, rel=1e-5)
        return
    for value in y.unique()[:6]:
        share = (y == value).double().mean(0)
        found = noise.marginal(base, value.expand(2)).exp().double()
        assert ((share - found).abs() < 4.5 * (found / len(y)).sqrt() + 1e-6).all()


def entry_at(name, num_rows):
    """The distribution of one entry, at the same z in each row."""
    with pv.seeded(1):
        likelihood = LIKELIHOODS[name][0](1)
        likelihood.build((2,))
        features = torch.randn(1, 2).double().expand(num_rows, 2)
        return entries_of(likelihood.double()(features))[0]


INDEPENDENT = [name for name in LIKELIHOODS if not entry_at(name, 1).event_shape]


@pytest.mark.parametrize("kind", [SaltAndPepper, Dropout], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", INDEPENDENT)
def test_replaced_entries_of_every_likelihood(name, kind):
    """p(y given z) at the value that replaces, and the law of x given it, against simulation.

    The value is the most frequent one: a mass of x itself where x has masses."""
    base = entry_at(name, 40_000)
    with pv.seeded(2):
        x = base.sample()
        value = x.mode(0).values.item()
        noise = Dropout(0.3, value) if kind is Dropout else SaltAndPepper(0.3, value, 50.0)
        y = noise.corrupt(x)
        hit = y == value
        share = noise.marginal(base, torch.full_like(y, value)).exp().mean().item()
        drawn = noise.clean(base, y)
    error = np.sqrt(share * (1 - share) / 40_000)
    assert hit.double().mean().item() == pytest.approx(share, abs=4.5 * error)
    assert torch.equal(drawn[~hit & (y != 50.0)], x[~hit & (y != 50.0)])
    same = [(each[hit] == value).double() for each in (x, drawn)]
    spread = (same[0].var() + same[1].var()).item()
    assert (same[0].mean() - same[1].mean()).abs() <= 4.5 * np.sqrt(spread / hit.sum().item())
    levels = [each[hit].sort().values for each in (x, drawn)]
    # Kolmogorov-Smirnov at 1e-5 each, conservative where there are ties
    assert stats.ks_2samp(*(each.numpy() for each in levels)).pvalue > 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_is_no_binary_fraction_is_recognised_in_both_precisions(dtype):
    noise = Dropout(0.5, value=0.1)
    base = dist.Normal(torch.zeros(50, dtype=dtype), 1.0)
    with pv.seeded(0):
        y = noise.corrupt(base.sample())
    assert y.dtype == dtype
    is_lost = noise.marginal(base, y) == torch.tensor(0.5, dtype=dtype).log()
    assert torch.equal(is_lost, (y - 0.1).abs() < 1e-6)
    assert 10 < is_lost.sum() < 40
    single = noise.marginal(base, y.float().to(dtype))  # as a file of single precision has it
    assert torch.equal(single == torch.tensor(0.5, dtype=dtype).log(), is_lost)


@pytest.mark.parametrize("name", ["LogNormal", "Gamma", "Beta"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_gradients_are_finite_where_the_value_lies_outside_the_support(name, value):
    """Of a lost entry, and of one that is missing: zero, since p(y) does not depend on z there."""
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), LIKELIHOODS[name][0](3)).double()
    y = torch.tensor([[value, 0.5, torch.nan]]).double()
    program = NoisyModel(model, Dropout(0.2, value))
    z = torch.zeros(1, 1).double().requires_grad_()
    density = program._corrupted(model.likelihood_at(z, None), y).log_prob(y)
    assert density[0, [0, 2]].tolist() == pytest.approx([np.log(0.2), 0.0])
    only_kept = torch.autograd.grad(density[0, 1], z, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(density.sum(), z)[0], only_kept)
    assert only_kept.isfinite().all()


LEVEL = 0.9
NUM_COVERED = 80


def one_latent(likelihood):
    """One latent and weights that make it matter, in float64."""
    with pv.seeded(3):
        model = pv.Model(priors.StandardNormal(1), likelihood, nn.Linear(1, 6))
        for weights in model.parameters():
            weights.data = torch.randn_like(weights)
    return model.double()


def covered_by(model, noise, num_particles=200):
    """The noisy rows of a model, intervals, and which clean entries these cover."""
    with pv.seeded(8):
        clean = model.sample(NUM_COVERED)
        noisy = noise.corrupt(clean)
    data = pv.Dataset(noisy, dtype=torch.float64)
    options = {"method": "importance", "num_particles": num_particles, "progress": False}
    low, high = pv.denoise(model, prior_guide, data, noise, **options).interval(LEVEL)
    truth = clean.numpy()
    return noisy, (low, high), (low <= truth + 1e-6) & (truth - 1e-6 <= high)


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")
@pytest.mark.statistical
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
@pytest.mark.parametrize("name", ["Bernoulli", "DiscretizedLogistic"])
def test_intervals_of_few_values_cover_what_they_hold(name, noise):
    """Simulated rows: the share that is covered is that which the exact posterior has within."""
    model = one_latent(LIKELIHOODS[name][0](6))
    noisy, (low, high), covered = covered_by(model, noise)
    z = torch.linspace(-8, 8, 801).double().reshape(-1, 1)
    with torch.no_grad():
        base, _ = entries_of(model.decode(z))
        values = base.enumerate_support(expand=False).double()  # (levels, 1, 1)
        log_p = base.log_prob(values)  # (levels, grid, entries)
    within = np.empty_like(low)
    for row, y in enumerate(noisy):
        joint = log_p + noise.log_prob(y, values)
        grid = dist.Normal(0.0, 1.0).log_prob(z[:, 0]) + joint.logsumexp(0).sum(1)
        exact = (grid.softmax(0)[:, None] * joint.softmax(0)).sum(1).numpy()  # (levels, entries)
        level = values.reshape(-1, 1).numpy()
        inside = (level >= low[row] - 1e-6) & (level <= high[row] + 1e-6)
        within[row] = (exact * inside).sum(0)
    # An interval is a function of y, so that the difference has the mean zero, and the variance of
    # a row's mean is at most the mean of those of its entries: level 6e-5 each.
    variance = (within * (1 - within)).mean()
    assert abs((covered - within).mean()) < 4 * np.sqrt(variance / NUM_COVERED) + 1e-9
    assert within.mean() > LEVEL - 0.01  # 200 particles


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")
@pytest.mark.statistical
@pytest.mark.parametrize(
    "noise",
    [GaussianNoise(0.5), SaltAndPepper(0.3, -3.0, 3.0), Dropout(0.3)],
    ids=lambda noise: type(noise).__name__,
)
def test_intervals_of_densities_cover_at_their_level(noise):
    model = one_latent(likelihoods.Gaussian(6, scale=0.4))
    noisy, (low, high), covered = covered_by(model, noise, 1000)
    is_known = noise.keeps(noisy).numpy()
    assert (low == high)[is_known].all()
    assert covered[is_known].all()
    rows = np.where(is_known, LEVEL, covered).mean(1)
    assert abs(rows.mean() - LEVEL) < 4 * rows.std() / np.sqrt(NUM_COVERED) + 0.005


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")
@pytest.mark.statistical
def test_lost_counts_are_told_from_true_zeros():
    """Counts have no finite list of values; intervals cover at least at their level."""
    model = one_latent(likelihoods.Poisson(6))
    noisy, (_, high), covered = covered_by(model, Dropout(0.3))
    rows = covered.mean(1)
    # level 3e-5
    assert rows.mean() > LEVEL - 4 * rows.std() / np.sqrt(NUM_COVERED)
    assert (high[(noisy > 0).numpy()] == noisy[noisy > 0].numpy()).all()


def test_what_cannot_be_denoised_is_refused_in_one_line():
    model, guide = linear_gaussian()
    y = torch.ones(2, 4)
    with pytest.raises(ValueError, match="no closed form"):
        pv.denoise(model, guide, y, PoissonNoise(3.0))
    with pytest.raises(ValueError, match="must be a Noise"):
        pv.denoise(model, guide, y, 0.5)
    with pytest.raises(ValueError, match="Model made of"):
        pv.denoise(lambda x: None, guide, y, GaussianNoise(0.5))
    with pytest.raises(ValueError, match="name one or more of the columns"):
        pv.denoise(model, guide, y, {})


@pytest.mark.parametrize("kind", [SaltAndPepper, Dropout, GaussianNoise, PoissonNoise])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, "0.1", None, True])
def test_settings_of_noise_that_are_no_finite_numbers_are_refused(kind, wrong):
    names = [each.name for each in dataclasses.fields(kind)]
    for name in names:
        settings = dict.fromkeys(names, 0.1) | {name: wrong}
        with pytest.raises(ArgumentError, match=rf"{kind.__name__}\({name}\) is .*finite number"):
            kind(**settings)
    for outside in (0.0, -1.0):
        with pytest.raises(ArgumentError, match=rf"{kind.__name__}\({names[0]}\) is .*above 0"):
            kind(outside)


def three_gaussians():
    """A model and a guide of three columns in float32, which were not trained."""
    with pv.seeded(4):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(3))
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
    return model, guide


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")
@pytest.mark.parametrize(
    "noise", [*REPLACING, {"a": GaussianNoise(0.5)}, {"b": Dropout(0.3), "c": GaussianNoise(0.5)}]
)
def test_entries_that_noise_cannot_have_changed_are_the_given_values(noise):
    """To the last bit, which float32 does not keep: means and both ends of intervals."""
    model, guide = three_gaussians()
    rng = np.random.default_rng(0)
    given = rng.normal(size=(12, 3))
    given[::3, 1] = 0.0  # pepper
    given[1, 2] = np.nan
    rows = pd.DataFrame(given, columns=["a", "b", "c"])
    found = pv.denoise(model, guide, rows, noise, method="importance", progress=False)
    known = ~np.isnan(given)
    if isinstance(noise, dict):
        noisy = rows.columns.isin(list(noise))
        known &= ~noisy | ((given != 0) & (rows.columns == "b"))
    else:
        known &= given != 0
    for values in (found.mean, *found.interval(0.9), found.posterior.complete(0).to_numpy()):
        assert (values[known] == given[known]).all()
    assert (found.sd[known] == 0).all()
    assert (found.sd[~known] > 0).all()
    assert (found.rows["method"] == "none").tolist() == known.all(1).tolist()


def test_means_of_equal_draws_are_these_draws():
    """Weights that do not sum to one in floating point move neither the mean nor the ends."""
    num_draws, num_entries = 7, 50
    with pv.seeded(0):
        value = torch.randn(num_entries)
        weights = torch.rand(num_draws, 1).double()
    pool = Pool(
        x=value.expand(num_draws, -1).clone(),
        weights=weights / weights.sum(),
        chosen=np.zeros((1, 1), dtype=int),
        judged=None,
    )
    pool.x[3] += 1.0  # of weight zero
    pool.weights[3] = 0.0
    pool = pool._replace(weights=pool.weights / pool.weights.sum())
    kept = Predictive.empty(1, num_entries * [False], num_levels=0, dtype=torch.float32)
    entries = Entries(torch.zeros(num_entries, dtype=torch.long), torch.arange(num_entries))
    kept.put(np.arange(num_entries), pool, entries)
    assert (kept.mean == value.double().numpy()).all()
    assert (kept.quantiles == value.numpy()[:, None]).all()
    assert (kept.sd == 0).all()


def test_the_psnr_of_rows_without_a_known_entry_is_nan():
    model, guide = three_gaussians()
    y = torch.ones(3, 3)
    found = pv.denoise(model, guide, y, Dropout(0.3), method="importance", progress=False)
    clean = y.clone()
    clean[0] = torch.nan
    clean[1] = torch.tensor([torch.nan, 1.1, 0.9])
    expected = [np.nan, 20.0, np.inf]
    assert found.psnr(clean) == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("df", [0.8, 2.1, 5.0, 80.0])
def test_students_t_under_gaussian_noise_agrees_with_quadrature(df):
    """p(y) by adaptive quadrature over x, and the mean and sd of draws of x given y."""
    noise = GaussianNoise(0.6)
    for scale, y in ((0.1, 0.2), (1.0, -3.0), (3.0, 40.0)):
        base = dist.StudentT(*(torch.tensor([each]).double() for each in (df, 0.5, scale)))
        base = base.expand([20_000])

        def joint(x, power=0, scale=scale, y=y):
            return x**power * stats.t.pdf(x, df, 0.5, scale) * stats.norm.pdf(y, x, 0.6)

        places = {"points": [0.5, y], "limit": 500}
        exact = [
            integrate.quad(joint, y - 12, y + 12, args=(power,), epsabs=1e-14, **places)[0]
            for power in range(3)
        ]
        at = torch.full((20_000,), y).double()
        assert noise.marginal(base, at)[0].exp().item() == pytest.approx(exact[0], rel=1e-6)
        mean = exact[1] / exact[0]
        sd = np.sqrt(exact[2] / exact[0] - mean**2)
        with pv.seeded(1):
            x = noise.clean(base, at)
        assert x.mean().item() == pytest.approx(mean, abs=4.5 * sd / np.sqrt(20_000))
        assert x.std().item() == pytest.approx(sd, rel=0.06)


def test_values_that_cannot_arise_are_refused():
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Bernoulli(3)).double()
    y = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.5, 0.0]]).double()
    said = r"the noisy rows hold 0.5 at row 1, feature 1, which no clean value gives"
    with pytest.raises(ValueError, match=said):
        pv.denoise(model, prior_guide, y, SaltAndPepper(0.1))
    with pytest.raises(ValueError, match="the noisy rows hold -1 at row 0, feature 0"):
        pv.denoise(model, prior_guide, y - 1, PoissonNoise(2.0))
    with pytest.raises(ValueError, match="the noisy rows hold 0.5 at row 1, feature 1"):
        pv.denoise(model, prior_guide, y, PoissonNoise(3.0))  # one and a half photons
    with pytest.raises(ValueError, match=r"corrupt takes a tensor of clean values.*a list"):
        Dropout(0.1).corrupt([0, 1])
    assert GaussianNoise(1.0).corrupt(torch.arange(3)).is_floating_point()
    found = pv.denoise(model, prior_guide, y[:1], Dropout(0.1), method="importance")
    with pytest.raises(ValueError, match="peak is 0"):
        found.psnr(y[:1], peak=0)
    assert found.psnr(found.mean) > 120  # dB: rounded to float32


@pytest.mark.statistical
def test_single_columns_of_a_mixed_table_are_noisy():
    """A Gaussian column under noise, a clean count and a missing bit: sums over z on a grid."""
    families = {"a": likelihoods.Gaussian, "n": likelihoods.Poisson, "b": likelihoods.Bernoulli}
    with pv.seeded(6):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Columns(families), nn.Linear(1, 4))
        for weights in model.parameters():
            weights.data = 0.5 * torch.randn_like(weights)
        model = model.double()
        clean = model.sample(8)
        noisy = clean.clone()
        noisy[:, 0] += 0.7 * torch.randn(8)
        noisy[::2, 2] = torch.nan
    data = pv.Dataset(noisy, feature_names=["a", "n", "b"], dtype=torch.float64)
    options = {"method": "importance", "num_particles": 400}
    found = pv.denoise(model, prior_guide, data, {"a": GaussianNoise(0.7)}, **options)
    assert (found.mean[:, 1] == clean[:, 1].numpy()).all()
    assert (found.sd[:, 1] == 0).all()
    z = torch.linspace(-8, 8, 4001).double().reshape(-1, 1)
    with torch.no_grad():
        normal, poisson, bit = model.decode(z).base_dist.parts
    for row, (y, n, b) in enumerate(noisy.tolist()):
        variance = normal.variance + 0.7**2
        log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(
            normal.mean, variance.sqrt()
        ).log_prob(torch.tensor(y).double())
        log_p = log_p + poisson.log_prob(torch.tensor(n).double())
        if not np.isnan(b):
            log_p = log_p + bit.log_prob(torch.tensor(b).double())
        weights = log_p.softmax(0)
        share = normal.variance / variance
        means = normal.mean + share * (y - normal.mean)
        mean = (weights * means).sum()
        spread = (weights * (share * 0.7**2 + (means - mean) ** 2)).sum().sqrt()
        ess = found.rows["ess"].iloc[row]
        assert abs(found.mean[row, 0] - mean) < 4 * spread / np.sqrt(ess)  # level 5e-4 in all
        chance = (weights * bit.probs).sum() if np.isnan(b) else torch.tensor(b)
        assert found.mean[row, 2] == pytest.approx(chance.item(), abs=2 / np.sqrt(ess))
    with pytest.raises(ValueError, match="no column 'c' among a, n, b"):
        pv.denoise(model, prior_guide, data, {"c": GaussianNoise(0.7)})
    with pytest.raises(ValueError, match=r"noise\['a'\] is 3"):
        pv.denoise(model, prior_guide, data, {"a": 3})
