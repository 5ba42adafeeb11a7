"""Programs from descriptions: the library's own classes are called, and nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.data import Dataset
from ppl_vae.experiment.saved.names import FACTS, class_of
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.runtime.seeding import seeded

FACTORIES = ("empty", "full", "ones", "zeros", "rand", "randn", "arange", "eye")
SPARE = 10_000_000  # elements beyond those of the weights, for dry runs
FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def rebuild(
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    columns: Mapping[str, tuple[str, ...]],
) -> tuple[nn.Module, nn.Module]:
    """Model and guide of a description, with starting weights.

    Args:
        description: From `Description.to_json`.
        tensors: The arguments that are tensors, by name, beside the weights.
        columns: Names of the columns of training, by "x" and "context".

    Raises:
        ValueError: A class is not known, an argument does not fit it, or the parts would take more
            memory than their weights do.

    Example:
        >>> rebuild({"parts": [{"class": "os.system"}], "model": 0, "guide": 0}, {}, {})
        Traceback (most recent call last):
        ValueError: part 0: no part is called 'os.system': Allowed: Model, Guide, priors., ...
    """
    room = SPARE + 10 * sum(each.numel() for each in tensors.values())
    parts: list[nn.Module] = []
    with seeded(0), limited(room):
        for number, part in enumerate(description["parts"]):
            try:
                parts.append(_part(part, Values(parts, tensors), columns))
            except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
                raise ValueError(f"part {number}: {error}") from error
    model, guide = (parts[description[name]] for name in ("model", "guide"))
    return model, guide


class Values:
    """Values of a description as the constructors take them.

    Args:
        parts: The parts that have been made.
        tensors: Tensors by name.
    """

    def __init__(self, parts: list[nn.Module], tensors: Mapping[str, Tensor]) -> None:
        self.parts = parts
        self.tensors = tensors

    def of(self, value: Any) -> Any:
        """The value of one argument."""
        if isinstance(value, list):
            return [self.of(each) for each in value]
        if not isinstance(value, dict):
            return value
        (kind, found), *others = value.items()
        if kind == "partial":
            arguments = dict(others)
            positional = self.of(arguments.get("positional", []))
            return partial(class_of(found), *positional, **self.named(arguments["arguments"]))
        make = {
            "part": lambda: self.parts[found],
            "class": lambda: class_of(found),
            "float": lambda: FLOATS[found],
            "tuple": lambda: tuple(self.of(found)),
            "mapping": lambda: dict(tuple(pair) for pair in self.of(found)),
            "tensor": lambda: self.tensors[found],
            "zeros": lambda: torch.zeros(found),
        }
        if kind not in make:
            raise ValueError(f"no value is of the kind {kind!r}")
        return make[kind]()

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of several arguments by name."""
        return {name: self.of(each) for name, each in values.items()}


def _part(
    part: Mapping[str, Any], values: Values, columns: Mapping[str, tuple[str, ...]]
) -> nn.Module:
    """The part that an entry describes."""
    kind = class_of(part["class"])
    arguments = values.named(part.get("arguments", {}))
    positional = values.of(part.get("positional", []))
    facts = values.named(part.get("facts", {}))
    if kind is Model:
        made: Any = _model(arguments, columns)
    elif kind is Guide:
        made = _guide(arguments)
    elif kind is nn.Sequential:
        made = nn.Sequential()
        for name, layer in positional[0].items():
            made.add_module(name, layer)
    else:
        made = kind(*positional, **arguments)
    for fact in FACTS.get(kind, ()):
        if fact in facts:
            setattr(made, fact, facts[fact])
    return made


def _model(arguments: dict[str, Any], columns: Mapping[str, tuple[str, ...]]) -> Model:
    """A model; its missingness model is made for columns of these names."""
    mechanism = arguments.pop("missingness", None)
    model = Model(**arguments)
    if mechanism is not None:
        model.columns = dict(columns)
        z = torch.zeros(1, model.latent_dim)
        context = torch.zeros(1, model.context_dim) if model.context_dim else None
        p = model.likelihood(model.features(z, context))
        mechanism.build(p, model.columns.get("x", ()))
        model.missingness = mechanism
    return model


def _guide(arguments: dict[str, Any]) -> Guide:
    """A guide; a row of zeros tells it which of its inputs are categories."""
    categories = arguments.pop("categories", {})
    if categories:
        context_dim = arguments["context_dim"]
        levels = {str(i): tuple(map(str, range(size))) for i, size in categories.items()}
        x = np.zeros((1, *arguments["event_shape"]))
        context = np.zeros((1, context_dim)) if context_dim else None
        arguments["start"] = Dataset(x, context=context, levels=levels)
    return Guide(**arguments)


class Counted(TorchDispatchMode):
    """Counts the elements of new tensors, and refuses more than there is room for."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, after a look at the size that it asks for."""
        name = func.overloadpacket.__name__
        if name in FACTORIES and args and isinstance(args[0], list | tuple):
            self.room -= torch.Size(args[0]).numel()
        elif name == "arange" and all(isinstance(each, int) for each in args):
            self.room -= abs(args[-1])
        if self.room < 0:
            raise ValueError("it would take far more memory than its weights")
        return func(*args, **(kwargs or {}))


@contextmanager
def limited(room: int) -> Iterator[None]:
    """Tensors with at most so many elements within."""
    with Counted(room):
        yield
