"""Multiple imputation: draws of missing entries given the observed ones, by a trained model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.families.missing import discrete_entries
from ppl_vae.hmc import HMC
from ppl_vae.programs.global_latents import global_draw
from ppl_vae.programs.inference import Block, Inference
from ppl_vae.programs.observed.functions_of_x import require_x_itself
from ppl_vae.programs.traces import Program
from ppl_vae.refinement import GradientRefinement
from ppl_vae.runtime.checks import (
    from_keywords,
    instance_of,
    one_of,
    switch,
    whole_fields,
    whole_number,
)
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed
from ppl_vae.tasks.imputation.asked import entries_asked
from ppl_vae.tasks.imputation.fits import Fits
from ppl_vae.tasks.imputation.imputations import Imputations, Served
from ppl_vae.tasks.imputation.methods import (
    DRAWING,
    REFINEMENT,
    Chained,
    Drawn,
    Entries,
    Group,
    Importance,
    Method,
    Refined,
    conditioned,
    pooled,
)
from ppl_vae.tasks.imputation.predictive import Predictive

__all__ = ["MultipleImputation", "draw_entries", "impute"]

METHODS = ("importance", "refined", "hmc")
FEWEST_DRAWS = 1000  # of each missing entry
NUMBERS_AT_ONCE = 5_000_000  # draws of entries held at once
GLOBAL_LATENTS = len(METHODS)  # a random stream beside those of the methods


@dataclass(frozen=True)
class MultipleImputation:
    """How many imputations there are, and how z is drawn for them.

    Args:
        num_imputations: Number of imputations m.
        method: "importance": resampling of the guide's draws by their weights. "refined": the same
            with a guide that has parameters of its own for each row. "hmc": Hamiltonian Monte
            Carlo. "auto": the first of these that serves a row, judged by k-hat (0.7), the
            effective sample size (20 for each imputation) or R-hat (1.03).
        num_particles: Particles of each imputation K: one is chosen among so many.
        refinement: How a guide is refined.
        sampler: Settings of Hamiltonian Monte Carlo.

    Raises:
        ValueError: A number is out of range, or the method is none of these.

    Example:
        >>> MultipleImputation(num_imputations=2).particles
        500
    """

    num_imputations: int = 20
    method: Literal["auto", "importance", "refined", "hmc"] = "auto"
    num_particles: int = 200
    refinement: Any = field(default_factory=GradientRefinement)
    sampler: HMC = field(default_factory=lambda: HMC(num_samples=200, num_warmup=200))

    def __post_init__(self) -> None:
        whole_fields(self, num_imputations=1, num_particles=2)
        one_of(self.method, "method", ("auto", *METHODS))
        instance_of(self.sampler, "sampler", HMC)

    @property
    def particles(self) -> int:
        """K, or as many as give 1,000 draws in all."""
        return max(self.num_particles, -(-FEWEST_DRAWS // self.num_imputations))

    def methods(self) -> dict[int, Method]:
        """The methods in the order in which they are tried, by number."""
        known: list[Method] = [
            Importance(self.particles),
            Refined(self.particles, self.refinement),
            Chained(self.sampler, self.num_imputations, FEWEST_DRAWS),
        ]
        numbered = dict(enumerate(known))
        if self.method == "auto":
            return numbered
        number = METHODS.index(self.method)
        return {number: numbered[number]}


def impute(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    fits: Sequence[tuple[Program, Program]] | None = None,
    do_not_impute: Any = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Imputations:
    """Draws of what is missing in x given what is observed: m completed data sets.

    z ~ p(z given x_obs), then x_mis ~ p(x_mis given z, x_obs). z is chosen among the guide's draws
    by its importance weight, from a particle set of its own for each imputation; rows whose weights
    are poor are drawn with a refined guide, and those that are still poor by Hamiltonian Monte
    Carlo. Latents outside the data plate are drawn from the guide, once for each imputation. Bounds
    and whole numbers are those of the likelihood: nothing is clipped or rounded. What is missing is
    missing at random (MAR), unless the model has a missingness model: its draws are those
    of p(x_mis given x_obs, m). With theta fixed, intervals of pooled estimates are too short: give
    `fits`.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: The rows: a `Dataset`, or an array, tensor, DataFrame, DataArray; NaN is missing.
        fits: Pairs of model and guide, as of `bootstrap_fits`: imputation i uses one of its own, or
            several in a row share one where there are fewer.
        do_not_impute: Missing entries that stay missing: names of columns, or booleans (N, *event),
            or a frame of booleans with the columns of x.
        seed: Seed of the draws; the same seed and sizes give the same imputations.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `MultipleImputation`: num_imputations (20), method ("auto"),
            num_particles (200), refinement, sampler.

    Returns:
        The completed data sets, with means, intervals and the method that served each row.

    Raises:
        ValueError: A column was never observed in training; a category is none of the model's
            levels; x lies outside the support, or is not what the model observes.

    References:
        Rubin (1987), Multiple imputation for nonresponse in surveys, Wiley; Mattei and Frellsen
        (2019), MIWAE, arXiv:1812.02633, section 3.3 (importance resampling).

    Example:
        >>> import torch
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> x = bed.x.clone()
        >>> x[0, 1] = torch.nan
        >>> imputations = impute(bed.model, bed.guide, x, num_imputations=5)
        >>> len(imputations), imputations.complete(0).shape
        (5, (3, 5))
    """
    settings = from_keywords(MultipleImputation, options, "impute")
    whole_number(seed, "seed", at_least=0)
    switch(progress, "progress")
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.check_programs()
    inference.require_density()
    require_x_itself(inference.model, inference.data)
    asked = entries_asked(model, inference.data, do_not_impute)
    pairs = [(model, guide)] if fits is None else fits
    if not isinstance(pairs, Sequence) or not len(pairs):
        raise ValueError(
            "fits are not a list of pairs of model and guide, as of bootstrap_fits: give one or "
            "more, or leave it out"
        )
    found = draw_entries(pairs, inference.data, asked, settings, seed=seed, progress=progress)
    return replace(found, has_fits=fits is not None)


def draw_entries(
    pairs: Sequence[tuple[Program, Program]],
    data: Dataset,
    asked: np.ndarray,
    settings: MultipleImputation,
    *,
    seed: int,
    progress: bool,
) -> Imputations:
    """Draws of the entries asked for, by pairs of model and guide that were checked.

    Args:
        pairs: Models and guides.
        data: The rows, in memory.
        asked: The entries, (N, *event).
        settings: How many draws, and how z is drawn.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> x = bed.x.clone()
        >>> x[0, 1] = torch.nan
        >>> data = Dataset(x)
        >>> asked = x.isnan().numpy()
        >>> pairs = [(bed.model, bed.guide)]
        >>> settings = MultipleImputation(num_imputations=5)
        >>> len(draw_entries(pairs, data, asked, settings, seed=0, progress=False))
        5
    """
    _require_room(settings, asked)
    inference = Inference(*pairs[0], data)
    groups = list(_groups(inference.data, pairs, settings.num_imputations, seed))
    predictive = _room(inference, asked, settings.num_imputations)
    job = Job(
        groups=groups,
        data=inference.data,
        asked=asked,
        predictive=predictive,
        served=Served.empty(len(asked)),
        are_near=isinstance(pairs, Fits),
    )
    reasons = job.run(settings.methods(), seed, progress)
    has_mechanism = getattr(inference.model, "missingness", None) is not None
    allows_chains = not has_mechanism and Chained.name not in reasons
    job.served.warn(reasons, inference.data, allows_chains=allows_chains)
    return Imputations(
        data=inference.data.to("cpu"),
        asked=asked,
        predictive=predictive,
        served=job.served,
        fit_numbers=_fit_numbers(len(pairs), settings.num_imputations),
    )


@dataclass(frozen=True)
class Job:
    """The rows that are drawn, and where the draws go; near fits started at one theta."""

    groups: list[Group]
    data: Dataset
    asked: np.ndarray
    predictive: Predictive
    served: Served
    are_near: bool

    @property
    def by_row(self) -> np.ndarray:
        """What is asked for, (N, entries of a row)."""
        return self.asked.reshape(len(self.asked), -1)

    def run(self, methods: dict[int, Method], seed: int, progress: bool) -> dict[str, str]:
        """Draw all rows by the first method, and those that it cannot serve by the next.

        Returns why a method could not be used, by its name.
        """
        rows = np.flatnonzero(self.by_row.any(1))
        reasons = {}
        for number, method in methods.items():
            if not len(rows):
                break
            try:
                self._serve(method, rows, derived_seed(seed, number), progress)
            except ValueError as error:
                if number == min(methods):
                    raise
                reasons[method.name] = str(error)
            rows = rows[~self.served.is_reliable[rows]]
        return reasons

    def _serve(self, method: Method, rows: np.ndarray, seed: int, progress: bool) -> None:
        """Draw these rows by this method, block by block."""
        some = self.data[rows]
        ready: list[Inference] = []
        for group in self.groups:
            near = ready[0].guide if ready and self.are_near else None
            own_seed = derived_seed(seed, REFINEMENT, group.imputations[0])
            ready.append(method.ready(group, some, near, seed=own_seed, progress=progress))
        step = self._rows_at_once(method)
        title = f"imputation ({method.name})"
        with progress_bar(len(rows), title, progress=progress) as bar:
            for first in range(0, len(rows), step):
                here = rows[first : first + step]
                part = slice(first, first + len(here))
                own_seed = derived_seed(seed, DRAWING, first)
                self._block(method, here, [each.block(part, own_seed) for each in ready])
                bar.update(len(here))

    def _block(self, method: Method, rows: np.ndarray, blocks: list[Block]) -> None:
        """Draw a block of rows with all fits, and keep the summaries."""
        device = blocks[0].data.x.device
        found = self.by_row[rows].nonzero()
        entries = Entries(*(torch.from_numpy(each).to(device) for each in found))
        pairs = zip(self.groups, blocks, strict=True)
        parts: list[Drawn] = [method.draw(block, group, entries) for group, block in pairs]
        pool = pooled(parts)
        self.predictive.put(self._numbers(rows), pool, entries)
        self.served.put(rows, method.name, pool.judged)

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the missing entries of these rows among all, in their order."""
        counts = self.by_row.sum(1)
        last = counts.cumsum()
        return np.concatenate([np.arange(last[row] - counts[row], last[row]) for row in rows])

    def _rows_at_once(self, method: Method) -> int:
        """Rows of a block, so that the draws of their missing entries fit in memory."""
        most = int(self.by_row.sum(1).max())
        fitting = NUMBERS_AT_ONCE // (most * method.num_draws(self.groups))
        return max(1, min(method.rows_at_once, fitting))


