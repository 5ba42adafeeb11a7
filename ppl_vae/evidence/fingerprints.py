"""The rows that evidence was computed on, a number for each, and the likelihood's measure."""

import numpy as np
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.digests import row_digests

__all__ = [
    "WITH_MASK",
    "digests",
    "measure_of",
    "other_rows",
    "quantity_of",
    "row_weights",
    "same_rows",
]

WITH_MASK = ", with the mask of "  # and its columns, after the likelihood's measure


def digests(x: Tensor) -> np.ndarray:
    """64 bits for each row, (N,), from its values and missing entries in float32.

    Neither the shape of a row nor its covariates count: p(x given c) and p(x) may be compared.

    Example:
        >>> import torch
        >>> one, other = digests(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]))
        >>> bool(one == other)
        True
    """
    return np.frombuffer(b"".join(row_digests(x.float(), 8)), dtype="<u8").astype(np.uint64)


def row_weights(data: Dataset) -> np.ndarray | None:
    """Weights of the rows, (N,), or None.

    Example:
        >>> row_weights(Dataset([[0.0], [1.0]], weights=[1, 3])).tolist()
        [1.0, 3.0]
    """
    return None if data.weights is None else data.weights.double().cpu().numpy()


def other_rows(one: np.ndarray, other: np.ndarray) -> str:
    """How the rows of two digests differ, in words.

    Example:
        >>> other_rows(np.array([1, 2]), np.array([2, 1]))
        'they hold the same rows in another order, from row 0 on'
    """
    differ = np.flatnonzero(one != other)
    if (np.sort(one) == np.sort(other)).all():
        return f"they hold the same rows in another order, from row {differ[0]} on"
    found = "all rows"
    if len(differ) < len(one):
        found = f"{len(differ)} of {len(one)} rows, the first being row {differ[0]},"
    return f"{found} differ; both need the same x, binarised alike and in the same units"


def same_rows(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether both digests are known, and of the same rows.

    Example:
        >>> same_rows(np.array([1, 2]), np.array([1, 2])), same_rows(np.array([1, 2]), None)
        (True, False)
    """
    return one is not None and other is not None and np.array_equal(one, other)


def quantity_of(measure: str) -> str:
    """What estimates of this measure are of.

    Example:
        >>> quantity_of("lebesgue, with the mask of income")
        'log p(x_obs, m)'
    """
    return "log p(x_obs, m)" if WITH_MASK in measure else "log p(x)"


def measure_of(model: Program) -> str:
    """Measure of log p(x): "counting", "lebesgue" for a density, "" if it is not known.

    Example:
        >>> from ppl_vae import beds
        >>> measure_of(beds.gamma_poisson(num_data=1).model)
        ''
    """
    if not isinstance(model, nn.Module):
        return ""
    measure = getattr(getattr(model, "likelihood", None), "measure", "")
    mechanism = getattr(model, "missingness", None)
    if mechanism is None:
        return str(measure)
    return f"{measure}{WITH_MASK}{', '.join(mechanism.columns)}"
