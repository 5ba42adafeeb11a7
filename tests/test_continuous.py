"""Continuous likelihoods against SciPy: distribution functions, moments, starting values; values
recorded coarsely; correlated noise."""

import dataclasses
import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats
from test_densities import DTYPES, is_off, slope

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.diagnostics.models.comparable import refuse_unlike
from ppl_vae.diagnostics.predictive.cdf import below_and_at
from ppl_vae.evidence import Evidence
from ppl_vae.families import densities
from ppl_vae.families.missing import observed_part

# Locations and scales of elements, and the same distributions in SciPy.
LOC = torch.linspace(-2, 2, 9, dtype=torch.float64)
SCALE = torch.tensor([0.05, 0.4, 1.5, 3.0], dtype=torch.float64)[:, None]
SAME = {
    "Gaussian": lambda m, s: stats.norm(m, s),
    "Laplace": lambda m, s: stats.laplace(m, s),
    "LogNormal": lambda m, s: stats.lognorm(s, scale=np.exp(m)),
    "Gamma": lambda m, s: stats.gamma(s**-2, scale=np.exp(m) * s**2),
    "Beta": lambda m, s: stats.beta(s**-2 / (1 + np.exp(-m)), s**-2 / (1 + np.exp(m))),
    "VonMises": lambda m, s: stats.vonmises(s**-2, m),
}


def element(name, loc=LOC, scale=SCALE, **limits):
    """A distribution with these locations and scales, as the likelihood makes it."""
    loc, scale = torch.broadcast_tensors(loc, scale)
    likelihood = getattr(likelihoods, name)(loc.shape, scale="decoder", floor=1e-30).double()
    raw = [loc, scale + (-torch.expm1(-scale)).log()]
    if name == "VonMises":  # a direction is that of two numbers
        raw = [loc.cos() - 1, loc.sin(), raw[1]]
    return (likelihoods.Censored(likelihood, **limits) if limits else likelihood).elementwise(*raw)


@pytest.mark.parametrize("name", SAME)
def test_distributions_are_scipys(name):
    """Density, distribution function, mean and variance; SciPy's own von Mises is good to 10^-6."""
    found, same = element(name), SAME[name](LOC.numpy(), SCALE.numpy())
    if name == "VonMises":
        angles = np.linspace(-np.pi, np.pi, 4001)[:-1]
        length = (np.cos(angles) * stats.vonmises.pdf(angles, SCALE.numpy() ** -2)).mean(1)
        expected = 1 - 2 * np.pi * torch.tensor(length)[:, None]
        torch.testing.assert_close(found.mean, LOC.expand(4, 9))
        torch.testing.assert_close(found.variance, expected.expand(4, 9))
    else:
        torch.testing.assert_close(found.mean, torch.tensor(same.mean()).expand(4, 9))
        torch.testing.assert_close(found.variance, torch.tensor(same.var()).expand(4, 9))
    for level in (1e-3, 0.2, 0.5, 0.9, 0.999):
        x = found.mean * 0 + torch.tensor(same.ppf(level))
        if name == "VonMises":
            x = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
        x = x.clamp(1e-300, 1 - 1e-15) if name == "Beta" else x
        expected = torch.tensor(same.logpdf(x.numpy()))
        torch.testing.assert_close(found.log_prob(x), expected, atol=1e-9, rtol=1e-9)
        below = torch.tensor(same.cdf(x.numpy()))
        if name == "VonMises":
            below = below - torch.tensor(same.cdf(-np.pi))
        torch.testing.assert_close(found.cdf(x), below, atol=1e-9, rtol=1e-9)


STARTS = {
    "Laplace": lambda x: stats.laplace.fit(x),
    "LogNormal": lambda x: (np.log(x).mean(), np.log(x).std()),
    "Gamma": lambda x: (np.log(x.mean()), stats.gamma.fit(x, floc=0)[0] ** -0.5),
    "VonMises": lambda x: (stats.circmean(x, np.pi, -np.pi), stats.vonmises.fit(x)[0] ** -0.5),
}


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", STARTS)
def test_starts_are_those_of_maximum_likelihood(name, unit):
    """Within 5 % of the scale, where the start is by an approximation (von Mises)."""
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=(201, 3)) * [0.01, 0.5, 1.0])
    x = np.arctan(x) if name == "VonMises" else x * unit
    likelihood = getattr(likelihoods, name)(3).double()
    likelihood.build((1,))
    likelihood.start_at(torch.tensor(x))
    for i in range(3):
        location, scale = STARTS[name](x[:, i])
        assert likelihood.units.centre[i].item() == pytest.approx(location, abs=1e-6 * scale)
        assert likelihood.units.unit[i].item() == pytest.approx(scale, rel=0.05)


