"""How well coordinates keep the neighbours that rows have in x."""

from collections.abc import Sequence

import numpy as np

MEASURES = ("trustworthiness", "continuity", "kept")


def neighbour_order(points: np.ndarray) -> np.ndarray:
    """The other rows of each row from the nearest on, (N, N - 1)."""
    from sklearn.metrics import pairwise_distances

    distances = pairwise_distances(points)
    np.fill_diagonal(distances, np.inf)
    return distances.argsort(axis=1, kind="stable")[:, :-1]


def without(order: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The order among the rows that are not left out, numbered anew."""
    stays = np.ones(len(order), dtype=bool)
    stays[left_out] = False
    number = stays.cumsum() - 1
    rest = order[stays]
    num_rows = int(stays.sum())
    return number[rest[stays[rest]].reshape(num_rows, num_rows - 1)]


def measured(of_x: np.ndarray, of_z: np.ndarray, num_neighbours: Sequence[int]) -> np.ndarray:
    """Trustworthiness, continuity and share of neighbours kept, (3, numbers of neighbours)."""
    forward = [_displaced(of_x, of_z, k) for k in num_neighbours]
    backward = [_displaced(of_z, of_x, k) for k in num_neighbours]
    return np.array([[far for far, _ in forward], [far for far, _ in backward], *_kept(forward)])


def _kept(pairs: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[share for _, share in pairs]]


def _displaced(known: np.ndarray, judged: np.ndarray, k: int) -> tuple[float, float]:
    """Trustworthiness of the k neighbours by one order, and the share that both orders have."""
    num_rows = len(known)
    ranks = np.empty((num_rows, num_rows), dtype=np.int64)
    np.put_along_axis(ranks, known, np.arange(1, num_rows), axis=1)
    found = np.take_along_axis(ranks, judged[:, :k], axis=1)
    worst = num_rows * k * (2 * num_rows - 3 * k - 1) / 2
    return 1 - float(np.maximum(found - k, 0).sum()) / worst, float((found <= k).mean())
