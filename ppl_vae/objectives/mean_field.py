"""The ELBO with the KL in closed form if there is one: estimator B of the original paper."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, override

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.families.entries import entries_of
from ppl_vae.objectives.bound import Bound
from ppl_vae.programs.sites import global_sum, per_datum, sample_sites, scaled_sum
from ppl_vae.programs.traces import LogTerms, Program

__all__ = ["MeanFieldELBO"]

NORMALS = (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)


class MeanFieldELBO(Bound):
    """ELBO(x) = E_q[log p(x given z)] - w KL(q(z given x) || p(z)), with exact KLs if known.

    If there is no closed form (mixture priors, flows) the KL of that site is Monte Carlo, as in
    `TraceELBO`; `analytic_kl` reports this. With several latent sites KL(q(z2) || p(z2 given z1))
    is averaged over the draws of z1. It is also Monte Carlo if the guide draws z1 after z2, since
    z1 may then depend on z2.

    Args:
        num_particles: Number of particles K per observation.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

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

    @override
    def value(self, terms: LogTerms) -> Tensor:
        return (terms.log_likelihood - self.kl_weight * kl_per_row(terms)).mean(0)

    def global_value(self, terms: LogTerms) -> Tensor:
        """As in `TraceELBO`, but minus the exact KL for each global latent that has one."""
        total = terms.log_global
        for q_site in terms.global_latents:
            kl = closed_form(terms, q_site["name"])
            if kl is not None:
                p_site = terms.model_trace.nodes[q_site["name"]]
                log_p = global_sum([p_site], observed=False)
                log_q = global_sum([q_site], observed=False)
                total = total - (log_p - log_q) - scaled_sum(kl, q_site)
        return total

    def analytic_kl(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> dict[str, bool]:
        """Whether the KL of each latent site inside the data plate is in closed form."""
        with torch.no_grad():
            sites = kl_per_site(self.terms(model, guide, *args, **kwargs))
            return {name: is_analytic for name, _, is_analytic in sites}


def kl_per_site(terms: LogTerms) -> Iterator[tuple[str, Tensor, bool]]:
    """For each latent site its name, its KL (K, B), and whether that is in closed form."""
    for name, log_q in terms.posterior_sites.items():
        kl = closed_form(terms, name)
        if kl is None:
            yield name, log_q - terms.prior_sites.get(name, 0.0), False
        else:
            yield name, per_datum(kl, terms.guide_trace.nodes[name]), True


def kl_per_row(terms: LogTerms) -> Tensor:
    """KL of all latent sites per particle and row, (K, B), in closed form if known."""
    return sum((kl for _, kl, _ in kl_per_site(terms)), torch.zeros_like(terms.log_likelihood))


def kl_per_dimension(terms: LogTerms) -> Tensor:
    """KL of each latent dimension, all sites side by side, (K, B, D), in closed form if known.

    Raises:
        ValueError: the guide or prior is not a product over dimensions; a site of the guide has no
            prior.
    """
    for name in terms.posterior_sites.keys() - terms.prior_sites.keys():
        raise ValueError(
            f"auxiliary site {name!r} of the guide has no prior: there is no KL per dimension"
        )
    for name in terms.summed & terms.prior_sites.keys():
        raise ValueError(
            f"the prior of site {name!r} is a sum over enumerated latents, which is not a product "
            "over latent dimensions, so there is no KL per dimension"
        )
    return torch.cat([_site_per_dimension(terms, name) for name in terms.prior_sites], dim=-1)


def _site_per_dimension(terms: LogTerms, name: str) -> Tensor:
    q_site = terms.guide_trace.nodes[name]
    p_site = terms.model_trace.nodes[name]
    value = q_site["value"]  # (K, *plates, B, *event)
    q, p = _factors(q_site), _factors(p_site)
    kl = closed_form(terms, name, _factors)
    if kl is None:
        kl = _masked(q.log_prob(value), q_site) - _masked(p.log_prob(value), p_site)
    else:
        kl = _masked(kl, q_site)
    by_row = kl.broadcast_to(value.shape).movedim(-1 - q_site["fn"].event_dim, 1)
    return by_row.reshape(*terms.log_likelihood.shape, -1)


def _masked(values: Tensor, site: Any) -> Tensor:
    """Zero where the site is masked; the values also have the event dims of the site."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(*mask.shape, *[1] * site["fn"].event_dim)
    return scale_and_mask(values, mask=mask)


def _factors(site: Any) -> Any:
    """The distribution of each dimension by itself."""
    distribution, _ = entries_of(site["fn"])
    if distribution.event_shape:
        raise ValueError(
            f"site {site['name']!r} has a {type(distribution).__name__}, which is not a product "
            "over latent dimensions, so there is no KL per dimension; rate_distortion gives the "
            "total, and BetaELBO without free_bits weights it"
        )
    return distribution


def closed_form(
    terms: LogTerms, name: str, part: Callable[[Any], Any] = itemgetter("fn")
) -> Tensor | None:
    """KL between guide and model at a site, if it is the mean of log q - log p over the site.

    The guide must have drawn all latents on which p(site given ...) may depend before it draws the
    site, because a latent that it draws later may depend on the site. Model and guide must mask the
    same rows. The result is None if this fails, if the site is auxiliary (without a prior), or if
    no closed form is known.
    """
    traces = terms.model_trace, terms.guide_trace
    model_order, guide_order = (
        [site["name"] for site in sample_sites(trace) if not site["is_observed"]]
        for trace in traces
    )
    if name not in model_order or name in terms.summed:
        return None
    p_site, q_site = (trace.nodes[name] for trace in traces)
    earlier = model_order[: model_order.index(name)]
    later = guide_order[guide_order.index(name) :]
    if q_site["mask"] is not p_site["mask"] or not set(earlier).isdisjoint(later):
        return None
    return analytic_kl(part(q_site), part(p_site))


def analytic_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in closed form, or None if none is known.

    An independent normal against a full or low-rank one is first written as a normal with diagonal
    covariance.
    """
    if q.event_shape == p.event_shape and isinstance(q, NORMALS) != isinstance(p, NORMALS):
        q, p = _as_multivariate(q), _as_multivariate(p)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _as_multivariate(distribution: Any) -> Any:
    """An independent normal as a multivariate one; any other distribution as it is."""
    base = getattr(distribution, "base_dist", None)
    if not isinstance(base, torch.distributions.Normal):
        return distribution
    if distribution.event_shape != base.batch_shape[-1:]:
        return distribution
    return dist.MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))
