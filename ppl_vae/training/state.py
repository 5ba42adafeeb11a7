"""The tensors that training changes, parameters and buffers: copied, put back, saved and loaded."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.errors import DamagedFileError, OtherSettingsError
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.forms.probe import difference
from ppl_vae.programs.modules import in_store, module_of, own_parameters
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.sealed import read_tensors, write_tensors
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training.record import FitResult

__all__ = ["load_weights", "save_weights"]

FORMAT = 3  # of a checkpoint; raised whenever what is in it, or what it means, changes
DIGESTED = {  # settings that are known by a digest or a long text, in words
    "model": "another model",
    "guide": "another guide",
    "data": "other rows",
    "model and guide": "another model or guide, or other weights,",
    "x": "other training rows",
    "covariates": "other covariates of the training rows",
    "weights": "other weights of the training rows",
    "validation rows": "other validation rows",
    "validation covariates": "other covariates of the validation rows",
    "validation weights": "other weights of the validation rows",
}
Weights = dict[str, dict[str, Tensor]]


class State:
    """All tensors behind model and guide, wrapped in functions or not.

    They are the state of modules, and the parameters that programs keep in Pyro's store.
    """

    def __init__(self, model: Program, guide: Program, run_once: Callable[[], object]) -> None:
        programs = {"model": model, "guide": guide}
        found = {name: module_of(program) for name, program in programs.items()}
        self.modules = {name: module for name, module in found.items() if module is not None}
        _check_names(self.modules.values())
        self.named: dict[str, Tensor] = {}
        if not all(isinstance(program, Model | Guide) for program in programs.values()):
            self.named = _store_parameters(model, guide, run_once)
        if all(isinstance(program, nn.Module) for program in programs.values()):
            self.named = in_store(self.named)
        self.infinite = frozenset(_infinite(self._tensors()))  # a mask's buffer, say

    @property
    def parameters(self) -> list[Tensor]:
        """Trainable tensors, each once (a VampPrior shares the guide's)."""
        return list(dict.fromkeys(self.trainable.values()))

    @property
    def versions(self) -> list[int]:
        """How often each tensor was changed in place."""
        return [each._version for group in self._tensors().values() for each in group.values()]

    @property
    def trainable(self) -> dict[str, Tensor]:
        """The same by name."""
        found: dict[str, Tensor] = {
            f"{which}.{name}": parameter
            for which, module in self.modules.items()
            for name, parameter in module.named_parameters()
        }
        found |= {f"named.{name}": parameter for name, parameter in self.named.items()}
        return {name: p for name, p in found.items() if p.requires_grad}

    def take(self) -> Weights:
        """A copy of all weights."""
        return {
            name: {k: v.detach().clone() for k, v in group.items()}
            for name, group in self._tensors().items()
        }

    def broken(self) -> str | None:
        """Name of the first tensor that has become NaN or infinite, or None."""
        return next((n for n in _infinite(self._tensors()) if n not in self.infinite), None)

    def put(self, weights: Weights) -> None:
        """Set all weights to a copy taken before."""
        for name, module in self.modules.items():
            module.load_state_dict(weights[name])
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(weights["named"][name])

    def check_resumed(self, path: Any, kept: dict[str, Any], *on_batch: Any) -> None:
        """Raise unless a checkpoint, whose weights are in place, is of these programs.

        Args:
            path: The file.
            kept: What it holds.
            on_batch: The programs, and their arguments for the first batch.
        """
        broken = self.broken()
        if broken is not None:
            raise DamagedFileError(
                f"{path}: {broken} holds NaN or infinity: delete the file to start afresh"
            )
        known = kept.get("probe")  # earlier versions wrote none
        found = difference(known, *on_batch) if known else ""
        if found:
            raise OtherSettingsError(
                f"{path} was written with {found} at equal weights: delete it to start afresh, or "
                "continue with the same"
            )

    def _tensors(self) -> Weights:
        states = {name: module.state_dict() for name, module in self.modules.items()}
        return states | {"named": self.named}


def _infinite(weights: Weights) -> Iterator[str]:
    """Names of tensors with a value that is not finite."""
    for group, tensors in weights.items():
        for name, values in tensors.items():
            if not torch.isfinite(values).all():
                yield f"{group}.{name}"


def _check_names(modules: Iterable[nn.Module]) -> None:
    """Raise ValueError if two parameters have one name, which Pyro's store would merge."""
    known: dict[str, Tensor] = {}
    parts = [part for module in modules for part in module.modules()]
    for part in parts:
        for name in part._pyro_params if isinstance(part, PyroModule) else ():
            full_name = f"{part._pyro_name}.{name}" if part._pyro_name else name
            parameter = getattr(part, f"{name}_unconstrained")
            if known.setdefault(full_name, parameter) is not parameter:
                raise ValueError(
                    f"model and guide both have a PyroParam {full_name!r}, which Pyro would "
                    "merge: rename one of them"
                )


def _store_parameters(
    model: Program, guide: Program, run_once: Callable[[], object]
) -> dict[str, Tensor]:
    """Parameters that programs keep in Pyro's store, found by two runs.

    Raises:
        ValueError: a program registers a new `nn.Parameter` at each run, so none could be trained.
    """
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        with own_parameters(model, guide), poutine.trace(param_only=True) as capture:
            with seeded(0), pyro.validation_enabled(False):
                run_once()
            sites: Any = capture.trace.nodes
            runs.append({name: _unconstrained(site["value"]) for name, site in sites.items()})
    first, again = runs
    for name, value in first.items():
        if isinstance(value, nn.Parameter) and value is not again[name]:
            raise ValueError(
                f"parameter {name!r} is a new nn.Parameter at each run: give pyro.param a tensor, "
                "or make the parameter outside the program"
            )
    return first


def _unconstrained(value: Any) -> Tensor:
    """The tensor behind a parameter; itself where a module holds it."""
    return value.unconstrained() if hasattr(value, "unconstrained") else value


def save_weights(path: str | Path, model: nn.Module, guide: nn.Module) -> Path:
    """Write the state of model and guide, with their facts about the training rows, to one file.

    The file cannot execute code when it is loaded.

    Args:
        path: The file.
        model: The model.
        guide: The guide.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> model, guide = nn.Linear(2, 3), nn.Linear(3, 2)
        >>> path = save_weights(tempfile.mkdtemp() + "/weights.pt", model, guide)
        >>> load_weights(path, model, guide)
    """
    programs = {"model": model, "guide": guide}
    state: dict[str, Any] = {name: module.state_dict() for name, module in programs.items()}
    of_data: dict[str, Any] = {"columns": {}, "levels": {}, "num_train": None, "unobserved": ()}
    for known, default in of_data.items():
        state[known] = {name: getattr(part, known, default) for name, part in programs.items()}
    return write_whole(path, lambda p: torch.save(state, p))


def load_weights(path: str | Path, model: nn.Module, guide: nn.Module) -> None:
    """Load a file of `save_weights` into a model and guide of the same structure.

    Args:
        path: The file.
        model: The model, built as the saved one.
        guide: The guide, built as the saved one.

    Raises:
        ValueError: it is another kind of file, or the structure, the names of columns or their
            levels differ; the message names the first difference.

    Example:
        >>> load_weights("missing.pt", nn.Linear(1, 1), nn.Linear(1, 1))
        Traceback (most recent call last):
        FileNotFoundError: no weights at missing.pt
    """
    state = read_tensors(path, "weights")
    programs = {"model": model, "guide": guide}
    if not all(isinstance(state.get(name), dict) for name in programs):
        raise DamagedFileError(
            f"{path} holds no weights written by save_weights, of a model and a guide: choose "
            "another file, or give a bare state to model.load_state_dict"
        )
    for name, module in copy.deepcopy(programs).items():  # both fit, or neither is changed
        try:
            module.load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError) as error:
            detail = " ".join(str(error).split())
            raise ValueError(f"{path} does not fit this {name}: {detail}") from error
    for name, module in programs.items():
        module.load_state_dict(state[name])
        if isinstance(module, Model | Guide):
            module.columns = state.get("columns", {}).get(name, {})
            module.levels = state.get("levels", {}).get(name, {})
            module.num_train = state.get("num_train", {}).get(name)
        if isinstance(module, Model):
            module.unobserved = state.get("unobserved", {}).get(name, ())


