"""Predictive checks: test statistics of x against those of data sets drawn from the model."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.datatree.build import SAMPLE_DIMS
from ppl_vae.diagnostics.groups import group, tree
from ppl_vae.diagnostics.predictive.cdf import check_observed
from ppl_vae.diagnostics.predictive.replicates import PREDICTIVES, ReplicatedData
from ppl_vae.diagnostics.predictive.statistics import (
    FEATURE_STATISTICS,
    OF_ENTRIES,
    ROUNDING,
    STATISTICS,
    Statistic,
    frequencies,
    of_numbers,
)
from ppl_vae.diagnostics.uniformity import widening
from ppl_vae.programs.inference import Inference, treat_alike
from ppl_vae.programs.modules import rows_fitted
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.text import counted, echoed, table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PredictiveCheck", "predictive_check"]

FORMATS = {"mean": ".4g", "sd": ".2g", "p": ".2g"}


@dataclass(frozen=True)
class PredictiveCheck(Shown):
    """Test statistics of x and of replicated data sets; `print` shows them with their p-values.

    p = 2 min(P(T_rep > T) + P(T_rep = T) / 2, ...), where x counts as one of the S + 1 sets. For
    the prior predictive p is uniform if the model is right. For the posterior predictive it is not:
    z was drawn given the same x, so p is too close to 1, but small values still indicate misfit. If
    the model was fitted to M other rows, the error of T over those rows shifts all T_rep: their
    distances from the median are therefore multiplied by sqrt(1 + N / M). A statistic of several
    elements (one per feature, or per pair of features) is judged as a whole, by the element that
    deviates most: see `joint_p_values`.

    Args:
        observed: T(x) by name: a number, or an array with one value per feature.
        prior_predictive: T of data sets with z ~ p(z), by name, (S, ...).
        posterior_predictive: T of data sets with z ~ p(z given x), by name, (S, ...).
        pareto_k: k-hat of the weights by which these z were resampled, (N,).
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
        >>> bool(check.p_values()["variance"] < 0.05)
        True
        >>> bool(check.p_values("posterior_predictive")["variance"] < 0.05)
        True
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
        """Two-sided mid-p-values by name, each shaped like its statistic.

        They are NaN if the statistic is NaN for x or for a replicate.
        """
        return {
            name: _two_sided(value, self._widened(name, group))
            for name, value in self.observed.items()
        }

    def joint_p_values(self, group: str = "prior_predictive") -> dict[str, float]:
        """One p-value for each statistic, from all its elements.

        For each of the S + 1 data sets, max_i |T_i - mean(T_i)| / sd(T_i) with mean and sd over all
        of them; p is the share of sets whose largest deviation is at least that of x. All sets are
        exchangeable if the model is right, so p is exact for any dependence between the elements.
        For a statistic that is a number it is that of `p_values`.

        References:
            Westfall and Young (1993), Resampling-based multiple testing, section 2.2 (the maximum
            of dependent statistics).
        """
        found = {}
        for name, p in self.p_values(group).items():
            largest = self._deviations(name, group).max(-1, initial=0.0)
            joint = np.mean(largest >= largest[0] * (1 - ROUNDING))
            known = np.isfinite(p).any()
            found[name] = float(p) if p.ndim == 0 else float(joint) if known else np.nan
        return found

    def _widened(self, name: str, group: str) -> np.ndarray:
        """T of the replicates, with distances from the median increased by the error of the fit."""
        replicated = getattr(self, group)[name]
        factor = widening(self.num_data, self.num_train)
        if factor == 1:
            return replicated
        median = np.median(replicated, axis=0)
        return median + factor * (replicated - median)

    def _deviations(self, name: str, group: str) -> np.ndarray:
        """Standardised deviations of x and of the replicates, (S + 1, elements); 0 where T is
        constant or unknown.
        """
        sets = np.concatenate([self.observed[name][None], self._widened(name, group)])
        sets = sets.reshape(len(sets), -1)
        sd = sets.std(0)
        varies = np.isfinite(sd) & (sd > ROUNDING * np.abs(sets).max(0))
        return np.abs(sets[:, varies] - sets[:, varies].mean(0)) / sd[varies]

    def num_distinct(self, group: str = "prior_predictive") -> int:
        """Number of distinct statistics, up to monotone transformations of numbers.

        Statistics that never vary are left out. For bits, the mean, the variance and the share of
        zeros count as one.
        """
        orders = set()
        several = 0
        for name, drawn in getattr(self, group).items():
            if drawn.ndim > 1:
                several += self._deviations(name, group).size > 0
            elif np.isfinite(drawn).all() and np.ptp(drawn) > 0:
                ranks = rankdata(np.round(drawn / (ROUNDING * np.abs(drawn).max())))
                orders.add(min(tuple(ranks), tuple(len(ranks) + 1 - ranks)))
        return len(orders) + several

    def summary(self) -> dict[str, dict[str, float]]:
        """For each statistic: its value for x, and mean, sd and p under both predictives.

        A statistic of several elements is represented by the element that deviates most from the
        prior predictive, in standard deviations; its p is joint.
        """
        p_values = {kind: self.joint_p_values(kind) for kind in PREDICTIVES}
        rows = {}
        for name, values in self.observed.items():
            where = self.worst(name)
            row = {"data": float(values[where])}
            for kind, short in PREDICTIVES.items():
                drawn = getattr(self, kind)[name][(slice(None), *where)]
                row[f"{short} mean"] = float(drawn.mean())
                row[f"{short} sd"] = float(drawn.std())
                row[f"{short} p"] = p_values[kind][name]
            rows[f"{name}{self._label(name, where, values.shape)}"] = row
        return rows

    def worst(self, name: str) -> tuple[int, ...]:
        """Index of the element that deviates most from the prior predictive; () for a number."""
        observed = self.observed[name]
        replicated = self._widened(name, "prior_predictive")
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = np.abs(observed - replicated.mean(0)) / replicated.std(0)
        known = np.where(np.isnan(deviation), -1.0, deviation)  # infinite where none varies
        return tuple(int(i) for i in np.unravel_index(int(known.argmax()), observed.shape))

    def _label(self, name: str, where: tuple[int, ...], shape: tuple[int, ...]) -> str:
        """The feature, the pair of features or the level, in brackets; empty for a number."""
        levels = self.coords.get(f"{name}_dim_0")
        if levels is not None:
            return f"[{levels[where[0]]}]"
        event = [self.coords[dim] for dim in self.dims[1:]]
        sizes = tuple(map(len, event))
        names: Any = event if shape == sizes else event * 2 if shape == sizes * 2 else []
        label = ", ".join(str(coords[i]) for coords, i in zip(names, where, strict=False))
        return f"[{label or ', '.join(map(str, where))}]" if where else ""

    def __str__(self) -> str:
        kinds = PREDICTIVES.values()
        rows = [["", "data", *(word for kind in kinds for word in (kind, "sd", "p"))]]
        for name, row in self.summary().items():
            cells = [
                format(row[f"{kind} {what}"], form)
                for kind in kinds
                for what, form in FORMATS.items()
            ]
            rows.append([name, f"{row['data']:.4g}", *cells])
        sets = f"{self.num_samples} sets of {counted(self.num_data, 'row')}"
        return f"{table(rows)}\n{sets}; posterior p uses x twice: only small values are informative"

    def to_datatree(self) -> "xr.DataTree":
        """Groups prior_predictive, posterior_predictive and observed_data with the statistics."""
        event = tuple(len(self.coords[dim]) for dim in self.dims[1:])
        dims: dict[str, tuple[str, ...]] = {}
        for name, values in self.observed.items():
            numbered = tuple(f"{name}_dim_{i}" for i in range(values.ndim))
            dims[name] = self.dims[1:] if values.shape == event else numbered
        observed = {name: (dims[name], values) for name, values in self.observed.items()}
        groups = {"observed_data": group(observed, self.coords)}
        for kind in PREDICTIVES:
            drawn = getattr(self, kind).items()
            variables = {
                name: ((*SAMPLE_DIMS, *dims[name]), values[None]) for name, values in drawn
            }
            groups[kind] = group(variables, self.coords)
        return tree(**groups)


