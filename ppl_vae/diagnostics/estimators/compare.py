"""Objectives side by side: what each says of log p(x), how noisy its gradient is, and what a step
of it costs.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.estimators.cost import peak_memory, seconds
from ppl_vae.diagnostics.estimators.noise import Moments
from ppl_vae.diagnostics.estimators.row import EstimatorRow, Reference
from ppl_vae.diagnostics.estimators.table import EstimatorComparison, Replicates
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.importance import log_weights, rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating, place, require_programs
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.seeding import derived_seed, one_at_a_time, seeded
from ppl_vae.training.state import State

__all__ = ["compare_estimators"]

NUM_WARMUP = 2  # steps that are not counted: the first is slow, the second has its memory measured

NO_GRADIENT = (
    "no parameter was given a gradient; Pyro's own ELBOs see those of PyroModules, pyro.param and "
    "pyro.module alone: "
    "make the modules PyroModules, or call pyro.module in model and guide"
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
    """Value, gradient noise and cost of several objectives, at the same parameters and the same
    data.

    Every objective takes R gradient steps with draws of its own; all rows are one batch, and
    nothing is trained. The gradient is that of the mean bound per datum, for theta (the model's
    parameters) and phi (the guide's, those that the model shares through a VampPrior included).
    bias = value - log p(x): the gap of a lower bound; an unbiased ELBO has that of
    `reference.elbo`. A low variance alone is no merit: look at the signal-to-noise ratio, and at
    variance x seconds. Steps run in evaluation mode; model, guide, random stream and Pyro's store
    are left as they were found.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows, whatever its splits: give `data.train[:128]` for a part),
            or an array, tensor, DataFrame, DataArray: as many rows as a training step takes.
        objectives: Ours or Pyro's ELBOs, or a dict of them by name. One that cannot be used with
            this model and guide becomes a row that says why.
        replicates: How many, and which; None is `Replicates(**options)`.
        exact: log p(x) per datum, (N,), where it is known; None estimates it by importance
            sampling.
        progress: Whether to show a bar when it takes more than two seconds.
        options: Keywords of `Replicates` (num_replicates, reference_particles, seed), when none is
            given.

    Returns:
        The comparison: `print` it, or take its `table`, `to_markdown()`, `to_datatree()`; see
        `plot_estimators`.

    Raises:
        ValueError: no objective can be used, no parameter is trainable, `exact` has another length
            or is not finite; options beside replicates.
        TypeError: something in the list is no ELBO; replicates, model or guide are of another kind.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3 (signal-to-noise ratios); Tucker et al. (2019), Doubly
        reparameterized gradient estimators, arXiv:1810.04152.

    Example:
        >>> from ppl_vae import objectives
        >>> from ppl_vae import beds
        >>> bed = beds.rainforth(num_data=8, latent_dim=2)
        >>> doubly = objectives.IWAE(8, gradient=objectives.DoublyReparameterized())
        >>> chosen = {"IWAE-8": objectives.IWAE(8), "IWAE-8, DReG": doubly}
        >>> settings = {"exact": bed.log_evidence, "num_replicates": 40}
        >>> noise = compare_estimators(bed.model, bed.amortised_guide, bed.x, chosen, **settings).table["phi_variance"]
        >>> bool(noise["IWAE-8, DReG"] < 0.1 * noise["IWAE-8"])
        True
    """
    replicates = _replicates(replicates, options)
    require_programs(model, guide)
    data = place(as_dataset(data), model, guide)
    check_data(model, data.x, data.context)
    chosen, known = _named(objectives), _known(exact, len(data))
    runs = [
        _Run(objective, derived_seed(replicates.seed, 1 + i))
        for i, objective in enumerate(chosen.values())
    ]
    with _as_found(model, guide):
        step = _Step(model, guide, arguments(data.x, data.context))
        with (
            step.grads_kept(),
            tqdm(**_bar(progress), total=len(runs) * replicates.num_replicates) as bar,
        ):
            for i in range(-NUM_WARMUP, replicates.num_replicates):
                for (
                    run
                ) in runs:  # one step of each in turn: a machine that slows down slows all of them
                    run.advance(step, i)
                bar.update(len(runs) if i >= 0 else 0)
        if all(run.reason for run in runs):
            raise ValueError(f"none of the objectives can be used: {runs[0].reason}")
        reference = _reference(step, replicates, known, progress=progress)
    rows = [run.row(name) for name, run in zip(chosen, runs, strict=True)]
    return EstimatorComparison(tuple(rows), reference, replicates, step.facts())


def _replicates(replicates: Any, options: dict[str, Any]) -> Replicates:
    if replicates is None:
        return Replicates(**options)
    if options:
        raise ValueError(
            f"{', '.join(options)} was given beside replicates={replicates}: set it in replicates"
        )
    if not isinstance(replicates, Replicates):
        raise TypeError(
            f"replicates is {replicates!r}; it must be an object, as in Replicates(200)"
        )
    return replicates


def _named(objectives: Sequence[ELBO] | Mapping[str, ELBO]) -> dict[str, ELBO]:
    """The objectives by name; one without a name is called as it is written.

    Raises:
        ValueError: there are none.
        TypeError: one is no ELBO, or it is no collection.
    """
    if isinstance(objectives, str) or not isinstance(objectives, Iterable):
        raise TypeError(
            f"objectives is {objectives!r}; it must be a list or a dict, as in [objectives.IWAE(5)]"
        )
    if not isinstance(objectives, Mapping):
        objectives = _unnamed(objectives)
    if not objectives:
        raise ValueError("objectives is empty: give at least one, as in [objectives.TraceELBO()]")
    for name, objective in objectives.items():
        if not isinstance(objective, ELBO):
            kind = "class" if isinstance(objective, type) else type(objective).__name__
            raise TypeError(f"objective {name!r} is a {kind}: give objects like objectives.IWAE(5)")
    return {str(name): objective for name, objective in objectives.items()}


def _unnamed(objectives: Sequence[ELBO]) -> dict[str, ELBO]:
    found: dict[str, ELBO] = {}
    for objective in objectives:
        name = repr(objective)
        if type(objective).__repr__ is object.__repr__:  # Pyro's
            name = f"{type(objective).__name__}(num_particles={getattr(objective, 'num_particles', 1)})"
        again = sum(other == name or other.startswith(f"{name} #") for other in found)
        found[f"{name} #{again + 1}" if again else name] = objective
    return found


@contextmanager
def _as_found(model: Program, guide: Program) -> Iterator[None]:
    """Evaluation mode with gradients; modes and the parameter store as before afterwards."""
    store = pyro.get_param_store()
    with (
        one_at_a_time,
        store.scope(store.get_state()),
        evaluating(model, guide),
        torch.enable_grad(),
    ):
        yield


class _Step:
    """A gradient step of any objective, up to the optimiser."""

    def __init__(self, model: Program, guide: Program, args: tuple[Tensor, ...]) -> None:
        self.model, self.guide, self.args, self.num_data = model, guide, args, len(args[0])
        found = {"theta": self._parameters(model), "phi": self._parameters(guide)}
        in_guide = {id(parameter) for parameter in found["phi"]}
        own = [parameter for parameter in found["theta"] if id(parameter) not in in_guide]
        self.shared = sum(p.numel() for p in found["theta"]) - sum(p.numel() for p in own)
        self.groups = {"theta": own, "phi": found["phi"]}
        self.parameters = own + found["phi"]
        if not self.parameters:
            raise ValueError(
                "neither model nor guide has a trainable parameter: there is no gradient to compare"
            )
        self.device = self.parameters[0].device

    def _parameters(self, program: Program) -> list[Tensor]:
        """Those that the program uses: methods of one module may share it, and register a part of
        it each.
        """
        state = State(program, program, lambda: program(*self.args))
        return [p for p in state.named.values() if p.requires_grad] or state.parameters

    def __call__(self, objective: Any) -> float:
        """Compute the gradient anew; returns the mean bound per datum, in nats."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = objective.loss_and_grads(self.model, self.guide, *self.args)
        if all(parameter.grad is None for parameter in self.parameters):
            raise ValueError(NO_GRADIENT)
        total = (
            float(sum(loss)) if isinstance(loss, tuple) else float(loss)
        )  # Pyro's wake-sleep gives its losses apart
        return (total if getattr(objective, "is_upper", False) else -total) / self.num_data

    def gradient(self, group: str) -> Tensor:
        """The gradient of the mean bound per datum, up to its sign, (P,)."""
        pairs = [(p, p.grad) for p in self.groups[group]]
        flat = [
            torch.zeros_like(p).flatten() if grad is None else grad.flatten() for p, grad in pairs
        ]
        return torch.cat(flat) / self.num_data if flat else torch.zeros(0)

    @contextmanager
    def grads_kept(self) -> Iterator[None]:
        """`.grad` as before afterwards."""
        before = [parameter.grad for parameter in self.parameters]
        try:
            yield
        finally:
            for parameter, grad in zip(self.parameters, before, strict=True):
                parameter.grad = grad

    def facts(self) -> dict[str, Any]:
        """What the numbers are about."""
        sizes = {
            f"num_{group}": sum(p.numel() for p in found) for group, found in self.groups.items()
        }
        return {
            "num_data": self.num_data,
            **sizes,
            "num_shared": self.shared,
            "device": str(self.device),
        }


