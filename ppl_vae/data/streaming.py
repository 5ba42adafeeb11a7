"""Rows that stay in their file until a batch needs them: memory-mapped .npy and zarr."""

import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import Table, check_floating, event_dims, row_at, tensor
from ppl_vae.data.binarize import Binarize, bernoulli, thresholded, uniforms
from ppl_vae.data.validation import refuse
from ppl_vae.errors import InFileError
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["Rows", "ahead", "blocks", "in_turn", "taken"]

VALUES_PER_BLOCK = 1_000_000
LARGEST_PAGE = 2**21  # bytes, of a memory map
PAGES_HELD = 16  # 32 MB at most


@dataclass(frozen=True, eq=False)
class Rows:
    """The tensor x (N, *event) of rows that stay in a file; an index reads rows as a tensor.

    Rows are checked as they are read. Bytes are moved to the device as bytes, and converted, scaled
    and binarised there. The values are those of the same data in memory, except for drawn bits,
    which are a function of seed and row. `Rows` is not a tensor: it has no `x.isnan()` or
    `x.mean(0)`.

    Args:
        source: A `numpy.memmap` or zarr array, (all rows, ...).
        rows: Row numbers in the file, in order, (N,).
        event_shape: Shape of one observation.
        computed: Floating type for scaling and binarisation.
        dtype: Floating type of the result.
        scale: Divisor of the values.
        binarize: As in `Dataset`.
        seed: Seed of drawn bits.
        device: Device of the result.

    Shape:
        (N, *event)

    Raises:
        InFileError: The rows are used as a tensor; it is an AttributeError too.
        OSError: The file of a zarr array is missing or damaged; a chunk that was never written has
            the fill value.
        ValueError: A row that is read has an infinite value, or one outside [0, 1] with `binarize`;
            the place is named.

    Example:
        >>> import tempfile
        >>> np.save(tempfile.gettempdir() + "/rows.npy", np.arange(6, dtype=np.uint8).reshape(3, 2))
        >>> source = np.load(tempfile.gettempdir() + "/rows.npy", mmap_mode="r")
        >>> x = Rows(source, np.arange(3), torch.Size([2]))
        >>> x.shape, x[[2, 0]].tolist()
        (torch.Size([3, 2]), [[4.0, 5.0], [0.0, 1.0]])
        >>> x.isnan()
        Traceback (most recent call last):
        ppl_vae.errors.InFileError: x is in a file and has no 'isnan': read rows of it first, \
data[:1000]
    """

    source: Any
    rows: np.ndarray
    event_shape: torch.Size
    computed: torch.dtype = torch.float32
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    binarize: Binarize | None = None
    seed: int = 0
    device: torch.device = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        """(N, *event)."""
        return torch.Size([len(self), *self.event_shape])

    @property
    def may_miss(self) -> bool:
        """Whether NaN can occur, which it cannot in whole numbers."""
        return self.source.dtype.kind == "f"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        chosen = self.rows[index.cpu().numpy() if isinstance(index, Tensor) else index]
        rows = np.atleast_1d(chosen)
        order = rows.argsort()  # a disk reads forwards
        numbers = _read(self.source, rows[order])[order.argsort()]
        values = self._values(numbers.reshape(len(rows), *self.event_shape), rows)
        return values if chosen.ndim else values[0]

    def index_select(self, dim: int, index: Tensor) -> "Rows":
        """Some of the rows, still in the file."""
        return replace(self, rows=self.rows[index.cpu().numpy()])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Rows":
        """The same for another device or floating type."""
        return replace(self, device=torch.device(device or self.device), dtype=dtype or self.dtype)

    def flatten(self, start_dim: int) -> "Rows":
        """The same with one-dimensional events."""
        return replace(self, event_shape=torch.Size([self.event_shape.numel()]))

    def redrawn(self, generator: torch.Generator) -> "Rows":
        """The same with other bits."""
        return replace(self, seed=int(torch.randint(2**62, (), generator=generator)))

    def __getattr__(self, name: str) -> NoReturn:
        raise InFileError(f"x is in a file and has no {name!r}: read rows of it first, data[:1000]")

    def _values(self, numbers: np.ndarray, rows: np.ndarray) -> Tensor:
        """The numbers of these rows of the file as values of x."""
        if numbers.itemsize == 1:
            values = torch.from_numpy(numbers)
        else:
            values = tensor(numbers, self.computed, "x")
        self._check(values, rows)
        if self.device.type == "cuda":
            values = values.pin_memory()
        x = values.to(self.device, non_blocking=True).to(self.computed).div_(self.scale)
        if self.binarize == "threshold":
            x = thresholded(x)
        elif self.binarize is not None:
            places = torch.from_numpy(rows).to(x.device)
            uniform = uniforms(derived_seed(self.seed), places, self.event_shape.numel())
            x = bernoulli(x, uniform.view_as(x))
        return x.to(self.dtype)

    def _check(self, values: Tensor, rows: np.ndarray) -> None:
        names = np.arange(self.event_shape[0])
        at: Any = {"where": lambda row: row_at(int(rows[row]))}
        if values.is_floating_point():
            refuse(values.isinf(), values, names, INFINITE, **at)
        if self.binarize is not None:
            refuse((values < 0) | (values > self.scale), values / self.scale, names, GREY, **at)


