"""The tensors of programs in a safetensors file: shapes, types and numbers, no code."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ppl_vae.experiment.config import ConfigError
from ppl_vae.runtime.files import FORMAT, migrated, write_whole

FORMAT_KEY = "ppl_vae_format"


def check_format(found: object, path: Path) -> None:
    """Refuse files of a newer version, or without a number."""
    if not str(found).isdecimal():
        raise ConfigError(f"{path} is no file of a run")
    migrated("weights", {"format": found}, path, ConfigError)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors by name; returns the SHA-256 digest of the file."""
    ready = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
    content = save(ready, {FORMAT_KEY: str(FORMAT)})
    write_whole(path, lambda p: p.write_bytes(content))
    return digest_of(path)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file with this digest, on the CPU.

    Raises:
        ConfigError: No such file, a damaged one, or one with another digest or format.
    """
    if not path.is_file():
        raise ConfigError(f"{path.parent} is not complete: there is no {path.name}")
    if digest_of(path) != sha256:
        raise ConfigError(
            f"{path} is not the file that run.json names: its SHA-256 digest differs, so it was "
            "changed or cut short"
        )
    try:
        with safe_open(path, framework="pt") as file:
            check_format((file.metadata() or {}).get(FORMAT_KEY), path)
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def digest_of(path: Path) -> str:
    """SHA-256 digest of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(programs: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once and under its first name."""
    state = programs.state_dict(keep_vars=True)
    names = first_names(state)
    return {name: each for name, each in state.items() if names[name] == name}


def first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name of a state the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(each), name) for name, each in state.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, each in tensors.items() if not torch.isfinite(each).all()]


def put(
    programs: nn.Module, tensors: Mapping[str, Tensor], infinite: Iterable[str], path: Path
) -> None:
    """Give programs these weights, in their types; nothing is changed unless all of them fit.

    Args:
        programs: The programs.
        tensors: Weights by their first names.
        infinite: Names of buffers that may hold infinity, as a mask does.
        path: Where they come from, for messages.

    Raises:
        ConfigError: A weight is missing, unknown, of another shape, or not finite.
    """
    state = programs.state_dict(keep_vars=True)
    names = first_names(state)
    wanted = dict.fromkeys(names.values())
    broken = [name for name in not_finite(tensors) if name not in infinite]
    if broken:
        raise ConfigError(f"{path}: {broken[0]} holds NaN or infinity: train the model again")
    for name in [*wanted, *tensors]:
        if name not in tensors or name not in wanted:
            has = "has no" if name not in tensors else "has a further"
            raise ConfigError(f"{path} {has} weight {name}: it is for other programs")
        if state[name].shape != tensors[name].shape:
            shapes = tuple(tensors[name].shape), tuple(state[name].shape)
            raise ConfigError(
                f"{path}: {name} has shape {shapes[0]}, and that of these programs {shapes[1]}"
            )
    for name, each in state.items():
        each.data = each.data.to(tensors[names[name]].dtype)
    for name, each in programs.named_buffers():
        if name not in state and each.is_floating_point():  # a constant that is not saved
            each.data = each.data.to(_float_type_around(name, state))
    programs.load_state_dict({name: tensors[first] for name, first in names.items()})


def _float_type_around(name: str, state: Mapping[str, Tensor]) -> torch.dtype:
    """The floating type of the weights of the smallest module around a buffer that has some."""
    around = name
    while around:
        around = around.rpartition(".")[0]
        prefix = around + "." * bool(around)
        for other, each in state.items():
            if other.startswith(prefix) and each.is_floating_point():
                return each.dtype
    return torch.get_default_dtype()
