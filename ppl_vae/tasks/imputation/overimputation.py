"""Overimputation: observed entries are hidden, imputed, and compared with what they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.axes import ABOVE, BLUE, OKABE_ITO, axes_grid, rows_downwards, shortened
from ppl_vae.diagnostics.predictive.pit import PIT
from ppl_vae.diagnostics.uniformity import holm, widening
from ppl_vae.model import Model
from ppl_vae.programs.modules import place, rows_fitted
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import real_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import derived_seed, generator
from ppl_vae.runtime.text import table
from ppl_vae.tasks.imputation.asked import marked
from ppl_vae.tasks.imputation.drawing import impute
from ppl_vae.tasks.imputation.hidden import (
    below_and_at,
    chosen_entries,
    interval_widths,
    marginal_widths,
)
from ppl_vae.tasks.imputation.imputations import Imputations

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEVELS", "Overimputation", "has_own_total", "overimpute", "plot_overimputation"]

LEVELS = (0.5, 0.9, 0.95)  # of the intervals whose coverage is counted
NUM_BINS = 10  # of a histogram of PIT values
MOST_HISTOGRAMS = 3


@dataclass(frozen=True, repr=False, eq=False)
class Overimputation(Shown):
    """Where hidden entries lie in the distributions that they would be imputed from.

    Args:
        pit: Their PIT values, NaN elsewhere; for categories without order the probability of all
            levels that are more probable, plus a uniform share of that of the value.
        widths: Widths of the 90 % intervals, (N, *event); for categories the number of levels of
            the smallest set with this probability.
        marginal_widths: The same of the observed values of each column, given nothing, (F,).
        kinds: The kind of each column; "real" for images.
        names: Names of the columns.

    Example:
        >>> Overimputation.__dataclass_fields__["names"].type
        tuple[str, ...]
    """

    pit: PIT
    widths: np.ndarray
    marginal_widths: np.ndarray
    kinds: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def values(self) -> np.ndarray:
        """PIT values by column, (N, F); NaN where nothing was hidden."""
        return self.pit.values.reshape(len(self.pit), -1)

    @property
    def num_hidden(self) -> int:
        """Number of hidden entries."""
        return int(self.counts.sum())

    @property
    def counts(self) -> np.ndarray:
        """Number of hidden entries of each column, (F,)."""
        return (~np.isnan(self.values)).sum(0)

    def coverage(self, level: float = 0.9) -> np.ndarray:
        """Share of the hidden entries in their equal-tailed intervals, (F,).

        It is counted by PIT values, whose randomisation makes it exact for a right model where
        values are discrete. For categories without order the share in their smallest sets.

        Args:
            level: Probability of the intervals.
        """
        real_number(level, "level", above=0, below=1)
        is_category = np.array([kind == "category" for kind in self.kinds])
        distance = np.where(is_category, self.values, 2 * np.abs(self.values - 0.5))
        inside = (distance <= level).sum(0)  # NaN is not
        return _shares(inside, self.counts)

    def coverage_se(self, level: float = 0.9) -> np.ndarray:
        """Standard error of the coverage of a right model, (F,), its own training allowed for."""
        factors = [widening(max(1, int(num)), self.pit.num_train) for num in self.counts]
        return np.sqrt(_shares(level * (1 - level), self.counts)) * factors

    @property
    def p_values(self) -> np.ndarray:
        """P-values of uniform PIT values by column with Holm's correction, (F,)."""
        found = self.pit.p_values.reshape(-1).copy()
        known = ~np.isnan(found)
        found[known] = holm(found[known])
        return found

    @property
    def worst(self) -> list[int]:
        """The columns with the smallest p-values, at most three."""
        order = np.argsort(self.pit.p_values.reshape(-1), kind="stable")
        return [int(place) for place in order if self.counts[place]][:MOST_HISTOGRAMS]

    @property
    def p_value(self) -> float:
        """The smallest of them: at most 5 % of right models have one below 0.05."""
        return float(np.nanmin(self.p_values))

    def to_frame(self) -> "pd.DataFrame":
        """A row for each column: coverage with standard errors, sharpness and p-values.

        `width` is the mean width of the 90 % intervals in units of the column (for categories the
        mean number of levels), `relative_width` its ratio to that of the observed values of the
        column: below 1, the other columns carry information. `p_value` has Holm's correction.
        """
        import pandas as pd

        columns: dict[str, Any] = {"kind": self.kinds, "hidden": self.counts}
        for level in LEVELS:
            columns[f"coverage_{100 * level:g}"] = self.coverage(level)
            columns[f"se_{100 * level:g}"] = self.coverage_se(level)
        flat = self.widths.reshape(len(self.widths), -1)
        width = _shares(np.nansum(flat, axis=0), self.counts)
        columns["width"] = width
        columns["relative_width"] = width / self.marginal_widths
        columns["p_value"] = self.p_values
        return pd.DataFrame(columns, index=pd.Index(self.names, name="column"))

    def __repr__(self) -> str:
        return f"Overimputation({len(self.names)} columns, {self.num_hidden} hidden entries)"

    def __str__(self) -> str:
        rows = [["", "hidden", *(f"in {level:.0%}" for level in LEVELS), "width", "relative", "p"]]
        for row in self.to_frame().to_dict("index").items():
            rows.append(_cells(*row))
        return (
            f"{table(rows)}\nshare of hidden entries in their intervals (standard error if the "
            f"model is right); width of 90% intervals; smallest p {self.p_value:.2g} (Holm)"
        )


