"""Every density against its law in high precision, at the parameters as rounded, to the ends of the
parameters."""

import copy
import itertools
import math

import continuous_laws
import count_laws
import mpmath as mp
import pytest
import torch
from cases import FEATURES, POSTERIORS, PRIORS
from count_laws import log_negative_binomial, log_poisson, softplus

from ppl_vae import likelihoods, posteriors, priors

DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
STEP = mp.mpf(10) ** -20
# Families with one joint density, or made of others: each has a test of its own.
ELSEWHERE = {"Censored", "Columns", "DirichletMultinomial", "LowRankNormal", "Multinomial"}
# Terms of these laws are exponentials of their parameters.
EXPONENTIAL = {"Poisson", "NegativeBinomial", *count_laws.LAWS}

every_likelihood = pytest.mark.parametrize(
    "name", [name for name in likelihoods.__all__ if name not in ELSEWHERE]
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


# --- the laws, in mpmath --------------------------------------------------------------------------


def log_bernoulli(x, logit):
    return -softplus(logit if x == 0 else -logit)


def log_continuous_bernoulli(x, logit):
    return logit * x - (mp.log(mp.expm1(logit) / logit) if logit else 0)


def log_student_t(x, loc, raw, raw_df):
    scale, df = mp.mpf(1e-30) + softplus(raw), 2 + softplus(raw_df)
    normaliser = (
        mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2 - mp.log(scale)
    )
    return normaliser - (df + 1) / 2 * mp.log1p(((x - loc) / scale) ** 2 / df)


def log_categorical(x, *logits):
    largest = max(logits)
    return logits[int(x)] - largest - mp.log(mp.fsum(mp.exp(logit - largest) for logit in logits))


# --- grids: the value first, then the parameters --------------------------------------------------

SIGNED = [
    sign * size
    for size in (1e-8, 1e-3, 0.1, 1.0, 10.0, 16.0, 17.0, 37.0, 100.0, 1e4, 1e8)
    for sign in (1, -1)
]
COUNTS = [0, 1, 2, 15, 16, 100, 1e3, 1e5, 1e6, 1e7]
ENDS = [-85.0, -20.0, -3.0, -1.0, 0.0, 3.0, 16.0, 40.0, 85.0]
NEARBY = [0.0, 1e-7, 1e-6, 1e-3, -0.1, 0.19, -0.23, 0.4, -0.7, 2.0]  # of log-mean from log x


def log_means(x):
    """Ends, and what is near the count."""
    return ENDS + ([math.log(x) + shift for shift in NEARBY] if x else [])


GRIDS = (
    {
        "Bernoulli": [(x, logit) for x in (0, 1) for logit in [0.0, *SIGNED]],
        "ContinuousBernoulli": [
            (x, logit)
            for x in (0.0, 1e-20, 1e-6, 0.3, 0.7, 1 - 1e-6, 1.0)
            for logit in [0.0, 0.499, 0.501, *SIGNED]
        ],
        "StudentT": list(
            itertools.product(
                (0.0, 1e-3, 1.0, 1e10),
                (0.0, 1.0),
                (-60.0, -7.0, 0.5, 1e6),
                (-20.0, 3.0, 30.0, 1e4, 1e8),
            )
        ),
        "Poisson": [(x, log_mean) for x in COUNTS for log_mean in log_means(x)],
        "NegativeBinomial": [
            (x, log_mean, log_r)
            for x in COUNTS
            for log_mean in log_means(x)[::2]
            for log_r in (-85.0, -5.0, 0.0, 3.0, 11.5, 18.4, 40.0, 85.0)
        ],
        "Categorical": [
            (x, base, base - gap, -base)
            for x in (0, 1, 2)
            for base in (0.0, 1e2, 1e4, -1e4, 1e6)
            for gap in (0.0, 1e-3, 5.0, 20.0, 1e3)
        ],
    }
    | continuous_laws.GRIDS
    | count_laws.GRIDS
)
LAWS = (
    {
        "Bernoulli": log_bernoulli,
        "ContinuousBernoulli": log_continuous_bernoulli,
        "StudentT": log_student_t,
        "Poisson": log_poisson,
        "NegativeBinomial": log_negative_binomial,
        "Categorical": log_categorical,
    }
    | continuous_laws.LAWS
    | count_laws.LAWS
)
MAKERS = (
    {
        "Categorical": lambda n: likelihoods.Categorical(n, num_categories=3),
    }
    | continuous_laws.MAKERS
    | count_laws.MAKERS
)
LEARNED = {
    "StudentT": "raw_df",
    "NegativeBinomial": "log_dispersion",
} | count_laws.LEARNED  # a parameter of the likelihood's own, the last


def evaluated(name, points, dtype):
    """The likelihood of one event whose elements are the points: log-densities, their slopes, the
    points as rounded."""
    x, *parameters = torch.tensor(points, dtype=torch.float64).to(dtype).unbind(-1)
    trials = [parameters.pop()] if name in count_laws.WITH_TRIALS else []
    totals = [each.long().numpy() for each in trials]
    likelihood = MAKERS.get(name, getattr(likelihoods, name))(len(x), *totals).to(dtype)
    if name in LEARNED:
        own = getattr(likelihood, LEARNED[name])
        own.data.copy_(parameters.pop().reshape(own.shape))
    raw = [each.clone().requires_grad_() for each in parameters]
    distribution = likelihood.elementwise(*raw)
    log_prob = distribution.log_prob(x)
    inputs = [*raw, own] if name in LEARNED else raw
    slopes = [each.reshape(len(x)) for each in torch.autograd.grad(log_prob.sum(), inputs)]
    rounded = torch.stack([x, *(each.reshape(len(x)) for each in inputs), *trials], -1)
    return distribution, log_prob.tolist(), torch.stack(slopes, -1).tolist(), rounded.tolist()


def moved(point, i, step):
    """The point with its i-th parameter moved."""
    return [*point[: i + 1], point[i + 1] + step, *point[i + 2 :]]


def slope(law, point, i):
    """Derivative for the i-th parameter."""
    step = STEP * max(1, abs(point[i + 1]))
    return (law(*moved(point, i, step)) - law(*moved(point, i, -step))) / (2 * step)


def sensitivity(function, point):
    """sum |theta d function / d theta|: what rounding of the parameters does."""
    total = mp.mpf(0)
    for i in range(len(point) - 1):
        step = mp.mpf(10) ** -15 * max(1, abs(point[i + 1]))
        total += abs(
            point[i + 1]
            * (function(moved(point, i, step)) - function(moved(point, i, -step)))
            / (2 * step)
        )
    return total


def is_off(found, expected, function, point, dtype):
    """Whether |error| > tol max(1, |expected|) + 8 eps sum |theta d expected / d theta|."""
    if not math.isfinite(found):
        return True
    error, slack = abs(mp.mpf(found) - expected), TOLERANCE[dtype] * max(1, abs(expected))
    return error > slack and error > slack + 8 * torch.finfo(dtype).eps * sensitivity(
        function, point
    )


def test_the_tables_hold_every_likelihood():
    assert set(LAWS) == set(GRIDS) == set(DRAWN) == set(likelihoods.__all__) - ELSEWHERE


@every_dtype
@every_likelihood
def test_density_and_gradient_are_those_of_the_law(name, dtype):
    law, off = LAWS[name], []
    _, log_probs, slopes, points = evaluated(name, GRIDS[name], dtype)
    for log_prob, gradient, given in zip(log_probs, slopes, points, strict=True):
        largest = (
            min(max(abs(value) for value in given[1:]), 100.0) if name in EXPONENTIAL else 20.0
        )
        with mp.workdps(90 + int(0.87 * largest)):  # of which cancellation takes its share
            point = [mp.mpf(value) for value in given]
            expected = law(*point)
            if abs(expected) > torch.finfo(dtype).max:
                continue
            if is_off(log_prob, expected, lambda p: law(*p), point, dtype):
                off.append((given, log_prob, float(expected)))
            for i, found in enumerate(gradient):
                exact = slope(law, point, i)
                if abs(exact) < torch.finfo(dtype).max and is_off(
                    found, exact, lambda p, i=i: slope(law, p, i), point, dtype
                ):
                    off.append((given, f"slope {i}", found, float(exact)))
    assert off == []


@every_dtype
@pytest.mark.parametrize("logit", [math.inf, -math.inf])
def test_a_certain_bit_has_probability_one_and_no_slope(logit, dtype):
    logits = torch.full((2,), logit, dtype=dtype, requires_grad=True)
    bits = torch.tensor([0.0, 1.0], dtype=dtype)
    log_prob = likelihoods.Bernoulli(2).elementwise(logits).log_prob(bits)
    sure = int(logit > 0)
    log_prob[sure].backward()
    assert log_prob.tolist() == ([-math.inf, 0.0] if sure else [0.0, -math.inf])
    assert logits.grad.tolist() == [0.0, 0.0]


# --- draws, means and quantiles -------------------------------------------------------------------

DRAWN = (
    {
        "Bernoulli": [(0, logit) for logit in (-5.0, 0.3, 4.0)],
        "ContinuousBernoulli": [
            (0, logit) for logit in (-1e4, -100.0, -17.0, -1.0, 0.0, 0.05, 3.0, 16.5, 40.0, 1e3)
        ],
        "StudentT": [
            (0, loc, raw, raw_df)
            for loc in (0.0, 10.0)
            for raw in (-5.0, 30.0)
            for raw_df in (3.0, 1e6)
        ],
        "Poisson": [(0, log_mean) for log_mean in (-2.0, 1.0, 5.0, 13.8, 16.1)],
        "NegativeBinomial": [
            (0, log_mean, log_r)
            for log_mean in (-1.0, 4.0, 9.0)
            for log_r in (-1.0, 3.0, 11.5, 18.4)
        ],
        "Categorical": [
            (0, base, base - gap, base) for base in (0.0, 1e4) for gap in (0.0, 1.0, 3.0)
        ],
    }
    | continuous_laws.DRAWN
    | count_laws.DRAWN
)


@every_dtype
@every_likelihood
def test_draws_have_the_mean_and_the_density_stated(name, dtype):
    """E x is the mean, and E d log p / d theta = 0 where x is drawn from the density, within 5
    standard errors."""
    points = [point for point in DRAWN[name] for _ in range(4000)]
    distribution = evaluated(name, points, dtype)[0]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        x = distribution.sample().double()
    drawn = [(value, *point[1:]) for value, point in zip(x.tolist(), points, strict=True)]
    scores = torch.tensor(evaluated(name, drawn, dtype)[2], dtype=torch.float64)
    centred = (
        [x - distribution.mean.detach().double()] if distribution.mean.isfinite().all() else []
    )
    for values in [*centred, *scores.T]:
        by_point = values.reshape(len(DRAWN[name]), -1)
        rounding = 1e3 * torch.finfo(dtype).eps * by_point.abs().amax(1).clamp(min=1)
        assert (by_point.mean(1).abs() < 5 * by_point.std(1) / 4000**0.5 + rounding).all()


@every_dtype
def test_continuous_bernoulli_moments_and_quantiles_are_those_of_its_density(dtype):
    logits = torch.tensor([0.0, 1e-6, 0.499, 0.501, *SIGNED], dtype=torch.float64).to(dtype)
    distribution = likelihoods.ContinuousBernoulli(len(logits)).elementwise(logits)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    with mp.workdps(60):
        for i, logit in enumerate(map(mp.mpf, logits.tolist())):
            mean = mp.mpf(1) / 2 if logit == 0 else mp.expm1(-logit) ** -1 * -1 - 1 / logit
            variance = (
                mp.mpf(1) / 12 if logit == 0 else 1 / logit**2 - 1 / (2 * mp.sinh(logit / 2)) ** 2
            )
            assert distribution.mean[i].item() == pytest.approx(float(mean), rel=tolerance)
            assert distribution.variance[i].item() == pytest.approx(float(variance), rel=tolerance)
            assert distribution.entropy()[i].item() == pytest.approx(
                -float(log_continuous_bernoulli(mean, logit)), rel=tolerance, abs=tolerance
            )
    levels = torch.linspace(0.01, 0.99, 23, dtype=dtype)[:, None]
    quantiles = distribution.icdf(levels)
    wide = logits.abs() < 1e3  # beyond, quantiles next to 1 are closer than floats
    torch.testing.assert_close(
        distribution.cdf(quantiles)[:, wide], levels.expand(-1, int(wide.sum())), atol=2e-4, rtol=0
    )
    assert ((quantiles >= 0) & (quantiles <= 1)).all()


def test_large_counts_are_scored_as_scipy_scores_them():
    for mean, expected in ((1e6, -7.827), (1e7, -8.978)):
        raw = torch.tensor([mean]).log()
        found = likelihoods.Poisson(1).elementwise(raw).log_prob(torch.tensor([mean]))
        assert found.item() == pytest.approx(expected, abs=5e-4)


@every_dtype
def test_a_negative_binomial_tends_to_the_poisson(dtype):
    """At r = 10^k, |difference| is about (x - mu)^2 / (2 r), which the law bounds; torch's grows
    with r in float32."""
    x = torch.tensor([900.0, 1000.0, 1100.0], dtype=dtype)
    log_mean = torch.full((3,), math.log(1000.0), dtype=dtype)
    poisson = likelihoods.Poisson(3).elementwise(log_mean).log_prob(x)
    for power in (7, 8, 12, 20):
        likelihood = likelihoods.NegativeBinomial(3).to(dtype)
        likelihood.log_dispersion.data.fill_(power * math.log(10))
        difference = (likelihood.elementwise(log_mean).log_prob(x) - poisson).abs()
        assert (difference < 1e4 / 10**power + TOLERANCE[dtype] * 10).all()


# --- priors and posteriors ------------------------------------------------------------------------


def stretched(module, factor):
    """The same module, its parameters that many times as large: scales go towards their ends."""
    for parameter in module.parameters():
        parameter.data.mul_(factor)
    return module


def sensitivity_of(log_prob, leaves):
    """sum |theta d log p / d theta| over the leaves, one number per row."""
    rows = []
    for each in log_prob:
        slopes = torch.autograd.grad(each, leaves, retain_graph=True, allow_unused=True)
        rows.append(
            sum(
                (leaf * g).abs().sum()
                for leaf, g in zip(leaves, slopes, strict=True)
                if g is not None
            )
        )
    return torch.stack(rows)


def agree(single, double, z, features=None):
    """Whether float32 gives what float64 does at the same parameters; where float64 has a gradient,
    so has float32."""
    given = () if features is None else (features.float(),)
    exact_features = () if features is None else (features.float().double().requires_grad_(),)
    found = single(*given).log_prob(z.float())
    value = z.float().double().requires_grad_()
    expected = double(*exact_features).log_prob(value)
    leaves = [*double.parameters(), value, *exact_features]
    slack = 1e-4 * expected.abs().clamp(min=1) + 8 * torch.finfo(
        torch.float32
    ).eps * sensitivity_of(expected, leaves)
    assert ((found.double() - expected).abs() <= slack).all()
    found.sum().backward() if found.requires_grad else None
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in single.parameters())


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("name", [p for p in priors.__all__ if p != "UniformSphere"])
def test_a_prior_in_float32_is_that_in_float64(name, factor):
    single = stretched(PRIORS[name](2), factor)
    double = copy.deepcopy(single).double()
    agree(single, double, double().sample((20,)))


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("name", [q for q in posteriors.__all__ if q != "PowerSpherical"])
def test_a_posterior_in_float32_is_that_in_float64(name, factor):
    single = POSTERIORS[name](2)
    single.build((FEATURES,))
    single = stretched(single, factor)
    double = copy.deepcopy(single).double()
    features = torch.randn(20, FEATURES, dtype=torch.float64)
    agree(single, double, double(features).sample().detach(), features)


