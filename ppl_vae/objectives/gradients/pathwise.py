"""The base of all gradient estimators, and those that differentiate through the draws."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, override

import torch
from torch import Tensor

from ppl_vae.objectives.target import Target
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import one_of

__all__ = ["DoublyReparameterized", "Gradient", "Reparameterized", "StickingTheLanding"]


class Coefficients(NamedTuple):
    """The factors of the three derivatives, each (K, B) and detached."""

    model: Tensor
    path: Tensor | None
    log_q: Tensor | None


class Gradient(ABC):
    """A gradient estimator; a subclass implements `coefficients`.

    An estimator that depends on earlier steps, as by a moving baseline, sets `has_state` and
    implements `state` and `restore`.

    References:
        Mohamed et al. (2020), Monte Carlo gradient estimation in machine learning, JMLR 21.

    Example:
        >>> Reparameterized().path_derivative
        True
    """

    has_state = False
    path_derivative = True  # whether it differentiates through the draws
    needs_others = False  # whether it compares a particle with the others
    is_shown = True  # whether an objective's repr names it

    def state(self) -> dict[str, Tensor]:
        """The state that a later step needs from earlier ones."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from an earlier state; an empty one is the beginning."""
        return

    def detaches(self, bound: Target) -> bool:
        """Whether latents are cut from the graph, to separate the three derivatives."""
        return True

    def watching(self) -> AbstractContextManager[Any]:
        """A context for the run of the programs, if the estimator asks what depends on a draw."""
        return nullcontext()

    def check(self, bound: Target) -> None:
        """Raise ValueError, with the reason, if the estimator is not defined for this bound."""
        name = type(bound).__name__
        if not bound.of_log_weights:
            raise ValueError(
                f"{self!r} is not defined for {name}, which is not a function of the log-weights "
                "alone: use Reparameterized()"
            )
        if self.needs_others and bound.num_particles < 2:
            raise ValueError(
                f"{self!r} compares a particle with the others: give {name} num_particles >= 2"
            )

    @abstractmethod
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        """The three coefficients for this bound at these log-weights."""

    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        """A tensor per observation, (B,), whose gradient is the estimator."""
        if self.path_derivative:
            require_reparameterized(terms, f"{type(bound).__name__} with {type(self).__name__}")
        log_weights = bound.log_weights(terms)
        model, path, log_q = self.coefficients(bound, log_weights.detach())
        total = (model * bound.log_joint(terms)).sum(0)
        if log_q is not None:
            total = total + (log_q * terms.log_q).sum(0)
        if path is not None:
            total = total + follow_paths(terms, path * log_weights)
        return total


def follow_paths(terms: LogTerms, weighted: Tensor) -> Tensor:
    """sum_k d weighted_k / dz_k . z_k per row, (B,): its gradient is the path derivative alone."""
    # A whole number that is fixed has no path.
    paths = {name: path for name, path in terms.paths.items() if path.requires_grad}
    if not paths:
        return weighted.new_zeros(weighted.shape[1])
    sites = [terms.guide_trace.nodes[name] for name in paths]
    slopes = torch.autograd.grad(
        weighted.sum(), [site["value"] for site in sites], retain_graph=True, allow_unused=True
    )
    total = weighted.new_zeros(weighted.shape[1])
    for site, path, slope in zip(sites, paths.values(), slopes, strict=True):
        if slope is not None:
            total = total + sum_by_row(slope * path, site["fn"].event_dim)
    return total


def sum_by_row(values: Tensor, event_dim: int) -> Tensor:
    """Sum (K, *plates, B, *event) over everything but rows, (B,)."""
    summed = values.flatten(values.dim() - event_dim).sum(-1) if event_dim else values
    return summed.flatten(0, -2).sum(0)


def require_reparameterized(terms: LogTerms, estimator: str) -> None:
    """Raise if a draw without path derivative would bias the estimate."""
    for name in terms.posterior_sites:
        distribution = terms.guide_trace.nodes[name]["fn"]
        if not distribution.has_rsample and terms.log_q.requires_grad:
            raise ValueError(
                f"{estimator}: latent site {name!r} ({type(distribution).__name__}) is not "
                "reparameterised, so its gradient would be lost; use objectives.EnumeratedELBO() "
                "for a discrete latent of few values, else "
                "objectives.TraceELBO(5, gradient=objectives.PathAndScore()) or "
                "objectives.IWAE(5, gradient=objectives.VIMCO())"
            )


@dataclass(frozen=True)
class Reparameterized(Gradient):
    """The total derivative of the bound through z = T(noise, phi), the default.

    Its guide part contains the score d log q / d phi, which has mean zero but not variance zero:
    with an exact guide the gradient is still noisy, and with many particles the guide's
    signal-to-noise ratio falls as 1 / sqrt(K).

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, section 2.4.

    Example:
        >>> Reparameterized()
        Reparameterized()
    """

    is_shown = False

    def check(self, bound: Target) -> None:
        """Nothing to check: it is defined for every bound."""

    def detaches(self, bound: Target) -> bool:
        """Only if model and guide follow different targets; else one backward pass is enough."""
        return bound.splits

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        slopes = bound.slopes(log_weights)
        return Coefficients(bound.model_slopes(log_weights), slopes, -bound.kl_weight * slopes)

    @override
    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        if bound.splits:
            return super().surrogate(bound, terms)
        require_reparameterized(terms, type(bound).__name__)
        return bound.value(terms)


