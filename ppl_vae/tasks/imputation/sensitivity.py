"""Sensitivity of a pooled analysis to values that are not missing at random: delta adjustment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data.validation import as_array
from ppl_vae.diagnostics.axes import BESIDE, BLUE, VERMILION, new_axes
from ppl_vae.runtime.checks import one_line, real_number, suggestion
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table
from ppl_vae.tasks.imputation.pooling import Pooled, pool
from ppl_vae.tasks.imputation.shifts import Scale, Shift

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_vae.tasks.imputation.imputations import Imputations

__all__ = ["TippingPoint", "plot_tipping_point", "tipping_point"]


@dataclass(frozen=True, repr=False, eq=False)
class TippingPoint(Shown):
    """A pooled analysis for each delta, and the deltas at which its conclusion changes.

    Args:
        deltas: In ascending order, (D,).
        pooled: The pooled analysis for each of them.
        estimate: Name of the estimate that the conclusion is about.
        null: The value of no effect.
        neutral: The delta of values that are missing at random.
        label: What delta does.

    Example:
        >>> pooled = [pool([d, d], [0.04, 0.04]) for d in (0.0, 1.0)]
        >>> found = TippingPoint(np.array([0.0, 1.0]), pooled, "estimate", 0.0, 0.0, "added to x")
        >>> found.tips.round(3).tolist()
        [0.392]
    """

    deltas: np.ndarray
    pooled: Sequence[Pooled]
    estimate: str
    null: float
    neutral: float
    label: str

    @cached_property
    def tips(self) -> np.ndarray:
        """The deltas at which an end of the interval crosses the null value, ascending.

        Interpolated between the deltas, linearly; on the log scale for ratios.
        """
        along = self._along(self.deltas)
        found = np.sort(np.concatenate([_zeros(along, end - self.null) for end in self._ends()]))
        return np.exp(found) if self.neutral == 1 else found

    @property
    def nearest(self) -> float:
        """The tip nearest to the neutral delta; NaN where the conclusion does not change."""
        if not len(self.tips):
            return np.nan
        distance = np.abs(self._along(self.tips) - self._along(np.array(self.neutral)))
        return float(self.tips[distance.argmin()])

    @property
    def finding(self) -> str:
        """The finding in a sentence: the deltas with the conclusion of the neutral one."""
        at = int(np.abs(self._along(self.deltas) - self._along(np.array(self.neutral))).argmin())
        differs, each = "does not differ from", "any"
        if self._is_outside()[at]:
            differs, each = "differs from", "every"
        claim = f"{self.estimate} {differs} {self.null:g}"
        if not len(self.tips):
            return f"{claim} for {each} delta from {self.deltas[0]:.3g} to {self.deltas[-1]:.3g}"
        own = int((self.tips < self.deltas[at]).sum())
        # the conclusion changes at each tip, so that every second range has the same
        ranges = [self._range(i) for i in range(own % 2, len(self.tips) + 1, 2)]
        return f"{claim} for delta {' and '.join(ranges)}"

    def to_frame(self) -> "pd.DataFrame":
        """A row for each delta: the pooled estimate, and whether its interval holds the null."""
        import pandas as pd

        rows = [pooled.to_frame().loc[self.estimate] for pooled in self.pooled]
        frame = pd.DataFrame(rows, index=pd.Index(self.deltas, name="delta"))
        frame["covers_null"] = ~self._is_outside()
        return frame

    def __repr__(self) -> str:
        return f"TippingPoint({len(self.deltas)} deltas: {self.finding})"

    def __str__(self) -> str:
        rows = [["delta", "estimate", "se", "lower", "upper", "p"]]
        for row in self.to_frame().itertuples():
            numbers = (row.estimate, row.se, row.lower, row.upper)
            cells = [f"{number:.4g}" for number in numbers]
            rows.append([f"{row.Index:.4g}", *cells, f"{row.p_value:.2g}"])
        return f"{table(rows)}\ndelta: {self.label}\n{self.finding}"

    def _along(self, deltas: np.ndarray) -> np.ndarray:
        """Deltas on the scale on which they are interpolated."""
        return np.log(deltas) if self.neutral == 1 else deltas

    def _ends(self) -> np.ndarray:
        """Lower and upper ends of the intervals, (2, D)."""
        place = self.pooled[0].names.index(self.estimate)
        ends = [np.reshape(each.interval, (2, -1))[:, place] for each in self.pooled]
        return np.stack(ends, axis=1)

    def _is_outside(self) -> np.ndarray:
        """Whether the null value lies outside each interval, (D,)."""
        lower, upper = self._ends()
        return (lower > self.null) | (upper < self.null)

    def _range(self, i: int) -> str:
        """The deltas between tips i - 1 and i, in words."""
        if i == 0:
            return f"below {self.tips[0]:.3g}"
        if i == len(self.tips):
            return f"above {self.tips[-1]:.3g}"
        return f"between {self.tips[i - 1]:.3g} and {self.tips[i]:.3g}"


def _zeros(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where a line through these values crosses 0."""
    before = np.flatnonzero((values[:-1] > 0) != (values[1:] > 0))
    share = values[before] / (values[before] - values[before + 1])
    return places[before] + share * np.diff(places)[before]


