"""The modules and parameters of a Pyro program; how it is called, evaluated and placed."""

import functools
import inspect
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CellType, CodeType, ModuleType, NoneType
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import Rows
from ppl_vae.data.tables.columns import check_columns, check_levels
from ppl_vae.families.modules import at_rest
from ppl_vae.guide import Guide
from ppl_vae.model import Model, rows_to_start_from
from ppl_vae.programs.forms.once import log_once
from ppl_vae.programs.particles import Program
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.memory import memory_in_words
from ppl_vae.runtime.seeding import one_at_a_time

__all__ = ["module_of"]

logger = logging.getLogger(__name__)

SMALLER = "lower batch_size, num_particles or chunk_size, or the sizes of the model"
AUTOCAST = ("cpu", "cuda")  # devices whose products it may round
EMPTY_CELL = CellType()  # of a variable that is not set yet
MOST_ITEMS = 1_000  # of a container: a longer one holds data
LEAVES = (str, bytes, int, float, complex, NoneType, ModuleType)
# Objects of these libraries hold no modules of a program.
LIBRARIES = {"numpy", "pandas", "pyro", "scipy", "torch", "xarray"}
FOREIGN = (LIBRARIES | sys.stdlib_module_names) - {"argparse", "collections", "types"}


def require_callable(**programs: Program) -> None:
    """Raise TypeError where a program is a class, or cannot be called."""
    for name, program in programs.items():
        if isinstance(program, type) or not callable(program):
            kind = f"of type {type(program).__name__}"
            if isinstance(program, type):
                kind = f"the class {program.__name__}"
            raise TypeError(
                f"{name} is {kind}; give an object that can be called: a pv.{name.title()}, a Pyro "
                "program"
            )


def require_programs(model: Program, guide: Program) -> None:
    """Raise TypeError as `require_callable`, and tell of programs without a module."""
    require_callable(model=model, guide=guide)
    for name, program in (("model", model), ("guide", guide)):
        if module_of(program) is None:
            log_once(
                logger,
                getattr(program, "program", program),  # the user's own within its form
                "no torch module was found behind the %s: its networks, if any, keep their mode "
                "and device; make the program an nn.Module, or hold them as attributes",
                name,
            )


def arguments(data: Dataset, rows: Any = None, x: Any = None) -> tuple[Tensor, ...]:
    """Arguments of model and guide: x, covariates and further tensors of these `rows`.

    Covariates and further tensors only where there are any; another x in the place of the data's.
    """
    covariates = [] if data.context is None else [data.context]
    given = [data.x if x is None else x, *covariates, *data.args.values()]
    return tuple(given if rows is None else [each[rows] for each in given])


def module_of(program: Program) -> nn.Module | None:
    """The module that a program is, or a list of those that it holds; None if there is none.

    The search follows `functools.partial` (which Pyro's handlers make), bound methods, attributes
    of an object and of its class, lists, tuples, sets and dicts of up to 1,000 items, and the
    variables that a function uses, at any depth. It includes parameters without a module, and
    misses what a program looks up by a name computed at run time.

    Args:
        program: Any callable.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> module_of(lambda x: net(x))
        ModuleList(
          (0): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    found: list[nn.Module] = []
    loose: list[nn.Parameter] = []
    for item in reached(program):
        if isinstance(item, nn.Module):
            found.append(item)
        elif isinstance(item, nn.Parameter):
            loose.append(item)
    owned = {id(parameter) for module in found for parameter in module.parameters()}
    loose = [parameter for parameter in loose if id(parameter) not in owned]
    if loose:
        found.append(nn.ParameterList(loose))
    if found == [program]:
        return found[0]
    return nn.ModuleList(found) if found else None


def reached(program: Program) -> Iterator[Any]:
    """What a program holds, itself first, down to modules and parameters."""
    seen: dict[int, Any] = {}  # holds the items, since the id of a deleted one may be reused
    waiting: list[Any] = [program]
    while waiting:
        item = waiting.pop()
        if isinstance(item, LEAVES) or id(item) in seen:
            continue
        seen[id(item)] = item
        yield item
        if not isinstance(item, nn.Module | nn.Parameter):
            waiting += _within(item)


def _within(item: Any) -> list[Any]:
    """Contents of a callable, an object or a container."""
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if inspect.ismethod(item):
        return [item.__self__, item.__func__]
    if inspect.isfunction(item):
        return _used_by(item)
    if isinstance(item, dict | list | tuple | set | frozenset | deque):
        values = item.values() if isinstance(item, dict) else item
        return list(values) if len(item) <= MOST_ITEMS else []
    if isinstance(item, type) or type(item).__module__.partition(".")[0] in FOREIGN:
        return [item.__wrapped__] if hasattr(item, "__wrapped__") else []
    return _attributes(item)


def _used_by(function: Any) -> list[Any]:
    """Variables and defaults of a function, and of the functions written inside it."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != EMPTY_CELL]
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    names = dict.fromkeys(
        name for code in codes for name in code.co_names if name in function.__globals__
    )
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*cells, *(function.__globals__[name] for name in names), *defaults]


