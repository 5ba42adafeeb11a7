"""log_evidence: any method, applied to all rows in blocks, so that it can be resumed."""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import batched, chain
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import blocks
from ppl_vae.errors import DamagedFileError, OtherSettingsError
from ppl_vae.evidence.fingerprints import digests, measure_of, row_weights
from ppl_vae.evidence.importance_sampling import ImportanceSampling, SamplingOptions
from ppl_vae.evidence.result import ROUNDING_OF_X, Evidence, concatenate
from ppl_vae.evidence.weights.resolution import rounded_rows, spread_of, unresolved_rows
from ppl_vae.guide import Guide
from ppl_vae.importance import log_weights
from ppl_vae.programs.global_latents import with_global_draws
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.modules import arguments, missing_values, modules_of, own_parameters
from ppl_vae.programs.traces import Program, undefined_site
from ppl_vae.programs.validation import ROWS_AT_ONCE
from ppl_vae.runtime.checks import (
    echoed,
    file_path,
    object_or_options,
    suggestion,
    switch,
    warn_caller,
)
from ppl_vae.runtime.digests import digest
from ppl_vae.runtime.distributed import from_main, gathered, is_main, num_processes, rank
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.sealed import read_arrays, write_arrays
from ppl_vae.runtime.seeding import derived_seed
from ppl_vae.runtime.text import counted

__all__ = ["log_evidence", "pooled"]

DRAWS_LOOKED_AT = 1_000  # for the site with an undefined density
SECONDS_BETWEEN_WRITES = 5.0
LEAST_DATA_APART = 1_000
ROWS_FOR_SPREAD = 1_000


@runtime_checkable
class Method(Protocol):
    """A way to estimate log p(x): `ImportanceSampling`, `AIS`, ..."""

    def rows(self, num_data: int) -> int:
        """Number of rows that it takes at once."""

    def warn(self) -> None:
        """Warn, once, if its settings leave a diagnostic unknown."""

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """Evidence of a block of rows."""


def log_evidence(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: Method | None = None,
    *,
    seed: int | None = 0,
    progress: bool | str = True,
    checkpoint: str | Path | None = None,
    **options: Unpack[SamplingOptions],
) -> Evidence:
    """log p(x) of every observation, with errors and diagnostics.

    `log_evidence(model, guide, data.test, num_particles=5000)` is short for
    `method=ImportanceSampling(5000)`. See the method for its formula and when it fails. If there
    are latents outside the plate "data", log p(x) is conditional on them and averaged over the
    guide's draws, and a warning names them.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame,
            DataArray.
        method: The method; None is `ImportanceSampling(**options)`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show a bar after two seconds; a text is its title.
        checkpoint: A file (.npz) that keeps finished blocks, from which an interrupted call
            resumes.
        options: Keywords of `ImportanceSampling`, when no method is given.

    Returns:
        `Evidence` of the N rows.

    Raises:
        ValueError: x is outside the support; a custom program does not mask NaN in x; options are
            given together with a method; the checkpoint was written with other settings.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> evidence = log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
        >>> bool(abs(evidence.log_evidence - bed.log_evidence.numpy()).max() < 1e-10)
        True
    """
    object_or_options(method, options, "method")
    method = check_method(_sampling(options) if method is None else method, "method")
    switch(progress if not isinstance(progress, str) else True, "progress")
    inference = Inference(model, guide, data)
    model, guide = inference.programs
    num_data = len(inference)
    proposal = _proposal(inference, getattr(method, "num_particles", 1), seed)
    method.warn()
    file = _Checkpoint(checkpoint, inference, f"{method!r}, seed={seed}")
    parts = from_main(file.read() if is_main() else None)
    done, rows = sum(map(len, parts)), method.rows(num_data)
    if isinstance(method, ImportanceSampling):
        method = method.compiled_for(proposal, num_data)
    title = progress if isinstance(progress, str) else "log p(x)"
    spread = _spread(inference, model)
    bar = progress_bar(num_data, title, done=done, progress=bool(progress) and is_main())
    with (
        own_parameters(model, guide),
        missing_values(inference.data.has_missing, model, guide),
        bar,
    ):
        for starts in batched(range(done, num_data, rows), num_processes()):
            found = None
            if rank() < len(starts):
                start = starts[rank()]
                block = inference.block(slice(start, start + rows), derived_seed(seed, start))
                found = method.estimate(model, proposal, block.data, seed=block.seed)
                found = _resolved(found, method, (model, guide), block.args, spread)
                found = _labelled(found, block.data, measure_of(model))
            for part in filter(None, gathered(found)):
                _append(parts, part)
            file.write(parts, last=starts[-1] + rows >= num_data)
            bar.update(sum(map(len, parts)) - bar.n)
    evidence = concatenate(parts)
    parts.clear()  # of a million rows they take 80 MB
    evidence = evidence.judged()
    _warn_of_undefined(inference, evidence)
    return evidence


