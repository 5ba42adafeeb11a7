"""ELBO surgery: how much of the KL is information about x, and how much a q(z) that is not the
prior.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.latents.rate import standard_error
from ppl_vae.importance import rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating, place
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.traces import (
    PARTICLES,
    LogTerms,
    Program,
    Site,
    is_local,
    log_terms,
    per_datum,
    sample_sites,
)
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.seeding import derived_seed, seeded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ELBOSurgery", "SurgerySummary", "elbo_surgery"]

VALUES_PER_CHUNK = 4_000_000  # (point, datum, dimension) values held at once: 32 MB of float64
ROWS = {
    "rate": "rate: KL(q(z|x) || p(z))",
    "mutual_information": "  information I(x; z)",
    "marginal_kl": "  marginal KL(q(z) || p(z))",
    "total_correlation": "    total correlation of q(z)",
    "dimension_wise": "    sum of KL(q(z_d) || p(z_d))",
    "leave_one_out": "I(x; z) from above",
    "distortion": "distortion",
}


@dataclass(frozen=True)
class SurgerySummary:
    """Means over the data, in nats per datum, with both kinds of error.

    Args:
        mean: Mean by name: "rate", "mutual_information", "marginal_kl", "total_correlation",
            "dimension_wise", "leave_one_out", "distortion"; NaN where it is not defined.
        mc_se: Their Monte Carlo standard errors; NaN with one particle.
        data_se: Their standard errors over the data, Monte Carlo included.
        num_data: Number of data N.

    Example:
        >>> SurgerySummary({"rate": 1.0}, {"rate": 0.1}, {"rate": 0.2}, 100).mean["rate"]
        1.0
    """

    mean: dict[str, float]
    mc_se: dict[str, float]
    data_se: dict[str, float]
    num_data: int

    def __str__(self) -> str:
        lines = [f"{'nats per datum':34}{'mean':>10}{'Monte Carlo se':>16}{'data se':>10}"]
        for name, mean in self.mean.items():
            lines.append(
                f"{ROWS[name]:34}{mean:>10.3f}{self.mc_se[name]:>16.3f}{self.data_se[name]:>10.3f}"
            )
        bound = f"log N = {math.log(self.num_data):.3f}"
        lines.append(
            f"q(z) is the mixture over these {self.num_data} data; I(x; z) cannot exceed {bound}"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class ELBOSurgery:
    """The KL of the ELBO cut into parts, per datum; `print` shows their means over the data.

    rate = I(x; z) + KL(q(z) || p(z)), KL(q(z) || p(z)) = TC + sum_d KL(q(z_d) || p(z_d)), q(z) =
    mean_n q(z given x_n). Exact, but for Monte Carlo, for the given rows as the whole population.
    As estimates for the population that they come from they are biased: I(x; z) is too small in
    expectation (each draw's own row is in the mixture, so it never exceeds log N), marginal_kl as
    much too large; leave_one_out is too large. I(x; z) lies between the two.

    Args:
        rate: KL(q(z given x_n) || p(z)), (N,).
        mutual_information: KL(q(z given x_n) || q(z)), (N,).
        marginal_kl: E_q(z given x_n)[log q(z) - log p(z)], (N,).
        total_correlation: E[log q(z) - sum_d log q(z_d)], (N,); NaN where q(z given x) does not
            tell its marginals.
        dimension_kl: E[log q(z_d) - log p(z_d)], (N, D); NaN also where p(z) is no product over
            dimensions.
        dimension_rate: E[log q(z_d given x_n) - log p(z_d)], (N, D); less dimension_kl it is I(x;
            z_d).
        leave_one_out: E[log q(z given x_n) - log mean of q(z given x_m) over the others], (N,).
        distortion: -E log p(x_n given z), (N,).
        errors: Monte Carlo standard error (N,) by name.
        names: Names of the dimensions, "z[0]", "z[1]", ...
        coords: Names of the data, by the name of their dim.

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
        """Means over the data and their standard errors."""
        n, values = len(self), {name: getattr(self, name) for name in ROWS}
        return SurgerySummary(
            mean={name: float(value.mean()) for name, value in values.items()},
            mc_se={name: float(np.sqrt(np.square(self.errors[name]).sum()) / n) for name in values},
            data_se={name: float(value.std(ddof=1) / n**0.5) for name, value in values.items()},
            num_data=n,
        )

    def __str__(self) -> str:
        return str(self.summary())

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "surgery": `tree["surgery"] = surgery.to_datatree()["surgery"]`
        hangs it into one.
        """
        import xarray as xr

        (datum,) = self.coords
        names = [name for name in ROWS if name != "dimension_wise"]
        variables = {name: ((datum,), getattr(self, name)) for name in names}
        by_dimension = {
            name: ((datum, "dimension"), getattr(self, name))
            for name in ("dimension_kl", "dimension_rate")
        }
        coords = self.coords | {"dimension": np.array(self.names)}
        attrs = {
            "description": "Parts of the rate per datum, in nats; q(z) is the mixture over these data."
        }
        return xr.DataTree.from_dict(
            {"surgery": xr.Dataset(variables | by_dimension, coords, attrs)}
        )


def elbo_surgery(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> ELBOSurgery:
    """The rate as information about x plus KL of the aggregate q(z) from the prior, and that by
    dimension.

    q(z) = mean_n q(z given x_n) is evaluated as the mixture that it is, at draws of each of its N
    components: K N^2 densities. Take some thousand rows, not a whole training set. The parts by
    dimension need one latent site, and marginals of q(z given x): normal posteriors of any
    covariance have them, flows do not.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1; its prior the same for all
            data.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (its rows: pass `data.test[:1000]`), or an array, tensor, DataFrame,
            DataArray.
        num_particles: Draws per datum K.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The parts per datum; `print` shows their means.

    Raises:
        ValueError: fewer than two rows; a latent outside the plate; a prior that depends on
            covariates.

    References:
        Hoffman and Johnson (2016), ELBO surgery, NIPS workshop on advances in approximate Bayesian
        inference.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=500)
        >>> mean = elbo_surgery(bed.model, bed.guide, bed.x).summary().mean
        >>> round(mean["mutual_information"], 1), round(mean["leave_one_out"], 1)  # exact for the population: 2.2
        (2.1, 2.2)
    """
    data = place(as_dataset(data), model, guide)
    if len(data) < 2:
        raise ValueError(f"the data have {len(data)} row; a mixture over the data needs at least 2")
    check_data(model, data.x, data.context, guide)
    with evaluating(model, guide):
        draws = _draws(model, guide, data, num_particles, seed)
        shape = (num_particles, len(data))
        parts = [part for part in _mixtures(guide, data, draws, progress)]
    mixture = {
        name: torch.cat([part[name] for part in parts]).unflatten(0, shape) for name in parts[0]
    }
    return _surgery(draws, mixture, {data.dims[0]: data.coords[data.dims[0]]})


@dataclass(frozen=True)
class _Draws:
    """K draws for each of N data, and their densities under model and guide."""

    values: dict[str, Tensor]  # by latent site, (K, N, *event)
    log_q: Tensor  # (K, N), as the next two
    log_prior: Tensor
    log_likelihood: Tensor
    prior_dims: Tensor  # log p(z_d), (K, N, D)
    names: tuple[str, ...]


def _draws(model: Program, guide: Program, data: Dataset, num_particles: int, seed: int) -> _Draws:
    rows, parts = rows_per_chunk(len(data), num_particles, None), []
    for start in range(0, len(data), rows):
        part = data[start : start + rows]
        with seeded(derived_seed(seed, start)):
            parts.append(
                _draw(
                    log_terms(
                        model, guide, *arguments(part.x, part.context), num_particles=num_particles
                    )
                )
            )
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts], 1)
        for name in ("log_q", "log_prior", "log_likelihood", "prior_dims")
    }
    values = {name: torch.cat([part.values[name] for part in parts], 1) for name in parts[0].values}
    return _Draws(values=values, names=parts[0].names, **joined)


def _draw(terms: LogTerms) -> _Draws:
    sites: dict[str, Site] = {site["name"]: site for site in sample_sites(terms.guide_trace)}
    for name, site in sites.items():
        if not is_local(site):
            raise ValueError(
                f"site {name!r} is outside the data plate: the mixture over the data is for local "
                "latents"
            )
    require_no_inner_plates(terms.model_trace, "ELBO surgery")
    priors = [terms.model_trace.nodes[name] for name in terms.prior_sites]
    if not priors:
        raise ValueError(
            "the model has no latent site: its rate is zero, and there is nothing to take apart"
        )
    _check_one_prior(priors[0])
    return _Draws(
        values={name: site["value"] for name, site in sites.items()},
        log_q=terms.log_q,
        log_prior=terms.log_prior,
        log_likelihood=terms.log_likelihood,
        prior_dims=_by_dimension(priors),
        names=tuple(
            n
            for site in priors
            for n in dimension_names(site["name"], tuple(site["fn"].event_shape))
        ),
    )


def _check_one_prior(site: Site) -> None:
    """Raise unless the first datum's draws have the same density under the priors of all data."""
    log_p = site["fn"].log_prob(site["value"][:, :1].expand_as(site["value"]))
    if not torch.allclose(log_p, log_p[:, :1].expand_as(log_p), rtol=1e-4):
        raise ValueError(
            f"the prior of {site['name']!r} differs between data (by their covariates): q(z) has "
            "no one prior to be "
            "compared with; take rows of equal covariates"
        )


