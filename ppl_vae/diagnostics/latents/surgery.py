"""ELBO surgery: the KL as information about x plus the distance of q(z) from the prior."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.groups import rows_of_data, tree_of
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.latents.rate import joined, standard_error
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk, treat_alike
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.sites import is_local, per_datum, sample_sites
from ppl_vae.programs.traces import (
    PARTICLES,
    LogTerms,
    Program,
    Site,
    drawing,
    log_terms,
    particles_of,
)
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.text import table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ELBOSurgery", "SurgerySummary", "elbo_surgery"]

VALUES_PER_CHUNK = 4_000_000  # (draw, row, dimension) values held at once: 32 MB of float64
ABOUT = "Parts of the rate per row, in nats; q(z) is the mixture over these rows."
ROWS = {
    "rate": "rate: KL(q(z|x) || p(z))",
    "mutual_information": "  information I(x; z)",
    "marginal_kl": "  marginal KL(q(z) || p(z))",
    "total_correlation": "    total correlation of q(z)",
    "dimension_wise": "    sum of KL(q(z_d) || p(z_d))",
    "leave_one_out": "I(x; z) from above",
    "distortion": "distortion",
}
Densities = dict[str, Tensor]


@dataclass(frozen=True)
class SurgerySummary(Shown):
    """Means over the rows, in nats per row, with both kinds of error.

    Args:
        mean: Mean by name: "rate", "mutual_information", "marginal_kl", "total_correlation",
            "dimension_wise", "leave_one_out", "distortion"; NaN if it is not defined.
        mc_se: Their Monte Carlo standard errors; NaN with one particle.
        data_se: Their standard errors over the rows, Monte Carlo error included.
        num_data: Number of rows N.

    Example:
        >>> SurgerySummary({"rate": 1.0}, {"rate": 0.1}, {"rate": 0.2}, 100).mean["rate"]
        1.0
    """

    mean: dict[str, float]
    mc_se: dict[str, float]
    data_se: dict[str, float]
    num_data: int

    def __str__(self) -> str:
        columns = (self.mean, self.mc_se, self.data_se)
        head = ("nats per row", "mean", "Monte Carlo se", "data se")
        rows = [(ROWS[name], *(f"{each[name]:.3f}" for each in columns)) for name in self.mean]
        mixture = f"q(z) is the mixture over these {self.num_data} rows"
        bound = f"I(x; z) cannot exceed log N = {math.log(self.num_data):.3f}"
        return f"{table([head, *rows])}\n{mixture}; {bound}"


@dataclass(frozen=True)
class ELBOSurgery(Shown):
    """The KL of the ELBO divided into parts, per observation; `print` shows their means.

    rate = I(x; z) + KL(q(z) || p(z)), KL(q(z) || p(z)) = TC + sum_d KL(q(z_d) || p(z_d)), q(z) =
    mean_n q(z given x_n). Exact, up to Monte Carlo error, for the given rows as the whole
    population. As estimates for the population behind the rows they are biased: mutual_information
    is too small in expectation (each draw's own row is in the mixture, so it never exceeds log N),
    marginal_kl is too large by the same amount, and leave_one_out is too large. I(x; z) lies
    between mutual_information and leave_one_out.

    Args:
        rate: KL(q(z given x_n) || p(z)), (N,).
        mutual_information: KL(q(z given x_n) || q(z)), (N,).
        marginal_kl: E_q(z given x_n)[log q(z) - log p(z)], (N,).
        total_correlation: E[log q(z) - sum_d log q(z_d)], (N,); NaN if the marginals of q(z given
            x) are not known.
        dimension_kl: E[log q(z_d) - log p(z_d)], (N, D); NaN also if p(z) is not a product over
            dimensions.
        dimension_rate: E[log q(z_d given x_n) - log p(z_d)], (N, D); its difference from
            dimension_kl is I(x; z_d).
        leave_one_out: E[log q(z given x_n) - log mean of q(z given x_m) over the others], (N,).
        distortion: -E log p(x_n given z), (N,).
        errors: Monte Carlo standard error (N,) by name.
        names: Names of the dimensions, "z[0]", "z[1]", ...
        coords: Names of the rows, by the name of their dim.

    References:
        Hoffman and Johnson (2016), ELBO surgery, NIPS workshop on advances in approximate Bayesian
        inference; Chen et al. (2018), Isolating sources of disentanglement in VAEs,
        arXiv:1802.04942, eq. 2; Poole et al. (2019), On variational bounds of mutual information,
        arXiv:1905.06922, section 2 (the two bounds).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200)
        >>> found = elbo_surgery(bed.model, bed.guide, bed.x).summary().mean
        >>> abs(found["mutual_information"] + found["marginal_kl"] - found["rate"]) < 1e-9
        True
    """

    rate: np.ndarray
    mutual_information: np.ndarray
    marginal_kl: np.ndarray
    total_correlation: np.ndarray
    dimension_kl: np.ndarray
    dimension_rate: np.ndarray
    leave_one_out: np.ndarray
    distortion: np.ndarray
    errors: dict[str, np.ndarray]
    names: tuple[str, ...]
    coords: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rate)

    @property
    def dimension_wise(self) -> np.ndarray:
        """Sum of dimension_kl over the dimensions, (N,)."""
        return self.dimension_kl.sum(1)

    def summary(self) -> SurgerySummary:
        """Means over the rows and their standard errors."""
        n = len(self)
        values = {name: getattr(self, name) for name in ROWS}
        return SurgerySummary(
            mean={name: float(value.mean()) for name, value in values.items()},
            mc_se={name: float(np.sqrt(np.square(self.errors[name]).sum()) / n) for name in values},
            data_se={name: float(value.std(ddof=1) / n**0.5) for name, value in values.items()},
            num_data=n,
        )

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "surgery".

        `tree["surgery"] = surgery.to_datatree()["surgery"]` adds it to another tree.
        """
        names = [name for name in ROWS if name != "dimension_wise"]
        values = {name: getattr(self, name) for name in (*names, "dimension_kl", "dimension_rate")}
        coords = self.coords | {"dimension": self.names}
        return tree_of("surgery", values, coords, description=ABOUT)


