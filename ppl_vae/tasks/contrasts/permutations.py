"""Permutation p-values of group differences, one by one and by the largest of all."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import batched, combinations, product
from math import comb, prod

import numpy as np

from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.tasks.contrasts.design import Design

__all__ = ["PermutationTest", "permutation_test"]

NUMBERS_AT_ONCE = 1 << 22
ROUNDING = 1e-9  # differences that are equal but for rounding count as equal


@dataclass(frozen=True)
class PermutationTest(Shown):
    """P-values of M differences over relabelled units.

    Args:
        p_values: Share of the labellings whose difference is at least as large, (M,).
        max_t: The same for the largest of several differences in units of their sd: adjusted
            p-values, (M,), which keep the probability of any false discovery.
        scale: Standard deviation of the units within strata, (M,).
        num_permutations: Number of labellings.
        is_exact: Whether these are all that there are.
        is_balanced: Whether the groups have as many units in each stratum, and can be exchanged.

    Example:
        >>> values = np.array([[0.0], [1.0], [2.0], [9.0]])
        >>> found = permutation_test(Design.of(4, [0, 0, 1, 1]), values)
        >>> found.p_values.round(4).tolist(), round(found.smallest, 4)
        ([0.3333], 0.3333)
    """

    p_values: np.ndarray
    max_t: np.ndarray
    scale: np.ndarray
    num_permutations: int
    is_exact: bool
    is_balanced: bool = False

    @property
    def smallest(self) -> float:
        """The smallest possible p-value."""
        if self.is_exact:
            return (1 + self.is_balanced) / self.num_permutations
        return 1 / (self.num_permutations + 1)


def permutation_test(
    design: Design,
    values: np.ndarray,
    num_permutations: int = 9999,
    *,
    seed: int = 0,
    progress: bool = True,
) -> PermutationTest:
    """Two-sided p-values of the difference of each of M values between the groups.

    Under the hypothesis that labels of units are exchangeable within strata, each labelling with as
    many units of each group in each stratum is equally probable. All are enumerated if there are at
    most `num_permutations`; otherwise so many are drawn, and p = (1 + number at least as large) /
    (1 + number drawn), which is valid too. The absolute difference is an increasing function of
    |t| in the regression on group and strata, whose residual sum of squares it determines.
    `max_t` is Westfall and Young's step-down procedure.

    Args:
        design: Groups, strata and subjects.
        values: The rows' values, (N, M), computed without knowledge of the groups.
        num_permutations: Largest number of labellings.
        seed: Seed of the labellings.
        progress: Whether to show a bar when it takes more than two seconds.

    References:
        Westfall and Young (1993), Resampling-based multiple testing, Wiley, algorithm 4.1; Phipson
        and Smyth (2010), Permutation p-values should never be zero, Statistical Applications in
        Genetics and Molecular Biology 9; Winkler et al. (2014), Permutation inference for the
        general linear model, NeuroImage 92 (exchangeability blocks).

    Example:
        See `PermutationTest`.
    """
    centred = design.centred(values)
    freedom = max(1, len(centred) - len(design.strata))
    scale = np.sqrt(np.square(centred).sum(0) / freedom)
    unit_free = centred / np.where(scale > 0, scale, 1.0)
    observed = abs(design.second @ unit_free)
    order = np.argsort(-observed, kind="stable")
    threshold = observed - ROUNDING * np.maximum(observed, 1.0)
    labellings = Labellings(design, num_permutations, seed)
    at_least = np.zeros(len(observed))
    largest_at_least = np.zeros(len(observed))
    with progress_bar(len(labellings), "permutations", unit="", progress=progress) as bar:
        for labels in labellings:
            found = abs(labels @ unit_free)
            at_least += (found >= threshold).sum(0)
            largest = np.maximum.accumulate(found[:, order[::-1]], axis=1)[:, ::-1]
            largest_at_least += (largest >= threshold[order]).sum(0)
            bar.update(len(labels))
    own = not labellings.are_all  # the labelling that was observed
    shares = (largest_at_least + own) / (len(labellings) + own)
    max_t = np.empty_like(shares)
    max_t[order] = np.maximum.accumulate(shares)
    p_values = (at_least + own) / (len(labellings) + own)
    is_balanced = all(2 * design.second[each].sum() == len(each) for each in design.strata)
    number, are_all = len(labellings), labellings.are_all
    return PermutationTest(p_values, max_t, scale, number, are_all, is_balanced)


class Labellings:
    """All labellings of the units, or random ones, some at a time, (labellings, U) of 0 and 1."""

    def __init__(self, design: Design, most: int, seed: int) -> None:
        self.design = design
        self.seed = seed
        total = prod(comb(len(each), int(design.second[each].sum())) for each in design.strata)
        self.are_all = total <= most
        self.num = min(total, most)
        self.at_once = max(1, NUMBERS_AT_ONCE // len(design.second))

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._all() if self.are_all else self._drawn()

    def _all(self) -> Iterator[np.ndarray]:
        choices = [
            combinations(each.tolist(), int(self.design.second[each].sum()))
            for each in self.design.strata
        ]
        for some in batched(product(*choices), self.at_once):
            labels = np.zeros((len(some), len(self.design.second)))
            for row, chosen in zip(labels, some, strict=True):
                row[[unit for units in chosen for unit in units]] = 1
            yield labels

    def _drawn(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        given = self.design.second.astype(float)
        for start in range(0, self.num, self.at_once):
            labels = np.tile(given, (min(self.at_once, self.num - start), 1))
            for units in self.design.strata:
                labels[:, units] = rng.permuted(labels[:, units], axis=1)
            yield labels
