"""Standard errors by leaving out one group after the other."""

import numpy as np


def jackknife_se(left_out: np.ndarray) -> np.ndarray:
    """Standard errors of statistics, (...), from their values without each group, (G, ...)."""
    num_groups = len(left_out)
    squares = np.square(left_out - left_out.mean(0)).sum(0)
    return np.sqrt((num_groups - 1) / num_groups * squares)


def means_without(groups: np.ndarray) -> np.ndarray:
    """Means over all groups but one, (G, ...), from those of groups of one size."""
    return (groups.sum(0) - groups) / (len(groups) - 1)
