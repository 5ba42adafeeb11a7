"""Probability integral transforms of the entries of x by their predictive distributions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.groups import group, tree
from ppl_vae.diagnostics.predictive.cdf import best_averages, check_observed, refuse_mechanism
from ppl_vae.diagnostics.predictive.entries import EntriesOfX, counted_entries
from ppl_vae.diagnostics.predictive.hiding import Hiding, Predicted
from ppl_vae.diagnostics.uniformity import holm, uniformity_p_value
from ppl_vae.evidence.pareto import share_of_bad
from ppl_vae.evidence.summary import k_hat_of
from ppl_vae.model import Model
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk, treat_alike
from ppl_vae.programs.modules import require_callable, rows_fitted
from ppl_vae.programs.traces import Program, is_local, run_under_particles, sample_sites
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import derived_seed, generator
from ppl_vae.runtime.text import counted

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PIT", "PITSummary", "conditional_pit", "marginal_pit"]


@dataclass(frozen=True)
class PITSummary(Shown):
    """Uniformity, location and spread of PIT values.

    Args:
        kind: "marginal" or "conditional".
        p_value: Smallest p-value of the features after Holm's correction.
        feature: The feature with this p-value.
        mean: Mean of all values; 0.5 if calibrated, smaller if the predictions are too large.
        spread: Standard deviation of all values times sqrt(12): 1 if calibrated, above 1 if the
            predictions are too narrow, below 1 if they are too wide.
        share_bad_k: Share of the k-hats above 0.7, for which conditional values are inaccurate; NaN
            if unknown.
        num_data: Number of rows N.
        num_features: Number of entries of a row.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal
        of Statistics 6.

    Example:
        >>> print(PITSummary("marginal", 0.3, "height", 0.5, 1.0, 0.0, 100, num_features=2))
        marginal PIT of 100 rows x 2 features: p = 0.3 (feature height, Holm over features);
        mean 0.500, spread 1.000
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
        size = f"{counted(self.num_data, 'row')} x {counted(self.num_features, 'feature')}"
        test = f"p = {self.p_value:.2g} (feature {self.feature}, Holm over features)"
        said = f"{self.kind} PIT of {size}: {test}; mean {self.mean:.3f}, spread {self.spread:.3f}"
        if self.kind == "conditional":
            said += f"; {k_hat_of(self.share_bad_k)} of the weights"
        return said


