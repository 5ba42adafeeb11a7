"""Messages in the words of the command line: options instead of Python's keywords."""

import ast
import json
import re
import shlex
from typing import Any

__all__ = ["in_flags"]


def _flag(found: re.Match[str]) -> str:
    """A keyword as an option."""
    return f"{found['before']}--{found['name'].replace('_', '-')} {found['value']}"


def _columns(option: str, name: str) -> str:
    """An option for the column that repr wrote; a comma would end its name there."""
    column = ast.literal_eval(name)
    if "," in column:
        return f"--set {shlex.quote(f'data.{option}={json.dumps([column])}')}"
    return f"--{option} {shlex.quote(column)}"


def _category(found: re.Match[str]) -> str:
    """A column as a category."""
    return _columns("categories", found["name"])


def _na_value(found: re.Match[str]) -> str:
    """A text that is missing; a comma would end it, and a minus may begin another option."""
    text = ast.literal_eval(found["name"])
    if "," in text:
        return f"--set {shlex.quote(f'data.na_values={json.dumps([text])}')}"
    return f"--na-values={shlex.quote(text)}"


def _dropped(found: re.Match[str]) -> str:
    """A column that is left out."""
    where = "of --context"
    if found["role"] == "x":
        where = f"({_columns('drop', found['name'])})"
    return f"{found['before']}leave it out {where}"


def _dropped_first(found: re.Match[str]) -> str:
    """Columns that are left out, of which the message names the first."""
    option = _columns("drop", repr(found["name"]))
    return f"{found[1]}leave {found['them']} out ({option})"


OPTIONS = (
    "binarize|num_particles|num_epochs|batch_size|latent_dim|learning_rate|num_samples|method|"
    "level|seed"
)
VALUE = r"(?P<quote>['\"]?)(?P<value>[\w.+-]+)(?P=quote)"
NAME = r"(?P<name>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"  # of a column, as repr writes it
FIRST = r"(\(the first is (?P<name>(?![\d(])[^)]*)\).*)"
# Python's words in a remedy, and those of the command line.
FLAGS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(rf"(?P<before>)Dataset\(\.\.\., (?P<name>{OPTIONS})={VALUE}\)"), _flag),
    (re.compile(rf"(?P<before>\b(?:give|use|set|with|or) )(?P<name>{OPTIONS})={VALUE}"), _flag),
    (re.compile(r"\b(likelihood|prior|posterior|objective)s\.(?=[A-Z])"), r"--\1 "),
    (re.compile(rf"frame\.astype\(\{{{NAME}: 'category'\}}\)"), _category),
    (re.compile(rf" \(frame\.astype\(\{{{NAME}: float\}}\)\)"), " in the file"),
    (re.compile(rf" \(frame\[{NAME}\]\.str\.(?:strip|lower)\(\)\)"), " in the file"),
    (re.compile(rf"na_values=\[{NAME}\]"), _na_value),
    (re.compile(rf"make it the index \(frame\.set_index\({NAME}\)\), "), ""),
    (re.compile(r", \(t - t\.min\(\)\)\.dt\.days"), ""),
    (re.compile(FIRST + r"leave (?P<them>it|them) out$"), _dropped_first),
    (re.compile(rf"(?P<before>column {NAME} of (?P<role>x|context) .*?)\bdrop it\b"), _dropped),
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
