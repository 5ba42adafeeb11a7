"""The one tensor that everything is estimated from: log w = log p(x, z) - log q(z given x)."""

import logging
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.programs.discrete.cases import marginal_log_weights
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.global_latents import conditionals, with_global_draws
from ppl_vae.programs.inference import PAIRS_PER_CHUNK, rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating, modules_of, placed
from ppl_vae.programs.rows_apart import check_rows
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import echoed, whole_number
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.recording import (
    Graph,
    compiled,
    first_line,
    recorded,
    require_agreement,
    unchanged,
)
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["log_weights"]

logger = logging.getLogger(__name__)


def log_weights(
    model: Program,
    guide: Program,
    x: Tensor | Dataset,
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
        x: Observations, (B, *event), or a `Dataset`; NaN is missing.
        context: Covariates, (B, C), or None; a `Dataset` has its own.
        num_particles: Number of particles K.
        seed: Seed of the draws; None draws from torch's global stream.
        chunk_size: (particle, row) pairs held at once; bounds the memory, whatever K and B. The
            same seed gives the same draws at the same chunk_size.

    Returns:
        Log-weights, in nats, shape (K, B).

    Raises:
        ValueError: x lies outside the likelihood's support, or is missing where a custom program
            does not mask it; see also `log_terms`.

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
    if not isinstance(x, Dataset):
        for name, values in (("x", x), ("context", context)):
            if not isinstance(values, Tensor | None) or (values is None and name == "x"):
                raise TypeError(
                    f"log_weights({name}) is {echoed(values)}; it must be a tensor, as "
                    "Dataset(x).x is"
                )
    require_memory(f"num_particles={num_particles} of {len(x)} rows", num_particles, len(x))
    if isinstance(x, Dataset):
        args = arguments(x)
        context = x.context
    else:
        args = placed((each for each in (x, context) if each is not None), model, guide)
        context = None if context is None else args[-1]
    model, guide = adapted(model, guide, x if isinstance(x, Dataset) else args)
    has_global_latents = check_rows(model, guide, *args)
    check_data(model, args[0], context, guide)
    if has_global_latents:
        guide = with_global_draws(model, guide, args, num_particles, seed)
    parts = []
    for given_model, given_guide, count, part_seed in conditionals(
        model, guide, num_particles, seed
    ):
        sizes: Any = {"num_particles": count, "seed": part_seed, "chunk_size": chunk_size}
        blocks = iter_log_weights(given_model, given_guide, args, **sizes)
        parts.append(torch.cat(list(blocks), dim=1))
    return torch.cat(parts)


class Eager:
    """Log-weights of a block of rows by Pyro's handlers; `half`: matrix products in bfloat16."""

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def __call__(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Tensor:
        """Log-weights, (K, rows)."""
        program = in_half(model) if self.half else model
        terms = log_terms(program, guide, *args, num_particles=num_particles)
        return marginal_log_weights(terms, program, guide, *args)


EAGER = Eager()


def iter_log_weights(
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    *,
    num_particles: int,
    seed: int | None,
    chunk_size: int | None,
    evaluator: Eager = EAGER,
) -> Iterator[Tensor]:
    """`log_weights` of checked rows, block by block: (K, rows) tensors in their order."""
    sizes: Any = {"num_particles": num_particles, "seed": seed, "chunk_size": chunk_size}
    for parts in iter_particles(model, guide, args, evaluator=evaluator, **sizes):
        yield torch.cat(list(parts))


def iter_particles(
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    *,
    num_particles: int,
    seed: int | None,
    chunk_size: int | None,
    evaluator: Eager = EAGER,
) -> Iterator[Generator[Tensor]]:
    """The same, each block of rows as some particles after others: (k, rows) tensors.

    Programs are in evaluation mode, on the block's random stream, until its generator is closed.
    """
    num_data = len(args[0])
    rows = rows_per_chunk(num_data, num_particles, chunk_size)
    counts = list(particle_counts(num_particles, chunk_size))
    for start in range(0, num_data, rows):
        block = tuple(arg[start : start + rows] for arg in args)
        yield _particles(model, guide, block, counts, derived_seed(seed, start), evaluator)


def _particles(
    model: Program,
    guide: Program,
    block: tuple[Tensor, ...],
    counts: list[int],
    seed: int | None,
    evaluator: Eager,
) -> Generator[Tensor]:
    with evaluating(model, guide), seeded(seed):
        for count in counts:
            yield evaluator(model, guide, block, count)


def particle_counts(num_particles: int, chunk_size: int | None) -> Iterator[int]:
    """Numbers of particles to draw at once, so that those of one row fit in a chunk."""
    step = min(num_particles, chunk_size or PAIRS_PER_CHUNK)
    for start in range(0, num_particles, step):
        yield min(step, num_particles - start)


def in_half(program: Program) -> Program:
    """The program with its matrix products in bfloat16, its sums and densities as they were."""

    def rounded(*args: Tensor) -> Any:
        with torch.autocast(args[0].device.type, torch.bfloat16):
            return program(*args)

    return rounded


class Compiled(Eager):
    """The same for one model and guide, by a graph compiled for blocks of the first one's shape.

    Blocks of other shapes go through the handlers, and so do all blocks if the graph disagrees with
    the handlers on other rows.
    """

    def __init__(self, level: int, half: bool = False) -> None:
        super().__init__(half)
        self.level = level
        self.shape: tuple[Any, ...] | None = None
        self.graph: Graph | None = None

    def __call__(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Tensor:
        """Log-weights, (K, rows)."""
        shape = (num_particles, *((arg.shape, arg.dtype) for arg in args))
        if self.shape is None:
            self.shape = shape
            self.graph = self._compiled(model, guide, args, num_particles)
        if self.graph is not None and shape == self.shape:
            return self.graph(args)
        return super().__call__(model, guide, args, num_particles)

    def _compiled(
        self, model: Program, guide: Program, args: tuple[Tensor, ...], num_particles: int
    ) -> Graph | None:
        start = time.perf_counter()
        handlers = super().__call__

        def function(args: tuple[Tensor, ...]) -> Tensor:
            return handlers(model, guide, args, num_particles)

        # Whatever goes wrong: if it is the programs' fault, the handlers will raise it again.
        try:
            with unchanged(*modules_of(model, guide)):
                graph = compiled(recorded(function, args), args)
                others = tuple(arg.roll(1, 0) for arg in args)
                require_agreement(graph, function, (others,), "log-weights")
        except Exception as error:
            logger.log(self.level, "log-weights not compiled: %s", first_line(error))
            return None
        logger.info("log-weights compiled (%.1f s)", time.perf_counter() - start)
        return graph
