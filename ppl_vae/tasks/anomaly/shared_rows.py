"""Rows that must not be shared: calibration with training, and with the rows that are tested."""

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.fingerprints import digests
from ppl_vae.programs.modules import arguments

CHANCE = 2.0  # repeats beyond those that equal rows lead one to expect, as a factor


def refuse_shared(one: Dataset, other: Dataset, names: tuple[str, str], why: str) -> None:
    """Raise ValueError where rows of `one` are also in `other`."""
    if said := told_shared(one, other, names):
        raise ValueError(f"{said}: {why}")


def told_shared(one: Dataset, other: Dataset, names: tuple[str, str]) -> str | None:
    """Which rows of `one` are also in `other`, by their values, in words.

    Where rows repeat by nature, as in a table of a few categories, the number of shared rows is
    compared with that of the rows that repeat within `one`, and within `other`.
    """
    keys, others = (digests(_values(each)) for each in (one, other))
    shared = np.isin(keys, others)
    within_one = _num_repeated(keys) * max(1.0, len(other) / len(one))
    within_other = _num_repeated(others) * len(one) / len(other)
    repeated = max(within_one, within_other)
    if shared.sum() <= CHANCE * repeated:
        return None
    return (
        f"{shared.sum()} of the {len(one)} {names[0]} rows, the first of them row "
        f"{shared.argmax()}, are also among the {names[1]} rows"
    )


def _num_repeated(keys: np.ndarray) -> int:
    """The number of rows that are there more than once."""
    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return int((counts[index] > 1).sum())


def _values(data: Dataset) -> Tensor:
    """x and covariates side by side."""
    parts = [each[:].reshape(len(data), -1) for each in arguments(data)]
    return torch.cat([part.float().cpu() for part in parts], dim=1)