class _Run:
    """One objective, and what its steps have shown so far."""

    def __init__(self, objective: ELBO, seed: int) -> None:
        self.objective, self.seed = (
            copy.deepcopy(objective),
            seed,
        )  # a moving baseline is the caller's own
        self.values: list[float] = []
        self.seconds: list[float] = []
        self.memory, self.reason = 0, ""
        self.moments = {"theta": Moments(), "phi": Moments()}

    def advance(self, step: _Step, i: int) -> None:
        """One step, warm-up if i < 0; an objective that fails once is not asked again."""
        if self.reason:
            return
        with seeded(derived_seed(self.seed, NUM_WARMUP + i)):
            try:
                self._advance(step, i)
            except (
                Exception
            ) as error:  # whatever model, guide and objective find wrong with each other
                self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _advance(self, step: _Step, i: int) -> None:
        found: list[float] = []

        def work() -> None:
            found.append(step(self.objective))

        if i < 0:
            self.memory = peak_memory(work, step.device)
            return
        self.seconds.append(seconds(work, step.device))
        self.values += found
        if not np.isfinite(found[0]):
            raise FloatingPointError(f"the value is {found[0]} at replicate {i}")
        for group, moments in self.moments.items():
            moments.add(step.gradient(group))

    def row(self, name: str) -> EstimatorRow:
        """The results."""
        if self.reason:
            return EstimatorRow(name, reason=self.reason)
        theta, phi = (self.moments[group].noise() for group in ("theta", "phi"))
        return EstimatorRow(
            name, np.array(self.values), np.array(self.seconds), self.memory, theta, phi
        )


