"""One run of guide and model, its log-probabilities sorted per particle and datum."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["LogTerms", "log_terms"]

Program = Callable[..., Any]
Site = Any  # Pyro's message: a dict whose keys depend on its type
PLATE = "data"
PARTICLES = "num_particles_vectorized"  # Pyro's own name for it


@dataclass(frozen=True)
class LogTerms:
    """One run of guide and model for K particles and B data: log-probabilities per particle and datum, in nats.

    log w = log_likelihood + log_prior - log_q, unscaled. `scale` is what the data plate (N / B when subsampled) and
    `poutine.scale` multiply each datum by; `log_global` is log p - log q of the sites outside the data plate.
    The traces serve objectives that need the distributions themselves (analytic KL).

    Args:
        log_likelihood: log p(x given z), shape (K, B).
        prior_sites: log p of each latent site, by name, shapes (K, B).
        posterior_sites: log q of each latent site, by name, shapes (K, B).
        log_global: log p - log q of global sites, shape (K,).
        scale: One number, or one per datum.
        model_trace: The model's trace, replayed against the guide's.
        guide_trace: The guide's trace.
        paths: With `detach`, each latent's reparameterised draw, by name; its copy in the traces is a leaf.

    References:
        No paper: definitions.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x, num_particles=4)
        >>> bool(torch.allclose(terms.log_weights, terms.log_joint - terms.log_q))
        True
    """

    log_likelihood: Tensor
    prior_sites: dict[str, Tensor]
    posterior_sites: dict[str, Tensor]
    log_global: Tensor
    scale: float | Tensor
    model_trace: Any  # Pyro's Trace, whose nodes are messages of many kinds
    guide_trace: Any
    paths: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_prior(self) -> Tensor:
        """log p(z), shape (K, B)."""
        return _total(self.prior_sites, self.log_likelihood)

    @property
    def log_q(self) -> Tensor:
        """log q(z given x), shape (K, B)."""
        return _total(self.posterior_sites, self.log_likelihood)

    @property
    def log_joint(self) -> Tensor:
        """log p(x, z), shape (K, B)."""
        return self.log_likelihood + self.log_prior

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z given x), shape (K, B)."""
        return self.log_joint - self.log_q


def log_terms(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 1,
    max_plate_nesting: int = 1,
    detach: bool = False,
    **kwargs: Any,
) -> LogTerms:
    """Run guide and model once for K particles under one outermost particle plate, and sort their log-probabilities.

    Sites inside the plate "data" are summed over everything but particles and data: latent ones give log p(z) and
    log q, observed ones log p(x given z). An observed site outside it (a regulariser by `pyro.factor`, a global
    measurement) is a global term, beside the observations inside. `poutine.mask` is honoured; scales are kept apart,
    so that a nonlinear bound is taken per datum first and scaled after.

    Args:
        model: Pyro model with one plate "data" at dim -1.
        guide: Pyro guide with the same plate and latent sites.
        args: Arguments of both.
        num_particles: Number of particles K.
        max_plate_nesting: Depth of the plates; 1 unless there are plates besides "data".
        detach: Cut the graph at the local latents: log p and log q are evaluated at leaf copies of the draws, and
            `paths` keeps the draws, so that a gradient estimator can treat the three dependences apart.
        kwargs: Keyword arguments of both.

    Returns:
        The terms, differentiable in the parameters of both.

    Raises:
        ValueError: no site lies in a plate "data" at dim -1, or it has another size than x; latent sites of model and
            guide differ; nothing is observed inside the plate; local sites carry different scales; a site is marked
            for enumeration.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> log_terms(bed.model, bed.guide, bed.x, num_particles=4).log_q.shape
        torch.Size([4, 3])
    """
    particles = pyro.plate(PARTICLES, num_particles, dim=-1 - max_plate_nesting)
    guide_trace = _run(particles(guide), *args, **kwargs)
    paths = _detach(guide_trace) if detach else {}
    if len(paths) > 1:  # a later latent's density depends on earlier ones: let it see their copies
        guide_trace = _run(poutine.replay(particles(guide), trace=guide_trace), *args, **kwargs)
    model_trace = _run(poutine.replay(particles(model), trace=guide_trace), *args, **kwargs)
    p_sites, q_sites = sample_sites(model_trace), sample_sites(guide_trace)
    _check_match(p_sites, q_sites)
    _check_observed(p_sites)
    local = [site for site in [*p_sites, *q_sites] if _frame(site)]
    likelihood_sites, prior_sites = _per_datum_sites(p_sites, observed=True), _per_datum_sites(p_sites, observed=False)
    nothing = local[0]["value"].new_zeros(num_particles, _frame(local[0]).size)
    return LogTerms(
        log_likelihood=_total(likelihood_sites, nothing),
        prior_sites=prior_sites,
        posterior_sites=_per_datum_sites(q_sites, observed=False),
        log_global=global_sum(p_sites, num_particles) - global_sum(q_sites, num_particles),
        scale=_common_scale(local),
        model_trace=model_trace,
        guide_trace=guide_trace,
        paths=paths,
    )


