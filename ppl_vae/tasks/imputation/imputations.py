"""Completed data sets, and the predictive distribution of each missing entry."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.groups import group, tree
from ppl_vae.diagnostics.sbc.against_hmc import LARGEST_R_HAT
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.runtime.checks import real_number, warn_caller, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.tasks.imputation.methods import Judged
from ppl_vae.tasks.imputation.predictive import GRID, MOST_LEVELS, Predictive, set_sizes
from ppl_vae.tasks.imputation.tables import completed_frame

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Imputations", "Served"]

NONE = "none"
MORE_PARTICLES = "raise num_particles"
LONGER_CHAINS = "or give method='hmc' with a longer sampler=HMC(num_warmup=...)"


@dataclass(frozen=True)
class Served:
    """Which method served each row, and how well, (N,) each.

    Args:
        method: Its name; "none" where nothing was drawn.
        pareto_k: k-hat of the importance weights; NaN for chains.
        ess: Effective sample size of all draws of z.
        r_hat: R-hat of the chains; NaN for importance weights.
        is_reliable: Whether these allow the draws to be believed.

    Example:
        >>> Served.empty(2).method.tolist()
        ['none', 'none']
    """

    method: np.ndarray
    pareto_k: np.ndarray
    ess: np.ndarray
    r_hat: np.ndarray
    is_reliable: np.ndarray

    @classmethod
    def empty(cls, num_rows: int) -> "Served":
        """Rows that no method has served."""
        pareto_k, ess, r_hat = np.full((3, num_rows), np.nan)
        method = np.full(num_rows, NONE, dtype="<U10")
        return cls(method, pareto_k, ess, r_hat, is_reliable=np.ones(num_rows, dtype=bool))

    def put(self, rows: np.ndarray, name: str, judged: Judged) -> None:
        """Write that this method served these rows."""
        self.method[rows] = name
        self.pareto_k[rows] = judged.pareto_k
        self.ess[rows] = judged.ess
        self.r_hat[rows] = judged.r_hat
        self.is_reliable[rows] = judged.is_reliable

    @property
    def num_unreliable(self) -> int:
        """Rows whose draws are not to be believed."""
        return int((~self.is_reliable).sum())

    def warn(self, reasons: Mapping[str, str], data: Dataset, *, allows_chains: bool) -> None:
        """Say in one line which rows remain unreliable, and why no other method served them."""
        if not self.num_unreliable:
            return
        first = data.row_at(int((~self.is_reliable).argmax()))
        remedy = MORE_PARTICLES + f", {LONGER_CHAINS}" * allows_chains
        because = "".join(f" ({method}: {reason})" for method, reason in reasons.items())
        warn_caller(
            f"{self.num_unreliable} rows, the first of them {first}, have draws that are not "
            f"reliable: k-hat above {GOOD_K}, few effective draws, or R-hat above {LARGEST_R_HAT} "
            f"(see .rows of the result){because}: {remedy}"
        )


@dataclass(frozen=True, repr=False)
class Imputations(Shown):
    """m completed data sets, and summaries of the predictive distribution of each missing entry.

    `for table in imputations` gives completed frames where the data came from a frame, else arrays.
    Observed entries, index, other columns and types are those of the original. A column of a
    nullable integer type becomes Float64 if its likelihood is continuous, and Int64 if it is too
    small for a draw; categories are extended where the model knows levels that the column lacks.

    Args:
        data: The rows.
        asked: The entries that were imputed, (N, *event).
        predictive: Summaries of each of them, and the imputations.
        served: The method that served each row.
        fit_numbers: Which fit each imputation used, (m,).
        has_fits: Whether theta varies between imputations.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.tasks.imputation import impute
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> x = bed.x.numpy().copy()
        >>> x[0, 1] = np.nan
        >>> imputations = impute(bed.model, bed.guide, x, num_imputations=5)
        >>> low, high = imputations.interval(0.9)[:, 0, 1]
        >>> bool(low < imputations.mean[0, 1] < high), float(imputations.sd[1, 1])
        (True, 0.0)
    """

    data: Dataset
    asked: np.ndarray
    predictive: Predictive
    served: Served
    fit_numbers: np.ndarray
    has_fits: bool = False

    def __len__(self) -> int:
        return len(self.fit_numbers)

    def __iter__(self) -> Iterator[Any]:
        return (self.complete(i) for i in range(len(self)))

    def complete(self, i: int) -> Any:
        """Completed data set i: a frame where the data came from one, else an array.

        Args:
            i: Its number, from 0 on.
        """
        if whole_number(i, "i", at_least=0) >= len(self):
            raise IndexError(f"there are {len(self)} imputations, and i is {i}")
        return self.filled(self.predictive.values[i])

    @property
    def single(self) -> Any:
        """One completed data set: means of numbers, modes of what has none; types as in `complete`.

        For predictions. Standard errors of an analysis of it are too small.
        """
        places = self.asked.reshape(len(self.asked), -1).nonzero()[1]
        if not self.data.feature_names:
            return self.filled(self.predictive.mean)
        has_mean = ~np.isin(self.data.kinds, ["boolean", "category", "ordered"])[places]
        return self.filled(np.where(has_mean, self.predictive.mean, self.predictive.mode))

    def filled(self, values: np.ndarray) -> Any:
        """The data with these values of the imputed entries, in the form of `complete`.

        Args:
            values: A number for each imputed entry, row by row; codes of categories.
        """
        if self.data.source is not None and self.data.is_frame:
            return completed_frame(self.data, self.asked, values)
        x = self._filled(values)
        if self.data.source is None:
            x = x.astype(self.predictive.quantiles.dtype)
        return self.data.to_frame(x) if self.data.is_frame else x

    @property
    def mean(self) -> np.ndarray:
        """Observed entries and posterior means, (N, *event); NaN for categories."""
        return self._numeric(self._filled(self.predictive.mean))

    @property
    def median(self) -> np.ndarray:
        """Observed entries and posterior medians, (N, *event); NaN for categories without order."""
        middle = int(np.searchsorted(GRID, 0.5))
        return self._ordered(self._filled(self.predictive.quantiles[:, middle]))

    @property
    def mode(self) -> np.ndarray:
        """Observed entries and the most probable values, (N, *event); categories as codes.

        NaN for continuous entries, and where a count above 49 would be it.
        """
        return self._filled(self.predictive.mode)

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviations, (N, *event): 0 where observed; NaN for categories."""
        zeros = np.where(np.isnan(self.data.exact), np.nan, 0.0)
        zeros[self.asked] = self.predictive.sd
        return self._numeric(zeros)

    def most_plausible(self, kinds: Sequence[str] | None = None) -> np.ndarray:
        """Observed entries, means of the missing numbers, and modes of categories and Booleans.

        Means of counts and other whole numbers are rounded.

        Args:
            kinds: Kind of each column, as in `Dataset.kinds`; None is those of the rows.
        """
        found = np.array(self.data.kinds if kinds is None else kinds)
        has_mean = ~np.isin(found, ["boolean", "category", "ordered"])
        means = self.predictive.mean.copy()
        whole = self.predictive.discrete
        means[whole] = np.rint(means[whole])
        return np.where(has_mean, self._filled(means), self.mode)

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Equal-tailed prediction intervals, (2, N, *event), from all draws of all fits.

        Both ends are the value where it was observed. Tails are rounded down to a multiple of
        0.005, so that the interval has at least this probability. NaN for categories without order.

        Args:
            level: Probability of the interval, at most 0.99.

        Raises:
            ValueError: The level is not in (0, 0.99].
        """
        tail = (1 - real_number(level, "level", above=0, at_most=0.99)) / 2
        first = int(np.floor(tail / GRID[0] + 1e-9)) - 1
        ends = self.predictive.quantiles[:, [first, len(GRID) - 1 - first]].T
        return np.stack([self._ordered(self._filled(end)) for end in ends])

    def probabilities(self, column: str) -> "pd.DataFrame":
        """Probability of each value of a discrete column, (N, values); an observed one has 1.

        Args:
            column: Name of a column of categories, Booleans, or counts below 50.

        Raises:
            ValueError: There is no such column, it is continuous, or takes more values.
        """
        import pandas as pd

        place = self.data.places_of([str(column)])[0]
        found = self._chances(place)
        if found is None:
            raise ValueError(
                f"column {column!r} is continuous, or takes values above {MOST_LEVELS - 1}: use "
                "interval(level)"
            )
        names: list[Any] = list(self.data.levels.get(str(column), range(found.shape[1])))
        if self.data.types[place] == "bool":
            names = [False, True]
        return pd.DataFrame(found, index=pd.Index(self.data.index), columns=names)

    def prediction_set(self, level: float = 0.95) -> "pd.DataFrame":
        """Smallest sets of values with this probability, the most probable first, for each row.

        One column of tuples for each discrete column with few values.

        Args:
            level: Probability of the set.
        """
        import pandas as pd

        real_number(level, "level", above=0, below=1)
        found = {}
        for place, name in enumerate(self.data.feature_names):
            if self._chances(place) is not None:
                chances = self.probabilities(name)
                found[name] = _smallest_sets(chances.to_numpy(), list(chances.columns), level)
        return pd.DataFrame(found, index=pd.Index(self.data.index))

    @property
    def rows(self) -> "pd.DataFrame":
        """Each row: number of imputed entries, method, k-hat, ESS and R-hat, and the verdict."""
        import pandas as pd

        columns = {
            "missing": self.asked.reshape(len(self.asked), -1).sum(1),
            "method": self.served.method,
            "pareto_k": self.served.pareto_k,
            "ess": self.served.ess,
            "r_hat": self.served.r_hat,
            "reliable": self.served.is_reliable,
        }
        return pd.DataFrame(columns, index=pd.Index(self.data.index))

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "imputations": x completed m times, and the method of each row.

        Categories are codes. `tree["imputations"] = imputations.to_datatree()["imputations"]` adds
        it to another tree.
        """
        dims = self.data.dims
        completed = np.stack([self._filled(values) for values in self.predictive.values])
        variables = {
            "x": (("imputation", *dims), completed),
            "imputed": (dims, self.asked),
            "sd": (dims, self.sd),
            "fit": (("imputation",), self.fit_numbers),
            "method": (dims[:1], self.served.method),
            "pareto_k": (dims[:1], self.served.pareto_k),
            "ess": (dims[:1], self.served.ess),
            "r_hat": (dims[:1], self.served.r_hat),
            "reliable": (dims[:1], self.served.is_reliable),
        }
        about = "Multiple imputations of x, and how z was drawn for each row."
        return tree(imputations=group(variables, self.data.coords, description=about))

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.asked.shape))
        if not self.asked.any():
            return f"Imputations({shape}: nothing is missing, {len(self)} copies)"
        method = self.served.method[self.served.method != NONE]
        names, counts = np.unique(method, return_counts=True)
        shares = ", ".join(
            f"{name} {count / len(method):.0%}"
            for name, count in sorted(zip(names, counts, strict=True), key=lambda pair: -pair[1])
        )
        said = (
            f"Imputations({shape}, {self.asked.mean():.1%} imputed in {len(method)} rows; "
            f"m = {len(self)}; rows by method: {shares}"
        )
        if self.served.num_unreliable:
            said += f"; {self.served.num_unreliable} rows are not reliable"
        if self.has_fits:
            return f"{said}; {len(np.unique(self.fit_numbers))} fits)"
        return f"{said}; theta is fixed: pooled intervals are too short, give fits=)"

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Observed entries with all their digits, and these values of the imputed ones."""
        x = self.data.exact
        x[self.asked] = values
        return x

    def _numeric(self, values: np.ndarray) -> np.ndarray:
        """NaN in columns of categories."""
        return self._without(values, {"category", "ordered"})

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        """NaN in columns of categories without order."""
        return self._without(values, {"category"})

    def _without(self, values: np.ndarray, types: set[str]) -> np.ndarray:
        """NaN in columns of these types."""
        for place, name in enumerate(self.data.feature_names):
            if name in self.data.levels and self.data.kinds[place] in types:
                values[:, place] = np.nan
        return values

    def _chances(self, place: int) -> np.ndarray | None:
        """Probabilities of the values of a column, (N, values); None if they were not kept."""
        name = self.data.feature_names[place]
        codes = self._filled(self.predictive.mode)[:, place]
        asked = self.asked[:, place]
        numbers = np.flatnonzero(self.asked.nonzero()[1] == place)
        kept = np.searchsorted(self.predictive.discrete, numbers)
        is_kept = np.isin(numbers, self.predictive.discrete).all()
        if not is_kept or (not len(numbers) and self.data.kinds[place] in ("real", "positive")):
            return None
        imputed = self.predictive.probabilities[kept]
        seen = codes[~asked & ~np.isnan(codes)]
        if imputed[:, -1].any() or (seen >= imputed.shape[1] - 1).any():
            return None
        found = np.full((len(codes), imputed.shape[1] - 1), np.nan)
        found[asked] = imputed[:, :-1]
        known = ~asked & ~np.isnan(codes)
        found[known] = codes[known, None] == np.arange(found.shape[1])
        used = np.flatnonzero(np.nansum(found, 0))
        width = len(self.data.levels.get(name, range(used.max(initial=0) + 1)))
        return found[:, : 2 if self.data.types[place] == "bool" else width]


def _smallest_sets(chances: np.ndarray, names: list[Any], level: float) -> list[tuple[Any, ...]]:
    """For each row the fewest values that have this probability together."""
    order = np.argsort(-chances, axis=1, kind="stable")
    # Entries that stay missing have NaN for probabilities, and an empty set.
    sizes = np.where(np.isnan(chances[:, 0]), 0, set_sizes(chances, level))
    pairs = zip(order, sizes, strict=True)
    return [tuple(names[code] for code in each[:size]) for each, size in pairs]
