"""Laws of counts and of ordered categories in mpmath, and where they are compared: rows of the
tables in test_densities.py. A point is the value, the parameters from z, those of the likelihood's
own, and the number of trials."""

import itertools

import mpmath as mp

from ppl_vae import likelihoods


def softplus(raw):
    return mp.log1p(mp.exp(raw))


def log_poisson(x, log_rate):
    return x * log_rate - mp.exp(log_rate) - mp.loggamma(x + 1)


def log_negative_binomial(x, log_mean, log_dispersion):
    r, mean = mp.exp(log_dispersion), mp.exp(log_mean)
    log_total = mp.log(r + mean)
    coefficient = mp.loggamma(x + r) - mp.loggamma(r) - mp.loggamma(x + 1)
    return coefficient + r * (log_dispersion - log_total) + x * (log_mean - log_total)


def inflated(law):
    """pi + (1 - pi) f(0), or (1 - pi) f(x)."""

    def log_prob(x, log_mean, gate, *own):
        counted = law(x, log_mean, *own) - softplus(gate)
        return mp.log(mp.exp(-softplus(-gate)) + mp.exp(counted)) if x == 0 else counted

    return log_prob


def hurdle(law):
    """pi, or (1 - pi) f(x) / (1 - f(0))."""

    def log_prob(x, log_mean, gate, *own):
        if x == 0:
            return -softplus(-gate)
        above = mp.log(-mp.expm1(law(mp.mpf(0), log_mean, *own)))
        return law(x, log_mean, *own) - softplus(gate) - above

    return log_prob


def log_choose(n, x):
    return mp.loggamma(n + 1) - mp.loggamma(x + 1) - mp.loggamma(n - x + 1)


def log_binomial(x, logit, n):
    return log_choose(n, x) - x * softplus(-logit) - (n - x) * softplus(logit)


def log_beta(a, b):
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def log_beta_binomial(x, logit, log_concentration, n):
    a, b = (mp.exp(log_concentration - softplus(sign * logit)) for sign in (-1, 1))
    return log_choose(n, x) + log_beta(x + a, n - x + b) - log_beta(a, b)


def log_ordinal(x, location, log_gap):
    """Three categories, with the cutpoints 0 and exp(log_gap)."""
    upto = [1 / (1 + mp.exp(location - cut)) for cut in (0, mp.exp(log_gap))]
    return mp.log([upto[0], upto[1] - upto[0], 1 - upto[1]][int(x)])


LAWS = {
    "ZeroInflatedPoisson": inflated(log_poisson),
    "ZeroInflatedNegativeBinomial": inflated(log_negative_binomial),
    "HurdlePoisson": hurdle(log_poisson),
    "HurdleNegativeBinomial": hurdle(log_negative_binomial),
    "Binomial": log_binomial,
    "BetaBinomial": log_beta_binomial,
    "Ordinal": log_ordinal,
}

GATES = (-1e3, -20.0, -1.0, 3.0, 40.0)
DISPERSIONS = (-6.9, 1.0, 18.4, 40.0)  # of which 1e-3 and 1e8 are the ends
TRIALS = ((0, 1), (1, 1), (3, 7), (0, 1e3), (500, 1e3), (999, 1e3), (2e4, 1e5), (1e7, 1e7))
LOGITS = (-1e4, -37.0, -16.0, -1.386294, -1e-3, 0.0, 0.7, 17.0, 85.0)


def counted(log_means=(-85.0, -18.4, -1.0, 0.5, 3.0, 18.4)):
    """Counts, some near their mean, with log-means from 1e-37 to 1e8 and gates."""
    pairs = [*itertools.product((0.0, 1.0, 2.0, 17.0, 1e7), log_means), (1e7, 16.118)]
    return [(x, log_mean, gate) for x, log_mean in pairs for gate in GATES]


DISPERSED = [(*point, log_r) for point, log_r in zip(counted(), itertools.cycle(DISPERSIONS))]
GRIDS = {
    "ZeroInflatedPoisson": counted(),
    "ZeroInflatedNegativeBinomial": DISPERSED,
    "HurdlePoisson": counted(),
    "HurdleNegativeBinomial": DISPERSED,
    "Binomial": [(x, logit, n) for x, n in TRIALS for logit in LOGITS],
    "BetaBinomial": [
        (x, logit, log_c, n)
        for (x, n), logit, log_c in itertools.product(
            TRIALS, (*LOGITS[1:-1], 70.0), (-6.9, 2.0, 18.4, 40.0)
        )
    ],
    "Ordinal": [
        (x, location, log_gap)
        for x in (0, 1, 2)
        for location in (-1e4, -85.0, -17.0, -1.0, 0.0, 0.5, 37.0, 1e6)
        for log_gap in (-80.0, -18.4, -1.0, 1.0, 4.0)
    ],
}

MAKERS = {
    "ZeroInflatedPoisson": lambda n: likelihoods.ZeroInflatedPoisson(n, gate="decoder"),
    "ZeroInflatedNegativeBinomial": lambda n: likelihoods.ZeroInflatedNegativeBinomial(
        n, gate="decoder"
    ),
    "Ordinal": lambda n: likelihoods.Ordinal(n, num_categories=3),
}
LEARNED = {
    "ZeroInflatedNegativeBinomial": "log_dispersion",
    "HurdleNegativeBinomial": "log_dispersion",
    "BetaBinomial": "log_concentration",
    "Ordinal": "log_gaps",
}
WITH_TRIALS = ("Binomial", "BetaBinomial")

DRAWN_COUNTS = [(0, log_mean, gate) for log_mean in (-3.0, 0.5, 9.0) for gate in (-3.0, -0.5, 1.0)]
DRAWN_DISPERSED = [(*point, log_r) for point in DRAWN_COUNTS for log_r in (-1.0, 3.0, 18.4)]
DRAWN = {
    "ZeroInflatedPoisson": DRAWN_COUNTS,
    "ZeroInflatedNegativeBinomial": DRAWN_DISPERSED,
    "HurdlePoisson": DRAWN_COUNTS,
    "HurdleNegativeBinomial": DRAWN_DISPERSED,
    "Binomial": [(0, logit, n) for logit in (-3.0, 0.3, 5.0) for n in (1, 20, 10_000)],
    "BetaBinomial": [
        (0, logit, log_c, n)
        for logit in (-3.0, 0.3, 4.0)
        for log_c in (-2.0, 1.0, 18.4)
        for n in (2, 20, 1_000)
    ],
    "Ordinal": [(0, location, gap) for location in (-3.0, 0.5, 4.0) for gap in (-2.0, 1.0)],
}
