"""One run of guide and model, its log-probabilities sorted per particle and row."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.programs.discrete.contraction import SummedOut, enumerating, marked_sites, sum_out
from ppl_vae.programs.particles import (
    PARTICLES,
    PLATE,
    Particles,
    Program,
    Site,
    require_outermost,
    run,
    with_any_nesting,
)
from ppl_vae.programs.sites import (
    common_scale,
    frame_of,
    global_sum,
    is_auxiliary,
    is_deterministic,
    is_local,
    local_log_probs,
    log_prob_of,
    require_rows,
    sample_sites,
)

__all__ = ["LogTerms", "log_terms"]


@dataclass(frozen=True)
class LogTerms:
    """One run of guide and model: log-probabilities of K particles and B rows, in nats.

    log w = log_likelihood + log_prior - log_q, unscaled. `scale` is what the data plate (N / B when
    subsampled) and `poutine.scale` multiply each row by. Latents g outside the data plate are drawn
    once for all particles and rows. The traces serve objectives that need the distributions
    themselves (analytic KL).

    Args:
        log_likelihood: log p(x given z, g) minus the log-factors of the guide, shape (K, B).
        prior_sites: log p of each latent site, by name, shapes (K, B).
        posterior_sites: log q of each latent site, by name, shapes (K, B).
        log_global: log p(g) - log q(g) of the latents outside the data plate, scaled, a scalar.
        global_likelihood: log p of what is observed outside the data plate (a regulariser by
            `pyro.factor`, a global measurement) minus the guide's factors, scaled, a scalar.
        num_rows: Rows that the data plate stands for: its size, N where it is subsampled, else B.
        scale: One number, or one per row.
        model_trace: The model's trace, replayed against the guide's.
        guide_trace: The guide's trace.
        paths: With `detach`, each latent's reparameterised draw, by name; its copy in the traces is
            a leaf.
        summed: Sites whose log p is a sum over latents that the model enumerates. Those were drawn
            from their prior for `model_trace`.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x, num_particles=4)
        >>> bool(torch.allclose(terms.log_weights, terms.log_joint - terms.log_q))
        True
    """

    log_likelihood: Tensor
    prior_sites: dict[str, Tensor]
    posterior_sites: dict[str, Tensor]
    log_global: Tensor
    global_likelihood: Tensor
    num_rows: int
    scale: float | Tensor
    model_trace: Any  # Pyro's Trace, whose nodes are messages of many kinds
    guide_trace: Any
    paths: dict[str, Tensor] = field(default_factory=dict)
    summed: frozenset[str] = frozenset()

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

    @property
    def global_latents(self) -> list[Site]:
        """The guide's latent sites outside the data plate."""
        return [s for s in sample_sites(self.guide_trace) if not (s["is_observed"] or is_local(s))]

    @property
    def global_score(self) -> Tensor | None:
        """log q of the global latents without a path derivative, a scalar, or None."""
        scored = [s for s in self.global_latents if not s["fn"].has_rsample]
        return sum((log_prob_of(s).sum() for s in scored), torch.zeros(())) if scored else None


def log_terms(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 1,
    max_plate_nesting: int | None = None,
    detach: bool = False,
    **kwargs: Any,
) -> LogTerms:
    """Run guide and model once for K particles, and sort their log-probabilities.

    Sites inside the plate "data" are summed over everything but particles and rows: latent ones
    give log p(z) and log q, observed ones log p(x given z). Sites outside it are global: drawn
    once, shared by all particles and rows, and kept apart. `pyro.factor` and observed sites in the
    guide count as in Pyro, with a minus sign; its `pyro.deterministic` sites are ignored.
    A latent that the model marks `infer={"enumerate": "parallel"}` and the guide lacks is summed
    out exactly. `poutine.mask` is honoured; scales are kept apart, so that a nonlinear bound is
    taken per row first and scaled after.

    Args:
        model: Pyro model with one plate "data" at dim -1.
        guide: Pyro guide with the same plate and latent sites.
        args: Arguments of both.
        num_particles: Number of particles K.
        max_plate_nesting: Depth of the plates, "data" included; None finds it, at the price of
            another run of the guide where there are plates besides "data".
        detach: Cut the graph at the local latents: log p and log q are evaluated at leaf copies of
            the draws, and `paths` keeps the draws, so that a gradient estimator can treat the three
            dependences apart.
        kwargs: Keyword arguments of both.

    Returns:
        The terms, differentiable in the parameters of both.

    Raises:
        ValueError: no site lies in a plate "data" at dim -1, or it has another size than x; latent
            sites of model and guide differ; nothing is observed inside the plate; local sites carry
            different scales; a log-probability inside the plate has another shape than its plates.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> log_terms(bed.model, bed.guide, bed.x, num_particles=4).log_q.shape
        torch.Size([4, 3])
    """

    def at_depth(depth: int) -> LogTerms:
        particles = Particles(num_particles, depth)
        settings: dict[str, Any] = {"depth": depth, "detach": detach}
        traces = _run_both(particles(model), particles(guide), *args, **settings, **kwargs)
        summed = SummedOut()
        if marked_sites(sample_sites(traces[1]), traces[0].nodes):
            at_all = enumerating(particles(model), depth)
            joint = run(poutine.replay(at_all, trace=traces[0]), *args, **kwargs)
            summed = sum_out(joint, traces[0].nodes)
        return _sorted(*traces, num_particles, summed)

    return with_any_nesting(at_depth, max_plate_nesting)


