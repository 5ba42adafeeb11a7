"""Hashes of tensors, by which rows and weights are recognised."""

from collections.abc import Iterable
from hashlib import blake2b, sha256

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest", "row_digests"]


def digest(parts: Iterable[Tensor]) -> str:
    """Sixteen hexadecimal digits for a sequence of tensors.

    Args:
        parts: The tensors; how a sequence of values is cut into tensors does not count.

    Example:
        >>> digest([torch.zeros(2), torch.zeros(1)]) == digest([torch.zeros(3)])
        True
    """
    found = sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part.detach().cpu().numpy()).tobytes())
    return found.hexdigest()[:16]


def row_digests(values: Tensor, size: int) -> list[bytes]:
    """So many bytes for each row; all NaN are one value, and so are both zeros.

    Args:
        values: The rows, (N, *event).
        size: Bytes of each digest.

    Example:
        >>> one, other = row_digests(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]), 8)
        >>> one == other
        True
    """
    rows = values.detach().cpu().reshape(len(values), -1)
    rows = torch.where(rows.isnan(), torch.nan, rows + 0.0)
    return [blake2b(row.tobytes(), digest_size=size).digest() for row in rows.numpy()]
