"""Which estimates of log p(x) may stand side by side: of the same rows, both probabilities or both
densities.
"""

from collections.abc import Mapping

import numpy as np

from ppl_vae.evidence import Evidence
from ppl_vae.evidence.fingerprints import other_rows
from ppl_vae.evidence.pareto import GOOD_K

KINDS = {"counting": "a probability", "lebesgue": "a density"}


def refuse_unlike(evidence: Mapping[str, Evidence]) -> None:
    """Raise unless all are finite, of the same x and of one kind of likelihood, and none is an
    upper bound.

    What an evidence does not tell is not checked; `unchecked` says so.

    Raises:
        ValueError: names two that differ, and in what.
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
                f"of {len(each)} rows)"
                ": look at these rows, or leave the model out"
            )
    for property_of, complain in ((_rows, _other_rows), (_measure, _other_measure)):
        known = [name for name, each in evidence.items() if property_of(each)]
        for name in known[1:]:
            one, other = evidence[known[0]], evidence[name]
            if property_of(one) != property_of(other):
                raise ValueError(
                    f"{known[0]!r} and {name!r} cannot be compared: {complain(one, other)}"
                )


def unchecked(evidence: Mapping[str, Evidence]) -> list[str]:
    """A sentence for each check that could not be made."""
    parts = (
        ("which rows it was computed on", _rows),
        ("whether it is a probability or a density", _measure),
    )
    unknown = [
        (what, [name for name, each in evidence.items() if not of(each)]) for what, of in parts
    ]
    return [
        f"Not checked: the evidence of {_listed(names)} does not tell {what}."
        for what, names in unknown
        if names
    ]


def of_bounds(shares: Mapping[str, float]) -> list[str]:
    """Which models have lower bounds among their rows, and what to do about it."""
    bounded = [f"{name} ({share:.1%} of the rows)" for name, share in shares.items() if share > 0]
    return [
        f"log p(x) is a lower bound, not an estimate, for {', '.join(bounded)}: an interval "
        "without an end is "
        "proved on one side alone. `refine` the guide, or give `evidence_interval` of these rows."
    ] * bool(bounded)


def of_k_hat(shares: Mapping[str, float]) -> list[str]:
    """What k-hat says of log p(x) of each model."""
    unknown = [name for name, share in shares.items() if np.isnan(share)]
    bad = [name for name, share in shares.items() if share > 0]
    said = (
        (unknown, "k-hat of {} is unknown: whether log p(x) can be believed is as well."),
        (bad, f"k-hat > {GOOD_K} for some rows of {{}}."),
    )
    return [text.format(_listed(names)) for names, text in said if names]


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _rows(evidence: Evidence) -> bytes:
    return b"" if evidence.digests is None else evidence.digests.tobytes()


def _measure(evidence: Evidence) -> str:
    return evidence.measure


def _other_rows(one: Evidence, other: Evidence) -> str:
    return other_rows(np.asarray(one.digests), np.asarray(other.digests))


def _other_measure(one: Evidence, other: Evidence) -> str:
    kinds = [KINDS.get(each.measure, each.measure) for each in (one, other)]
    return f"log p(x) is that of {kinds[0]} of x in one and of {kinds[1]} in the other"
