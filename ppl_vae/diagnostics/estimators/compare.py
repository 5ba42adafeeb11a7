"""Objectives side by side: value, gradient noise and cost."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.validation import copied
from ppl_vae.diagnostics.estimators.cost import peak_memory, seconds
from ppl_vae.diagnostics.estimators.noise import Moments
from ppl_vae.diagnostics.estimators.row import EstimatorRow, Reference
from ppl_vae.diagnostics.estimators.table import EstimatorComparison, Replicates
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.evidence.pareto import share_of_bad
from ppl_vae.evidence.result import concatenate
from ppl_vae.importance import iter_log_weights
from ppl_vae.programs.inference import Inference, rows_per_chunk, treat_alike
from ppl_vae.programs.modules import require_programs
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import echoed, object_or_options
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import Stream, derived_seed, one_at_a_time, seeded
from ppl_vae.training.state import State

__all__ = ["compare_estimators"]

NUM_WARMUP = 2  # steps that are not counted: the first is slow, the second measures memory

NO_GRADIENT = (
    "no parameter was given a gradient: Pyro's own ELBOs only see PyroModules, pyro.param and "
    "pyro.module; make the modules PyroModules, or call pyro.module in model and guide"
)


def compare_estimators(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    objectives: Sequence[ELBO] | Mapping[str, ELBO],
    replicates: Replicates | None = None,
    *,
    exact: Any = None,
    progress: bool = True,
    **options: Any,
) -> EstimatorComparison:
    """Value, gradient noise and cost of several objectives, for the same parameters and rows.

    Every objective takes R gradient steps with its own draws; all rows are one batch, and nothing
    is trained. The gradient is that of the mean bound per observation, for theta (the model's
    parameters) and phi (the guide's, including those that the model shares through a VampPrior).
    bias = value - log p(x): the gap of a lower bound; for an unbiased ELBO it is the gap of
    `reference.elbo`. A low variance alone is not an advantage: compare the signal-to-noise ratios,
    and variance x seconds. Steps run in evaluation mode; model, guide, random stream and Pyro's
    parameter store are left unchanged.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows, whatever its splits: give `data.train[:128]` for a part),
            or an array, tensor, DataFrame, DataArray; use as many rows as a training step does.
        objectives: Our or Pyro's ELBOs, or a dict of them by name. One that cannot be used with
            this model and guide becomes a row with the reason.
        replicates: Number and seed of the replicates; None is `Replicates(**options)`.
        exact: log p(x) of each row, (N,), if it is known; None estimates it by importance sampling.
        progress: Whether to show a bar after two seconds.
        options: Keywords of `Replicates` (num_replicates, reference_particles, seed), if
            `replicates` is None.

    Returns:
        The comparison: `print` it, or use its `table`, `to_markdown()`, `to_datatree()`; see
        `plot_estimators`.

    Raises:
        ValueError: No objective can be used; no parameter is trainable; `exact` has another length
            or is not finite; options are given together with `replicates`.
        TypeError: An item of the list is not an ELBO; `replicates`, `model` or `guide` has the
            wrong type.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3 (signal-to-noise ratios); Tucker et al. (2019), Doubly
        reparameterized gradient estimators, arXiv:1810.04152.

    Example:
        >>> from ppl_vae import beds, objectives
        >>> bed = beds.rainforth(num_data=8, latent_dim=2)
        >>> programs = (bed.model, bed.amortised_guide)
        >>> doubly = objectives.IWAE(8, gradient=objectives.DoublyReparameterized())
        >>> chosen = {"IWAE-8": objectives.IWAE(8), "IWAE-8, DReG": doubly}
        >>> settings = {"exact": bed.log_evidence, "num_replicates": 40}
        >>> noise = compare_estimators(*programs, bed.x, chosen, **settings).table["phi_variance"]
        >>> bool(noise["IWAE-8, DReG"] < 0.1 * noise["IWAE-8"])
        True
    """
    replicates = _replicates(replicates, options)
    require_programs(model, guide)
    inference = Inference(model, guide, as_dataset(data).in_memory())
    treat_alike(inference.data, "compare_estimators")
    chosen = _named(objectives)
    known = _known(exact, inference.data)
    # Copies, since a moving baseline belongs to the caller.
    runs = [
        _Run(copy.deepcopy(objective), derived_seed(replicates.seed, Stream.OBJECTIVES + i))
        for i, objective in enumerate(chosen.values())
    ]
    total = len(runs) * replicates.num_replicates
    with _stepping(inference) as step:
        with progress_bar(total, "estimators", unit="steps", progress=progress) as bar:
            for i in range(-NUM_WARMUP, replicates.num_replicates):
                # One step of each in turn: a machine that slows down slows all of them.
                for run in runs:
                    run.advance(step, i)
                bar.update(len(runs) * (i >= 0))
        if all(run.reason for run in runs):
            raise ValueError(f"none of the objectives can be used: {runs[0].reason}")
        if known is None:
            reference = _reference(inference, replicates, progress=progress)
        else:
            reference = Reference(float(known.mean()), 0.0)
    rows = [run.row(name) for name, run in zip(chosen, runs, strict=True)]
    return EstimatorComparison(tuple(rows), reference, replicates, step.facts())


def _replicates(replicates: Any, options: dict[str, Any]) -> Replicates:
    object_or_options(replicates, options, "replicates")
    if replicates is None:
        return Replicates(**options)
    if not isinstance(replicates, Replicates):
        raise TypeError(
            f"replicates is {echoed(replicates)}; it must be an object, as in Replicates(200)"
        )
    return replicates


def _named(objectives: Sequence[ELBO] | Mapping[str, ELBO]) -> dict[str, ELBO]:
    """The objectives by name; an objective without a name has its repr."""
    if isinstance(objectives, str) or not isinstance(objectives, Iterable):
        raise TypeError(
            f"objectives is {echoed(objectives)}; it must be a list or a dict, as in "
            "[objectives.IWAE(5)]"
        )
    found: dict[str, ELBO] = {}
    if isinstance(objectives, Mapping):
        found = {str(name): objective for name, objective in objectives.items()}
    else:
        for objective in objectives:
            name = repr(objective)
            if type(objective).__repr__ is object.__repr__:  # Pyro's
                particles = getattr(objective, "num_particles", 1)
                name = f"{type(objective).__name__}(num_particles={particles})"
            again = sum(other == name or other.startswith(f"{name} #") for other in found)
            found[f"{name} #{again + 1}" if again else name] = objective
    if not found:
        raise ValueError("objectives is empty: give at least one, as in [objectives.TraceELBO()]")
    for name, objective in found.items():
        if not isinstance(objective, ELBO):
            kind = "class" if isinstance(objective, type) else type(objective).__name__
            raise TypeError(f"objective {name!r} is a {kind}: give objects like objectives.IWAE(5)")
    return found


def _known(exact: Any, data: Dataset) -> np.ndarray | None:
    """log p(x) as given, (N,), checked."""
    if exact is None:
        return None
    data.refuse_other_index(exact, "exact")
    try:
        values = torch.as_tensor(copied(exact)).detach().cpu().double().numpy()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"exact is a {type(exact).__name__}: give log p(x) of each row as numbers"
        ) from None
    if values.shape != (len(data),):
        raise ValueError(
            f"exact has shape {values.shape}, the data have {len(data)} rows: give log p(x) of each"
        )
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise ValueError(
            f"exact is {values[bad[0]]} at row {bad[0]}: give a finite log p(x) of each row, or "
            "leave it out"
        )
    return values


@contextmanager
def _stepping(inference: Inference) -> Iterator["_Step"]:
    """Steps in evaluation mode; modes, gradients and the parameter store are restored after."""
    store = pyro.get_param_store()
    with (
        one_at_a_time,
        store.scope(store.get_state()),
        inference.evaluating(),
        torch.enable_grad(),
    ):
        step = _Step(inference)
        before = [parameter.grad for parameter in step.parameters]
        try:
            yield step
        finally:
            for parameter, grad in zip(step.parameters, before, strict=True):
                parameter.grad = grad


class _Step:
    """A gradient step of any objective, without the update by the optimiser."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.value = np.nan
        model = self._parameters(inference.model)
        guide = self._parameters(inference.guide)
        in_guide = {id(parameter) for parameter in guide}
        own = [parameter for parameter in model if id(parameter) not in in_guide]
        self.shared = [parameter for parameter in model if id(parameter) in in_guide]
        self.groups = {"theta": own, "phi": guide}
        self.parameters = own + guide
        if not self.parameters:
            raise ValueError(
                "neither model nor guide has a trainable parameter: there is no gradient to compare"
            )
        self.device = self.parameters[0].device

    def _parameters(self, program: Program) -> list[Tensor]:
        """The parameters that the program uses; each method of a module may register some."""
        state = State(program, program, lambda: program(*self.inference.args))
        return [p for p in state.named.values() if p.requires_grad] or state.parameters

    def take(self, objective: Any) -> None:
        """Compute the gradient, and the mean bound per observation, in nats, as `value`."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = objective.loss_and_grads(
            self.inference.model, self.inference.guide, *self.inference.args
        )
        if all(parameter.grad is None for parameter in self.parameters):
            raise ValueError(NO_GRADIENT)
        # Pyro's wake-sleep returns its two losses separately.
        total = float(sum(loss)) if isinstance(loss, tuple) else float(loss)
        sign = 1 if getattr(objective, "is_upper", False) else -1
        self.value = sign * total / len(self.inference)

    def gradient(self, group: str) -> Tensor:
        """The gradient of the mean bound per observation, up to its sign, (P,)."""
        flat = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in self.groups[group]
        ]
        return torch.cat(flat) / len(self.inference) if flat else torch.zeros(0)

    def facts(self) -> dict[str, Any]:
        """Sizes, and the device."""
        groups = self.groups | {"shared": self.shared}
        sizes = {f"num_{name}": sum(p.numel() for p in group) for name, group in groups.items()}
        return {"num_data": len(self.inference), **sizes, "device": str(self.device)}


@dataclass
class _Run:
    """One objective, and the results of its steps so far."""

    objective: ELBO
    seed: int
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    reason: str = ""
    theta: Moments = field(default_factory=Moments)
    phi: Moments = field(default_factory=Moments)

    def advance(self, step: _Step, i: int) -> None:
        """One step, warm-up if i < 0; an objective that has failed is left out."""
        if self.reason:
            return
        take = partial(step.take, self.objective)
        try:
            with seeded(derived_seed(self.seed, NUM_WARMUP + i)):
                if i < 0:
                    self.memory = peak_memory(take, step.device)
                    return
                self.seconds.append(seconds(take, step.device))
            if not np.isfinite(step.value):
                raise FloatingPointError(f"the value is {step.value} at replicate {i}")
        except Exception as error:  # any incompatibility of model, guide and objective
            self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return
        self.values.append(step.value)
        self.theta.add(step.gradient("theta"))
        self.phi.add(step.gradient("phi"))

    def row(self, name: str) -> EstimatorRow:
        """The results."""
        if self.reason:
            return EstimatorRow(name, reason=self.reason)
        return EstimatorRow(
            name,
            values=np.array(self.values),
            seconds=np.array(self.seconds),
            peak_memory=self.memory,
            theta=self.theta.noise(),
            phi=self.phi.noise(),
        )


def _reference(inference: Inference, replicates: Replicates, *, progress: bool) -> Reference:
    """log p(x) by importance sampling, if the programs allow it."""
    num_particles = replicates.reference_particles
    rows = rows_per_chunk(len(inference), num_particles)
    seed = derived_seed(replicates.seed, Stream.REFERENCE)
    parts, errors = [], []
    try:
        if inference.check_programs():
            return Reference(
                note="with latents outside the data plate log p(x) is not a sum over rows"
            )
        for block in inference.blocks(rows, seed=seed, title="reference", progress=progress):
            settings: dict[str, Any] = {"num_particles": num_particles}
            settings |= {"seed": block.seed, "chunk_size": None}
            blocks = iter_log_weights(*inference.programs, block.args, **settings)
            found = torch.cat(list(blocks), dim=1).cpu().numpy()
            parts.append(reduce_log_weights(found))
            errors.append(found.std(0, ddof=1, dtype=np.float64) / num_particles**0.5)
    except ValueError as error:  # sites for which there are no importance weights
        return Reference(note=" ".join(str(error).split()))
    evidence = concatenate(parts)
    return Reference(
        log_evidence=float(evidence.log_evidence.mean()),
        se=evidence.mean_mc_se,
        elbo=float(evidence.elbo.mean()),
        elbo_se=float(np.square(np.concatenate(errors)).sum() ** 0.5 / len(evidence)),
        num_particles=num_particles,
        share_bad_k=share_of_bad(evidence.pareto_k),
    )
