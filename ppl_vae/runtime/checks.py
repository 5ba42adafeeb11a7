"""Checks of settings where they are given, with one-line errors that name the remedy."""

import difflib
import math
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import ArgumentError, TooLargeError
from ppl_vae.runtime.text import cut, echoed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "file_path",
    "from_keywords",
    "instance_of",
    "one_line",
    "one_of",
    "real_fields",
    "real_number",
    "shown",
    "suggestion",
    "switch",
    "warn_caller",
    "whole_fields",
    "whole_number",
    "whole_numbers",
]

PACKAGE = str(Path(__file__).parents[1])
LISTED = 30  # longer lists are not shown in an error
LONGEST = 1_000  # characters of a message
MOST = 10**10  # of anything that is counted, except seeds: ten thousand million of them take days
MOST_SEED = 2**63 - 1
LARGEST_FLOAT = sys.float_info.max


def one_line(message: object) -> str:
    """A message in one line, without the table of sites that Pyro appends.

    Args:
        message: A text, or an error.

    Example:
        >>> one_line("no such site" + chr(10) + "Trace Shapes:" + chr(10) + "Sample Sites:")
        'no such site'
    """
    return cut(" ".join(str(message).partition("Trace Shapes:")[0].split()), LONGEST)


def whole_number(value: Any, name: str, at_least: int = 1, at_most: int | None = None) -> int:
    """The value, if it is a whole number of Python or NumPy (neither True nor 2.0).

    Args:
        value: The value to check.
        name: The setting's name in the message.
        at_least: The smallest allowed value.
        at_most: The largest allowed value; None is 10^10, and 2^63 - 1 for a seed.

    Raises:
        ArgumentError: It is something else.
        TooLargeError: It is larger.

    Example:
        >>> whole_number(3, "num_particles")
        3
        >>> whole_number(2.5, "num_draws")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: num_draws is 2.5; it must be a whole number, at least 1
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ArgumentError(
            f"{name} is {echoed(value)}; it must be a whole number, at least {at_least}"
        )
    most = at_most or (MOST_SEED if "seed" in name else MOST)
    if int(value) > most:
        raise TooLargeError(f"{name} is {echoed(value)}; it must be at most {most:,}")
    return int(value)


def whole_numbers(values: Any, name: str, at_least: int = 1) -> tuple[int, ...]:
    """Whole numbers in a sequence, such as the widths of layers.

    Args:
        values: The numbers.
        name: The setting's name in the message.
        at_least: The smallest allowed value of each.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> whole_numbers([64, 32], "hidden_dims")
        (64, 32)
        >>> whole_numbers(64, "hidden_dims")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: hidden_dims is 64; it must be a list of whole numbers, as in \
[8, 8]
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"{name} is {echoed(values)}; it must be a list of whole numbers, as in [8, 8]"
        )
    return tuple(whole_number(value, name, at_least) for value in values)


def switch(value: Any, name: str) -> bool:
    """The value, if it is True or False.

    Args:
        value: The value to check.
        name: The setting's name in the message.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> switch("no", "progress")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: progress is 'no'; it must be True or False
    """
    return bool(one_of(value, name, (True, False)))


def file_path(value: Any, name: str) -> Path:
    """The value as a path, if a file can have this name.

    Args:
        value: The value to check.
        name: The setting's name in the message.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> file_path("runs/a.pt", "checkpoint")
        PosixPath('runs/a.pt')
        >>> file_path(3, "checkpoint")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: checkpoint is 3; it must be a path
    """
    if not isinstance(value, str | PathLike) or not str(value):
        raise ArgumentError(f"{name} is {echoed(value)}; it must be a path")
    if any(ord(sign) < 32 for sign in str(value)):
        raise ArgumentError(f"{name} is {echoed(value)}; a path has no control characters")
    return Path(value)


