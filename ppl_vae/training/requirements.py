"""The requirements of `fit` on objective, rows and programs, checked before the first step."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import blocks, taken
from ppl_vae.model import Model
from ppl_vae.objectives import Bound
from ppl_vae.programs.modules import arguments, evaluating, modules_of
from ppl_vae.programs.observed.site_of_x import entries_of_x, is_all_of_x
from ppl_vae.programs.sites import frame_of, sample_sites
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.programs.validation import check_programs
from ppl_vae.runtime.digests import digest
from ppl_vae.runtime.distributed import num_processes
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import counted, without_address
from ppl_vae.training.record import FitResult
from ppl_vae.training.settings import Training

logger = logging.getLogger(__name__)

NUM_FRACTIONS = 256  # of training, at which a schedule is read


def check_objective(objective: Any, training: Training) -> None:
    """Raise if it is not an objective, or its KL cannot be annealed as the settings request."""
    if not isinstance(objective, ELBO):
        name = type(objective).__name__
        if isinstance(objective, type):
            name = f"the class {objective.__name__}"
        raise TypeError(
            f"objective is {name}; it must be one of ppl_vae.objectives, an instance and not the "
            "class, or a pyro.infer ELBO"
        )
    if training.anneals:
        if not isinstance(objective, Bound):
            raise ValueError(
                f"the KL of {type(objective).__name__} cannot be annealed: use one of ppl_vae's "
                "objectives"
            )
        objective.annealed(1.0)  # MCEM refuses


def check_held_out(training: Training, exists: bool) -> None:
    """Raise if a setting needs validation rows and there are none."""
    for name in ("patience", "refit"):
        if getattr(training, name) and not exists:
            raise ValueError(
                f"{name}={getattr(training, name)} needs held-out data: use "
                "data.split(valid=0.1), or leave it out"
            )


def check_batches(
    objective: ELBO, num_rows: int, num_parts: int, programs: tuple[Program, Program]
) -> None:
    """Raise if batches, or their parts, have too few rows for the objective or the networks."""
    fewest = getattr(objective, "fewest_rows", 1)
    if num_rows // num_parts < fewest > 1:
        raise ValueError(
            f"{type(objective).__name__} compares rows with each other: it needs {fewest} rows in "
            f"each batch, and in each of its parts, not {num_rows // num_parts}: raise batch_size, "
            "or lower num_parts"
        )
    if num_rows < 2 * num_parts * num_processes() and has_module(nn.BatchNorm1d, *programs):
        raise ValueError(
            "batch normalisation needs 2 rows in each part of a batch, not "
            f"batch_size={num_rows} in {num_parts} parts: raise batch_size, or lower num_parts"
        )


def check_weights(objective: ELBO, train: Dataset) -> None:
    """Raise if rows have weights and the objective compares rows with each other."""
    if train.weights is not None and getattr(objective, "fewest_rows", 1) > 1:
        raise ValueError(
            f"{type(objective).__name__} compares rows with each other and takes no weights of "
            "rows: use another objective, or Dataset(...) without weights"
        )


def check_programs_for(
    objective: ELBO, model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> None:
    """Check the programs on one batch; warn if an objective would have nothing to sum out."""
    if isinstance(objective, Bound):
        check_programs(model, guide, *batch)
        _check_scale(model, guide, batch)
        if getattr(objective, "redraws_x", False):
            _check_redrawn(model, batch)
    elif isinstance(objective, TraceEnum_ELBO):
        rows = [part[:2] for part in batch]
        with evaluating(model, guide), seeded(0):
            traces: Any = [poutine.trace(program).get_trace(*rows) for program in (model, guide)]
        sites = [site for trace in traces for site in trace.nodes.values()]
        if not any((site.get("infer") or {}).get("enumerate") for site in sites):
            logger.warning(
                "no site is marked for enumeration, so TraceEnum_ELBO sums none out: wrap the "
                "guide in pyro.infer.config_enumerate (or the model, if the guide does not "
                'contain the site), or set infer={"enumerate": "parallel"} at the site'
            )


def _check_scale(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> None:
    """Raise where `poutine.scale` multiplies the model alone: a bound takes a guide's like it."""
    if type(model) is Model:  # without a handler around it, or one of a subclass
        return
    with evaluating(model, guide), seeded(0):
        terms = log_terms(model, guide, *batch)
    local = [site for site in sample_sites(terms.guide_trace) if frame_of(site)]
    if not local or any(isinstance(s["scale"], Tensor) or s["scale"] != 1 for s in local):
        return
    plate = frame_of(local[0])
    factor = terms.num_rows / plate.size
    if not torch.allclose(torch.as_tensor(terms.scale).double(), torch.tensor(factor).double()):
        raise ValueError(
            "the model scales its rows (poutine.scale) and the guide does not: scale both alike, "
            "give rows weights by Dataset(weights=...), or take one of Pyro's objectives, which "
            "scale the model's terms alone"
        )


