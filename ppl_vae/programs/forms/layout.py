"""Where a program has its rows and its particles, and where the library has them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Size, Tensor, broadcast_shapes, empty

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """A site's batch dims in a program, and in the library: (K, *plates, B), rows last.

    A program that takes no particle plate runs on K copies of its rows, of which row k B + b is
    copy k of row b.

    Args:
        dim: Dim of the rows in the program, negative.
        rows: Number of rows B.
        copies: Number of copies K; None where the program has an axis of particles itself, or none.
        place: Dim of the particles in the library, negative.
        rank: Number of batch dims in the program.
        index: Where the B rows are among those that the program runs on; None where they are all.
        total: Number of rows that the program runs on, if there is an index.

    Example:
        >>> layout = Layout(dim=-1, rows=2, copies=3, place=-2, rank=1)
        >>> import torch
        >>> layout.to_library(torch.arange(6)).tolist()
        [[0, 1], [2, 3], [4, 5]]
    """

    dim: int
    rows: int
    copies: int | None
    place: int
    rank: int
    index: Tensor | None = field(default=None, compare=False)
    total: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether both agree."""
        return self.dim == -1 and self.copies is None and self.index is None

    @property
    def size(self) -> int:
        """Rows in the program."""
        return self.total or self.rows * (self.copies or 1)

    def moved(self, dim: int) -> int:
        """Where the library has another plate of the program."""
        return dim - 1 if dim > self.dim else dim

    def to_library(self, values: Tensor, right: int = 0, lead: int = 0) -> Tensor:
        """Values of the program, (*lead, *batch, *right), as the library has them.

        Args:
            values: The values, of full size at the rows.
            right: Number of dims to the right of the batch.
            lead: Number of dims to the left of it.
        """
        if self.index is not None:
            values = values.index_select(self.dim - right, self.index)
        if self.copies is None:
            return values.movedim(self.dim - right, -1 - right)
        values = values.unflatten(self.dim - right, (self.copies, self.rows))
        values = values.movedim(self.dim - right, -1 - right)
        others = values.dim() - lead - right - 1
        missing = max(0, -1 - self.place - others)
        padded = values.reshape(*values.shape[:lead], *[1] * missing, *values.shape[lead:])
        return padded.movedim(self.dim - 1 - right, self.place - right)

    def to_program(self, values: Tensor, right: int = 0, others: Tensor | None = None) -> Tensor:
        """The inverse; dims of size one that the program's site does not have are left out.

        Args:
            values: The values, in the library's layout.
            right: Number of dims to the right of the batch.
            others: Values of the program, of which those of other rows are taken.
        """
        if self.copies is None:
            missing = max(0, -self.dim - values.dim() + right)
            values = values.reshape(*[1] * missing, *values.shape)
            values = values.movedim(-1 - right, self.dim - right)
            if self.index is None or others is None:
                return values
            axis = self.dim - right
            lead = broadcast_shapes(values.shape[:axis], others.shape[:axis])
            values = values.expand(*lead, *values.shape[axis:])
            return others.expand(*lead, *others.shape[axis:]).index_copy(axis, self.index, values)
        batch = values.dim() - right
        values = values.reshape(*[1] * max(0, -self.place - batch), *values.shape)
        sizes = list(values.shape)
        sizes[self.place - right] = self.copies
        sizes[-1 - right] = self.rows
        values = values.expand(sizes).movedim(self.place - right, self.dim - 1 - right)
        values = values.movedim(-1 - right, self.dim - right)
        values = values.flatten(self.dim - 1 - right, self.dim - right)
        while values.dim() - right > self.rank and values.shape[0] == 1:
            values = values[0]
        return values

    def shape_in_library(self, shape: Any) -> Size:
        """A batch shape of the program as the library has it."""
        return self.to_library(empty(()).expand(shape)).shape
