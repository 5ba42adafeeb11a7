"""Laws of continuous values and of levels in mpmath, and where they are compared: rows of tables
in test_densities.py. A point is the value, and the parameters from z."""

import itertools
from functools import partial

import mpmath as mp
import torch

from ppl_vae import likelihoods


def softplus(raw):
    return mp.log1p(mp.exp(raw))


def scale_of(raw):
    return mp.mpf(1e-30) + softplus(raw)


def log_gaussian(x, loc, raw):
    return -(((x - loc) / scale_of(raw)) ** 2) / 2 - mp.log(scale_of(raw)) - mp.log(2 * mp.pi) / 2


def log_laplace(x, loc, raw):
    scale = scale_of(raw)
    return -abs(x - loc) / scale - mp.log(2 * scale)


def log_log_normal(x, loc, raw):
    return log_gaussian(mp.log(x), loc, raw) - mp.log(x)


def log_gamma(x, log_mean, raw):
    a, t = scale_of(raw) ** -2, mp.log(x) - log_mean
    return a * mp.log(a) - mp.loggamma(a) + a * (t - mp.exp(t)) - mp.log(x)


def log_beta(x, logit, raw):
    c, mean = scale_of(raw) ** -2, 1 / (1 + mp.exp(-logit))
    a, b = c * mean, c / (1 + mp.exp(logit))
    normaliser = mp.loggamma(c) - mp.loggamma(a) - mp.loggamma(b)
    return normaliser + (a - 1) * mp.log(x) + (b - 1) * mp.log1p(-x)


def log_von_mises(x, first, second, raw):
    k, loc = scale_of(raw) ** -2, mp.atan2(second, 1 + first)
    return k * mp.cos(x - loc) - mp.log(2 * mp.pi * mp.besseli(0, k))


def log_level(x, loc, raw):
    """Of 256 levels; a logistic tail on the side where it is small."""
    scale = scale_of(raw)
    k = round(255 * x)
    low, high = ((mp.mpf(k) + shift) / 255 for shift in (-0.5, 0.5))
    low, high = ((end - loc) / scale for end in (low, high))
    if k == 0:
        return -softplus(-high)
    if k == 255:
        return -softplus(low)
    if low + high > 0:
        low, high = -high, -low
    return mp.log(1 / (1 + mp.exp(-high)) - 1 / (1 + mp.exp(-low)))


def log_mixed_level(x, first, second, *locations_and_scales):
    terms = [log_level(x, *locations_and_scales[c::2]) for c in (0, 1)]
    weights = [-softplus(second - first), -softplus(first - second)]
    parts = [term + weight for term, weight in zip(terms, weights, strict=True)]
    largest = max(parts)
    return largest + mp.log(mp.fsum(mp.exp(part - largest) for part in parts))


LAWS = {
    "Gaussian": log_gaussian,
    "Laplace": log_laplace,
    "LogNormal": log_log_normal,
    "Gamma": log_gamma,
    "Beta": log_beta,
    "VonMises": log_von_mises,
    "DiscretizedLogistic": log_level,
    "DiscretizedLogisticMixture": log_mixed_level,
}
GRIDS = {
    "Gaussian": list(
        itertools.product(
            (0.0, 1e-25, 1.0, 1e3, 1e6), (0.0, 1.0, 1e6), (-60.0, -7.0, 0.5, 20.0, 1e6)
        )
    ),
    "Laplace": list(
        itertools.product((0.0, 1.0, 1e3, 1e6), (0.0, 1.0, 1e6), (-30.0, -7.0, 0.5, 20.0, 1e6))
    ),
    "LogNormal": list(
        itertools.product(
            (1e-30, 1e-3, 1.0, 1.001, 1e20), (-60.0, 0.0, 1.0, 40.0), (-60.0, -7.0, 0.5, 20.0, 1e6)
        )
    ),
    "Gamma": list(
        itertools.product(
            (1e-30, 0.5, 1.0, 1.001, 1e3, 1e10),
            (-20.0, -0.7, 0.0, 1e-4, 6.9, 20.0),
            (-14.0, -7.0, -2.0, 0.5, 3.0, 1e4),
        )
    ),
    "Beta": [
        (x, logit, raw)
        for x in (1e-30, 1e-6, 0.3, 0.5, 0.501, 1 - 1e-6)
        for logit in (-60.0, -14.0, -0.8, 0.0, 1e-2, 3.0, 14.0, 60.0)
        for raw in (-20.0, -7.0, -2.0, 0.5, 1e4)
        if abs(logit) < 10 or raw > -5
    ],
    "VonMises": [
        (x, *pair, raw)
        for x in (-3.1, -1.0, 0.0, 1e-4, 3.1)
        for pair in ((0.0, 0.0), (0.0, 0.3), (-1.5, 0.3), (1e3, -1e3), (-1e3, -10.0))
        for raw in (-14.0, -7.0, -2.0, -1.8, 0.5, 3.0, 1e4)
    ],
    "DiscretizedLogistic": list(
        itertools.product(
            (0.0, 1 / 255, 128 / 255, 254 / 255, 1.0),
            (-1e3, -1.0, 0.0, 0.4, 1.001, 1e3),
            (-30.0, -14.0, -7.0, 0.5, 1e3, 1e8),
        )
    ),
    "DiscretizedLogisticMixture": [
        (x, logit, -logit, 0.1, location, -2.0, raw)
        for x in (0.0, 3 / 255, 128 / 255, 1.0)
        for logit in (0.0, 3.0, -30.0)
        for location in (-1.0, 0.4, 1e3)
        for raw in (-30.0, -7.0, 1e3)
    ],
}
DRAWN = {
    "Gaussian": [(0, loc, raw) for loc in (0.0, 10.0) for raw in (-5.0, 0.5, 30.0)],
    "Laplace": [(0, loc, raw) for loc in (0.0, 10.0) for raw in (-5.0, 0.5, 30.0)],
    "LogNormal": [(1, loc, raw) for loc in (-10.0, 0.0, 10.0) for raw in (-5.0, -1.0)],
    "Gamma": [(1, loc, raw) for loc in (-10.0, 0.0, 10.0) for raw in (-5.0, -1.0, 1.0)],
    "Beta": [(0.5, logit, raw) for logit in (-3.0, 0.0, 1.0) for raw in (-5.0, -1.0, 0.5)],
    "VonMises": [(0, first, 0, raw) for first in (0.0, 10.0) for raw in (-14.0, -5.0, 0.0, 4.0)],
    "DiscretizedLogistic": [(0, loc, raw) for loc in (0.0, 0.3, 0.9) for raw in (-5.0, -2.0, 2.0)],
    "DiscretizedLogisticMixture": [
        (0, 0.5, -0.5, 0.2, loc, -3.0, raw) for loc in (0.0, 0.7) for raw in (-7.0, -1.0)
    ],
}
SCALED = (*list(LAWS)[:-1], "StudentT")


def unscaled(name, n, **options):
    """A likelihood of n elements whose raw parameters are location and scale themselves."""
    found = getattr(likelihoods, name)(n, floor=1e-30, **options)
    found.units.set(torch.zeros(n), torch.ones(n))
    return found


MAKERS = {name: partial(unscaled, name, scale="decoder") for name in SCALED} | {
    "DiscretizedLogisticMixture": partial(unscaled, "DiscretizedLogisticMixture", num_components=2)
}
