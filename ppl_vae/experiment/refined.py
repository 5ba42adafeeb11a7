"""log p(x) again for the rows without an estimate, from a guide that is refined for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data import Dataset
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.evidence.result import concatenate
from ppl_vae.programs.modules import place
from ppl_vae.programs.traces import Program
from ppl_vae.refinement import refine
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["refined_evidence"]


def refined_evidence(
    model: Program,
    guide: Program,
    data: Dataset,
    method: Any,
    *,
    seed: int,
    progress: bool = True,
    checkpoint: Path | None = None,
) -> Evidence:
    """Estimates of log p(x); rows without one are estimated again, with draws of their own, from a
    refined guide.

    Which rows, the first draws decide, and all of those are replaced, whatever comes out: the
    larger of two lower bounds would be none. `checks["refined"]` is 1 where that was done.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import ImportanceSampling
        >>> bed = beds.linear_gaussian(num_data=20, guide_scale=0.2)
        >>> found = refined_evidence(bed.model, bed.guide, Dataset(bed.x), ImportanceSampling(500), seed=0)
        >>> found.is_estimate.all(), found.checks["refined"].sum()
        (np.True_, np.float64(20.0))
    """
    files = [
        None if checkpoint is None else checkpoint.with_suffix(f".{part}.npz")
        for part in ("first", "again")
    ]
    first = log_evidence(
        model, guide, data, method, seed=seed, progress=progress, checkpoint=files[0]
    )
    rows = np.flatnonzero(~first.is_estimate)
    marked = np.zeros(len(first))
    found = first
    if len(rows):
        some = place(data[torch.as_tensor(rows)], model, guide)
        better = refine(model, guide, some, seed=derived_seed(seed, 1), progress=progress)
        options: dict[str, Any] = {
            "seed": derived_seed(seed, 2),
            "progress": progress,
            "checkpoint": files[1],
        }
        again = log_evidence(model, better, some, method, **options)
        order = np.arange(len(first))
        order[rows] = len(first) + np.arange(len(rows))
        marked[rows] = 1.0
        found = concatenate([first, again])[order]
    found = replace(found, checks={**found.checks, "refined": marked})
    if checkpoint is not None:
        found.save(checkpoint)
    return found
