"""The one tensor that everything is estimated from: log w = log p(x, z) - log q(z given x), shape (K, B)."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from ppl_vae.checks import one_line, whole_number
from ppl_vae.data import Dataset
from ppl_vae.data.rows import blocks
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.recording import Graph, RecordingError, check_agreement, compiled, recorded
from ppl_vae.seeding import derived_seed, seeded
from ppl_vae.terms import PLATE, Program, Site, log_terms, sample_sites

__all__ = ["log_weights"]

logger = logging.getLogger(__name__)

PAIRS_PER_CHUNK = 10_000  # (particle, datum) pairs held at once: 30 MB of float32 at 784 features
FEWEST_PAIRS_TO_COMPILE = 2_000_000  # compiling takes as long as about a million


@contextmanager
def own_parameters(*programs: Program) -> Iterator[None]:
    """Keep modules out of Pyro's global parameter store, where models of equal names would share weights.

    Plain functions keep their parameters there, and find them again. But what a module has registered there, itself
    wrapped in a function or named by `pyro.module`, is left out: the module that is used now brings its own.
    """
    store: Any = pyro.get_param_store()
    if all(isinstance(program, nn.Module) for program in programs):
        with store.scope():
            yield
        return
    state = store.get_state()
    free = {name: value for name, value in state["params"].items() if not isinstance(value, nn.Parameter)}
    with store.scope({"params": free, "constraints": {name: state["constraints"][name] for name in free}}) as found:
        yield
    store.set_state(found)


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Evaluation mode (dropout and batch norm at rest), no gradients, no validation; all as before afterwards.

    What goes wrong in it says so in one line.
    """
    modules = [p for p in programs if isinstance(p, nn.Module)]
    modes = [(module, module.training) for program in modules for module in program.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad(), own_parameters(*programs), pyro.validation_enabled(False):
            yield
    except (ValueError, RuntimeError) as error:
        if (said := one_line(error)) == str(error):
            raise
        raise type(error)(said).with_traceback(error.__traceback__) from None
    finally:
        for module, training in modes:
            module.training = training


def place(data: Dataset, *programs: Program, device: str | torch.device | None = None) -> Dataset:
    """Data on the device and in the float type of the programs' parameters; `device` moves the programs first."""
    modules = [program for program in programs if isinstance(program, nn.Module)]
    if device is not None:
        check_device(device)
        for module in modules:
            module.to(device)
    parameter = next((p for module in modules for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return data if device is None else data.to(device=device)
    return data.to(device=parameter.device, dtype=parameter.dtype)


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless torch has this device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'device={str(device)!r} cannot be used here: {reason} Leave it out, or say "cpu"') from error


def check_data(model: Program, x: Tensor, context: Tensor | None, guide: Program | None = None) -> None:
    """Check all data once, before a loop that runs without validation, and that model and guide belong together."""
    checks = [program.check for program in (model, guide) if isinstance(program, Model | Guide)]
    start = 0
    for part in blocks(x) if checks else ():
        try:
            for check in checks:
                check(part, context)
        except ValueError as error:
            if not start:
                raise
            raise ValueError(f"{error} (its rows are counted from {start})") from None
        start += len(part)
    if isinstance(model, Model) and isinstance(guide, Guide) and model.latent_dim != guide.latent_dim:
        raise ValueError(
            f"the model has {model.latent_dim} latent dimensions and the guide {guide.latent_dim}: "
            "give prior and posterior the same latent_dim"
        )


def check_programs(model: Program, guide: Program, x: Tensor, context: Tensor | None) -> list[str]:
    """Run programs of one's own once over all data, before a loop that runs without validation.

    Returns:
        Names of the guide's sites outside the data plate.

    Raises:
        ValueError: an observed site is of another shape than x, x lies outside its support, or a log-density is NaN:
            the site and the first such row are named.
    """
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise ValueError(f"{name} is of type {type(program).__name__}; give a pv.{name.title()} or a Pyro program")
    rows, outside = rows_per_chunk(len(x), 1, None), dict[str, None]()
    for start in range(0, 0 if isinstance(model, Model) and isinstance(guide, Guide) else len(x), rows):
        part = slice(start, start + rows)
        args = arguments(x[part], None if context is None else context[part])
        with evaluating(model, guide), seeded(0):
            drawn = poutine.trace(guide).get_trace(*args)
            joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args)
            sites = [] if isinstance(model, Model) else sample_sites(joint)
            for site in [*sample_sites(drawn), *sites]:
                check_site(site, args[0], start)
            outside |= {site["name"]: None for site in sample_sites(drawn) if not in_plate(site)}
    return list(outside)


def in_plate(site: Site) -> bool:
    """Whether a site has a value for every datum."""
    return any(frame.name == PLATE for frame in site["cond_indep_stack"])


def check_site(site: Site, x: Tensor, start: int) -> None:
    """Raise ValueError unless a site in the data plate can be evaluated at its value; rows count from `start`."""
    name, fn, value = site["name"], site["fn"], site["value"]
    if not in_plate(site) or site["infer"].get("_deterministic"):
        return
    if site["is_observed"]:
        if not _fits(value.shape, fn):
            raise ValueError(
                f"site {name!r} is for values of shape {tuple(fn.shape())} and observes {tuple(value.shape)}: "
                "give x the shape that the model's site has"
            )
        outside = _outside(site)
        if outside.any():
            row = start + int(outside.nonzero()[0])
            kind = type(getattr(fn, "base_dist", fn)).__name__
            raise ValueError(f"row {row} of x lies outside the support of site {name!r}, {kind}: see its values there")
    log_p = fn.log_prob(value, *site["args"], **site["kwargs"])
    unknown = _by_row(scale_and_mask(log_p, mask=site["mask"]).isnan())
    if unknown.any():
        row = int(unknown.nonzero()[0])
        missing = row < len(x) and bool(x[row].isnan().any())
        remedy = (
            "x is missing there, which a program of one's own has to mask: fn.mask(~x.isnan()), obs=x.nan_to_num()"
            if missing
            else "look at its parameters there"
        )
        raise ValueError(f"the log-density of site {name!r} is NaN for row {start + row}: {remedy}")


def _fits(shape: torch.Size, fn: Any) -> bool:
    """Whether a value of this shape leaves the distribution's batch shape as it is, and has its event shape."""
    batch = shape[: len(shape) - fn.event_dim]
    if shape[len(batch) :] != fn.event_shape or len(batch) > len(fn.batch_shape):
        return False
    return all(a in (1, b) for a, b in zip(reversed(batch), reversed(fn.batch_shape), strict=False))


def _outside(site: Site) -> Tensor:
    """Which rows lie outside a site's support, (B,); none of those that are missing or may be masked."""
    fn, value, none = site["fn"], site["value"], torch.zeros(1, dtype=torch.bool)
    try:
        outside = ~fn.support.check(value)
    except NotImplementedError:
        return none
    depth = value.dim() - fn.event_dim
    outside, missing = (
        each.flatten(depth).any(-1) if each.dim() > depth else each for each in (outside, value.isnan())
    )
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            return none
        fn = fn.base_dist
    return _by_row(outside & ~missing & torch.as_tensor(True if site["mask"] is None else site["mask"]))


def _by_row(values: Tensor) -> Tensor:
    """Any over the plates inside the data plate, (*plates, B) -> (B,)."""
    return values.flatten(0, -2).any(0) if values.dim() > 1 else values


def rows_per_chunk(num_data: int, num_particles: int, chunk_size: int | None) -> int:
    """How many data to take at once, so that all their particles fit in a chunk of (particle, datum) pairs."""
    pairs = PAIRS_PER_CHUNK if chunk_size is None else whole_number(chunk_size, "chunk_size")
    return max(1, min(num_data, pairs // whole_number(num_particles, "num_particles")))


def log_weights(
    model: Program,
    guide: Program,
    x: Tensor,
    context: Tensor | None = None,
    *,
    num_particles: int = 1,
    seed: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """log w_kb = log p(x_b, z_kb) - log q(z_kb given x_b), z_kb ~ q, without gradients.

    Its mean over K is the ELBO, its log-mean-exp the IWAE bound and the estimate of log p(x_b). With a global latent
    each particle has its own, and the log-mean-exp estimates the predictive log density under q of the global latent.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        x: Data, (B, *event); NaN is missing.
        context: Covariates, (B, C), or None.
        num_particles: Number of particles K.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (particle, datum) pairs held at once; bounds the memory, whatever K and B.

    Returns:
        Log-weights, in nats, shape (K, B).

    Raises:
        ValueError: x lies outside the likelihood's support, or is missing where a program of one's own does not mask
            it; see also `log_terms`.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519, eq. 8.

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> log_w = log_weights(bed.model, bed.guide, bed.x, num_particles=2, seed=0)
        >>> bool(torch.allclose(log_w, bed.log_evidence.expand(2, 3)))
        True
    """
    check_programs(model, guide, x, context)
    chunks = iter_log_weights(model, guide, x, context, num_particles=num_particles, seed=seed, chunk_size=chunk_size)
    return torch.cat(list(chunks), dim=1)


def iter_log_weights(
    model: Program,
    guide: Program,
    x: Tensor,
    context: Tensor | None = None,
    *,
    num_particles: int,
    seed: int | None,
    chunk_size: int | None,
) -> Iterator[Tensor]:
    """`log_weights`, some data at a time: (K, rows) tensors in the order of the data."""
    check_data(model, x, context, guide)
    rows = rows_per_chunk(len(x), num_particles, chunk_size)
    step = min(num_particles, PAIRS_PER_CHUNK if chunk_size is None else chunk_size)
    kernels = _kernels.get() or Kernels()
    for start in range(0, len(x), rows):
        args = arguments(x[start : start + rows], None if context is None else context[start : start + rows])
        with evaluating(model, guide), seeded(None if seed is None else derived_seed(seed, start)):
            counts = [min(step, num_particles - k) for k in range(0, num_particles, step)]
            parts = [kernels(model, guide, args, k) for k in counts]
        yield torch.cat(parts)


class Kernels:
    """log w of a block of data, by Pyro's handlers; with `half` the model's matrix products are in bfloat16."""

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def __call__(self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int) -> Tensor:
        """Log-weights, (K, rows)."""
        program = in_half(model) if self.half else model
        return log_terms(program, guide, *args, num_particles=num_particles).log_weights


def in_half(program: Program) -> Program:
    """The program with its matrix products in bfloat16; sums and densities stay in the data's float type."""

    def rounded(*args: Tensor) -> Any:
        with torch.autocast(args[0].device.type, torch.bfloat16):
            return program(*args)

    return rounded


class CompiledKernels(Kernels):
    """The same, by a compiled graph for blocks of the shape that comes first; the handlers do the odd ones.

    The graph serves only if it agrees with the handlers on other rows.
    """

    def __init__(self, level: int, half: bool = False) -> None:
        super().__init__(half)
        self.level = level
        self.graphs: dict[tuple[Any, ...], tuple[tuple[Any, ...], Graph | None]] = {}

    def __call__(self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int) -> Tensor:
        """Log-weights, (K, rows)."""
        programs, shape = (model, guide), (num_particles, *(arg.shape for arg in args))
        if programs not in self.graphs:
            self.graphs[programs] = shape, self._graph(model, guide, args, num_particles)
        compiled_shape, graph = self.graphs[programs]
        if graph is not None and shape == compiled_shape:
            return graph(args)
        return super().__call__(model, guide, args, num_particles)

    def _graph(self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int) -> Graph | None:
        start, handlers = time.perf_counter(), super().__call__
        try:
            plain = recorded(lambda args: handlers(model, guide, args, num_particles), args)
            graph, others = compiled(plain, args), tuple(arg.roll(1, 0) for arg in args)
            with seeded(0):
                found = graph(others)
            with seeded(0):
                check_agreement(found, handlers(model, guide, others, num_particles), "log-weights")
        except RecordingError as error:
            logger.log(self.level, "log-weights not compiled: %s", error)
            return None
        logger.info("log-weights compiled (%.1f s)", time.perf_counter() - start)
        return graph


_kernels: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Take the log-weights of what is evaluated within by these."""
    token = _kernels.set(kernels)
    try:
        yield
    finally:
        _kernels.reset(token)


def compiling(num_pairs: int, mode: Literal["auto"] | bool, half: bool) -> AbstractContextManager[None]:
    """Compile the log-weights of what is evaluated within, if there are enough (particle, datum) pairs to repay it."""
    if mode is True or mode == "auto" and num_pairs >= FEWEST_PAIRS_TO_COMPILE:
        return using(CompiledKernels(logging.INFO if mode == "auto" else logging.WARNING, half))
    return using(Kernels(half)) if half else nullcontext()


def arguments(x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """What model and guide are called with: a program without covariates need not take the argument."""
    return (x,) if context is None else (x, context)
