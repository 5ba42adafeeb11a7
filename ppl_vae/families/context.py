"""Covariates as a model or guide is given them: one row each, finite, as many as it takes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.data.tables.columns import check_columns
from ppl_vae.data.tables.frames import is_frame
from ppl_vae.data.validation import copied

__all__ = ["check_context", "read_context", "require_context_dim"]


def check_context(context: Tensor | None, context_dim: int, name: str) -> None:
    """Raise unless covariates are given exactly where they are expected.

    Args:
        context: Covariates, (N, C), or None.
        context_dim: Their number.
        name: What takes them.

    Example:
        >>> check_context(torch.zeros(5, 2), 2, "Model")
    """
    found = 0 if context is None else context.shape[-1]
    if found != context_dim:
        remedy = "give pv.Dataset(x, context=[...]), or pass context= to the program itself"
        if found:
            remedy = f"construct it with context_dim={found}"
        raise ValueError(f"{name} takes {context_dim} covariates and was given {found}: {remedy}")


def read_context(context: Any, context_dim: int, module: nn.Module) -> Tensor | None:
    """Covariates from an array or tensor, in the float type and on the device of the module.

    Args:
        context: (N, C), or (N,) if there is one covariate; or a frame or `Dataset`, whose columns
            and levels are matched by name; None for none.
        context_dim: Number of covariates C.
        module: The module.

    Raises:
        ValueError: One of them is missing or infinite, or the columns or levels of a frame are not
            those of training.

    Example:
        >>> read_context([1, 2], 1, nn.Linear(1, 1))
        tensor([[1.],
                [2.]])
    """
    if context is None:
        return None
    if is_frame(context):
        context = Dataset(np.full((len(context), 1), np.nan), context=context, dtype=torch.float64)
    if isinstance(context, Dataset):
        context = _in_levels_of(module, context)
    if context is None:
        return None
    values = torch.as_tensor(copied(context)).to(next(module.parameters()))
    if values.dim() == 1 and context_dim == 1:
        values = values.unsqueeze(-1)
    if not values.isfinite().all():
        row = int((~values.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"context is missing or infinite in row {row}: give finite covariates")
    return values


def _in_levels_of(module: Any, rows: Dataset) -> Tensor | None:
    """Covariates of rows, in the columns and levels with which a Model or Guide was trained."""
    rows = rows.with_levels(module.levels)
    check_columns(module.columns, rows.columns, type(module).__name__)
    return rows.context


def require_context_dim(part: nn.Module, context_dim: int) -> None:
    """Raise if a prior was made for another number of covariates.

    Args:
        part: The prior.
        context_dim: Number of covariates of the model.

    Example:
        >>> require_context_dim(nn.Linear(1, 1), 2)
    """
    own = getattr(part, "context_dim", 0)
    if own and own != context_dim:
        raise ValueError(
            f"{type(part).__name__}(context_dim={own}) in a model of {context_dim} covariates: "
            f"give it context_dim={context_dim}"
        )