# --- values recorded coarsely ---------------------------------------------------------------------

TAILS = {  # P(T > t) of the standard distribution, which is symmetric
    "StandardisedNormal": lambda t: mp.erfc(t / mp.sqrt(2)) / 2,
    "StandardisedLaplace": lambda t: mp.exp(-t) / 2 if t > 0 else 1 - mp.exp(t) / 2,
    "Logistic": lambda t: 1 / (1 + mp.exp(t)),
    "StandardisedLogNormal": lambda t: mp.erfc(t / mp.sqrt(2)) / 2,
}
ENDS = {"lower": -1, "upper": 1}


def log_between(name, low, high, loc, scale):
    """log P(low < X < high) by the smaller tail."""
    if name == "StandardisedLogNormal":
        low, high = (mp.log(end) if end > 0 else -mp.inf for end in (low, high))
    low, high = ((end - loc) / scale for end in (low, high))
    if low + high < 0:
        low, high = -high, -low
    return mp.log(TAILS[name](low) - TAILS[name](high))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", TAILS)
def test_intervals_and_tails_and_their_slopes_are_those_in_high_precision(name, dtype):
    values = (0.3, 1.0, 8.0, 300.0) if "Log" in name else (0.0, 0.3, 1.0, -2.0, 8.0, -30.0, 300.0)
    halves = (1e-8, 1e-3, 0.1, 0.29, 0.5, 0.6, 1.0, 5.0, 100.0)
    scales = (1e-2, 1.25, 1e3)
    points = torch.tensor(list(itertools.product(values, halves, [0.25], scales)))
    v, half, loc, scale = points.double().to(dtype).unbind(-1)
    loc.requires_grad_()
    scale.requires_grad_()
    p = getattr(densities, name)(loc, scale)
    for log_p, ends in (
        (p.log_around(v, half), lambda v, half: (v - half, v + half)),
        (p.log_cdf(v), lambda v, half: (-mp.inf, v)),
        (p.log_survival(v), lambda v, half: (v, mp.inf)),
    ):
        slopes = torch.stack(torch.autograd.grad(log_p.sum(), [loc, scale]), -1).tolist()
        given = torch.stack([v, half, loc, scale], -1).tolist()
        for found, gradient, (x, h, *point) in zip(log_p.tolist(), slopes, given, strict=True):
            with mp.workdps(60):
                between = ends(mp.mpf(x), mp.mpf(h))

                def law(_, *parameters, between=between):
                    return log_between(name, *between, *parameters)

                point = [mp.mpf(value) for value in (x, *point)]
                expected = law(*point)
                if abs(expected) > torch.finfo(dtype).max:
                    continue
                assert not is_off(found, expected, lambda q: law(*q), point, dtype), (x, h, point)
                for i in (0, 1):
                    exact = slope(law, point, i)
                    if abs(exact) < torch.finfo(dtype).max:
                        assert not is_off(
                            gradient[i], exact, lambda q, i=i: slope(law, q, i), point, dtype
                        ), (x, h, point)


