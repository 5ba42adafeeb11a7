"""What one gradient step costs: seconds, and memory at its peak."""

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Key = int


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that operations inside the block have made: those alive, and the most
    alive at once.

    Each storage counts once, from the operation that makes it until it is freed, in the forward
    pass and the backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._storages: dict[Key, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note the storages that it made."""
        kwargs = kwargs or {}
        given = {
            id(storage) for storage in _storages((args, kwargs))
        }  # a view, or a change in place, makes none
        made = func(*args, **kwargs)
        for storage in _storages(made):
            if id(storage) not in given and id(storage) not in self._storages:
                self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def free(_: object) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storages(values: Any) -> Iterable[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes alive at once during a step, beyond those alive before it; gradients in `.grad`
    are among them.

    On CUDA what torch's allocator counts. Elsewhere the tensors that operations make, without what
    a single operation holds inside.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveTensors() as tensors:
        step()
    return tensors.peak


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of a step, all of its work done."""
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
