"""Kinds of columns, from their types and values, and columns that do not vary."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["ends", "kinds_of"]


def kinds_of(x: Tensor, types: Sequence[str]) -> tuple[str, ...]:
    """The kind of each column: "boolean", "category", "ordered", "count", "positive" or "real".

    Categories are recognised by their type. Numbers are "boolean" if all are 0 or 1; "count" if
    they are whole, not negative, and of an integer type; "positive" if all are above 0; else
    "real". Whole numbers of a floating type, as integers with missing values are often read, are
    "count" if the smallest is 0 or 1 and there are three or more different values: counts start
    near zero, rounded measurements elsewhere. A column that is never observed is "real".

    Args:
        x: The values, (N, F); NaN is missing.
        types: The type of each column: "bool", "integer", "float", "category", "ordered".

    Example:
        >>> x = torch.tensor([[0.0, 0.0, 1.5, 7.0], [1.0, 2.0, 2.5, 9.0]])
        >>> kinds_of(x, ("float", "integer", "float", "float"))
        ('boolean', 'count', 'positive', 'positive')
    """
    low, high = ends([x])
    integer = torch.tensor([each == "integer" for each in types], device=x.device)
    whole = (x.isnan() | (x == x.round())).all(0) & (low >= 0)
    between = ((x > low) & (x < high)).any(0)
    rules = {
        "boolean": whole & (high <= 1),
        "count": whole & (integer | between & (low <= 1)),
        "positive": low > 0,
        "real": torch.ones_like(whole),
    }
    given = {"category": "category", "ordered": "ordered", "bool": "boolean"}
    first = torch.stack(list(rules.values())).int().argmax(0).tolist()
    found = [list(rules)[place] for place in first]
    return tuple(given.get(each, kind) for each, kind in zip(types, found, strict=True))


def ends(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Smallest and largest observed value of each element, (*event); NaN if it is never observed.

    Args:
        parts: Rows in blocks, (rows, *event) each.

    Example:
        >>> ends([torch.tensor([[1.0, torch.nan], [3.0, torch.nan]])])
        (tensor([1., nan]), tensor([3., nan]))
    """
    low = high = torch.tensor(torch.nan)
    for part in parts:
        missing = part.isnan()
        low = torch.fmin(low.to(part), part.masked_fill(missing, torch.inf).amin(0))
        high = torch.fmax(high.to(part), part.masked_fill(missing, -torch.inf).amax(0))
    return low.masked_fill(low > high, torch.nan), high.masked_fill(low > high, torch.nan)
