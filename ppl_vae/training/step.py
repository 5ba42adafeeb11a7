"""A step's loss and gradient: by Pyro's handlers, or by a graph recorded for each batch shape."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.objectives import Bound
from ppl_vae.programs.modules import SMALLER, as_asked, modules_of, own_parameters
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.distributed import add_up, num_processes
from ppl_vae.runtime.memory import memory_in_words
from ppl_vae.runtime.recording import (
    Graph,
    RecordingError,
    check_agreement,
    compiled,
    exchanged,
    first_line,
    recorded,
    replayed,
    unchanged,
)
from ppl_vae.runtime.recording.function import kind_of
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training.settings import Training

logger = logging.getLogger(__name__)

Arguments = tuple[Tensor, ...]

WAYS = RECORDED, COMPILED, REPLAYED = "recorded", "compiled", "replayed as a CUDA graph"
FEWEST_STEPS_TO_RECORD = 300  # recording costs what it saves in 40 to 130 steps
FEWEST_STEPS_TO_COMPILE = 10_000  # and compiling in some thousands


class Step:
    """Loss summed over a batch; the gradient of its mean per observation is left in `.grad`."""

    def __init__(
        self,
        objective: ELBO,
        model: Program,
        guide: Program,
        parameters: list[Tensor],
        batch_size: int,
        half: bool,
    ) -> None:
        # `Any`, since Pyro's base class declares none of the methods that its subclasses share.
        self.objective: Any = objective
        self.model = model
        self.guide = guide
        self.parameters = parameters
        self.batch_size = batch_size
        self.half = half

    def __call__(self, args: Arguments, kl_weight: float = 1.0) -> float:
        """The loss. The nominal batch size divides a smaller last batch too: rows weigh equally."""
        for parameter in self.parameters:
            parameter.grad = None
        objective = self.objective if kl_weight == 1.0 else self.objective.annealed(kl_weight)
        loss = self._loss_and_grads(objective, args)
        gradients = [p.grad for p in self.parameters]
        if all(each is None for each in gradients):
            raise ValueError(
                f"{type(self.objective).__name__} gave no parameter a gradient: make model and "
                "guide PyroModules"
            )
        own = laid_out_as(self.parameters, gradients)
        for parameter, gradient in zip(self.parameters, own, strict=True):
            parameter.grad = gradient
        return loss

    def _loss_and_grads(self, objective: Any, args: Arguments) -> float:
        """By the differentiable loss, because Pyro's `loss_and_grads` misses unregistered
        parameters.

        A few of Pyro's objectives have only the latter.
        """
        with self._precision(args):
            if not hasattr(objective, "differentiable_loss"):
                loss = number(objective.loss_and_grads(self.model, self.guide, *args))
                for parameter in self.parameters:
                    parameter.grad = None if parameter.grad is None else self._mean(parameter.grad)
                return loss
            loss = objective.differentiable_loss(self.model, self.guide, *args)
        self._mean(loss).backward()
        return loss.item()

    def _mean(self, total: Tensor) -> Tensor:
        """Per row; the loss is divided if possible, which is one number."""
        return total / self.batch_size

    def _precision(self, args: Arguments) -> torch.autocast:
        """Matrix products in bfloat16 within, if requested."""
        return torch.autocast(args[0].device.type, torch.bfloat16, enabled=self.half)


class RecordedStep(Step):
    """The same step by a graph, recorded at the first batch of each shape.

    Parameters, buffers, the batch and the KL's weight are inputs of the graph; draws are operations
    in it, and stay fresh. The first graph goes through all `ways` in turn. A graph is used only if
    its loss and gradient agree with those of Pyro's handlers on other rows. If they do not, or
    nothing can be recorded, the handlers run as before, and the log gives the reason.

    References:
        Reed et al. (2022), torch.fx, arXiv:2112.08429; Ansel et al. (2024), PyTorch 2,
        doi:10.1145/3620665.3640366.
    """

    def __init__(self, *parts: Any, ways: tuple[str, ...], level: int) -> None:
        super().__init__(*parts)
        self.level = level
        programs: Any = {"model": self.model, "guide": self.guide}
        self.modules = nn.ModuleDict(programs)
        self.graphs: dict[tuple[Any, ...], Graph | None] = {}
        self.said: set[str] = set()
        self.keeps_batch = False
        self.batch: Arguments | None = None  # the last of the largest ones, if it is kept
        self.renew(ways)

    def renew(self, ways: tuple[str, ...]) -> None:
        """Record afresh, as the programs are now; by the handlers alone if there are no ways."""
        self.ways = ways
        self.graphs.clear()
        frozen = [p for p in self.modules.parameters() if not p.requires_grad]
        self.others = [*self.modules.buffers(), *frozen]
        self.names: dict[Tensor, str] = {p: name for name, p in self.modules.named_parameters()}

    def __call__(self, args: Arguments, kl_weight: float = 1.0) -> float:
        """The loss, from the graph if there is one."""
        if not self.ways:
            return super().__call__(args, kl_weight)
        if self.keeps_batch and (self.batch is None or len(args[0]) >= len(self.batch[0])):
            self.batch = args
        kind = kind_of(args)
        if kind not in self.graphs:
            self.graphs[kind] = self._graph(args)
        graph = self.graphs[kind]
        if graph is None:
            return super().__call__(args, kl_weight)
        loss, *gradients = graph(*self._inputs(args, kl_weight))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss.item()

    def example(self) -> tuple[Any, ...]:
        """Inputs of the graph that stay as they are now, with the batch that was kept."""
        assert self.batch is not None
        values, others, args, weight = self._copied_inputs(self.batch, kl_weight=0.5)
        return [value.clone() for value in values], others, args, weight

    def outcome(
        self, inputs: tuple[Any, ...], of_batch: Callable[..., Tensor]
    ) -> list[Tensor | None] | None:
        """Loss, gradient and a function of the batch by Pyro's handlers, with the same draws.

        None if the programs fail or keep a state.
        """
        values, others, args, weight = inputs
        others = [other.clone() for other in others]
        held = [*self.parameters, *self.others]
        try:
            with unchanged(self.modules), seeded(1):
                found = self._loss_and_gradient(values, others, args, weight)
                with exchanged(self.modules, held, [*values, *others]):
                    return [*found, of_batch(*args)]
        # Whatever it was: if it is the program's own, the next step will raise it again.
        except Exception:
            return None

    def _graph(self, args: Arguments) -> Graph | None:
        """A graph for batches of this shape, or None."""
        start = time.perf_counter()
        found = None
        outcome = ""
        for way in self.ways[:1] if self.graphs else self.ways:
            try:
                with unchanged(self.modules):
                    made = self._made(way, found, args)
                with unchanged(self.modules), self._own_gradients():
                    self._check(made, args)
            # Whatever it was: if it is the program's own, the handlers will raise it again.
            except Exception as error:
                outcome = ", ".join(filter(None, [outcome, f"not {way}: {first_line(error)}"]))
                break
            found = made
            outcome = way
        level = self.level if ":" in outcome else logging.INFO
        if outcome in self.said:
            level = logging.DEBUG
        logger.log(level, "training step %s (%.1f s)", outcome, time.perf_counter() - start)
        self.said |= {outcome, RECORDED}  # smaller batches are never compiled
        return found

    def _made(self, way: str, graph: Any, args: Arguments) -> Graph:
        """The step in this way, from the graph that the way before it made."""
        if way == RECORDED:
            return recorded(self._loss_and_gradient, *self._copied_inputs(args))
        if way == COMPILED:
            return compiled(graph, *self._copied_inputs(args))
        values, others, args, weight = self._inputs(args)

        replay = replayed(
            lambda *inputs: graph(values, others, inputs[:-1], inputs[-1]), *args, weight
        )
        return lambda _values, _others, args, weight: replay(*args, weight)

    def _inputs(self, args: Arguments, kl_weight: float = 1.0) -> tuple[Any, ...]:
        """Trained values, other tensors of the modules, the batch, the KL's weight."""
        values = [p.detach() for p in self.parameters]
        others = [other.detach() for other in self.others]
        # It has no dimensions, so it promotes no float32.
        weight = args[0].new_tensor(kl_weight, dtype=torch.float64)
        return values, others, args, weight

    def _copied_inputs(self, args: Arguments, kl_weight: float = 1.0) -> tuple[Any, ...]:
        """The same, with buffers that a trial run may change."""
        values, others, args, weight = self._inputs(args, kl_weight)
        return values, [other.clone() for other in others], args, weight

    def _loss_and_gradient(
        self, values: list[Tensor], others: list[Tensor], args: Arguments, weight: Tensor
    ) -> list[Tensor | None]:
        """The recorded function, outside Pyro's store, which would keep exchanged parameters."""
        values = [value.detach().requires_grad_() for value in values]
        held = [*self.parameters, *self.others]
        objective = self.objective.annealed(weight)
        with (
            torch.enable_grad(),
            pyro.get_param_store().scope(),
            exchanged(self.modules, held, [*values, *others]),
        ):
            with self._precision(args):
                loss = objective.differentiable_loss(self.model, self.guide, *args)
            gradients = torch.autograd.grad(self._mean(loss), values, allow_unused=True)
        return [loss.detach(), *laid_out_as(values, gradients)]

    def _check(self, graph: Graph, args: Arguments) -> None:
        """Compare a graph with Pyro's handlers on other rows, draws and weights of the KL.

        Raises:
            RecordingError: they differ, or a run of the graph changes a buffer.
        """
        args = tuple(arg.roll(1, 0) for arg in args)
        inputs = self._copied_inputs(args, kl_weight=0.5)
        with seeded(1):  # the graph was recorded with other draws
            loss, *gradients = graph(*inputs)
        for (name, buffer), used in zip(self.modules.named_buffers(), inputs[1], strict=False):
            if not torch.equal(buffer, used):
                raise RecordingError(
                    f"training changes the buffer {name}, as batch normalisation does"
                )
        with seeded(1):
            expected = super().__call__(args, 0.5)
        check_agreement(loss, torch.tensor(expected).to(loss), "loss")
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            name = self.names.get(parameter, "a parameter of Pyro's store")
            check_agreement(gradient, parameter.grad, f"gradient for {name}")

    @contextmanager
    def _own_gradients(self) -> Iterator[None]:
        """Restores `.grad` after a trial run, even after an error."""
        before = [parameter.grad for parameter in self.parameters]
        try:
            yield
        finally:
            for parameter, gradient in zip(self.parameters, before, strict=True):
                parameter.grad = gradient


