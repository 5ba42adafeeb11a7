"""What a way of refining is given: a block of rows, the model, the guide and the family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppl_vae.families.posteriors import Posterior, inverse_softplus
from ppl_vae.guide import Guide
from ppl_vae.hmc import LogJoint
from ppl_vae.programs.traces import PLATE, Program, log_terms
from ppl_vae.refinement.guide import Latents, Masks, RefinedGuide

__all__ = ["Refinement"]

DRAWS_FOR_START = 200  # from the guide, where the refined family is another one


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
    """A block of rows to be refined."""

    model: Program
    guide: Program
    args: tuple[Tensor, ...]
    latents: Latents
    family: Any
    masks: Masks

    def program(self, raw: Tensor) -> Program:
        """The guide with these parameters for the block's rows."""

        def refined(x: Tensor, *_others: Tensor) -> Any:
            with pyro.plate(PLATE, len(x), dim=-1):
                return self.latents.sample(self.family.distribution(raw), self.masks)

        return refined

    def start(self) -> Tensor | None:
        """The guide's own parameters, if it has any in unconstrained space."""
        if isinstance(self.guide, RefinedGuide):
            return self.guide.parameters_of(*self.args)
        family = own_family(self.guide)
        if isinstance(self.guide, Guide) and family is not None and family.link is not None:
            return family.link(self.guide.features(*self.args)).squeeze(-2)
        return None

    def moments(self) -> Tensor:
        """Parameters for mean and sd of the guide's draws, which come first in every family."""
        terms = log_terms(self.model, self.guide, *self.args, num_particles=DRAWS_FOR_START)
        u = LogJoint(terms, self.model, *self.args).start
        first = torch.cat([u.mean(0), inverse_softplus(u.std(0))], dim=-1)
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
