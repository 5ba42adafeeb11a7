"""From the words of a file to the library's classes, by reading `__all__` and signatures: there is
no list to keep.
"""

import importlib
import inspect
import json
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from inspect import Parameter
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import Tensor, nn, optim

from ppl_vae.runtime.checks import suggestion

__all__ = [
    "argument",
    "as_table",
    "choices",
    "complete",
    "construct",
    "merged",
    "named",
    "parameters",
]

Table = Mapping[str, Any]
KEYWORD_ONLY, VAR_KEYWORD, VAR_POSITIONAL = (
    Parameter.KEYWORD_ONLY,
    Parameter.VAR_KEYWORD,
    Parameter.VAR_POSITIONAL,
)
SHAPES = {
    "event_shape",
    "guide",
    "in_dim",
    "in_shape",
    "pseudo_context",
}  # come from the data and from other tables
FILLED = SHAPES | {"checkpoint", "progress"}  # come from the run's folder and its caller
OPEN = {"latent_dim": 8}  # where a constructor has no default of its own
NUM_ROWS = 50  # training rows for a tensor that is not given
FACTORIES = {  # parameters that are classes, not objects
    "activation": "torch.nn",
    "optimizer": "torch.optim",
    "scheduler": "torch.optim.lr_scheduler",
}
SCHEDULES = "ppl_vae.training.schedules"


@cache
def choices(module: str, kind: type = object) -> tuple[str, ...]:
    """The classes of a module, of one kind, that a file may name: all but those that nothing can be
    made of.

    Example:
        >>> choices("ppl_vae.training.schedules")
        ('Constant', 'Cosine', 'Cyclic', 'Exponential', 'Linear', 'Stages')
    """
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name for name in dir(found) if not name.startswith("_")
    ]
    classes = {name: item for name in names if inspect.isclass(item := getattr(found, name))}
    usable = (
        name for name, item in classes.items() if issubclass(item, kind) and not _is_abstract(item)
    )
    return tuple(sorted(name for name in usable if _takes_steps(classes[name])))


def _is_abstract(item: type) -> bool:
    return inspect.isabstract(item) or ABC in item.__bases__


def _takes_steps(item: type) -> bool:
    """Whether, where it is an optimiser, it needs but parameters and gradients: no closure, no
    matrices.
    """
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
        ValueError: there is none; names those that there are.

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
    """A constructor's parameters with their annotations; `**options` are the keywords of the class
    above.

    Example:
        >>> from ppl_vae.families.priors import GaussianMixture
        >>> parameters(GaussianMixture)["num_components"].default
        10
    """
    owner = next(item for item in constructor.__mro__ if "__init__" in vars(item))
    hints, found = (
        _hints(vars(owner)["__init__"]),
        inspect.signature(constructor).parameters.values(),
    )
    own = [parameter for parameter in found if parameter.kind not in (VAR_KEYWORD, VAR_POSITIONAL)]
    known = {
        parameter.name: parameter.replace(annotation=hints.get(parameter.name, Any))
        for parameter in own
    }
    for field in fields(constructor) if is_dataclass(constructor) else ():
        if field.name in known and field.default_factory is not MISSING:
            known[field.name] = known[field.name].replace(default=field.default_factory())
    if any(parameter.kind is VAR_KEYWORD for parameter in found) and owner.__base__ not in (
        None,
        object,
    ):
        above = parameters(owner.__base__).items()
        known |= {
            name: item for name, item in above if item.kind is KEYWORD_ONLY and name not in known
        }
    return known


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (
        NameError
    ):  # an annotation that only a type checker can resolve: its values are not checked here
        return {}


def complete(
    constructor: type, table: Table, module: str, filled: Iterable[str] = ()
) -> dict[str, Any]:
    """A file's keyword arguments, checked against a constructor and completed with its defaults.

    Args:
        constructor: The class.
        table: What the file says, without the class's name.
        module: Where objects inside the table are named.
        filled: Further parameters that need not be given.

    Raises:
        ValueError: an unknown keyword or a value of another type.

    Example:
        >>> from ppl_vae.families.priors import GaussianMixture
        >>> complete(GaussianMixture, {"num_components": 3}, "ppl_vae.families.priors", filled=["latent_dim"])
        {'num_components': 3, 'seed': 0}
    """
    known = {name: p for name, p in parameters(constructor).items() if name not in FILLED}
    for word, value in table.items():
        if word not in known:
            raise ValueError(f"{constructor.__name__} takes no {word!r}: {suggestion(word, known)}")
        argument(known[word], value, module)
    defaults = {name: _default(p) for name, p in known.items() if name not in filled}
    return {name: value for name, value in merged(defaults, table).items() if value is not None}


