"""A stack of bits, and rows on it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import DataError
from ppl_vae.runtime.checks import shown
from ppl_vae.tasks.compression.codes import Codes
from ppl_vae.tasks.compression.latents import windows

__all__ = ["Coder", "initial_words", "words_for"]

WORDS_OF_CELL = 0.75  # 24 bits: what drawing a cell takes from the stack, at most
SPARE_WORDS = 2
COMPONENTS = 1  # random stream of the masks under which they are drawn


def words_for(num_draws: int) -> int:
    """Words that hold enough bits to draw so many symbols.

    Args:
        num_draws: Number of symbols, such as the cells of z.

    Example:
        >>> words_for(8)
        8
    """
    return SPARE_WORDS + int(np.ceil(WORDS_OF_CELL * num_draws))


def initial_words(seed: int, num_words: int) -> np.ndarray:
    """Random words; the stack does not keep a last word of zero.

    Args:
        seed: Their seed.
        num_words: Their number.

    Example:
        >>> initial_words(0, 3).dtype
        dtype('uint32')
    """
    words = np.random.default_rng(seed).integers(2**32, size=num_words, dtype=np.uint32)
    words[-1] |= 1
    return words


class Coder:
    """A stack of bits that rows are pushed on and popped from, the last ones first.

    Args:
        codes: The distributions of rows.
        words: What is on the stack.
        seed: Seed of the masks.

    Example:
        See `compress`.
    """

    def __init__(self, codes: Codes, words: np.ndarray, seed: int) -> None:
        self.stream = _constriction().stream
        self.codes = codes
        self.seed = seed
        self.stack = self.stream.stack.AnsCoder(words)
        self.prior = self._normal(codes.grid.half)
        self.categorical = self.stream.model.Categorical(perfect=False)

    @property
    def num_words(self) -> int:
        """Words on the stack."""
        return self.stack.num_words()

    @property
    def words(self) -> np.ndarray:
        """The stack."""
        return self.stack.get_compressed()

    def push(self, x: Tensor, rows: slice) -> None:
        """Encode rows."""
        self._mask(rows)
        cells = self._drawn(*self.codes.posterior(x, rows))
        flat = x.flatten(1)
        for entries in self.codes.entries(self.codes.grid.values(cells), rows):
            symbols = entries.symbols_of(flat)
            known = self.codes.rounded(entries.values[symbols])
            _refuse_unknown(known, flat[:, entries.places], rows.start)
            table = entries.probabilities.flatten(0, 1).numpy()
            self.stack.encode_reverse(symbols.flatten().int().numpy(), self.categorical, table)
        self._push_z(cells, rows)

    def pop(self, rows: slice) -> Tensor:
        """Decode the rows that were pushed last, (B, entries)."""
        cells = self._pop_z(rows)
        event = self.codes.model.likelihood.event_shape
        x = torch.zeros(rows.stop - rows.start, event.numel()).double()
        for entries in reversed(self.codes.entries(self.codes.grid.values(cells), rows)):
            table = entries.probabilities.flatten(0, 1).numpy()
            symbols = torch.from_numpy(self.stack.decode(self.categorical, table)).long()
            values = self.codes.rounded(entries.values[symbols])
            x[:, entries.places] = values.reshape(len(x), -1)
        shaped = x.reshape(-1, *event)
        self._put_back(cells, *self.codes.posterior(shaped, rows))
        self._mask(rows)
        return x

    def _push_z(self, cells: np.ndarray, rows: slice) -> None:
        """Encode z under p(z).

        The component y of a mixture is drawn from p(y given z) by bits of the stack, as z is, so
        that z and y cost -log p(z given y) - log p(y) + log p(y given z) = -log p(z).
        """
        prior = self.codes.prior(rows)
        which = np.zeros(len(prior.places), np.int32)
        if prior.are_several:
            self._mask(rows, COMPONENTS)
            which = self.stack.decode(self.categorical, prior.given(cells))
        self.stack.encode_reverse(cells, self.prior, *prior.at(which))
        if prior.are_several:
            self.stack.encode_reverse(which, self.categorical, prior.shares)

    def _pop_z(self, rows: slice) -> np.ndarray:
        """What `_push_z` encoded."""
        prior = self.codes.prior(rows)
        which = np.zeros(len(prior.places), np.int32)
        if prior.are_several:
            which = self.stack.decode(self.categorical, prior.shares)
        cells = self.stack.decode(self.prior, *prior.at(which))
        if prior.are_several:
            self.stack.encode_reverse(which, self.categorical, prior.given(cells))
            self._mask(rows, COMPONENTS)
        return cells

    def _drawn(self, places: np.ndarray, sds: np.ndarray) -> np.ndarray:
        """Cells of z from q(z given x), decoded from the stack."""
        middles, halves = windows(places, sds)
        cells = middles.copy()
        for half in np.unique(halves):
            here = halves == half
            given = (places - middles)[here], sds[here]
            cells[here] += self.stack.decode(self._normal(half), *given)
        return cells

    def _put_back(self, cells: np.ndarray, places: np.ndarray, sds: np.ndarray) -> None:
        """What `_drawn` took from the stack."""
        middles, halves = windows(places, sds)
        for half in np.unique(halves)[::-1]:
            here = halves == half
            given = (places - middles)[here], sds[here]
            self.stack.encode_reverse((cells - middles)[here], self._normal(half), *given)

    def _normal(self, half: int) -> Any:
        """Normal distributions on the cells from -half to half."""
        return self.stream.model.QuantizedGaussian(-int(half), int(half))

    def _mask(self, rows: slice, *key: int) -> None:
        """Flip random bits of the words from which these rows draw symbols; twice leaves all.

        Bits that code earlier rows are uniform only if these come from the model. The last word
        stays, since it must not become zero.
        """
        words = self.words
        top = words[-words_for((rows.stop - rows.start) * self.codes.draws_per_row) : -1]
        rng = np.random.default_rng([self.seed, rows.start, *key])
        top ^= rng.integers(2**32, size=len(top), dtype=np.uint32)
        self.stack = self.stream.stack.AnsCoder(words)


def _constriction() -> Any:
    """The entropy coder, an extra."""
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "compression needs the package constriction: pip install 'ppl-vae[constriction]'"
        ) from error
    return constriction


def _refuse_unknown(known: Tensor, x: Tensor, start: int) -> None:
    """Values of x that are none of the likelihood's."""
    wrong = known != x
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        value = x[row, place]
        raise DataError(
            f"x is {shown(value)} at row {start + row}, and the likelihood gives it no probability "
            "of its own: round x to the likelihood's values"
        )
