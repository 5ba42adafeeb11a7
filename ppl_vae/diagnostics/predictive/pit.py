"""Probability integral transforms: where each entry of x lies in what the model predicts for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from scipy.special import softmax
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.predictive.cdf import below_and_at, check_observed, site_of_x
from ppl_vae.diagnostics.predictive.hiding import Hiding, Predicted
from ppl_vae.diagnostics.uniformity import holm, uniformity_p_value
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.evidence.pareto import share_of_bad
from ppl_vae.evidence.summary import k_hat_of
from ppl_vae.importance import rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating, place, rows_fitted
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.traces import Program, is_local, run_under_particles, sample_sites
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PIT", "PITSummary", "conditional_pit", "marginal_pit"]


@dataclass(frozen=True)
class PITSummary:
    """What the PIT values say together.

    Args:
        kind: "marginal" or "conditional".
        p_value: Smallest p-value of the features after Holm's correction.
        feature: The feature that it belongs to.
        mean: Mean of all values; 0.5 if calibrated, less if the model predicts too much.
        spread: Standard deviation of all values times sqrt(12): 1 if calibrated, above 1 if the
            predictions are too narrow, below 1 if they are too wide.
        share_bad_k: Share of the k-hats above 0.7: there a conditional value is rough; NaN if
            unknown.
        num_data: Number of data N.
        num_features: Number of entries of a datum.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal
        of Statistics 6.

    Example:
        >>> print(PITSummary("marginal", 0.3, "height", 0.5, 1.0, 0.0, num_data=100, num_features=2))
        marginal PIT of 100 data x 2 features: p = 0.3 (feature height, Holm over features); mean 0.500, spread 1.000
    """

    kind: str
    p_value: float
    feature: str
    mean: float
    spread: float
    share_bad_k: float
    num_data: int
    num_features: int

    def __str__(self) -> str:
        test = f"p = {self.p_value:.2g} (feature {self.feature}, Holm over features)"
        shape = f"mean {self.mean:.3f}, spread {self.spread:.3f}"
        k_hat = (
            f"; {k_hat_of(self.share_bad_k)} of the weights" if self.kind == "conditional" else ""
        )
        return f"{self.kind} PIT of {self.num_data} data x {self.num_features} features: {test}; {shape}{k_hat}"


@dataclass(frozen=True)
class PIT:
    """PIT values of the entries of x: uniform over the data, feature by feature, if the model is
    right.

    u = (n (P(X < x) + v P(X = x)) + v) / (n + 1), v uniform: randomised where x is discrete, and
    with x itself counted as one of n + 1 draws, so that n draws of z make no false tails. n is the
    number of draws, or the ESS of weights. The entries of one datum depend on each other, so
    uniformity is tested by feature.

    Args:
        values: u, (N, *event); NaN where x is missing.
        below: P(X < x), (N, *event).
        at: P(X = x), (N, *event); 0 where x is continuous.
        at_halves: The same by either half of the draws, whose errors know nothing of each other,
            (2, N, *event).
        observed: x itself, (N, *event).
        pareto_k: k-hat of the weights, (folds, N); -inf for marginal ones, which have none.
        kind: "marginal" or "conditional".
        dims: Names of the dims of x.
        coords: Their coordinates, by name.
        num_train: Number of other rows that the model was fitted to, whose errors are allowed for;
            None if it is not known or the parameters are.

    References:
        Czado, Gneiting and Held (2009), Predictive model assessment for count data, Biometrics 65,
        section 2.1.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> marginal_pit(bed.model, bed.x, progress=False).p_value > 0.01
        True
    """

    values: np.ndarray
    below: np.ndarray
    at: np.ndarray
    at_halves: np.ndarray
    observed: np.ndarray
    pareto_k: np.ndarray
    kind: str
    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    num_train: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def p_values(self) -> np.ndarray:
        """P-value of uniformity over the data by feature, (*event,); NaN for a feature that is
        never observed.

        Features of which fewer are observed than of others are filled up with uniform numbers.
        """
        columns = self.values.reshape(len(self), -1).T
        missing = np.isnan(columns)
        filled = np.where(missing, np.random.default_rng(0).random(columns.shape), columns)
        seen_first = np.take_along_axis(filled, missing.argsort(1, kind="stable"), 1)
        p_values = uniformity_p_value(seen_first[:, : (~missing).sum(1).max()], self.num_train)
        return np.where(missing.all(1), np.nan, p_values).reshape(self.values.shape[1:])

    @property
    def p_value(self) -> float:
        """The smallest of them after Holm's correction: valid however the features depend on each
        other.
        """
        return _smallest(self.p_values)

    def one_entry(self, seed: int = 0) -> np.ndarray:
        """The value of one observed entry per datum, at random: independent over the data, so all
        in one plot, (M,).
        """
        values, order = self.values.reshape(len(self), -1), np.random.default_rng(seed)
        chance = np.where(np.isnan(values), -1.0, order.random(values.shape))
        chosen = values[np.arange(len(self)), chance.argmax(1)]
        return chosen[~np.isnan(chosen)]

    def summary(self) -> PITSummary:
        """Uniformity, location and spread."""
        p_values, seen = self.p_values, self.values[~np.isnan(self.values)]
        worst = np.unravel_index(int(np.nanargmin(p_values)), p_values.shape)
        names = [str(self.coords[dim][i]) for dim, i in zip(self.dims[1:], worst, strict=True)]
        return PITSummary(
            kind=self.kind,
            p_value=_smallest(p_values),
            feature=", ".join(names),
            mean=float(seen.mean()),
            spread=float(seen.std() * 12**0.5),
            share_bad_k=share_of_bad(self.pareto_k),
            num_data=len(self),
            num_features=p_values.size,
        )

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "pit": the values, and "one_entry", those of one observed entry of
        each datum.

        `plot_ecdf_pit(tree, group="pit", var_names="one_entry", sample_dims="entry")`. To hang it
        into another tree:
        `tree["pit"] = pit.to_datatree()["pit"]`.
        """
        import xarray as xr

        variables = {"pit": (self.dims, self.values), "one_entry": ("entry", self.one_entry())}
        attrs = {
            "description": f"{self.kind.capitalize()} PIT values, and those of one entry of each datum."
        }
        return xr.DataTree.from_dict({"pit": xr.Dataset(variables, self.coords, attrs)})


