"""Weights of rows in an objective: the terms of a row are multiplied by its weight."""

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae.programs.sites import WEIGHTED, is_local
from ppl_vae.programs.traces import Program

__all__ = ["weighted"]


def weighted(program: Program) -> Program:
    """The program with a further last argument, the weights of its rows, (B,).

    The log-probabilities of a row's sites are scaled by its weight, and so is its bound.

    Args:
        program: A model or guide with a plate "data".

    Example:
        >>> import torch
        >>> from ppl_vae import beds, objectives
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> programs = weighted(bed.model), weighted(bed.guide)
        >>> loss = objectives.TraceELBO().loss(*programs, bed.x, torch.tensor([1.0, 2.0, 1.0]))
        >>> bool(abs(loss + bed.log_evidence.sum() + bed.log_evidence[1]) < 1e-9)
        True
    """
    if isinstance(program, nn.Module):
        return Weighted(program)

    def scaled(*args: Any, **kwargs: Any) -> Any:
        with RowScale(args[-1]):
            return program(*args[:-1], **kwargs)

    return scaled


class Weighted(nn.Module):
    """A module whose last argument holds the weights of its rows."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module without the weights, its rows scaled by them."""
        with RowScale(args[-1]):
            return self.program(*args[:-1], **kwargs)


class RowScale(Messenger):
    """Multiplies the scale of the sites inside the data plate by the weight of each row."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        if is_local(msg):
            msg["scale"] = msg["scale"] * self.weights
            msg["infer"] = {**(msg["infer"] or {}), WEIGHTED: True}