def log_normal(x, mean, covariance):
    """log N(x; mean, covariance) in mpmath, whatever the condition number."""
    residual = mp.matrix([a - b for a, b in zip(x, mean, strict=True)])
    squares = (residual.T * mp.lu_solve(covariance, residual))[0]
    return -(squares + mp.log(mp.det(covariance)) + len(x) * mp.log(2 * mp.pi)) / 2


@pytest.mark.parametrize("scale", [1.0, 0.03, 1e-3])
def test_a_full_rank_normal_keeps_the_density_of_its_draws_in_float32(scale):
    """Ten dimensions with entries below the diagonal of order one: with entries that are not
    relative to the diagonal, log q is off by 1e16 nats at sd 0.03, and DReG's weights are NaN."""
    family = posteriors.FullRankNormal(10)
    below = torch.randn(50, 45)
    raw = torch.cat([torch.ones(50, 10), torch.full((50, 10), scale).expm1().log(), below], dim=-1)
    raw.requires_grad_()
    q = family.distribution(raw)
    z = q.rsample()
    double = posteriors.FullRankNormal(10).double().distribution(raw.detach().double())
    residual = torch.linalg.solve_triangular(
        family.distribution(raw.detach().double()).scale_tril,
        (z.detach().double() - 1).unsqueeze(-1),
        upper=False,
    )
    assert (q.log_prob(z.detach()) - double.log_prob(z.detach().double())).abs().max() < 5e-3
    assert residual.abs().max() < 6
    found = family.raw_of(q.loc, q.scale_tril)
    torch.testing.assert_close(found, raw, rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(q.log_prob(z).sum(), raw)
    assert gradient.abs().max() < 1e3 / scale


@every_dtype
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("raw_scale", [-40.0, -7.0, 0.0, 20.0])
def test_a_low_rank_normal_keeps_its_digits_where_its_diagonal_is_small(raw_scale, rank, dtype):
    """Woodbury's formula is off by up to 4 nats in float32 at a diagonal of 1e-6."""
    posterior = posteriors.LowRankNormal(4, rank=rank).to(dtype)
    raw = torch.randn(4 * (rank + 2), dtype=torch.float64).to(dtype)
    raw[4:8] = raw_scale
    distribution = posterior.distribution(raw)
    covariance_factor, diagonal = (
        distribution._unbroadcasted_cov_factor,
        distribution._unbroadcasted_cov_diag,
    )
    with mp.workdps(50):
        factor = mp.matrix(covariance_factor.tolist())
        covariance = factor * factor.T + mp.diag(diagonal.tolist())
        for z in distribution.sample((10,)).tolist():
            expected = float(
                log_normal([mp.mpf(v) for v in z], distribution.loc.tolist(), covariance)
            )
            found = distribution.log_prob(torch.tensor(z, dtype=dtype)).item()
            rounding = (
                8 * torch.finfo(dtype).eps * sum(map(abs, z)) / diagonal.min().item() ** 0.5 * 4
            )
            assert abs(found - expected) < TOLERANCE[dtype] * max(1, abs(expected)) + rounding


@pytest.mark.parametrize("log_scale", [-85.0, -45.0, 45.0, 85.0])
def test_a_learned_prior_has_a_gradient_to_the_ends_of_its_scale(log_scale):
    prior = priors.LearnedNormal(2)
    prior.log_scale.data.fill_(log_scale)
    z = torch.full((2,), math.exp(log_scale))
    log_prob = prior().log_prob(z)
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-1 - 2 * log_scale - math.log(2 * math.pi), rel=1e-5)
    torch.testing.assert_close(prior.log_scale.grad, torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(prior.loc.grad, 1 / z, rtol=1e-4, atol=0)
