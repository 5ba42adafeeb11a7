"""Weighted draws of z given some entries of x, with the others hidden."""

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.evidence.defensive import Inflated, mixture_terms, prior_guide
from ppl_vae.hmc.target import LogJoint
from ppl_vae.programs.discrete.given_x import trace_at_all_latents
from ppl_vae.programs.inference import Block
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import LogTerms, Program, log_terms
from ppl_vae.runtime.checks import one_line

__all__ = ["Hiding"]

Predicted = tuple[list[poutine.Trace], Tensor]
INFLATION = 1.5  # of the guide that is given all of x
NUM_ADAPTATIONS = 2
DEGREES_OF_FREEDOM = 5.0  # of the adapted proposal: tails heavier than a normal posterior's


class Hiding:
    """A model given the entries that are not hidden, and guides given these entries or all.

    A run on one row shows which of them the guide accepts.

    Args:
        model: The model, whose entries are independent given z.
        guide: The guide.
        row: A row, inside `evaluating()`.
        fold: The entries of it that are hidden, (*event,).

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.programs.inference import Inference
        >>> bed = beds.linear_gaussian(num_data=2)
        >>> block = Inference(bed.model, bed.guide, bed.x).block(slice(0, 2), seed=0)
        >>> fold = torch.arange(5) == 0
        >>> with block.evaluating():
        ...     hiding = Hiding(bed.model, bed.guide, block, fold)
        ...     traces, log_weights = hiding.predict(block, fold, num_particles=30)[0]
        >>> log_weights.shape
        torch.Size([30, 2])
    """

    def __init__(self, model: Program, guide: Program, row: Block, fold: Tensor) -> None:
        self.model = model
        self.guide = guide
        # Two particles show what depends on a latent.
        terms = log_terms(model, guide, *row.args, num_particles=2)
        self.has_global = bool(terms.global_latents)
        self.lacks_marked = bool(terms.summed)
        self.takes_missing = self._runs(guide, _hidden(row, fold))
        self.is_normal = self._runs(Inflated(INFLATION)(guide), row.args)
        try:
            # Where discrete latents are summed out of the weights, draws of x need them drawn.
            self.can_adapt = not LogJoint(terms, model, *row.args).has_sums
        except ValueError:  # latents are discrete, global, or of a support that depends on others
            self.can_adapt = False

    def _runs(self, guide: Program, args: tuple[Any, ...]) -> bool:
        """Whether the guide has a finite density; a guide may refuse NaN by any error."""
        try:
            return not bool(log_terms(self.model, guide, *args).log_q.isnan().any())
        except Exception:
            return False

    def predict(self, block: Block, fold: Tensor, num_particles: int) -> list[Predicted]:
        """Traces of the model and log-weights: by the guides, and by an adapted proposal."""
        guides = self._guides(block)[:num_particles]
        counts = [len(each) for each in np.array_split(np.arange(num_particles), len(guides))]
        args = _hidden(block, fold)
        remedy = "the model must mask them: fn, obs = families.missing.observed_part(fn, x)"
        try:
            terms, log_weights = mixture_terms(self.model, zip(guides, counts, strict=True), *args)
        except (IndexError, RuntimeError, ValueError) as error:  # without NaN it ran
            raise ValueError(
                f"the model cannot evaluate a row with hidden entries, which are NaN "
                f"({one_line(error)}): {remedy}; where entries have one joint density, as in a "
                "hidden Markov model, use marginal_pit or predictive_check"
            ) from error
        if log_weights.isnan().any():
            raise ValueError(f"log p(x, z) of a row with hidden entries is NaN: {remedy}")
        found = [([trace_at_all_latents(each, self.model, *args) for each in terms], log_weights)]
        return [*found, self._adapted(terms, log_weights, args)] if self.can_adapt else found

    def _adapted(
        self, terms: list[LogTerms], log_weights: Tensor, args: tuple[Any, ...]
    ) -> Predicted:
        """As many draws of a Student distribution with the weighted moments of earlier draws.

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

    def _guides(self, block: Block) -> list[Program]:
        """The proposals of z; a single one if latents outside the data plate are drawn once."""

        def given_all(*hidden: Any) -> Any:
            return self.guide(*block.args)

        if self.has_global:
            return [self.guide if self.takes_missing else given_all]
        wide = Inflated(INFLATION)(given_all) if self.is_normal else self._prior()
        return [*[self.guide] * self.takes_missing, given_all, wide]

    def _prior(self) -> Program:
        """The prior, without the latents that the guide lacks."""
        return prior_guide(self.model, hides_marked=self.lacks_marked)


def _hidden(block: Block, fold: Tensor) -> tuple[Any, ...]:
    return arguments(block.data, x=block.data.x.masked_fill(fold, torch.nan))


def _latents(terms: LogTerms, log_joint: LogJoint) -> dict[str, Tensor]:
    """The draws by site, rows first."""
    nodes: Any = terms.model_trace.nodes
    return {name: rows_first(nodes[name]["value"], nodes[name]) for name in log_joint.sites}


def _student(u: Tensor, log_weights: Tensor) -> Any:
    """Student distribution with the weighted moments of draws (K, B, D); wider at a small ESS."""
    weights = log_weights.to(u.dtype).softmax(0)
    # Equal weights where no draw has a density.
    weights = weights.nan_to_num(nan=1 / len(u))[..., None]
    ess = 1 / weights.square().sum(0)
    mean = (weights * u).sum(0)
    centred = u - mean
    variance = u.var(0) + torch.finfo(u.dtype).tiny
    spread = torch.diag_embed(variance * (u.shape[-1] + 1) / ess)
    covariance = torch.einsum("kbi,kbj->bij", weights * centred, centred) + spread
    scale, failed = torch.linalg.cholesky_ex(covariance)
    scale = torch.where(failed[:, None, None] > 0, torch.diag_embed(variance.sqrt()), scale)
    return dist.MultivariateStudentT(torch.full_like(mean[..., 0], DEGREES_OF_FREEDOM), mean, scale)