def pooled(parts: Iterable[Evidence]) -> Evidence:
    """Evidence of all rows from the evidence of parts, such as the test rows of each fold.

    The reliability of each row (`is_estimate`) is judged again, from all rows together.

    Rows that are in several parts count as often; a warning says so.

    Args:
        parts: Evidence of each part, in the order of the result.

    Raises:
        ValueError: The parts hold bounds of different kinds, or log p(x) of different measures
            (densities and probabilities), or only some of them have weights or digests of their
            rows.

    References:
        Geisser (1975), The predictive sample reuse method with applications, JASA 70.

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> part = reduce_log_weights(np.zeros((50, 4)))
        >>> len(pooled([part, part]))
        8
    """
    parts = list(parts)
    evidence = concatenate(parts).judged()
    _warn_of_repeated_rows([part.digests for part in parts if part.digests is not None])
    return evidence


def _warn_of_repeated_rows(parts: list[np.ndarray]) -> None:
    """Warn of rows in several parts, unless equal rows are common within a part too."""
    if not parts:
        return
    distinct = [np.unique(part) for part in parts]
    rows, counts = np.unique(np.concatenate(distinct), return_counts=True)
    repeated = int((counts > 1).sum())
    are_distinct = sum(map(len, parts)) == sum(map(len, distinct))
    if repeated > 1 and (are_distinct or repeated == len(rows)):
        warn_caller(
            f"{counted(repeated, 'row')} of {len(rows):,} are in more than one part: where they "
            "are the same observations, they count twice"
        )


def check_method(method: Any, name: str) -> Method:
    """Raise ValueError unless this is a method of `log_evidence`."""
    if not isinstance(method, Method) or isinstance(method, type):
        raise ValueError(
            f"{name} is {echoed(method)}; pass an instance of a method, as in "
            "ImportanceSampling(5000) or AIS()"
        )
    return method


def _sampling(options: SamplingOptions) -> ImportanceSampling:
    known = list(SamplingOptions.__annotations__)
    for word in options:
        if word not in known:
            raise TypeError(
                f"log_evidence got an unexpected keyword argument {word!r}: "
                f"{suggestion(word, known)}"
            )
    return ImportanceSampling(**options)


def _proposal(inference: Inference, num_particles: int, seed: int | None) -> Program:
    """The guide, with draws of its latents outside the data plate if it has any."""
    model, guide = inference.model, inference.guide
    outside = inference.check_programs()
    inference.require_density()
    if not outside:
        return guide
    name = outside[0]
    warn_caller(
        f"{name!r} lies outside the data plate: log p(x) is conditional on it, averaged over the "
        "guide's draws, and a bound where these are too few or the weights too skewed; model and "
        f"guide at one value of it, pyro.condition(program, {{{name!r}: value}}), have an estimate "
        "for each row"
    )
    first = inference.block(slice(ROWS_AT_ONCE))
    return with_global_draws(model, guide, first.args, num_particles, seed)


def _warn_of_undefined(inference: Inference, evidence: Evidence) -> None:
    """Warn, once, of rows with a log-weight of NaN or +inf, and of the site that gives it."""
    rows = np.flatnonzero(evidence.is_undefined)
    if not len(rows):
        return
    where = "a log-density"
    with contextlib.suppress(Exception):  # the warning does without the site
        terms = inference.block(slice(rows[0], rows[0] + 1), seed=0).terms(DRAWS_LOOKED_AT)
        if site := undefined_site(terms):
            where = f"the log-density of site {site!r}"
    warn_caller(
        f"log p(x) is NaN for {counted(len(rows), 'row')}, the first being row {rows[0]}: {where} "
        "is NaN or infinite there at some draws: look at its parameters"
    )


def _spread(inference: Inference, model: Program) -> Tensor | None:
    """The spread of the first rows, by which rounding is looked for; None for counts."""
    if measure_of(model).startswith("counting"):
        return None
    return spread_of(inference.block(slice(ROWS_FOR_SPREAD)).args[0])


def _resolved(
    evidence: Evidence,
    method: Method,
    programs: tuple[Program, Program],
    args: tuple[Tensor, ...],
    spread: Tensor | None,
) -> Evidence:
    """The evidence without errors for rows whose draws, or whose x, the float type rounds.

    The library's own posteriors are as wide as their float type needs.
    """
    model, guide = programs
    rows = np.zeros(len(evidence), dtype=bool)
    if spread is not None:
        rows = rounded_rows(model, guide, args, spread).numpy()
    if isinstance(method, ImportanceSampling) and not isinstance(guide, Guide):
        rows = rows | unresolved_rows(guide, *args).numpy()
    names = ("mc_se", "ess", "pareto_k", "smoothed", "skewness")
    known: Any = {name: getattr(evidence, name) for name in names}
    known = {name: np.where(rows, np.nan, each) for name, each in known.items() if each is not None}
    return replace(evidence, **known) if rows.any() else evidence