@dataclass(frozen=True)
class PIT(Shown):
    """PIT values of the entries of x: uniform over the rows, by feature, if the model is right.

    u = (n (P(X < x) + v P(X = x)) + v) / (n + 1), v uniform. It is randomised if x is discrete, and
    x itself counts as one of n + 1 draws of x, so that a finite n does not distort the tails. n is
    the number of draws of z, or the ESS of their weights, over the share of the variance of x's
    rank that lies between them, by feature: an average of distribution functions is as accurate as
    so many draws of x. The entries of one row depend on each other, so uniformity is tested by
    feature.

    Args:
        values: u, (N, *event); NaN where x is missing.
        below: P(X < x), (N, *event).
        at: P(X = x), (N, *event); 0 where x is continuous.
        at_halves: The same by each half of the draws, (2, N, *event); their errors are independent.
        observed: x itself, (N, *event).
        pareto_k: k-hat of the weights, (folds, N); -inf for marginal values, which have none.
        kind: "marginal" or "conditional".
        dims: Names of the dims of x.
        coords: Their coordinates, by name.
        num_train: Number of other rows that the model was fitted to, whose errors are allowed for;
            None if this number is unknown, or if the parameters are known.

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

    @cached_property
    def p_values(self) -> np.ndarray:
        """P-value of uniformity over the rows by feature, (*event,); NaN without observed entries.

        Features with fewer observed entries than others are padded with uniform numbers.
        """
        columns = self.values.reshape(len(self), -1).T
        missing = np.isnan(columns)
        filled = np.where(missing, np.random.default_rng(0).random(columns.shape), columns)
        seen_first = np.take_along_axis(filled, missing.argsort(1, kind="stable"), 1)
        p_values = uniformity_p_value(seen_first[:, : (~missing).sum(1).max()], self.num_train)
        return np.where(missing.all(1), np.nan, p_values).reshape(self.values.shape[1:])

    @property
    def p_value(self) -> float:
        """The smallest of them after Holm's correction, valid under any dependence of features."""
        return float(holm(self.p_values[~np.isnan(self.p_values)]).min())

    def one_entry(self, seed: int = 0) -> np.ndarray:
        """The value of one random observed entry per row, (M,), independent between rows."""
        values = self.values.reshape(len(self), -1)
        chance = generator(seed).random(values.shape)
        chosen = values[np.arange(len(self)), np.where(np.isnan(values), -1.0, chance).argmax(1)]
        return chosen[~np.isnan(chosen)]

    def summary(self) -> PITSummary:
        """Uniformity, location and spread."""
        seen = self.values[~np.isnan(self.values)]
        worst = np.unravel_index(int(np.nanargmin(self.p_values)), self.p_values.shape)
        names = [str(self.coords[dim][i]) for dim, i in zip(self.dims[1:], worst, strict=True)]
        return PITSummary(
            kind=self.kind,
            p_value=self.p_value,
            feature=", ".join(names),
            mean=float(seen.mean()),
            spread=float(seen.std() * 12**0.5),
            share_bad_k=share_of_bad(self.pareto_k),
            num_data=len(self),
            num_features=self.p_values.size,
        )

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "pit": the values, and "one_entry", one observed entry per row.

        `plot_ecdf_pit(tree, group="pit", var_names="one_entry", sample_dims="entry")` draws it, and
        `tree["pit"] = pit.to_datatree()["pit"]` adds it to another tree.
        """
        variables = {"pit": (self.dims, self.values), "one_entry": (("entry",), self.one_entry())}
        about = f"{self.kind.capitalize()} PIT values, and those of one entry of each row."
        return tree(pit=group(variables, self.coords, description=about))


def marginal_pit(
    model: Program,
    data: Dataset | Any,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> PIT:
    """PIT values of every entry by the model's marginal distributions: P(X_j <= x_nj), z ~ p(z).

    They are the likelihood's distribution function, averaged over new draws of z for every row, or
    one draw of x per z if there is no such function. They are uniform up to O(1 / S) for a right
    model, in the tails too, but insensitive to the dependence between features, which
    `conditional_pit` tests. The rows must be independent, without latents outside the plate.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 whose entries are
            independent given z.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        num_samples: Draws of z per row S.
        seed: Seed of the draws and of the randomisation.
        progress: Whether to show a bar after two seconds.

    Returns:
        The values and their test.

    Raises:
        ValueError: x is outside the support or has no observed entry; no site of the model holds x;
            a latent is outside the plate.

    References:
        Dawid (1984), Statistical theory: the prequential approach, JRSS A 147, section 5.3.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> print(marginal_pit(bed.model, bed.x + 1.0, num_samples=100))
        marginal PIT of 200 rows x 5 features: p = ... (feature ..., Holm over features);
        mean 0.770, spread 0.815
    """
    whole_number(num_samples, "num_samples")
    require_callable(model=model)
    inference = Inference(model, model, as_dataset(data).in_memory())
    model = inference.model
    treat_alike(inference.data, "marginal_pit")
    check_observed(model, inference.data)
    refuse_mechanism(model)

    def predict(block: Block, fold: Tensor) -> list[Predicted]:
        trace = run_under_particles(model, num_samples, *block.args)
        for site in sample_sites(trace):
            if not site["is_observed"] and not is_local(site):
                raise ValueError(
                    f'latent site {site["name"]!r} is outside the plate "data", so the rows and '
                    "their PIT values are dependent: condition the model on a value of it "
                    "(pyro.condition)"
                )
        return [([trace], torch.zeros(num_samples, len(block)))]

    return _pit(
        "marginal",
        inference,
        [torch.ones_like(inference.data.x[0], dtype=torch.bool)],
        predict,
        num_particles=num_samples,
        seed=seed,
        progress=progress,
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
    """PIT values of every entry, hidden in turn, by its distribution given the rest of its row.

    The features are divided at random into folds, and each fold is made missing (NaN) in turn. z is
    drawn in equal parts from three proposals: the guide given the rest, if it accepts NaN; the
    guide given all of x; and that guide with 1.5 times its standard deviations (or the prior, if
    the guide is not normal). Each draw is weighted by p(x_rest, z) over the mixture. As many draws
    come from a Student distribution with their moments, adapted twice. Each row takes the draws
    with the larger effective sample size: u_nj = sum_k w_k F(x_nj given z_k) / sum_k w_k. They are
    exact for a right model as K grows, for any guide, but inaccurate if k-hat is above 0.7. Nothing
    is refitted.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 whose entries are
            independent given z.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        num_folds: Number of folds; with as many folds as features, or more, one entry is hidden at
            a time.
        num_particles: Draws per row and fold K.
        seed: Seed of the folds, the draws and the randomisation.
        progress: Whether to show a bar after two seconds.

    Returns:
        The values, their test, and k-hat.

    Raises:
        ValueError: there are no folds; x has no observed entry; the model gives NaN where x is
            missing, or its entries have one joint density.

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
    whole_number(num_folds, "num_folds")
    if isinstance(model, Model) and model.likelihood.is_joint:
        raise ValueError(
            f"entries of {type(model.likelihood).__name__} have one joint density, so none can be "
            "hidden alone: use marginal_pit, or predictive_check"
        )
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.require_density()
    treat_alike(inference.data, "conditional_pit")
    check_observed(model, inference.data)
    refuse_mechanism(model)
    x = inference.data.x
    order = generator(seed).permutation(x[0].numel())
    fold_of = torch.from_numpy(order % num_folds).reshape(x[0].shape).to(x.device)
    folds = [fold_of == i for i in range(min(num_folds, x[0].numel()))]
    first = inference.block(slice(0, 1), seed=0)
    with first.evaluating():
        hiding = Hiding(model, guide, first, folds[0])

    def predict(block: Block, fold: Tensor) -> list[Predicted]:
        return hiding.predict(block, fold, num_particles)

    return _pit(
        "conditional",
        inference,
        folds,
        predict,
        num_particles=num_particles,
        seed=seed,
        progress=progress,
    )