def _smallest(p_values: np.ndarray) -> float:
    return float(holm(p_values[~np.isnan(p_values)]).min())


def marginal_pit(
    model: Program,
    data: Dataset | Any,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> PIT:
    """Where every entry lies in the model's own marginal: u_nj = P(X_j <= x_nj), z ~ p(z).

    The mean over draws of z of the likelihood's distribution function, with draws of its own for
    every datum; one draw of x per z where there is no such function. Exact up to O(1 / S) for a
    right model, and blind to everything between
    features: `conditional_pit` sees that. The data must be independent: no latents outside the
        plate.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 whose entries are
            independent given z.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        num_samples: Draws of z per row S.
        seed: Seed of the draws and of the randomisation.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The values and their test.

    Raises:
        ValueError: x outside the support or missing throughout; no site of the model holds x; a
            latent outside the plate.

    References:
        Dawid (1984), Statistical theory: the prequential approach, JRSS A 147, section 5.3.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> print(marginal_pit(bed.model, bed.x + 1.0, num_samples=100))
        marginal PIT of 200 data x 5 features: p = ... (feature ..., Holm over features); mean 0.768, spread 0.811
    """
    whole_number(num_samples, "num_samples")
    data = place(as_dataset(data), model)
    check_data(model, data.x, data.context)
    check_observed(model, data)
    everything = torch.ones(data.event_shape, dtype=torch.bool, device=data.x.device)

    def predict(part: Dataset, fold: Tensor) -> list[Predicted]:
        trace = run_under_particles(model, num_samples, *arguments(part.x, part.context))
        _refuse_shared(trace)
        return [([trace], torch.zeros(num_samples, len(part)))]

    with evaluating(model):
        return _Sweep(data, [everything], num_samples, seed, progress).pit(
            "marginal", predict, rows_fitted(model)
        )


def conditional_pit(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_folds: int = 5,
    num_particles: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> PIT:
    """Where every entry lies in what the model predicts for it from the rest of its datum, with
    that entry hidden.

    The features are put into folds at random; each fold is made missing (NaN) in the model. z is
    drawn in equal parts from the guide given the rest, where it takes NaN, from the guide given all
    of x, and from that one with 1.5 times its standard deviations (or the prior, where it is not
    normal), and weighted by p(x_rest, z) over the mixture. As many draws come from a Student
    distribution with the moments of those, adapted twice; each row takes the draws with the larger
    effective sample size: u_nj = sum_k w_k F(x_nj given z_k) / sum_k w_k. Exact for a right model
    as K grows, whatever the guide; where k-hat is above 0.7 it is rough. Nothing is refitted.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 whose entries are
            independent given z.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        num_folds: Into how many parts the features go; with as many as there are features, or more,
            one at a time.
        num_particles: Draws per row and fold K.
        seed: Seed of the folds, the draws and the randomisation.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The values, their test, and k-hat.

    Raises:
        ValueError: no folds; x missing throughout; a model that gives NaN where x is missing.

    References:
        Gelfand, Dey and Chang (1992), Model determination using predictive distributions, Bayesian
        Statistics 4.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> conditional_pit(bed.model, bed.guide, bed.x, num_particles=100).p_value > 0.01
        True
    """
    whole_number(num_particles, "num_particles")
    data = place(as_dataset(data), model, guide)
    check_data(model, data.x, data.context, guide)
    check_observed(model, data)
    folds = _folds(data, num_folds, seed)

    programs = Hiding(model, guide)
    with evaluating(model, guide):
        programs.look_at(data[:1], folds[0])

        def predict(part: Dataset, fold: Tensor) -> list[Predicted]:
            return programs.predict(part, fold, num_particles)

        return _Sweep(data, folds, num_particles, seed, progress).pit(
            "conditional", predict, rows_fitted(model)
        )


def _refuse_shared(trace: poutine.Trace) -> None:
    """Raise if the data share a latent: uniformity over them is tested as of independent ones."""
    for site in sample_sites(trace):
        if not site["is_observed"] and not is_local(site):
            raise ValueError(
                f'latent site {site["name"]!r} is outside the plate "data", so the data depend on '
                "each other and their "
                "PIT values as well: condition the model on a value of it (pyro.condition)"
            )


def _folds(data: Dataset, num_folds: int, seed: int) -> list[Tensor]:
    """Masks of the event shape that hide each feature once."""
    size = data.event_shape.numel()
    whole_number(num_folds, "num_folds")
    num_folds = min(num_folds, size)
    place_of = np.random.default_rng(seed).permutation(size) % num_folds
    return [
        torch.from_numpy(place_of == i).reshape(data.event_shape).to(data.x.device)
        for i in range(num_folds)
    ]


@dataclass(frozen=True)
class _Sweep:
    """All rows, fold by fold, some rows at a time."""

    data: Dataset
    folds: list[Tensor]
    num_particles: int
    seed: int
    progress: bool

    def pit(
        self,
        kind: str,
        predict: Callable[[Dataset, Tensor], list[Predicted]],
        num_train: int | None,
    ) -> PIT:
        """By what `predict` gives for some rows and a fold: traces with p(x given z), and
        log-weights, of any number of proposals; each row takes that with the largest ESS.
        """
        x, num_folds = self.data.x.cpu().numpy().astype(np.float64), len(self.folds)
        below, at, size = (np.full(x.shape, np.nan) for _ in range(3))
        at_halves = np.full((2, *x.shape), np.nan)
        pareto_k = np.empty((num_folds, len(x)))
        for i, rows in self._parts(kind):
            fold, part = self.folds[i], self.data[rows]
            with seeded(derived_seed(self.seed, i, rows.start)):
                found = [_averages(*predicted, part) for predicted in predict(part, fold)]
            *values, pareto_k[i, rows] = _best(found)
            where = fold.cpu().numpy() & ~np.isnan(x[rows])
            for array, value in zip((below, at, *at_halves, size), values, strict=True):
                array[rows][where] = value[where]
        v = np.random.default_rng(derived_seed(self.seed, num_folds)).random(x.shape)
        u = (size * (below + v * at) + v) / (size + 1)
        names = self.data.dims, dict(self.data.coords)
        return PIT(u, below, at, at_halves, x, pareto_k, kind, *names, num_train)

    def _parts(self, kind: str) -> Iterator[tuple[int, slice]]:
        """Every fold and chunk of rows, with a bar."""
        num_data = len(self.data)
        step = rows_per_chunk(num_data, self.num_particles, None)
        total = num_data * len(self.folds)
        with tqdm(
            total=total, desc=f"{kind} PIT", unit=" rows", disable=not self.progress, delay=2
        ) as bar:
            for i in range(len(self.folds)):
                for start in range(0, num_data, step):
                    rows = slice(start, min(start + step, num_data))
                    yield i, rows
                    bar.update(rows.stop - rows.start)


def _averages(
    traces: list[poutine.Trace], log_weights: Tensor, part: Dataset
) -> tuple[np.ndarray, ...]:
    """P(X < x), P(X = x) by all draws and by halves of them, and the ESS, (B, *event) each; k-hat,
    (B,).

    The halves are the draws of even and of odd number, so that each has its share of every trace.
    """
    parts = [_below_and_at(trace, part) for trace in traces]
    below, at = (np.concatenate(each) for each in zip(*parts, strict=True))
    log_w = log_weights.cpu().numpy()
    evidence, log_w = reduce_log_weights(log_w), log_w.astype(np.float64)
    weights, halves = (
        softmax(log_w, axis=0),
        (slice(0, None, 2), slice(min(1, len(log_w) - 1), None, 2)),
    )
    means = [_mean(weights, below), _mean(weights, at)]
    means += [_mean(softmax(log_w[half], axis=0), at[half]) for half in halves]
    ess = evidence.ess.reshape(-1, *[1] * len(part.event_shape))
    return (
        *(mean.reshape(part.x.shape) for mean in means),
        np.broadcast_to(ess, part.x.shape),
        evidence.pareto_k,
    )


def _best(found: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Row by row the averages of the proposal with the largest ESS."""
    ess = np.stack([each[-2].reshape(len(each[-1]), -1)[:, 0] for each in found])
    best, rows = np.nan_to_num(ess).argmax(0), np.arange(ess.shape[1])
    return tuple(np.stack(each)[best, rows] for each in zip(*found, strict=True))


def _below_and_at(trace: poutine.Trace, part: Dataset) -> tuple[np.ndarray, np.ndarray]:
    require_no_inner_plates(trace, "a PIT")
    site, x = site_of_x(trace, part.event_shape.numel()), part.x.nan_to_num()
    return below_and_at(site["fn"], x.reshape(len(x), *site["fn"].event_shape))


def _mean(weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Over the particles."""
    return np.einsum("kb,kb...->b...", weights, probabilities).clip(0, 1)
