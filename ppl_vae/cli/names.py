"""The names that options accept, read from the source, since the families import torch."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

__all__ = ["LIKELIHOOD", "OBJECTIVE", "POSTERIOR", "PRIOR", "WithNames", "completion", "named"]

PACKAGE = Path(__file__).resolve().parents[1]
EXPORTED = re.compile(r"^__all__ = \[(.*?)\]", re.DOTALL | re.MULTILINE)
ABSTRACT = re.compile(r"^class (\w+)\(.*\bABC\b.*\):$", re.MULTILINE)
NAME = re.compile(r'"([A-Z]\w*)"')  # of a class; functions are in lower case
PRIOR = "families/priors"
LIKELIHOOD = "families/likelihoods"
POSTERIOR = "families/posteriors"
OBJECTIVE = "objectives"
FAMILIES = {
    "--prior": PRIOR,
    "--likelihood": LIKELIHOOD,
    "--posterior": POSTERIOR,
    "--objective": OBJECTIVE,
}


def named(folder: str) -> list[str]:
    """The concrete classes that the files of a folder export.

    Args:
        folder: Below the package.

    Example:
        >>> "VampPrior" in named(PRIOR)
        True
    """
    files = [path for path in (PACKAGE / folder).glob("*.py") if path.name != "__init__.py"]
    texts = [path.read_text(encoding="utf-8") for path in files]
    exported = [found[1] for text in texts for found in EXPORTED.finditer(text)]
    abstract = {name for text in texts for name in ABSTRACT.findall(text)}
    return sorted({name for names in exported for name in NAME.findall(names)} - abstract)


def completion(folder: str) -> Callable[[str], list[str]]:
    """What a shell suggests for an option.

    Args:
        folder: Of the classes.

    Example:
        >>> completion(PRIOR)("Vamp")
        ['VampPrior']
    """
    return lambda incomplete: [name for name in named(folder) if name.startswith(incomplete)]


class WithNames(TyperCommand):
    """A command whose help lists the names of the families.

    Example:
        >>> WithNames("fit").name
        'fit'
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options, and below them what some of them accept."""
        super().format_options(ctx, formatter)
        with formatter.section("Names"):
            rows = [(option, ", ".join(named(folder))) for option, folder in FAMILIES.items()]
            formatter.write_dl(rows)
