"""The facts of a data set, for a line or a table."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae.data.streaming import blocks, in_file


def in_words(data: Any) -> str:
    """A data set in one line, without reading a file."""
    missing = 0.0 if in_file(data.x) else spread(blocks(data.x))[0]
    splits = " / ".join(f"{name} {len(rows)}" for name, rows in data.splits.items())
    parts = {
        f"{len(data)} x {tuple(data.event_shape)}": True,
        "in a file": in_file(data.x),
        f"{missing:.1%} missing": missing > 0,
        f"context={list(data.context_names)}": data.context is not None,
        f"weights that sum to {data.sum_of_weights:g}": data.weights is not None,
        f"binarize={data.binarize!r}": data.binarize is not None,
        splits: bool(splits),
    }
    return f"{data.name!r}, {', '.join(part for part, applies in parts.items() if applies)}"


def facts(data: Any) -> dict[str, Any]:
    """The facts that `Dataset.describe` returns."""
    missing, least, most = spread(blocks(data.x))
    return {
        "name": data.name,
        "num_data": len(data),
        "event_shape": tuple(data.event_shape),
        "missing": missing,
        "range": (least, most),
        "context": list(data.context_names),
        "labels": 0 if data.labels is None else len(np.unique(data.labels)),
        "binarize": data.binarize,
        "splits": {name: len(rows) for name, rows in data.splits.items()},
    }


def spread(parts: Iterable[Tensor]) -> tuple[float, float, float]:
    """Share of missing values, smallest and largest value of blocks of rows."""
    total = missing = 0
    ends = [float("nan")]
    for part in parts:
        seen = part[~part.isnan()]
        total += part.numel()
        missing += part.numel() - seen.numel()
        if seen.numel():
            ends += [seen.min().item(), seen.max().item()]
    return missing / total, float(np.fmin.reduce(ends)), float(np.fmax.reduce(ends))
