"""Parts of models and guides, which remember the arguments of their constructor."""

from typing import Any, Self


class Part:
    """A part with the arguments that its class was called with, from which it is made again."""

    made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """A new part, before its constructor runs."""
        part = super().__new__(cls)
        # Past `nn.Module.__setattr__`, which works after the constructor alone.
        object.__setattr__(part, "made_with", (args, keywords))
        return part
