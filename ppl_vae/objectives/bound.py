"""What every objective shares: a value per datum, a surrogate for its gradient, and Pyro's loss
interface.
"""

import copy
from abc import ABC
from typing import Any, Self

import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.data import as_dataset
from ppl_vae.model import Model
from ppl_vae.objectives.gradients import Gradient, Reparameterized
from ppl_vae.objectives.leave_one_out import directly
from ppl_vae.programs.modules import arguments, place
from ppl_vae.programs.traces import PLATE, LogTerms, Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import real_number, whole_number
from ppl_vae.runtime.seeding import seeded


class Bound(ELBO, ABC):
    """An objective that is a bound per datum, in nats: f(log w) of the (K, B) log-weights;
    subclasses give `reduce`.

    loss = - sum_b scale_b value_b - share (log p(g) - log q(g)), g the latents outside the data
    plate: drawn once, shared by the K particles of every row. The share is the batch's part of the
    training rows, B / N, where N is known (`fit` says it by `over`) and the plate does not scale
    its rows by N / B; else 1. Which gradient is followed is the business of `gradient`; a latent g
    that has no path derivative gets the score function of the whole loss, from two draws. Serves
    `pyro.infer.SVI(loss=...)`, `objective(model, guide)` with any torch optimiser, and `fit`.

    A subclass also states `curvatures`, where doubly reparameterised gradients are defined;
    `linear`, where slopes do not depend on the weights; `splits`, where model and guide follow
    different targets; `of_log_weights = False`, where the value is more than a function of the
    log-weights; `is_upper`, where it bounds from above and is minimised; `takes_global = False`,
    where an expectation over g outside of the bound would be no bound; `fewest_rows`, where it
    compares rows with each other.
    """

    kl_weight: float | Tensor = 1.0
    num_data: int | None = None
    takes_global = True
    linear = False
    splits = False
    of_log_weights = True
    is_upper = False
    fewest_rows = 1

    @property
    def recordable(self) -> bool:
        """Whether a step is the same operations each time, without state, so that a graph can stand
        for it.
        """
        return not self.gradient.has_state

    def __init__(
        self,
        num_particles: int = 1,
        *,
        gradient: Gradient | None = None,
        max_plate_nesting: int | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            num_particles=whole_number(num_particles, f"{name}(num_particles)"),
            max_plate_nesting=None
            if max_plate_nesting is None
            else whole_number(max_plate_nesting, f"{name}(max_plate_nesting)"),
        )
        self.gradient = Reparameterized() if gradient is None else gradient
        if not isinstance(self.gradient, Gradient):
            raise TypeError(
                f"{name}(gradient) is {gradient!r}; it must be an object, as in "
                "gradient=objectives.VIMCO()"
            )
        self.gradient.check(self)

    def reduce(self, log_weights: Tensor) -> Tensor:
        """f(log w), over the first dim: (K, ..., B) -> (..., B)."""
        raise NotImplementedError

    def value(self, terms: LogTerms) -> Tensor:
        """The bound per datum, unscaled, shape (B,)."""
        return self.reduce(self.log_weights(terms))

    def log_joint(self, terms: LogTerms) -> Tensor:
        """log p(x given z) + kl_weight log p(z), (K, B)."""
        return terms.log_likelihood + self.kl_weight * terms.log_prior

    def log_weights(self, terms: LogTerms) -> Tensor:
        """log p(x given z) + kl_weight (log p(z) - log q(z given x)), (K, B)."""
        return self.log_joint(terms) - self.kl_weight * terms.log_q

    def slopes(self, log_weights: Tensor) -> Tensor:
        """df / d log w_k, (K, B)."""
        with torch.enable_grad():
            leaf = log_weights.detach().requires_grad_()
            return torch.autograd.grad(self.reduce(leaf).sum(), leaf)[0]

    def model_slopes(self, log_weights: Tensor) -> Tensor:
        """The slopes that the model's parameters follow; the same unless the bound `splits`."""
        return self.slopes(log_weights)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """d^2 f / d log w_k^2, the diagonal, (K, B)."""
        raise NotImplementedError

    def rewards(self, log_weights: Tensor) -> Tensor:
        """What a particle's score is multiplied by, before any baseline, (K, B)."""
        return self.reduce(log_weights).expand_as(log_weights)

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """The reward that the other particles alone would have given, (K, B)."""
        return self.reduce_others(log_weights)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """f without particle k, or with `instead`_k in the place of log w_k, for each k, (K, B).

        A subclass whose f is made of means overrides it in O(K B), by `leave_one_out`.
        """
        return directly(self.reduce, log_weights, instead, name=type(self).__name__)

    def global_value(self, terms: LogTerms) -> Tensor:
        """log p(g) - log q(g) of the latents outside the data plate, scaled, a scalar."""
        return terms.log_global

    def annealed(self, kl_weight: float | Tensor) -> Self:
        """The same objective with its KL (log q - log p(z)) multiplied by `kl_weight`, for
        warm-up.
        """
        if not isinstance(kl_weight, Tensor):
            kl_weight = real_number(kl_weight, "kl_weight", at_least=0)
        other = copy.copy(self)
        other.kl_weight = kl_weight
        return other

    def over(self, num_data: int) -> Self:
        """The same objective for batches of `num_data` training rows, among which a global latent's
        KL is shared.
        """
        other = copy.copy(self)
        other.num_data = num_data
        return other

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogTerms:
        """Log-probabilities of one run with this objective's particles."""
        sizes: Any = {
            "num_particles": self.num_particles,
            "max_plate_nesting": self.max_plate_nesting,
        }
        detach = torch.is_grad_enabled() and self.gradient.detaches(self)
        terms = log_terms(model, guide, *args, detach=detach, **sizes, **kwargs)
        if is_validation_enabled() and self.num_particles == terms.log_likelihood.shape[1] > 1:
            with (
                torch.no_grad(),
                seeded(0),
            ):  # an axis of rows could pass for that of the particles: one more tells
                log_terms(
                    model,
                    guide,
                    *args,
                    **sizes | {"num_particles": self.num_particles + 1},
                    **kwargs,
                )
        if not self.takes_global and terms.global_latents:
            raise ValueError(
                f"{self!r} is not defined for latent site {terms.global_latents[0]['name']!r}, "
                "which lies outside the "
                f'plate "{PLATE}": use TraceELBO, IWAE or another lower bound, or move the site '
                "into the plate"
            )
        return terms

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound per datum, in nats, shape (B,), without gradients; global sites are left out.

        x may be anything that makes a `Dataset`, or be one.
        """
        with torch.no_grad():
            return self.value(self.terms(model, guide, *_inputs(model, guide, args), **kwargs))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """- sum of the scaled bound over the batch, in nats."""
        with torch.no_grad():
            terms = self.terms(model, guide, *args, **kwargs)
            return self._total(self.value(terms), terms).item()

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A scalar whose value is `loss` and whose gradient is the estimator's."""
        loss, score = self._draw(model, guide, *args, **kwargs)
        if score is None:
            return loss
        other_loss, other_score = self._draw(model, guide, *args, **kwargs)
        mean = 0.5 * (loss + other_loss)
        signal = 0.5 * (loss - other_loss).detach() * (score - other_score)
        return mean + signal - signal.detach()

    def _draw(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """The loss at one draw, with the estimator's gradient, and log q of the global latents that
        need a score.
        """
        terms = self.terms(model, guide, *args, **kwargs)
        surrogate = self._total(self.surrogate(terms), terms)
        if not self.gradient.detaches(self):
            return surrogate, terms.global_score
        with torch.no_grad():
            value = self._total(self.value(terms), terms)
        return value + surrogate - surrogate.detach(), terms.global_score

    def surrogate(self, terms: LogTerms) -> Tensor:
        """What is differentiated, shape (B,)."""
        return self.gradient.surrogate(self, terms)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """`loss`, with the gradient added to the parameters' `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Pyro's abstract hook: the traces of one run."""
        terms = self.terms(model, guide, *args, **kwargs)
        return terms.model_trace, terms.guide_trace

    def _total(self, per_datum: Tensor, terms: LogTerms) -> Tensor:
        share = 1.0 if self.num_data is None else terms.num_rows / self.num_data
        global_value = terms.global_likelihood + self.kl_weight * self.global_value(terms)
        total = (terms.scale * per_datum).sum() + share * global_value
        return total if self.is_upper else -total

    def __repr__(self) -> str:
        options = [f"num_particles={self.num_particles}", *self.options()]
        options += [] if self.gradient == Reparameterized() else [f"gradient={self.gradient!r}"]
        return f"{type(self).__name__}({', '.join(options)})"

    def options(self) -> list[str]:
        """A subclass's own arguments, as `repr` writes them."""
        return []


def _inputs(model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """x and context as checked tensors of the programs' float type; a user's program takes its
    tensors as they are.
    """
    if not args or isinstance(args[0], Tensor) and not isinstance(model, Model):
        return args
    data = place(as_dataset(*args[:2]), model, guide)
    check_data(model, data.x, data.context, guide)
    return *arguments(data.x, data.context), *args[2:]
