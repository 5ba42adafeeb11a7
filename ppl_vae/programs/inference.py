"""A model, a guide and the rows that they are evaluated on, block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.guide import Guide
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.modules import arguments, evaluating, place, require_callable
from ppl_vae.programs.observed.site_of_x import site_of_x
from ppl_vae.programs.rows_apart import check_rows, points
from ppl_vae.programs.traces import LogTerms, Program, log_terms
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import switch, warn_caller, whole_number
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed, seeded

__all__ = ["Block", "Inference", "rows_per_chunk", "treat_alike"]

FEW_ROWS = 2  # that show which sites there are
PAIRS_PER_CHUNK = 10_000  # (particle, row) pairs held at once: 30 MB of float32 at 784 features


def rows_per_chunk(num_data: int, num_particles: int, chunk_size: int | None = None) -> int:
    """Rows to take at once, so that all their particles fit in a chunk of (particle, row) pairs.

    Args:
        num_data: Number of rows N.
        num_particles: Number of particles K.
        chunk_size: Pairs held at once; None is 10,000.

    Example:
        >>> rows_per_chunk(500, 100)
        100
    """
    pairs = PAIRS_PER_CHUNK if chunk_size is None else whole_number(chunk_size, "chunk_size")
    return max(1, min(num_data, pairs // whole_number(num_particles, "num_particles")))


def treat_alike(data: Dataset, what: str) -> None:
    """Warn, in one line, that the weights of the rows are not used.

    Args:
        data: The rows.
        what: What does not use them.

    Example:
        >>> treat_alike(Dataset([[0.0]]), "the PIT")
    """
    if data.weights is not None:
        warn_caller(f"the weights of the rows are not used: {what} counts all rows alike")


class Inference:
    """A model and a guide with the rows that they are evaluated on, placed and checked.

    The rows are moved to the device and the float type of the programs, and checked once against
    the likelihood's support, the columns and covariates of training and the latent dimensions.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1; where there is a guide
            alone, the guide.
        guide: `Guide`, or any Pyro guide with the same latent sites; where there is a model alone,
            the model.
        data: A `Dataset` (all its rows), or an array, tensor, DataFrame, DataArray.

    Raises:
        ValueError: x lies outside the likelihood's support, has other columns than in training, or
            model and guide have different latent dimensions.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=5)
        >>> inference = Inference(bed.model, bed.guide, bed.x)
        >>> [block.terms(10).log_weights.shape for block in inference.blocks(3, seed=0)]
        [torch.Size([10, 3]), torch.Size([10, 2])]
    """

    def __init__(self, model: Program, guide: Program, data: Dataset | Any) -> None:
        require_callable(model=model, guide=guide)
        self.data: Dataset = place(as_dataset(data), model, guide)
        self.model, self.guide = adapted(model, guide, self.data)
        check_data(self.model, self.data.x, self.data.context, self.guide)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def programs(self) -> tuple[Program, Program]:
        """Model and guide, in the library's form."""
        return self.model, self.guide

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Arguments of both programs for all rows."""
        return arguments(self.data)

    @cached_property
    def site_of_x(self) -> str:
        """Name of the site that observes x as one event; ValueError where none does."""
        return site_of_x(self.model, self.args)

    def check_programs(self) -> list[str]:
        """Check custom programs for results by row; names of latents outside the plate."""
        return check_rows(self.model, self.guide, *self.args)

    def require_density(self) -> None:
        """Raise ValueError where the guide sets a row's latent to a point, which has no density."""
        if isinstance(self.guide, Guide):
            return
        for name in points(self.guide, *self.block(slice(FEW_ROWS)).args):
            raise ValueError(
                f"the guide sets {name!r} to a point, without a density q, so that log p(x, z) - "
                "log q(z) is no log-weight: refine(model, guide, data) gives it a density"
            )

    @contextmanager
    def evaluating(self, seed: int | None = None) -> Iterator[None]:
        """Evaluation mode, on a random stream of its own unless the seed is None."""
        with evaluating(self.model, self.guide), seeded(seed):
            yield

    def block(self, rows: slice, seed: int | None = None) -> "Block":
        """Some of the rows."""
        return Block(self, self.data[rows], rows, seed)

    def blocks(
        self,
        rows: int,
        *,
        seed: int | None = None,
        keys: tuple[int, ...] = (),
        title: str = "",
        progress: bool = True,
    ) -> Iterator["Block"]:
        """All rows in their order, block by block.

        Args:
            rows: Rows of a block.
            seed: Seed of all; that of a block is derived from it, from `keys` and the first row.
            keys: What distinguishes this pass over the rows from others with the same seed.
            title: Title of the bar; without one there is no bar.
            progress: Whether to show the bar when it takes more than two seconds.
        """
        progress = switch(progress, "progress") and bool(title)
        with progress_bar(len(self), title, progress=progress) as bar:
            for start in range(0, len(self), rows):
                stop = min(start + rows, len(self))
                yield self.block(slice(start, stop), derived_seed(seed, *keys, start))
                bar.update(stop - start)


@dataclass(frozen=True)
class Block:
    """Some rows of an inference, with the seed of their draws.

    Programs run inside `evaluating()`; between blocks modes and random streams are the caller's.

    Args:
        inference: Where the rows come from.
        data: The rows.
        rows: Where they are among all.
        seed: Seed of their draws; None draws from torch's global stream.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=5)
        >>> block = Inference(bed.model, bed.guide, bed.x).block(slice(0, 2), seed=0)
        >>> with block.evaluating():
        ...     bed.guide(*block.args).shape
        torch.Size([2, 2])
    """

    inference: Inference
    data: Dataset
    rows: slice
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Arguments of both programs."""
        return arguments(self.data)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, at the start of the block's random stream."""
        with self.inference.evaluating(self.seed):
            yield

    def terms(self, num_particles: int = 1) -> LogTerms:
        """Log-probabilities of K draws of the guide, in evaluation mode, from the block's seed."""
        model, guide = self.inference.model, self.inference.guide
        with self.evaluating():
            return log_terms(model, guide, *self.args, num_particles=num_particles)
