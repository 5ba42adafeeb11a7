"""compress and decompress: bits-back coding with asymmetric numeral systems."""

import importlib.metadata
import platform
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.errors import DamagedFileError, DataError, OtherSettingsError
from ppl_vae.families.context import check_context, read_context
from ppl_vae.families.missing import discrete_entries
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import evaluating
from ppl_vae.runtime.checks import instance_of, whole_number
from ppl_vae.runtime.digests import digest
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.tasks.compression.coder import Coder, initial_words, words_for
from ppl_vae.tasks.compression.codes import Codes, in_float64, one_thread
from ppl_vae.tasks.compression.compressed import DAMAGED, CompressedRows, Header
from ppl_vae.tasks.compression.latents import Grid, components_of, normal_of

__all__ = ["compress", "decompress"]

ROWS_AT_ONCE = 1000
LIBRARIES = ("constriction", "numpy", "torch", "ppl-vae")


class TooShort(Exception):
    """The stack does not hold enough bits to draw z of the next row."""


def compress(
    model: Model,
    guide: Guide,
    data: Dataset | Any,
    *,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> bytes:
    r"""Rows of discrete x without loss, in about -ELBO / log 2 bits a row.

    For each row z is drawn from q(z given x) *by decoding bits that are on a stack already*; then x
    is coded under p(x given z), and z under p(z). The decoder recovers z, x and those bits, so that
    a row costs -log p(x given z) - log p(z) + log q(z given x), on average -ELBO (in nats). The
    component of a mixture prior is drawn in the same way, so that z costs -log p(z) there too. z
    lies on a grid of cells, an eighth of the narrowest posterior sd wide. The first row draws its z
    from random bits, `CompressedRows.initial_bits`. Model and guide are evaluated in float64 by one
    thread. `decompress` needs the same weights, library versions and kind of machine, and refuses
    others.

    Args:
        model: A `Model` with a normal prior (`StandardNormal`, `LearnedNormal`) or a mixture of
            normals (`GaussianMixture`, `VampPrior`), and a likelihood of independent discrete
            entries (`Bernoulli`, `Categorical`, counts, `DiscretizedLogistic`, or `Columns` of
            these).
        guide: A `Guide` with a `MeanFieldNormal` posterior.
        data: The rows, complete: a `Dataset`, or an array, tensor, DataFrame, DataArray.
        batch_size: Rows that the networks see at once.
        seed: Seed of the initial bits.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The file's content; `CompressedRows.from_bytes` has its sizes.

    Raises:
        ImportError: The package constriction is missing.
        ValueError: Model or guide is a custom program; a family is none of these; a value is
            missing or is none of the likelihood's.

    References:
        Townsend, Bird and Barber (2019), Practical lossless compression with latent variables using
        bits back coding, arXiv:1901.04866; Bamler (2022), Understanding entropy coding with
        asymmetric numeral systems, arXiv:2201.01741 (constriction).

    Example:
        >>> import torch
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(5))
        >>> guide = Guide(posteriors.MeanFieldNormal(2), 5)
        >>> x = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
        >>> file = compress(model, guide, x)
        >>> torch.equal(decompress(model, guide, file), x)
        True
    """
    instance_of(model, "model", Model)
    instance_of(guide, "guide", Guide)
    batch_size = whole_number(batch_size, "batch_size")
    seed = whole_number(seed, "seed", at_least=0)
    rows = Inference(model, guide, data).data.in_memory().to("cpu")
    _refuse_densities(model, rows)
    _refuse_missing(rows)
    batch_size = min(batch_size, len(rows))
    model, guide = in_float64(model, guide)
    _refuse_infinite(model, guide)
    x = rows.x.double()
    context = None if rows.context is None else rows.context.double()
    with one_thread(), evaluating(model, guide):
        largest = x.flatten(1).amax(0).ceil().int().tolist()
        grid = _grid(model, guide, x, context)
        codes = Codes(model, guide, grid, largest, rows.x.dtype, batch_size, context)
        num_words = words_for(codes.draws_per_row)
        while True:
            try:
                stack, batches = _encoded(codes, x, seed, num_words, progress)
                break
            except TooShort:
                num_words *= 2
        header = Header(
            num_rows=len(x),
            dtype=str(rows.x.dtype).removeprefix("torch."),
            batches=batches,
            batch_size=batch_size,
            steps=grid.steps.tolist(),
            centres=grid.centres.tolist(),
            half=grid.half,
            largest=largest,
            initial_words=num_words,
            seed=seed,
            weights=_weights(model, guide),
            probe=codes.probe(),
            context=_digest_of(context),
            rows=digest([rows.x]),
            versions=_versions(),
        )
    return CompressedRows(header, stack).to_bytes()


def decompress(
    model: Model,
    guide: Guide,
    compressed: bytes,
    *,
    context: Any = None,
    progress: bool = True,
) -> Tensor:
    """The rows x that `compress` was given, to the last bit.

    Args:
        model: The model that compressed them.
        guide: The guide that compressed them.
        compressed: What `compress` returned.
        context: The covariates of the rows, if the model has any: they are not in the file.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        x, (N, *event), of the type that it had.

    Raises:
        ImportError: The package constriction is missing.
        DamagedFileError: The bytes are not those that `compress` returned.
        OtherSettingsError: Weights, covariates, versions or the machine's rounding differ from
            those of `compress`. Nothing is returned then.

    Example:
        See `compress`.
    """
    file = CompressedRows.from_bytes(compressed)
    header = file.header
    covariates = read_context(context, getattr(model, "context_dim", 0), model)
    model, guide = in_float64(model, guide)
    check_context(covariates, model.context_dim, "Model")
    if covariates is not None:
        covariates = covariates.cpu().double()
    _refuse_others(header, model, guide, covariates)
    pairs = (header.centres, header.steps)
    centres, steps = (torch.tensor(each, dtype=torch.float64) for each in pairs)
    grid = Grid(centres, steps, header.half)
    dtype = getattr(torch, header.dtype)
    codes = Codes(model, guide, grid, header.largest, dtype, header.batch_size, covariates)
    with one_thread(), evaluating(model, guide):
        if codes.probe() != header.probe:
            raise OtherSettingsError(
                "model and guide give other numbers here than where the rows were compressed, in "
                "the last digits: decompress on the same kind of machine"
            )
        x, words = _decoded(codes, file, progress)
    x = x.to(dtype)
    first = initial_words(header.seed, header.initial_words)
    if not np.array_equal(words, first) or digest([x]) != header.rows:
        raise DamagedFileError(DAMAGED)
    return x


# --- rows to words and back -----------------------------------------------------------------------


def _encoded(
    codes: Codes, x: Tensor, seed: int, num_words: int, progress: bool
) -> tuple[np.ndarray, list[int]]:
    """The stack after all rows, and the rows of each batch: few first, since bits are few."""
    coder = Coder(codes, initial_words(seed, num_words), seed)
    batches: list[int] = []
    done = 0
    with progress_bar(len(x), "compression", progress=progress) as bar:
        while done < len(x):
            size = min(2 * batches[-1] if batches else 1, codes.batch_size, len(x) - done)
            while size and coder.num_words < words_for(size * codes.draws_per_row):
                size //= 2
            if not size:
                raise TooShort
            coder.push(x[done : done + size], slice(done, done + size))
            batches.append(size)
            done += size
            bar.update(size)
    return coder.words, batches


def _decoded(codes: Codes, file: CompressedRows, progress: bool) -> tuple[Tensor, np.ndarray]:
    """All rows, and what is then left on the stack."""
    header = file.header
    coder = Coder(codes, file.words, header.seed)
    event = codes.model.likelihood.event_shape
    x = torch.zeros(header.num_rows, *event).double()
    ends = [0, *np.cumsum(header.batches).tolist()]
    with progress_bar(len(x), "decompression", progress=progress) as bar:
        for start, stop in reversed(list(pairwise(ends))):
            x[start:stop] = coder.pop(slice(start, stop)).reshape(-1, *event)
            bar.update(stop - start)
    return x, coder.words


def _grid(model: Model, guide: Guide, x: Tensor, context: Tensor | None) -> Grid:
    """The cells of z for these rows."""
    _, mean, sd = components_of(model.prior_at(context), "the prior")
    parts = []
    for start in range(0, len(x), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        given = None if context is None else context[some]
        parts.append(normal_of(guide.encode(x[some], given), "the posterior"))
    means, sds = (torch.cat(each) for each in zip(*parts, strict=True))
    return Grid.covering(mean.flatten(0, -2), sd.flatten(0, -2), means, sds)


# --- what is refused ------------------------------------------------------------------------------


def _refuse_densities(model: Any, rows: Dataset) -> None:
    """Entries of x with a density, which have no last digit."""
    likelihood = model.likelihood
    is_discrete = discrete_entries(likelihood.support, rows.event_shape.numel())
    if all(is_discrete):
        return
    name = type(likelihood).__name__
    if rows.feature_names and any(is_discrete):
        name = f"column {rows.feature_names[is_discrete.index(False)]}"
    raise ValueError(
        f"{name}: x has a density, and compression without loss takes discrete likelihoods: round "
        "x and use DiscretizedLogistic or counts, or leave such columns out of the model"
    )


def _refuse_missing(rows: Dataset) -> None:
    """x without missing values."""
    missing = rows.x.isnan()
    if missing.any():
        row, *feature = missing.nonzero()[0].tolist()
        place = tuple(feature)
        if len(feature) == 1:
            place = rows.coords[rows.dims[1]][feature[0]]
        raise DataError(
            f"x is missing at {rows.row_at(row)}, feature {place}: compression takes complete "
            "rows; leave such rows out, or `impute` them"
        )


def _refuse_infinite(*modules: torch.nn.Module) -> None:
    """Weights that are no numbers, with which nothing can be coded."""
    for module in modules:
        for name, value in module.named_parameters():
            if not value.isfinite().all():
                raise DataError(
                    f"the weights {name} of the {type(module).__name__} are not finite: train again"
                )


def _refuse_others(header: Header, model: Model, guide: Guide, context: Tensor | None) -> None:
    """Weights, covariates or versions that are not those of compression."""
    if _weights(model, guide) != header.weights:
        raise OtherSettingsError(
            "the rows were compressed with other weights: give the model and the guide that "
            "compressed them"
        )
    if _digest_of(context) != header.context:
        raise OtherSettingsError(
            "context differs from the covariates of the compressed rows: give those, in their order"
        )
    for name, version in _versions().items():
        if header.versions.get(name) != version:
            raise OtherSettingsError(
                f"the rows were compressed with {name} {header.versions.get(name)}, and this is "
                f"{version}: install that one, since other builds round differently"
            )


def _versions() -> dict[str, str]:
    """Of the libraries that compute, and of the machine."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    kind = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return found | {"processor": kind}


def _weights(*modules: torch.nn.Module) -> str:
    """Digest of all weights, with their names."""
    return digest(_named(modules))


def _named(modules: tuple[torch.nn.Module, ...]) -> Iterator[Tensor | str]:
    for module in modules:
        for name, value in module.state_dict().items():
            yield from (name, value)


def _digest_of(context: Tensor | None) -> str:
    return "" if context is None else digest([context])
