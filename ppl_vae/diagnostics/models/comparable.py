"""Estimates of log p(x) can be compared if they have the same rows and the same measure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_vae.evidence import Evidence
from ppl_vae.evidence.errors import normalised
from ppl_vae.evidence.fingerprints import WITH_MASK, other_rows

KINDS = {
    "counting": "a probability of x",
    "counting, given totals": "a probability of x given totals",
    "lebesgue": "a density of x",
}


def refuse_unlike(evidence: Mapping[str, Evidence]) -> None:
    """Raise ValueError unless all are finite lower bounds or estimates, of the same rows and kind.

    A property that an evidence does not record is not checked.
    """
    sizes = {name: len(each) for name, each in evidence.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) < 2:
        raise ValueError(
            f"compare_models needs log p(x) of the same rows, two or more; given {sizes}"
        )
    for name, each in evidence.items():
        if each.bound != "lower":
            raise ValueError(
                f"{name!r} holds bounds of kind {each.bound!r}: give estimates of log p(x), or "
                "lower bounds"
            )
        if len(bad := np.flatnonzero(~np.isfinite(each.log_evidence))):
            raise ValueError(
                f"log p(x) of {name!r} is {each.log_evidence[bad[0]]} at row {bad[0]} ({len(bad)} "
                f"of {len(each)} rows): look at these rows, or leave the model out"
            )
    for field, differ in (("digests", other_rows), ("measure", _other_measure)):
        known = list(recorded(evidence, field).items())
        for name, value in known[1:]:
            first, expected = known[0]
            if not np.array_equal(value, expected):
                raise ValueError(
                    f"{first!r} and {name!r} cannot be compared: {differ(expected, value)}"
                )
    refuse_other_weights(evidence)


def refuse_other_weights(evidence: Mapping[str, Evidence]) -> None:
    """Raise ValueError unless all have the same weights of rows, up to a factor, or none."""
    (first, one), *others = evidence.items()
    for name, other in others:
        ours = normalised(one.weights, len(one))
        theirs = normalised(other.weights, len(other))
        if (one.weights is None) != (other.weights is None) or not np.allclose(ours, theirs):
            raise ValueError(
                f"{first!r} and {name!r} cannot be compared: their rows have different weights; "
                "give both the same (Dataset(..., weights=), Evidence.exact(..., weights=))"
            )


def recorded(evidence: Mapping[str, Evidence], field: str) -> dict[str, Any]:
    """A field, by name, of those that have it."""
    values = {name: getattr(each, field) for name, each in evidence.items()}
    return {name: value for name, value in values.items() if value is not None and len(value)}


def _other_measure(one: str, other: str) -> str:
    kinds = []
    for measure in (one, other):
        of_x, joint, mask = measure.partition(WITH_MASK)
        kinds.append(f"{KINDS.get(of_x, of_x)}{joint and f' and of what is missing ({mask})'}")
    return f"log p(x) is that of {kinds[0]} in one and of {kinds[1]} in the other"
