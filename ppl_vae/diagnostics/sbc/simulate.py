"""Calibration of the encoder: where the true z lies among draws of z given x, on data that the
model makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.sbc.ranks import Quantity, Ranking, rows_of
from ppl_vae.diagnostics.sbc.sources import GuideDraws, PosteriorDraws, event_dims
from ppl_vae.diagnostics.sbc.summary import CalibrationSummary, central_coverage, summarise
from ppl_vae.programs.modules import evaluating, place
from ppl_vae.programs.simulate import simulate
from ppl_vae.programs.traces import Program
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Calibration", "calibration"]

WHAT = "PIT of the true latents among draws given their data; hpd: of the smallest highest-density region around them."


@dataclass(frozen=True)
class Calibration:
    """Probability integral transforms of the true latents among their draws: uniform on (0, 1)
    where q is p(z given x).

    `print` it, `plot_calibration` it. It speaks of data that the model makes.

    Args:
        pit: (N, Q): latent dimensions first, then test quantities.
        names: What they are: "z[0]", "z[1]", ..., "log_joint", "hpd", "norm", the user's own.
        shapes: Shape of one datum's value at each latent site.
        num_effective: How many independent draws the draws of each datum are worth, (N,).
        method: Where the draws came from.

    References:
        Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), Simulation-based calibration
        checking with test quantities, Bayesian Analysis, arXiv:2211.02383.

    Example:
        >>> even = (np.arange(500)[:, None] + 0.5) / 500
        >>> print(Calibration(even, ("z",), {"z": ()}, np.full(500, 1000.0), "GuideDraws(...)").summary().verdict)
        pass: nothing departs from uniform (smallest p 1 after correction for 1 quantity)
    """

    pit: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    num_effective: np.ndarray = field(repr=False)
    method: str

    def __len__(self) -> int:
        return len(self.pit)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.pit[:, self.names.index(name)]

    @property
    def num_latents(self) -> int:
        """Number of latent dimensions."""
        return sum(int(np.prod(shape, dtype=int)) for shape in self.shapes.values())

    def coverage(self, levels: Any) -> np.ndarray:
        """Share of the truths in the central interval of each level, (*L, Q); its standard error is
        binomial.
        """
        return central_coverage(self.pit, np.asarray(levels))

    def hpd_coverage(self, levels: Any) -> np.ndarray:
        """Share of the truths in the highest-density region of each level, (*L,)."""
        return (self["hpd"] <= np.asarray(levels)[..., None]).mean(-1)

    def summary(self, level: float = 0.05) -> CalibrationSummary:
        """P-values, sizes of the errors and a verdict at this level."""
        facts: dict[str, Any] = {
            "num_effective": self.num_effective,
            "method": self.method,
            "level": level,
        }
        return summarise(self.pit, self.names, self.num_latents, **facts)

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "sbc": sites and quantities over the dim "simulation".

        `plot_ecdf_pit(tree, group="sbc", sample_dims="simulation")`, also with `coverage=True`. To
        hang it into another
        tree: `tree["sbc"] = calibration.to_datatree()["sbc"]`.
        """
        import xarray as xr

        ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in self.shapes.values()])
        parts = np.split(self.pit, ends, axis=1)
        found = {
            name: (("simulation", *event_dims(name, shape)), part.reshape(len(self), *shape))
            for (name, shape), part in zip(self.shapes.items(), parts[:-1], strict=True)
        }
        found |= {name: (("simulation",), self[name]) for name in self.names[self.num_latents :]}
        sizes = {
            dim: size
            for dims, values in found.values()
            for dim, size in zip(dims, values.shape, strict=True)
        }
        coords: dict[str, Any] = {dim: np.arange(size) for dim, size in sizes.items()}
        coords["num_effective"] = (
            "simulation",
            self.num_effective,
        )  # no data variable: it would be drawn as a PIT
        attrs = {"description": WHAT, "method": self.method}
        return xr.DataTree.from_dict({"sbc": xr.Dataset(found, coords, attrs)})


