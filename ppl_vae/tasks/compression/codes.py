"""Model and guide as distributions over symbols, the same numbers for encoder and decoder."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.families.shared import shared_latents
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.runtime.checks import instance_of
from ppl_vae.runtime.digests import digest
from ppl_vae.tasks.compression.latents import Components, Grid, components_of, normal_of
from ppl_vae.tasks.compression.symbols import Entries, Symbols

__all__ = ["Codes", "in_float64", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in an order that does not depend on the number of threads; no gradients.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def in_float64(model: Any, guide: Any) -> tuple[Model, Guide]:
    """Copies of model and guide in float64, on the CPU.

    Args:
        model: A `Model`.
        guide: A `Guide`.

    Raises:
        ValueError: They are custom programs, or have latents that rows share.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=2)
        >>> in_float64(bed.model, bed.guide)
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: model is ...; it must be a Model, as in Model(...)
    """
    instance_of(model, "model", Model)
    instance_of(guide, "guide", Guide)
    if shared_latents(model.prior) or shared_latents(guide.posterior):
        raise ValueError(
            "compression takes models without latents that rows share: use StandardNormal or "
            "LearnedNormal and MeanFieldNormal"
        )
    return copy.deepcopy(model).cpu().double(), copy.deepcopy(guide).cpu().double()


@dataclass(frozen=True)
class Codes:
    """p(z), q(z given x) and p(x given z) of rows, as the parameters of an entropy coder.

    Networks see batches of one size, padded by their first row: kernels differ by the shape of
    their input, and the decoder needs the encoder's numbers to the last bit.

    Args:
        model: The model, in float64.
        guide: The guide, in float64.
        grid: The cells of z.
        largest: Largest value of each entry of x.
        dtype: Type of x before it was converted to float64.
        batch_size: Rows that the networks see at once.
        context: Covariates of all rows, (N, C).

    Example:
        See `compress`.
    """

    model: Model
    guide: Guide
    grid: Grid
    largest: list[int]
    dtype: torch.dtype
    batch_size: int
    context: Tensor | None

    def prior(self, rows: slice) -> Components:
        """p(z), in cells."""
        prior = self.model.prior_at(self._covariates(rows))
        log_shares, *moments = components_of(prior, "the prior")
        shape = (rows.stop - rows.start, *moments[0].shape[-2:])
        mean, sd = (_cut(each, shape) for each in moments)
        return Components(log_shares.numpy(), *self.grid.in_cells(mean, sd))

    def posterior(self, x: Tensor, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds of q(z given x), in cells, flattened."""
        q = self.guide.encode(self._padded(x), self._covariates(rows))
        mean, sd = normal_of(q, "the posterior")
        places, sds = self.grid.in_cells(mean[: len(x)], sd[: len(x)])
        return places.ravel(), sds.ravel()

    def entries(self, z: Tensor, rows: slice) -> list[Entries]:
        """p(x given z), by alphabet."""
        symbols = Symbols(self.model, self.largest)
        found = symbols.given(self._padded(z), self._covariates(rows))
        return [Entries(e.places, e.values, e.probabilities[: len(z)]) for e in found]

    def rounded(self, values: Tensor) -> Tensor:
        """Values of x as they are after a conversion to its type and back."""
        return values.to(self.dtype).double()

    def probe(self) -> str:
        """Digest of outputs for made-up rows, which differs where machines round differently."""
        noise = np.random.default_rng(0).normal(size=(self.batch_size, len(self.grid.steps)))
        z = torch.from_numpy(noise)
        num_rows = self.batch_size if self.context is None else len(self.context)
        rows = slice(0, min(self.batch_size, num_rows))
        x = torch.zeros(len(z), self.model.likelihood.event_shape.numel()).double()
        found = self.entries(z, rows)
        for each in found:
            x[:, each.places] = each.values[each.probabilities.argmax(-1)]
        x = x.reshape(len(z), *self.model.likelihood.event_shape)
        places, sds = self.posterior(x, rows)
        outputs = [places, sds]
        prior = self.prior(rows)
        if prior.are_several:
            outputs.append(prior.given(places[: prior.places[:, 0].size]))
        tensors = [torch.from_numpy(each) for each in outputs]
        return digest([*(each.probabilities for each in found), *tensors])

    @cached_property
    def draws_per_row(self) -> int:
        """Symbols that a row draws from the stack: its z, and the component of a mixture."""
        return len(self.grid.steps) + self.prior(slice(0, 1)).are_several

    def _padded(self, values: Tensor) -> Tensor:
        missing = self.batch_size - len(values)
        return torch.cat([values, values[:1].expand(missing, *values.shape[1:])])

    def _covariates(self, rows: slice) -> Tensor | None:
        return None if self.context is None else self._padded(self.context[rows])


def _cut(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows of a batch, or as many copies of what all rows share."""
    return values[: shape[0]] if values.dim() == len(shape) else values.expand(shape)
