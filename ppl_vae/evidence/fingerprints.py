"""What an evidence was computed on: a number for each row of x, and the measure of the
likelihood.
"""

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.programs.traces import Program

__all__ = ["digests", "measure_of", "other_rows"]


def digests(x: Tensor) -> np.ndarray:
    """64 bits for each datum, (N,), by which equal rows are known again: values, bits and what is
    missing, in float32.

    The shape of a datum does not count, nor do its covariates: p(x given c) and p(x) of one x are
    compared.

    Example:
        >>> one, other = digests(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]))
        >>> bool(one == other)
        True
    """
    values = x.detach().cpu().float().reshape(len(x), -1)
    values = torch.where(values.isnan(), torch.nan, values + 0.0)  # one NaN, one zero
    hashed = [blake2b(row.tobytes(), digest_size=8).digest() for row in values.numpy()]
    return np.frombuffer(b"".join(hashed), dtype="<u8").astype(np.uint64)


def other_rows(one: np.ndarray, other: np.ndarray) -> str:
    """In what way the rows of two digests are not the same, in words.

    Example:
        >>> other_rows(np.array([1, 2]), np.array([2, 1]))
        'they hold the same rows in another order, from row 0 on'
    """
    differ = np.flatnonzero(one != other)
    if (np.sort(one) == np.sort(other)).all():
        return f"they hold the same rows in another order, from row {differ[0]} on"
    found = (
        "all rows"
        if len(differ) == len(one)
        else f"{len(differ)} of {len(one)} rows, the first being row {differ[0]},"
    )
    return f"{found} differ; both need the same x, binarised alike and in the same units"


def measure_of(model: Program) -> str:
    """Whether the model's likelihood is a probability, "counting", or a density, "lebesgue"; "" if
    it does not say.

    Example:
        >>> from ppl_vae import beds
        >>> measure_of(beds.gamma_poisson(num_data=1).model)
        ''
    """
    likelihood = getattr(model, "likelihood", None) if isinstance(model, nn.Module) else None
    return str(getattr(likelihood, "measure", ""))
