"""Marks of the sites of a missingness model: names alone would claim those of other programs."""

from typing import Any

__all__ = ["IS_COMPLETED", "IS_MASK", "marked"]

IS_MASK = "_is_mask_of_x"
IS_COMPLETED = "_is_completed_x"


def marked(*marks: str) -> Any:
    """A site's `infer` with these marks, which its trace keeps.

    Args:
        marks: The marks; the type of `infer` names Pyro's own keys only.

    Example:
        >>> marked(IS_MASK)
        {'_is_mask_of_x': True}
    """
    return dict.fromkeys(marks, True)