@dataclass
class Best:
    """The best epoch so far; its weights are kept only if early stopping may need them."""

    value: float = float("-inf")
    epoch: int = 0
    weights: Weights | None = None


def write_checkpoint(
    path: str | Path,
    settings: dict[str, str],
    weights: Weights,
    memory: dict[str, Any],
    result: FitResult,
    best: Best,
) -> None:
    """Write the state for the next epoch; `memory` is that of optimiser and estimator."""
    state = memory | {
        "format": FORMAT,
        "settings": settings,
        "weights": weights,
        "result": asdict(result),
        "best": vars(best),
    }
    write_tensors(path, state)


def read_checkpoint(
    path: str | Path, settings: dict[str, str], last: int | None = None
) -> dict[str, Any] | None:
    """The state in the file, or None if there is no file yet; `last` is the last epoch wanted.

    Raises:
        ValueError: the file has other settings or another format, is of a later epoch, or is not a
            checkpoint.
    """
    if not Path(path).exists():
        return None
    state = read_tensors(path, "checkpoint")
    if "settings" not in state:
        raise DamagedFileError(
            f"{path} is not a checkpoint written by ppl_vae.fit: choose another file"
        )
    if state.get("format", 1) != FORMAT:
        raise OtherSettingsError(
            f"{path} has format {state.get('format', 1)} and this version of ppl_vae reads format "
            f"{FORMAT}: delete it to start afresh, or continue with the version that wrote it"
        )
    for name in {**settings, **state["settings"]}:
        was = state["settings"].get(name)
        if was != settings.get(name):
            raise OtherSettingsError(_different(path, name, was, settings.get(name)))
    done = FitResult(**state["result"]).num_epochs
    if last is not None and done > last:
        raise OtherSettingsError(
            f"{path} is of {done} epochs, more than the {last} of this training: set "
            f"num_epochs={done} for its result, or delete it to start afresh"
        )
    return state


def _different(path: str | Path, name: str, was: str | None, value: str | None) -> str:
    """What differs between a checkpoint and the call that should continue it."""
    remedy = "delete it to start afresh, or continue with the same"
    if name in DIGESTED:
        return f"{path} was written with {DIGESTED[name]}: {remedy}"
    return f"{path} was written with {name}={was}, not {value}: {remedy} settings"