def _run(program: Program, *args: Any, **kwargs: Any) -> poutine.Trace:
    """The trace of one run; what Pyro says of plates, in the words of what to do."""
    try:
        return poutine.trace(program).get_trace(*args, **kwargs)
    except ValueError as error:
        remedies = {
            "collide at dim": f'a plate lies where the particles go: write pyro.plate("{PLATE}", len(x), dim=-1), and '
            "set max_plate_nesting where there are plates besides it",
            f"inside plate('{PLATE}')": f'x has another number of rows than the plate "{PLATE}": write '
            f'pyro.plate("{PLATE}", len(x), dim=-1), with subsample_size=len(x) where it is to have a fixed size',
        }
        reason = str(error).splitlines()[0]
        remedy = next((remedy for words, remedy in remedies.items() if words in reason), None)
        if remedy is None:
            raise
        raise ValueError(f"{remedy} ({reason})") from None


def _detach(trace: poutine.Trace) -> dict[str, Tensor]:
    """Put a leaf copy in the place of each local latent; returns the draws themselves."""
    paths = {site["name"]: site["value"] for site in sample_sites(trace) if _frame(site)}
    for name, draw in paths.items():
        trace.nodes[name]["value"] = draw.detach().requires_grad_(draw.is_floating_point())
    return paths


def log_density_at(trace: Any, program: Program, *args: Any, max_plate_nesting: int = 1) -> Tensor:
    """Log-density of a guide-like program at the latents of another one's trace, per particle and datum, (K, B)."""
    particles = next(
        frame for site in sample_sites(trace) for frame in site["cond_indep_stack"] if frame.name == PARTICLES
    )
    plate = pyro.plate(PARTICLES, particles.size, dim=-1 - max_plate_nesting)
    replayed = poutine.trace(poutine.replay(plate(program), trace=trace)).get_trace(*args)
    return torch.stack(list(_per_datum_sites(sample_sites(replayed), observed=False).values())).sum(0)


def sample_sites(trace: poutine.Trace) -> list[Site]:
    """The trace's random sites, without Pyro's own subsampling sites."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]
    for site in sites:
        if (site["infer"] or {}).get("enumerate"):
            raise ValueError(
                f"site {site['name']!r} is marked for enumeration, which importance weights cannot use: "
                "fit with pyro.infer.TraceEnum_ELBO, or sample the site"
            )
    return sites


def _check_match(p_sites: list[Site], q_sites: list[Site]) -> None:
    latent = {site["name"] for site in p_sites if not site["is_observed"]}
    guided = {site["name"] for site in q_sites if not (site["infer"] or {}).get("is_auxiliary")}
    guide_sites = {site["name"]: site for site in q_sites}
    for site in p_sites:
        other = guide_sites.get(site["name"])
        if other is not None and bool(_frame(site)) != bool(_frame(other)):
            where = "guide" if _frame(site) else "model"
            raise ValueError(
                f'site {site["name"]!r} of the {where} lies in no plate named "{PLATE}", but the other one does: '
                f'write pyro.plate("{PLATE}", len(x), dim=-1) in both'
            )
    for name in sorted(latent ^ guided):
        where, missing = ("model", "guide") if name in latent else ("guide", "model")
        observe = ", or the model observe it (obs=x)" if name in latent else ""
        raise ValueError(
            f"latent site {name!r} is in the {where} but not in the {missing}: both must sample the same sites{observe}"
        )
    if not any(_frame(site) for site in p_sites):
        raise ValueError(
            f'no site of the model lies in a plate named "{PLATE}": write pyro.plate("{PLATE}", len(x), dim=-1)'
        )


def _check_observed(p_sites: list[Site]) -> None:
    """Something must be observed of each datum: else log p(x given z) would be 0, and no number would show it."""
    observed = [s for s in p_sites if s["is_observed"] and not (s["infer"] or {}).get("_deterministic")]
    if any(_frame(site) for site in observed):
        return
    if not observed:
        raise ValueError(f'the model observes nothing: give obs=x to a site inside pyro.plate("{PLATE}", ...)')
    raise ValueError(
        f'observed site {observed[0]["name"]!r} lies outside the plate "{PLATE}", so that no datum has a likelihood: '
        f'sample it inside pyro.plate("{PLATE}", len(x), dim=-1)'
    )


def is_local(site: Site) -> bool:
    """Whether a site lies inside the data plate."""
    return any(frame.name == PLATE for frame in site["cond_indep_stack"])


def _frame(site: Site) -> Any:
    """The data plate's frame at this site, or None for a global site."""
    frame = next((f for f in site["cond_indep_stack"] if f.name == PLATE), None)
    if frame is not None and frame.dim != -1:
        raise ValueError(f'plate "{PLATE}" is at dim {frame.dim} at site {site["name"]!r}: it must be at dim=-1')
    return frame