def _reference(
    step: _Step, replicates: Replicates, exact: np.ndarray | None, *, progress: bool
) -> Reference:
    """log p(x), known or by importance sampling."""
    if exact is not None:
        return Reference(float(exact.mean()), 0.0)
    try:
        return _importance_sampling(step, replicates, progress=progress)
    except ValueError as error:  # sites that importance weights cannot use
        return Reference(note=" ".join(str(error).split()))


def _known(exact: Any, num_data: int) -> np.ndarray | None:
    if exact is None:
        return None
    try:
        values = torch.as_tensor(exact).detach().cpu().double().numpy()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"exact is a {type(exact).__name__}: give log p(x) of each row as numbers"
        ) from None
    if values.shape != (num_data,):
        raise ValueError(
            f"exact has shape {values.shape}, the data have {num_data} rows: give log p(x) of each"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"exact is {values[row]} at row {row}: give a finite log p(x) of each row, or leave it "
            "out"
        )
    return values


def _importance_sampling(step: _Step, replicates: Replicates, *, progress: bool) -> Reference:
    num_particles, seed = replicates.reference_particles, derived_seed(replicates.seed, 0)
    with seeded(seed), torch.no_grad():
        if log_terms(step.model, step.guide, *step.args).global_latents:
            return Reference(
                note="with latents outside the data plate log p(x) is no sum over data"
            )
    parts: list[dict[str, np.ndarray]] = []
    rows = rows_per_chunk(step.num_data, num_particles, None)
    with tqdm(**_bar(progress, "reference", " data"), total=step.num_data) as bar:
        for start in range(0, step.num_data, rows):
            args, part = (arg[start : start + rows] for arg in step.args), derived_seed(seed, start)
            log_w = log_weights(
                step.model, step.guide, *args, num_particles=num_particles, seed=part
            )
            parts.append(_weighed(log_w.cpu().numpy()))
            bar.update(rows)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Reference.of(found, num_particles)


def _weighed(log_w: np.ndarray) -> dict[str, np.ndarray]:
    """What the reference needs of some data's log-weights, (B,) each."""
    evidence = reduce_log_weights(log_w)
    known = {
        name: getattr(evidence, name) for name in ("log_evidence", "mc_se", "elbo", "pareto_k")
    }
    return known | {"elbo_se": log_w.std(0, ddof=1, dtype=np.float64) / len(log_w) ** 0.5}


def _bar(progress: bool, desc: str = "estimators", unit: str = " steps") -> dict[str, Any]:
    return {"desc": desc, "unit": unit, "disable": not progress, "delay": 2}
