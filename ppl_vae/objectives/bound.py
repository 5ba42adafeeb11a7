"""What every objective shares: a value per datum, a surrogate for its gradient, and Pyro's loss interface."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.terms import LogTerms, Program, log_terms, sample_sites


class Bound(ELBO, ABC):
    """An objective that is a bound per datum, in nats, higher is better; a subclass implements `value`.

    loss = - sum_b scale_b value_b - global_value, where the sites outside the data plate are added once.
    `surrogate` has the gradient that is followed; it is `value` unless a gradient estimator says otherwise.
    Serves `pyro.infer.SVI(loss=...)`, `objective(model, guide)` with any torch optimiser, and `fit`.
    """

    kl_weight: float | Tensor = 1.0

    def __init__(self, num_particles: int = 1, *, max_plate_nesting: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles is {num_particles}; there must be at least 1 particle")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)

    @abstractmethod
    def value(self, terms: LogTerms) -> Tensor:
        """The bound per datum, unscaled, shape (B,)."""

    def surrogate(self, terms: LogTerms) -> Tensor:
        """What is differentiated, shape (B,): by default the value, through reparameterised draws."""
        require_reparameterized(terms, type(self).__name__)
        return self.value(terms)

    def global_value(self, terms: LogTerms) -> Tensor:
        """log p - log q of the sites outside the data plate, scaled, a scalar."""
        return terms.log_global.mean()

    def annealed(self, kl_weight: float | Tensor) -> Self:
        """The same objective with its KL (log q - log p(z)) multiplied by `kl_weight`, for warm-up."""
        other = copy.copy(self)
        other.kl_weight = kl_weight
        return other

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogTerms:
        """Log-probabilities of one run with this objective's particles."""
        sizes = {"num_particles": self.num_particles, "max_plate_nesting": self.max_plate_nesting}
        return log_terms(model, guide, *args, **sizes, **kwargs)

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound per datum, in nats, shape (B,), without gradients; global sites are left out."""
        with torch.no_grad():
            return self.value(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """- sum of the scaled bound over the batch, in nats."""
        with torch.no_grad():
            terms = self.terms(model, guide, *args, **kwargs)
            return self._total(self.value(terms), terms).item()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """A scalar whose value is `loss` and whose gradient is the surrogate's."""
        terms = self.terms(model, guide, *args, **kwargs)
        surrogate = self._total(self.surrogate(terms), terms)
        with torch.no_grad():
            value = self._total(self.value(terms), terms)
        return value + surrogate - surrogate.detach()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """`loss`, with the gradient added to the parameters' `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pyro's abstract hook: the traces of one run."""
        terms = self.terms(model, guide, *args, **kwargs)
        return terms.model_trace, terms.guide_trace

    def _total(self, per_datum: Tensor, terms: LogTerms) -> Tensor:
        return -(terms.scale * per_datum).sum() - self.kl_weight * self.global_value(terms)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_particles={self.num_particles})"


def require_reparameterized(terms: LogTerms, name: str) -> None:
    """Raise when a draw carries no gradient though its density has parameters: the estimate would be biased."""
    for site in sample_sites(terms.guide_trace):
        if not site["fn"].has_rsample and terms.log_q.requires_grad:
            raise ValueError(
                f"{name}: latent site {site['name']!r} ({type(site['fn']).__name__}) is not reparameterised, so its "
                "gradient would be lost; use pyro.infer.Trace_ELBO(), which has the score-function estimator"
            )
