"""What a graph cannot hold: numbers among modules' attributes, the random streams of Python and NumPy, tensors read."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

PLAIN = (bool, int, float, str, type(None))
READ_BY = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__)


class RecordingError(RuntimeError):
    """A program cannot be recorded, or its graph not compiled; the message says why in one line.

    No paper.

    Example:
        >>> from ppl_vae.recording import recorded
        >>> def stops_early(x):
        ...     return x if x.sum() > 0 else -x
        >>> recorded(stops_early, torch.ones(2))
        Traceback (most recent call last):
        ppl_vae.recording.outside.RecordingError: its control flow depends on the data
    """


class Unread(TorchFunctionMode):
    """Raises RecordingError where a tensor's values leave torch; `.item()` and `bool()` are `make_fx`'s to refuse."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, unless it is one of those."""
        if func in READ_BY:
            raise RecordingError(f"it reads the values of a tensor, by {func.__name__}")
        return func(*args, **(kwargs or {}))


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Raise RecordingError where what runs within changes what no graph would; all of it is put back in any case."""
    python, numpy, attributes = random.getstate(), _numpy_state(), _attributes(modules)
    try:
        yield
        if random.getstate() != python:
            raise RecordingError("it draws from Python's random stream")
        if not all(map(np.array_equal, _numpy_state(), numpy)):
            raise RecordingError("it draws from NumPy's random stream")
        for (module, name), value in attributes.items():
            now = getattr(module, name, value)
            if now is not value and (isinstance(value, torch.Tensor) or now != value):
                raise RecordingError(f"a call changes {type(module).__name__}.{name}")
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for (module, name), value in attributes.items():
            setattr(module, name, value)


def _numpy_state() -> Any:
    return np.random.get_state()  # noqa: NPY002


def _attributes(modules: tuple[nn.Module, ...]) -> dict[tuple[nn.Module, str], Any]:
    """Plain values and buffers that modules keep."""
    parts = [part for module in modules for part in module.modules()]
    plain = {(part, name): value for part in parts for name, value in vars(part).items() if isinstance(value, PLAIN)}
    return plain | {(part, name): value for part in parts for name, value in part.named_buffers(recurse=False)}
