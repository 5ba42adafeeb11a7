"""Rows that are found again by their values."""

from torch import Tensor, cat, device, tensor

from ppl_vae.runtime.digests import row_digests

__all__ = ["RowKeys"]


class RowKeys:
    """Positions of rows among known ones, by all their values.

    Args:
        args: The known rows: tensors (N, ...).

    Example:
        >>> keys = RowKeys(tensor([[0.0], [1.0], [1.0]]))
        >>> rows = tensor([[1.0], [0.0], [1.0], [2.0]])
        >>> keys.positions(rows).tolist(), keys.first(rows).tolist()
        ([1, 0, 2, -1], [1, 0, 1, -1])
    """

    def __init__(self, *args: Tensor) -> None:
        self.places: dict[bytes, list[int]] = {}
        for row, key in enumerate(_digests(args)):
            self.places.setdefault(key, []).append(row)

    def positions(self, *args: Tensor, on: device | None = None) -> Tensor:
        """Where these rows are, (B,), -1 for others; the n-th of equal rows is the n-th known one.

        Args:
            args: Rows in the same tensors.
            on: Device of the result.
        """
        seen: dict[bytes, int] = {}
        found = []
        for key in _digests(args):
            places = self.places.get(key, [-1])
            count = seen.get(key, 0)
            seen[key] = count + 1
            found.append(places[count % len(places)])
        return tensor(found, device=on)

    def first(self, *args: Tensor, on: device | None = None) -> Tensor:
        """Where these rows are, (B,), -1 for others; equal rows are the first of the known ones.

        A row's position is then the same whichever rows it is looked up with.

        Args:
            args: Rows in the same tensors.
            on: Device of the result.
        """
        return tensor([self.places.get(key, [-1])[0] for key in _digests(args)], device=on)


def _digests(args: tuple[Tensor, ...]) -> list[bytes]:
    """A digest of each row's values, in the type of the first tensor."""
    parts = [part.reshape(len(part), -1).to(args[0]) for part in args]
    return row_digests(cat(parts, dim=1), 16)