INFINITE = "x takes finite numbers, and NaN for missing"
GREY = "binarize takes grey values in [0, 1]; divide by the largest (scale=255 for bytes)"


def in_file(source: Any) -> bool:
    """Whether this is a memory map, a zarr array (zarr is not imported), or `Rows` of one."""
    if isinstance(source, np.memmap):
        return source.mode is not None  # None: a copy in memory
    return isinstance(source, Rows) or (hasattr(source, "oindex") and hasattr(source, "chunks"))


def table_in_file(source: Any, dtype: torch.dtype, scale: float) -> Table:
    """The rows of a file with the names of their dims; a vector becomes (N, 1).

    Raises:
        TypeError: The file contains something other than real numbers.
        ValueError: There are no rows or no features.
    """
    check_floating(dtype)
    if isinstance(source, Rows):
        return _table(replace(source, dtype=dtype, scale=source.scale * scale))
    if source.dtype.kind not in "biuf":
        raise TypeError(f"x holds {source.dtype}: real numbers needed")
    if not source.ndim or not source.size:
        raise ValueError(
            f"x of shape {tuple(source.shape)} is empty: at least one row and feature needed"
        )
    places = np.arange(source.shape[0]), torch.Size(source.shape[1:] or (1,))
    return _table(Rows(source, *places, computed=dtype, dtype=dtype, scale=scale))


def _table(rows: Any) -> Table:
    return Table(rows, ("datum", *event_dims(len(rows.event_shape))), {})


def blocks(x: Tensor) -> Iterator[Tensor]:
    """x as one block, or `Rows` in blocks of about a million values.

    Args:
        x: The x of a `Dataset`.

    Example:
        >>> len(list(blocks(torch.zeros(10, 2))))
        1
    """
    if not isinstance(x, Rows):
        yield x
        return
    size = max(1, VALUES_PER_BLOCK // x.event_shape.numel())
    starts = range(0, len(x), size)
    yield from ahead(x.__getitem__, (slice(start, start + size) for start in starts))


def ahead[Item, Found](read: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """`read` of each item in turn, with the next one read in a thread while this one is used.

    A thread is enough, because reading and torch's operations release Python's lock.

    Args:
        read: Function of an item.
        items: The items.

    Example:
        >>> list(ahead(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = None
        for item in items:
            ready, coming = coming, reader.submit(read, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def taken(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows], for tensors by the faster of torch's two ways, which copies whole rows.

    Args:
        x: A tensor, `Rows`, or the result of `in_turn`.
        rows: Row numbers.

    Example:
        >>> taken(torch.eye(3), torch.tensor([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return x.index_select(0, rows.to(x.device)) if isinstance(x, Tensor) else x[rows]


def in_turn(x: Tensor, batches: Iterable[Tensor]) -> Tensor:
    """x for these batches in this order: the next batch of `Rows` is read while one is used.

    Args:
        x: The x of a `Dataset`.
        batches: Row numbers.

    Example:
        >>> x, batches = torch.eye(4), torch.arange(4).split(2)
        >>> in_turn(x, batches) is x
        True
    """
    announced: Any = _InTurn(x, batches)
    return announced if isinstance(x, Rows) else x


class _InTurn:
    def __init__(self, x: Tensor, batches: Iterable[Tensor]) -> None:
        self.coming = ahead(lambda rows: (rows, x[rows]), batches)

    def __getitem__(self, rows: Tensor) -> Tensor:
        announced, found = next(self.coming)
        if announced is not rows:
            raise IndexError("batches are read ahead in the order given; this is another batch")
        return found


def _read(source: Any, rows: np.ndarray) -> np.ndarray:
    """These rows of a file, sorted, as a copy."""
    if not isinstance(source, np.memmap):
        return _read_zarr(source, rows)
    found = np.empty((len(rows), *source.shape[1:]), source.dtype)
    # In pieces that touch few pages: a row may bring in a whole one.
    pages = rows * source.strides[0] // LARGEST_PAGE
    firsts = np.flatnonzero(np.diff(pages, prepend=pages[:1] - 1))
    for piece in np.split(np.arange(len(rows)), firsts[PAGES_HELD::PAGES_HELD]):
        found[piece] = source[rows[piece]]
        if source.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            held: Any = source._mmap  # type: ignore[attr-defined]
            held.madvise(mmap.MADV_DONTNEED)  # leave read pages to the file cache
    return found


def _read_zarr(source: Any, rows: np.ndarray) -> np.ndarray:
    """These rows of a zarr array; from a deleted array zarr would read fill values."""
    import zarr

    try:
        found = np.asarray(source.oindex[rows])
        zarr.open_array(source.store_path, mode="r", zarr_format=source.metadata.zarr_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source.store_path}: the array is missing: restore it") from error
    except Exception as error:
        for row in rows if len(rows) > 1 else ():
            _read_zarr(source, np.array([row]))  # so that the row is named
        why = f"{type(error).__name__}: {one_line(error)}"
        raise OSError(
            f"{source.store_path}: row {rows[0]} cannot be read, nor the rest of its chunk "
            f"({why}): write it again"
        ) from error
    return found
