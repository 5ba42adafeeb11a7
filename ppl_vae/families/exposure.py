"""Exposure: a column of the covariates that scales the mean of each row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.runtime.checks import suggestion, whole_number
from ppl_vae.runtime.text import echoed

__all__ = ["Exposure"]


class Exposure:
    """The column of context that holds a time at risk, an area or a total.

    Args:
        column: Its name, or its number from 0 on.
        context_dim: Number of covariates, this one included.

    Raises:
        ValueError: there is no such column.

    References:
        McCullagh and Nelder (1989), Generalized linear models, section 6.3.2.

    Example:
        >>> Exposure("hours", 2).split(torch.tensor([[30.0, 2.0]]), ("age", "hours"))
        (tensor([[30.]]), tensor([2.]))
    """

    def __init__(self, column: str | int, context_dim: int) -> None:
        self.column = column
        if not isinstance(column, str):
            whole_number(column, "exposure", at_least=0)
        if not context_dim or (not isinstance(column, str) and column >= context_dim):
            raise ValueError(
                f"exposure={echoed(column)} is no column of context, of which there are "
                f"{context_dim}: context_dim= counts all of them, the exposure too"
            )

    def number(self, names: Sequence[str]) -> int:
        """Which column it is among these, which may have no names."""
        if not isinstance(self.column, str):
            return self.column
        if not names:
            raise ValueError(
                f"exposure={self.column!r} is a name, and the columns of context have none yet: "
                "give the column's number, or start= with a Dataset that names them"
            )
        if self.column not in names:
            raise ValueError(
                f"exposure={self.column!r} is no column of context: "
                f"{suggestion(self.column, names)}"
            )
        return list(names).index(self.column)

    def split(self, context: Tensor | None, names: Sequence[str]) -> tuple[Tensor | None, Tensor]:
        """The other covariates, if there are any, and the exposure of each row."""
        if context is None:
            raise ValueError(f"exposure={self.column!r} is a column of context: pass context=")
        number = self.number(names)
        others = torch.cat([context[..., :number], context[..., number + 1 :]], -1)
        return (others if others.shape[-1] else None), context[..., number]