def _by_dimension(sites: list[Site]) -> Tensor:
    """Log-density of each dimension on its own, (K, B, D); NaN unless there is one site that has
    marginals.
    """
    shape = sites[0]["value"].shape[:2]
    marginals = _marginals(sites[0]["fn"]) if len(sites) == 1 else None
    if marginals is None:
        size = sum(site["fn"].event_shape.numel() for site in sites)
        return sites[0]["value"].new_full((*shape, size), torch.nan, dtype=torch.float64)
    return marginals.log_prob(sites[0]["value"]).reshape(*shape, -1).double()


def _marginals(distribution: Any) -> Any:
    """The distribution of each dimension, or None if it is not known."""
    while isinstance(distribution, dist.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    if isinstance(distribution, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return dist.Normal(distribution.mean, distribution.variance.sqrt())
    return None if distribution.event_shape else distribution


def _mixtures(
    guide: Program, data: Dataset, draws: _Draws, progress: bool
) -> Iterator[dict[str, Tensor]]:
    """Log-densities of some draws at a time under the mixtures over the data, all float64."""
    num_points, num_data = draws.log_q.numel(), len(data)
    points = {name: values.flatten(0, 1) for name, values in draws.values.items()}
    step = max(1, VALUES_PER_CHUNK // (num_data * len(draws.names)))
    with tqdm(
        total=num_points, desc="aggregate posterior", unit=" draws", disable=not progress, delay=2
    ) as bar:
        for start in range(0, num_points, step):
            some = {name: values[start : start + step] for name, values in points.items()}
            yield _mixture(guide, arguments(data.x, data.context), some, start)
            bar.update(min(step, num_points - start))


def _mixture(
    guide: Program, args: tuple[Tensor, ...], points: dict[str, Tensor], first: int
) -> dict[str, Tensor]:
    """Densities of points under q(z given x_m) for all m, reduced over m."""
    num_data, count = len(args[0]), len(next(iter(points.values())))
    values = {
        name: each[:, None].expand(-1, num_data, *each.shape[1:]) for name, each in points.items()
    }
    program = pyro.plate(PARTICLES, count, dim=-2)(poutine.condition(guide, data=values))
    sites = sample_sites(poutine.trace(program).get_trace(*args))
    log_q = (
        torch.stack([per_datum(site["fn"].log_prob(site["value"]), site) for site in sites])
        .sum(0)
        .double()
    )
    dims, row = _by_dimension(sites), torch.arange(count, device=log_q.device)
    own = (first + row) % num_data  # the datum that a point was drawn for
    others = log_q.index_put((row, own), log_q.new_tensor(-torch.inf))
    return {
        "log_q": log_q.logsumexp(1) - math.log(num_data),
        "log_q_others": others.logsumexp(1) - math.log(num_data - 1),
        "log_q_dims": dims.logsumexp(1) - math.log(num_data),
        "own_dims": dims[row, own],
    }


def _surgery(
    draws: _Draws, mixture: dict[str, Tensor], coords: dict[str, np.ndarray]
) -> ELBOSurgery:
    """Means over the draws, and their errors."""
    log_q, log_p = draws.log_q.double(), draws.log_prior.double()
    found = {
        "rate": log_q - log_p,
        "mutual_information": log_q - mixture["log_q"],
        "marginal_kl": mixture["log_q"] - log_p,
        "total_correlation": mixture["log_q"] - mixture["log_q_dims"].sum(-1),
        "dimension_kl": mixture["log_q_dims"] - draws.prior_dims,
        "dimension_rate": mixture["own_dims"] - draws.prior_dims,
        "leave_one_out": log_q - mixture["log_q_others"],
        "distortion": -draws.log_likelihood.double(),
    }
    totals = found | {"dimension_wise": found["dimension_kl"].sum(-1)}
    means = {name: values.mean(0).cpu().numpy() for name, values in found.items()}
    errors = {name: standard_error(values).cpu().numpy() for name, values in totals.items()}
    return ELBOSurgery(**means, errors=errors, names=draws.names, coords=coords)
