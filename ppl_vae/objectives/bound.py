"""The base of every objective: a value per observation, and Pyro's loss interface."""

import copy
from abc import ABC
from contextlib import nullcontext
from functools import partial
from typing import Any, Self, TypedDict

import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.data import as_dataset
from ppl_vae.model import Model
from ppl_vae.objectives.gradients import Gradient, Reparameterized
from ppl_vae.objectives.target import Target
from ppl_vae.programs.modules import arguments, place
from ppl_vae.programs.traces import PLATE, LogTerms, Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import real_number, whole_number
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed

__all__ = ["Bound"]


class Options(TypedDict, total=False):
    """The keywords that every bound takes."""

    gradient: Gradient | None
    max_plate_nesting: int | None


class Bound(Target, ELBO, ABC):
    """An objective that is a bound per observation, in nats: f(log w) of the (K, B) log-weights.

    loss = - sum_b scale_b value_b - share (log p(g) - log q(g)), where g are the latents outside
    the data plate, drawn once and shared by the K particles of every row. The share is the batch's
    part of the training rows, B / N, if N is known (`fit` sets it by `over`) and the plate does not
    scale its rows by N / B; else it is 1. `gradient` is the gradient estimator; a latent g without
    a path derivative gets the score function of the whole loss, from two draws. A bound can be used
    in `pyro.infer.SVI(loss=...)`, as `objective(model, guide)` with any torch optimiser, and in
    `fit`.

    A subclass implements `reduce` and sets the attributes of `Target`. It also sets `is_upper` if
    it bounds from above and is minimised, `takes_global = False` if its expectation over g would
    not be a bound, `fewest_rows` if it compares rows with each other, and `shown`, the names of its
    own arguments.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, arXiv:1602.06725,
        section 2.

    Example:
        >>> class PlainELBO(Bound):
        ...     def reduce(self, log_weights):
        ...         return log_weights.mean(0)
        >>> PlainELBO(num_particles=5)
        PlainELBO(num_particles=5)
    """

    num_data: float | None = None
    num_bounds = 1  # that share the particles
    takes_global = True
    is_upper = False
    fewest_rows = 1
    shown: tuple[str, ...] = ()

    def __init__(
        self,
        num_particles: int = 1,
        *,
        gradient: Gradient | None = None,
        max_plate_nesting: int | None = None,
    ) -> None:
        name = type(self).__name__
        if max_plate_nesting is not None:
            max_plate_nesting = whole_number(max_plate_nesting, f"{name}(max_plate_nesting)")
        super().__init__(
            num_particles=whole_number(num_particles, f"{name}(num_particles)"),
            max_plate_nesting=max_plate_nesting,
        )
        self.gradient = Reparameterized() if gradient is None else gradient
        if not isinstance(self.gradient, Gradient):
            raise TypeError(
                f"{name}(gradient) is {echoed(gradient)}; it must be an object, as in "
                "gradient=objectives.VIMCO()"
            )
        self.gradient.check(self)

    @property
    def recordable(self) -> bool:
        """Whether a graph can replace a step: its operations never change, and have no state."""
        return not self.gradient.has_state

    def global_value(self, terms: LogTerms) -> Tensor:
        """log p(g) - log q(g) of the latents outside the data plate, scaled, a scalar."""
        return terms.log_global

    def annealed(self, kl_weight: float | Tensor) -> Self:
        """The same objective with its KL multiplied by `kl_weight`, for warm-up."""
        if not isinstance(kl_weight, Tensor):
            kl_weight = real_number(kl_weight, "kl_weight", at_least=0)
        other = copy.copy(self)
        other.kl_weight = kl_weight
        return other

    def over(self, num_data: float) -> Self:
        """The same objective for batches of N rows in all, which share the KL of a global latent.

        N is `num_data`: the number of rows, or the sum of their weights.
        """
        other = copy.copy(self)
        other.num_data = num_data
        return other

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogTerms:
        """Log-probabilities of one run with this objective's particles."""
        nesting = self.max_plate_nesting
        run = partial(log_terms, model, guide, *args, max_plate_nesting=nesting, **kwargs)
        needs_gradient = torch.is_grad_enabled()
        detach = needs_gradient and self.gradient.detaches(self)
        with self.gradient.watching() if needs_gradient else nullcontext():
            terms = run(num_particles=self.num_particles, detach=detach)
        if is_validation_enabled() and self.num_particles == terms.log_likelihood.shape[1] > 1:
            # An axis of rows could pass for that of the particles: a run with one more tells.
            with torch.no_grad(), seeded(0):
                run(num_particles=self.num_particles + 1)
        if terms.global_latents and not self.takes_global:
            raise ValueError(
                f"{self!r} is not defined for latent site {terms.global_latents[0]['name']!r}, "
                f'which lies outside the plate "{PLATE}": use TraceELBO, IWAE or another lower '
                "bound, or move the site into the plate"
            )
        return terms

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound per observation, in nats, (B,), without gradients; global sites are left out.

        x may be a `Dataset` or anything that makes one; custom Pyro models take tensors unchanged.
        """
        if args and (isinstance(model, Model) or not isinstance(args[0], Tensor)):
            data = place(as_dataset(*args[:2]), model, guide)
            check_data(model, data.x, data.context, guide)
            args = (*arguments(data), *args[2:])
        with torch.no_grad():
            return self.value(self.terms(model, guide, *args, **kwargs))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """- sum of the scaled bound over the batch, in nats."""
        return self.total_loss(model, guide, *args, **kwargs).item()

    def total_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """`loss` as a scalar tensor, without gradients."""
        with torch.no_grad():
            terms = self.terms(model, guide, *args, **kwargs)
            return self._total(self.value(terms), terms)

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
        """The loss at one draw, with its gradient, and log q of the globals that need a score."""
        terms = self.terms(model, guide, *args, **kwargs)
        surrogate = self._total(self.gradient.surrogate(self, terms), terms)
        if not self.gradient.detaches(self):
            return surrogate, terms.global_score
        with torch.no_grad():
            value = self._total(self.value(terms), terms)
        return value + surrogate - surrogate.detach(), terms.global_score

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """`loss`, with the gradient added to the parameters' `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The traces of one run, which Pyro's base class requires."""
        terms = self.terms(model, guide, *args, **kwargs)
        return terms.model_trace, terms.guide_trace

    def _total(self, values: Tensor, terms: LogTerms) -> Tensor:
        """The loss of the batch from the values per observation."""
        share = 1.0 if self.num_data is None else terms.num_rows / self.num_data
        global_value = terms.global_likelihood + self.kl_weight * self.global_value(terms)
        total = (terms.scale * values).sum() + share * global_value
        return total if self.is_upper else -total

    def __repr__(self) -> str:
        options = [f"num_particles={self.num_particles // self.num_bounds}", *self.options()]
        if self.gradient.is_shown:
            options.append(f"gradient={self.gradient!r}")
        return f"{type(self).__name__}({', '.join(options)})"

    def options(self) -> list[str]:
        """The arguments that are `shown`, as `repr` writes them."""
        values = {name: getattr(self, name) for name in self.shown}
        return [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
        ]