def real_number(
    value: Any,
    name: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> float:
    """The value, if it is a finite number within bounds (not NaN, True or a string).

    Args:
        value: The value to check.
        name: The setting's name in the message.
        above: Exclusive lower bound.
        at_least: Inclusive lower bound.
        at_most: Inclusive upper bound.
        below: Exclusive upper bound.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> real_number(0.5, "decay", at_least=0, below=1)
        0.5
        >>> real_number(float("nan"), "beta", above=0)
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: beta is nan; it must be a finite number, above 0
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    is_finite = is_number and abs(value) <= LARGEST_FLOAT  # whole numbers may be larger
    if not is_finite or not (above < value < below and at_least <= value <= at_most):
        limits = {"above": above, "at least": at_least, "at most": at_most, "below": below}
        bounds = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        allowed = ", ".join(filter(None, ["a finite number", " and ".join(bounds)]))
        raise ArgumentError(f"{name} is {echoed(value)}; it must be {allowed}")
    return float(value)


def shown(value: Any) -> str:
    """A number in the fewest digits that give it back in its float type.

    Args:
        value: A Python number, or a tensor with one.

    Example:
        >>> shown(2.0), shown(1.0000001), shown(float("nan"))
        ('2', '1.0000001', 'nan')
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        value = value.numpy()[()] if value.element_size() > 2 else value.item()
    text = f"{value:g}"
    return text if type(value)(text) == value else str(value)


def one_of(value: Any, name: str, options: Collection[Any]) -> Any:
    """The value, if it is one of a few, of the same type (1 is not True).

    Args:
        value: The value to check.
        name: The setting's name in the message.
        options: The allowed values.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> one_of("fast", "Training(compile)", ("auto", True, False))
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: Training(compile) is 'fast'; it must be 'auto', True or False
    """
    if not any(type(value) is type(option) and value == option for option in options):
        *first, last = map(repr, options)
        raise ArgumentError(f"{name} is {echoed(value)}; it must be {', '.join(first)} or {last}")
    return value


def instance_of(value: Any, name: str, kind: type) -> Any:
    """The value, if it is an instance of this class.

    Args:
        value: The value to check.
        name: The setting's name in the message.
        kind: The required class.

    Raises:
        ArgumentError: It is something else.

    Example:
        >>> instance_of("HMC", "AIS(sampler)", dict)
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: AIS(sampler) is 'HMC'; it must be a dict, as in dict(...)
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOUH" else "a"
        raise ArgumentError(
            f"{name} is {echoed(value)}; it must be {article} {kind.__name__}, as in "
            f"{kind.__name__}(...)"
        )
    return value


def whole_fields(settings: Any, **least: int) -> None:
    """Check fields of a frozen dataclass, and store them as Python's whole numbers.

    A field whose default is None may be None. Fields that are switches must be True or False.

    Args:
        settings: The dataclass, in its `__post_init__`.
        least: The smallest allowed value, by the field's name.

    Raises:
        ArgumentError: One of them is something else.

    Example:
        >>> from ppl_vae.hmc import HMC
        >>> HMC(num_samples=0)
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: HMC(num_samples) is 0; it must be a whole number, at least 1
    """
    optional = {field.name for field in fields(settings) if field.default is None}
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None or name not in optional:
            whole = whole_number(value, f"{type(settings).__name__}({name})", smallest)
            object.__setattr__(settings, name, whole)
    for each in fields(settings):
        if each.type in (bool, "bool"):
            switch(getattr(settings, each.name), f"{type(settings).__name__}({each.name})")


def real_fields(settings: Any, *names: str, **limits: float) -> None:
    """Check that fields of a dataclass are finite numbers within bounds, as `real_number` does.

    Args:
        settings: The dataclass, in its `__post_init__`.
        names: The fields.
        limits: The bounds.

    Raises:
        ArgumentError: One of them is something else.

    Example:
        >>> from ppl_vae.training.schedules import Linear
        >>> Linear(0.0, 1.0, until=0.0)
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: Linear(until) is 0.0; it must be a finite number, above 0 \
and at most 1
    """
    for name in names:
        real_number(getattr(settings, name), f"{type(settings).__name__}({name})", **limits)


def suggestion(word: str, names: Iterable[str]) -> str:
    """The probable meaning of a misspelt word, and the allowed ones.

    Args:
        word: The given word.
        names: The allowed words.

    Example:
        >>> suggestion("colour", ["color", "size"])
        'did you mean color? Allowed: color, size'
    """
    names = list(names)
    close = difflib.get_close_matches(word.lower(), {name.lower(): name for name in names}, n=1)
    meant = [name for name in names if name.lower() in close]
    parts = [f"did you mean {name}?" for name in meant[:1]]
    if len(names) <= LISTED:
        parts.append(f"Allowed: {', '.join(names) or 'nothing'}")
    return " ".join(parts)


def from_keywords[T: DataclassInstance](kind: type[T], options: Mapping[str, Any], name: str) -> T:
    """Settings from the keywords of a function; one that they do not have is named.

    Args:
        kind: The dataclass of the settings.
        options: The keywords.
        name: Name of the function.

    Raises:
        TypeError: The function has no such keyword.

    Example:
        >>> from ppl_vae.tasks.imputation import Bootstrap
        >>> from_keywords(Bootstrap, {"num_fits": 5}, "bootstrap_fits").num_fits
        5
    """
    known = [each.name for each in fields(kind)]
    for option in options:
        if option not in known:
            raise TypeError(f"{name} has no argument {echoed(option)}: {suggestion(option, known)}")
    return kind(**options)


def object_or_options(given: object, options: Iterable[str], name: str) -> None:
    """Raise where settings are data, or are given as an object and as keywords too.

    Args:
        given: The object, or None.
        options: Names of the keywords.
        name: Name of the argument that takes the object.

    Raises:
        ArgumentError: It is a tensor, array or frame, or there are keywords beside it.

    Example:
        >>> object_or_options(0.5, ["num_particles"], "method")
        Traceback (most recent call last):
        ppl_vae.errors.ArgumentError: num_particles was given beside method=0.5: set it in method
    """
    if hasattr(given, "shape"):
        raise ArgumentError(
            f"{name} is {echoed(given)}; covariates go into the data, as in Dataset(x, context=...)"
        )
    names = ", ".join(options)
    if given is not None and names:
        raise ArgumentError(f"{names} was given beside {name}={echoed(given)}: set it in {name}")


def warn_caller(message: str) -> None:
    """Warn at the caller's line outside this package; Python shows it once for each such line.

    Args:
        message: The warning.

    Example:
        >>> with warnings.catch_warnings(record=True, action="always") as said:
        ...     warn_caller("few draws")
        >>> [str(each.message) for each in said]
        ['few draws']
    """
    warnings.warn(message, skip_file_prefixes=(PACKAGE,))