LIMITS = {
    "lower": {"lower": 0.5},
    "both, by feature": {
        "lower": [0.5, -np.inf, 0.1, 0.5, 0.5],
        "upper": [2.0, 2.0, np.inf, 2.0, 2.0],
    },
    "rounded": {"width": 0.25},
    "rounded, with limits": {"lower": 0.5, "upper": 2.0, "width": 0.25},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("name", ["Gaussian", "Laplace", "LogNormal"])
def test_censored_values_are_scored_as_by_hand(name, limits):
    """Tobit and interval-censored log-likelihoods by SciPy, their sums, and shares of draws."""
    loc = torch.linspace(-0.5, 1.0, 5, dtype=torch.float64)
    scale = torch.tensor(0.6, dtype=torch.float64)
    p, same = element(name, loc, scale, **limits), SAME[name](loc.numpy(), 0.6)
    lower, upper = (np.asarray(limits.get(end, sign * np.inf)) for end, sign in ENDS.items())
    half = limits.get("width", 0.0) / 2
    x = np.arange(0.25, 3.0, 0.25)[:, None] + np.zeros(5)
    with np.errstate(divide="ignore"):
        inside = np.log(same.cdf(x + half) - same.cdf(x - half)) if half else same.logpdf(x)
        expected = np.where(x <= lower, same.logcdf(lower + half), inside)
        expected = np.where(x >= upper, same.logsf(upper - half), expected)
    assert np.allclose(p.log_prob(torch.tensor(x)), expected, rtol=1e-9)
    with pv.seeded(0):
        drawn = p.sample((20_000,))
    row = torch.tensor(x[1:2])
    below, at = below_and_at(p.expand([1, 5]).to_event(1), row)
    for probability, found in ((below, drawn < row), (at, drawn == row)):
        error = np.sqrt(probability * (1 - probability) / 20_000) + 1e-4
        assert (np.abs(found.double().mean(0).numpy() - probability) < 5 * error).all()
    if half:
        grid = torch.arange(0 if name == "LogNormal" else -80, 800)[:, None] * 0.25
        inside = (grid >= torch.tensor(lower)) & (grid <= torch.tensor(upper))
        total = (p.log_prob(grid.expand(-1, 5).double()).exp() * inside).sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    "limits", [{"lower": 0.3}, {"upper": 0.3}, {"lower": -0.7, "upper": 1.3}, {}]
)
def test_recorded_values_have_probabilities_that_sum_to_one(limits, width):
    """The grid is that of the limits, also where these are no multiples of the width."""
    likelihood = likelihoods.Censored(likelihoods.Gaussian(1), width=width, **limits)
    likelihood.build((1,))
    likelihood = likelihood.double()
    with torch.no_grad(), pv.seeded(0):
        p = likelihood(torch.zeros(1, 1).double())
        drawn = p.sample((40_000,)).flatten()
        values, counts = drawn.unique(return_counts=True)
        probability = p.log_prob(values.reshape(-1, 1, 1)).exp().flatten()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-3)
    likelihood.check(values[:, None])
    share = counts / len(drawn)
    error = (probability * (1 - probability) / len(drawn)).sqrt() + 1e-4
    assert ((share - probability).abs() < 5 * error).all()


def test_intervals_that_overlap_are_refused():
    gaussian = likelihoods.Gaussian(1)
    with pytest.raises(ValueError, match="no whole number of widths of 0.5"):
        likelihoods.Censored(gaussian, lower=0.0, upper=1.3, width=0.5)
    for name, limit in (("lower", 0.3), ("upper", 0.7)):
        likelihood = likelihoods.Censored(gaussian, width=0.5, **{name: limit})
        with pytest.raises(ValueError, match=f"x is 0.5 at row 1, .* from {name} {limit}"):
            likelihood.check(torch.tensor([[limit], [0.5]]))


def test_a_tobit_fit_is_scipys():
    """Both ends censored: the maximum-likelihood location and scale, 60 steps of LBFGS."""
    x = np.random.default_rng(0).normal(1.0, 2.0, 300).clip(0.0, 2.5)
    data = stats.CensoredData(x[(x > 0) & (x < 2.5)], left=x[x <= 0], right=x[x >= 2.5])
    likelihood = likelihoods.Censored(likelihoods.Gaussian(1), lower=0.0, upper=2.5)
    likelihood.build((1,))
    likelihood = likelihood.double()
    rows = torch.tensor(x)[:, None]
    likelihood.start_at(rows)
    optimiser = torch.optim.LBFGS(
        likelihood.parameters(), max_iter=60, line_search_fn="strong_wolfe"
    )

    def loss():
        optimiser.zero_grad()
        value = -likelihood(torch.zeros(1, 1).double()).log_prob(rows).mean()
        value.backward()
        return value

    optimiser.step(loss)
    base = likelihood(torch.zeros(1, 1).double()).base_dist.base
    assert [base.loc.item(), base.scale.item()] == pytest.approx(stats.norm.fit(data), rel=1e-4)


def test_only_equal_limits_are_compared():
    def evidence(**limits):
        measure = likelihoods.Censored(likelihoods.Gaussian(3), **limits).measure
        found = Evidence.exact([-1.0, -2.0], [[0.0], [1.0]], measure="lebesgue")
        return dataclasses.replace(found, measure=measure)

    one, same = evidence(lower=0.5), evidence(lower=[0.5, 0.5, 0.5])
    refuse_unlike({"one": one, "same": same})
    for other in ({"lower": 0.25}, {"upper": 0.5}, {"lower": [0.5, 0.5, 0.25]}, {"width": 0.5}):
        with pytest.raises(
            ValueError, match=r"cannot be compared: .* a density of x and P\(x <= 0.5"
        ):
            refuse_unlike({"one": one, "other": evidence(**other)})
    many = [
        likelihoods.Censored(likelihoods.Gaussian(9), lower=np.arange(9) + i) for i in (0, 0, 1)
    ]
    assert many[0].measure == many[1].measure != many[2].measure