def tipping_point(
    imputations: "Imputations",
    column: str | tuple[str, str],
    analysis: Callable[[Any], Any],
    deltas: Any = None,
    *,
    estimate: str | None = None,
    null: float = 0.0,
    scale: Scale = "auto",
    **pooling: Any,
) -> TippingPoint:
    """How far from missing at random a column can be before the conclusion of an analysis changes.

    Imputed values of one column are moved by delta, the analysis is run on each completed data set
    and pooled, for each delta. The scale keeps the support: real columns are shifted, x + delta, in
    their units; positive ones and counts are multiplied, delta x; for Booleans and ordered levels
    delta is added to the log-odds of each P(x >= k), for a level of a category without order to its
    log-odds. At the neutral delta (0, or 1 for ratios) values are missing at random. Which deltas
    are plausible is for subject matter to say: observed rows carry no information about it. The
    other columns keep their imputed values.

    Args:
        imputations: What `impute` returned.
        column: Its name; (name, level) for a category without order.
        analysis: Takes a completed frame (or array) and returns a fitted model (params,
            cov_params()) or a pair (estimate, variance), as `pool` takes them.
        deltas: Values of delta; None is nine, up to one sd of the column, a factor of 2, or 2 on
            the log-odds.
        estimate: Name of the estimate that the conclusion is about, where there are several.
        null: Its value where there is no effect.
        scale: "shift", "ratio" or "odds" instead of that of the kind of the column; "odds" also
            serves values between 0 and 1.
        pooling: Keywords of `pool`: dfcom, level, names.

    Returns:
        A table with a row for each delta, and the deltas at which the interval begins or ceases to
        cover the null value.

    Raises:
        ValueError: No value of the column was imputed, or there is no such column, level or
            estimate.

    References:
        Rubin (1977), Formalizing subjective notions about the effect of nonrespondents in sample
        surveys, JASA 72; Van Buuren (2018), Flexible imputation of missing data, section 9.2;
        Cro, Morris, Kenward and Carpenter (2020), Sensitivity analysis for clinical trials with
        missing continuous outcome data using controlled multiple imputation, Statistics in
        Medicine 39.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.tasks.imputation import impute
        >>> bed = beds.linear_gaussian(num_data=60)
        >>> x = bed.x.numpy().copy()
        >>> x[:20, 0] = np.nan
        >>> imputations = impute(bed.model, bed.guide, x, num_imputations=5, progress=False)
        >>> mean = lambda x: (x[:, 0].mean(), x[:, 0].var(ddof=1) / len(x))
        >>> found = tipping_point(imputations, "0", mean, [-6.0, 0.0, 6.0])
        >>> bool(found.to_frame().estimate.diff().dropna().round(4).eq(2.0).all())
        True
    """
    # Known by what is used of it: the module of the class is above this one.
    if not hasattr(imputations, "predictive"):
        raise TypeError(
            f"imputations are of type {type(imputations).__name__}: give what pv.impute returned"
        )
    real_number(null, "null")
    name, level = column if isinstance(column, tuple) else (column, None)
    shift = Shift(imputations, str(name), level, scale)
    grid = np.unique(shift.default_deltas() if deltas is None else as_array(deltas, np.float64))
    _check(grid, shift)
    pooled = [pool(list(map(analysis, shift.moved(delta))), **pooling) for delta in grid.tolist()]
    return TippingPoint(
        deltas=grid,
        pooled=pooled,
        estimate=_chosen(estimate, pooled[0].names),
        null=null,
        neutral=shift.neutral,
        label=shift.label,
    )


def plot_tipping_point(found: TippingPoint, ax: "Axes | None" = None) -> "Axes":
    """The pooled estimate and its interval against delta, and where the conclusion changes.

    Args:
        found: Result of `tipping_point`.
        ax: Where to draw.

    Example:
        >>> pooled = [pool([d, d], [0.04, 0.04]) for d in (0.0, 1.0)]
        >>> deltas = np.array([0.0, 1.0])
        >>> found = TippingPoint(deltas, pooled, "estimate", 0.0, 0.0, "added to imputed x")
        >>> plot_tipping_point(found).get_title()
        'estimate does not differ from 0 for delta below 0.392'
    """
    ax = ax or new_axes(7.4, 3.8)
    frame = found.to_frame()
    level = found.pooled[0].level
    band: dict[str, Any] = {"color": BLUE, "alpha": 0.2, "linewidth": 0}
    ax.fill_between(frame.index, frame.lower, frame.upper, label=f"{level:.0%} interval", **band)
    ax.plot(frame.index, frame.estimate, "o-", color=BLUE, markersize=4, label="pooled estimate")
    ax.axhline(found.null, color="0.3", linewidth=1)
    ax.axvline(found.neutral, color="0.6", linestyle="--", label="missing at random")
    for tip in found.tips:
        ax.axvline(tip, color=VERMILION, linewidth=1.5)
    if len(found.tips):
        ax.plot([], [], color=VERMILION, label="the conclusion changes")
    if found.neutral == 1:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel=f"delta: {found.label}", ylabel=f"estimate of {found.estimate}")
    ax.set_title(found.finding, fontsize="medium")
    ax.legend(**BESIDE)
    return ax


def _check(deltas: np.ndarray, shift: Shift) -> None:
    """Refuse deltas that are NaN or infinite, and ratios that are not positive."""
    if not len(deltas):
        raise ValueError("deltas are empty: give some numbers, or None for nine of them")
    bad = ~np.isfinite(deltas) | ((deltas <= 0) & (shift.scale == "ratio"))
    if bad.any():
        allowed = "ratios above 0 (1 moves nothing)" if shift.scale == "ratio" else "finite numbers"
        raise ValueError(f"deltas hold {deltas[bad][0]:g}: give {allowed}")


def _chosen(estimate: str | None, names: tuple[str, ...]) -> str:
    """The name of the estimate that the conclusion is about."""
    if estimate is None and len(names) == 1:
        return names[0]
    if not isinstance(estimate, str) or estimate not in names:
        said = one_line(repr(estimate))
        raise ValueError(f"estimate is {said}; {suggestion(str(estimate), names)}")
    return estimate
