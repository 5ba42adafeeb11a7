"""Monte Carlo EM: the posterior by HMC, the model by gradient; the slow baseline of the original paper."""

from typing import Any

from torch import Tensor

from ppl_vae.hmc import HMC
from ppl_vae.hmc.posterior import drawing, run_chains
from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.terms import Program, log_terms

__all__ = ["MCEM"]


class MCEM(TraceELBO):
    """E-step: z ~ p(z given x) by HMC from the guide's draws. M-step: ascend log p(x, z); the guide learns log q(z).

    Every gradient costs (warm-up + draws) x leapfrog evaluations of the model: no way for large N. As the guide is
    fitted to posterior draws (forward KL) it can be used for evaluation, and its ELBO is the value.

    Args:
        num_particles: Number of chains per datum.
        sampler: The HMC of the E-step; its last draw of each chain is used.

    Shape:
        per datum, (B,), in nats

    References:
        Wei and Tanner (1990), A Monte Carlo implementation of the EM algorithm, JASA 85;
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, appendix E.

    Example:
        >>> MCEM(sampler=HMC(num_samples=1, num_warmup=5)).sampler.num_leapfrog
        10
    """

    recordable = False  # its chains decide by values

    def __init__(self, num_particles: int = 1, sampler: HMC | None = None) -> None:
        self.sampler = HMC(num_samples=1, num_warmup=20) if sampler is None else sampler
        if not isinstance(self.sampler, HMC):
            raise TypeError(f"MCEM(sampler) is {sampler!r}; it must be an object, as in HMC(num_samples=1)")
        super().__init__(num_particles)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The guide's ELBO as the value, the gradient of - log p(x, z) - log q(z given x) at HMC's draws."""
        chains = run_chains(model, guide, *args, num_chains=self.num_particles, sampler=self.sampler)
        at_posterior = drawing(guide, {name: draws[-1] for name, draws in chains.sites.items()})
        terms = log_terms(model, at_posterior, *args, num_particles=self.num_particles, **kwargs)
        surrogate = -(terms.scale * (terms.log_joint + terms.log_q).mean(0)).sum()
        return surrogate - surrogate.detach() + self.loss(model, guide, *args, **kwargs)