def elbo_surgery(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> ELBOSurgery:
    """The rate as information about x plus KL(q(z) || p(z)), and that KL by dimension.

    q(z) = mean_n q(z given x_n) is evaluated as a mixture at draws of each of its N components,
    which takes K N^2 densities: give a few thousand rows, not a whole training set. The parts by
    dimension need one latent site and marginals of q(z given x), which are known for normal
    posteriors of any covariance and not for flows.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1, with the same prior for all
            rows.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test[:1000]`), or an array, tensor, DataFrame,
            DataArray.
        num_particles: Draws per observation K.
        seed: Seed of the draws.
        progress: Whether to show a bar after two seconds.

    Returns:
        The parts per observation; `print` shows their means.

    Raises:
        ValueError: there are fewer than two rows; a latent is outside the plate; the prior depends
            on covariates.

    References:
        Hoffman and Johnson (2016), ELBO surgery, NIPS workshop on advances in approximate Bayesian
        inference.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=500)
        >>> mean = elbo_surgery(bed.model, bed.guide, bed.x).summary().mean
        >>> round(mean["mutual_information"], 1), round(mean["leave_one_out"], 1)  # exact: 2.2
        (2.1, 2.2)
    """
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.require_density()
    treat_alike(inference.data, "elbo_surgery")
    if len(inference) < 2:
        raise ValueError(
            f"the data have {len(inference)} row; give at least 2 for a mixture over rows"
        )
    parts = []
    priors = []  # of all rows, at the draws of the first one
    for block in inference.blocks(rows_per_chunk(len(inference), num_particles), seed=seed):
        with block.evaluating():
            terms = block.terms(num_particles)
            parts.append(_densities(terms))
            first = {name: value[:, :1] for name, value in parts[0][0].items()}
            priors.append(_prior_at(first, block, terms))
    _require_one_prior(joined(priors, 1), inference.data)
    values, found, names = zip(*parts, strict=True)
    draws = joined(values, 1)
    densities = joined(found, 1) | _mixture(inference, draws, len(names[0]), progress)
    return _surgery(densities, names[0], rows_of_data(inference.data))


def _densities(terms: LogTerms) -> tuple[dict[str, Tensor], Densities, tuple[str, ...]]:
    """Draws (K, B, *event) by site, log-densities (K, B) or (K, B, D), names of the dimensions."""
    latents = [site for site in sample_sites(terms.guide_trace) if not site["is_observed"]]
    sites = {site["name"]: site for site in latents}
    for name, site in sites.items():
        if not is_local(site):
            raise ValueError(
                f"site {name!r} is outside the data plate: condition the programs on a value of "
                "it (pyro.condition), since the mixture over the rows is of local latents"
            )
    require_no_inner_plates(terms.model_trace, "ELBO surgery")
    priors = [terms.model_trace.nodes[name] for name in terms.prior_sites]
    if not priors:
        raise ValueError("the model has no latent site, so its rate is 0: give one with latents")
    densities = {
        "log_q": terms.log_q,
        "log_prior": terms.log_prior,
        "log_likelihood": terms.log_likelihood,
        "prior_dims": _prior_by_dimension(terms, priors),
    }
    shapes = {site["name"]: tuple(site["fn"].event_shape) for site in priors}
    return {name: site["value"] for name, site in sites.items()}, densities, dimension_names(shapes)


def _prior_by_dimension(terms: LogTerms, priors: list[Site]) -> Tensor:
    """Log-density of each dimension under the prior; NaN where it is a sum over other latents."""
    found = _by_dimension(priors)
    summed = any(site["name"] in terms.summed for site in priors)
    return torch.full_like(found, torch.nan) if summed else found


def _prior_at(draws: dict[str, Tensor], block: Block, terms: LogTerms) -> dict[str, Tensor]:
    """Log-density under the prior of each of these rows at latents (K, 1, *event), by site."""
    at_draws = {name: z.expand(-1, len(block), *z.shape[2:]) for name, z in draws.items()}
    model, guide = block.inference.programs
    found = log_terms(
        model,
        drawing(guide, at_draws),
        *block.args,
        num_particles=terms.log_q.shape[0],
        max_plate_nesting=particles_of(terms.guide_trace).max_plate_nesting,
    )
    return found.prior_sites


def _require_one_prior(found: dict[str, Tensor], data: Dataset) -> None:
    """Raise unless the same draws have the same density under the priors of all rows."""
    for name, log_p in found.items():
        if torch.allclose(log_p, log_p[:, :1].expand_as(log_p), rtol=1e-4, atol=1e-4):
            continue
        cause = "their covariates" if data.context is not None else "x, a mask or a value of theirs"
        raise ValueError(
            f"the prior of {name!r} differs between rows (by {cause}), so q(z) cannot be compared "
            "with one prior: give rows with equal ones"
        )


def _by_dimension(sites: list[Site]) -> Tensor:
    """Log-density of each dimension, (K, B, D); NaN unless there is one site with marginals."""
    z = sites[0]["value"]
    fn = sites[0]["fn"]
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        fn = dist.Normal(fn.mean, fn.variance.sqrt())
    if len(sites) > 1 or fn.event_shape:
        size = sum(site["fn"].event_shape.numel() for site in sites)
        return z.new_full((*z.shape[:2], size), torch.nan, dtype=torch.float64)
    return fn.log_prob(z).reshape(*z.shape[:2], -1).double()


def _mixture(
    inference: Inference, draws: dict[str, Tensor], num_dims: int, progress: bool
) -> Densities:
    """Log-densities of all draws under the mixtures over the rows, (K, N) or (K, N, D)."""
    shape = next(iter(draws.values())).shape[:2]
    points = {name: values.flatten(0, 1) for name, values in draws.items()}
    step = max(1, VALUES_PER_CHUNK // (len(inference) * num_dims))
    parts = []
    bar = progress_bar(shape.numel(), "aggregate posterior", unit="draws", progress=progress)
    with bar, inference.evaluating():
        for start in range(0, shape.numel(), step):
            some = {name: values[start : start + step] for name, values in points.items()}
            parts.append(_mixture_at(inference.guide, inference.args, some, start))
            bar.update(min(step, shape.numel() - start))
    return {name: values.unflatten(0, shape) for name, values in joined(parts).items()}


def _mixture_at(
    guide: Program, args: tuple[Tensor, ...], points: dict[str, Tensor], first: int
) -> Densities:
    """Densities of some draws under q(z given x_m) for all m, reduced over m."""
    num_data = len(args[0])
    count = len(next(iter(points.values())))
    values = {
        name: each[:, None].expand(-1, num_data, *each.shape[1:]) for name, each in points.items()
    }
    program = pyro.plate(PARTICLES, count, dim=-2)(poutine.condition(guide, data=values))
    trace = poutine.trace(program).get_trace(*args)
    sites = [site for site in sample_sites(trace) if site["name"] in points]
    by_site = [per_datum(site["fn"].log_prob(site["value"]), site) for site in sites]
    log_q = torch.stack(by_site).sum(0).double()
    dims = _by_dimension(sites)
    draw = torch.arange(count, device=log_q.device)
    own = (first + draw) % num_data  # the row that a draw was drawn for
    others = log_q.index_put((draw, own), log_q.new_tensor(-torch.inf))
    return {
        "log_mixture": log_q.logsumexp(1) - math.log(num_data),
        "log_others": others.logsumexp(1) - math.log(num_data - 1),
        "mixture_dims": dims.logsumexp(1) - math.log(num_data),
        "own_dims": dims[draw, own],
    }


def _surgery(
    densities: Densities, names: tuple[str, ...], coords: dict[str, np.ndarray]
) -> ELBOSurgery:
    """Means over the draws, and their errors."""
    log = {name: values.double() for name, values in densities.items()}
    found = {
        "rate": log["log_q"] - log["log_prior"],
        "mutual_information": log["log_q"] - log["log_mixture"],
        "marginal_kl": log["log_mixture"] - log["log_prior"],
        "total_correlation": log["log_mixture"] - log["mixture_dims"].sum(-1),
        "dimension_kl": log["mixture_dims"] - log["prior_dims"],
        "dimension_rate": log["own_dims"] - log["prior_dims"],
        "leave_one_out": log["log_q"] - log["log_others"],
        "distortion": -log["log_likelihood"],
    }
    totals = found | {"dimension_wise": found["dimension_kl"].sum(-1)}
    means = {name: values.mean(0).cpu().numpy() for name, values in found.items()}
    errors = {name: standard_error(values).cpu().numpy() for name, values in totals.items()}
    return ELBOSurgery(**means, errors=errors, names=names, coords=coords)
