"""Lines in the log that are said once for each object that they are about."""

import logging
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["log_once"]

_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def log_once(logger: logging.Logger, owner: Any, message: str, *args: Any) -> None:
    """Log a message at level INFO, unless it was logged with its first argument of this object.

    What was said is forgotten with the object, so that nothing grows. Objects that have no weak
    references are told each time.

    Args:
        logger: The logger.
        owner: What the message is about; of a method, its object.
        message: The message, with places for the arguments.
        args: The arguments.

    Example:
        >>> log_once(logging.getLogger("ppl_vae"), print, "the model runs on %d rows", 3)
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    try:
        said = _said.setdefault(getattr(owner, "__self__", owner), set())
    except TypeError:
        said = set()
    line = f"{message} {args[0] if args else ''}"
    if line not in said:
        said.add(line)
        logger.info(message, *args)