@dataclass(frozen=True)
class StickingTheLanding(Gradient):
    """The path derivative alone, without the score term, which has mean zero for the ELBO.

    With an exact guide every draw gives gradient zero. The estimator is unbiased for the ELBO and
    biased for bounds with K > 1 particles, so `IWAE` refuses it; `DoublyReparameterized` is the
    unbiased form for these.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the landing, arXiv:1703.09194.

    Example:
        >>> StickingTheLanding()
        StickingTheLanding()
    """

    @override
    def check(self, bound: Target) -> None:
        super().check(bound)
        if not bound.linear:
            remedy = "DoublyReparameterized" if bound.has_curvatures() else "Reparameterized"
            raise ValueError(
                f"StickingTheLanding is biased for {type(bound).__name__}, whose slopes depend on "
                f"the weights: use gradient=objectives.{remedy}()"
            )

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        return Coefficients(bound.model_slopes(log_weights), bound.slopes(log_weights), None)


@dataclass(frozen=True)
class DoublyReparameterized(Gradient):
    """The score term reparameterised once more: unbiased, and the guide's signal grows with K.

    For IWAE the path coefficient is the squared normalised weight; for the ELBO it is
    `StickingTheLanding`. With `prior=True` the parameters of a learned normal prior are treated in
    the same way.

    Args:
        prior: Whether to reparameterise the gradient of the prior's parameters too, through z = m +
            s (z - m) / s; the prior at each latent site must be a normal with independent
            dimensions.

    References:
        Tucker et al. (2019), Doubly reparameterized gradient estimators, arXiv:1810.04152, eq. 8;
        Bauer and Mnih (2021), Generalized doubly reparameterized gradient estimators,
        arXiv:2101.11046, eq. 11.

    Example:
        >>> DoublyReparameterized()
        DoublyReparameterized(prior=False)
    """

    prior: bool = False

    def __post_init__(self) -> None:
        one_of(self.prior, "DoublyReparameterized(prior)", (True, False))

    @override
    def check(self, bound: Target) -> None:
        super().check(bound)
        name = type(bound).__name__
        if self.prior and bound.splits:
            raise ValueError(
                "DoublyReparameterized(prior=True) needs model and guide to follow one target, "
                f"and in {name} they do not: use prior=False"
            )
        if not bound.has_curvatures():
            raise ValueError(
                f"DoublyReparameterized is not derived for {name}: use "
                "gradient=objectives.Reparameterized()"
            )

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        path = bound.slopes(log_weights) - bound.kl_weight * bound.curvatures(log_weights)
        return Coefficients(bound.model_slopes(log_weights), path, None)

    @override
    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        total = super().surrogate(bound, terms)
        return total + self._exchange_prior(bound, terms) if self.prior else total

    def _exchange_prior(self, bound: Target, terms: LogTerms) -> Tensor:
        """Minus c d log p(z)/d theta, plus its reparameterised form.

        For each site s, with T_s the sampling path of its prior p_s given the sites before it, q of
        all sites and g = c_k: E_q[g d log p_s/d theta] = E_q[(dg/dz_s + g d log(q/p_s)/dz_s)
        dT_s/d theta].
        """
        log_weights = bound.log_weights(terms)
        slopes = bound.slopes(log_weights.detach())
        curvatures = bound.curvatures(log_weights.detach())
        total = -bound.kl_weight * (slopes * terms.log_prior).sum(0)
        for name in terms.paths:
            site = terms.model_trace.nodes[name]
            if name in terms.summed:
                raise ValueError(
                    f"the prior of site {name!r} is a sum over enumerated latents, and has no "
                    "path: use DoublyReparameterized(prior=False)"
                )
            # Of this site's prior, not of those that depend on it.
            log_ratio = terms.log_q - terms.prior_sites[name]
            weighted = (curvatures * log_weights + slopes * log_ratio).sum()
            gradient = torch.autograd.grad(weighted, site["value"], retain_graph=True)[0]
            moved = gradient * _prior_path(site, site["value"].detach())
            total = total + bound.kl_weight * sum_by_row(moved, site["fn"].event_dim)
        return total


def _prior_path(site: dict, z: Tensor) -> Tensor:
    """z as the prior draws it, m + s (z - m) / s: its gradient is dT/d theta at fixed noise."""
    base = site["fn"]
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if not isinstance(base, torch.distributions.Normal):
        raise ValueError(
            f"DoublyReparameterized(prior=True) needs a normal prior at site {site['name']!r}, "
            f"not {type(site['fn']).__name__}: use prior=False"
        )
    noise = (z - base.loc.detach()) / base.scale.detach()
    return base.loc + base.scale * noise
