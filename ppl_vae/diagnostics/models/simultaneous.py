"""Simultaneous intervals for many differences: the number of standard errors of each half-width."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.special import ndtr, stdtrit

from ppl_vae.diagnostics.models.trained_model import FEWEST_TRAININGS, TrainedModel
from ppl_vae.evidence.errors import covariance_of_means, effective_rows, normalised

ROUNDING = 1e-12  # relative
LEVEL = 0.95
NUM_RESAMPLES = 4000  # of one pair, and MOST_FOLD times as many of several
MOST_FOLD = 5
NUM_DRAWS = 100_000  # of a sum of Student's t variables
FEWEST_ROWS = 10  # below, resamples in which all rows are equal are too frequent
MOST_ROWS = 2000  # beyond, skewness does not matter: its error falls as 1 / N
LEAST_FREEDOM = 0.5  # of Student's t; with less, one row holds nearly all of the weight
BLOCK = 1 << 22  # entries of an array at a time

Pair = frozenset[str]  # names of two models
Parts = list[tuple[float, float]]  # variances of a mean, each with its degrees of freedom


class Reach:
    """Half-widths of intervals that all hold with probability 95 %.

    The part due to the rows is a multiple of its standard error: a quantile of the pair's own |t|
    in resamples of the rows (symmetric bootstrap-t), which skewed differences need. All pairs take
    the quantile of the level at which none is exceeded in 95 % of the resamples, so that a
    difference that rests on a few rows widens no other interval. For trainings and shared draws the
    largest |z| of the joint normal of the differences gives the level, and Student's t with
    Satterthwaite's degrees of freedom the multiple. With two trainings, whose spread has one degree
    of freedom, it is the quantile of the sum of the t variables of both models (Behrens and
    Fisher). Both half-widths are added in quadrature. Very few rows, or very many, are a part like
    that of trainings.

    References:
        Hall (1992), The bootstrap and Edgeworth expansion, section 3.6; Beran (1988), Balanced
        simultaneous confidence sets, JASA 83; Hothorn, Bretz and Westfall (2008), Simultaneous
        inference in general parametric models, Biometrical Journal 50; Welch (1947), Biometrika 34;
        Zou and Donner (2008), Construction of confidence limits about effect measures, Statistics
        in Medicine 27 (the sum of squares).
    """

    def __init__(self, models: Sequence[TrainedModel], pairs: Sequence[tuple[int, int]]) -> None:
        rows = np.stack([model.mean for model in models], axis=1)
        weights = models[0].weights
        self.multiples: dict[Pair, float] = {}
        self.level = LEVEL
        if not pairs:
            return
        enough = effective_rows(weights, len(rows)) >= FEWEST_ROWS - ROUNDING
        if enough and len(rows) <= MOST_ROWS:
            names = [frozenset({models[i].name, models[j].name}) for i, j in pairs]
            self.multiples = dict(zip(names, balanced_t(rows, pairs, weights), strict=True))
        training = np.nan_to_num([model.training_variance for model in models])
        own = training + [model.shared_variance for model in models]
        if len(pairs) > 1 and (own.any() or not self.multiples):
            covariance = covariance_of_means(rows, weights) + np.diag(own)
            self.level = 2 * ndtr(largest_z(covariance, pairs)) - 1

    def __call__(self, pair: Pair, parts: Parts) -> float:
        """The half-width, in nats, for the difference of a pair with these parts of variance."""
        if not self.multiples:
            return self._of_normal(parts)
        (data, _), *others = parts
        return float(np.hypot(self.multiples[pair] * data**0.5, self._of_normal(others)))

    def _of_normal(self, parts: Parts) -> float:
        """The half-width for parts whose errors are normal."""
        parts = [part for part in parts if part[0] > 0]
        total = sum(variance for variance, _ in parts)
        if not total:
            return 0.0
        least = min(freedom for _, freedom in parts)
        if least < LEAST_FREEDOM:
            return np.inf
        if least < FEWEST_TRAININGS - 1:
            return _behrens_fisher(parts, self.level)
        freedom = total**2 / sum(variance**2 / count for variance, count in parts)
        return float(stdtrit(freedom, (1 + self.level) / 2)) * total**0.5


def pairs_of(
    models: Sequence[TrainedModel], reference: TrainedModel, *, chosen: bool
) -> list[tuple[int, int]]:
    """Pairs with simultaneous intervals: all if the rows chose the reference, else with it."""
    at = models.index(reference)
    return [pair for pair in combinations(range(len(models)), 2) if chosen or at in pair]


def balanced_t(
    rows: np.ndarray, pairs: Sequence[tuple[int, int]], weights: np.ndarray | None = None
) -> np.ndarray:
    """Quantiles of each pair's |mean* - mean| / se* over resamples of the rows (N, M), all of the
    level at which none is exceeded in 95 % of the resamples.
    """
    t_values = resampled_t(rows, pairs, weights)
    varies = t_values.max(0) > 0  # equal differences are never wrong
    if not varies.any():
        return np.zeros(len(pairs))
    ranks = t_values[:, varies].argsort(0).argsort(0)
    place = int(np.quantile(ranks.max(1), LEVEL, method="higher"))
    return np.sort(t_values, 0)[place]


def resampled_t(
    rows: np.ndarray, pairs: Sequence[tuple[int, int]], weights: np.ndarray | None = None
) -> np.ndarray:
    """|mean* - mean| / se* of each pair (P,) in resamples of the rows (N, M): (B, P)."""
    rng = np.random.default_rng(0)
    num_rows = len(rows)
    shares = normalised(weights, num_rows)
    noise = ROUNDING * np.abs(rows).max()
    first, second = np.array(pairs).T
    # Many pairs need quantiles further out; more rows are less skewed.
    num_resamples = NUM_RESAMPLES * max(1, min(len(pairs), MOST_FOLD, MOST_ROWS // num_rows))
    found = np.zeros((num_resamples, len(pairs)), dtype=np.float32)
    width = max(1, BLOCK // num_rows)
    for start in range(0, num_resamples, width):
        block = found[start : start + width]
        counts = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), len(block))
        for i in range(0, len(first), width):
            differences = rows[:, first[i : i + width]] - rows[:, second[i : i + width]]
            centred = differences - shares @ differences
            centred[np.abs(centred) <= noise] = 0.0  # equal differences have no spread
            block[:, i : i + width] = _studentised(counts, centred, shares)
    return found


def _studentised(counts: np.ndarray, centred: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """|t| of each resample and difference, (B, N), (N, P) -> (B, P), for rows with these shares."""
    total = (counts @ shares)[:, None]
    mean = (counts * shares) @ centred / total
    drawn = shares / total  # of each copy of a row in a resample
    apart = 1 - 2 * drawn + (counts * np.square(drawn)).sum(1, keepdims=True)
    squares = counts * np.square(shares) / apart
    spread = squares @ np.square(centred) - 2 * mean * (squares @ centred)
    spread += np.square(mean) * squares.sum(1, keepdims=True)
    variance = np.maximum(spread, 0.0) / np.square(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, np.abs(mean) / np.sqrt(variance))


def largest_z(covariance: np.ndarray, pairs: Sequence[tuple[int, int]]) -> float:
    """95 % quantile of the largest |z| of the pairs, from the covariance of the means, (M, M)."""
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(0).standard_normal((NUM_DRAWS // 4, len(covariance)))
    errors = draws * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    largest = np.zeros(len(errors))
    for i, j in pairs:
        variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
        if variance > 0:
            np.maximum(largest, np.abs(errors[:, i] - errors[:, j]) / variance**0.5, out=largest)
    return float(np.quantile(largest, LEVEL))


def _behrens_fisher(parts: Parts, level: float) -> float:
    """Quantile of |sum of se_j t_j|, t_j Student's with its degrees of freedom."""
    rng = np.random.default_rng(0)
    total = np.zeros(NUM_DRAWS)
    for variance, freedom in parts:
        if np.isinf(freedom):
            draws = rng.standard_normal(NUM_DRAWS)
        else:
            draws = rng.standard_t(freedom, NUM_DRAWS)
        total += variance**0.5 * draws
    return float(np.quantile(np.abs(total), level))
