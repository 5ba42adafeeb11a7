"""The classes that a saved run may name, those of the library and of torch.nn: no others."""

import importlib
from typing import Any

from torch import nn

from ppl_vae.experiment.signatures import choices
from ppl_vae.families.likelihoods import Columns
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.runtime.checks import suggestion

ROOMS = {
    room: f"ppl_vae.families.{room}"
    for room in ("priors", "likelihoods", "posteriors", "networks", "missingness")
}
PROGRAMS: dict[str, type] = {"Model": Model, "Guide": Guide}
TORCH = "torch.nn"
LAYERS = (
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "CELU",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "ELU",
    "Flatten",
    "GELU",
    "GLU",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "PReLU",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "SELU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Unflatten",
)
# Attributes that are set after the constructor, and belong to the part.
FACTS: dict[type, tuple[str, ...]] = {Columns: ("levels", "reasons")}
NOT_KEPT = ("device", "dtype")  # arguments of torch's layers that the weights show


def name_of(kind: type) -> str | None:
    """The name of a class in a saved run; None if it may not be named.

    Example:
        >>> name_of(nn.Tanh), name_of(Model), name_of(dict)
        ('torch.nn.Tanh', 'Model', None)
    """
    if PROGRAMS.get(kind.__name__) is kind:
        return kind.__name__
    if kind.__name__ in LAYERS and getattr(nn, kind.__name__) is kind:
        return f"{TORCH}.{kind.__name__}"
    for room, module in ROOMS.items():
        if kind.__module__.startswith(f"{module}.") and kind.__name__ in choices(module, nn.Module):
            return f"{room}.{kind.__name__}"
    return None


def class_of(name: str) -> Any:
    """The class of this name.

    Raises:
        ValueError: There is none; the message names others.

    Example:
        >>> class_of("priors.VampPrio")
        Traceback (most recent call last):
        ValueError: no part is called 'priors.VampPrio': did you mean priors.VampPrior? ...
    """
    room, _, own = name.rpartition(".")
    known = {"": tuple(PROGRAMS), TORCH: LAYERS}.get(room)
    if known is None:
        known = choices(ROOMS[room], nn.Module) if room in ROOMS else ()
    if own not in known:
        everything = [f"{each}." for each in (*ROOMS, TORCH)]
        names = [f"{room}.{each}".lstrip(".") for each in known] or [*PROGRAMS, *everything]
        raise ValueError(f"no part is called {name!r}: {suggestion(name, names)}")
    if not room:
        return PROGRAMS[own]
    return getattr(importlib.import_module(ROOMS.get(room, TORCH)), own)