def test_what_cannot_be_censored_is_told():
    gaussian, positive = likelihoods.Gaussian(2), likelihoods.LogNormal(2)
    for make, message in (
        (lambda: likelihoods.Censored(gaussian), "needs lower=, upper= or width="),
        (lambda: likelihoods.Censored(gaussian, 1.0, 1.0), "lower 1.0 must lie below upper 1.0"),
        (lambda: likelihoods.Censored(gaussian, width=0), "width is 0; it must be finite, above 0"),
        (lambda: likelihoods.Censored(gaussian, np.nan), "lower is NaN"),
        (lambda: likelihoods.Censored(gaussian, [1, 2, 3]), r"lower has shape \(3,\); .* \(2,\)"),
        (lambda: likelihoods.Censored("Gaussian", 1.0), "must be a Likelihood"),
        (
            lambda: likelihoods.Censored(likelihoods.Gamma(2), 1.0),
            r"Censored\(Gamma\(...\)\): .* use Gaussian or Laplace .*, LogNormal",
        ),
        (
            lambda: likelihoods.Censored(positive, upper=9.0).check(torch.zeros(1, 2)),
            "x is 0 at row 0, feature 0; values must be above 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    likelihoods.Censored(positive, lower=0.1).check(torch.zeros(1, 2))
    likelihoods.Censored(positive, width=1.0).check(torch.zeros(1, 2))
    assert "lower=0.1\n  (base): LogNormal(" in repr(likelihoods.Censored(positive, lower=0.1))


def test_zeros_below_a_limit_of_detection_train():
    """LogNormal values below 0.5 recorded as 0: the marginals come out where they were."""
    with pv.seeded(0):
        full = (0.8 * torch.randn(400, 3) + 0.3).exp()
        x = torch.where(full < 0.5, 0.0, full)
        likelihood = likelihoods.Censored(likelihoods.LogNormal(3), lower=0.5)
        model = pv.Model(priors.StandardNormal(1), likelihood, torch.nn.Linear(1, 4), start=x)
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, torch.nn.Linear(3, 4))
    training = pv.Training(num_epochs=40, batch_size=100, learning_rate=2e-2, progress=False)
    pv.fit(model, guide, x, training=training)
    with torch.no_grad(), pv.seeded(1):
        drawn = model.sample(20_000)
    assert torch.equal(drawn.amin(0), torch.full((3,), 0.5))
    share = (x == 0).float().mean(0)
    torch.testing.assert_close((drawn == 0.5).float().mean(0), share, atol=0.05, rtol=0)


def test_a_column_of_a_table_is_censored():
    columns = {
        "lead": likelihoods.Censored(likelihoods.LogNormal(1), lower=0.5),
        "wind": likelihoods.VonMises,
    }
    likelihood = likelihoods.Columns(columns)
    likelihood.build((2,))
    x = torch.tensor([[0.0, 1.0], [2.0, torch.nan], [torch.nan, -3.0]])
    likelihood.check(x)
    likelihood.start_at(x)
    with torch.no_grad():
        p = likelihood(torch.zeros(3, 2))
    part, values = observed_part(p, x)
    lead, wind = p.base_dist.parts
    known = x.nan_to_num(1.0)
    terms = torch.cat([lead.log_prob(known[:, :1]), wind.log_prob(known[:, 1:])], 1)
    torch.testing.assert_close(part.log_prob(values), terms.masked_fill(x.isnan(), 0.0).sum(1))
    at = below_and_at(p, known)[1]
    assert at[0].tolist() == [terms[0, 0].exp().item(), 0.0]
    assert at[1].tolist() == [0.0, 0.0]
    assert likelihood.measure == "lead: a density of x and P(x <= 0.5), wind: lebesgue"


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 3, 256])
def test_levels_sum_to_one_and_have_their_own_moments(num_levels):
    for scale in (1e-9, 1e-3, 0.1, 30.0):
        logistic = densities.Logistic(LOC, torch.full_like(LOC, scale))
        p = densities.Levels(logistic, num_levels)
        levels = p.enumerate_support()
        probability = p.log_prob(levels).exp()
        mean = (probability * levels).sum(0)
        torch.testing.assert_close(probability.sum(0), torch.ones_like(LOC))
        torch.testing.assert_close(p.mean, mean)
        torch.testing.assert_close(p.variance, (probability * (levels - mean) ** 2).sum(0))
        torch.testing.assert_close(p.cdf(levels), probability.cumsum(0), atol=1e-8, rtol=0)


