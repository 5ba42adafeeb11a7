"""Random numbers that all rows share, so that a row's score is a function of that row alone."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_}
OTHERS: set[Any] = {
    torch.Tensor.bernoulli_,
    torch.bernoulli,
    torch.binomial,
    torch.multinomial,
    torch.normal,
    torch.poisson,
    torch.rand,
    torch.rand_like,
    torch.randint,
    torch.randn,
    torch.randn_like,
}
# what torch's distributions draw with besides; another version may do without
OTHERS |= {getattr(torch, name, None) for name in ("_sample_dirichlet", "_standard_gamma")}


class UnsharedNoiseError(RuntimeError):
    """A distribution draws in a way that rows cannot share, such as by rejection."""


class SharedNoise(Messenger):
    """Draws each latent from the same random numbers for all rows of the data plate.

    With z = g(noise; parameters of the row) the draws of a row depend neither on the other rows nor
    on its place among them.
    """

    def _pyro_sample(self, msg: Any) -> None:
        is_known = msg["is_observed"] or msg["value"] is not None
        if is_known or site_is_subsample(msg) or not msg["fn"].batch_shape:
            return
        # The plate "data" is the last dim of the batch, before the dims of the event.
        with SharedFills(len(msg["fn"].batch_shape) - 1):
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])


class SharedFills(TorchFunctionMode):
    """Fills tensors with random numbers that are equal along one dim."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in OTHERS:
            raise UnsharedNoiseError(f"rows cannot share the random numbers of {func.__name__}")
        if func not in FILLS:
            return func(*args, **(kwargs or {}))
        whole: Tensor = args[0]
        one = torch.empty_like(whole.narrow(self.dim, 0, 1))
        return whole.copy_(func(one, *args[1:], **(kwargs or {})).expand_as(whole))
