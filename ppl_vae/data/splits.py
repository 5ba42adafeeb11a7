"""Training, validation and test rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["random_rows"]


def count(share: float, num_data: int, what: str) -> int:
    """Number of rows from a fraction (a float below 1) or a number.

    Raises:
        ValueError: It is neither a fraction in [0, 1) nor a whole number.

    Example:
        >>> count(0.25, 8, "valid"), count(3, 8, "valid")
        (2, 3)
    """
    if not share >= 0 or (share >= 1 and share != int(share)):
        raise ValueError(f"{what}={share} is neither a fraction in [0, 1) nor a number of rows")
    if share >= num_data:
        raise ValueError(f"{what}={share} rows leave none of {num_data} to train on")
    return round(share * num_data) if share < 1 else int(share)


def random_rows(rows: np.ndarray, num_taken: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The remaining rows and the rows taken at random, each in order.

    Example:
        >>> [part.size for part in random_rows(np.arange(5), 2, seed=0)]
        [3, 2]
    """
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


def disjoint(splits: Mapping[str, Any], num_data: int) -> dict[str, np.ndarray]:
    """Splits as row numbers, empty ones dropped.

    Args:
        splits: Row numbers by name, or a boolean per row.
        num_data: Number of rows.

    Raises:
        ValueError: A row is named twice or does not exist.

    Example:
        >>> disjoint({"train": [0, 2], "valid": [], "test": [1]}, num_data=3)
        {'train': array([0, 2]), 'test': array([1])}
    """
    parts = {name: part for name, rows in splits.items() if (part := _rows(rows)).size}
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


def _rows(rows: Any) -> np.ndarray:
    array = np.asarray(rows)
    return np.flatnonzero(array) if array.dtype == bool else array.astype(np.int64)