def calibration(
    model: Program,
    guide: Program,
    data: Dataset | Any | None = None,
    method: PosteriorDraws | None = None,
    *,
    num_data: int = 1000,
    quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
    **options: Any,
) -> Calibration:
    """Where true latents lie among draws given their data: simulation-based calibration of the
    encoder, no refits.

    (z, x) ~ p(z, x); PIT = P(f(z_s, x) < f(z, x)) over draws z_s given x, ties and the gaps between
    draws filled at random. Uniform for every f if and only if the draws are those of p(z given x).
    f is each latent dimension; log_joint, log p(x, z); hpd, the probability of the smallest region
    of highest q that holds z, so that P(hpd <= a) is the coverage of regions of level a; norm, |z|;
    and the user's own. Weighted draws have weighted shares, and as many gaps as the weights are
    worth draws. To pass is not to be sharp: q = p(z) fails by log_joint alone. It speaks of data
    that the model makes, not of real data under a poor model.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: Data whose like are simulated: covariates and holes of rows drawn from them. A program
            of one's own needs them; a `Model` without covariates can do without.
        method: Where draws come from: `GuideDraws(**options)` (None), `ImportanceDraws()` or
            `HMCDraws()`. One seed gives all of them the same simulated data.
        num_data: Number of simulated data N, at least 2.
        quantities: Further f by name: f(z, x) takes z (S, B, *event), or a dict of them if there
            are several sites, and x (B, *event), and returns (S, B).
        seed: Seed of everything.
        options: Keywords of `GuideDraws` (num_samples, chunk_size, progress), when no `method` is
            given.

    Returns:
        The transforms; `print` it for p-values, coverage and a verdict.

    Raises:
        ValueError: a program of one's own without data; options beside a method, or a method that
            is none; a latent outside the data plate; a quantity that is NaN, of another shape, or
            named as one of the built-in ones.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
        calibration, arXiv:1804.06788; Modrák et al. (2023), arXiv:2211.02383; Hermans et al.
        (2022), A trust crisis in simulation-based inference?, arXiv:2110.06581 (coverage of
        highest-density regions).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(guide_scale=0.7)
        >>> found = calibration(bed.model, bed.guide, bed.x, GuideDraws(num_samples=100), num_data=500)
        >>> found.names, found.summary().verdict.split(":")[0]
        (('z[0]', 'z[1]', 'log_joint', 'hpd', 'norm'), 'fail')
    """
    whole_number(num_data, "num_data", at_least=2)
    method = _draws(method, options)
    given = (
        None
        if data is None
        else _like(place(as_dataset(data), model, guide), num_data, derived_seed(seed, 3))
    )
    simulated, latents = simulate(model, given, num_data=num_data, seed=derived_seed(seed, 0))
    simulated = place(simulated, model, guide)
    check_data(model, simulated.x, simulated.context, guide)
    with evaluating(model, guide), seeded(0):
        ranking = Ranking(model, guide, method, quantities or {}, (simulated, latents))
    random, rows = np.random.default_rng(derived_seed(seed, 2)), method.rows(num_data)
    parts: list[Any] = []
    with tqdm(
        total=num_data, desc="calibration", unit=" data", disable=not method.progress, delay=2
    ) as bar:
        for first in range(0, num_data, rows):
            part, truth = rows_of(simulated, latents, slice(first, first + rows))
            draws = method.draw(model, guide, part, seed=derived_seed(seed, 1, first))
            parts += ranking.pit(part, truth, draws, random)
            bar.update(len(part))
    pit, num_effective = (
        np.concatenate([each.cpu().numpy() for each in found]) for found in zip(*parts, strict=True)
    )
    return Calibration(pit, ranking.names, ranking.shapes, num_effective, str(method))


def _draws(method: Any, options: dict[str, Any]) -> PosteriorDraws:
    if method is None:
        return GuideDraws(**options)
    if not isinstance(method, PosteriorDraws):
        raise ValueError(
            f"method is {method!r}; it must be GuideDraws(), ImportanceDraws() or HMCDraws()"
        )
    if options:
        raise ValueError(f"{', '.join(options)} was given beside method={method}: set it in method")
    return method


def _like(data: Dataset, num_data: int, seed: int) -> Dataset:
    """As many of the rows, drawn at random, repeated only where there are too few."""
    return data[
        np.random.default_rng(seed).choice(len(data), num_data, replace=num_data > len(data))
    ]