def stepper(training: Training, num_steps: int, *programs: Any) -> Step:
    """The computation of a step's gradient that the settings ask for.

    `programs` are objective, model, guide, parameters and batch size, as `Step` takes them.
    """
    parts = (*programs, training.dtype is not None)
    is_automatic = training.compile == "auto"
    if training.compile is False or is_automatic and not repays_recording(num_steps):
        return Step(*parts)
    level = logging.INFO if is_automatic else logging.WARNING
    reason = unrecordable(*programs[:4])
    if reason is not None:
        logger.log(level, "training step not recorded: %s", reason)
        return Step(*parts)
    automatic = WAYS[: 1 if num_steps < FEWEST_STEPS_TO_COMPILE else 2]
    ways = {True: WAYS[:2], "cudagraphs": WAYS}.get(training.compile, automatic)
    return RecordedStep(*parts, ways=ways, level=level)


def repays_recording(num_calls: int) -> bool:
    """Whether a function of a batch is called often enough for a graph to save time."""
    return num_calls >= FEWEST_STEPS_TO_RECORD


def unrecordable(
    objective: ELBO, model: Program, guide: Program, parameters: list[Tensor]
) -> str | None:
    """Why no graph can replace this step, if that is known beforehand; else None."""
    if not isinstance(objective, Bound):
        return f"{type(objective).__name__} is not one of ppl_vae's objectives"
    if not objective.recordable:
        return f"{objective!r} keeps a state or decides by values"
    for name, program in (("model", model), ("guide", guide)):
        if not isinstance(program, nn.Module):
            return f"the {name} is a plain function, whose parameters are in Pyro's store"
    held = {id(each) for module in modules_of(model, guide) for each in module.parameters()}
    if any(id(each) not in held for each in parameters):
        return "a parameter of pyro.param is in Pyro's store, and in no module"
    return None


