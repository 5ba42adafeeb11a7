"""Importance weights of posteriors and guides whose log p(x) is known: here 0, in NumPy alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy import optimize, special, stats
from scipy.stats import qmc

Shape = tuple[int, int]
Rows = np.ndarray
NUM_NODES = 80
DEGREES = 5  # of freedom, of a proposal with wider tails than the posterior

# Unnormalised log-densities of one dimension, of z and a parameter.
DENSITIES = {
    "skewed": lambda z, count: (
        -0.5 * z**2 + count * z - np.exp(np.minimum(z, 50.0))
    ),  # Poisson, log-rate N(0, 1)
    "bimodal": lambda z, half: np.logaddexp(-0.5 * (z - half) ** 2, -0.5 * (z + half) ** 2),
    "t": lambda z, df: -(df + 1) / 2 * np.log1p(z**2 / df),
    "log-gamma": lambda z, shape: shape * z - np.exp(np.minimum(z, 50.0)),
}


def log_weights(
    kind: str, dim: int, parameter: float, shape: Shape, rng: np.random.Generator
) -> np.ndarray:
    """Of draws of the mean-field optimum of such a posterior, (K, N)."""
    return KINDS[kind](dim, parameter, shape, rng)


def eigenvalues(dim: int, k: float) -> np.ndarray:
    """Of the precision of a linear-Gaussian posterior in units of its mean-field optimum; the least
    is 1 - k."""
    if dim == 1:
        return np.ones(1)
    loading = np.random.default_rng(1).normal(size=(dim + 5, dim))
    precision = np.eye(dim) + loading.T @ loading
    scale = np.diag(precision) ** -0.5
    apart = np.linalg.eigvalsh(precision * scale * scale[:, None]) - 1
    return 1 + k * apart / -apart.min()


def correlated(dim: int, k: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A linear-Gaussian posterior."""
    return _normal(eigenvalues(dim, k), shape, rng)


