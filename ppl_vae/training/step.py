"""One step's loss and gradient: by Pyro's effect handlers, or by a graph that they leave once per
batch shape.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.objectives import Bound
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.recording import (
    Graph,
    RecordingError,
    check_agreement,
    compiled,
    first_line,
    recorded,
    replayed,
    unchanged,
)
from ppl_vae.runtime.seeding import seeded

logger = logging.getLogger(__name__)

Arguments = tuple[Tensor, ...]

WAYS = RECORDED, COMPILED, REPLAYED = "recorded", "compiled", "replayed as a CUDA graph"


class Step:
    """Loss summed over a batch; leaves the gradient of its mean per datum in `.grad`. Pyro's
    handlers run each time.
    """

    def __init__(
        self,
        objective: ELBO,
        model: Program,
        guide: Program,
        parameters: list[Tensor],
        batch_size: int,
        half: bool,
    ) -> None:
        self.objective: Any = (
            objective  # Pyro's base class declares none of the methods that its subclasses share
        )
        self.half = half
        self.model, self.guide, self.parameters, self.batch_size = (
            model,
            guide,
            parameters,
            batch_size,
        )

    def __call__(self, args: Arguments, kl_weight: float = 1.0) -> float:
        """The loss. A smaller last batch is divided by the nominal size too: each datum weighs the
        same.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss = self._loss_and_grads(annealed(self.objective, kl_weight), args)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            name = type(self.objective).__name__
            raise ValueError(
                f"{name} gave no parameter a gradient: make model and guide PyroModules"
            )
        for gradient in gradients:
            gradient /= self.batch_size
        return loss

    def _loss_and_grads(self, objective: Any, args: Arguments) -> float:
        """Pyro's own `loss_and_grads` gives no gradient to modules that have told Pyro of no
        parameter, and says nothing; its differentiable loss does. A few of Pyro's objectives have
        only the former.
        """  # noqa: D205
        if not hasattr(objective, "differentiable_loss"):
            with self._precision(args):
                return number(objective.loss_and_grads(self.model, self.guide, *args))
        with self._precision(args):
            loss = objective.differentiable_loss(self.model, self.guide, *args)
        loss.backward()
        return loss.item()

    def _precision(self, args: Arguments) -> torch.autocast:
        """Matrix products in bfloat16 within, where asked."""
        return torch.autocast(args[0].device.type, torch.bfloat16, enabled=self.half)


