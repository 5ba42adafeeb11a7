"""Tensors of modules replaced by others, so that a graph has them as inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["exchanged"]


@contextmanager
def exchanged(module: nn.Module, held: list[Tensor], others: list[Tensor]) -> Iterator[None]:
    """Replace tensors of the modules by others, wherever the modules hold them.

    `torch.func.functional_call` does not restore a module that is reached by two names, as a
    VampPrior's guide is.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> with exchanged(layer, [layer.weight], [torch.ones(1, 1)]):
        ...     layer(torch.full((1, 1), 3.0))
        tensor([[3.]])
    """
    new = dict(zip(map(id, held), others, strict=True))
    places: list[Any] = [
        (holder, name, old)
        for part in module.modules()
        for holder in (part._parameters, part._buffers)
        for name, old in holder.items()
        if id(old) in new
    ]
    try:
        for holder, name, old in places:
            holder[name] = new[id(old)]
        yield
    finally:
        for holder, name, old in places:
            holder[name] = old