def _run_both(
    model: Program, guide: Program, *args: Any, depth: int, detach: bool, **kwargs: Any
) -> tuple[poutine.Trace, poutine.Trace, dict[str, Tensor]]:
    """The traces of guide and model, the model replayed, and the draws that were detached."""
    guide_trace = run(guide, *args, **kwargs)
    require_outermost(guide_trace, depth)
    paths = _detach(guide_trace) if detach else {}
    if len(paths) > 1:  # a later latent's density depends on earlier ones: let it see their copies
        guide_trace = run(poutine.replay(guide, trace=guide_trace), *args, **kwargs)
    model_trace = run(poutine.replay(model, trace=guide_trace), *args, **kwargs)
    require_outermost(model_trace, depth)
    return guide_trace, model_trace, paths


def _sorted(
    guide_trace: poutine.Trace,
    model_trace: poutine.Trace,
    paths: dict[str, Tensor],
    num_particles: int,
    summed: SummedOut,
) -> LogTerms:
    """The log-probabilities of two traces, sorted; `summed` are those of the enumerated sites."""
    p_sites, q_sites = (
        [site for site in sample_sites(trace) if not is_deterministic(site)]
        for trace in (model_trace, guide_trace)
    )
    _check_match([site for site in p_sites if site["name"] not in summed.enumerated], q_sites)
    _check_observed(p_sites)
    local = [site for site in [*p_sites, *q_sites] if frame_of(site)]
    plate = frame_of(local[0])
    scale = _scale(p_sites, q_sites)
    nothing = local[0]["value"].new_zeros(num_particles, plate.size)
    p_sites = [site for site in p_sites if site["name"] not in summed.names]
    likelihood = _total(local_log_probs(p_sites, observed=True), nothing) + summed.log_likelihood
    guide_factors = _total(local_log_probs(q_sites, observed=True), nothing)
    return LogTerms(
        log_likelihood=likelihood - guide_factors,
        prior_sites=local_log_probs(p_sites, observed=False) | summed.log_prior,
        posterior_sites=local_log_probs(q_sites, observed=False),
        log_global=global_sum(p_sites, observed=False) - global_sum(q_sites, observed=False),
        global_likelihood=global_sum(p_sites, observed=True) - global_sum(q_sites, observed=True),
        num_rows=plate.full_size,
        scale=scale,
        model_trace=model_trace,
        guide_trace=guide_trace,
        paths=paths,
        summed=summed.names,
    )


def _scale(p_sites: list[Site], q_sites: list[Site]) -> float | Tensor:
    """The factor of each row; a guide without one takes the model's."""
    model, guide = ([site for site in sites if frame_of(site)] for sites in (p_sites, q_sites))
    scales = [site["scale"] for site in guide]
    if all(isinstance(scale, float | int) and scale == 1 for scale in scales):
        return common_scale(model)
    return common_scale([*model, *guide])


def _detach(trace: poutine.Trace) -> dict[str, Tensor]:
    """Put a leaf copy in the place of each local latent; returns the draws themselves."""
    latents = (site for site in sample_sites(trace) if frame_of(site) and not site["is_observed"])
    paths = {site["name"]: site["value"] for site in latents}
    for name, draw in paths.items():
        trace.nodes[name]["value"] = draw.detach().requires_grad_(draw.is_floating_point())
    return paths