def _check_redrawn(model: Program, batch: tuple[Tensor, ...]) -> None:
    """Raise unless one site observes x as it is, so that the guide can be given a draw of it."""
    found = entries_of_x(model, batch)
    size = batch[0][0].numel()
    if not any(is_all_of_x(places, size) for places in found.values()):
        raise ValueError(
            "the sleep phase feeds the model's draw of x back to the guide, so one site must "
            "observe all of x as it is given: transform x before the model and the guide"
        )


def has_module(kind: type[nn.Module], *programs: Program) -> bool:
    """Whether one of the programs has a module of this kind."""
    modules = modules_of(*programs)
    return any(isinstance(part, kind) for module in modules for part in module.modules())


def rows_of(data: Dataset, rows: Tensor, x: Any = None) -> tuple[Tensor, ...]:
    """The arguments of model and guide for these rows, by default of their x."""
    return tuple(taken(each, rows) for each in arguments(data, x=x))


def with_weights(args: tuple[Tensor, ...], data: Dataset, rows: Tensor) -> tuple[Tensor, ...]:
    """The same, and the weights of these rows, of mean one over all rows, if there are any."""
    if data.weights is None:
        return args
    return *args, data.weights[rows.to(data.weights.device)] * (len(data) / data.sum_of_weights)


def in_words(item: Any) -> str:
    """An object in words that are the same in every process: without its address."""
    if isinstance(item, nn.Module):
        return "\n".join(_parts(item))
    shown = without_address(repr(item))
    if shown == repr(item) or not hasattr(item, "__dict__"):
        return shown
    plain = {
        name: value
        for name, value in sorted(vars(item).items())
        if isinstance(value, bool | int | float | str | None)
    }
    return f"{shown}, {plain}"


def _parts(module: nn.Module) -> Iterator[str]:
    """How each part is built; not its repr, which may also tell why it was chosen."""
    for name, part in module.named_modules():
        yield f"{name}: {type(part).__name__}({without_address(part.extra_repr())})"


def identity(data: Dataset, **programs: Program) -> dict[str, str]:
    """What a resumed training must share: digests of the rows, and how the modules are built."""
    found = {name: in_words(each) for name, each in programs.items()}
    parts = {"x": data.train.x, "covariates": data.train.context, "weights": data.train.weights}
    parts |= data.train.args
    if "valid" in data.splits:
        held_out = data.valid
        parts["validation rows"] = held_out.x
        parts["validation covariates"] = held_out.context
        parts["validation weights"] = held_out.weights
    known = {name: values for name, values in parts.items() if values is not None}
    return found | {name: digest(blocks(values)) for name, values in known.items()}


def continued(training: Training, before: dict[str, Any]) -> FitResult:
    """The record in a checkpoint, under the settings that it goes on with."""
    result = FitResult(**before)
    num_epochs = int(result.settings.get("num_epochs", training.num_epochs))
    message = rescheduled(training, num_epochs)
    if message is not None:
        logger.warning("%s: %s", training.checkpoint, message)
    result.settings = training.in_words()
    return result


def rescheduled(training: Training, num_epochs: int) -> str | None:
    """A sentence if a resumed training was of another number of epochs, and a schedule varies.

    Example:
        >>> from ppl_vae.training.schedules import Cosine
        >>> rescheduled(Training(num_epochs=12, learning_rate=Cosine(1e-3)), 6)
        'learning_rate depends on the fraction of num_epochs, which was 6 and is 12: the result \
differs from that of one training of 12 epochs'
        >>> rescheduled(Training(num_epochs=12, learning_rate=1e-3), 6)
    """
    given = {"learning_rate": training.learning_rate, "kl_schedule": training.kl_schedule}
    varying = [name for name, schedule in given.items() if callable(schedule) and _varies(schedule)]
    if not varying or training.num_epochs == num_epochs:
        return None
    depend = "depends" if len(varying) == 1 else "depend"
    return (
        f"{' and '.join(varying)} {depend} on the fraction of num_epochs, which was {num_epochs} "
        f"and is {training.num_epochs}: the result differs from that of one training of "
        f"{counted(training.num_epochs, 'epoch')}"
    )


def _varies(schedule: Callable[[float], float]) -> bool:
    """Whether a schedule has more than one value."""
    first = schedule(0.0)
    return any(schedule(i / NUM_FRACTIONS) != first for i in range(1, NUM_FRACTIONS + 1))
