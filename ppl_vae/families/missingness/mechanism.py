"""Missingness models: a distribution of the mask m, 1 where an entry of x is missing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families.densities import LogitBernoulli
from ppl_vae.families.entries import blocks_of
from ppl_vae.families.missingness.entries import side_by_side, summed
from ppl_vae.families.missingness.marks import IS_COMPLETED, IS_MASK, marked
from ppl_vae.families.part import Part


class Missingness(Part, nn.Module, ABC):
    """p(m given x) = prod_j Bernoulli(m_j; sigmoid(l_j(x_j))); a mechanism implements `logits`.

    Only columns with `takes_part` have a mask with a density; that of others is ignored.
    """

    takes_part: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()

    def build(self, p: Any, names: Sequence[str] = ()) -> None:
        """Make the parameters for the columns of such a p(x given z); `Model` calls it.

        Raises:
            ValueError: x is no vector, or its entries depend on each other given z.
        """
        kind = type(self).__name__
        if self.names:
            raise ValueError(f"this {kind} is already in a Model: make another one")
        if len(p.event_shape) != 1 or any(block.event_shape for block, _ in blocks_of(p)):
            raise ValueError(
                f"{kind} is for tables with columns that are independent given z: use "
                "likelihoods.Columns, or a likelihood of independent elements of a vector"
            )
        size = p.event_shape[0]
        self.names = tuple(names) or tuple(map(str, range(size)))
        self.register_buffer("takes_part", torch.ones(size, dtype=torch.bool))

    @abstractmethod
    def start_at(self, x: Tensor) -> None:
        """Start from these rows, (N, J), NaN where an entry is missing."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """logit p(m_j = 1 given x_j) of each entry of complete rows, (*batch, J)."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns whose mask has a density."""
        return [self.names[place] for place in self.takes_part.nonzero().flatten().tolist()]

    def forward(self, x: Tensor) -> dist.Independent:
        """p(m given x), x complete."""
        return self._mask_of(self.logits(x))

    def hide(self, x: Tensor) -> Tensor:
        """Complete rows with NaN where the mask, drawn at site "m", hides an entry."""
        mask = pyro.sample("m", self(x), infer=marked(IS_MASK))
        return x.masked_fill(mask.bool() & self.takes_part, torch.nan)

    def observe(self, p: Any, x: Tensor, drawn: Tensor | None = None) -> None:
        """Observe, at site "m", which entries of x are missing; those of complete rows if given."""
        if drawn is None:
            mask, completed = self.given_observed(p, x)
            _record("x_completed", completed, IS_COMPLETED)
        else:
            mask = self(drawn)
        pyro.sample("m", mask, obs=x.isnan().to(x.dtype), infer=marked(IS_MASK))

    def given_observed(self, p: Any, x: Tensor) -> tuple[dist.Independent, Tensor]:
        """p(m given x_obs, x_mis) with x_mis drawn from p(x given z), and the completed rows.

        Missing entries with few values are summed over, and are drawn given that they are missing:
        so the completed rows are draws from p(x_mis given x_obs, m) under the weights of the
        particles in either case.

        Args:
            p: p(x given z), of K particles of each row.
            x: The rows, (B, J), NaN where an entry is missing.
        """
        missing = x.isnan()
        blocks = list(blocks_of(p))
        parts = [self._drawn_or_summed(block, columns) for block, columns in blocks]
        places = [columns for _, columns in blocks]
        log_odds, values, is_summed = (
            side_by_side(each, places) for each in zip(*parts, strict=True)
        )
        completed = torch.where(missing, values, x)
        logits = torch.where(missing & is_summed, log_odds, self.logits(completed))
        return self._mask_of(logits), completed

    def _drawn_or_summed(self, block: Any, columns: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds of m = 1 where they are a sum, draws of x, and whether they are a sum."""
        if not block.has_enumerate_support:
            values = block.rsample() if block.has_rsample else block.sample()
            return torch.zeros_like(values), values, torch.zeros_like(values, dtype=torch.bool)
        log_odds, values = summed(block, lambda x: self._logits_at(x)[..., columns])
        return log_odds, values, torch.ones_like(values, dtype=torch.bool)

    def _logits_at(self, values: Tensor) -> Tensor:
        """The logits where every entry has this value, (S, ..., 1) -> (S, ..., J)."""
        rows = values.expand(*values.shape[:-1], len(self.takes_part))
        return torch.where(self.takes_part, self.logits(rows), 0.0)

    def _mask_of(self, logits: Tensor) -> dist.Independent:
        """The distribution of the mask."""
        return LogitBernoulli(logits=logits).mask(self.takes_part).to_event(1)


def _record(name: str, value: Tensor, mark: str) -> None:
    """`pyro.deterministic` with a mark, which that function has no argument for."""
    recorded = dist.Delta(value, event_dim=1).mask(False)
    pyro.sample(name, recorded, obs=value, infer=marked("_deterministic", mark))
