"""Modules at rest, their inputs, and how they start."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from pyro.distributions import transforms as T
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN
from torch import Tensor, nn

from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import echoed, whole_numbers
from ppl_vae.runtime.memory import require_memory

__all__ = [
    "at_rest",
    "join",
    "linear",
    "near_identity",
    "require_constructor",
    "require_module",
    "shape_of",
]


def near_identity(transform: nn.Module) -> nn.Module:
    """Start a flow layer close to the identity: a random one is jagged.

    Example:
        >>> flow = near_identity(T.affine_coupling(2))
        >>> bool((flow(torch.ones(2)) - 1).abs().max() < 0.1)
        True
    """
    with torch.no_grad():
        for part in transform.modules():
            if isinstance(part, ConditionalDenseNN | ConditionalAutoRegressiveNN):
                part = part.layers[-1]
            elif not isinstance(part, T.Spline):
                continue
            for parameter in part.parameters(recurse=False):
                parameter.mul_(0.01)
    return transform


@contextmanager
def at_rest(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode within: no dropout, batch normalisation by running averages.

    Example:
        >>> dropout = nn.Dropout(0.5)
        >>> with at_rest(dropout):
        ...     dropout(torch.ones(2))
        tensor([1., 1.])
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def require_module(part: object, name: str, *methods: str) -> None:
    """Raise TypeError unless it is a module (and not its class) with these methods.

    Example:
        >>> require_module(nn.Tanh, "decoder")
        Traceback (most recent call last):
        TypeError: the decoder is <class 'torch.nn.modules.activation.Tanh'>, which is not a \
module: pass an instance, Tanh(...), not the class
        >>> require_module(nn.Tanh(), "posterior", "build")
        Traceback (most recent call last):
        TypeError: the posterior is a Tanh, which is not a posterior: it has no 'build'
    """
    if not isinstance(part, nn.Module):
        hint = "give one of ppl_vae's, or an nn.Module"
        if isinstance(part, type):
            hint = f"pass an instance, {part.__name__}(...), not the class"
        raise TypeError(f"the {name} is {echoed(part)}, which is not a module: {hint}")
    for method in methods:
        if not hasattr(part, method):
            raise TypeError(
                f"the {name} is a {type(part).__name__}, which is not a {name}: it has no "
                f"{method!r}"
            )


def join(
    values: Tensor, event_dim: int, indicator: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    """Values with the missingness indicator and the covariates beside them, for a network.

    They are appended to a vector (event_dim 1), and are further channels of an image or volume, a
    covariate as a constant plane. `values` may have more batch dims (particles) than `context`.

    Example:
        >>> join(torch.zeros(1, 2), 1, context=torch.ones(1, 1))
        tensor([[0., 0., 1.]])
    """
    if indicator is None and context is None:
        return values
    parts = [each.to(values.dtype) for each in (values, indicator) if each is not None]
    if event_dim == 2:
        parts = [part.unsqueeze(-3) for part in parts]
    axis = -1 if event_dim == 1 else -max(3, event_dim)
    places = parts[0].shape[axis:][1:]  # of one channel
    batch = parts[0].shape[:axis]
    if context is not None:
        parts.append(context.reshape(*context.shape, *(1 for _ in places)))
    return torch.cat([part.expand(*batch, part.shape[axis], *places) for part in parts], dim=axis)


def shape_of(size: int | Sequence[int], name: str = "event_shape") -> torch.Size:
    """Read `784` as `(784,)` and leave `(28, 28)` alone.

    Args:
        size: A whole number, or several.
        name: What it is, for messages.

    Raises:
        ArgumentError: One of them is no positive whole number, or there is none.
        TooLargeError: An array of this shape does not fit into memory.

    Example:
        >>> shape_of(784)
        torch.Size([784])
    """
    sizes: Any = [size] if isinstance(size, Real) else size  # Real: NumPy's too
    shape = torch.Size(whole_numbers(sizes, name))
    if not shape:
        raise ArgumentError(f"{name} is {echoed(size)}; it must have at least one dim, as in (8,)")
    require_memory(f"{name} {tuple(shape)}", *shape)
    return shape


def linear(num_in: int, num_out: int) -> nn.Linear:
    """A linear map whose weights fit into memory.

    Raises:
        TooLargeError: They do not.

    Example:
        >>> linear(2, 3)
        Linear(in_features=2, out_features=3, bias=True)
    """
    require_memory(f"a linear map of {num_in:,} inputs to {num_out:,} outputs", num_in, num_out)
    return nn.Linear(num_in, num_out)


def require_constructor(value: Any, name: str) -> None:
    """Raise unless it makes a module, as `nn.ReLU` does.

    Example:
        >>> require_constructor("relu", "activation")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: activation is 'relu'; it must be the class of a module, as \
in nn.ReLU
    """
    if isinstance(value, nn.Module) or not callable(value):
        raise ArgumentError(
            f"{name} is {echoed(value)}; it must be the class of a module, as in nn.ReLU"
        )
