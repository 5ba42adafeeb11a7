"""What a way of refining is given: a block of rows, the model, the guide and the family."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families.posteriors import Posterior, inverse_softplus
from ppl_vae.guide import Guide
from ppl_vae.hmc import LogJoint
from ppl_vae.programs.discrete.cases import drawn_at
from ppl_vae.programs.global_latents import global_draw
from ppl_vae.programs.plates import plate_of_rows
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.refinement.discrete import DiscreteLatents
from ppl_vae.refinement.guide import RefinedGuide
from ppl_vae.refinement.latents import Latents, Masks, Values

__all__ = ["Refinement"]

DRAWS_FOR_START = 200  # from the guide, where the refined family is another one
NUM_SHARED = 10  # draws of what the rows share, for the probabilities of discrete latents
NUM_OWN = 50  # and of a row's latents


@runtime_checkable
class Refinement(Protocol):
    """How variational parameters are found for each row.

    Example:
        >>> from ppl_vae.refinement import GradientRefinement
        >>> isinstance(GradientRefinement(), Refinement)
        True
    """

    @property
    def chunk_size(self) -> int | None:
        """(particle, row) pairs held at once."""

    @property
    def num_particles(self) -> int:
        """Particles per row held at once."""

    @property
    def num_ticks(self) -> int:
        """Ticks of the progress bar for each block of rows."""

    def family(self, guide: Program, latent_dim: int) -> Posterior:
        """The variational family."""

    def parameters(self, task: "Task", tick: Callable[[], Any]) -> Tensor:
        """The family's parameters for a block of rows, (B, P)."""


@dataclass(frozen=True)
class Task:
    """A block of rows to be refined, for one value of their discrete latents.

    Args:
        model: The model.
        guide: The guide.
        args: Arguments of both.
        latents: The continuous latents of a row.
        family: The variational family.
        masks: Which entries of a latent count.
        discrete: The discrete latents of a row.
        case: Their values.
        is_shared: Whether there are latents outside the plate: each step draws them from the guide.
    """

    model: Program
    guide: Program
    args: tuple[Tensor, ...]
    latents: Latents
    family: Any
    masks: Masks
    discrete: DiscreteLatents = DiscreteLatents(())
    case: Values = field(default_factory=dict)
    is_shared: bool = False

    def program(self, raw: Tensor) -> Program:
        """The guide with these parameters for the block's rows."""

        def refined(x: Tensor, *_others: Tensor) -> Any:
            with plate_of_rows(len(x)):
                self.discrete.fix(self.case, raw)
                if self.latents.sites:
                    self.latents.sample(self.family.distribution(raw), self.masks)

        return refined

    def given(self) -> tuple[Program, Program]:
        """Model and guide given one draw of what the rows share; as they are if that is nothing."""
        if not self.is_shared:
            return self.model, self.guide
        draw = global_draw(self.guide, *self.args)
        model, guide = (poutine.condition(each, data=draw) for each in (self.model, self.guide))
        return model, guide

    def log_evidence(self, raw: Tensor) -> Tensor:
        """An estimate of log p(x, y), (B,), of the case y, from draws of these parameters."""
        draws = []
        for _ in range(NUM_SHARED if self.is_shared else 1):
            model, _guide = self.given()
            terms = log_terms(model, self.program(raw), *self.args, num_particles=NUM_OWN)
            draws.append(terms.log_weights.nan_to_num(-torch.inf).logsumexp(0))
        return torch.stack(draws).logsumexp(0)

    def start(self) -> Tensor | None:
        """The guide's own parameters, if it has any in unconstrained space."""
        if self.case or self.is_shared:
            return None
        if isinstance(self.guide, RefinedGuide):
            return self.guide.parameters_of(*self.args)
        family = own_family(self.guide)
        if isinstance(self.guide, Guide) and family is not None and family.link is not None:
            return family.link(self.guide.features(*self.args)).squeeze(-2)
        return None

    def moments(self) -> Tensor:
        """Parameters for mean and sd of the guide's draws, which come first in every family."""
        model, guide = self.given()
        terms = drawn_at(self.case, model, guide, *self.args, num_particles=DRAWS_FOR_START)
        u = LogJoint(terms, model, *self.args).start
        # Draws of a guide of points are all equal, up to rounding.
        is_point = (u == u[:1]).all(0)
        scale = torch.where(is_point, torch.ones_like(u[0]), u.std(0))
        first = torch.cat([u.mean(0), inverse_softplus(scale)], dim=-1)
        # The rest is small and unequal: at zero itself a low-rank factor has no gradient.
        rest = torch.arange(self.family.num_parameters - first.shape[-1]).to(first).cos() / 100
        raw = torch.cat([first, rest.expand(len(first), -1)], dim=-1)
        is_rest = torch.arange(raw.shape[-1], device=raw.device) >= first.shape[-1]
        return torch.where(is_rest, raw * self.family.units(raw), raw)


def own_family(guide: Any) -> Posterior | None:
    """The guide's posterior, if it has one of unconstrained vectors."""
    if isinstance(guide, Guide | RefinedGuide):
        if guide.posterior.support is constraints.real_vector:
            return guide.posterior
    return None
