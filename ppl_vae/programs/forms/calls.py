"""How a program is called with rows: x, covariates, further arguments and constants, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.programs.particles import Program

__all__ = ["call_of"]

Call = Callable[..., tuple[tuple[Any, ...], Mapping[str, Any]]]


def call_of(program: Program, data: Dataset, names: list[str]) -> Call | None:
    """The function of the rows that makes a program's arguments; None if they are x and covariates.

    x is the first argument of the program that `data.args` does not name, the covariates the
    second. A further argument that the program does not take is left out.

    Args:
        program: Any Pyro program.
        data: The data, whose further arguments are named.
        names: Names of the program's parameters, as `parameters_of` gives them.

    Example:
        >>> import torch
        >>> data = Dataset(torch.zeros(2, 1), args={"inputs": torch.ones(2, 3), "scale": 0.5})
        >>> def model(inputs, outputs, scale): ...
        >>> call = call_of(model, data, ["inputs", "outputs", "scale"])
        >>> args, keywords = call(data.x, data.args["inputs"])
        >>> args, list(keywords)
        ((), ['outputs', 'inputs', 'scale'])
    """
    known = {**data.args, **data.constants}
    if not known:
        return None
    num_own = 1 if data.context is None else 2
    own = [name for name in names if name not in known][:num_own]
    by_name = names[: len(own)] != own
    taken = [name for name in known if takes(program, name)]
    constants = {name: data.constants[name] for name in taken if name in data.constants}
    order = list(data.args)

    def call(*rows: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        first, others = rows[:num_own], rows[num_own:]
        named = {name: each for name, each in zip(order, others, strict=True) if name in taken}
        if not by_name:
            if takes_any_position(program):
                return rows, {}
            return first, {**named, **constants}
        return (), {**dict(zip(own, first, strict=True)), **named, **constants}

    return call


def parameters_of(program: Program) -> dict[str, inspect.Parameter]:
    """The parameters of a program by name, in their order.

    Example:
        >>> list(parameters_of(lambda x, *, scale=1.0: None))
        ['x', 'scale']
    """
    function = program.forward if isinstance(program, nn.Module) else program
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def positional(program: Program) -> list[str]:
    """Names of the parameters that can be given by position.

    Example:
        >>> positional(lambda x, *, scale=1.0: None)
        ['x']
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, each in parameters_of(program).items() if each.kind in kinds]


def takes(program: Program, name: str) -> bool:
    """Whether a program takes an argument of this name.

    Example:
        >>> takes(lambda x, **kwargs: None, "lengths")
        True
    """
    found = parameters_of(program)
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in found.values())
    return any_name or name in found


def takes_any_position(program: Program) -> bool:
    """Whether a program takes any arguments by position, and none by name.

    Example:
        >>> takes_any_position(lambda x, *others: None)
        True
    """
    kinds = {each.kind for each in parameters_of(program).values()}
    names = inspect.Parameter.VAR_KEYWORD in kinds
    return inspect.Parameter.VAR_POSITIONAL in kinds and not names
