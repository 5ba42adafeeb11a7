"""What is worth saying before training, and after it: too few rows, constant features, a bound that
still rises.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import theilslopes
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.programs.traces import Program
from ppl_vae.training.result import FitResult

__all__ = ["constant_features", "few_rows", "still_rising", "warn_after", "warn_before"]

logger = logging.getLogger(__name__)

FEW_ROWS = {"train": 50, "valid": 10, "test": 10}
FEWEST_EPOCHS = 10  # that a trend is read from
SHARE = 0.3  # of the epochs, the last ones
LEVEL = 0.999  # of the trend's interval: bounds of neighbouring epochs are correlated
LEAST_GAIN = 0.1  # nats in a tenth of the epochs; less is not worth a word


def warn_before(model: Program, data: Dataset) -> None:
    """Say what no training mends.

    Example:
        >>> warn_before(lambda x: None, Dataset(np.zeros((200, 2))))
    """
    sizes = {name: len(rows) for name, rows in data.splits.items()} or {"train": len(data)}
    is_density = getattr(getattr(model, "likelihood", None), "measure", "") == "lebesgue"
    x = data.train.x
    constant = constant_features(x) if is_density and isinstance(x, Tensor) else None
    for message in (few_rows(sizes), constant):
        if message is not None:
            logger.warning(message)


def warn_after(result: FitResult) -> None:
    """Say that the held-out bound still rises, where it does.

    Example:
        >>> warn_after(FitResult(seed=0, objective="IWAE(5)"))
    """
    history = result.history
    rising = still_rising(
        history.get("valid", []), history.get("kl_weight", [])[-len(history.get("valid", [])) :]
    )
    if rising is not None and result.stopped != "early stopping":
        logger.warning(rising)


def few_rows(sizes: Mapping[str, int]) -> str | None:
    """A sentence where a split is too small to say much; None where all are large enough.

    Example:
        >>> few_rows({"train": 16, "test": 2})
        'few rows (16 train, 2 test): a VAE overfits them, and no estimate over them is worth much'
    """
    few = [
        f"{sizes[name]} {name}"
        for name, least in FEW_ROWS.items()
        if sizes.get(name, least) < least
    ]
    return (
        f"few rows ({', '.join(few)}): a VAE overfits them, and no estimate over them is worth much"
        if few
        else None
    )


def constant_features(x: Tensor) -> str | None:
    """A sentence where features of the training rows do not vary: a learned scale shrinks to its
    floor there.

    Example:
        >>> constant_features(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        '1 of 2 features is constant in the training rows (the first is 1): its density rises ...'
    """
    flat = x.reshape(len(x), -1)
    known = ~flat.isnan()
    low, high = (
        torch.where(known, flat, fill).aminmax(dim=0)[i]
        for i, fill in ((0, torch.inf), (1, -torch.inf))
    )
    constant = torch.nonzero((low >= high) & known.any(0)).flatten().tolist()
    if not constant or len(x) < 2:
        return None
    verb, whose = ("is", "its") if len(constant) == 1 else ("are", "their")
    return (
        f"{len(constant)} of {flat.shape[1]} features {verb} constant in the training rows (the "
        "first is "
        f"{constant[0]}): {whose} density rises as far as the scale may fall, and log p(x) "
        "measures its floor; "
        "leave them out"
    )


def still_rising(bounds: Sequence[float], kl_weights: Sequence[float]) -> str | None:
    """A sentence where the held-out bound still rises at the end; None where it has levelled off,
    or nobody can tell.

    Theil and Sen's slope of the last three tenths of the epochs at full KL weight, whose 99.9 %
    interval is above 0, and which adds more than 0.1 nats in a tenth of the epochs.

    References:
        Sen (1968), Estimates of the regression coefficient based on Kendall's tau, JASA 63.

    Example:
        >>> still_rising([-100.0 + i for i in range(40)], [1.0] * 40)
        'the held-out bound still rose at the end, by 4.00 nats in the last 4 epochs: ...'
    """
    if len(bounds) == 0:
        return None
    settled = [
        bound
        for bound, weight in zip(bounds, kl_weights, strict=True)
        if weight >= 1 and np.isfinite(bound)
    ]
    last = np.array(settled[-max(FEWEST_EPOCHS, round(SHARE * len(settled))) :])
    if len(last) < FEWEST_EPOCHS:
        return None
    tenth = max(1, len(settled) // 10)
    found = theilslopes(last, alpha=LEVEL)
    if found.low_slope <= 0 or found.slope * tenth <= LEAST_GAIN:
        return None
    gain = f"{found.slope * tenth:.2f} nats in the last {tenth} epoch{'s' * (tenth > 1)}"
    return f"the held-out bound still rose at the end, by {gain}: train longer (num_epochs)"