def _pit(
    kind: str,
    inference: Inference,
    folds: list[Tensor],
    predict: Callable[[Block, Tensor], list[Predicted]],
    *,
    num_particles: int,
    seed: int,
    progress: bool,
) -> PIT:
    """PIT values from the results of `predict` for a block of rows and a fold, by proposal."""
    data = inference.data
    entries = EntriesOfX.of(inference.model, data)
    is_counted = counted_entries(entries, inference).cpu().numpy()
    x = np.where(is_counted, data.x.cpu().numpy(), np.nan).astype(np.float64)
    found = np.full((6, *x.shape), np.nan)
    pareto_k = np.empty((len(folds), len(x)))
    step = rows_per_chunk(len(x), num_particles)
    title = f"{kind} PIT"
    for i, fold in enumerate(folds):
        blocks = inference.blocks(step, seed=seed, keys=(i,), title=title, progress=progress)
        for block in blocks:
            rows = block.rows
            with block.evaluating():
                values, pareto_k[i, rows] = best_averages(predict(block, fold), block.data, entries)
            where = fold.cpu().numpy() & ~np.isnan(x[rows])
            found[:, rows][:, where] = values[:, where]
    below, at, *halves, between, ess = found
    num_like = ess / _share_between(below, at, between)
    # The random stream after those of the folds.
    v = np.random.default_rng(derived_seed(seed, len(folds))).random(x.shape)
    return PIT(
        values=(num_like * (below + v * at) + v) / (num_like + 1),
        below=below,
        at=at,
        at_halves=np.stack(halves),
        observed=x,
        pareto_k=pareto_k,
        kind=kind,
        dims=data.dims,
        coords=dict(data.coords),
        num_train=rows_fitted(inference.model),
    )


def _share_between(below: np.ndarray, at: np.ndarray, between: np.ndarray) -> np.ndarray:
    """By feature, the variance of x's rank between draws of z over that between draws of x."""
    of_draws = below * (1 - below) - below * at + at * (1 - at) / 4
    total, all_draws = (np.nansum(each, axis=0) for each in (between, of_draws))
    share = np.divide(total, all_draws, out=np.ones_like(total), where=all_draws > 0)
    return share.clip(1e-9, 1.0)