def _labelled(evidence: Evidence, rows: Dataset, measure: str) -> Evidence:
    """The evidence with digests and weights of its rows, the measure, and the rounding of x."""
    known = replace(evidence, digests=digests(rows.x), measure=measure, weights=row_weights(rows))
    return _with_rounding(known, rows)


def _with_rounding(evidence: Evidence, data: Dataset) -> Evidence:
    """The evidence with the visible rounding of x among its checks."""
    if not data.rounding:
        return evidence
    share = np.full(len(evidence), data.rounding)
    return replace(evidence, checks={**evidence.checks, ROUNDING_OF_X: share})


def _append(parts: list[Evidence], part: Evidence) -> None:
    """Add a part, merged with the last one if that is small: many small parts take memory."""
    small = parts and len(parts[-1]) < LEAST_DATA_APART
    parts.append(concatenate([parts.pop(), part]) if small else part)


class _Checkpoint:
    """The finished part of a call, in one file; without a path there is no file."""

    def __init__(self, path: str | Path | None, inference: Inference, settings: str) -> None:
        self.path = None if path is None else file_path(path, "checkpoint")
        self.inference = inference
        self.written = time.monotonic()
        if self.path:
            modules = modules_of(inference.model, inference.guide)
            weights = (tensor for module in modules for tensor in module.state_dict().values())
            rows = arguments(inference.data)
            seen = chain.from_iterable(blocks(each) for each in rows)
            known = digest(chain(seen, weights))
            self.fingerprint = f"{settings}, data and weights {known}"
            self.probe = _probe(inference)

    def read(self) -> list[Evidence]:
        """The blocks done so far, as one."""
        if not self.path or not self.path.exists():
            return []
        remedy = "delete it or choose another path"
        try:
            file = read_arrays(self.path)
            found = str(file["fingerprint"])
            probe = file.get("probe", self.probe)
            done = Evidence.from_arrays(file)
        except (DamagedFileError, IsADirectoryError, KeyError) as error:
            raise DamagedFileError(
                f"{self.path} is not a checkpoint of log_evidence, or is damaged: {remedy}"
            ) from error
        if found != self.fingerprint:
            raise OtherSettingsError(
                f"{self.path} was written with different settings ({found}, not "
                f"{self.fingerprint}): {remedy}"
            )
        if not np.allclose(probe, self.probe, rtol=1e-3, equal_nan=True):
            raise OtherSettingsError(
                f"{self.path} was written with another model or guide, whose densities differ at "
                f"equal weights: {remedy}"
            )
        self._check_rows(done, remedy)
        # earlier versions did not write the rows' digests, or the rounding
        if done.digests is None:
            rows = self.inference.data[: len(done)]
            return [_labelled(done, rows, measure_of(self.inference.model))]
        weights: Any = row_weights(self.inference.data[: len(done)])
        former: Any = done.weights
        parts = [_with_rounding(replace(done, weights=weights), self.inference.data)]
        if len(done) == len(self.inference) and not np.array_equal(weights, former):
            self.write(parts, last=True)  # the file has the rows' present weights
        return parts

    def _check_rows(self, done: Evidence, remedy: str) -> None:
        """Raise unless the finished rows are the first rows of the data, each with all numbers."""
        sizes = {len(values) for name, values in done.arrays().items() if values.ndim}
        if len(done) > len(self.inference) or sizes != {len(done)}:
            raise DamagedFileError(
                f"{self.path} holds {max(sizes)} rows, of {len(self.inference)} in the data: "
                f"{remedy}"
            )
        rows = self.inference.data[: len(done)]
        if done.digests is not None and not np.array_equal(done.digests, digests(rows.x)):
            raise OtherSettingsError(f"{self.path} holds other rows: {remedy}")

    def write(self, parts: list[Evidence], *, last: bool) -> None:
        """Replace the file, every few seconds and at the end."""
        is_due = last or time.monotonic() - self.written > SECONDS_BETWEEN_WRITES
        if self.path and is_main() and is_due:
            self.written = time.monotonic()
            labels: Any = {"fingerprint": self.fingerprint, "probe": self.probe}
            labels["num_data"] = len(self.inference)
            write_arrays(self.path, concatenate(parts).judged().arrays() | labels)


def _probe(inference: Inference) -> np.ndarray:
    """A few log-weights, which distinguish models of equal weights and different densities."""
    some = inference.data[:3]
    log_w = log_weights(inference.model, inference.guide, some, num_particles=2, seed=0)
    return log_w.cpu().numpy()
