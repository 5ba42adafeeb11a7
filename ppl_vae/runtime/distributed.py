"""Several processes at one job: each one's share, and how the results come together."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor

from ppl_vae.errors import WorkerError

__all__ = [
    "add_up",
    "check_share",
    "dead_workers_told",
    "from_main",
    "gathered",
    "is_main",
    "num_processes",
    "process_group",
    "rank",
]


@contextmanager
def dead_workers_told(remedy: str) -> Iterator[None]:
    """Raise WorkerError, in one line with this remedy, where a worker of joblib was killed.

    Args:
        remedy: What to do.

    Example:
        >>> with dead_workers_told("call again"):
        ...     raise BrokenExecutor("killed")
        Traceback (most recent call last):
        ppl_vae.errors.WorkerError: a worker process was killed, perhaps for want of memory: ...
    """
    try:
        yield
    except BrokenExecutor as error:
        raise WorkerError(
            f"a worker process was killed, perhaps for want of memory: {remedy}"
        ) from error


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started: NCCL with a CUDA device for each, else gloo.

    Raises:
        RuntimeError: the others cannot be reached.

    Example:
        >>> with process_group():
        ...     num_processes()
        1
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or group.is_initialized():
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    has_own_device = local < torch.cuda.device_count()
    if has_own_device:
        torch.cuda.set_device(local)
    group.init_process_group("nccl" if has_own_device else "gloo")
    try:
        yield
    finally:
        group.destroy_process_group()


def num_processes() -> int:
    """Number of processes that share the job.

    Example:
        >>> num_processes()
        1
    """
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0.

    Example:
        >>> rank()
        0
    """
    return group.get_rank() if num_processes() > 1 else 0


def is_main() -> bool:
    """Whether this process writes files and shows progress.

    Example:
        >>> is_main()
        True
    """
    return rank() == 0


def check_share(batch_size: int) -> None:
    """Refuse batches without a row for each process.

    Args:
        batch_size: Rows of a batch, in all processes together.

    Raises:
        ValueError: There are more processes than rows.

    Example:
        >>> check_share(1)
    """
    processes = num_processes()
    if batch_size < processes:
        raise ValueError(
            f"batch_size={batch_size} is shared by {processes} processes: give each at least one "
            f"row, batch_size={processes}"
        )


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over processes, in one exchange.

    Args:
        tensors: The same shapes in every process; of one dtype and device.

    Example:
        >>> ours = torch.ones(2)
        >>> add_up([ours])
        >>> ours
        tensor([1., 1.])
    """
    if num_processes() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    group.all_reduce(flat)
    totals = flat.split([tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, totals, strict=True):
        tensor.copy_(total.view_as(tensor))


def gathered(item: Any) -> list[Any]:
    """Every process's item, by rank.

    Example:
        >>> gathered("mine")
        ['mine']
    """
    items: list[Any] = [item] * num_processes()
    if num_processes() > 1:
        group.all_gather_object(items, item)
    return items


def from_main(item: Any) -> Any:
    """The item of the main process.

    Example:
        >>> from_main("mine")
        'mine'
    """
    return gathered(item)[0]
