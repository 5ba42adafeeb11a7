"""The evidence lower bound with the KL in closed form where there is one: estimator B of the
original paper.
"""

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.objectives.bound import Bound
from ppl_vae.programs.sites import global_sum, per_datum, sample_sites, scaled_sum
from ppl_vae.programs.traces import LogTerms, Program

__all__ = ["MeanFieldELBO"]


class MeanFieldELBO(Bound):
    """ELBO(x) = E_q[log p(x given z)] - w KL(q(z given x) || p(z)), the KL exact at each site where
    it is known.

    Where no closed form exists (mixture priors, flows) that site's KL is Monte Carlo, as in
    `TraceELBO`; `analytic_kl` tells which. With several latent sites KL(q(z2) || p(z2 given z1)) is
    averaged over the draws of z1, and is Monte Carlo too where the guide draws z1 after z2: z1 may
    then depend on the z2 that is averaged over.

    Args:
        num_particles: Number of particles K per datum.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, eq. 7
        (estimator B) and appendix B.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> MeanFieldELBO().analytic_kl(bed.model, bed.guide, bed.x)
        {'z': True}
    """

    of_log_weights = False

    def value(self, terms: LogTerms) -> Tensor:
        """The ELBO per datum."""
        return (terms.log_likelihood - self.kl_weight * kl_per_datum(terms)).mean(0)

    def global_value(self, terms: LogTerms) -> Tensor:
        """As in `TraceELBO`, but minus the exact KL for each global latent that has one."""
        total = terms.log_global
        for q_site in terms.global_latents:
            p_site = terms.model_trace.nodes.get(q_site["name"])
            kl = _kl(q_site, p_site) if has_closed_form(terms, q_site["name"]) else None
            if kl is not None:
                sampled = global_sum([p_site], observed=False) - global_sum(
                    [q_site], observed=False
                )
                total = total - sampled - scaled_sum(kl, q_site)
        return total

    def analytic_kl(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> dict[str, bool]:
        """For each latent site inside the data plate: whether its KL is in closed form (else Monte
        Carlo).
        """
        with torch.no_grad():
            sites = kl_per_site(self.terms(model, guide, *args, **kwargs))
            return {name: analytic for name, _, analytic in sites}


def kl_per_site(terms: LogTerms) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, KL per particle and datum (K, B), and whether it is analytic, for each latent site."""
    for name, log_q in terms.posterior_sites.items():
        q_site, p_site = terms.guide_trace.nodes[name], terms.model_trace.nodes.get(name)
        kl = _kl(q_site, p_site) if has_closed_form(terms, name) else None
        if kl is None:
            yield name, log_q - terms.prior_sites.get(name, 0.0), False
        else:
            yield name, per_datum(kl, q_site), True


def has_closed_form(terms: LogTerms, name: str) -> bool:
    """Whether a KL between the distributions at this site is the mean of log q - log p over it.

    The guide must have drawn all latents that p(site given ...) may depend on before it draws the
    site: one that it draws later may depend on the site. Model and guide must mask the same rows.
    Auxiliary sites have no prior.
    """
    model_order, guide_order = (_latents(trace) for trace in (terms.model_trace, terms.guide_trace))
    if name not in model_order:
        return False
    if terms.guide_trace.nodes[name]["mask"] is not terms.model_trace.nodes[name]["mask"]:
        return False
    before = model_order[: model_order.index(name)]
    return set(before).isdisjoint(guide_order[guide_order.index(name) :])


def _latents(trace: Any) -> list[str]:
    """Names in the order in which they were drawn."""
    return [site["name"] for site in sample_sites(trace) if not site["is_observed"]]


def kl_per_datum(terms: LogTerms) -> Tensor:
    """KL of all latent sites per particle and datum, in closed form where known, (K, B)."""
    return sum((kl for _, kl, _ in kl_per_site(terms)), torch.zeros_like(terms.log_likelihood))


def kl_per_dimension(terms: LogTerms) -> Tensor:
    """KL of each latent dimension, all sites side by side, (K, B, D); closed forms where
    `kl_per_site` has them.

    Raises:
        ValueError: a guide or prior is not a product over dimensions; a site of the guide has no
            prior.
    """
    for name in terms.posterior_sites.keys() - terms.prior_sites.keys():
        raise ValueError(
            f"auxiliary site {name!r} of the guide has no prior: there is no KL per dimension"
        )
    found = [_site_per_dimension(terms, name) for name in terms.prior_sites]
    return torch.cat(found, dim=-1)


def _site_per_dimension(terms: LogTerms, name: str) -> Tensor:
    site = terms.guide_trace.nodes[name]
    value, event_dim = site["value"], site["fn"].event_dim  # (K, *plates, B, *event)
    q, p = (_factors(trace.nodes[name]) for trace in (terms.guide_trace, terms.model_trace))
    kl = analytic_kl(q, p) if has_closed_form(terms, name) else None
    if kl is None:
        kl = _masked(q.log_prob(value), site) - _masked(
            p.log_prob(value), terms.model_trace.nodes[name]
        )
    else:
        kl = _masked(kl, site)
    kl = kl.broadcast_to(value.shape)
    return kl.movedim(-1 - event_dim, 1).reshape(*terms.log_likelihood.shape, -1)


def _masked(values: Tensor, site: Any) -> Tensor:
    """Zero where the site is masked; values have its event dims besides those of the mask."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(*mask.shape, *[1] * site["fn"].event_dim)
    return scale_and_mask(values, mask=mask)


def _factors(site: Any) -> Any:
    """The distribution of each dimension on its own."""
    distribution = site["fn"]
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    if distribution.event_shape:
        raise ValueError(
            f"site {site['name']!r} has a {type(distribution).__name__}, which is not a product "
            "over latent "
            "dimensions: there is no KL per dimension; rate_distortion gives the total, and "
            "BetaELBO without "
            "free_bits weighs it"
        )
    return distribution


def _kl(q_site: Any, p_site: Any) -> Tensor | None:
    return analytic_kl(q_site["fn"], p_site["fn"])


def analytic_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in closed form, or None where none is known.

    An independent normal against a full or low-rank one is written as a normal with diagonal
    covariance first.
    """
    if q.event_shape == p.event_shape and isinstance(q, NORMALS) != isinstance(p, NORMALS):
        q, p = _as_multivariate(q), _as_multivariate(p)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


NORMALS = (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)


def _as_multivariate(distribution: Any) -> Any:
    base = getattr(distribution, "base_dist", None)
    if (
        isinstance(base, torch.distributions.Normal)
        and distribution.event_shape == base.batch_shape[-1:]
    ):
        return dist.MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))
    return distribution
