"""Discrete x as symbols: their numbers, and their probabilities given z."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.families.entries import blocks_of
from ppl_vae.model import Model

__all__ = ["Entries", "Symbols"]

MOST_VALUES = 2**16  # of an entry, whose probabilities are held at once


@dataclass(frozen=True)
class Entries:
    """Entries of x with equal alphabets.

    Args:
        places: Their numbers in a row that is flattened.
        values: The values of x by symbol, (S,).
        probabilities: Of each symbol of each entry, (B, entries, S).

    Example:
        >>> entries = Entries([0], torch.tensor([0.0, 0.5, 1.0]), torch.ones(2, 1, 3) / 3)
        >>> entries.symbols_of(torch.tensor([[0.5], [1.0]])).flatten()
        tensor([1, 2])
    """

    places: list[int]
    values: Tensor
    probabilities: Tensor

    def symbols_of(self, x: Tensor) -> Tensor:
        """The symbols of rows x, (B, event), in these entries, (B, entries)."""
        found = x[:, self.places]
        right = torch.searchsorted(self.values, found).clamp(1, max(1, len(self.values) - 1))
        left = right - 1
        nearer = (found - self.values[left]).abs() <= (self.values[right] - found).abs()
        return torch.where(nearer, left, right)


@dataclass(frozen=True)
class Symbols:
    """The entries of x as independent symbols given z.

    Args:
        model: A `Model` whose likelihood is discrete, in float64.
        largest: Largest value of each entry of a row, where counts have no upper end.

    Raises:
        ValueError: x has a density, or its entries depend on each other given z.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> model = Model(priors.StandardNormal(1), likelihoods.Bernoulli(3)).double()
        >>> (entries,) = Symbols(model, []).given(torch.zeros(1, 1).double())
        >>> entries.values, entries.probabilities.shape
        (tensor([0., 1.], dtype=torch.float64), torch.Size([1, 3, 2]))
    """

    model: Model
    largest: Sequence[int]

    def given(self, z: Tensor, context: Tensor | None = None) -> Iterator[Entries]:
        """The entries of rows with these z, (B, D), by alphabet."""
        for part, places in blocks_of(self.model.decode(z, context)):
            if part.event_shape:
                raise ValueError(
                    f"{type(self.model.likelihood).__name__}: the entries of a row depend on each "
                    "other given z; compression takes likelihoods with independent entries"
                )
            values = self._values(part, places).to(z)
            log_p = part.log_prob(values.reshape(-1, *[1] * len(part.batch_shape)))
            log_p = log_p.reshape(len(values), len(z), -1).movedim(0, -1)
            yield Entries(places, values, log_p.softmax(-1))

    def _values(self, part: Any, places: list[int]) -> Tensor:
        """The values that entries may have, in increasing order."""
        if part.has_enumerate_support:
            return part.enumerate_support(expand=False).flatten()
        largest = max(self.largest[place] for place in places)
        if largest >= MOST_VALUES:
            raise ValueError(
                f"x has a count of {largest:,}, and compression takes counts below "
                f"{MOST_VALUES:,}, each of which gets a probability: leave such rows out"
            )
        return torch.arange(largest + 1)