def laid_out_as(
    values: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> Iterator[Tensor | None]:
    """Each in its parameter's order, and in memory of its own: those of a sum a + b are one."""
    taken = set()
    for value, gradient in zip(values, gradients, strict=True):
        if gradient is None or gradient.layout != torch.strided:  # sparse, as of an embedding
            yield gradient
            continue
        memory = gradient.untyped_storage().data_ptr()
        if memory in taken or gradient.stride() != value.stride():
            gradient = torch.empty_like(value).copy_(gradient)
        taken.add(memory)
        yield gradient


def batch_gradient(step: Step, args: Arguments, kl_weight: float, num_parts: int) -> float:
    """Loss of a batch, its gradient in `.grad`: summed over its parts, and over all processes."""
    parameters = step.parameters
    loss = 0.0
    totals: list[Tensor | None] = [None] * len(parameters)
    for part in zip(*(arg.tensor_split(num_parts) for arg in args), strict=True):
        if len(part[0]):
            loss += step(part, kl_weight)
            totals = [sum_of(one, p.grad) for one, p in zip(totals, parameters, strict=True)]
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total
    return loss if num_processes() == 1 else across_processes(loss, parameters)


def sum_of(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two gradients, either of which may be missing."""
    if one is None:
        return other
    return one if other is None else one + other


def across_processes(loss: float, parameters: list[Tensor]) -> float:
    """Sum of all processes' losses, and of their gradients in `.grad`."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    total = parameters[0].new_tensor([loss])
    add_up([total, *(p.grad for p in parameters if p.grad is not None)])
    return total.item()


def number(loss: float | Tensor | tuple[float, float]) -> float:
    """The loss as a number; of the two of Pyro's wake-sleep the model's, which is minus a bound."""
    return float(loss[0] if isinstance(loss, tuple) else loss)


@contextmanager
def training_mode(*programs: Program) -> Iterator[None]:
    """Training mode outside Pyro's store, without validation; evaluation mode afterwards.

    Denormal numbers are flushed to zero: Adam's moments decay into them.
    """
    modules = [part for module in modules_of(*programs) for part in module.modules()]
    flushed = bool(torch.tensor(1e-40) * 0.5 == 0)
    torch.set_flush_denormal(True)
    for module in modules:
        module.training = True
    try:
        with (
            own_parameters(*programs),
            memory_in_words(SMALLER),
            as_asked(),
            torch.enable_grad(),
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
        ):
            # Pyro says so of parameters that are frozen.
            warnings.filterwarnings("ignore", message=".* was not registered in the param store")
            yield
    finally:
        torch.set_flush_denormal(flushed)
        for module in modules:
            module.training = False
