"""What `compare_estimators` comes to, in a sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_vae.diagnostics.estimators.row import EstimatorRow

__all__ = ["advised"]


def advised(rows: Sequence[EstimatorRow]) -> str:
    """Which objective to take, by what margin, at what cost.

    The most signal of the encoder's gradient per unit of noise and square root of a second, among
    those that are above their floor; of the decoder's where the guide has no parameter.

    Example:
        >>> advised([])
        'No objective could be used.'
    """
    usable = [row for row in rows if not row.reason]
    if not usable:
        return "No objective could be used."
    group = "phi" if any(np.isfinite(_noise(row, "phi").variance) for row in usable) else "theta"
    told = [row for row in usable if _noise(row, group).snr >= _noise(row, group).snr_floor]
    if not told:
        return (
            f"No gradient of {group} can be told from 0, and their order is noise: draw more "
            "replicates, or look "
            "before the end of training, where the gradient is 0."
        )
    ranked = sorted(told, key=lambda row: -_per_second(row, group))
    best = ranked[0]
    noisy = len(usable) - len(told)
    rest = f"; {noisy} of {len(usable)} cannot be told from 0" if noisy else ""
    cost = f"{_milliseconds(best):.2f} ms a step"
    if len(ranked) == 1:
        return f"Take {best.name}: its gradient of {group} alone is told from 0, at {cost}{rest}."
    other = ranked[1]
    margin = (_per_second(best, group) / _per_second(other, group)) ** 2
    if _overlap(best, other, group):
        return (
            f"{best.name} and {other.name} are not told apart by their gradients of {group} (for "
            "the same precision "
            f"{1 / margin:.0%} of the time): take either, at {cost} or {_milliseconds(other):.2f} "
            f"ms{rest}."
        )
    return (
        f"Take {best.name}: to the same precision its gradient of {group} takes {1 / margin:.0%} "
        "of the time of "
        f"{other.name}, the next, at {cost} beside {_milliseconds(other):.2f} ms{rest}."
    )


def _noise(row: EstimatorRow, group: str) -> Any:
    return getattr(row, group)


def _milliseconds(row: EstimatorRow) -> float:
    return 1e3 * float(np.median(np.asarray(row.seconds)))


def _per_second(row: EstimatorRow, group: str) -> float:
    """Signal per noise that a second of steps reaches."""
    return float(_noise(row, group).snr / _milliseconds(row) ** 0.5)


def _overlap(one: EstimatorRow, other: EstimatorRow, group: str) -> bool:
    """Whether the intervals of the two ratios, each per square root of its time, have a point in
    common.
    """
    low = _noise(one, group).snr_low / _milliseconds(one) ** 0.5
    high = _noise(other, group).snr_high / _milliseconds(other) ** 0.5
    return bool(low <= high)
