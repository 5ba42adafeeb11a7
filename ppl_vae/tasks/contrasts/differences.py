"""Differences between two groups: draws given x, probabilities, p-values, discoveries."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae.runtime.checks import one_of, real_number, warn_caller
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table
from ppl_vae.tasks.contrasts.permutations import PermutationTest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GroupDifferences"]

METHODS = ("max-t", "bh", "by")
SHOWN = 10  # rows of a printed table


@dataclass(frozen=True, repr=False)
class GroupDifferences(Shown):
    """Differences of M latents or features; `print` shows those with the smallest p-values.

    Args:
        what: "latents" or "features".
        names: Their names, (M,).
        draws: Draws of the differences given x, (S, M).
        test: Their permutation p-values.
        method: How p-values are adjusted by default: "max-t", "bh" or "by".
        observed: Differences of the observed x, (M,), NaN where values are missing; None of
            latents.

    Example:
        >>> test = PermutationTest(np.array([0.02]), np.array([0.02]), np.ones(1), 99, False)
        >>> draws = np.array([[0.5], [1.0], [1.5], [-0.5]])
        >>> found = GroupDifferences("latents", ("z[0]",), draws, test, "max-t")
        >>> found.mean.tolist(), found.probability().tolist(), found.discoveries().tolist()
        ([0.625], [0.75], [True])
    """

    what: str
    names: tuple[str, ...]
    draws: np.ndarray
    test: PermutationTest
    method: str
    observed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mean(self) -> np.ndarray:
        """E(difference given x), (M,)."""
        return self.draws.mean(0)

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviations, (M,)."""
        return self.draws.std(0, ddof=1)

    @property
    def standardised(self) -> np.ndarray:
        """Means in units of the standard deviation of rows (or subjects) within strata, (M,)."""
        scale = self.test.scale
        return np.where(scale > 0, self.mean / np.where(scale > 0, scale, 1.0), 0.0)

    @property
    def p_values(self) -> np.ndarray:
        """Permutation p-values, two-sided, (M,)."""
        return self.test.p_values

    @property
    def order(self) -> np.ndarray:
        """Numbers of all, the smallest p-value first and then the largest difference in sds."""
        return np.lexsort((-abs(self.standardised), self.p_values))

    def probability(self, threshold: float = 0.0) -> np.ndarray:
        """P(difference > threshold given x), (M,), the share of the draws; ties count half.

        Args:
            threshold: The smallest difference that matters.
        """
        real_number(threshold, "threshold")
        above = (self.draws > threshold).mean(0)
        return above + (self.draws == threshold).mean(0) / 2

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Equal-tailed posterior intervals, (2, M).

        Args:
            level: Probability of each interval.
        """
        tail = (1 - real_number(level, "level", above=0, below=1)) / 2
        return np.quantile(self.draws, [tail, 1 - tail], axis=0)

    def adjusted(self, method: Literal["max-t", "bh", "by"] | None = None) -> np.ndarray:
        """Adjusted p-values, (M,): the smallest alpha at which each difference is discovered.

        Args:
            method: "max-t" (Westfall and Young: probability of any false discovery), "bh"
                (Benjamini and Hochberg: false discovery rate, for p-values that depend on each
                other positively) or "by" (Benjamini and Yekutieli: the same for any dependence);
                None is the default, "max-t" for latents and "bh" for features.
        """
        from scipy.stats import false_discovery_control

        chosen = one_of(method or self.method, "method", METHODS)
        if chosen == "max-t":
            return self.test.max_t
        return false_discovery_control(self.p_values, method=chosen)

    def discoveries(
        self, alpha: float = 0.05, method: Literal["max-t", "bh", "by"] | None = None
    ) -> np.ndarray:
        """Differences found at a level of alpha, (M,) booleans.

        Args:
            alpha: Probability of any false discovery ("max-t") or false discovery rate.
            method: As in `adjusted`.
        """
        real_number(alpha, "alpha", above=0, below=1)
        found = self.adjusted(method) <= alpha
        if not found.any():
            self._warn_of_few(alpha, method or self.method)
        return found

    def to_frame(self, level: float = 0.95) -> "pd.DataFrame":
        """One row for each latent or feature.

        Args:
            level: Probability of the intervals.
        """
        import pandas as pd

        low, high = self.interval(level)
        columns = {
            "difference": self.mean,
            "sd": self.sd,
            "low": low,
            "high": high,
            "standardised": self.standardised,
            "probability": self.probability(),
            "p_value": self.p_values,
            "adjusted": self.adjusted(),
        }
        if self.observed is not None:
            columns["observed"] = self.observed
        return pd.DataFrame(columns, index=pd.Index(self.names, name=self.what.removesuffix("s")))

    def __str__(self) -> str:
        low, high = self.interval()
        columns = (self.mean, low, high, self.probability(), self.p_values, self.adjusted())
        order = self.order[:SHOWN]
        head = (self.what, "difference", "95% interval", "P(> 0)", "p", f"p ({self.method})")
        rows: list[Any] = [head]
        for i in order:
            mean, *ends, probability, p, adjusted = (each[i] for each in columns)
            between = "[{:.3g}, {:.3g}]".format(*ends)
            numbers = (f"{mean:.3g}", between, f"{probability:.3f}", f"{p:.2g}", f"{adjusted:.2g}")
            rows.append((self.names[i], *numbers))
        more = len(self) - len(order)
        return table(rows) + f"\nand {more} more with larger p-values" * bool(more)

    @property
    def verdict(self) -> str:
        """How many differ at 0.05, in words."""
        num = int((self.adjusted() <= 0.05).sum())
        return f"{num} of {len(self)} {self.what} differ ({self.method} 0.05)"

    def __repr__(self) -> str:
        return f"GroupDifferences({self.verdict})"

    def _warn_of_few(self, alpha: float, method: str) -> None:
        """Say that there are too few labellings for one discovery."""
        tests = {"max-t": 1.0, "bh": len(self), "by": len(self) * _harmonic(len(self))}[method]
        if self.test.smallest * tests <= alpha:
            return
        remedy = f"give num_permutations={ceil(tests / alpha):,} or more"
        if self.test.is_exact:
            remedy = "there are no others, so compare fewer features or more rows"
        warn_caller(
            f"no discovery: the smallest p-value that {self.test.num_permutations} permutations "
            f"allow, {self.test.smallest:.2g}, is too large for one of {len(self)} {self.what} at "
            f"alpha={alpha:g} ({method}); {remedy}"
        )


def _harmonic(number: int) -> float:
    return float((1 / np.arange(1, number + 1)).sum())