def construct(constructor: type, table: Table, module: str, **available: Any) -> Any:
    """The object that a table describes; `available` holds the arguments that no table can.

    Raises:
        ValueError: an argument is missing, or does not suit the class.

    Example:
        >>> from ppl_vae.training.schedules import Cosine
        >>> construct(Cosine, {"start": 0.1}, "ppl_vae.training.schedules", other=1)
        Cosine(start=0.1, end=0.0)
    """
    known = parameters(constructor)
    given = {name: argument(known[name], value, module) for name, value in table.items()}
    filled = {name: value for name, value in available.items() if name in known}
    try:
        return constructor(**(given | filled))
    except TypeError as error:  # a missing argument, or values that do not go together
        raise ValueError(str(error)) from error


def argument(parameter: Parameter, value: Any, module: str) -> Any:
    """The Python value that a file's value stands for.

    A class by name (`activation = "Tanh"`), an object by its name or table (`{schedule = "Exponential", start = 1e-3,
    ...}`, `gradient = "DoublyReparameterized"`), a number of training rows for a tensor; all else stays as it is.

    Raises:
        ValueError: the value does not suit the parameter.

    Example:
        >>> from ppl_vae.families.networks import MLP
        >>> argument(parameters(MLP)["activation"], "Tanh", "ppl_vae.families.networks")
        <class 'torch.nn.modules.activation.Tanh'>
    """
    if parameter.name in FACTORIES:
        return _factory(FACTORIES[parameter.name], value)
    kind, words = next(_classes(parameter.annotation), None), _words(parameter.annotation)
    if kind is not None and isinstance(value, Mapping | str) and value not in words:
        name = as_table(value).get("name", kind.__name__)
        if not _is_abstract(kind) and name != kind.__name__:
            raise ValueError(
                f"{parameter.name} = {name!r}: {suggestion(str(name), [*words, kind.__name__])}"
            )
        return _object(kind, value, module)
    if isinstance(value, Mapping) and "schedule" in value:
        return _object(
            object, {"name": value["schedule"], **_without(value, "schedule")}, SCHEDULES
        )
    return _of_type(
        parameter.name, int if parameter.annotation is Tensor else parameter.annotation, value
    )


def _classes(hint: Any) -> Iterator[type]:
    """The library's own classes in an annotation."""
    for part in get_args(hint) or (hint,):
        if inspect.isclass(part) and part.__module__.startswith("ppl_vae."):
            yield part


def _words(hint: Any) -> list[str]:
    """The words that an annotation allows beside objects."""
    return [
        word for part in get_args(hint) if get_origin(part) is Literal for word in get_args(part)
    ]


def _switches(hint: Any) -> list[Any]:
    """All that an annotation of words and True or False allows; nothing of any other."""
    parts = get_args(hint) or (hint,)
    if bool not in parts or any(
        part is not bool and get_origin(part) is not Literal for part in parts
    ):
        return []
    return [*_words(hint), True, False]


def _object(kind: type, value: Table | str, module: str) -> Any:
    """An object of this kind from its name, or from a table with its name and keywords."""
    table = as_table(value)
    if _is_abstract(kind) or kind is object:
        kind = named(module, table.get("name", ""), kind)
    rest = _without(table, "name")
    return construct(kind, complete(kind, rest, module), module)


def _factory(module: str, value: Table | str) -> Callable[..., Any]:
    table = as_table(value)
    constructor, rest = named(module, table.get("name", "")), _without(table, "name")
    return partial(constructor, **rest) if rest else constructor


def as_table(value: Any) -> dict[str, Any]:
    """A table; a name alone is short for a table with that name.

    Raises:
        ValueError: something else.

    Example:
        >>> as_table("VampPrior")
        {'name': 'VampPrior'}
    """
    if not isinstance(value, Mapping | str):
        raise ValueError(f"{value!r} is neither a name nor a table with a name")
    return {"name": value} if isinstance(value, str) else dict(value)


def merged(one: Table, other: Table) -> dict[str, Any]:
    """`other` over `one`, tables inside tables as well.

    Example:
        >>> merged({"sampler": {"num_samples": 1, "num_leapfrog": 10}}, {"sampler": {"num_leapfrog": 20}})
        {'sampler': {'num_samples': 1, 'num_leapfrog': 20}}
    """
    both = [
        key
        for key, value in other.items()
        if isinstance(value, Mapping) and isinstance(one.get(key), Mapping)
    ]
    return {**one, **other, **{key: merged(one[key], other[key]) for key in both}}


def _without(table: Table, key: str) -> Table:
    return {name: item for name, item in table.items() if name != key}


def _of_type(name: str, hint: Any, value: Any) -> Any:
    switches = _switches(hint)
    if switches and not any(type(value) is type(each) and value == each for each in switches):
        raise ValueError(f"{name} = {value!r}: write one of {', '.join(map(json.dumps, switches))}")
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:  # pragma: no cover - a type that only Python can make
        return value
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {value!r}: {error.errors()[0]['msg'].lower()}") from None
    return value


def _default(parameter: Parameter) -> Any:
    """A default as a file would write it; None where a file cannot."""
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