def _two_sided(observed: np.ndarray, replicated: np.ndarray) -> np.ndarray:
    """Mid-p-value of each element of a statistic."""
    above = (replicated > observed).sum(0)
    equal = (replicated == observed).sum(0)
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
    """Test statistics T of x against those of S data sets drawn from the model.

    The replicated data sets have the size and the missing entries of x, and are of two kinds. Those
    of the prior predictive have z ~ p(z). Those of the posterior predictive have z ~ p(z given x),
    by draws of the guide resampled by their importance weights. If T is off in both, the likelihood
    is wrong; if in the first alone, q(z), averaged over the rows, differs from the prior. A
    statistic that the model fits by construction (often a mean) is no evidence. Latents outside the
    data plate are drawn from the guide.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        statistics: Functions by name, of x (N, *event), NaN where missing, to a number or an array,
            such as one number per feature; None is `STATISTICS`: mean, variance, zero_fraction and
            max over all entries, the root mean square correlation of pairs of features, and the
            partial correlation of each pair. If the columns have names, the first four are computed
            for every column (`FEATURE_STATISTICS`), since a mean over different columns has no
            meaning, and a column of unordered categories has the frequency of each level instead.
        num_samples: Number of replicated data sets S; no p is below 1 / (S + 1).
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        The statistics and their p-values.

    Raises:
        ValueError: x is outside the support or has no observed entry; no site of the model holds x;
            the statistics are not functions by name.

    References:
        Box (1980), Sampling and Bayes' inference in scientific modelling and robustness, JRSS A
        143; Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness,
        Statistica Sinica 6.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.gamma_poisson(num_data=100)
        >>> own = {"share of ones": lambda x: np.nanmean(x == 1)}
        >>> check = predictive_check(bed.model, bed.guide, bed.x, own)
        >>> bool(check.p_values()["share of ones"] > 0.05)
        True
    """
    whole_number(num_samples, "num_samples")
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.require_density()
    rows = inference.data
    treat_alike(rows, "predictive_check")
    if statistics is None:
        statistics = _default_statistics(rows)
    is_mapping = isinstance(statistics, Mapping) and len(statistics) > 0
    if not is_mapping or not all(map(callable, statistics.values())):
        raise ValueError(
            f"statistics is {echoed(statistics)}; give functions of x by name, as in "
            "{'mean': np.nanmean}"
        )
    check_observed(model, rows)
    sizes = {"num_samples": num_samples, "seed": seed}
    replicates = ReplicatedData(inference, **sizes, progress=progress)
    drawn = []
    with progress_bar(num_samples, "replicates", unit="sets", progress=progress) as bar:
        for pair in replicates:
            drawn.append({kind: _evaluate(statistics, x) for kind, x in pair.items()})
            bar.update()
    return PredictiveCheck(
        observed=_evaluate(statistics, replicates.x),
        **{
            kind: {name: np.stack([each[kind][name] for each in drawn]) for name in statistics}
            for kind in PREDICTIVES
        },
        pareto_k=replicates.pareto_k,
        num_data=len(rows),
        dims=rows.dims,
        coords=rows.coords | _levels(rows),
        num_train=rows_fitted(model),
    )


