"""Parameters that functions keep in Pyro's store, held by a module instead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.programs.modules import in_store

__all__ = ["PrivateStore"]


class PrivateStore(nn.Module):
    """The parameters of `pyro.param`, those in Pyro's store now or made by a first run.

    Args:
        run_once: Runs the programs, so that all their parameters exist.

    Example:
        >>> import torch
        >>> own = PrivateStore(lambda: pyro.param("scale", torch.tensor(2.0)))
        >>> pyro.clear_param_store()
        >>> with own.open():
        ...     pyro.param("scale").item()
        2.0
    """

    def __init__(self, run_once: Callable[[], Any]) -> None:
        super().__init__()
        store: Any = pyro.get_param_store()
        with store.scope(store.get_state()) as found:
            run_once()
        free = in_store(found["params"])
        self.names = list(free)
        self.constraints = {name: found["constraints"][name] for name in free}
        # The name of a parameter may hold dots, which that of a module's may not.
        self.values = nn.ParameterList([_copied(value) for value in free.values()])

    @contextmanager
    def open(self) -> Iterator[None]:
        """Pyro's store, with these parameters alone."""
        store: Any = pyro.get_param_store()
        values = dict(zip(self.names, self.values, strict=True))
        with store.scope({"params": values, "constraints": self.constraints}):
            yield


def _copied(value: Tensor) -> nn.Parameter:
    """An unconstrained parameter of its own."""
    return nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
