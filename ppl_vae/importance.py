"""The one tensor that everything is estimated from: log w = log p(x, z) - log q(z given x), shape
(K, B).
"""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.programs.global_latents import conditionals, with_global_draws
from ppl_vae.programs.inference import PAIRS_PER_CHUNK, rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating, modules_of
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.programs.validation import check_data, check_programs
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.recording import (
    Graph,
    check_agreement,
    compiled,
    first_line,
    recorded,
    unchanged,
)
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["log_weights"]

logger = logging.getLogger(__name__)

FEWEST_PAIRS_TO_COMPILE = 2_000_000  # compiling takes as long as about a million


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

    Its mean over K is the ELBO, its log-mean-exp the IWAE bound and the estimate of log p(x_b).
    With latents g outside the data plate the particles are divided among several draws g_j ~ q, the
    same for all rows, in that order: then the log-mean-exp estimates log E_q[p(x_b given g)].

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        x: Data, (B, *event); NaN is missing.
        context: Covariates, (B, C), or None.
        num_particles: Number of particles K.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (particle, datum) pairs held at once; bounds the memory, whatever K and B. The
            same seed gives the same draws at the same chunk_size.

    Returns:
        Log-weights, in nats, shape (K, B).

    Raises:
        ValueError: x lies outside the likelihood's support, or is missing where a program of one's
            own does not mask it; see also `log_terms`.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> log_w = log_weights(bed.model, bed.guide, bed.x, num_particles=2, seed=0)
        >>> bool(torch.allclose(log_w, bed.log_evidence.expand(2, 3)))
        True
    """
    num_particles = whole_number(num_particles, "num_particles")
    if check_programs(model, guide, x, context):
        guide = with_global_draws(model, guide, arguments(x, context), num_particles, seed)
    parts = []
    for given_model, given_guide, count, part_seed in conditionals(
        model, guide, num_particles, seed
    ):
        sizes: Any = {"num_particles": count, "seed": part_seed, "chunk_size": chunk_size}
        parts.append(
            torch.cat(list(iter_log_weights(given_model, given_guide, x, context, **sizes)), dim=1)
        )
    return torch.cat(parts)


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
        args = arguments(
            x[start : start + rows], None if context is None else context[start : start + rows]
        )
        with evaluating(model, guide), seeded(None if seed is None else derived_seed(seed, start)):
            counts = [min(step, num_particles - k) for k in range(0, num_particles, step)]
            parts = [kernels(model, guide, args, k) for k in counts]
        yield torch.cat(parts)


class Kernels:
    """log w of a block of data, by Pyro's handlers; with `half` the model's matrix products are in
    bfloat16.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def __call__(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Tensor:
        """Log-weights, (K, rows)."""
        program = in_half(model) if self.half else model
        return log_terms(program, guide, *args, num_particles=num_particles).log_weights


def in_half(program: Program) -> Program:
    """The program with its matrix products in bfloat16; sums and densities stay in the data's float
    type.
    """

    def rounded(*args: Tensor) -> Any:
        with torch.autocast(args[0].device.type, torch.bfloat16):
            return program(*args)

    return rounded


class CompiledKernels(Kernels):
    """The same, by a compiled graph for blocks of the shape that comes first; the handlers do the
    odd ones.

    The graph serves only if it agrees with the handlers on other rows.
    """

    def __init__(self, level: int, half: bool = False) -> None:
        super().__init__(half)
        self.level = level
        self.graphs: dict[tuple[Any, ...], tuple[tuple[Any, ...], Graph | None]] = {}

    def __call__(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Tensor:
        """Log-weights, (K, rows)."""
        programs, shape = (model, guide), (num_particles, *((arg.shape, arg.dtype) for arg in args))
        if programs not in self.graphs:
            self.graphs[programs] = shape, self._graph(model, guide, args, num_particles)
        compiled_shape, graph = self.graphs[programs]
        if graph is not None and shape == compiled_shape:
            return graph(args)
        return super().__call__(model, guide, args, num_particles)

    def _graph(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Graph | None:
        start, handlers = time.perf_counter(), super().__call__
        try:
            with unchanged(*modules_of(model, guide)):
                plain = recorded(lambda args: handlers(model, guide, args, num_particles), args)
                graph, others = compiled(plain, args), tuple(arg.roll(1, 0) for arg in args)
                with seeded(1):  # the graph was recorded by other draws
                    found = graph(others)
                with seeded(1):
                    check_agreement(
                        found, handlers(model, guide, others, num_particles), "log-weights"
                    )
        except (
            Exception
        ) as error:  # whatever it was: if it is the programs' own, the handlers will raise it again
            logger.log(self.level, "log-weights not compiled: %s", first_line(error))
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


def compiling(
    num_pairs: int, mode: Literal["auto"] | bool, half: bool
) -> AbstractContextManager[None]:
    """Compile the log-weights of what is evaluated within, if there are enough (particle, datum)
    pairs to repay it.
    """
    if mode is True or mode == "auto" and num_pairs >= FEWEST_PAIRS_TO_COMPILE:
        return using(CompiledKernels(logging.INFO if mode == "auto" else logging.WARNING, half))
    return using(Kernels(half)) if half else nullcontext()