def _shares(parts: Any, counts: np.ndarray) -> np.ndarray:
    """parts / counts, NaN where nothing was hidden."""
    return np.where(counts > 0, parts / np.maximum(counts, 1), np.nan)


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    """The cells of a column in the printed table."""
    shares = [
        f"{row[f'coverage_{100 * level:g}']:.2f} ({row[f'se_{100 * level:g}']:.2f})"
        for level in LEVELS
    ]
    sharpness = (f"{row['width']:.3g}", f"{row['relative_width']:.2f}")
    return [name, str(row["hidden"]), *shares, *sharpness, f"{row['p_value']:.2g}"]


def overimpute(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    share: float = 0.1,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Overimputation:
    """Hide observed entries at random, impute them, and compare them with what they are.

    A share of the observed entries of each column is made missing, all at the same time, and drawn
    as `impute` draws missing ones. Give rows that the model was not trained on (`data.test`): its
    predictions of training rows are too good. The entries are hidden at random, so this says
    whether imputations are right where values are missing at random. It carries no information
    about values whose absence depends on themselves (`tipping_point`).

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        share: Share of the observed entries of each column that is hidden; at least one is.
        seed: Seed of what is hidden, of the draws and of the randomisation.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `impute`, such as fits, method and num_imputations (here 5); nothing is
            hidden that `do_not_impute` marks.

    Returns:
        PIT values and intervals by column; print them.

    Raises:
        ValueError: the model has a missingness model; x is missing throughout, or its parts add up
            to a total that hidden ones would change.

    References:
        Blackwell, Honaker and King (2017), A unified approach to measurement error and missing
        data: overview and applications, Sociological Methods and Research 46 (overimputation);
        Gneiting, Balabdaoui and Raftery (2007), Probabilistic forecasts, calibration and sharpness,
        JRSS B 69.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> found = overimpute(bed.model, bed.guide, bed.x, progress=False)
        >>> found.counts.tolist(), found.p_value > 0.01
        ([20, 20, 20, 20, 20], True)
    """
    real_number(share, "share", above=0, below=1)
    rows = place(as_dataset(data).in_memory(), model, guide).to("cpu")
    if has_own_total(model, rows):
        raise ValueError(
            "the parts of a row add up to a total, which hidden parts would change: give "
            "Model(..., exposure=), the column of context that holds it"
        )
    if getattr(model, "missingness", None) is not None:
        raise ValueError(
            "entries hidden at random are not missing by the model's mechanism: overimpute a model "
            "without missingness="
        )
    hidden = chosen_entries(rows, share, seed) & ~marked(options.pop("do_not_impute", None), rows)
    if not hidden.any():
        raise ValueError("do_not_impute marks all entries: leave some of them to hide")
    settings: dict[str, Any] = {"seed": seed, "progress": progress, "num_imputations": 5}
    settings |= {"do_not_impute": ~hidden, **options}
    imputations = impute(model, guide, rows.hiding(hidden), **settings)
    return _compared(imputations, rows, rows_fitted(model), derived_seed(seed, 1))


def _compared(
    imputations: Imputations, rows: Dataset, num_train: int | None, seed: int
) -> Overimputation:
    """The imputed entries beside their true values."""
    hidden = imputations.asked
    observed = rows.x.double().cpu().numpy()
    by_column = observed.reshape(len(observed), -1)
    kinds = _kinds(rows)
    is_category = np.array([kind == "category" for kind in kinds])
    is_category = is_category[hidden.reshape(by_column.shape).nonzero()[1]]
    below, at = below_and_at(imputations.predictive, observed[hidden], is_category)
    v = generator(seed).random(len(at))
    ess = imputations.served.ess[hidden.nonzero()[0]]
    probabilities = _put(at, hidden)
    pit = PIT(
        values=_put((ess * (below + v * at) + v) / (ess + 1), hidden),
        below=_put(below, hidden),
        at=probabilities,
        at_halves=np.stack([probabilities, probabilities]),
        observed=np.where(hidden, observed, np.nan),
        pareto_k=imputations.served.pareto_k[None, hidden.reshape(by_column.shape).any(1)],
        kind="imputed",
        dims=rows.dims,
        coords=dict(rows.coords),
        num_train=num_train,
    )
    return Overimputation(
        pit=pit,
        widths=_put(interval_widths(imputations.predictive, is_category), hidden),
        marginal_widths=marginal_widths(by_column, kinds),
        kinds=kinds,
        names=rows.feature_names or tuple(map(str, np.ndindex(*rows.event_shape))),
    )


def _put(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Values of the hidden entries in their places, NaN elsewhere."""
    found = np.full(hidden.shape, np.nan)
    found[hidden] = values
    return found


def _kinds(rows: Dataset) -> tuple[str, ...]:
    """The kind of each column; images are real."""
    return rows.kinds if rows.feature_names else ("real",) * rows.event_shape.numel()


def has_own_total(model: Program, rows: Dataset) -> bool:
    """Whether the parts of a row add up to a total of the model, which hidden parts would change.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> has_own_total(bed.model, Dataset(bed.x))
        False
    """
    if not isinstance(model, Model) or model.exposure is not None:
        return False
    return model.likelihood.exposure_in(rows.x) is not None


def plot_overimputation(found: Overimputation, axes: Any = None) -> np.ndarray:
    """Coverage of the intervals by column, and histograms of the PIT values of some columns.

    Bars are two standard errors. The histograms are those with the smallest p-values; the band
    holds a bar of uniform values with probability 95 %.

    Args:
        found: Result of `overimpute`.
        axes: Axes: the first for the coverage, each other for one histogram.

    Returns:
        The Axes.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> found = overimpute(bed.model, bed.guide, bed.x, progress=False)
        >>> plot_overimputation(found)[0].get_xlabel()
        'share of hidden entries in their intervals'
    """
    order = found.worst
    size = (4.6 + 2.0 * len(order), 3.2)
    widths = [2.0, *[1.0] * len(order)]
    axes = axes_grid(axes, (1, len(widths)), size, width_ratios=widths)
    _plot_coverage(found, axes[0])
    for ax, column in zip(axes[1:], order, strict=False):
        _plot_histogram(found, column, ax)
    return axes


def _plot_coverage(found: Overimputation, ax: Any) -> None:
    """Points with error bars for each level and column, and lines where they should be."""
    places = np.arange(len(found.names))
    for i, level in enumerate(LEVELS):
        colour = OKABE_ITO[i]
        ax.axvline(level, color=colour, linestyle="--", linewidth=1)
        bars = {"fmt": "osD"[i], "color": colour, "capsize": 2, "markersize": 4}
        heights = places + 0.2 * (i - 1)
        errors = 2 * found.coverage_se(level)
        ax.errorbar(
            found.coverage(level), heights, xerr=errors, label=f"{level:.0%} interval", **bars
        )
    rows_downwards(ax, [shortened(name) for name in found.names])
    ax.set(xlabel="share of hidden entries in their intervals", xlim=(0.2, 1.02))
    ax.legend(ncols=len(LEVELS), fontsize="small", **ABOVE)


def _plot_histogram(found: Overimputation, column: int, ax: Any) -> None:
    """Counts of the PIT values of a column in bins, over a band of uniform ones."""
    from scipy import stats

    values = found.values[:, column]
    num = int(found.counts[column])
    low, high = stats.binom.ppf([0.025, 0.975], num, 1 / NUM_BINS)
    ax.axhspan(low, high, color="0.85")
    ax.hist(values[~np.isnan(values)], NUM_BINS, range=(0, 1), color=BLUE, alpha=0.7)
    ax.axhline(num / NUM_BINS, color="0.4", linewidth=1)
    ax.set(xlabel=f"PIT of {shortened(found.names[column])}", ylabel="hidden entries")
    ax.set_title(f"p = {found.p_values[column]:.2g} (Holm)", fontsize="medium")
