"""Simulation-based calibration: ranks of true latents among draws of z given simulated x."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.groups import group, tree
from ppl_vae.diagnostics.sbc.ranks import Quantity, Ranking
from ppl_vae.diagnostics.sbc.sources import GuideDraws, PosteriorDraws
from ppl_vae.diagnostics.sbc.summary import CalibrationSummary, central_coverage, summarise
from ppl_vae.hmc.chains import event_dims
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.inference import Inference, treat_alike
from ppl_vae.programs.modules import place
from ppl_vae.programs.simulate import simulate
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import echoed, instance_of, object_or_options, whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import derived_seed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Calibration", "calibration"]

SIMULATION, DRAWS, UNIFORMS, ROWS = range(4)  # random streams
ABOUT = "PIT of the true latents among draws given x; hpd: of the smallest region that holds them."


@dataclass(frozen=True)
class Calibration(Shown):
    """Probability integral transforms of true latents: uniform if q is p(z given x).

    `print` it, or draw it by `plot_calibration`. It concerns observations simulated from the model.

    Args:
        pit: (N, Q): latent dimensions first, then test quantities. NaN where the latent is masked.
        names: Their names: "z[0]", "z[1]", ..., "log_joint", "hpd", "norm", and custom ones.
        shapes: Shape of one row's value at each latent site.
        num_effective: Effective number of independent draws for each observation, (N,).
        method: The source of the draws.

    References:
        Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), Simulation-based calibration
        checking with test quantities, Bayesian Analysis, arXiv:2211.02383.

    Example:
        >>> even = (np.arange(500)[:, None] + 0.5) / 500
        >>> found = Calibration(even, ("z",), {"z": ()}, np.full(500, 1000.0), "GuideDraws(...)")
        >>> print(found.summary().verdict)
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
        """Share of the truths in the central interval of each level, (*L, Q).

        Its standard error is binomial.
        """
        return central_coverage(self.pit, np.asarray(levels))

    def hpd_coverage(self, levels: Any) -> np.ndarray:
        """Share of the truths in the highest-density region of each level, (*L,)."""
        return (self["hpd"] <= np.asarray(levels)[..., None]).mean(-1)

    def summary(self, level: float = 0.05) -> CalibrationSummary:
        """P-values, sizes of the errors and a verdict at this level."""
        return summarise(
            self.pit,
            self.names,
            self.num_latents,
            num_effective=self.num_effective,
            method=self.method,
            level=level,
        )

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "sbc": sites and quantities over the dim "simulation".

        `plot_ecdf_pit(tree, group="sbc", sample_dims="simulation")` draws it, also with
        `coverage=True`; `tree["sbc"] = calibration.to_datatree()["sbc"]` adds it to another tree.
        ArviZ refuses NaN: give it `var_names` of latents that are not masked.
        """
        variables: dict[str, Any] = {}
        first = 0
        for name, shape in self.shapes.items():
            values = self.pit[:, first : first + int(np.prod(shape, dtype=int))]
            dims = ("simulation", *event_dims(name, shape))
            variables[name] = (dims, values.reshape(len(self), *shape))
            first += values.shape[1]
        for name in self.names[self.num_latents :]:
            variables[name] = (("simulation",), self[name])
        found = group(variables, {}, description=ABOUT, method=self.method)
        # A coordinate, since ArviZ would draw a variable as a PIT.
        return tree(sbc=found.assign_coords(num_effective=("simulation", self.num_effective)))


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
    """Simulation-based calibration of the encoder: ranks of true latents among draws, no refits.

    (z, x) ~ p(z, x); PIT = P(f(z_s, x) < f(z, x)) over draws z_s given x, where ties and the gaps
    between draws are filled at random. It is uniform for every f if and only if the draws are those
    of p(z given x). f is each latent dimension; log_joint, log p(x, z); hpd, the probability of the
    smallest region of highest q that contains z, so that P(hpd <= a) is the coverage of regions of
    level a; norm, |z|; and custom quantities. Weighted draws have weighted shares, and their number
    of gaps is the effective number of draws. A guide that passes need not be informative: q = p(z)
    fails on log_joint alone. The test concerns observations simulated from the model, not real
    observations under a poor model. A latent that the model masks for an observation has no rank
    there; where a mask depends on another latent, truths that count are ranked among the draws that
    count. norm and custom quantities see zeros where a latent is masked.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: Rows from which covariates and missing entries of the simulated rows are drawn at
            random. A custom Pyro model needs them; a `Model` without covariates does not.
        method: The source of the draws: `GuideDraws(**options)` (None), `ImportanceDraws()` or
            `HMCDraws()`. With the same seed all of them have the same simulated observations.
        num_data: Number of simulated observations N, at least 2.
        quantities: Further f by name: f(z, x) takes z (S, B, *event), or a dict of them if there
            are several sites, and x (B, *event), and returns (S, B).
        seed: Seed of everything.
        options: Keywords of `GuideDraws` (num_samples, chunk_size, progress), when no `method` is
            given.

    Returns:
        The transforms; `print` it for p-values, coverage and a verdict.

    Raises:
        ValueError: a custom Pyro model has no data; options are given together with a method, or
            the method is not one of those above; a latent is outside the data plate; a quantity is
            NaN, has another shape, or has the name of a built-in one.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
        calibration, arXiv:1804.06788; Modrák et al. (2023), arXiv:2211.02383; Hermans et al.
        (2022), A trust crisis in simulation-based inference?, arXiv:2110.06581 (coverage of
        highest-density regions).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(guide_scale=0.7)
        >>> draws = GuideDraws(num_samples=100)
        >>> found = calibration(bed.model, bed.guide, bed.x, draws, num_data=500)
        >>> found.names, found.summary().verdict.split(":")[0]
        (('z[0]', 'z[1]', 'log_joint', 'hpd', 'norm'), 'fail')
    """
    whole_number(num_data, "num_data", at_least=2)
    object_or_options(method, options, "method")
    method = GuideDraws(**options) if method is None else method
    if not isinstance(method, PosteriorDraws):
        raise ValueError(
            f"method is {echoed(method)}; it must be GuideDraws(), ImportanceDraws() or HMCDraws()"
        )
    instance_of(quantities or {}, "quantities", Mapping)
    if data is not None:
        data = place(as_dataset(data), model, guide)
        model, guide = adapted(model, guide, data)
        treat_alike(data, "calibration")
        # Rows are repeated only where there are too few.
        random = np.random.default_rng(derived_seed(seed, ROWS))
        data = data[random.choice(len(data), num_data, replace=num_data > len(data))]
    simulated, latents = simulate(
        model, data, num_data=num_data, seed=derived_seed(seed, SIMULATION)
    )
    inference = Inference(model, guide, simulated)
    inference.check_programs()
    with inference.evaluating(seed=0):
        ranking = Ranking(
            model, guide, method, quantities or {}, data=inference.data, latents=latents
        )
    random = np.random.default_rng(derived_seed(seed, UNIFORMS))
    parts: list[Any] = []
    rows = method.rows(num_data)
    for block in inference.blocks(
        rows, seed=seed, keys=(DRAWS,), title="calibration", progress=method.progress
    ):
        draws = method.draw(model, guide, block.data, seed=block.seed)
        truth = {name: value[block.rows] for name, value in latents.items()}
        parts += ranking.pit(block.data, truth, draws, random)
    pit, num_effective = (
        np.concatenate([each.cpu().numpy() for each in found]) for found in zip(*parts, strict=True)
    )
    return Calibration(pit, ranking.names, ranking.shapes, num_effective, str(method))
