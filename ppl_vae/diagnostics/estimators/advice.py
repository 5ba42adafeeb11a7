"""The recommendation of `compare_estimators`, in a sentence."""

from collections.abc import Sequence

import numpy as np

from ppl_vae.diagnostics.estimators.row import EstimatorRow

__all__ = ["advised"]


def advised(rows: Sequence[EstimatorRow]) -> str:
    """The objective to use, its margin and its cost.

    The best has the largest signal-to-noise ratio of the guide's gradient per square root of a
    second, among the ratios above their floor; if the guide has no parameter, of the model's
    gradient.

    Args:
        rows: The objectives that were compared.

    Example:
        >>> advised([])
        'No objective could be used.'
    """
    usable = [row for row in rows if not row.reason]
    if not usable:
        return "No objective could be used."
    has_phi = any(np.isfinite(row.phi.variance) for row in usable)
    group = "phi" if has_phi else "theta"
    clear = [row for row in usable if row.noise(group).snr >= row.noise(group).snr_floor]
    if not clear:
        return (
            f"No gradient of {group} can be distinguished from 0, so their order is noise: use "
            "more replicates, or compare before the end of training, when the gradient is 0."
        )
    num_noisy = len(usable) - len(clear)
    rest = f"; {num_noisy} of {len(usable)} cannot be distinguished from 0" * (num_noisy > 0)
    best, *others = sorted(clear, key=lambda row: -_ratios(row, group)[0])
    cost = f"at {1e3 * best.step_seconds:.2f} ms a step"
    if not others:
        return f"Use {best.name}: only its gradient of {group} differs from 0, {cost}{rest}."
    other = others[0]
    ratio, low, _ = _ratios(best, group)
    other_ratio, _, other_high = _ratios(other, group)
    share = f"{(other_ratio / ratio) ** 2:.0%} of the time"
    against = f"{cost} against {1e3 * other.step_seconds:.2f} ms{rest}"
    if low <= other_high:
        return (
            f"The gradients of {group} do not separate {best.name} and {other.name}, the best two "
            f"({share} for the same precision): use either, {against}."
        )
    return (
        f"Use {best.name}: its gradient of {group} reaches the same precision in {share} of "
        f"{other.name}, the second best, {against}."
    )


def _ratios(row: EstimatorRow, group: str) -> np.ndarray:
    """Signal-to-noise ratio and both ends of its interval, per square root of a second."""
    noise = row.noise(group)
    return np.array([noise.snr, noise.snr_low, noise.snr_high]) / row.step_seconds**0.5
