"""Predictive checks: does the data set look like those that the model makes, by test statistics?"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyro import poutine
from scipy.stats import rankdata
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.datatree.build import SAMPLE_DIMS, Names
from ppl_vae.diagnostics.datatree.sampler import read_layout
from ppl_vae.diagnostics.predictive.cdf import check_observed
from ppl_vae.diagnostics.predictive.resampling import Resampled, resampled
from ppl_vae.diagnostics.predictive.statistics import OF_ENTRIES, ROUNDING, STATISTICS, Statistic
from ppl_vae.diagnostics.uniformity import widening
from ppl_vae.importance import PAIRS_PER_CHUNK
from ppl_vae.programs.modules import arguments, evaluating, place, rows_fitted
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import Program, Site, is_local, run_under_particles, sample_sites
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PredictiveCheck", "predictive_check"]

NUM_PARTICLES = 1000  # draws of the guide per row, of which those of the posterior are chosen
PREDICTIVES = {"prior_predictive": "prior", "posterior_predictive": "posterior"}


@dataclass(frozen=True)
class PredictiveCheck:
    """Test statistics of the data and of replicated data sets; `print` shows them with their
    p-values.

    p = 2 min(P(T_rep > T) + P(T_rep = T) / 2, ...), x counted among the S + 1 sets. For the prior
    predictive p is uniform if the model is right. For the posterior predictive it is not: z was
    drawn given the same x, so p is too near 1; small values convict all the same. Where the model
    was fitted to M other rows, its T_rep are off by as much as T of those rows: their distances
    from the median are multiplied by sqrt(1 + N / M).

    Args:
        observed: T(x) by name: a number, or an array with one per feature.
        prior_predictive: T of data sets with z ~ p(z), by name, (S, ...).
        posterior_predictive: T of data sets with z ~ p(z given x), by name, (S, ...).
        pareto_k: k-hat of the weights by which those z were chosen, (N,).
        num_data: Number of rows N.
        dims: Names of the dims of x.
        coords: Their coordinates, by name.
        num_train: Number M of other rows that the model was fitted to; None if its parameters are
            known.

    References:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness, Statistica
        Sinica 6; Meng (1994), Posterior predictive p-values, Annals of Statistics 22.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> check = predictive_check(bed.model, bed.guide, 1.5 * bed.x, num_samples=199)
        >>> check.p_values()["variance"] < 0.05, check.p_values("posterior_predictive")["variance"] < 0.05
        (np.True_, np.True_)
    """

    observed: dict[str, np.ndarray]
    prior_predictive: dict[str, np.ndarray]
    posterior_predictive: dict[str, np.ndarray]
    pareto_k: np.ndarray
    num_data: int
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    num_train: int | None = None

    @property
    def num_samples(self) -> int:
        """Number of replicated data sets S."""
        return len(next(iter(self.prior_predictive.values())))

    def p_values(self, group: str = "prior_predictive") -> dict[str, np.ndarray]:
        """Two-sided mid-p-values by name, each shaped like its statistic; NaN where it is, for x or
        for a replicate.
        """
        replicated, factor = getattr(self, group), widening(self.num_data, self.num_train)
        return {
            name: _two_sided(value, replicated[name], factor)
            for name, value in self.observed.items()
        }

    def num_distinct(self, group: str = "prior_predictive") -> int:
        """How many of the statistics that are numbers say something of their own.

        One that never varies tells nothing, and of bits mean, variance and share of zeros are one.
        """
        orders = set()
        for drawn in getattr(self, group).values():
            if drawn.ndim == 1 and np.isfinite(drawn).all() and np.ptp(drawn) > 0:
                ranks = rankdata(np.round(drawn / (ROUNDING * np.abs(drawn).max())))
                orders.add(min(tuple(ranks), tuple(len(ranks) + 1 - ranks)))
        return len(orders)

    def summary(self) -> dict[str, dict[str, float]]:
        """By statistic: its value for the data; mean, sd and p by either predictive.

        Of a statistic with one value per feature, the feature with the smallest prior predictive p
        is named, and its p is multiplied by the number of features that have one (Holm).
        """
        return dict(self._row(name) for name in self.observed)

    def _row(self, name: str) -> tuple[str, dict[str, float]]:
        values, where = self.observed[name], self.worst(name)
        row = {"data": float(values[where])}
        for group, kind in PREDICTIVES.items():
            drawn, p = getattr(self, group)[name][(slice(None), *where)], self.p_values(group)[name]
            adjusted = np.minimum(1.0, p[where] * np.isfinite(p).sum())  # NaN stays NaN
            row |= {f"{kind} mean": drawn.mean(), f"{kind} sd": drawn.std(), f"{kind} p": adjusted}
        return f"{name}{self._feature(where)}", {key: float(value) for key, value in row.items()}

    def worst(self, name: str) -> tuple[int, ...]:
        """Where the smallest prior predictive p of a statistic is; () for a number."""
        p_values = np.nan_to_num(self.p_values()[name], nan=2.0)
        return tuple(int(i) for i in np.unravel_index(int(p_values.argmin()), p_values.shape))

    def _feature(self, where: tuple[int, ...]) -> str:
        """Names of the coordinates in brackets."""
        names = [str(self.coords[dim][i]) for dim, i in zip(self.dims[1:], where, strict=False)]
        return f"[{', '.join(names)}]" if where else ""

    def __str__(self) -> str:
        rows = self.summary()
        width = max(10, *map(len, rows))
        head = f"{'':{width}}{'data':>12}" + "".join(
            f"{kind:>12}{'sd':>10}{'p':>8}" for kind in PREDICTIVES.values()
        )
        lines = [head]
        for name, row in rows.items():
            parts = [
                f"{row[f'{k} mean']:>12.4g}{row[f'{k} sd']:>10.2g}{row[f'{k} p']:>8.2g}"
                for k in PREDICTIVES.values()
            ]
            lines.append(f"{name:{width}}{row['data']:>12.4g}" + "".join(parts))
        sets = f"{self.num_samples} sets of {self.num_data} rows"
        foot = f"{sets}; posterior p uses x twice: only small values are informative"
        return "\n".join([*lines, foot])

    def to_datatree(self) -> "xr.DataTree":
        """The statistics as groups prior_predictive, posterior_predictive and observed_data, for
        ArviZ.
        """
        import xarray as xr

        groups = {"observed_data": self._dataset(self.observed, ())}
        for group in PREDICTIVES:
            drawn = {name: values[None] for name, values in getattr(self, group).items()}
            groups[group] = self._dataset(drawn, SAMPLE_DIMS)
        return xr.DataTree.from_dict(groups)

    def _dataset(self, values: dict[str, np.ndarray], left: tuple[str, ...]) -> "xr.Dataset":
        import xarray as xr

        event = tuple(len(self.coords[dim]) for dim in self.dims[1:])
        variables = {}
        for name, array in values.items():
            shape = array.shape[len(left) :]
            dims = (
                self.dims[1:]
                if shape == event
                else tuple(f"{name}_dim_{i}" for i in range(len(shape)))
            )
            variables[name] = ((*left, *dims), array)
        used = {dim for dims, _ in variables.values() for dim in dims}
        return xr.Dataset(
            variables, {dim: values for dim, values in self.coords.items() if dim in used}
        )


def _two_sided(observed: np.ndarray, replicated: np.ndarray, factor: float) -> np.ndarray:
    if factor > 1:
        median = np.median(replicated, axis=0)
        replicated = median + factor * (replicated - median)
    above, equal = (replicated > observed).sum(0), (replicated == observed).sum(0)
    upper = (above + 0.5 * (equal + 1)) / (len(replicated) + 1)
    unknown = np.isnan(observed) | np.isnan(replicated).any(0)
    return np.where(unknown, np.nan, 2 * np.minimum(upper, 1 - upper))


def predictive_check(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_samples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> PredictiveCheck:
    """Test statistics T of x against those of S data sets drawn from the model, of the same size
    and missingness.

    Two kinds of data sets. Prior predictive, z ~ p(z): what the model makes. Posterior predictive,
    z ~ p(z given x), draws of the guide resampled by their importance weights: what it makes with
    the latents of these rows. Off in both, the likelihood is wrong; off in the first alone, q(z)
    averaged over the rows is not the prior. A statistic that the model fits by construction (a
    mean, often) proves nothing. Latents outside the data plate are the guide's draws.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        statistics: By name, functions of x (N, *event), NaN where missing, to a number or one
            number per feature; None is `STATISTICS`: mean, variance, zero_fraction and max over all
            entries, and correlation, the root mean square one of pairs of features.
            `FEATURE_STATISTICS` are the first four for every feature.
        num_samples: Number of replicated data sets S; no p is below 1 / (S + 1).
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The statistics and their p-values.

    Raises:
        ValueError: x outside the support or missing throughout; no site of the model holds x;
            statistics that are no functions by name.

    References:
        Box (1980), Sampling and Bayes' inference in scientific modelling and robustness, JRSS A
        143; Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness,
        Statistica Sinica 6.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.gamma_poisson(num_data=100)
        >>> own = {"share of ones": lambda x: np.nanmean(x == 1)}
        >>> bool(predictive_check(bed.model, bed.guide, bed.x, own).p_values()["share of ones"] > 0.05)
        True
    """
    whole_number(num_samples, "num_samples")
    data = place(as_dataset(data), model, guide)
    given = (
        (OF_ENTRIES if data.event_shape.numel() == 1 else STATISTICS)
        if statistics is None
        else statistics
    )
    statistics = _checked(given)
    check_data(model, data.x, data.context, guide)
    check_observed(model, data)
    replicated: dict[str, dict[str, list[Any]]] = {
        group: {name: [] for name in statistics} for group in PREDICTIVES
    }
    replicates = _replicates(model, guide, data, num_samples, seed)
    with tqdm(
        total=num_samples, desc="replicates", unit=" sets", disable=not progress, delay=2
    ) as bar:
        for drawn in replicates(num_samples):
            for group, x in drawn.items():
                for name, value in _evaluate(statistics, x).items():
                    replicated[group][name].append(value)
            bar.update()
    return PredictiveCheck(
        observed=_evaluate(statistics, data.x.double().cpu().numpy()),
        **{
            group: {name: np.stack(each) for name, each in found.items()}
            for group, found in replicated.items()
        },
        pareto_k=replicates.draws.pareto_k,
        num_data=len(data),
        dims=data.dims,
        coords=dict(data.coords),
        num_train=rows_fitted(model),
    )


def _checked(statistics: Any) -> Mapping[str, Statistic]:
    if (
        not isinstance(statistics, Mapping)
        or not statistics
        or not all(map(callable, statistics.values()))
    ):
        raise ValueError(
            f"statistics is {statistics!r}; give functions of x by name, as in "
            f"{{'mean': np.nanmean}}"
        )
    return statistics


def _replicates(
    model: Program, guide: Program, data: Dataset, num_samples: int, seed: int
) -> "_Replicates":
    layout = read_layout(model, guide, data)
    site = Names(data, layout, num_samples).x
    if site not in layout.observed:
        raise ValueError(
            f"none of the observed sites {list(layout.observed)} holds x: there is nothing to "
            "compare"
        )
    draws = resampled(
        model, guide, data, num_samples=num_samples, num_particles=NUM_PARTICLES, seed=seed
    )
    return _Replicates(model, guide, data, site, bool(layout.shared), draws, seed)


@dataclass(frozen=True)
class _Replicates:
    """Data sets drawn from the model, NaN where x is missing: with z from the prior, and from the
    posterior.
    """

    model: Program
    guide: Program
    data: Dataset
    site: str
    shared: bool
    draws: Resampled
    seed: int

    def __call__(self, num_samples: int) -> Iterator[dict[str, np.ndarray]]:
        step = (
            1 if self.shared else max(1, PAIRS_PER_CHUNK // len(self.data))
        )  # one draw of global latents a run
        for start in range(0, num_samples, step):
            draws = slice(start, min(start + step, num_samples))
            with evaluating(self.model, self.guide), seeded(derived_seed(self.seed, start)):
                found = [
                    self._drawn(program, draws) for program in (self.model, self._given_x(draws))
                ]
            for each in zip(*found, strict=True):
                yield dict(zip(PREDICTIVES, each, strict=True))

    def _given_x(self, draws: slice) -> Program:
        """The model with draws of the posterior, and of the guide for latents outside the data
        plate.
        """
        trace = self.draws.trace(draws)
        if self.shared:
            for site in sample_sites(run_under_particles(self.guide, 1, *self._args)):
                if not is_local(site):
                    trace.add_node(site["name"], **site)
        return poutine.replay(self.model, trace=trace)

    def _drawn(self, program: Program, draws: slice) -> np.ndarray:
        """Replicates of x, (S, N, *event)."""
        count = draws.stop - draws.start
        trace = run_under_particles(poutine.uncondition(program), count, *self._args)
        site: Site = trace.nodes[self.site]
        missing = self.data.x.isnan().cpu().numpy()
        x = rows_first(site["value"], site).double().cpu().numpy()
        return np.where(missing, np.nan, x.reshape(count, *missing.shape))

    @property
    def _args(self) -> tuple[Any, ...]:
        return arguments(self.data.x, self.data.context)


def _evaluate(statistics: Mapping[str, Statistic], x: np.ndarray) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():  # a feature that is missing throughout has NaN for a statistic
        warnings.filterwarnings(
            "ignore", "(Mean of empty|All-NaN) slice|Degrees of freedom", RuntimeWarning
        )
        return {name: np.asarray(f(x), dtype=np.float64) for name, f in statistics.items()}
