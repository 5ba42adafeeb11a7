"""State that a graph cannot hold: attributes, other random streams, tensors read."""

import copy
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["RecordingError", "unchanged"]

PLAIN = (bool, int, float, str, type(None))
READ_BY = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__)


class RecordingError(RuntimeError):
    """A program cannot be recorded, or its graph not compiled; the message says why in one line.

    Example:
        >>> from ppl_vae.runtime.recording import recorded
        >>> def stops_early(x):
        ...     return x if x.sum() > 0 else -x
        >>> recorded(stops_early, torch.ones(2))
        Traceback (most recent call last):
        ppl_vae.runtime.recording.outside.RecordingError: its control flow depends on the data
    """


class Unread(TorchFunctionMode):
    """Raises RecordingError where a tensor's values leave torch; `make_fx` refuses `.item()`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, unless it is one of those."""
        if func in READ_BY:
            raise RecordingError(f"it reads the values of a tensor, by {func.__name__}")
        return func(*args, **(kwargs or {}))


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Raise RecordingError where a call changes state outside its graph; the state is restored.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with unchanged(layer):
        ...     layer.training = False
        Traceback (most recent call last):
        ppl_vae.runtime.recording.outside.RecordingError: a call changes Linear.training
    """
    parts = [part for module in modules for part in module.modules()]
    python = random.getstate()
    numpy = _numpy_state()
    attributes = _attributes(parts)
    contents = [
        Held(f"{type(part).__name__}.{name}", value)
        for part in parts
        for name, value in vars(part).items()
        if _can_change(value)
    ]
    try:
        yield
        if random.getstate() != python:
            raise RecordingError("it draws from Python's random stream")
        if not all(map(np.array_equal, _numpy_state(), numpy)):
            raise RecordingError("it draws from NumPy's random stream")
        for (part, name), value in attributes.items():
            now = getattr(part, name, value)
            if now is not value and (isinstance(value, torch.Tensor) or now != value):
                raise RecordingError(f"a call changes {type(part).__name__}.{name}")
        for held in contents:
            if held.has_changed():
                raise RecordingError(f"a call changes what {held.name} holds")
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for (part, name), value in attributes.items():
            setattr(part, name, value)
        for held in contents:
            held.put_back()


def _numpy_state() -> Any:
    return np.random.get_state()  # noqa: NPY002


class Held:
    """Mutable content of a module: a tensor, a random stream, a container of plain values."""

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value
        self.before = _content(value)

    def has_changed(self) -> bool:
        """Whether its contents differ from before."""
        now = _content(self.value)
        is_same = torch.equal if isinstance(now, torch.Tensor) else operator.eq
        return not is_same(now, self.before)

    def put_back(self) -> None:
        """Restore the contents."""
        if not self.has_changed():
            return
        if isinstance(self.value, torch.Generator):
            self.value.set_state(self.before)
        elif isinstance(self.value, torch.Tensor):
            self.value.detach().copy_(self.before)
        elif isinstance(self.value, list):
            self.value[:] = self.before
        else:
            self.value.clear()
            self.value.update(self.before)


def _content(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.detach().clone() if isinstance(value, torch.Tensor) else copy.copy(value)


def _can_change(value: Any) -> bool:
    """Whether a value besides parameters and buffers, inputs of a graph, can change in place."""
    if isinstance(value, (list, set, dict)):
        held = value.values() if isinstance(value, dict) else value
        return all(isinstance(element, PLAIN) for element in held)
    return isinstance(value, (torch.Tensor, torch.Generator))


def _attributes(parts: list[nn.Module]) -> dict[tuple[nn.Module, str], Any]:
    """Plain values, tensors and buffers of modules."""
    return {
        (part, name): value
        for part in parts
        for name, value in [*vars(part).items(), *part.named_buffers(recurse=False)]
        if isinstance(value, (*PLAIN, torch.Tensor))
    }
