"""Rows of a network: it sees one batch dim, and must treat each row alone."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ppl_vae.errors import TooLargeError
from ppl_vae.families.modules import at_rest
from ppl_vae.runtime.memory import memory_in_words
from ppl_vae.runtime.seeding import seeded

__all__ = ["features_of"]

ROUNDING = 1e-3  # of a network's largest output; smaller changes between rows are rounding
MIXING = (
    "mixes rows: in evaluation mode too, its output for a row changes with the rows beside it. "
    "Its inputs are (rows, ...): use no softmax, view, normalisation, or attention without "
    "batch_first=True, over rows"
)


def features_of(network: nn.Module, inputs: Tensor, num_batch_dims: int) -> Tensor:
    """A network's features of every row; the network sees one batch dim.

    Args:
        network: The network, (rows, *event) to (rows, *features).
        inputs: Its inputs, (*batch, *event).
        num_batch_dims: How many dims are batch dims.

    Returns:
        Features, (*batch, *features).

    Raises:
        ValueError: the network returns another number of rows.

    Example:
        >>> features_of(nn.Softmax(dim=1), torch.zeros(2, 3, 4), num_batch_dims=2).sum(-1).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    batch = inputs.shape[:num_batch_dims]
    num_rows = math.prod(batch)
    features = network(inputs.reshape(num_rows, *inputs.shape[num_batch_dims:]))
    if len(features) != num_rows:
        raise ValueError(
            f"{type(network).__name__} returns {len(features)} rows for {num_rows} rows of input: "
            "give a module whose first dimension counts rows"
        )
    return features.reshape(*batch, *features.shape[1:])


def example_rows(*event_shape: int) -> Tensor:
    """Two unequal rows of values between 0 and 1."""
    size = 2 * math.prod(event_shape)
    return torch.arange(1.0, size + 1).cos().square().reshape(2, *event_shape)


def read_features(network: nn.Module, examples: Tensor, name: str) -> torch.Size:
    """Shape of one row's features, from a dry run on two rows (evaluation mode, no gradient).

    Raises:
        ValueError: the network cannot read such inputs, or its output mixes rows.
        TypeError: it returns something else than a tensor.
    """
    try:
        with (
            memory_in_words(f"lower the sizes of the {name}"),
            at_rest(network),
            torch.no_grad(),
            kept_buffers(network),
            seeded(0),
        ):
            features = network(examples[:1])
            mixed = isinstance(features, Tensor) and mixes_rows(network, examples)
    except TooLargeError:
        raise
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        shape = ", ".join(map(str, examples.shape[1:]))
        raise ValueError(
            f"the {name} cannot read inputs of shape (*, {shape}): {reason}"
        ) from error
    if not isinstance(features, Tensor):
        raise TypeError(
            f"the {name} returns a {type(features).__name__}: give a module that returns one "
            "tensor, the features"
        )
    if mixed:
        raise ValueError(f"the {name} {MIXING}")
    return features.shape[1:]


def mixes_rows(function: Callable[[Tensor], Tensor], examples: Tensor) -> bool:
    """Whether rows together give other values than each alone, or than in another order."""
    with kept_streams() as rewind:

        def drawn(rows: Tensor) -> Tensor:
            rewind()
            with seeded(0):
                return function(rows)

        together = drawn(examples)
        if not agree(together, function(examples), rounding=0.0):
            return False  # a random function: there is nothing to compare
        alone = torch.cat([drawn(row) for row in examples.split(1)])
        return not (agree(together, alone) and agree(drawn(examples.flip(0)), alone.flip(0)))


@contextmanager
def kept_streams() -> Iterator[Callable[[], None]]:
    """A function that resets the random streams of Python and NumPy; called at the end too."""
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002

    def rewind() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002

    try:
        yield rewind
    finally:
        rewind()


def agree(one: Tensor, other: Tensor, rounding: float = ROUNDING) -> bool:
    """Whether two tensors are equal but for rounding."""
    if one.shape != other.shape:
        return False
    tolerance = max(rounding, 8 * torch.finfo(one.dtype).eps) if one.is_floating_point() else 0.0
    sizes = other[other.isfinite()].double().abs()
    slack = tolerance * torch.cat([sizes, sizes.new_zeros(1)]).max().item()
    return torch.allclose(one.double(), other.double(), rtol=0.0, atol=slack, equal_nan=True)


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Restore buffers afterwards: a dry run must not count as data."""
    parts = dict.fromkeys(part for module in modules for part in module.modules())
    held = [
        (part, name, buffer, buffer.clone())
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for part, name, buffer, values in held:
            part._buffers[name] = buffer.copy_(values)


def latents_in(p: Any) -> int:
    """The latent dimension D of a prior p(z), whose events are vectors (D,)."""
    if len(p.event_shape) != 1:
        raise ValueError(
            f"the prior gives a distribution of events of shape {tuple(p.event_shape)}: give one "
            "of vectors (D,), as Normal(...).to_event(1) is"
        )
    return int(p.event_shape[0])


def read_prior(prior: nn.Module, context: Tensor | None) -> int:
    """The latent dimension, from a dry run; rows of covariates must not mix."""
    with at_rest(prior), torch.no_grad(), kept_buffers(prior), seeded(0):
        p = prior(context)
        if context is not None and p.batch_shape:
            z = p.sample()[:1]
            if mixes_rows(lambda rows: prior(rows).log_prob(z), context):
                raise ValueError(f"the prior {MIXING}")
    return latents_in(p)
