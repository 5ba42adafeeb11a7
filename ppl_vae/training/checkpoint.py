"""A run's whole state in one file, written whole, holding tensors and plain values only."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ppl_vae.runtime.files import write_whole
from ppl_vae.training.result import FitResult
from ppl_vae.training.state import Weights, read_tensors

FORMAT = 2  # of the file; raised whenever what is in it, or what it means, changes


@dataclass
class Best:
    """The best epoch so far; its weights are kept only where early stopping will want them."""

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
    """Write everything that the next epoch needs; `memory` is that of optimiser, scheduler and gradient estimator."""
    state = {"format": FORMAT, "settings": settings, "weights": weights, "result": asdict(result)} | memory
    state["best"] = {"value": best.value, "epoch": best.epoch, "weights": best.weights}
    write_whole(path, lambda p: torch.save(state, p))


def read_checkpoint(path: str | Path, settings: dict[str, str]) -> dict[str, Any] | None:
    """The state in the file, or None where there is no file yet.

    Raises:
        ValueError: the file was made with other settings, has another format, or is no checkpoint.
    """
    if not Path(path).exists():
        return None
    state = read_tensors(path, "checkpoint")
    if "settings" not in state:
        raise ValueError(f"{path} is no checkpoint written by ppl_vae.fit: choose another file")
    if state.get("format", 1) != FORMAT:
        raise ValueError(
            f"{path} has format {state.get('format', 1)} and this version of ppl_vae reads format {FORMAT}: "
            "delete it to start afresh, or go on with the version that wrote it"
        )
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            raise ValueError(
                f"{path} was made with {name}={state['settings'].get(name)}, not {value}: "
                "delete it to start afresh, or go on with the same settings"
            )
    return state
