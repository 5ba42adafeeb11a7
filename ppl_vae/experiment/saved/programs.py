"""Model and guide of a saved run: what is written of them, and how they are made again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.saved.describe import ARGUMENT, CustomError, Description
from ppl_vae.experiment.saved.document import Programs
from ppl_vae.experiment.saved.rebuild import rebuild
from ppl_vae.experiment.saved.weights import (
    not_finite,
    put,
    read_tensors,
    state_of,
    write_tensors,
)
from ppl_vae.guide import Guide
from ppl_vae.importance import log_weights
from ppl_vae.model import Model, weights_of
from ppl_vae.programs.modules import as_asked, module_of, place
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import one_line

WEIGHTS = "weights.safetensors"
FACTS = ("columns", "levels", "num_train", "unobserved")
NUM_CHECKED = 5  # rows on which programs that were made again are compared
CHANGED = "the programs differ from what their constructors make: they were changed afterwards"


def write_programs(folder: Path, model: Program, guide: Program, data: Dataset) -> Programs:
    """Write the weights, and describe the programs.

    Raises:
        ValueError: No module is found behind the programs, or a parameter is not finite.
    """
    both = joined(model, guide)
    state = state_of(both)
    infinite = _infinite_buffers(both, state)
    description: dict[str, Any] | None = None
    tensors: dict[str, Tensor] = {}
    custom = ""
    try:
        found = _described(model, guide, data)
        description = found.to_json()
        tensors = found.tensors
    except CustomError as error:
        custom = str(error)
    parts = [part for part in (model, guide) if isinstance(part, Model | Guide)]
    return Programs(
        description=description,
        custom=custom,
        names=names_of(model, guide),
        facts={"model": facts_of(model), "guide": facts_of(guide)},
        sha256=write_tensors(folder / WEIGHTS, state | tensors),
        infinite=tuple(infinite),
        is_new=bool(parts) and all(part.num_train is None and part.is_new for part in parts),
    )


def read_programs(
    folder: Path, saved: Programs, model: Program | None, guide: Program | None
) -> tuple[Program, Program]:
    """Model and guide with their weights: made again, or those that are given.

    Raises:
        ConfigError: The programs are custom and not given, or the weights do not fit.
    """
    path = folder / WEIGHTS
    tensors = read_tensors(path, saved.sha256)
    if model is None or guide is None:
        if saved.description is None:
            raise ConfigError(
                f"{folder} holds the weights of custom programs ({saved.custom}): make them, "
                "and give load_run(folder, model=model, guide=guide)"
            )
        columns = saved.facts["model"].get("columns", {})
        try:
            with as_asked():  # weights made in inference mode could never be used outside of it
                model, guide = rebuild(saved.description, tensors, names_by_part(columns))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(f"{folder / 'run.json'} is damaged: {one_line(error)}") from error
    weights = {name: each for name, each in tensors.items() if not name.startswith(ARGUMENT)}
    put(joined(model, guide), weights, saved.infinite, path)
    for name, program in (("model", model), ("guide", guide)):
        take_facts(program, saved.facts[name])
        if saved.is_new and isinstance(program, Model | Guide):
            program.made = weights_of(program)
    return model, guide


def joined(model: Program, guide: Program) -> nn.Module:
    """The modules behind both programs as one, that of the guide first.

    Raises:
        ValueError: There are none.
    """
    modules = {"guide": module_of(guide), "model": module_of(model)}
    found = {name: module for name, module in modules.items() if module is not None}
    if not found:
        raise ValueError(
            "no torch module is found behind model and guide, so there are no weights to save: "
            "make them nn.Modules"
        )
    return nn.ModuleDict(found)


def names_of(model: Program, guide: Program) -> dict[str, str]:
    """Names of the classes of model, guide and their parts."""
    parts = {"prior": model, "likelihood": model, "posterior": guide}
    found = {name: getattr(owner, name, None) for name, owner in parts.items()}
    return {
        "model": _called(model),
        "guide": _called(guide),
        **{name: "custom" if part is None else _called(part) for name, part in found.items()},
    }


def _called(program: Any) -> str:
    """The name of a function, or of the class of an object."""
    return getattr(program, "__name__", type(program).__name__)


def facts_of(program: Program) -> dict[str, Any]:
    """What a model or a guide knows of its training rows."""
    if not isinstance(program, Model | Guide):
        return {}
    return {name: getattr(program, name) for name in FACTS if hasattr(program, name)}


def take_facts(program: Program, facts: Mapping[str, Any]) -> None:
    """Tell a model or a guide of the rows that it was trained on."""
    if not isinstance(program, Model | Guide) or not facts:
        return
    program.columns = names_by_part(facts["columns"])
    program.levels = names_by_part(facts["levels"])
    program.num_train = facts["num_train"]
    if isinstance(program, Model):
        program.unobserved = tuple(facts["unobserved"])


def names_by_part(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names in tuples, which JSON has as lists."""
    return {part: tuple(names) for part, names in values.items()}


def _infinite_buffers(both: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Names of buffers that hold infinity; a parameter that does is refused."""
    found = not_finite(state)
    parameters = {name for name, _ in both.named_parameters(remove_duplicate=False)}
    broken = [name for name in found if name in parameters]
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or infinity: train the model again")
    return found


def _described(model: Program, guide: Program, data: Dataset) -> Description:
    """The description; CustomError where the programs, made again, have other log-weights."""
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        raise CustomError(f"{_called(model)} and {_called(guide)} are not a Model and a Guide")
    found = Description(model, guide)
    state = {name: each.detach() for name, each in state_of(joined(model, guide)).items()}
    again = rebuild(found.to_json(), state | found.tensors, model.columns)
    rows = place(data[:NUM_CHECKED], model, guide)
    expected = _some_log_weights(model, guide, rows)
    try:
        put(joined(*again), state, state, Path(WEIGHTS))
    except ConfigError as error:
        raise CustomError(CHANGED) from error
    for program, original in zip(again, (model, guide), strict=True):
        take_facts(program, facts_of(original))
        program.to(rows.x.device)
    repeated = _some_log_weights(*again, rows)
    if not torch.equal(expected.nan_to_num(), repeated.nan_to_num()):
        raise CustomError(CHANGED)
    return found


def _some_log_weights(model: Program, guide: Program, rows: Dataset) -> Tensor:
    """Log-weights of a few particles, (K, B), from the same seed."""
    return log_weights(model, guide, rows, num_particles=2, seed=0)