class RecordedStep(Step):
    """The same as a graph, recorded at the first batch of each shape; the first of them goes all of
    the ways asked for.

    Parameters, buffers, the batch and the KL's weight are inputs of the graph; draws are operations
    in it, and stay fresh. A graph serves only if its loss and gradient agree with those of Pyro's
    handlers on other rows: where they do not, or nothing can be recorded, the handlers run as
    before, and the log says why.

    References:
        Reed et al. (2022), torch.fx, arXiv:2112.08429; Ansel et al. (2024), PyTorch 2,
        doi:10.1145/3620665.3640366.
    """

    def __init__(self, *parts: Any, ways: tuple[str, ...], level: int) -> None:
        super().__init__(*parts)
        self.ways, self.level = ways, level
        programs: Any = {"model": self.model, "guide": self.guide}
        self.modules = nn.ModuleDict(programs)
        frozen = [p for p in self.modules.parameters() if not p.requires_grad]
        self.others = [*self.modules.buffers(), *frozen]
        self.names: dict[Tensor, str] = {p: name for name, p in self.modules.named_parameters()}
        self.graphs: dict[tuple[Any, ...], Graph | None] = {}
        self.said: set[str] = set()

    def __call__(self, args: Arguments, kl_weight: float = 1.0) -> float:
        """The loss, from the graph where there is one."""
        kind = tuple((arg.shape, arg.dtype, arg.device) for arg in args)
        if kind not in self.graphs:
            self.graphs[kind] = self._graph(args)
        graph = self.graphs[kind]
        if graph is None:
            return super().__call__(args, kl_weight)
        loss, *gradients = graph(*self._inputs(args, kl_weight))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss.item()

    def _graph(self, args: Arguments) -> Graph | None:
        """A graph for batches of this shape, or None."""
        start, found, how = time.perf_counter(), None, ""
        for way in self.ways[:1] if self.graphs else self.ways:
            try:
                with unchanged(self.modules):
                    made = self._made(way, found, args)
                with unchanged(self.modules), self._own_gradients():
                    self._check(made, args)
            # whatever it was: if it is the program's own, the handlers will raise it again
            except Exception as error:
                how = f"{how}{', ' if how else ''}not {way}: {first_line(error)}"
                break
            found, how = made, way
        level = logging.DEBUG if how in self.said else self.level if ":" in how else logging.INFO
        logger.log(level, "training step %s (%.1f s)", how, time.perf_counter() - start)
        self.said |= {how, RECORDED}  # smaller batches are never compiled
        return found

    def _made(self, way: str, graph: Any, args: Arguments) -> Graph:
        """The step in this way, of what the way before it left."""
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
        """Trained values, all else that the modules hold, the batch, the KL's weight."""
        weight = args[0].new_tensor(
            kl_weight, dtype=torch.float64
        )  # having no dimensions, it promotes no float32
        return (
            [p.detach() for p in self.parameters],
            [other.detach() for other in self.others],
            args,
            weight,
        )

    def _copied_inputs(self, args: Arguments, kl_weight: float = 1.0) -> tuple[Any, ...]:
        """The same, with buffers that a trial run may change."""
        values, others, args, weight = self._inputs(args, kl_weight)
        return values, [other.clone() for other in others], args, weight

    def _loss_and_gradient(
        self, values: list[Tensor], others: list[Tensor], args: Arguments, weight: Tensor
    ) -> list[Tensor | None]:
        """What is recorded; Pyro's store, which would keep the exchanged parameters, is left out of
        it.
        """
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
            gradients = torch.autograd.grad(loss, values, allow_unused=True)
        return [loss.detach(), *(None if g is None else g / self.batch_size for g in gradients)]

    def _check(self, graph: Graph, args: Arguments) -> None:
        """See whether for other rows and draws and another weight of the KL a graph gives what
        Pyro's handlers give.

        Raises:
            RecordingError: it does not, or a run of it changes a buffer.
        """
        args = tuple(arg.roll(1, 0) for arg in args)
        inputs = self._copied_inputs(args, kl_weight=0.5)
        with seeded(1):  # the graph was recorded by other draws
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
        """What a trial run leaves in `.grad` is taken away, whatever ends it."""
        before = [parameter.grad for parameter in self.parameters]
        try:
            yield
        finally:
            for parameter, gradient in zip(self.parameters, before, strict=True):
                parameter.grad = gradient


@contextmanager
def exchanged(module: nn.Module, held: list[Tensor], others: list[Tensor]) -> Iterator[None]:
    """Put other tensors in the place of those that the modules hold, wherever they do.

    `torch.func.functional_call` does not give back a module that is reached by two names, as a
    VampPrior's guide is.
    """
    new = dict(zip(map(id, held), others, strict=True))
    holders: list[Any] = [
        holder for m in module.modules() for holder in (m._parameters, m._buffers)
    ]
    places = [
        (holder, name, old) for holder in holders for name, old in holder.items() if id(old) in new
    ]
    try:
        for holder, name, old in places:
            holder[name] = new[id(old)]
        yield
    finally:
        for holder, name, old in places:
            holder[name] = old


def unrecordable(objective: ELBO, model: Program, guide: Program) -> str | None:
    """Why no graph can stand for this step, where that is known beforehand; else None."""
    if not isinstance(objective, Bound):
        return f"{type(objective).__name__} is not one of ppl_vae's objectives"
    if not objective.recordable:
        return f"{objective!r} keeps a state or decides by values"
    for name, program in (("model", model), ("guide", guide)):
        if not isinstance(program, nn.Module):
            return f"the {name} is a plain function, whose parameters are in Pyro's store"
    return None


def annealed(objective: Any, kl_weight: float) -> Any:
    """The objective, with its KL weighed unless the weight is one."""
    return objective if kl_weight == 1.0 else objective.annealed(kl_weight)


def number(loss: float | Tensor | tuple[float, float]) -> float:
    """The loss; of the two of Pyro's wake-sleep the model's, minus its bound: the guide's is minus
    no bound.
    """
    return float(loss[0] if isinstance(loss, tuple) else loss)