def drawing(program: Program, values: Mapping[str, Tensor]) -> Program:
    """The program, drawing these values instead of its own."""
    return _Drawing(values)(program)


class _Drawing(Messenger):
    """Gives sites their values; they keep no mark but that of a guide's auxiliary sites."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] not in self.values:
            return
        msg["value"] = self.values[msg["name"]]
        msg["done"] = True
        msg["infer"] = {"is_auxiliary": True} if is_auxiliary(msg) else {}


def log_density_at(
    terms: LogTerms, program: Program, *args: Any, without: Collection[str] = ()
) -> Tensor:
    """Log-density of a guide-like program at the latents of these terms, (K, B)."""
    particles = particles_of(terms.model_trace)
    replayed = run(poutine.replay(particles(program), trace=terms.guide_trace), *args)
    sites = [site for site in sample_sites(replayed) if site["name"] not in without]
    return _total(local_log_probs(sites, observed=False), terms.log_likelihood)


def particles_of(trace: poutine.Trace, num_particles: int | None = None) -> Particles:
    """The particle plate that a trace was made under, or one of another size in its place."""
    frames = (frame for site in sample_sites(trace) for frame in site["cond_indep_stack"])
    plate = next(frame for frame in frames if frame.name == PARTICLES)
    return Particles(num_particles or plate.size, -1 - plate.dim)


def run_under_particles(program: Program, num_particles: int, *args: Any) -> poutine.Trace:
    """The trace of one program alone under a particle plate that clears its own plates."""

    def at_depth(depth: int) -> poutine.Trace:
        trace = run(Particles(num_particles, depth)(program), *args)
        require_outermost(trace, depth)
        return trace

    return with_any_nesting(at_depth, None)


def _check_match(p_sites: list[Site], q_sites: list[Site]) -> None:
    """Raise unless model and guide sample the same latents, in the same plates."""
    latent = {site["name"]: site for site in p_sites if not site["is_observed"]}
    guided = {site["name"]: site for site in q_sites if not site["is_observed"]}
    for name, site in latent.items():
        if name in guided and bool(frame_of(site)) != bool(frame_of(guided[name])):
            where = "guide" if frame_of(site) else "model"
            raise ValueError(
                f'site {name!r} of the {where} lies in no plate named "{PLATE}", but the other one '
                f'does: write pyro.plate("{PLATE}", len(x), dim=-1) in both'
            )
    auxiliary = {n for n, site in guided.items() if (site["infer"] or {}).get("is_auxiliary")}
    for name in sorted(latent.keys() ^ (guided.keys() - auxiliary)):
        where, missing = ("model", "guide") if name in latent else ("guide", "model")
        observe = ", or the model observe it (obs=x)" if name in latent else ""
        raise ValueError(
            f"latent site {name!r} is in the {where} but not in the {missing}: both must sample "
            f"the same sites{observe}"
        )
    require_rows(p_sites)


def _check_observed(p_sites: list[Site]) -> None:
    """Raise where no row is observed: log p(x given z) would be 0."""
    observed = [site for site in p_sites if site["is_observed"]]
    if not observed:
        raise ValueError(
            f'the model observes nothing: give obs=x to a site inside pyro.plate("{PLATE}", ...)'
        )
    if not any(frame_of(site) for site in observed):
        raise ValueError(
            f'observed site {observed[0]["name"]!r} lies outside the plate "{PLATE}", so that no '
            f'row has a likelihood: sample it inside pyro.plate("{PLATE}", len(x), dim=-1)'
        )


def _total(sites: dict[str, Tensor], like: Tensor) -> Tensor:
    return sum(sites.values(), torch.zeros_like(like))


def undefined_site(terms: LogTerms) -> str | None:
    """Name of the first site, guide first, that makes a log-weight NaN or +inf, or None."""
    for trace, worst in ((terms.guide_trace, -torch.inf), (terms.model_trace, torch.inf)):
        for site in sample_sites(trace):
            log_p = log_prob_of(site)
            if (log_p.isnan() | (log_p == worst)).any():
                return site["name"]
    return None


def nonfinite_site(terms: LogTerms) -> str | None:
    """Name of the first site, guide first, with a NaN or infinite value or density, or None."""
    for trace in (terms.guide_trace, terms.model_trace):
        for site in sample_sites(trace):
            if not all(v.isfinite().all() for v in (site["value"], log_prob_of(site))):
                return site["name"]
    return None
