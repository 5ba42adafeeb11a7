"""Messages in the words of the command line: options instead of Python's keywords."""

import re
from typing import Any

__all__ = ["in_flags"]


def _flag(found: re.Match[str]) -> str:
    """A keyword as an option."""
    return f"{found['before']}--{found['name'].replace('_', '-')} {found['value']}"


OPTIONS = (
    "binarize|num_particles|num_epochs|batch_size|latent_dim|learning_rate|num_samples|method|"
    "level|seed"
)
VALUE = r"(?P<quote>['\"]?)(?P<value>[\w.+-]+)(?P=quote)"
# Python's words in a remedy, and those of the command line.
FLAGS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(rf"(?P<before>)Dataset\(\.\.\., (?P<name>{OPTIONS})={VALUE}\)"), _flag),
    (re.compile(rf"(?P<before>\b(?:give|use|set|with|or) )(?P<name>{OPTIONS})={VALUE}"), _flag),
    (re.compile(r"\b(likelihood|prior|posterior|objective)s\.(?=[A-Z])"), r"--\1 "),
    (re.compile(r"\bTraining\((\w+)=([\w.]+)\)"), r"--set training.\1=\2"),
)


def in_flags(said: str) -> str:
    """A message in the words of the command line: options instead of Python's keywords.

    Args:
        said: The message.

    Example:
        >>> in_flags("x is 0.3: binarise the data (Dataset(..., binarize='dynamic'))")
        'x is 0.3: binarise the data (--binarize dynamic)'
        >>> in_flags("use likelihoods.Gaussian, or give num_particles=500")
        'use --likelihood Gaussian, or give --num-particles 500'
    """
    for pattern, flag in FLAGS:
        said = pattern.sub(flag, said)
    return said
