"""What probability integral transforms say: p-values, sizes of the errors, coverage, and a verdict
in words.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ppl_vae.diagnostics.uniformity import holm, uniformity_p_value

__all__ = ["CalibrationSummary", "central_coverage", "summarise"]

LEVELS = (0.5, 0.9)
SMALL = 0.1  # sd: an error that is seen but hardly matters
MOST_ROWS = 8  # latent dimensions that are printed; of more, the worst
WORST = 5
NEAREST = 1e-15  # to 0 and 1, for normal scores


@dataclass(frozen=True)
class CalibrationSummary:
    """P-values of uniformity with the sizes of the errors, latent dimensions first.

    Args:
        names: Latent dimensions and quantities, (Q,).
        num_latents: How many of them are latent dimensions.
        p_value: Of uniformity, each on its own, (Q,).
        adjusted: After Holm's correction for their number, (Q,).
        bias: Mean of the normal scores of the PIT, (Q,): by how many sds of the draws the truth
            lies above them, where the draws are normal; 0 is right, with standard error 1 /
            sqrt(N).
        spread: Their sd, (Q,): the error's sd in sds of the draws; 1 is right, above it the draws
            are too narrow; standard error 1 / sqrt(2 N).
        coverage: Share of truths in central intervals of 50 and 90 %, (2, Q).
        hpd_coverage: Share of truths in highest-density regions of 50 and 90 %, (2,); NaN where q
            has no density.
        num_data: Number of simulated data N.
        mean_effective: How many independent draws the draws of a datum are worth, on average.
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
    mean_effective: float
    method: str
    level: float

    @property
    def flagged(self) -> tuple[str, ...]:
        """What departs from uniform, the worst first."""
        worst = self.p_value.argsort(kind="stable")
        return tuple(self.names[i] for i in worst if self.adjusted[i] < self.level)

    @property
    def verdict(self) -> str:
        """Pass, look (there is an error, and it is small) or fail, and why."""
        latents = [name for name in self.flagged if name in self.names[: self.num_latents]]
        if not self.flagged:
            tested = f"{len(self.names)} quantit{'y' if len(self.names) == 1 else 'ies'}"
            lowest = f"smallest p {self.adjusted.min():.2g} after correction for {tested}"
            return f"pass: nothing departs from uniform ({lowest})"
        if latents:
            first = (
                f"{latents[0]} departs"
                if len(latents) == 1
                else f"{latents[0]} and {len(latents) - 1} more depart"
            )
            joint = [name for name in self.flagged if name not in latents]
            also = f"; also {', '.join(joint)}" if joint else ""
            return f"{self._grade}: {first} from uniform: {self._error(latents[0])}{also}"
        alone = f"{'the latent' if self.num_latents == 1 else 'each latent dimension'} passes on its own, but not"
        misses = "depends on x" if self.num_latents == 1 else "latents depend on each other or on x"
        why = f"q misses how {'z ' * (self.num_latents == 1)}{misses}, or is off by a little everywhere"
        return f"{self._grade}: {alone} {', '.join(self.flagged)}: {why}"

    @property
    def _grade(self) -> str:
        found = [self.names.index(name) for name in self.flagged]
        size = np.maximum(np.abs(self.bias[found]), np.abs(np.log(self.spread[found])))
        return "fail" if (size > SMALL).any() else "look"

    def _error(self, name: str) -> str:
        bias, spread = (
            float(values[self.names.index(name)]) for values in (self.bias, self.spread)
        )
        if abs(bias) > np.sqrt(2) * abs(np.log(spread)):  # in standard errors
            return f"draws {abs(bias):.2f} sd too {'low' if bias > 0 else 'high'}"
        width = "narrow" if spread > 1 else "wide"
        return f"draws too {width}, with {1 / spread:.2f} of the sd that they should have"

    def __str__(self) -> str:
        shown = self._shown()
        width = max(8, *(len(self.names[i]) for i in shown))
        head = f"{'':<{width}}         p  adjusted    bias  spread  in 50 %  in 90 %"
        rows = [
            f"{self.names[i]:<{width}}  {self.p_value[i]:8.2g}  {self.adjusted[i]:8.2g}  "
            f"{self.bias[i]:6.2f}  "
            f"{self.spread[i]:6.2f}  {100 * self.coverage[0, i]:7.1f}  "
            f"{100 * self.coverage[1, i]:7.1f}"
            for i in shown
        ]
        left_out = self.num_latents - sum(i < self.num_latents for i in shown)
        more = [f"{left_out} more latent dimensions have larger p"] * (left_out > 0)
        n = self.num_data
        errors = (
            f"{1 / n**0.5:6.2f}  {1 / (2 * n) ** 0.5:6.2f}  {50 / n**0.5:7.1f}  {30 / n**0.5:7.1f}"
        )
        regions = "highest-density regions hold {:.1f} and {:.1f} % of the truths".format(
            *100 * self.hpd_coverage
        )
        return "\n".join(
            [
                f"{n} simulated data, {self.method}: worth {self.mean_effective:.0f} independent "
                "draws per datum",
                *(head, *rows, *more, f"{'se':<{width}}  {'':18}  {errors}"),
                *[f"50 and 90 % {regions}"] * bool(np.isfinite(self.hpd_coverage).all()),
                self.verdict,
            ]
        )

    def _shown(self) -> list[int]:
        """Rows to print: the latent dimensions, or the worst of them, and all quantities."""
        latents = np.arange(self.num_latents)
        if len(latents) > MOST_ROWS:
            latents = self.p_value[: self.num_latents].argsort(kind="stable")[:WORST]
        return [*latents.tolist(), *range(self.num_latents, len(self.names))]


def summarise(
    pit: np.ndarray,
    names: tuple[str, ...],
    num_latents: int,
    *,
    num_effective: np.ndarray | None = None,
    method: str = "",
    level: float = 0.05,
) -> CalibrationSummary:
    """What transforms (N, Q) say. `calibration(...).summary()` calls it.

    Example:
        See `CalibrationSummary`.
    """
    p_value, scores = uniformity_p_value(pit.T), ndtri(pit.clip(NEAREST, 1 - NEAREST))
    levels = np.asarray(LEVELS)
    hpd = (
        (pit[:, names.index("hpd")] <= levels[:, None]).mean(1)
        if "hpd" in names
        else np.full(len(levels), np.nan)
    )
    return CalibrationSummary(
        names=names,
        num_latents=num_latents,
        p_value=p_value,
        adjusted=holm(p_value),
        bias=scores.mean(0),
        spread=scores.std(0),
        coverage=central_coverage(pit, levels),
        hpd_coverage=hpd,
        num_data=len(pit),
        mean_effective=np.nan if num_effective is None else float(num_effective.mean()),
        method=method,
        level=level,
    )


def central_coverage(pit: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of the truths in the central interval of each level, (N, Q) and (*L,) -> (*L, Q).

    Example:
        >>> central_coverage(np.array([[0.1], [0.5], [0.7]]), np.array([0.5])).round(3).tolist()
        [[0.667]]
    """
    return (np.abs(2 * pit - 1) <= levels[..., None, None]).mean(-2)
