"""Attempts that may fail: one diagnosis that fails must not stop the others."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ppl_vae.runtime.checks import one_line

__all__ = ["NotApplicable", "Undecided", "attempt", "reason", "reasons"]

logger = logging.getLogger(__name__)


class NotApplicable(Exception):
    """A diagnosis does not apply to this run; the message gives the reason.

    Example:
        >>> raise NotApplicable("an observation has one entry")
        Traceback (most recent call last):
        ppl_vae.report.attempts.NotApplicable: an observation has one entry
    """


class Undecided(NotApplicable):
    """A diagnosis applies to this run, but these rows or draws cannot decide it.

    Example:
        >>> raise Undecided("20 rows are too few to tell")
        Traceback (most recent call last):
        ppl_vae.report.attempts.Undecided: 20 rows are too few to tell
    """


@contextmanager
def reasons(*errors: type[Exception]) -> Iterator[None]:
    """Errors of these types as reasons why a diagnosis does not apply.

    Example:
        >>> with reasons(ValueError):
        ...     int("seven")
        Traceback (most recent call last):
        ppl_vae.report.attempts.NotApplicable: invalid literal for int() with base 10: 'seven'
    """
    try:
        yield
    except errors as error:
        raise NotApplicable(one_line(error)) from error


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, or the exception that it raised.

    Example:
        >>> attempt(int, "7"), attempt(int, "seven")
        (7, ValueError("invalid literal for int() with base 10: 'seven'"))
    """
    try:
        return function(*arguments)
    except NotApplicable as error:
        return error
    except Exception as error:
        logger.info("a diagnosis failed", exc_info=True)
        return error


def reason(error: Exception) -> str:
    """Why there is no result, in one line without a full stop; a real error is named first.

    Example:
        >>> reason(NotApplicable("x is not binary.")), reason(ValueError("K is 0"))
        ('x is not binary', 'ValueError: K is 0')
    """
    kind = "" if isinstance(error, NotApplicable) else f"{type(error).__name__}: "
    return kind + one_line(error).rstrip(".")
