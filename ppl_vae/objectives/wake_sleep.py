"""Wake-sleep: the guide learns from weighted draws or from the model's dreams, not from the
ELBO.
"""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.objectives.gradients import Coefficients, Gradient, Target
from ppl_vae.objectives.importance_weighted import IWAE
from ppl_vae.programs.traces import LogTerms, Program, sample_sites
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


@dataclass(frozen=True)
class Wake(Gradient):
    """The model follows the bound; the guide's log-density is raised at the draws, by their
    normalised weights.

    The weights are those of the posterior whatever the weight of the KL: by annealed ones, p(x
    given z) alone at weight 0, the guide would shrink to the point of highest likelihood. Needs no
    path derivative, so discrete latents are fine.
    """

    insomnia: float = 1.0

    path_derivative = False

    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        """Slopes for the model."""
        return Coefficients(bound.slopes(log_weights), None, None)

    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        """As above, and the guide's log-density by weights that are not annealed."""
        total = super().surrogate(bound, terms)
        if not self.insomnia:
            return total
        weights = terms.log_weights.detach().softmax(0)
        return total + self.insomnia * (weights * terms.log_q).sum(0)


class ReweightedWakeSleep(IWAE):
    """Model: IWAE. Guide: the forward KL(p(z given x) || q), by self-normalised weights *per datum*
    (wake), or by maximum likelihood on (z, x) dreamt by the model (sleep).

    Covers the posterior instead of hiding in it; unbiased only as K grows, since the weights are
    normalised over the K particles of each datum. The value is IWAE's.

    Args:
        num_particles: Number of particles K per datum; tens.
        insomnia: Weight of the wake phase for the guide; the sleep phase has the rest.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    Raises:
        ValueError: insomnia outside [0, 1]; one particle with a wake phase, whose only weight would
            be 1.

    References:
        Bornschein and Bengio (2015), Reweighted wake-sleep, arXiv:1406.2751, eq. 7 to 10;
        Le et al. (2019), Revisiting reweighted wake-sleep, arXiv:1805.10469.

    Example:
        >>> ReweightedWakeSleep(32, insomnia=0.5)
        ReweightedWakeSleep(num_particles=32, insomnia=0.5)
    """  # noqa: D205

    takes_global = False

    def __init__(
        self,
        num_particles: int = 10,
        insomnia: float = 1.0,
        *,
        max_plate_nesting: int | None = None,
    ) -> None:
        self.insomnia = real_number(
            insomnia, "ReweightedWakeSleep(insomnia)", at_least=0, at_most=1
        )
        whole_number(
            num_particles, "ReweightedWakeSleep(num_particles)", at_least=2 if insomnia else 1
        )
        super().__init__(
            num_particles, gradient=Wake(self.insomnia), max_plate_nesting=max_plate_nesting
        )

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """IWAE's loss with the wake-sleep gradient."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        return (
            loss + (1 - self.insomnia) * sleep(model, guide, *args, **kwargs)
            if self.insomnia < 1
            else loss
        )

    def options(self) -> list[str]:
        """insomnia."""
        return [f"insomnia={self.insomnia:g}"]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_particles={self.num_particles}, insomnia={self.insomnia:g})"
        )


class WakeSleep(TraceELBO):
    """The classic: the model follows the ELBO at the guide's draws (wake), the guide learns from
    the model's dreams.

    The two phases descend different objectives; the baseline of the original VAE paper. The value
    is the ELBO.

    Args:
        num_particles: Number of particles K per datum.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Hinton et al. (1995), The wake-sleep algorithm for unsupervised neural networks, Science
        268.

    Example:
        >>> WakeSleep()
        WakeSleep(num_particles=1)
    """

    takes_global = False

    def __init__(self, num_particles: int = 1, *, max_plate_nesting: int | None = None) -> None:
        super().__init__(
            num_particles, gradient=Wake(insomnia=0.0), max_plate_nesting=max_plate_nesting
        )

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The ELBO's loss with the wake-sleep gradient."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        return loss + sleep(model, guide, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"


def sleep(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """Zero, with the gradient of - sum_b log q(z_b given x_b), (z_b, x_b) drawn from the model, one
    dream per datum.
    """
    with torch.no_grad():
        dream = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    latents = {
        s["name"]: s["value"] for s in sample_sites(dream) if not s["infer"].get("was_observed")
    }
    x = _dreamt(dream, args[0])
    trace = poutine.trace(poutine.condition(guide, data=latents)).get_trace(x, *args[1:], **kwargs)
    log_q = torch.as_tensor(trace.log_prob_sum())
    return log_q.detach() - log_q


def _dreamt(dream: poutine.Trace, x: Tensor) -> Tensor:
    """The dreamt data in the place of the first argument, missing where that is."""
    drawn = [site for site in sample_sites(dream) if site["infer"].get("was_observed")]
    observed = [site for site in drawn if not site["infer"].get("_deterministic")]
    if len(observed) != 1 or observed[0]["value"].shape != x.shape:
        found = ", ".join(f"{s['name']!r} of shape {tuple(s['value'].shape)}" for s in observed)
        raise ValueError(
            "the sleep phase feeds the model's draw of x back to the guide, so there must be one "
            "observed site of the "
            f"first argument's shape {tuple(x.shape)}; found {found}"
        )
    return observed[0]["value"].to(x.dtype).masked_fill(x.isnan(), float("nan"))
