"""Programs as descriptions: the class of each part, and the arguments that it was made with."""

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.experiment.saved.names import FACTS, NOT_KEPT, TORCH, name_of
from ppl_vae.guide import Guide
from ppl_vae.model import Model

ARGUMENT = "argument"  # names of tensors that are arguments, before their number


class CustomError(ValueError):
    """A part that no description makes again: it is the user's own.

    Example:
        >>> issubclass(CustomError, ValueError)
        True
    """


class Description:
    """The parts of model and guide in the order in which they are made; each once.

    Args:
        model: The model.
        guide: The guide.

    Raises:
        CustomError: A part is none of the library's, nor a known layer of torch.

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> guide = Guide(posteriors.MeanFieldNormal(1), 3, nn.Linear(3, 4))
        >>> prior = priors.VampPrior(guide, torch.zeros(5, 3))
        >>> found = Description(Model(prior, likelihoods.Gaussian(3)), guide).to_json()
        >>> [part["class"].rpartition(".")[2] for part in found["parts"]]
        ['MeanFieldNormal', 'Linear', 'Guide', 'VampPrior', 'Gaussian', 'MLP', 'Model']
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self.parts: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self._numbers: dict[int, int] = {}
        self.guide = self.number(guide)
        self.model = self.number(model)

    def to_json(self) -> dict[str, Any]:
        """The description in values of JSON."""
        return {"parts": self.parts, "model": self.model, "guide": self.guide}

    def number(self, module: nn.Module) -> int:
        """The number of a part, which is described when it is first met."""
        if id(module) not in self._numbers:
            name = name_of(type(module))
            if name is None:
                kind = type(module)
                raise CustomError(f"{kind.__name__} of {kind.__module__} is not of the library")
            part: dict[str, Any] = {"class": name}
            positional, keywords = _arguments(module, name)
            part["positional"] = [self.value(each, module) for each in positional]
            part["arguments"] = {
                key: self.value(each, module, key) for key, each in keywords.items()
            }
            known = {fact: getattr(module, fact) for fact in FACTS.get(type(module), ())}
            part["facts"] = {fact: self.value(each, module) for fact, each in known.items()}
            self.parts.append({key: each for key, each in part.items() if each})
            self._numbers[id(module)] = len(self.parts) - 1
        return self._numbers[id(module)]

    def value(self, value: Any, owner: nn.Module, name: str = "") -> Any:
        """A value of a constructor in values of JSON; what JSON lacks is an object with one key."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, float | np.floating):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, nn.Module):
            return {"part": self.number(value)}
        if isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy"):
            return self._tensor(value, owner, name)
        if isinstance(value, list):
            return [self.value(each, owner) for each in value]
        if isinstance(value, tuple):
            return {"tuple": [self.value(each, owner) for each in value]}
        if isinstance(value, Mapping):
            pairs = [[self.value(part, owner) for part in pair] for pair in value.items()]
            return {"mapping": pairs}
        return self._constructor(value, owner)

    def _constructor(self, value: Any, owner: nn.Module) -> Any:
        """A class, or one with some of its arguments."""
        keywords: dict[str, Any] = {}
        positional: tuple[Any, ...] = ()
        kind = value
        if isinstance(value, partial):
            kind, positional, keywords = value.func, value.args, value.keywords
        name = name_of(kind) if isinstance(kind, type) else None
        if name is None:
            what = getattr(value, "__qualname__", repr(value))
            raise CustomError(f"{type(owner).__name__} was made with {what}")
        if kind is value:
            return {"class": name}
        return {
            "partial": name,
            "positional": [self.value(each, owner) for each in positional],
            "arguments": {key: self.value(each, owner) for key, each in keywords.items()},
        }

    def _tensor(self, value: Any, owner: nn.Module, name: str) -> dict[str, Any]:
        """A tensor: its shape where the weights hold its present value, else its values."""
        own = owner.state_dict().get(name)
        if own is not None:
            return {"zeros": list(own.shape)}
        if hasattr(value, "to_numpy"):
            value = value.to_numpy()
        key = f"{ARGUMENT}.{len(self.tensors)}"
        self.tensors[key] = torch.as_tensor(value).detach().cpu().contiguous()
        return {"tensor": key}


def _arguments(module: nn.Module, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments and keywords with which to make the part again."""
    if isinstance(module, Model | Guide):
        return (), _of_program(module)
    if isinstance(module, nn.Sequential):
        return (dict(module.named_children()),), {}
    if name.startswith(TORCH):
        return (), _of_layer(module)
    made_with: Any = getattr(module, "made_with", None)
    if made_with is None:
        raise CustomError(f"the constructor of {name} is not known")
    positional, keywords = made_with
    bound = inspect.signature(type(module)).bind(*positional, **keywords)
    if bound.args and len(bound.args) > len(bound.arguments):
        return bound.args, bound.kwargs
    found = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(parameter.name, {})
    return (), found


def _of_program(program: Model | Guide) -> dict[str, Any]:
    """The arguments of a model or a guide that has its present parts."""
    if isinstance(program, Model):
        exposure = program.exposure
        return {
            "prior": program.prior,
            "likelihood": program.likelihood,
            "decoder": program.decoder,
            "context_dim": program.context_dim,
            "exposure": None if exposure is None else exposure.column,
            "missingness": program.missingness,
        }
    return {
        "posterior": program.posterior,
        "event_shape": tuple(program.event_shape),
        "encoder": program.encoder,
        "context_dim": program.context_dim,
        "missing": program.missing,
        "hide": program.hide,
        "categories": program.units.categories,
    }


def _of_layer(layer: Any) -> dict[str, Any]:
    """The arguments of one of torch's layers, which keeps them as attributes."""
    found = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if name in NOT_KEPT or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(layer, name, None)
        if name == "bias":
            value = value is not None
        if name == "init" and isinstance(layer, nn.PReLU):
            value = 0.25  # the weights hold the present one
        found[name] = value
    return found
