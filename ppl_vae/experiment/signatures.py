"""The library's classes by the words of a file, from `__all__` and signatures: no registry."""

import importlib
import inspect
import json
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from inspect import Parameter
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import Tensor, nn, optim

from ppl_vae.runtime.checks import suggestion
from ppl_vae.runtime.text import echoed

__all__ = [
    "argument",
    "as_table",
    "choices",
    "complete",
    "construct",
    "merged",
    "named",
    "parameters",
    "written_family",
]

Table = Mapping[str, Any]
FROM_DATA = {"event_shape", "guide", "in_dim", "in_shape", "pseudo_context"}  # or other tables
FILLED = FROM_DATA | {"checkpoint", "progress"}  # from the folder of the run and from the caller
UNREAD = {
    "event_shape": 1
}  # of an object that is made only to be checked, before the data are read
OPEN = {"latent_dim": 8}  # defaults where the constructor has none
NUM_ROWS = 50  # training rows for a tensor by default
FACTORIES = {  # parameters that are classes, not objects
    "activation": "torch.nn",
    "optimizer": "torch.optim",
    "scheduler": "torch.optim.lr_scheduler",
}
SCHEDULES = "ppl_vae.training.schedules"


@cache
def choices(module: str, kind: type = object) -> tuple[str, ...]:
    """The classes of one kind in a module that a file may name: all that are not abstract.

    Example:
        >>> choices("ppl_vae.training.schedules")
        ('Constant', 'Cosine', 'Cyclic', 'Exponential', 'Linear', 'Stages')
    """
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or dir(found)
    items = {name: getattr(found, name) for name in names if not name.startswith("_")}
    classes = {name: item for name, item in items.items() if inspect.isclass(item)}
    return tuple(
        name
        for name, item in sorted(classes.items())
        if issubclass(item, kind) and not _is_abstract(item) and _takes_steps(item)
    )


def _is_abstract(item: type) -> bool:
    return inspect.isabstract(item) or ABC in item.__bases__


def _takes_steps(item: type) -> bool:
    """Whether it is no optimiser, or one that takes any parameters and needs no closure."""
    if not issubclass(item, optim.Optimizer):
        return True
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    try:
        item([parameter]).step()  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def named(module: str, name: str, kind: type = object) -> type:
    """The class of this name in a module.

    Raises:
        ValueError: there is none; the message names the others.

    Example:
        >>> named("ppl_vae.training.schedules", "Constant")(0.1)(0.5)
        0.1
    """
    names = choices(module, kind)
    if name not in names:
        raise ValueError(
            f"{module.rpartition('.')[2]} has no {name!r}: {suggestion(str(name), names)}"
        )
    return getattr(importlib.import_module(module), name)


@cache
def parameters(constructor: type) -> dict[str, Parameter]:
    """A constructor's parameters with annotations; `**options` are keywords of the base class.

    Example:
        >>> from ppl_vae.families.priors import GaussianMixture
        >>> parameters(GaussianMixture)["num_components"].default
        10
    """
    owner = next(item for item in constructor.__mro__ if "__init__" in vars(item))
    try:
        hints = get_type_hints(vars(owner)["__init__"])
    except NameError:  # an annotation for type checkers alone: its values are not checked here
        hints = {}
    found = inspect.signature(constructor).parameters.values()
    known = {
        parameter.name: parameter.replace(annotation=hints.get(parameter.name, Any))
        for parameter in found
        if parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }
    for field in fields(constructor) if is_dataclass(constructor) else ():
        if field.name in known and field.default_factory is not MISSING:
            known[field.name] = known[field.name].replace(default=field.default_factory())
    takes_options = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in found)
    if takes_options and owner.__base__ not in (None, object):
        for name, parameter in parameters(owner.__base__).items():
            if parameter.kind is Parameter.KEYWORD_ONLY:
                known.setdefault(name, parameter)
    return known


def complete(
    constructor: type, table: Table, module: str, filled: Iterable[str] = ()
) -> dict[str, Any]:
    """A file's keyword arguments, checked against a constructor and completed with its defaults.

    Args:
        constructor: The class.
        table: The keywords in the file, without the name of the class.
        module: The module of objects named inside the table.
        filled: Other parameters that may be left out.

    Raises:
        ValueError: a keyword is unknown, or its value has another type.

    Example:
        >>> from ppl_vae.families.priors import GaussianMixture
        >>> module = "ppl_vae.families.priors"
        >>> complete(GaussianMixture, {"num_components": 3}, module, filled=["latent_dim"])
        {'num_components': 3, 'seed': 0}
    """
    known = {name: p for name, p in parameters(constructor).items() if name not in FILLED}
    for word, value in table.items():
        if word not in known:
            raise ValueError(
                f"{constructor.__name__} takes no {echoed(word)}: {suggestion(word, known)}"
            )
        argument(known[word], value, module)
    defaults = {name: _default(p) for name, p in known.items() if name not in filled}
    return {name: value for name, value in merged(defaults, table).items() if value is not None}


def construct(constructor: type, table: Table, module: str, **available: Any) -> Any:
    """The object that a table describes; `available` has arguments that a table cannot give.

    Raises:
        ValueError: an argument is missing or does not fit the class.

    Example:
        >>> from ppl_vae.training.schedules import Cosine
        >>> construct(Cosine, {"start": 0.1}, "ppl_vae.training.schedules", other=1)
        Cosine(start=0.1, end=0.0)
    """
    known = parameters(constructor)
    given = {
        name: argument(known[name], value, module, **available) for name, value in table.items()
    }
    filled = {name: value for name, value in available.items() if name in known}
    try:
        return constructor(**(given | filled))
    except TypeError as error:  # a missing argument, or values that do not go together
        raise ValueError(str(error)) from error


