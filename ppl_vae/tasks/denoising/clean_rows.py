"""denoise: clean rows given noisy ones, by the posterior of x."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.distributions import constraints

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.errors import ArgumentError, DataError
from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.families.posteriors import FullRankNormal
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program
from ppl_vae.refinement import GradientRefinement, refine
from ppl_vae.runtime.checks import from_keywords, real_number
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed
from ppl_vae.tasks.denoising.noise import Noise
from ppl_vae.tasks.denoising.noisy_model import NoisyModel
from ppl_vae.tasks.denoising.start import BetterStart
from ppl_vae.tasks.imputation.drawing import MultipleImputation, draw_entries
from ppl_vae.tasks.imputation.imputations import Imputations

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Denoised", "denoise"]

MOST_CORRELATED = 100  # latents of a full covariance


@dataclass(frozen=True, repr=False)
class Denoised:
    """Draws and summaries of clean rows x given noisy ones y.

    Args:
        posterior: Draws of the entries that noise may have changed, as imputations. The others are
            the given values.

    Example:
        See `denoise`.
    """

    posterior: Imputations

    def __len__(self) -> int:
        return len(self.posterior)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.posterior)

    @property
    def mean(self) -> np.ndarray:
        """E(x given y), (N, *event): the estimate with the smallest squared error."""
        return self.posterior.mean

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviations, (N, *event): 0 where x is known."""
        return self.posterior.sd

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Equal-tailed intervals of the clean entries, (2, N, *event).

        Args:
            level: Probability of the interval, at most 0.99.
        """
        return self.posterior.interval(level)

    @property
    def rows(self) -> "pd.DataFrame":
        """Each row: the method that served it, k-hat, ESS and R-hat, and the verdict.

        The method is "none" where every entry is known.
        """
        return self.posterior.rows.drop(columns="missing")

    def psnr(self, clean: Any, *, peak: float = 1.0) -> np.ndarray:
        """Peak signal-to-noise ratio of the posterior means, 10 log10(peak^2 / MSE), (N,), in dB.

        The MSE is that of the known clean entries; it is NaN for a row that has none.

        Args:
            clean: The clean rows, (N, *event), with the labels and columns of the noisy ones if
                both have some.
            peak: Largest value of x.

        Raises:
            ValueError: They have another shape, or other labels or columns.
        """
        real_number(peak, "peak", above=0)
        squares = np.square(self.mean - self.matched(clean)).reshape(len(self.mean), -1)
        known = ~np.isnan(squares)
        with np.errstate(divide="ignore", invalid="ignore"):
            # infinite where the rows are equal, NaN where no entry is known
            error = squares.sum(1, where=known) / known.sum(1)
            return 10 * np.log10(peak**2 / error)

    def matched(self, clean: Any) -> np.ndarray:
        """The clean rows in double precision, (N, *event), if they are those of the noisy ones.

        Args:
            clean: As in `psnr`.

        Raises:
            ValueError: They have another shape, or other labels or columns.
        """
        rows = as_dataset(clean).in_memory()
        noisy = self.posterior.data
        noisy.refuse_other_index(rows, "clean")
        names: Any = (rows.columns.get("x"), noisy.columns.get("x"))
        if None not in names and names[0] != names[1]:
            raise ValueError(
                f"clean has the columns {list(names[0])}, and the noisy rows {list(names[1])}: "
                "give the same in the same order"
            )
        truth = rows.x.double().cpu().numpy()
        if truth.shape != self.mean.shape:
            raise ValueError(
                f"clean has shape {truth.shape}, and the denoised rows {self.mean.shape}: give the "
                "clean rows in the same order"
            )
        return truth

    def __repr__(self) -> str:
        served = self.posterior.served
        counts = zip(*np.unique(served.method, return_counts=True), strict=True)
        methods = ", ".join(f"{count} by {name}" for name, count in counts)
        unreliable = f", {served.num_unreliable} unreliable" if served.num_unreliable else ""
        return f"Denoised({len(served.method)} rows: {methods}{unreliable})"


def denoise(
    model: Model,
    guide: Guide,
    noisy: Dataset | Any,
    noise: Noise | Mapping[str, Noise],
    *,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Denoised:
    """Clean rows given noisy ones: draws, means and intervals of x given y under p(x).

    p(x given y) is proportional to p(x) p(y given x), with p(x) the model of clean rows. Its
    entries are independent given z, so that z ~ p(z given y) is drawn with x integrated out,
    p(y given z) = prod_i of the integral of p(x_i given z) p(y_i given x_i) dx_i, and then each x_i
    given z and y_i. The guide saw clean rows in training and may be far off for noisy ones, so that
    each row starts at the guide or at the prior, whichever has the larger ELBO. From there z is
    chosen among draws by importance weights, for most rows among those of a guide refined for them,
    or drawn by Hamiltonian Monte Carlo, and each row is judged. Intervals are right if model and
    noise are; on rows that the model cannot generate they are too short.

    Args:
        model: A `Model` of clean rows.
        guide: Its guide.
        noisy: The noisy rows y: a `Dataset`, or an array, tensor, DataFrame; NaN is missing.
        noise: `GaussianNoise`, `SaltAndPepper`, `Dropout`, `PoissonNoise`, or a `Noise`, of all
            entries; or those of single columns by name, {"pressure": GaussianNoise(5.0)}, where the
            other columns are clean.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `MultipleImputation`: num_imputations (20 draws that are kept), method
            ("auto"), num_particles (50), refinement (a normal with a full covariance for each row,
            up to 100 latents), sampler.

    Returns:
        Draws, means, standard deviations and intervals of every entry.

    Raises:
        ValueError: The noise has no closed form with this likelihood; the model is a custom one;
            there is no such column; a value cannot arise under this noise.

    References:
        Vincent et al. (2008), Extracting and composing robust features with denoising autoencoders;
        Efron (2011), Tweedie's formula and selection bias, JASA 106 (posterior means as denoisers).

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> from ppl_vae.tasks.denoising import GaussianNoise
        >>> model = Model(priors.StandardNormal(1), likelihoods.Gaussian(3))
        >>> guide = Guide(posteriors.MeanFieldNormal(1), 3)
        >>> noise = GaussianNoise(0.5)
        >>> denoised = denoise(model, guide, torch.ones(2, 3), noise, num_imputations=5)
        >>> denoised.mean.shape, bool((denoised.sd < 0.5).all())
        ((2, 3), True)
    """
    defaults = {"num_particles": 50} | _refinement(guide)
    settings = from_keywords(MultipleImputation, defaults | options, "denoise")
    rows = as_dataset(noisy).in_memory()
    program = NoisyModel(model, _by_place(noise, rows))
    _refuse_impossible(program, Inference(program, guide, rows).data, seed)
    asked = program.unknown(rows.x).cpu().numpy()
    start: Program = guide
    if _has_full_covariance(guide):
        method = BetterStart(prior_guide(model))
        start = refine(program, guide, rows, method, seed=seed, progress=False)
    found = draw_entries([(program, start)], rows, asked, settings, seed=seed, progress=progress)
    return Denoised(found)


def _by_place(noise: Any, rows: Dataset) -> Noise | dict[int, Noise]:
    """The noise of all entries, or those of single columns by their places."""
    if not isinstance(noise, Mapping):
        return _a_noise(noise, "noise")
    if not noise or not rows.feature_names:
        raise ArgumentError(
            f"noise is {echoed(noise)}: name one or more of the columns of a table, or give one "
            "noise for all entries"
        )
    places = rows.places_of(list(map(str, noise)))
    each = [_a_noise(value, f"noise[{name!r}]") for name, value in noise.items()]
    return dict(zip(places, each, strict=True))


def _a_noise(value: Any, name: str) -> Noise:
    """The noise, if it is one."""
    if not isinstance(value, Noise):
        raise ArgumentError(
            f"{name} is {echoed(value)}; it must be a Noise, such as GaussianNoise(0.1)"
        )
    return value


def _refuse_impossible(program: NoisyModel, rows: Dataset, seed: int) -> None:
    """Refuse values that no clean value gives: their density is zero, whatever z is."""
    with evaluating(program), seeded(seed):
        density = program.density(rows.x, rows.context)
    impossible = (density.isnan() | density.isneginf()) & ~rows.x.isnan()
    if not impossible.any():
        return
    row, *feature = impossible.nonzero()[0].tolist()
    place = tuple(feature)
    if rows.feature_names:
        place = rows.feature_names[feature[0]]
    raise DataError(
        f"the noisy rows hold {rows.x[row, *feature].item():g} at {rows.row_at(row)}, feature "
        f"{place}, which no clean value gives under this noise: look at its units, or make it NaN"
    )


def _refinement(guide: Guide) -> dict[str, Any]:
    """Full covariance where it can be had: noise correlates latents that clean rows determine."""
    if not _has_full_covariance(guide):
        return {}
    return {"refinement": GradientRefinement(posterior=FullRankNormal(guide.latent_dim))}


def _has_full_covariance(guide: Guide) -> bool:
    """Whether latents are vectors of few enough dimensions."""
    support = getattr(getattr(guide, "posterior", None), "support", None)
    return support is constraints.real_vector and guide.latent_dim <= MOST_CORRELATED
