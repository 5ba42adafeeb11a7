"""P-values, sizes of the errors, coverage and a verdict from probability integral transforms."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ppl_vae.diagnostics.uniformity import holm, uniformity_p_value
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table

__all__ = ["CalibrationSummary", "central_coverage", "summarise"]

LEVELS = (0.5, 0.9)
SMALL = 0.1  # sd: a smaller error is detected but hardly matters
MOST_ROWS = 8  # latent dimensions that are printed; of more, the worst
WORST = 5
NAMED = 4  # masked latents that are named
FEWEST = 2  # ranks of a quantity that is tested
NEAREST = 1e-15  # to 0 and 1, for normal scores
COLUMNS = {
    "p": ".2g",
    "adjusted": ".2g",
    "bias": ".2f",
    "spread": ".2f",
    "in 50 %": ".1f",
    "in 90 %": ".1f",
}


@dataclass(frozen=True)
class CalibrationSummary(Shown):
    """P-values of uniformity with the sizes of the errors, latent dimensions first.

    Args:
        names: Latent dimensions and quantities, (Q,).
        num_latents: Number of them that are latent dimensions.
        p_value: P-values of uniformity, each on its own, (Q,).
        adjusted: The same after Holm's correction for their number, (Q,).
        bias: Mean of the normal scores of the PIT, (Q,). For normal draws it is the distance of the
            truth above them in sds of the draws; 0 is correct, with standard error 1 / sqrt(N).
        spread: Sd of the normal scores, (Q,): the sd of the truth in sds of the draws; 1 is
            correct, above 1 the draws are too narrow; standard error 1 / sqrt(2 N).
        coverage: Share of truths in central intervals of 50 and 90 %, (2, Q).
        hpd_coverage: Share of truths in highest-density regions of 50 and 90 %, (2,); NaN if q has
            no density.
        num_data: Number of simulated observations N.
        num_ranked: Number of them that are ranked, (Q,): fewer than N where a latent is masked. A
            quantity with fewer than two is not tested: its p-value and errors are NaN.
        mean_effective: Mean effective number of independent draws for each observation.
        method: Where the draws came from.
        level: Adjusted p-values below it are errors.

    References:
        Talts et al. (2018), arXiv:1804.06788, section 4.2 (how ranks read); Holm (1979), Scand. J.
        Statist. 6.

    Example:
        >>> even = (np.arange(400)[:, None] + 0.5) / 400
        >>> narrow = summarise(np.where(even < 0.5, even**2, 1 - (1 - even) ** 2), ("z",), 1)
        >>> narrow.verdict
        'fail: z departs from uniform: draws too narrow, with 0.53 of the sd that they should have'
    """

    names: tuple[str, ...]
    num_latents: int
    p_value: np.ndarray
    adjusted: np.ndarray
    bias: np.ndarray
    spread: np.ndarray
    coverage: np.ndarray
    hpd_coverage: np.ndarray
    num_data: int
    num_ranked: np.ndarray
    mean_effective: float
    method: str
    level: float

    @property
    def flagged(self) -> tuple[str, ...]:
        """The quantities that depart from uniform, the worst first."""
        worst = self.p_value.argsort(kind="stable")
        return tuple(self.names[i] for i in worst if self.adjusted[i] < self.level)

    @property
    def verdict(self) -> str:
        """Pass, look (there is an error, but it is small) or fail, and why."""
        latents = self.names[: self.num_latents]
        first, *rest = [name for name in self.flagged if name in latents] or [""]
        joint = [name for name in self.flagged if name not in latents]
        if not self.flagged:
            num = int((~np.isnan(self.p_value)).sum())
            tested = "1 quantity" if num == 1 else f"{num} quantities"
            lowest = f"smallest p {np.nanmin(self.adjusted):.2g} after correction for {tested}"
            return f"pass: nothing departs from uniform ({lowest})"
        if first:
            depart = f"{first} and {len(rest)} more depart" if rest else f"{first} departs"
            also = f"; also {', '.join(joint)}" if joint else ""
            return f"{self._grade}: {depart} from uniform: {self._error(first)}{also}"
        alone = "each latent dimension passes"
        misses = "how latents depend on each other or on x"
        if self.num_latents == 1:
            alone = "the latent passes"
            misses = "how z depends on x"
        why = f"q misses {misses}, or is off by a little everywhere"
        fail = f"{', '.join(joint)} {'does' if len(joint) == 1 else 'do'} not"
        return f"{self._grade}: {alone} on its own, but {fail}: {why}"

    @property
    def left_out(self) -> str:
        """Which latents are masked, and so not ranked, and for how many observations; or ""."""
        missing = self.num_data - self.num_ranked
        most = (-missing).argsort(kind="stable")[:NAMED]
        named = [f"{self.names[i]} for {missing[i]}" for i in most if missing[i]]
        if not named:
            return ""
        more = int((missing > 0).sum()) - len(named)
        others = f" and {more} more latents" if more else ""
        of = f"of {self.num_data} observations"
        return f"masked latents are not ranked: {', '.join(named)} {of}{others}"

    @property
    def _grade(self) -> str:
        found = [self.names.index(name) for name in self.flagged]
        size = np.maximum(np.abs(self.bias[found]), np.abs(np.log(self.spread[found])))
        return "fail" if (size > SMALL).any() else "look"

    def _error(self, name: str) -> str:
        """The larger error of a latent dimension, in standard errors, in words."""
        i = self.names.index(name)
        bias = self.bias[i]
        spread = self.spread[i]
        if abs(bias) > np.sqrt(2) * abs(np.log(spread)):
            return f"draws {abs(bias):.2f} sd too {'low' if bias > 0 else 'high'}"
        width = "narrow" if spread > 1 else "wide"
        return f"draws too {width}, with {1 / spread:.2f} of the sd that they should have"

    def __str__(self) -> str:
        n = self.num_data
        latents = np.arange(self.num_latents)
        if len(latents) > MOST_ROWS:
            latents = self.p_value[: self.num_latents].argsort(kind="stable")[:WORST]
        columns = (self.p_value, self.adjusted, self.bias, self.spread, *100 * self.coverage)
        values = np.column_stack(columns)
        forms = list(COLUMNS.values())
        rows = [("", *COLUMNS)]
        for i in (*latents, *range(self.num_latents, len(self.names))):
            rows.append((self.names[i], *map(_cell, values[i], forms)))
        errors = (n**-0.5, (2 * n) ** -0.5, 50 / n**0.5, 30 / n**0.5)
        of_all = f"se of {n} ranks" if self.left_out else "se"
        rows.append((of_all, "", "", *map(_cell, errors, forms[2:])))
        lines = [
            f"{n} simulated observations, {self.method}: worth {self.mean_effective:.0f} "
            "independent draws per observation",
            table(rows),
        ]
        if self.left_out:
            lines.append(self.left_out)
        if len(latents) < self.num_latents:
            more = self.num_latents - len(latents)
            lines.append(f"{more} more latent dimensions have larger p")
        if np.isfinite(self.hpd_coverage).all():
            half, most = 100 * self.hpd_coverage
            held = f"{half:.1f} and {most:.1f} % of the truths"
            lines.append(f"50 and 90 % highest-density regions contain {held}")
        return "\n".join([*lines, self.verdict])


def summarise(
    pit: np.ndarray,
    names: tuple[str, ...],
    num_latents: int,
    *,
    num_effective: np.ndarray | None = None,
    method: str = "",
    level: float = 0.05,
) -> CalibrationSummary:
    """Summary of transforms (N, Q). `calibration(...).summary()` calls it.

    Example:
        See `CalibrationSummary`.
    """
    levels = np.array(LEVELS)
    p_value, bias, spread, *coverage = np.array([_found(column, levels) for column in pit.T]).T
    hpd_coverage = np.full(len(levels), np.nan)
    if "hpd" in names:
        hpd_coverage = (pit[:, names.index("hpd")] <= levels[:, None]).mean(1)
    return CalibrationSummary(
        names=names,
        num_latents=num_latents,
        p_value=p_value,
        adjusted=holm(p_value),
        bias=bias,
        spread=spread,
        coverage=np.array(coverage),
        hpd_coverage=hpd_coverage,
        num_data=len(pit),
        num_ranked=(~np.isnan(pit)).sum(0),
        mean_effective=np.nan if num_effective is None else float(num_effective.mean()),
        method=method,
        level=level,
    )


def _found(pit: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """P-value, bias, spread and coverage at each level of the transforms that are not NaN."""
    pit = pit[~np.isnan(pit)]
    if len(pit) < FEWEST:
        return np.full(3 + len(levels), np.nan)
    scores = ndtri(pit.clip(NEAREST, 1 - NEAREST))
    coverage = central_coverage(pit[:, None], levels)[:, 0]
    return np.array([uniformity_p_value(pit), scores.mean(), scores.std(), *coverage])


def _cell(value: float, form: str) -> str:
    """A number in the table; nothing where it is not known."""
    return "" if np.isnan(value) else format(value, form)


def central_coverage(pit: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of the truths in the central interval of each level, (N, Q) and (*L,) -> (*L, Q).

    NaN is left out; a quantity without any number has the share NaN.

    Example:
        >>> central_coverage(np.array([[0.1], [0.5], [0.7]]), np.array([0.5])).round(3).tolist()
        [[0.667]]
    """
    with np.errstate(invalid="ignore"):  # 0 of 0
        inside = np.abs(2 * pit - 1) <= levels[..., None, None]
        return inside.sum(-2) / (~np.isnan(pit)).sum(-2)
