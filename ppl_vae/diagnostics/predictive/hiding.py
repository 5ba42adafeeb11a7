"""Draws of z given some entries of x while others are hidden, weighted by the densities that they
come from.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.defensive import Inflated, mixture_terms, prior_guide
from ppl_vae.hmc.target import LogJoint
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import LogTerms, Program, log_terms

Predicted = tuple[list[poutine.Trace], Tensor]
INFLATION = 1.5  # of the guide that has seen what is hidden
NUM_ADAPTATIONS = 2
DEGREES_OF_FREEDOM = 5.0  # of the adapted proposal: tails heavier than a normal posterior's


@dataclass
class Hiding:
    """A model that sees the entries that are not hidden, and guides that see these or all."""

    model: Program
    guide: Program
    takes_missing: bool = True
    is_normal: bool = True
    is_global: bool = False
    can_adapt: bool = True

    def look_at(self, row: Dataset, fold: Tensor) -> None:
        """Find out what the guide takes, by one row."""
        args = arguments(row.x, row.context)
        terms = log_terms(
            self.model, self.guide, *args, num_particles=2
        )  # two, to see what depends on a latent
        self.is_global = bool(terms.global_latents)
        self.can_adapt = self._has_joint_density(terms, args)
        self.takes_missing = self._runs(self.guide, self._hidden(row, fold))
        self.is_normal = self._runs(Inflated(INFLATION)(self.guide), args)

    def _runs(self, guide: Program, args: tuple[Any, ...]) -> bool:
        """Whether the guide draws with finite density; a guide may refuse NaN in any way it
        likes.
        """
        try:
            return not bool(log_terms(self.model, guide, *args).log_q.isnan().any())
        except Exception:
            return False

    def _has_joint_density(self, terms: LogTerms, args: tuple[Any, ...]) -> bool:
        """Whether the latents are continuous, in the data plate, and on supports of their own."""
        try:
            LogJoint(terms, self.model, *args)
        except ValueError:
            return False
        return True

    def predict(self, part: Dataset, fold: Tensor, num_particles: int) -> list[Predicted]:
        """Traces of the model under draws of z, and their log-weights: by the guides, and by an
        adapted proposal.
        """
        guides = self._guides(part)[:num_particles]
        counts = [len(each) for each in np.array_split(np.arange(num_particles), len(guides))]
        args = self._hidden(part, fold)
        terms, log_weights = mixture_terms(self.model, zip(guides, counts, strict=True), *args)
        if log_weights.isnan().any():
            remedy = "the model must mask them: fn, obs = families.missing.observed_part(fn, x)"
            raise ValueError(f"log p(x, z) of a row with hidden entries is NaN: {remedy}")
        found = [([each.model_trace for each in terms], log_weights)]
        return [*found, self._adapted(terms, log_weights, args)] if self.can_adapt else found

    def _adapted(
        self, terms: list[LogTerms], log_weights: Tensor, args: tuple[Any, ...]
    ) -> Predicted:
        """As many draws of a Student distribution with the weighted moments of the draws before,
        row by row.

        References:
            Cornuet et al. (2012), Adaptive multiple importance sampling, Scand. J. Statist. 39.
        """
        log_joint = LogJoint(terms[0], self.model, *args)
        u = torch.cat([log_joint.pack(_latents(each, log_joint)) for each in terms])
        for _ in range(NUM_ADAPTATIONS):
            proposal = _student(u, log_weights)
            u = proposal.sample(log_weights.shape[:1])
            log_weights = (log_joint(u) - proposal.log_prob(u)).nan_to_num(nan=-torch.inf)
        return [log_joint.trace(log_joint.values(u))], log_weights

    def _guides(self, part: Dataset) -> list[Program]:
        """What z is drawn from; latents outside the data plate are drawn once, by one guide."""
        args = arguments(part.x, part.context)

        def given_all(*hidden: Any) -> Any:
            return self.guide(*args)

        if self.is_global:
            return [self.guide if self.takes_missing else given_all]
        wide = Inflated(INFLATION)(given_all) if self.is_normal else prior_guide(self.model)
        return [*[self.guide] * self.takes_missing, given_all, wide]

    def _hidden(self, part: Dataset, fold: Tensor) -> tuple[Any, ...]:
        return arguments(part.x.masked_fill(fold, torch.nan), part.context)


def _latents(terms: LogTerms, log_joint: LogJoint) -> dict[str, Tensor]:
    """The draws by site, rows first."""
    nodes: Any = terms.model_trace.nodes
    return {name: rows_first(nodes[name]["value"], nodes[name]) for name in log_joint.sites}


def _student(u: Tensor, log_weights: Tensor) -> Any:
    """Student distribution by row with the weighted mean and covariance of draws (K, B, D); wider
    where few count.
    """
    weights = (
        log_weights.to(u.dtype).softmax(0).nan_to_num(nan=1 / len(u))[..., None]
    )  # where none has a density
    ess = 1 / weights.square().sum(0)
    mean = (weights * u).sum(0)
    centred = u - mean
    variance = u.var(0) + torch.finfo(u.dtype).tiny
    spread = torch.diag_embed(variance * (u.shape[-1] + 1) / ess)
    covariance = torch.einsum("kbi,kbj->bij", weights * centred, centred) + spread
    scale, failed = torch.linalg.cholesky_ex(covariance)
    scale = torch.where(failed[:, None, None] > 0, torch.diag_embed(variance.sqrt()), scale)
    return dist.MultivariateStudentT(torch.full_like(mean[..., 0], DEGREES_OF_FREEDOM), mean, scale)
