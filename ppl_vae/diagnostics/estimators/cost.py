"""The cost of one gradient step: seconds, and peak memory."""

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors made by operations inside the block: alive now, and at the peak.

    Each storage counts once, from the operation that makes it until it is freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count the storages that it made, not those that it was given."""
        kwargs = kwargs or {}
        given = _storages((args, kwargs))
        made = func(*args, **kwargs)
        for key, storage in _storages(made).items():
            if key not in given and key not in self._storages:
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


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {id(storage): storage for storage in storages}


def peak_memory(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes alive at once during a step, beyond those before it; `.grad` is included.

    On CUDA they are counted by torch's allocator. Elsewhere they are the tensors that operations
    make, without the memory inside a single operation.
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
    """Wall-clock seconds of a complete step."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start