def scaled(dim: int, scale: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A normal posterior and a guide so many times as wide."""
    return _normal(np.full(dim, scale**2), shape, rng)


def _normal(values: np.ndarray, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    total = np.zeros(shape)
    for value in values:
        total += 0.5 * (1 - value) * rng.standard_normal(shape) ** 2 + 0.5 * np.log(value)
    return total


@cache
def optimum(log_density: str, parameter: float) -> tuple[float, float, float]:
    """Mean and sd of the normal q that minimises KL(q || p), and log of p's constant, of one
    dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    density = DENSITIES[log_density]
    weights = weights / weights.sum()

    def loss(theta: np.ndarray) -> float:
        z = theta[0] + np.exp(theta[1]) * nodes
        return -float((weights * density(z, parameter)).sum() + theta[1])

    found = optimize.minimize(
        loss, [0.3, -0.3], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
    ).x
    grid = np.linspace(-30, 30, 200_001)
    constant = special.logsumexp(density(grid, parameter)) + np.log(grid[1] - grid[0])
    return found[0], float(np.exp(found[1])), float(constant)


def independent(kind: str) -> Callable[..., np.ndarray]:
    """Dimensions with one of `DENSITIES` each."""

    def drawn(dim: int, parameter: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        loc, scale, constant = optimum(kind, parameter)
        total = np.zeros(shape)
        for _ in range(dim):
            noise = rng.standard_normal(shape)
            log_q = -0.5 * noise**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
            total += DENSITIES[kind](loc + scale * noise, parameter) - constant - log_q
        return total

    return drawn


def bimodal(dim: int, half: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """One dimension with two modes, the others correlated."""
    first = independent("bimodal")(1, half, shape, rng)
    return first + correlated(dim - 1, 0.2, shape, rng)


def gamma(dim: int, k: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Log-weights with a gamma distribution of shape `dim`: the weights have a Pareto tail with
    exactly this k."""
    return k * rng.gamma(dim, size=shape) + dim * np.log1p(-k)


def funnel(dim: int, sd: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """z_1 ~ N(0, sd^2), the others N(0, exp(z_1)): the mean-field optimum in closed form."""
    num_others = dim - 1
    scale = (1 / sd**2 + num_others / 2) ** -0.5
    log_variance = -(scale**2) / 2
    noise = rng.standard_normal(shape)
    squares = rng.chisquare(num_others, shape)
    first = scale * noise
    neck = -0.5 * (first / sd) ** 2 - np.log(sd) + 0.5 * noise**2 + np.log(scale)
    return (
        neck
        + 0.5 * num_others * (log_variance - first)
        + 0.5 * squares * -np.expm1(log_variance - first)
    )


@dataclass(frozen=True)
class Logistic:
    """Logistic regression, z ~ N(0, I): design, signs of the responses, the mean-field optimum, and
    log p(x)."""

    design: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    log_evidence: float

    def log_joint(self, z: np.ndarray) -> np.ndarray:
        """Of z, (..., D); the constant of the prior is left out, as it is in `log_evidence`."""
        total = -0.5 * np.square(z).sum(-1)
        for row in self.design:
            total -= np.logaddexp(0.0, -(z @ row))
        return total


@cache
def logistic_posterior(dim: int, spread: float) -> Logistic:
    """Of 3 D + 4 responses, with covariates of this sd; log p(x) by quasi-Monte Carlo from a t
    about the mode.

    Its error is below 0.004 where covariates have an sd of 3 and D = 10, and below 0.0001
    elsewhere."""
    rng = np.random.default_rng(3)
    covariates = spread * rng.normal(size=(3 * dim + 4, dim))
    responses = np.where(
        rng.random(len(covariates)) < special.expit(covariates @ rng.normal(size=dim)), 1, -1
    )
    design = covariates * responses[:, None]
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()

    def loss(theta: np.ndarray) -> float:
        loc, log_scale = np.split(theta, 2)
        scale = np.exp(log_scale)
        linear = (design @ loc)[:, None] + np.sqrt(design**2 @ scale**2)[:, None] * nodes
        divergence = 0.5 * (loc**2 + scale**2).sum() - log_scale.sum()
        return float((np.logaddexp(0.0, -linear) @ weights).sum() + divergence)

    theta = optimize.minimize(loss, np.zeros(2 * dim), method="BFGS").x
    unknown = Logistic(design, theta[:dim], np.exp(theta[dim:]), np.nan)
    return Logistic(design, unknown.loc, unknown.scale, _log_evidence(unknown))


def _log_evidence(posterior: Logistic) -> float:
    dim = len(posterior.loc)
    mode = optimize.minimize(
        lambda z: -float(posterior.log_joint(z)), posterior.loc, method="BFGS"
    ).x
    slope = special.expit(posterior.design @ mode) * special.expit(-posterior.design @ mode)
    precision = np.eye(dim) + (posterior.design * slope[:, None]).T @ posterior.design
    root = np.linalg.cholesky(np.linalg.inv(precision))
    points = qmc.Sobol(dim + 1, rng=0).random_base2(19)
    stretch = (DEGREES / stats.chi2.ppf(points[:, :1], DEGREES)) ** 0.5
    z = mode + stretch * special.ndtri(points[:, 1:]) @ root.T
    log_q = stats.multivariate_t.logpdf(z, mode, root @ root.T, DEGREES)
    log_w = posterior.log_joint(z) - log_q
    return float(special.logsumexp(log_w) - np.log(len(log_w)))


def logistic(dim: int, spread: float, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Coefficients of a logistic regression, and their mean-field optimum."""
    posterior = logistic_posterior(dim, spread)
    noise = rng.standard_normal((*shape, dim))
    log_q = (
        -0.5 * np.square(noise).sum(-1)
        - np.log(posterior.scale).sum()
        - 0.5 * dim * np.log(2 * np.pi)
    )
    return (
        posterior.log_joint(posterior.loc + posterior.scale * noise)
        - log_q
        - posterior.log_evidence
    )


def second_mode(share: float, distance: float, shape: Shape, rng: np.random.Generator) -> Rows:
    """N(0, 1), with 5 % of its mass in a second mode in this share of the rows; the guide is
    N(0, 1.3^2)."""
    z = 1.3 * rng.standard_normal(shape)
    first = stats.norm.logpdf(z)
    second = stats.norm.logpdf(z, distance, 0.7)
    both = np.logaddexp(np.log(0.95) + first, np.log(0.05) + second)
    has_two = rng.random(shape[1]) < share
    return np.where(has_two, both, first) - stats.norm.logpdf(z, 0, 1.3)


def sampled_count(factor: float, shape: Shape, rng: np.random.Generator) -> Rows:
    """z ~ Poisson(0.1), x ~ N(z, 0.7^2); the guide is Poisson with this multiple of E(z | x)."""
    counts = np.arange(30)
    x = rng.poisson(0.1, shape[1]) + 0.7 * rng.standard_normal(shape[1])
    joint = stats.poisson.logpmf(counts, 0.1) + stats.norm.logpdf(x[:, None], counts, 0.7)
    log_p = special.logsumexp(joint, axis=1)
    rate = factor * (np.exp(joint - log_p[:, None]) @ counts)
    z = rng.poisson(rate, shape)
    return joint[np.arange(shape[1]), z] - stats.poisson.logpmf(z, rate) - log_p


def sampled_bits(stretch: float, shape: Shape, rng: np.random.Generator) -> Rows:
    """Eleven independent bits, most of which are likely; the guide's logits are stretched."""
    total = np.zeros(shape)
    for _ in range(11):
        logit = 6 * rng.standard_normal(shape[1])
        z = rng.random(shape) < special.expit(stretch * logit)
        sign = np.where(z, 1.0, -1.0)
        total += np.logaddexp(0, -sign * stretch * logit) - np.logaddexp(0, -sign * logit)
    return total


ROWS_OF_KINDS: dict[str, Callable[[Shape, np.random.Generator], Rows]] = {
    **{
        f"second mode of {100 * share:.0f} % of the rows, {distance:g} sd away": partial(
            second_mode, share, distance
        )
        for share in (0.05, 0.1, 0.2, 0.3, 1.0)
        for distance in (3.0, 4.5, 5.0)
    },
    **{
        f"sampled count, rate x {factor:g}": partial(sampled_count, factor)
        for factor in (1.0, 0.5, 0.3, 0.1, 0.03)
    },
    **{
        f"sampled bits, logits x {stretch:g}": partial(sampled_bits, stretch)
        for stretch in (1.0, 1.2, 1.5)
    },
}
KINDS: dict[str, Callable[..., np.ndarray]] = {
    "correlated": correlated,
    "scale": scaled,
    "skewed": independent("skewed"),
    "bimodal": bimodal,
    "t": independent("t"),
    "log-gamma": independent("log-gamma"),
    "gamma": gamma,
    "funnel": funnel,
    "logistic": logistic,
}