def test_pixels_of_eight_bits_are_levels_and_others_are_not():
    likelihood = likelihoods.DiscretizedLogistic(2)
    for dtype in (torch.float32, torch.float64):
        grey = torch.arange(256, dtype=torch.uint8).to(dtype).div(255)
        likelihood.check(grey.reshape(128, 2))
        likelihood.check(grey.reshape(128, 2).float().double())
        with pytest.raises(ValueError, match="the 256 levels are k / 255"):
            likelihood.check(torch.full((1, 2), 0.5, dtype=dtype))


# --- correlated noise -----------------------------------------------------------------------------


def low_rank(rank=2, dtype=torch.float64):
    """Six entries in two rows of three, for five rows."""
    torch.manual_seed(0)
    likelihood = likelihoods.LowRankNormal((2, 3), rank=rank)
    likelihood.build((4,))
    likelihood = likelihood.to(dtype)
    likelihood.start_at(10 + 5 * torch.randn(50, 2, 3, dtype=dtype))
    likelihood.factor.data.normal_()
    return likelihood, likelihood(torch.randn(5, 4, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_observed_entries_have_the_density_of_their_own_block(dtype):
    """And its gradient; a row without entries has none, and adds nothing."""
    likelihood, p = low_rank(dtype=dtype)
    x = p.sample()
    observed = torch.rand(5, 2, 3) > torch.tensor([0.0, 0.3, 0.6, 0.8, 1.0])[:, None, None]
    part, values = observed_part(p, torch.where(observed, x, torch.nan))
    found = part.log_prob(values)
    expected = torch.zeros(5, dtype=dtype)
    for i, inside in enumerate(observed.flatten(1)):
        if inside.any():
            block = p.covariance_matrix[inside][:, inside]
            normal = torch.distributions.MultivariateNormal(p.loc[i].flatten()[inside], block)
            expected[i] = normal.log_prob(x[i].flatten()[inside])
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    parameters = list(likelihood.parameters())
    for one, other in zip(
        torch.autograd.grad(found.sum(), parameters, retain_graph=True),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=10 * tolerance, rtol=10 * tolerance)
    assert (found[~observed.flatten(1).any(1)] == 0).all()
    assert not observed[4].any()


def test_hidden_entries_are_predicted_given_the_observed_ones():
    _, p = low_rank()
    x = p.sample()
    hidden = torch.tensor([True, False, False, True, False, True]).reshape(2, 3)
    given = observed_part(p, torch.where(hidden, torch.nan, x))[0].marginals
    covariance, outside = p.covariance_matrix, ~hidden.flatten()
    residual = (x - p.loc).flatten(1)
    for j in hidden.flatten().nonzero()[:, 0]:
        weights = torch.linalg.solve(covariance[outside][:, outside], covariance[outside, j])
        mean = p.loc.flatten(1)[:, j] + residual[:, outside] @ weights
        variance = covariance[j, j] - covariance[outside, j] @ weights
        torch.testing.assert_close(given.loc.flatten(1)[:, j], mean)
        torch.testing.assert_close(given.variance.flatten(1)[:, j], variance.expand(5))
    torch.testing.assert_close(p.marginals.variance, p.variance)
    torch.testing.assert_close(p.marginals.mean, p.mean)


def test_draws_have_the_covariance_stated():
    """Of 20,000 draws; the error of an element is at most 5 sqrt(2 / 20,000) of the variances."""
    _, p = low_rank()
    with torch.no_grad():
        x = p.sample((20_000,))[:, 0].flatten(1)
        size = p.variance[0].flatten().sqrt()
        error = (torch.cov(x.T) - p.covariance_matrix) / size / size[:, None]
        assert error.abs().max() < 5 * (2 / 20_000) ** 0.5
        assert ((x.mean(0) - p.mean[0].flatten()) / size).abs().max() < 5 / 20_000**0.5


def test_noise_in_small_units_keeps_its_digits():
    """Squares of scales of 10^-25 are below the least float32."""
    one = torch.ones(3, 1)
    p = densities.FactorNormal(torch.zeros(3), 1e-25 * one, 1e-25 * one[:, 0])
    same = densities.FactorNormal(torch.zeros(3), one, one[:, 0])
    x = torch.tensor([1.0, -2.0, 0.5])
    expected = same.log_prob(x) - 3 * math.log(1e-25)
    torch.testing.assert_close(p.log_prob(1e-25 * x), expected)