def _default_statistics(rows: Dataset) -> Mapping[str, Statistic]:
    """Of entries and pairs; column by column if the columns have names.

    Unordered categories have codes without a size: their frequencies are compared.
    """
    if "x" not in rows.columns:
        return OF_ENTRIES if rows.event_shape.numel() == 1 else STATISTICS
    places = [i for i, kind in enumerate(rows.kinds) if kind == "category"]
    names = [rows.feature_names[i] for i in places]
    shares: dict[str, Statistic] = {
        f"levels of {name}": partial(frequencies, place=i, size=len(rows.levels[name]))
        for i, name in zip(places, names, strict=True)
    }
    num_features = rows.event_shape.numel()
    if len(places) == num_features:
        return shares
    statistics = OF_ENTRIES if num_features == 1 else FEATURE_STATISTICS
    if num_features > len(places) + 1:
        statistics = STATISTICS | statistics
    numbers = {name: partial(of_numbers, f, places) for name, f in statistics.items()}
    return numbers | shares


def _levels(rows: Dataset) -> dict[str, np.ndarray]:
    """Names of the levels along the dim of the frequencies of each column."""
    return {f"levels of {name}_dim_0": np.array(each) for name, each in rows.levels.items()}


def _evaluate(statistics: Mapping[str, Statistic], x: np.ndarray) -> dict[str, np.ndarray]:
    # A feature that is missing throughout has NaN for a statistic.
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "(Mean of empty|All-NaN) slice|Degrees of freedom", RuntimeWarning
        )
        return {name: np.asarray(f(x), dtype=np.float64) for name, f in statistics.items()}