def _attributes(item: Any) -> list[Any]:
    """Attributes of an object and of its class, and the `__call__` of the class."""
    classes = [kind for kind in type(item).__mro__ if kind is not object]
    slots = [name for kind in classes for name in getattr(kind, "__slots__", ())]
    own = [*getattr(item, "__dict__", {}).values(), *(getattr(item, name, None) for name in slots)]
    shared = [
        value
        for kind in classes
        for name, value in vars(kind).items()
        if name == "__call__" or isinstance(value, nn.Module | nn.Parameter | dict | list | tuple)
    ]
    return own + shared


def modules_of(*programs: Program) -> list[nn.Module]:
    """The modules behind these programs, as far as they can be found."""
    return [module for program in programs if (module := module_of(program)) is not None]


@contextmanager
def own_parameters(*programs: Program) -> Iterator[None]:
    """Keep modules out of Pyro's global store, where models of equal names share weights.

    Parameters of `pyro.param` in a function or in a module stay there, and are found again. A
    module's own parameters, also those of one wrapped in a function or named by `pyro.module`, are
    left out. Other threads wait.
    """
    with one_at_a_time, _store_of(*programs):
        yield


def in_store(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that `pyro.param` made itself, and that no module holds."""
    return {k: v for k, v in values.items() if not isinstance(v, nn.Parameter)}


@contextmanager
def _store_of(*programs: Program) -> Iterator[None]:
    """Pyro's store, which all threads share, with what these programs find in it."""
    store: Any = pyro.get_param_store()
    if all(isinstance(program, Model | Guide) for program in programs):
        with store.scope():
            yield
        return
    state = store.get_state()
    with store.scope(_only(state, in_store(state["params"]))) as found:
        yield
    if all(isinstance(program, nn.Module) for program in programs):
        made = _only(found, in_store(found["params"]))
        found = {key: state[key] | made[key] for key in state}
    store.set_state(found)


def _only(state: Any, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A state of the store with these parameters alone."""
    return {key: {name: values[name] for name in names} for key, values in state.items()}


@contextmanager
def as_asked() -> Iterator[None]:
    """Leave the caller's autocast and inference mode, which would change numbers and gradients."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Evaluation mode, no gradients, no validation within; errors in one line."""
    try:
        with (
            one_at_a_time,
            memory_in_words(SMALLER),
            at_rest(*modules_of(*programs)),
            as_asked(),
            torch.no_grad(),
            own_parameters(*programs),
            pyro.validation_enabled(False),
        ):
            yield
    except (ValueError, RuntimeError) as error:
        if (said := one_line(error)) == str(error):
            raise
        raise type(error)(said).with_traceback(error.__traceback__) from None


@contextmanager
def missing_values(exist: bool, *programs: Program) -> Iterator[None]:
    """Tell modules with an attribute `may_miss` whether x may hold NaN: they look at no batch.

    One thread at a time, since the attribute serves all of them.
    """
    parts: list[Any] = [part for module in modules_of(*programs) for part in module.modules()]
    told = {part: part.may_miss for part in parts if hasattr(part, "may_miss")}
    with one_at_a_time:
        try:
            for part in told:
                part.may_miss = exist
            yield
        finally:
            for part, before in told.items():
                part.may_miss = before


def remember_data(data: Dataset, *programs: Program) -> None:
    """Store columns, levels and the number of rows of the training data with Model and Guide.

    New ones first start from these rows (`start_from`), unless all of x lies between 0 and 1 and x
    are no counts.
    """
    parts = _models_and_guides(*programs)
    new = [part for part in parts if part.num_train is None and part.is_new]
    if new:
        counts = any(isinstance(part, Model) and part.has_counts for part in parts)
        _start(new, data, counts=counts)
    unobserved: tuple[str, ...] = ()
    if not isinstance(data.x, Rows):
        unobserved = data.train.unobserved_features
    for part in parts:
        part.columns = part.columns | data.columns
        part.levels = part.levels | data.levels
        if isinstance(part, Model):
            is_first = part.num_train is None
            part.unobserved = tuple(u for u in unobserved if is_first or u in part.unobserved)
        part.num_train = len(data.train)


def _start(parts: list[Model | Guide], data: Dataset, *, counts: bool) -> None:
    """Start from the training rows: all but covariates only unless x lies in [0, 1], as bits do."""
    rows = rows_to_start_from(data, parts[0])
    for part in parts:
        part.start_units(rows)
    low, high = rows.x.nan_to_num().aminmax()
    if low >= 0 and high <= 1 and not counts:
        return
    for part in parts:
        if isinstance(part, Guide):
            part.start_from(data, counts=counts)
        else:
            part.start_from(rows)


def rows_fitted(program: Program) -> int | None:
    """Number of rows that a Model was fitted to, the fewest of several; None if not known."""
    known = [part.num_train for part in _models_and_guides(program) if part.num_train is not None]
    return min(known, default=None)


def _models_and_guides(*programs: Program) -> list[Model | Guide]:
    """The programs themselves, or those that they wrap."""
    parts = (part for module in modules_of(*programs) for part in module.modules())
    return [part for part in parts if isinstance(part, Model | Guide)]


def place(data: Dataset, *programs: Program, device: str | torch.device | None = None) -> Dataset:
    """Data on the programs' device, in their float type, and in the codes of their levels.

    `device` moves the programs first.

    Raises:
        ValueError: Model and Guide have weights of several float types, or of half precision; the
            names of the columns, or their order, are not those of training, or a category is none
            of the levels of training.
    """
    for part in _models_and_guides(*programs):
        check_levels(part.columns, part.levels, data.levels, type(part).__name__)
        data = data.with_levels(part.levels)
        check_columns(part.columns, data.columns, type(part).__name__)
        if isinstance(part, Model):
            part.read_names(data.columns)
    modules = modules_of(*programs)
    if device is not None:
        check_device(device)
        for module in modules:
            module.to(device)
    require_one_type(*programs)
    if (weight := first_weight(*modules)) is not None:
        return data.to(device=weight.device, dtype=weight.dtype)
    return data if device is None else data.to(device=device)


def first_weight(*modules: nn.Module) -> nn.Parameter | None:
    """A parameter with the device and float type of all of them; None where there is none."""
    parameters = (p for module in modules for p in module.parameters() if p.is_floating_point())
    return next(parameters, None)


def placed(tensors: Iterable[Tensor], *programs: Program) -> tuple[Tensor, ...]:
    """The same for tensors: on the programs' device, numbers with fractions in their float type."""
    weight = first_weight(*modules_of(*programs))
    if weight is None:
        return tuple(tensors)
    return tuple(
        each.to(weight.device, weight.dtype if each.is_floating_point() else None)
        for each in tensors
    )


def require_one_type(*programs: Program) -> None:
    """Raise ValueError unless the weights of Model and Guide are all in float32, or in float64."""
    first: torch.dtype | None = None
    for part in _models_and_guides(*programs):
        for name, parameter in part.named_parameters():
            if not parameter.is_floating_point():
                continue
            first = parameter.dtype if first is None else first
            if parameter.dtype == first and first in (torch.float32, torch.float64):
                continue
            others = "" if parameter.dtype == first else f", and others are {first}"
            said = f"{name} of the {type(part).__name__} is {parameter.dtype}{others}"
            raise ValueError(
                f"{said.replace('torch.', '')}: make model and guide both float32 or float64, by "
                ".float() or .double()"
            )


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless torch has this device here."""
    try:
        if torch.empty(0, device=device).is_meta:
            raise RuntimeError('"meta" holds no numbers.')
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'device={str(device)!r} cannot be used here: {reason} Leave it out, or say "cpu"'
        ) from error
