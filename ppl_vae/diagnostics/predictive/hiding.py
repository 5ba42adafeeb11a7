"""Draws of z given some entries of x while others are hidden, weighted by the mixture of the guides they come from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence.defensive import Inflated, mixture_terms, prior_guide
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.traces import Program, log_terms

Predicted = tuple[list[poutine.Trace], Tensor]
INFLATION = 1.5  # of the guide that has seen what is hidden


@dataclass
class Hiding:
    """A model that sees the entries that are not hidden, and guides that see these or all."""

    model: Program
    guide: Program
    takes_missing: bool = True
    is_normal: bool = True
    is_global: bool = False

    def look_at(self, row: Dataset, fold: Tensor) -> None:
        """Find out what the guide takes, by one row."""
        args = arguments(row.x, row.context)
        self.is_global = bool(log_terms(self.model, self.guide, *args).global_latents)
        self.takes_missing = self._runs(self.guide, self._hidden(row, fold))
        self.is_normal = self._runs(Inflated(INFLATION)(self.guide), args)

    def _runs(self, guide: Program, args: tuple[Any, ...]) -> bool:
        """Whether the guide draws with finite density."""
        try:
            return not bool(log_terms(self.model, guide, *args).log_q.isnan().any())
        except ValueError:  # Pyro's of NaN among the parameters, and that of `inflate`
            return False

    def predict(self, part: Dataset, fold: Tensor, num_particles: int) -> Predicted:
        """Traces of the model under draws of the guides, and log-weights of all of them."""
        guides = self._guides(part)[:num_particles]
        counts = [len(each) for each in np.array_split(np.arange(num_particles), len(guides))]
        proposals = zip(guides, counts, strict=True)
        terms, log_weights = mixture_terms(self.model, proposals, *self._hidden(part, fold))
        if log_weights.isnan().any():
            remedy = "the model must mask them: fn, obs = families.missing.observed_part(fn, x)"
            raise ValueError(f"log p(x, z) of a row with hidden entries is NaN: {remedy}")
        return [each.model_trace for each in terms], log_weights

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