def argument(parameter: Parameter, value: Any, module: str, **available: Any) -> Any:
    """The Python value for a value in a file.

    A class by name (`activation = "Tanh"`), an object by its name or table
    (`{schedule = "Exponential", start = 1e-3, ...}`, `gradient = "DoublyReparameterized"`), a
    number of training rows for a tensor; other values stay as they are. `available` is as in
    `construct`.

    Raises:
        ValueError: the value does not fit the parameter.

    Example:
        >>> from ppl_vae.families.networks import MLP
        >>> argument(parameters(MLP)["activation"], "Tanh", "ppl_vae.families.networks")
        <class 'torch.nn.modules.activation.Tanh'>
    """
    if parameter.name in FACTORIES:
        return _factory(FACTORIES[parameter.name], value)
    if parameter.name == "families":
        return _families(parameter.name, value, module)
    hint = int if parameter.annotation is Tensor else parameter.annotation
    parts = [part for part in get_args(hint) or (hint,) if inspect.isclass(part)]
    kind = next((part for part in parts if part.__module__.startswith("ppl_vae.")), None)
    words = _words(hint)
    if kind is not None and isinstance(value, Mapping | str) and value not in words:
        name = as_table(value).get("name", kind.__name__)
        if not _is_abstract(kind) and name != kind.__name__:
            names = [*words, kind.__name__]
            raise ValueError(f"{parameter.name} = {name!r}: {suggestion(str(name), names)}")
        return _object(kind, value, module, **available)
    if isinstance(value, Mapping) and "schedule" in value:
        keywords = dict(value)
        return _object(object, {"name": keywords.pop("schedule"), **keywords}, SCHEDULES)
    return _of_type(parameter.name, hint, value)


def _factory(module: str, value: Table | str) -> Any:
    """A class by its name, or with keywords from a table."""
    table = as_table(value)
    constructor = named(module, table.pop("name", ""))
    return partial(constructor, **table) if table else constructor


def _families(name: str, value: Any, module: str) -> dict[str, Any]:
    """A class for each column, by its name."""
    if not isinstance(value, Mapping):
        raise ValueError(f'{name} = {echoed(value)}: write a table, as in {{income = "LogNormal"}}')
    for family in value.values():
        table = as_table(family)
        constructor = named(module, table.pop("name", ""), nn.Module)
        complete(constructor, table, module, filled=["event_shape"])  # checks the keywords
    return {column: _factory(module, family) for column, family in value.items()}


def written_family(family: Any) -> dict[str, Any]:
    """A family of one column as a file writes it; the reverse of what `argument` reads.

    Example:
        >>> from ppl_vae.families.likelihoods import StudentT
        >>> written_family(partial(StudentT, scale="decoder"))
        {'name': 'StudentT', 'scale': 'decoder'}
    """
    if isinstance(family, partial):
        return {"name": family.func.__name__, **family.keywords}
    return {"name": family.__name__}


def _words(hint: Any) -> list[str]:
    """The words that an annotation allows in addition to objects."""
    parts = [part for part in get_args(hint) if get_origin(part) is Literal]
    return [word for part in parts for word in get_args(part)]


def _object(kind: type, value: Table | str, module: str, **available: Any) -> Any:
    """An object of this kind from its name, or from a table with its name and keywords."""
    table = as_table(value)
    name = table.pop("name", "")
    if _is_abstract(kind) or kind is object:
        kind = named(module, name, kind)
    return construct(kind, complete(kind, table, module), module, **(UNREAD | available))


def as_table(value: Any) -> dict[str, Any]:
    """A table; a name alone is short for a table with that name.

    Raises:
        ValueError: the value is neither.

    Example:
        >>> as_table("VampPrior")
        {'name': 'VampPrior'}
    """
    if not isinstance(value, Mapping | str):
        raise ValueError(f"{echoed(value)} is neither a name nor a table with a name")
    return {"name": value} if isinstance(value, str) else dict(value)


def merged(one: Table, other: Table) -> dict[str, Any]:
    """Two tables merged; `other` takes precedence, also in nested tables.

    Example:
        >>> merged({"sampler": {"num_samples": 1, "seed": 0}}, {"sampler": {"seed": 2}})
        {'sampler': {'num_samples': 1, 'seed': 2}}
    """
    found = {**one, **other}
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(one.get(key), Mapping):
            found[key] = merged(one[key], value)
    return found


def _of_type(name: str, hint: Any, value: Any) -> Any:
    """The value, if it has the annotated type."""
    parts = get_args(hint) or (hint,)
    if bool in parts and all(part is bool or get_origin(part) is Literal for part in parts):
        switches = [*_words(hint), True, False]
        if not any(type(value) is type(each) and value == each for each in switches):
            words = ", ".join(map(json.dumps, switches))
            raise ValueError(f"{name} = {echoed(value)}: write one of {words}")
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:  # pragma: no cover - a type that only Python can make
        return value
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {echoed(value)}: {error.errors()[0]['msg'].lower()}") from None
    return value


def _default(parameter: Parameter) -> Any:
    """A default as a file writes it; None if a file cannot."""
    if parameter.default is Parameter.empty:
        return NUM_ROWS if parameter.annotation is Tensor else OPEN.get(parameter.name)
    return _written(parameter.default)


def _written(value: Any) -> Any:
    if inspect.isclass(value):
        return value.__name__
    if isinstance(value, tuple):
        return list(value)
    if is_dataclass(value):
        return {name: _written(getattr(value, name)) for name in complete(type(value), {}, "")}
    return value if isinstance(value, bool | int | float | str) else None
