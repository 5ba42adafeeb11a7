"""Parameters for each row: rows found again by their values, and entries read by position."""

from hashlib import sha256
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, cat, device, tensor, uint8

from ppl_vae.programs.modules import modules_of
from ppl_vae.programs.particles import Program, run
from ppl_vae.programs.sites import is_deterministic, sample_sites
from ppl_vae.runtime.digests import row_digests

__all__ = ["ByPosition", "RowKeys", "read_by_position"]

MOST_ROWS = 4


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

    @property
    def digest(self) -> Tensor:
        """A digest of all rows in their order, 32 bytes."""
        at = {row: key for key, rows in self.places.items() for row in rows}
        whole = sha256(b"".join(at[row] for row in range(len(at))))
        return tensor(list(whole.digest()), dtype=uint8)

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


class ByPosition(NamedTuple):
    """A parameter with an entry for each row, read by the row's position.

    Args:
        name: Its name.
        size: Number of its entries.
        num_rows: Number of rows, of which each has an entry.

    Example:
        >>> ByPosition("e", 9, 9).name
        'e'
    """

    name: str
    size: int
    num_rows: int

    def require_all(self, num_rows: int) -> None:
        """Raise ValueError where a model's rows would take the entries of others."""
        if num_rows not in (0, self.num_rows):
            raise ValueError(
                f"the model reads parameter {self.name!r} of {self.size} entries by the position "
                f"of a row, so that it takes all {self.num_rows} rows at once, and is given "
                f"{num_rows}: set batch_size={self.num_rows}, and chunk_size of at least "
                "particles times rows, or give each row its number in Dataset(x, args={...}) and "
                "index the parameter by that"
            )


def read_by_position(
    program: Program, args: tuple[Tensor, ...], guide: Program | None = None
) -> ByPosition | None:
    """The parameter that a program reads by the position of a row, or None.

    The last n rows, alone, then have the gradients of entries 0, ..., n - 1 and of no others. This
    is looked at for two n, so that a parameter that the rows index by their values, or that all of
    them share, is not taken for one.

    Args:
        program: Any Pyro program.
        args: Its arguments, of all rows.
        guide: The guide, where the program is the model.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> e = torch.zeros(9, requires_grad=True)
        >>> def guide(x):
        ...     loc = pyro.param("e", e)
        ...     with pyro.plate("n", len(x)) as i:
        ...         pyro.sample("z", dist.Normal(loc[i], 1.0))
        >>> read_by_position(guide, (torch.zeros(9),))
        ByPosition(name='e', size=9, num_rows=9)
    """
    num_rows = len(args[0])
    most = min(MOST_ROWS, num_rows // 2)
    if most < 2:
        return None
    found = [_first_entries(program, args, guide, count) for count in (most, most - 1)]
    common = {name: size for name, size in found[0].items() if name in found[1]}
    return next((ByPosition(name, size, num_rows) for name, size in common.items()), None)


def _first_entries(
    program: Program, args: tuple[Tensor, ...], guide: Program | None, count: int
) -> dict[str, int]:
    """Sizes of the parameters of which the last `count` rows read as many first entries."""
    rows = tuple(each[len(each) - count :] for each in args)
    with torch.enable_grad():
        try:
            with torch.no_grad():
                drawn = None if guide is None else run(guide, *rows)
            trace = run(program if drawn is None else poutine.replay(program, drawn), *rows)
            total = _total(trace)
        except Exception:  # it does not take some rows without the others, or has no density there
            return {}
        candidates = {
            name: value
            for name, value in _parameters(program, trace).items()
            if value.dim() and len(value) >= len(args[0]) and value.requires_grad
        }
        if not candidates or not total.requires_grad:
            return {}
        found = torch.autograd.grad(total, [*candidates.values()], allow_unused=True)
    return {
        name: len(gradient)
        for name, gradient in zip(candidates, found, strict=True)
        if gradient is not None and _entries(gradient) == [*range(count)]
    }


def _entries(gradient: Tensor) -> list[int]:
    """The entries of the first dim that have a gradient."""
    return (gradient.reshape(len(gradient), -1) != 0).any(-1).nonzero().flatten().tolist()


def _total(trace: Any) -> Tensor:
    """A number that depends on the parameters of all distributions of a trace."""
    total: Any = torch.zeros(())
    for site in sample_sites(trace):
        if is_deterministic(site):
            continue
        value = site["value"]
        total = total + site["fn"].log_prob(value.detach()).sum()
        if value.requires_grad:  # the place of a point has no density
            total = total + value.sum()
    return total


def _parameters(program: Program, trace: Any) -> dict[str, Tensor]:
    """The parameters of modules, and those that the program made, without constraints."""
    made = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "param"}
    named: dict[str, Tensor] = {}
    for name, value in made.items():
        free = getattr(value, "unconstrained", None)
        named[name] = value if free is None else free()
    for module in modules_of(program):
        named |= dict(module.named_parameters())
    return named
