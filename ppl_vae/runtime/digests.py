"""Short hashes by which data, weights and rows are recognised."""

from collections.abc import Iterable
from hashlib import blake2b, sha256

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest", "row_digests"]


def digest(parts: Iterable[Tensor | str]) -> str:
    """A hash of tensors and texts in this order, in 16 hexadecimal digits.

    Args:
        parts: Tensors, of which dtype and shape do not count, and texts.

    Example:
        >>> digest([torch.zeros(2), "zeros"]) == digest([torch.zeros(2), "ones"])
        False
    """
    found = sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        else:
            found.update(np.ascontiguousarray(part.detach().cpu().numpy()).tobytes())
    return found.hexdigest()[:16]


def row_digests(rows: Tensor, num_bytes: int = 8) -> list[bytes]:
    """A hash of each row's values; all NaN are one value, and so are both zeros.

    Args:
        rows: Values, (N, ...).
        num_bytes: Length of each hash.

    Example:
        >>> one, other, again = row_digests(torch.tensor([[0.0], [1.0], [-0.0]]))
        >>> one == again, one == other
        (True, False)
    """
    values = rows.detach().cpu().reshape(len(rows), -1)
    values = torch.where(values.isnan(), torch.nan, values + 0.0)
    return [blake2b(row.tobytes(), digest_size=num_bytes).digest() for row in values.numpy()]
