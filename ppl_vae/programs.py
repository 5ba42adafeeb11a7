"""What stands behind a Pyro program: its modules and parameters, how it is called, evaluated and placed."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.checks import one_line
from ppl_vae.data import Dataset
from ppl_vae.data.columns import check_columns
from ppl_vae.families.networks import at_rest
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.seeding import one_at_a_time
from ppl_vae.terms import Program

__all__ = ["module_of"]

EMPTY_CELL = CellType()  # of a variable that is not set yet


def require_programs(model: Program, guide: Program) -> None:
    """Raise TypeError where one of them is a class, or nothing that can be called."""
    for name, program in (("model", model), ("guide", guide)):
        if isinstance(program, type) or not callable(program):
            kind = f"the class {program.__name__}" if isinstance(program, type) else f"of type {type(program).__name__}"
            raise TypeError(f"{name} is {kind}; give an object that can be called: a pv.{name.title()}, a Pyro program")


def arguments(x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """What model and guide are called with: a program without covariates need not take the argument."""
    return (x,) if context is None else (x, context)


def module_of(program: Program) -> nn.Module | None:
    """The module that a program is, or those that it wraps, as one; None where there is none to be found.

    Found are the modules behind a `functools.partial` (which Pyro's handlers make), behind a bound method, and among
    the variables that a function uses. No paper.

    Args:
        program: Any callable.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> module_of(lambda x: net(x))
        ModuleList(
          (0): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    found, seen, waiting = [], set(), [program]
    while waiting:
        item: Any = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found.append(item)
        else:
            waiting += _within(item)
    return found[0] if found == [program] else nn.ModuleList(found) if found else None


def _within(item: Any) -> list[Any]:
    """What a callable holds."""
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if inspect.ismethod(item):
        return [item.__self__, item.__func__]
    if inspect.isfunction(item):
        cells = [cell.cell_contents for cell in item.__closure__ or () if cell != EMPTY_CELL]
        names = [name for name in item.__code__.co_names if name in item.__globals__]
        return [*cells, *(item.__globals__[name] for name in names), *(item.__defaults__ or ())]
    return []


def modules_of(*programs: Program) -> list[nn.Module]:
    """The modules behind these programs, as far as they can be found."""
    return [module for program in programs if (module := module_of(program)) is not None]


@contextmanager
def own_parameters(*programs: Program) -> Iterator[None]:
    """Keep modules out of Pyro's global parameter store, where models of equal names would share weights.

    Plain functions keep their parameters there, and find them again. But what a module has registered there, itself
    wrapped in a function or named by `pyro.module`, is left out: the module that is used now brings its own.
    """
    store: Any = pyro.get_param_store()
    if all(isinstance(program, nn.Module) for program in programs):
        with store.scope():
            yield
        return
    state = store.get_state()
    free = {name: value for name, value in state["params"].items() if not isinstance(value, nn.Parameter)}
    with store.scope({"params": free, "constraints": {name: state["constraints"][name] for name in free}}) as found:
        yield
    store.set_state(found)


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Evaluation mode (dropout and batch norm at rest), no gradients, no validation; all as before afterwards.

    What goes wrong in it says so in one line.
    """
    quiet = pyro.validation_enabled(False)
    try:
        with one_at_a_time, at_rest(*modules_of(*programs)), torch.no_grad(), own_parameters(*programs), quiet:
            yield
    except (ValueError, RuntimeError) as error:
        if (said := one_line(error)) == str(error):
            raise
        raise type(error)(said).with_traceback(error.__traceback__) from None


def remember_columns(data: Dataset, *programs: Program) -> None:
    """Let a Model and a Guide know the columns that they are trained on."""
    for program in programs:
        if isinstance(program, Model | Guide):
            program.columns = program.columns | data.columns


def place(data: Dataset, *programs: Program, device: str | torch.device | None = None) -> Dataset:
    """Data on the device and in the float type of the programs' parameters; `device` moves the programs first.

    Raises:
        ValueError: the columns have names that are not those of training, or their order is another.
    """
    for program in programs:
        if isinstance(program, Model | Guide):
            check_columns(program.columns, data.columns, type(program).__name__)
    modules = modules_of(*programs)
    if device is not None:
        check_device(device)
        for module in modules:
            module.to(device)
    parameter = next((p for module in modules for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return data if device is None else data.to(device=device)
    return data.to(device=parameter.device, dtype=parameter.dtype)


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless torch has this device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'device={str(device)!r} cannot be used here: {reason} Leave it out, or say "cpu"') from error