def _require_room(settings: MultipleImputation, asked: np.ndarray) -> None:
    """Refuse more imputations than fit into memory, and more draws of a row."""
    by_row = asked.reshape(len(asked), -1).sum(1)
    num_imputations = settings.num_imputations
    missing = int(by_row.sum())
    what = f"num_imputations={num_imputations}"
    require_memory(f"{what} of {missing:,} cells", num_imputations, missing, num_bytes=8)
    draws = f"{what} with num_particles={settings.particles}"
    most = int(by_row.max())
    require_memory(draws, num_imputations, settings.particles, most, num_bytes=8)


def _fit_numbers(num_fits: int, num_imputations: int) -> np.ndarray:
    """Which fit each imputation uses, in nearly equal shares."""
    return np.sort(np.arange(num_imputations) % num_fits)


def _groups(
    data: Dataset, pairs: Sequence[tuple[Program, Program]], num_imputations: int, seed: int
) -> Iterator[Group]:
    """The imputations of each fit; one by one where there are latents outside the data plate."""
    numbers = _fit_numbers(len(pairs), num_imputations)
    for fit in np.unique(numbers).tolist():
        model, guide = pairs[fit]
        inference = Inference(model, guide, data)
        model, guide = inference.programs
        group = Group(model, guide, np.flatnonzero(numbers == fit).tolist())
        if not inference.check_programs():
            yield group
            continue
        for number in group.imputations:
            with inference.evaluating(derived_seed(seed, GLOBAL_LATENTS, number)):
                values = global_draw(guide, *inference.args)
            yield conditioned(group._replace(imputations=[number]), values)


def _room(inference: Inference, asked: np.ndarray, num_imputations: int) -> Predictive:
    """Room for the summaries, after a look at which entries are discrete."""
    data = inference.data
    num_entries = data.event_shape.numel()
    trace = inference.block(slice(0, 1), seed=0).terms(2).model_trace
    support = trace.nodes[inference.site_of_x]["fn"].support
    is_discrete = discrete_entries(support, num_entries)
    places = asked.reshape(len(asked), -1).nonzero()[1]
    return Predictive.empty(
        num_imputations,
        [is_discrete[place] for place in places],
        num_levels=max(map(len, data.levels.values()), default=0),
        dtype=data.x.dtype,
    )
