"""Hidden entries: which are chosen, and where their true values lie in what is predicted."""

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.runtime.seeding import generator
from ppl_vae.tasks.imputation.predictive import GRID, Predictive, set_sizes

SHARPNESS = 0.9  # level of the intervals whose widths are compared


def chosen_entries(data: Dataset, share: float, seed: int) -> np.ndarray:
    """A share of the observed entries of each column at random, at least one, (N, *event)."""
    observed = data.mask.cpu().numpy().reshape(len(data), -1)
    counts = observed.sum(0)
    if not counts.any():
        raise ValueError(f"x of shape {tuple(data.x.shape)} is missing throughout: none to hide")
    order = generator(seed).random(observed.shape)
    ranks = np.where(observed, order, np.inf).argsort(0).argsort(0)
    most = np.maximum(1, np.round(share * counts))
    return (observed & (ranks < most)).reshape(data.x.shape)


def below_and_at(
    predictive: Predictive, truth: np.ndarray, is_category: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(X < x) and P(X = x) of the true values x, (n,) each.

    Continuous entries are placed between the kept quantiles: their second number is the probability
    between those around x. For categories "below" are all levels that are more probable.
    """
    grid = predictive.quantiles
    values = truth.astype(grid.dtype)[:, None]
    low = (grid < values).sum(1) * GRID[0]
    high = ((grid <= values).sum(1) + 1) * GRID[0]
    chances = predictive.probabilities[:, :-1].astype(np.float64)
    codes = truth[predictive.discrete].astype(int)
    kept = codes < chances.shape[1]  # larger counts are placed between quantiles too
    where = predictive.discrete[kept]
    chances = chances[kept]
    codes = codes[kept]
    at = np.take_along_axis(chances, codes[:, None], 1)
    smaller = np.arange(chances.shape[1]) < codes[:, None]
    before = (chances > at) | ((chances == at) & smaller)
    counted = np.where(is_category[where, None], before, smaller)
    low[where] = (chances * counted).sum(1)
    high[where] = low[where] + at[:, 0]
    return low, high - low


def interval_widths(predictive: Predictive, is_category: np.ndarray) -> np.ndarray:
    """Widths of the equal-tailed intervals, (n,); for categories sizes of the smallest sets."""
    first = round((1 - SHARPNESS) / 2 / GRID[0]) - 1
    found = (predictive.quantiles[:, -1 - first] - predictive.quantiles[:, first]).astype(float)
    is_set = is_category[predictive.discrete]
    found[predictive.discrete[is_set]] = set_sizes(predictive.probabilities[is_set, :-1], SHARPNESS)
    return found


def marginal_widths(x: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    """The same of the observed values of each column of x, (N, F) -> (F,)."""
    widths = []
    for values, kind in zip(x.T, kinds, strict=True):
        seen = values[~np.isnan(values)]
        if not len(seen):
            widths.append(np.nan)
        elif kind == "category":
            shares = np.bincount(seen.astype(int)) / len(seen)
            widths.append(set_sizes(shares[None], SHARPNESS)[0])
        else:
            tail = (1 - SHARPNESS) / 2
            widths.append(np.subtract(*np.quantile(seen, [1 - tail, tail])))
    return np.array(widths, dtype=np.float64)