def _log_prob(site: Site) -> Tensor:
    if "unscaled_log_prob" not in site:
        site["unscaled_log_prob"] = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return site["unscaled_log_prob"]


def _inner_scale(site: Site) -> float:
    """Scale of subsampled plates nested in the data plate: part of one datum's log-probability."""
    inner = [f for f in site["cond_indep_stack"] if f.name != PLATE and f.vectorized]
    return math.prod((f.full_size or f.size) / f.size for f in inner)


def _common_scale(local: list[Site]) -> float | Tensor:
    """What each datum is multiplied by, the same at every site inside the data plate."""
    (first, scale), *others = [(site["name"], site["scale"] / _inner_scale(site)) for site in local]
    for name, other in others:
        if not torch.allclose(torch.as_tensor(other, dtype=torch.float64), torch.as_tensor(scale, dtype=torch.float64)):
            raise ValueError(
                f"sites {first!r} and {name!r} carry different scales ({scale} and {other}): a datum has one scale; "
                "to anneal the KL use Training(kl_warmup_epochs=...) or objective.annealed(weight), not poutine.scale"
            )
    return scale


def per_datum(values: Tensor, site: Site) -> Tensor:
    """Sum one site's (K, *plates, B) values over the plates nested in the data plate, (K, B)."""
    values = scale_and_mask(values, scale=_inner_scale(site), mask=site["mask"])
    return values.flatten(1, -2).sum(1) if values.dim() > 2 else values


def _per_datum_sites(sites: list[Site], *, observed: bool) -> dict[str, Tensor]:
    local = (site for site in sites if _frame(site) and site["is_observed"] == observed)
    return {site["name"]: per_datum(_log_prob(site), site) for site in local}


def _total(sites: dict[str, Tensor], like: Tensor) -> Tensor:
    return sum(sites.values(), torch.zeros_like(like))


def global_sum(sites: list[Site], num_particles: int) -> Tensor:
    """Sum over the sites outside the data plate, scaled, (K,)."""
    total = torch.zeros(())
    for site in sites:
        if not _frame(site):
            total = total + per_particle(_log_prob(site), site, num_particles)
    return total.expand(num_particles)


def per_particle(values: Tensor, site: Site, num_particles: int) -> Tensor:
    """Scale one global site's values and sum them over everything but particles, (K,) or ()."""
    values = scale_and_mask(values, scale=site["scale"], mask=site["mask"])
    in_particles = any(f.name == PARTICLES for f in site["cond_indep_stack"])
    return values.reshape(num_particles, -1).sum(-1) if in_particles else values.sum()


def nonfinite_site(terms: LogTerms) -> str | None:
    """Name of the first site, guide first, whose value or log-probability is NaN or infinite; None if there is none."""
    for trace in (terms.guide_trace, terms.model_trace):
        for site in sample_sites(trace):
            if not (torch.isfinite(site["value"]).all() and torch.isfinite(_log_prob(site)).all()):
                return site["name"]
    return None
