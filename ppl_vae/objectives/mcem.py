"""Monte Carlo EM: the posterior by HMC, the model by gradient steps; a slow baseline."""

from typing import Any, Self

from pyro import poutine
from torch import Tensor

from ppl_vae.hmc import HMC
from ppl_vae.hmc.posterior import last_draws
from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.programs.global_latents import global_draw
from ppl_vae.programs.particles import Program
from ppl_vae.programs.traces import drawing, log_terms
from ppl_vae.runtime.text import echoed

__all__ = ["MCEM"]


class MCEM(TraceELBO):
    """E-step: z ~ p(z given x), by HMC from the guide's draws. M-step: ascend log p(x, z).

    Every gradient costs (warm-up + draws) x leapfrog evaluations of the model, too many for a large
    N. The guide is fitted to the posterior draws (forward KL), so it can be used for evaluation,
    and its ELBO is the value. A latent g outside the data plate is drawn by the guide, z ~ p(z
    given x, g), and q(g) is fitted as with the ELBO.

    Args:
        num_particles: Number of chains per observation.
        sampler: The HMC of the E-step; its last draw of each chain is used.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: the objective is to be annealed, but its gradient has no KL.

    References:
        Wei and Tanner (1990), A Monte Carlo implementation of the EM algorithm, JASA 85;
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix E.

    Example:
        >>> MCEM(sampler=HMC(num_samples=1, num_warmup=5)).sampler.num_leapfrog
        10
    """

    recordable = False  # the chains accept or reject by values

    def __init__(self, num_particles: int = 1, sampler: HMC | None = None) -> None:
        self.sampler = HMC(num_samples=1, num_warmup=20) if sampler is None else sampler
        if not isinstance(self.sampler, HMC):
            raise TypeError(
                f"MCEM(sampler) is {echoed(sampler)}; it must be an object, as in "
                "HMC(num_samples=1)"
            )
        super().__init__(num_particles)

    def annealed(self, kl_weight: float | Tensor) -> Self:
        """Not defined: the gradient uses draws from the posterior and has no KL to weight."""
        raise ValueError(
            "MCEM has no KL to anneal: leave out kl_warmup_epochs and kl_schedule, or use TraceELBO"
        )

    def _draw(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """The guide's ELBO; the gradient is of - log p(x, z) - log q(z given x) at HMC's draws."""
        shared = global_draw(guide, *args, **kwargs)
        fixed = {name: value.detach() for name, value in shared.items()}
        given = [poutine.condition(program, data=fixed) for program in (model, guide)]
        draws = last_draws(*given, *args, num_chains=self.num_particles, sampler=self.sampler)
        count = self.num_particles
        # q(z given x, g) is fitted to the draws of z, and must not move g.
        at_posterior, for_guide = (
            log_terms(model, drawing(guide, draws | values), *args, num_particles=count, **kwargs)
            for values in (shared, fixed)
        )
        log_q = (for_guide.scale * for_guide.log_q.mean(0)).sum()
        surrogate = self._total(at_posterior.log_joint.mean(0), at_posterior) - log_q
        value = self.loss(model, drawing(guide, fixed), *args, **kwargs)
        return surrogate - surrogate.detach() + value, at_posterior.global_score
