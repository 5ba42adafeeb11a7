"""Training, validation and test rows."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from ppl_vae.data.validation import refuse_labels, rows_of_split
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, suggestion, whole_number

__all__ = ["random_rows"]

PARTS = ("train", "valid", "test")
MOST_SEED = 2**32 - 1  # of scikit-learn


def count(share: float, num_data: int, what: str) -> int:
    """Number of rows from a fraction (a float below 1) or a number.

    Raises:
        ValueError: It is neither a fraction in [0, 1) nor a whole number.

    Example:
        >>> count(0.25, 8, "valid"), count(3, 8, "valid")
        (2, 3)
    """
    is_number = isinstance(share, Real) and not isinstance(share, bool)
    if not is_number or not share >= 0 or (share >= 1 and share != share // 1):
        raise ArgumentError(
            f"{what}={echoed(share)} is neither a fraction in [0, 1) nor a number of rows"
        )
    num_rows = round(share * num_data) if share < 1 else share
    if num_rows >= num_data:
        raise ArgumentError(f"{what}={echoed(share)} rows leave none of {num_data} to train on")
    return int(num_rows)


def random_rows(rows: np.ndarray, num_taken: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The remaining rows and the rows taken at random, each in order.

    Example:
        >>> [part.size for part in random_rows(np.arange(5), 2, seed=0)]
        [3, 2]
    """
    if seed is not None:
        whole_number(seed, "seed", 0, MOST_SEED)
    if not num_taken:
        return rows, rows[:0]
    from sklearn.model_selection import train_test_split

    stay, taken = train_test_split(rows, test_size=num_taken, random_state=seed)
    return np.sort(stay), np.sort(taken)


def random_blocks(
    rows: np.ndarray, num_taken: int, seed: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Like `random_rows`, in blocks of neighbouring rows, for films and panels.

    The number of rows taken is rounded to whole blocks.

    Example:
        >>> random_blocks(np.arange(6), 2, seed=0, length=2)[1].tolist()
        [4, 5]
    """
    block = np.arange(len(rows)) // length
    _, taken = random_rows(np.unique(block), round(num_taken / length), seed)
    is_taken = np.isin(block, taken)
    return rows[~is_taken], rows[is_taken]


def disjoint(
    splits: Mapping[str, Any] | None, num_data: int, index: Any = None
) -> dict[str, np.ndarray]:
    """Splits as row numbers, empty ones dropped.

    Args:
        splits: Row numbers by name, or a boolean per row.
        num_data: Number of rows.
        index: The index of x, if it is a frame.

    Raises:
        ValueError: A row is named twice or does not exist.

    Example:
        >>> disjoint({"train": [0, 2], "valid": [], "test": [1]}, num_data=3)
        {'train': array([0, 2]), 'test': array([1])}
    """
    if splits is None:
        return {}
    if not isinstance(splits, Mapping):
        raise ArgumentError(
            f"splits is {echoed(splits)}; it must be a dict of row numbers: "
            '{"train": [0, 1], "test": [2]}'
        )
    for name in splits:
        if name not in PARTS:
            raise ArgumentError(f"splits has {echoed(name)}: {suggestion(str(name), PARTS)}")
    found = {name: rows_of_split(rows, name, num_data, index) for name, rows in splits.items()}
    parts = {name: rows for name, rows in found.items() if rows.size}
    rows = np.concatenate([np.empty(0, np.int64), *parts.values()])
    outside = rows[(rows < 0) | (rows >= num_data)]
    if outside.size:
        raise ValueError(f"splits name row {outside.min()}, x has rows 0 to {num_data - 1}")
    counts = np.bincount(rows, minlength=1)
    if counts.max() > 1:
        raise ValueError(
            f"row {counts.argmax()} is {counts.max()} times in the splits {', '.join(parts)}"
        )
    return parts


def rows_at(index: Any, num_data: int, name: str, labels: Any = None) -> np.ndarray:
    """Row numbers of an index: a number, several, a slice, or a boolean for each row.

    Raises:
        IndexError: It does not fit the rows.

    Example:
        >>> rows_at(slice(1, None), 3, "data"), rows_at([True, False, True], 3, "data")
        (array([1, 2]), array([0, 2]))
    """
    refuse_labels(labels, index, "the index of the data set")
    try:
        if isinstance(index, slice):  # costs the rows of a block, not all of them
            return np.arange(*index.indices(num_data))
        chosen = index.cpu().numpy() if hasattr(index, "cpu") else index
        rows = np.atleast_1d(np.arange(num_data)[chosen])
        if rows.ndim == 1 and index is not None:
            return rows
    except (IndexError, TypeError, ValueError):
        pass
    raise IndexError(
        f"the index {echoed(index)} does not fit the {num_data} rows of {name!r}: give row "
        "numbers, a slice, or a boolean for each row"
    )
