"""contrast: two groups of rows compared in latents and in predicted features."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.predictive.replicates import ReplicatedData
from ppl_vae.errors import ArgumentError
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.programs.inference import Inference, treat_alike
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.sites import sample_sites
from ppl_vae.programs.traces import Program, run_under_particles
from ppl_vae.runtime.checks import from_keywords, warn_caller, whole_fields
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed
from ppl_vae.runtime.text import counted, percent
from ppl_vae.tasks.contrasts.design import Design
from ppl_vae.tasks.contrasts.differences import GroupDifferences
from ppl_vae.tasks.contrasts.permutations import permutation_test

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Contrast", "ContrastSettings", "contrast"]

MOST_COPIES = 0.05  # share of rows that equal an earlier one, without a warning

COVARIATES, LABELLINGS = range(2)  # random streams


@dataclass(frozen=True)
class ContrastSettings:
    """Keywords of `contrast`.

    Args:
        context: Covariates under which the features of all rows are predicted: values by column,
            {"sex": "female"}, or all covariates, (N, C). None takes those of a random row for each
            draw, the same for all rows.
        reference: Name of the first group, from which the other one differs; None is the first in
            sorted order.
        num_samples: Draws of z, and of x given z, of each row S.
        num_permutations: Largest number of labellings; if there are fewer, all are enumerated.
        seed: Seed of draws and labellings.

    Example:
        >>> ContrastSettings(num_samples=100).num_permutations
        9999
    """

    context: Any = None
    reference: Any = None
    num_samples: int = 500
    num_permutations: int = 9999
    seed: int = 0

    def __post_init__(self) -> None:
        whole_fields(self, num_samples=2, num_permutations=1, seed=0)


@dataclass(frozen=True, repr=False)
class Contrast(Shown):
    """Differences between two groups of rows; `print` shows those with the smallest p-values.

    Args:
        latents: Differences of the latents.
        features: Differences of the predicted features; a column of categories has one for each
            level, the difference of its shares.
        design: Groups, strata and subjects.
        pareto_k: k-hat of the importance weights that z was drawn with, (N,): above 0.7 the draws
            of a row follow the guide more than the posterior.

    Example:
        See `contrast`.
    """

    latents: GroupDifferences
    features: GroupDifferences
    design: Design
    pareto_k: np.ndarray

    def to_frame(self, level: float = 0.95) -> "pd.DataFrame":
        """One row for each latent and then for each feature, indexed by kind and name.

        Args:
            level: Probability of the posterior intervals.
        """
        import pandas as pd

        parts = {"latent": self.latents.to_frame(level), "feature": self.features.to_frame(level)}
        return pd.concat(parts, names=["kind", "name"])

    def __str__(self) -> str:
        return f"{self.design}\n\n{self.latents}\n\n{self.features}"

    def __repr__(self) -> str:
        bad = (self.pareto_k > GOOD_K).mean()
        return (
            f"Contrast({self.design}: {self.latents.verdict}, {self.features.verdict}; k-hat > "
            f"{GOOD_K} for {percent(bad)} of the rows)"
        )


def contrast(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    groups: Any,
    *,
    strata: Any = None,
    subjects: Any = None,
    progress: bool = True,
    **options: Any,
) -> Contrast:
    r"""Differences between two groups of rows, in z and in the x that the model predicts.

    With z_n ~ p(z given x_n) and x'_n ~ p(x given z_n), the difference of a latent or a feature is
    the mean over the rows of the second group minus that of the first. With strata it is the mean
    of the differences within strata with weights n_1 n_2 / (n_1 + n_2), as in a regression with an
    effect of each stratum; with subjects each subject counts once, by the mean of its rows. Where
    the model has covariates, x' is predicted under the same covariates for all rows: z ~ p(z given
    x, c), and x' ~ p(x given z, c').

    Two questions have separate answers. *Do these rows differ?* The posterior of the difference,
    `probability`, treats rows and model as given. *Do the groups differ beyond these rows?*
    Permutation p-values: rows are summarised by their posterior means, which are computed without
    knowledge of the groups, so that under the hypothesis each labelling of the rows (of whole
    subjects, within strata) is equally probable. They are valid whatever the model, even for rows
    that it was trained on; a bad model costs power. What they test is exchangeability: a difference
    in spread, in covariates or in what is missing is a difference too.

    A class that the model knows for some rows (Pyro's `obs_mask`) is kept: their latent
    "y_unobserved" is the known class, x' is drawn with it, and its column is no predicted feature.
    Latents outside the data plate are drawn from the guide, once for each draw of z.

    Predicted features follow z: an effect on one of them moves z, and with it all that z predicts.
    `observed` has the differences of x itself. Groups are not given to model or guide and must not
    have been: a covariate that is the group itself is refused. Axes of z are often arbitrary up to
    rotation: a difference in z[0] then says that z differs, and not what z[0] means.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: The rows of both groups: a `Dataset`, or an array, tensor, DataFrame; NaN is missing.
        groups: Two different labels, one for each row, (N,).
        strata: Strata within which rows are compared and labels permuted, (N,) or (N, columns).
        subjects: Subjects whose rows belong together, (N,); labels of whole subjects are permuted.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `ContrastSettings`: context, reference, num_samples (500),
            num_permutations (9999), seed.

    Returns:
        Differences of latents, adjusted by max-T, and of features, adjusted by Benjamini and
        Hochberg.

    Raises:
        ValueError: There are other than two groups, a label is missing, a subject has rows in both
            groups, or a covariate is the group.

    References:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics, Nature
        Methods 15 (differences under a VAE); Westfall and Young (1993), Resampling-based multiple
        testing, Wiley; Benjamini and Yekutieli (2001), Annals of Statistics 29.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=60)
        >>> x = bed.x.clone()
        >>> x[:30] += 2 * bed.model.loading[:, 0]  # z[0] is larger by 2
        >>> found = contrast(bed.model, bed.guide, x, ["new"] * 30 + ["old"] * 30, reference="old")
        >>> bool(found.latents.discoveries(0.05)[0])
        True
    """
    settings = from_keywords(ContrastSettings, options, "contrast")
    inference = Inference(model, guide, as_dataset(data).in_memory())
    rows = inference.data
    parts = {"groups": groups, "strata": strata, "subjects": subjects}
    for what, values in parts.items():
        rows.refuse_other_index(values, what)
    design = Design.of(len(rows), groups, strata, subjects, settings.reference)
    _refuse_known_groups(rows, design)
    _warn_of_missing(rows, design)
    _warn_of_copies(rows, design)
    inference.require_density()
    treat_alike(rows, "contrast")
    replicates = _replicates(inference, settings, progress)
    names = dimension_names({name: replicates.shapes[name] for name in replicates.latents})
    columns = _drawn_columns(replicates)
    predicted = _predicted(replicates, settings, progress)
    expanded = (_expanded(part, columns) for part in predicted)
    compare = Compare(design, settings, progress)
    features = compare("features", tuple(name for name, *_ in columns), expanded, "bh")
    x = _expanded(rows.x.flatten(1).double().cpu().numpy(), columns)
    return Contrast(
        latents=compare("latents", names, _latents(replicates), "max-t"),
        features=replace(features, observed=design.difference(x)),
        design=design,
        pareto_k=replicates.pareto_k,
    )


@dataclass(frozen=True)
class Compare:
    """Draws of rows as differences between groups, with the permutation test of their means."""

    design: Design
    settings: ContrastSettings
    progress: bool

    def __call__(
        self, what: str, names: tuple[str, ...], parts: Iterable[np.ndarray], method: str
    ) -> GroupDifferences:
        """Differences of these values, given as draws (s, N, M), some at a time."""
        differences: list[np.ndarray] = []
        total: Any = 0.0
        for part in parts:
            differences.append(self.design.difference(part))
            total = total + part.sum(0)
        draws = np.concatenate(differences)
        test = permutation_test(
            self.design,
            total / len(draws),
            self.settings.num_permutations,
            seed=derived_seed(self.settings.seed, LABELLINGS),
            progress=self.progress,
        )
        return GroupDifferences(what, names, draws, test, method)


def _replicates(inference: Inference, settings: ContrastSettings, progress: bool) -> ReplicatedData:
    """Draws of z given x, one value of each dimension for each row."""
    first = inference.block(slice(0, 1), settings.seed)
    with first.evaluating():
        # The model's, which has latents that the guide lacks and the model sums out.
        trace: Any = run_under_particles(inference.model, 1, *first.args)
    for site in sample_sites(trace):
        if site["is_observed"]:
            trace.remove_node(site["name"])
    require_no_inner_plates(trace, "a contrast of a row's latents")
    sizes = {"num_samples": settings.num_samples, "seed": settings.seed}
    return ReplicatedData(inference, **sizes, progress=progress)


def _latents(replicates: ReplicatedData) -> Iterator[np.ndarray]:
    """Draws of all dimensions side by side, (s, N, D), some at a time."""
    num_rows = len(replicates.inference)
    for draws in replicates.parts():
        # Plates of x alone are dims of size one here.
        values = [
            each[draws].reshape(draws.stop - draws.start, num_rows, -1)
            for each in replicates.latents.values()
        ]
        yield torch.cat(values, -1).double().cpu().numpy()


def _predicted(
    replicates: ReplicatedData, settings: ContrastSettings, progress: bool
) -> Iterator[np.ndarray]:
    """Draws of x given z, (s, N, J), under the same covariates for all rows, some at a time."""
    data = replicates.inference.data
    num_rows = len(data)
    if data.context is None or settings.context is not None:
        other = data if settings.context is None else data.with_context(settings.context)
        parts = ((draws, other.context) for draws in replicates.parts())
    else:
        rng = np.random.default_rng(derived_seed(settings.seed, COVARIATES))
        chosen = rng.integers(num_rows, size=settings.num_samples).tolist()
        parts = (
            (slice(s, s + 1), data.context[row].expand(num_rows, -1))
            for s, row in enumerate(chosen)
        )
    with progress_bar(settings.num_samples, "predictions", unit="draws", progress=progress) as bar:
        for draws, context in parts:
            yield replicates.given_x(draws, context).reshape(-1, num_rows, data.event_shape.numel())
            bar.update(draws.stop - draws.start)


def _drawn_columns(replicates: ReplicatedData) -> list[tuple[str, int, int | None]]:
    """The columns that the model draws given z; a warning names the others."""
    columns = _columns(replicates.inference.data)
    are_drawn = replicates.entries.are_drawn.tolist()
    left_out = ", ".join(repr(name) for name, place, _ in columns if not are_drawn[place])
    if left_out:
        warn_caller(
            f"x has columns that the model does not draw given z, as a class known for some rows: "
            f"the predicted features are without {left_out}"
        )
    return [column for column in columns if are_drawn[column[1]]]


def _columns(data: Dataset) -> list[tuple[str, int, int | None]]:
    """Name of each feature, its place in x, and its level if it is a category."""
    if len(data.event_shape) > 1:
        names = dimension_names({"x": tuple(data.event_shape)})
        return [(name, place, None) for place, name in enumerate(names)]
    found: list[tuple[str, int, int | None]] = []
    for place, name in enumerate(data.feature_names):
        levels = data.levels.get(name)
        if levels is None:
            found.append((name, place, None))
        else:
            found += [(f"{name}={level}", place, code) for code, level in enumerate(levels)]
    return found


def _expanded(x: np.ndarray, columns: list[tuple[str, int, int | None]]) -> np.ndarray:
    """Draws of x with an indicator for each level, (s, N, J) -> (s, N, features)."""
    _, places, codes = zip(*columns, strict=True)
    values = x[..., list(places)]
    levels = np.array([np.nan if code is None else code for code in codes])
    shares = np.where(np.isnan(values), np.nan, values == levels)
    return np.where(np.isnan(levels), values, shares)


def _refuse_known_groups(data: Dataset, design: Design) -> None:
    """Refuse covariates that are the group itself; warn of such columns of x."""
    second = design.second[design.unit]
    if data.context is not None:
        for name in _equal_to_groups(data.context, data.context_names, second):
            raise ArgumentError(
                f"covariate {name!r} is the group itself: the guide was given the groups, and "
                "p-values need one that was not; train without this covariate"
            )
    for name in _equal_to_groups(data.x.flatten(1), data.feature_names, second):
        warn_caller(
            f"column {name!r} of x equals the groups: the guide was given them there, and a "
            "difference in this column or in z is no finding; train without this column"
        )


def _equal_to_groups(values: Tensor, names: Sequence[str], second: np.ndarray) -> list[str]:
    """Names of columns with one value in each group, and another in the other."""
    if not names:
        return []
    parts = [values.double().cpu().numpy()[second == each] for each in (False, True)]
    # without the missing values, which are infinite here where there are no others
    low, high = (
        np.stack([end.reduce(part, axis=0, initial=start) for part in parts])
        for end, start in ((np.fmin, np.inf), (np.fmax, -np.inf))
    )
    equal = (low == high).all(0) & (low[0] != low[1])
    return [name for name, is_equal in zip(names, equal, strict=True) if is_equal]


def _warn_of_copies(data: Dataset, design: Design) -> None:
    """Warn where units have equal rows of real numbers, which independent ones do not have."""
    import pandas as pd

    x = data.x.flatten(1).double().cpu().numpy()
    is_real = (x % 1 > 0).any(1)  # whole numbers and categories repeat themselves
    rows = pd.DataFrame(x).assign(unit=design.unit)[is_real].drop_duplicates()
    num_copies = int(rows.drop(columns="unit").duplicated().sum())
    if num_copies > MOST_COPIES * len(rows):
        warn_caller(
            f"{counted(num_copies, 'row')} of {len(rows):,} with fractions equal an earlier one: "
            "p-values take rows as independent and are too small if these are copies; drop them, "
            "or give subjects= for rows that belong together"
        )


def _warn_of_missing(data: Dataset, design: Design) -> None:
    """Warn where values are missing in one group alone."""
    missing = data.x.isnan().flatten(1).any(1).cpu().numpy()
    second = design.second[design.unit]
    has_missing = [bool(missing[second == each].any()) for each in (False, True)]
    if has_missing[0] != has_missing[1]:
        warn_caller(
            f"values are missing in group {design.names[has_missing[1]]!r} alone: latents of rows "
            "with fewer entries lie closer to the prior, which is a difference of its own"
        )
