"""Whether a bound still rises at the end of training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppl_vae.runtime.text import counted

__all__ = ["still_rising"]

FEWEST_EPOCHS = 10  # to read a trend from
SHARE = 0.3  # of the epochs, the last ones
LEVEL = 0.999  # of the trend's interval: bounds of neighbouring epochs are correlated
LEAST_GAIN = 0.1  # nats in a tenth of the epochs; a smaller one does not matter


def still_rising(bounds: Sequence[float], kl_weights: Sequence[float]) -> str | None:
    """A sentence if the held-out bound still rises at the end; None if no rise is visible.

    It rises if Theil and Sen's slope over the last three tenths of the epochs at full KL weight has
    a 99.9 % interval above 0, and adds more than 0.1 nats in a tenth of the epochs.

    References:
        Sen (1968), Estimates of the regression coefficient based on Kendall's tau, JASA 63.

    Example:
        >>> still_rising([-100.0 + i for i in range(40)], [1.0] * 40)
        'the held-out bound still rose at the end, by 4.00 nats in the last 4 epochs: ...'
    """
    found = trend(settled(bounds, kl_weights))
    if found is None or found.low <= 0 or found.gain <= LEAST_GAIN:
        return None
    gain = f"{found.gain:.2f} nats in the last {counted(found.num_epochs, 'epoch')}"
    return f"the held-out bound still rose at the end, by {gain}: train longer (num_epochs)"


class Trend(NamedTuple):
    """Change of a bound in a tenth of the epochs, at the end, with its 99.9 % interval."""

    gain: float
    low: float
    high: float
    num_epochs: int


def settled(bounds: Sequence[float], kl_weights: Sequence[float]) -> np.ndarray:
    """The finite bounds at full KL weight."""
    values = np.array(bounds, dtype=float)
    return values[(np.array(kl_weights, dtype=float)[: len(values)] >= 1) & np.isfinite(values)]


def trend(bounds: np.ndarray) -> Trend | None:
    """Theil and Sen's slope over the last three tenths of the epochs; None if these are few."""
    last = bounds[-max(FEWEST_EPOCHS, round(SHARE * len(bounds))) :]
    if len(last) < FEWEST_EPOCHS:
        return None
    from scipy.stats import theilslopes

    tenth = max(1, len(bounds) // 10)
    found = theilslopes(last, alpha=LEVEL)
    return Trend(found.slope * tenth, found.low_slope * tenth, found.high_slope * tenth, tenth)
