"""Messages in the words of the command line: options instead of Python's keywords."""

import ast
import json
import re
import shlex
from collections.abc import Collection
from typing import Any

__all__ = ["in_flags"]


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
KEYWORD = re.compile(rf"(?P<before>\b(?:give|use|set|with|or) )(?P<name>{OPTIONS})={VALUE}")
FLAGS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(rf"Dataset\(\.\.\., binarize={VALUE}\)"), r"--binarize \g<value>"),
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


# A command that is named with its options, or an option alone.
NAMED = re.compile(r"ppl-vae [a-z][a-z-]* [^`;)]*|(?<![\w`'-])--[a-z]+(?:-[a-z]+)*")


def in_flags(said: str, own: Collection[str] | None = None) -> str:
    """A message in the words of the command line: options instead of Python's keywords.

    An option of training that the command lacks is named with `ppl-vae fit`; keywords that it
    cannot be given remain Python's.

    Args:
        said: The message.
        own: The options of the command; None are those that are needed.

    Example:
        >>> in_flags("x is 0.3: binarise the data (Dataset(..., binarize='dynamic'))")
        'x is 0.3: binarise the data (--binarize dynamic)'
        >>> in_flags("use likelihoods.Gaussian, or give num_particles=500")
        'use --likelihood Gaussian, or give --num-particles 500'
        >>> in_flags("use likelihoods.Gaussian, or give num_particles=500", own=["--seed"])
        'use ppl-vae fit --likelihood Gaussian, or give num_particles=500'
    """

    def option(found: re.Match[str]) -> str:
        flag = f"--{found['name'].replace('_', '-')}"
        is_own = own is None or flag in own
        return f"{found['before']}{flag} {found['value']}" if is_own else found[0]

    def named(found: re.Match[str]) -> str:
        is_own = own is None or found[0].startswith("ppl-vae") or found[0] in own
        return found[0] if is_own else f"ppl-vae fit {found[0]}"

    said = KEYWORD.sub(option, said)
    for pattern, flag in FLAGS:
        said = pattern.sub(flag, said)
    return NAMED.sub(named, said)
