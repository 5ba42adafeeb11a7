"""Wrong calls generated from signatures: refused in one line that names the argument, or silent."""

import inspect
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import numpy as np
import torch
from test_wrong_calls import CASES, LONGEST, hints_of, is_told, wrong_values

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors

SECONDS = 20  # of one call
BITS = np.random.default_rng(0).integers(2, size=(40, 3))
NOT_CALLED = {"write_report", "save_run", "seeded"}  # take a run, or the program that follows


def functions() -> Iterator[tuple[str, Callable, dict[str, Any]]]:
    """The public functions of a model, a guide and rows, with arguments that are right."""
    torch.manual_seed(0)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(3))
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3)
    data = pv.Dataset(BITS).split(valid=5, test=5)
    right = {"model": model, "guide": guide, "data": data, "x": data.x[:4]}
    for name in sorted(pv.__all__):
        function = getattr(pv, name)
        if not inspect.isfunction(function) or name in NOT_CALLED:
            continue
        needed = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if (parameter.name in right or parameter.default is parameter.empty)
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        if set(needed) <= set(right):
            yield name, function, {each: right[each] for each in needed}


def calls() -> Iterator[tuple[str, str, Callable, dict[str, Any]]]:
    """Name, argument, and the call with a wrong value of it."""
    for name, (kind, arguments) in CASES.items():
        hints = hints_of(kind)
        for argument in inspect.signature(kind).parameters:
            for value in wrong_values(argument, hints.get(argument, Any)):
                yield name, argument, kind, arguments | {argument: value}
    for name, function, arguments in functions():
        hints = _hints(function)
        for argument in inspect.signature(function).parameters:
            for value in wrong_values(argument, hints.get(argument, Any)):
                if argument == "seed" and value is None:
                    continue  # draws from the caller's stream
                yield name, argument, function, arguments | {argument: value}


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # annotations for type checkers alone
        return {}


def soak() -> dict[str, Any]:
    """Every call; how many were refused in one line, otherwise refused, and not refused."""
    found: dict[str, Any] = {"calls": 0, "one line": 0, "raw": [], "silent": []}
    signal.signal(signal.SIGALRM, _late)
    for name, argument, call, arguments in calls():
        found["calls"] += 1
        shown = f"{name}({argument}={arguments[argument]!r:.40})"
        said = _said(call, arguments, argument)
        if said is None:
            found["silent"].append(shown)
        elif said:
            found["raw"].append(f"{shown}: {said}")
        else:
            found["one line"] += 1
    return found


def _late(_number: int, _frame: object) -> None:
    raise TimeoutError(f"not refused within {SECONDS} s")


def _said(call: Callable, arguments: dict[str, Any], argument: str) -> str | None:
    """None if nothing is raised, "" if one line tells, else what was raised."""
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(**arguments)
    except (ValueError, TypeError, OSError) as error:
        said = str(error)
        words = re.sub(r"[_ ]", "", said)
        named = is_told(error, argument) or argument.replace("_", "") in words
        named |= argument == "data" and said.startswith("x ")  # the rows
        told = "\n" not in said and len(said) < LONGEST and named
        return "" if told else f"{type(error).__name__}: {said[:120]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.alarm(0)
    return None
