"""log p(x) of the rows without an estimate, estimated again from a guide refined for them."""

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
from ppl_vae.runtime.seeding import Stream, derived_seed

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
    """Estimates of log p(x); rows without one are estimated again from a refined guide.

    The first draws decide which rows are estimated again, with new draws. All values of these rows
    are replaced, since the larger of two lower bounds is not a lower bound in expectation.
    `checks["refined"]` is 1 for them.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.evidence import ImportanceSampling
        >>> bed = beds.linear_gaussian(num_data=20, guide_scale=0.2)
        >>> method = ImportanceSampling(500)
        >>> found = refined_evidence(bed.model, bed.guide, Dataset(bed.x), method, seed=0)
        >>> found.is_estimate.all(), found.checks["refined"].sum()
        (np.True_, np.float64(20.0))
    """
    options: dict[str, Any] = {"seed": seed, "progress": progress}
    if checkpoint is not None:
        options["checkpoint"] = checkpoint.with_suffix(".first.npz")
    found = log_evidence(model, guide, data, method, **options)
    refined = ~found.is_estimate
    if refined.any():
        rows = np.flatnonzero(refined)
        some = place(data[torch.as_tensor(rows)], model, guide)
        better = refine(
            model, guide, some, seed=derived_seed(seed, Stream.REFINEMENT), progress=progress
        )
        options["seed"] = derived_seed(seed, Stream.REFINED_EVIDENCE)
        if checkpoint is not None:
            options["checkpoint"] = checkpoint.with_suffix(".again.npz")
        again = log_evidence(model, better, some, method, **options)
        order = np.arange(len(found))
        order[rows] = len(found) + np.arange(len(rows))
        found = concatenate([found, again])[order]
    found = replace(found, checks={**found.checks, "refined": refined.astype(float)})
    if checkpoint is not None:
        found.save(checkpoint)
    return found
