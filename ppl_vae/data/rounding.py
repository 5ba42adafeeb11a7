"""Warnings if a narrower floating type rounds away a column's spread."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import table
from ppl_vae.data.streaming import Rows, in_file, table_in_file

__all__ = ["tell_rounding", "tell_rounding_of"]

logger = logging.getLogger(__name__)

VISIBLE = 0.01  # root mean square of the rounding, in standard deviations of the column
CONSTANT = 1e-15  # standard deviation, over the size of the values, that float64 itself makes
NUMBERS_AT_ONCE = 2**24
ROWS_OF_A_FILE = 1_000
REMEDY = (
    "subtract its mean, or keep float64: Dataset(..., dtype=torch.float64), model.double(), "
    "guide.double()"
)


def tell_rounding_of(
    source: Any, kept: Tensor, names: np.ndarray, *, scale: float = 1.0, what: str = "x"
) -> float:
    """`tell_rounding` for the source of a data set; for a file, by its first rows.

    Args:
        source: The source as given.
        kept: The values of the data set, (N, *event).
        names: The names of the columns.
        scale: Divisor of the source.
        what: Name of the source in the warning.

    Returns:
        The result of `tell_rounding`.

    Example:
        >>> tell_rounding_of(np.zeros((3, 1), np.uint8), torch.zeros(3, 1), np.array(["grey"]))
        0.0
    """
    if not _may_round(source, kept.dtype):
        return 0.0
    if in_file(source):
        given = table_in_file(source, torch.float64, scale).values[:ROWS_OF_A_FILE]
        kept = kept[:ROWS_OF_A_FILE]
    else:
        given = table(source, torch.float64, what).values / scale
    return tell_rounding(given, kept, names, what)


def tell_rounding(given: Tensor, kept: Tensor, names: np.ndarray, what: str = "x") -> float:
    """Warn, in one line, if rounding removes a visible share of a column's spread.

    In float32, numbers above 4 million (seconds, coordinates in metres) lie 0.5 apart or more: a
    column N(5.4e6, 0.1^2) keeps three different values.

    Args:
        given: The values before, (N, *event).
        kept: The values after.
        names: The names of the columns.
        what: Name of the values in the warning.

    Returns:
        Root mean square of the rounding in standard deviations of the column that lost most; 0.0 if
        none lost a visible share.

    Example:
        >>> column = 5.4e6 + torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        >>> round(tell_rounding(column, column.float(), np.array(["northing"])), 2)
        0.45
    """
    given = given.flatten(1)
    kept = kept.flatten(1)
    width = max(1, NUMBERS_AT_ONCE // max(1, len(given)))
    pairs = zip(given.split(width, dim=1), kept.split(width, dim=1), strict=True)
    share = torch.cat([_share_lost(*pair) for pair in pairs])
    lost = int((share > VISIBLE).sum())
    if not lost:
        return 0.0
    worst = int(share.argmax())
    name = names[worst] if len(names) == len(share) else worst
    before, after = (len(column[:, worst].unique()) for column in (given, kept))
    more = f", and {lost - 1} more columns" * (lost > 1)
    logger.warning(
        f"{kept.dtype} rounds column {str(name)!r} of {what} by {share[worst].item():.0%} of its "
        f"standard deviation ({before:,} different values become {after:,}){more}: {REMEDY}"
    )
    return share[worst].item()


def _share_lost(given: Tensor, kept: Tensor) -> Tensor:
    """Root mean square of the rounding in standard deviations, by column; 0 for a constant one."""
    values = given.double()
    mean = values.nanmean(0)
    sd = (values - mean).square().nanmean(0).sqrt()
    error = (kept.double() - values).square().nanmean(0).sqrt()
    return torch.where(sd > CONSTANT * mean.abs(), error / sd, 0.0)


def _may_round(source: Any, dtype: torch.dtype) -> bool:
    """Whether numbers may need more digits than this type has; lists may."""
    found = source.source.dtype if isinstance(source, Rows) else getattr(source, "dtype", None)
    if isinstance(found, torch.dtype):
        is_long = not found.is_floating_point and found.itemsize > 2
        return is_long or torch.promote_types(found, dtype) != dtype
    kept = {torch.float64: np.float64, torch.float32: np.float32}.get(dtype, np.float16)
    return not (isinstance(found, np.dtype) and np.can_cast(found, kept))
