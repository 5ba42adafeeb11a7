"""Wake-sleep: the guide learns from weighted draws, or from draws from the model (its dreams)."""

from dataclasses import dataclass
from typing import Any, override

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.objectives.gradients.pathwise import Coefficients, Gradient
from ppl_vae.objectives.importance_weighted import IWAE
from ppl_vae.objectives.target import Target
from ppl_vae.programs.masks import is_mask_of_x, missing_from
from ppl_vae.programs.particles import Site
from ppl_vae.programs.sites import redrawn
from ppl_vae.programs.traces import LogTerms, Program, sample_sites
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


@dataclass(frozen=True)
class Wake(Gradient):
    """The model follows the bound; the guide's log-density is increased at its draws, by their
    weights.

    The normalised weights are those of the posterior, for any weight of the KL: with annealed
    weights (p(x given z) alone at weight 0) the guide would shrink to the point of highest
    likelihood. No path derivative is needed, so latents may be discrete.
    """

    insomnia: float = 1.0

    path_derivative = False
    is_shown = False

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        return Coefficients(bound.slopes(log_weights), None, None)

    @override
    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        total = super().surrogate(bound, terms)
        if not self.insomnia:
            return total
        weights = terms.log_weights.detach().softmax(0)
        return total + self.insomnia * (weights * terms.log_q).sum(0)


class ReweightedWakeSleep(IWAE):
    """The model follows IWAE; the guide minimises the forward KL(p(z given x) || q).

    The guide does so by self-normalised weights *per observation* (wake), or by maximum likelihood
    on (z, x) drawn from the model (sleep). It covers the posterior instead of a single mode.
    Its gradient is unbiased only as K grows, since the weights are normalised over the K particles
    of each observation. The value is IWAE's.

    Args:
        num_particles: Number of particles K per observation, at least about 10.
        insomnia: Weight of the wake phase for the guide; the sleep phase has the rest.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: insomnia is outside [0, 1]; there is a wake phase with one particle, whose
            weight would always be 1.

    References:
        Bornschein and Bengio (2015), Reweighted wake-sleep, arXiv:1406.2751, eq. 7 to 10;
        Le et al. (2019), Revisiting reweighted wake-sleep, arXiv:1805.10469.

    Example:
        >>> ReweightedWakeSleep(32, insomnia=0.5)
        ReweightedWakeSleep(num_particles=32, insomnia=0.5)
    """

    takes_global = False
    shown = ("insomnia",)

    def __init__(
        self,
        num_particles: int = 10,
        insomnia: float = 1.0,
        *,
        max_plate_nesting: int | None = None,
    ) -> None:
        name = type(self).__name__
        self.insomnia = real_number(insomnia, f"{name}(insomnia)", at_least=0, at_most=1)
        whole_number(num_particles, f"{name}(num_particles)", at_least=2 if insomnia else 1)
        self.redraws_x = self.insomnia < 1
        gradient = Wake(self.insomnia)
        super().__init__(num_particles, gradient=gradient, max_plate_nesting=max_plate_nesting)

    @override
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        if not self.redraws_x:
            return loss
        return loss + (1 - self.insomnia) * sleep(model, guide, *args, **kwargs)


class WakeSleep(TraceELBO):
    """The model follows the ELBO at the guide's draws (wake); the guide follows the model's draws
    (sleep).

    The two phases minimise different objectives. This is the baseline of the original VAE paper.
    The value is the ELBO.

    Args:
        num_particles: Number of particles K per observation.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    References:
        Hinton et al. (1995), The wake-sleep algorithm for unsupervised neural networks, Science
        268.

    Example:
        >>> WakeSleep()
        WakeSleep(num_particles=1)
    """

    takes_global = False
    redraws_x = True  # the guide is given the model's draw of x

    def __init__(self, num_particles: int = 1, *, max_plate_nesting: int | None = None) -> None:
        gradient = Wake(insomnia=0.0)
        super().__init__(num_particles, gradient=gradient, max_plate_nesting=max_plate_nesting)

    @override
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        return loss + sleep(model, guide, *args, **kwargs)


def sleep(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """Zero, with the gradient of - sum_b log q(z_b given x_b) at one draw (z_b, x_b) per row."""
    with torch.no_grad():
        dream = poutine.trace(redrawn(model)).get_trace(*args, **kwargs)
    sites = sample_sites(dream)
    x = _drawn_x([site for site in sites if site["infer"].get("was_observed")], args[0])
    latents = {s["name"]: s["value"] for s in sites if not s["infer"].get("was_observed")}
    trace = poutine.trace(poutine.condition(guide, data=latents)).get_trace(x, *args[1:], **kwargs)
    log_q = torch.as_tensor(trace.log_prob_sum())
    return log_q.detach() - log_q


def _drawn_x(drawn: list[Site], x: Tensor) -> Tensor:
    """The model's draw in place of x, missing where x is, or where the model draws a mask."""
    observed = [
        site for site in drawn if not is_mask_of_x(site) and not site["infer"].get("_deterministic")
    ]
    if len(observed) != 1 or observed[0]["value"].shape != x.shape:
        found = ", ".join(f"{s['name']!r} of shape {tuple(s['value'].shape)}" for s in observed)
        raise ValueError(
            "the sleep phase feeds the model's draw of x back to the guide, so there must be one "
            f"observed site of the first argument's shape {tuple(x.shape)}; found {found}"
        )
    return observed[0]["value"].to(x.dtype).masked_fill(missing_from(x, drawn), float("nan"))
