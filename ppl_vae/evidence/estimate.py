"""log_evidence: any method, over all data, in blocks that can be resumed."""

import hashlib
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from itertools import batched
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import BadZipFile

import numpy as np
from tqdm.auto import tqdm

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.streaming import blocks
from ppl_vae.evidence.fingerprints import digests, measure_of
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.result import ROUNDING_OF_X, Evidence, concatenate
from ppl_vae.importance import compiling, log_weights
from ppl_vae.programs.global_latents import GlobalDraws, with_global_draws
from ppl_vae.programs.modules import (
    arguments,
    missing_values,
    modules_of,
    own_parameters,
    place,
)
from ppl_vae.programs.traces import Program
from ppl_vae.programs.validation import ROWS_AT_ONCE, check_programs
from ppl_vae.runtime.checks import suggestion, warn_caller
from ppl_vae.runtime.distributed import from_main, gathered, is_main, num_processes, rank
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["log_evidence"]

SECONDS_BETWEEN_WRITES = 5.0
LEAST_DATA_APART = 1_000


@runtime_checkable
class Method(Protocol):
    """A way to estimate log p(x): `ImportanceSampling`, `AIS`, ..."""

    def rows(self, num_data: int) -> int:
        """How many data it takes at once."""

    def warn(self) -> None:
        """Warn, once, of what its settings cannot tell."""

    def estimate(
        self, model: Program, guide: Program, data: Dataset, *, seed: int | None
    ) -> Evidence:
        """Evidence of a block of data."""


def log_evidence(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: Method | None = None,
    *,
    seed: int | None = 0,
    progress: bool | str = True,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Evidence:
    """log p(x) of every datum, with what says whether to believe it.

    `log_evidence(model, guide, data.test, num_particles=5000)` is short for
    `method=ImportanceSampling(5000)`. See the method for its formula and when it fails. With
    latents outside the plate "data" it is log p(x) given them, averaged over the guide's draws: a
    warning names them.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset` (all its rows: pass `data.test`), or an array, tensor, DataFrame,
            DataArray.
        method: How; None is `ImportanceSampling(**options)`.
        seed: Seed of the draws; None draws from torch's global stream.
        progress: Whether to show a bar when it takes more than two seconds; a text is its title.
        checkpoint: A file (.npz) that keeps what is done, so that an interrupted call goes on where
            it was.
        options: Keywords of `ImportanceSampling`, when no method is given.

    Returns:
        `Evidence` of the N data.

    Raises:
        ValueError: x outside the support; NaN in x that a program of one's own does not mask;
            options beside a method; a checkpoint of another call.

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
    if method is not None and options:
        raise ValueError(
            f"{', '.join(options)} was given beside method={method}: set it in the method"
        )
    method, data = (
        check_method(method or _sampling(options), "method"),
        place(as_dataset(data), model, guide),
    )
    proposal, outside = guide, check_programs(model, guide, data.x, data.context)
    if outside:
        first = data[:ROWS_AT_ONCE]
        args = arguments(first.x, first.context)
        proposal = with_global_draws(model, guide, args, getattr(method, "num_particles", 1), seed)
        warn_caller(
            f"{outside[0]!r} lies outside the data plate: log p(x) is conditional on it, averaged "
            "over the guide's "
            "draws of it"
        )
    method.warn()
    file, rows = (
        _Progress(checkpoint, (model, guide), data, f"{method!r}, seed={seed}"),
        method.rows(len(data)),
    )
    parts, measure = from_main(file.read() if is_main() else None), measure_of(model)
    done, is_quiet = sum(len(part) for part in parts), not (progress and is_main())
    if parts and parts[0].digests is None:  # of an earlier version
        parts = [replace(parts[0], digests=digests(data[:done].x), measure=measure)]
    parts = [_with_rounding(part, data) for part in parts]  # which an earlier version did not write
    title = progress if isinstance(progress, str) else "log p(x)"
    bar = tqdm(total=len(data), initial=done, desc=title, unit=" data", disable=is_quiet, delay=2)
    with (
        own_parameters(model, guide),
        _kernels(method, data, proposal),
        missing_values(data.has_missing, model, guide),
        bar,
    ):
        for starts in batched(range(done, len(data), rows), num_processes()):
            found = None
            if rank() < len(starts):
                some = data[starts[rank()] : starts[rank()] + rows]
                block_seed = None if seed is None else derived_seed(seed, starts[rank()])
                found = method.estimate(model, proposal, some, seed=block_seed)
                found = _with_rounding(
                    replace(found, digests=digests(some.x), measure=measure), data
                )
            for part in gathered(found):
                _append(parts, part)
            file.write(parts, last=starts[-1] + rows >= len(data))
            bar.update(sum(map(len, parts)) - bar.n)
    return concatenate(parts).judged()


def check_method(method: Any, name: str) -> Method:
    """Raise ValueError unless this is a method of evidence."""
    if not isinstance(method, Method) or isinstance(method, type):
        raise ValueError(
            f"{name} is {method!r}; give a method of evidence, made, as in "
            "ImportanceSampling(5000) or AIS()"
        )
    return method


def _sampling(options: dict[str, Any]) -> ImportanceSampling:
    known = [field.name for field in fields(ImportanceSampling)]
    for word in options:
        if word not in known:
            raise TypeError(
                f"log_evidence got an unexpected keyword argument {word!r}: "
                f"{suggestion(word, known)}"
            )
    return ImportanceSampling(**options)


def _with_rounding(evidence: Evidence, data: Dataset) -> Evidence:
    """The same, with what rounding took of x among its checks, where that is visible."""
    if not data.rounding:
        return evidence
    share = np.full(len(evidence), data.rounding)
    return replace(evidence, checks={**evidence.checks, ROUNDING_OF_X: share})


def _append(parts: list[Evidence], part: Evidence | None) -> None:
    """One more part, as one with the last while that is small: many little ones outweigh their
    numbers.
    """
    if part is not None:
        small = parts and len(parts[-1]) < LEAST_DATA_APART
        parts.append(concatenate([parts.pop(), part]) if small else part)


def _kernels(method: Method, data: Dataset, guide: Program) -> AbstractContextManager[None]:
    """Compiled log-weights, where all blocks have one shape and there are enough of them; bfloat16
    where asked for.
    """
    if not isinstance(method, ImportanceSampling):
        return nullcontext()
    each_is_new = method.target_se is not None or isinstance(guide, GlobalDraws)
    mode = False if each_is_new else method.compile
    return compiling(len(data) * method.num_particles, mode, half=method.dtype is not None)


class _Progress:
    """What is done of a call, in one file; empty where there is no file."""

    def __init__(
        self,
        path: str | Path | None,
        programs: tuple[Program, Program],
        data: Dataset,
        settings: str,
    ) -> None:
        self.path, self.written, self.num_data = (
            None if path is None else Path(path),
            time.monotonic(),
            len(data),
        )
        if self.path is not None:
            self.fingerprint = f"{settings}, data and weights {_digest(programs, data)}"
            self.probe = _probe(*programs, data)

    def read(self) -> list[Evidence]:
        """The blocks done so far, as one."""
        if self.path is None or not self.path.exists():
            return []
        try:
            with (
                self.path.open("rb") as opened,
                np.load(opened, allow_pickle=False) as file,
            ):  # numpy may leave it open
                found, probe = (
                    str(file["fingerprint"]),
                    file["probe"] if "probe" in file else self.probe,
                )
                done = Evidence.from_arrays(file)
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise ValueError(
                f"{self.path} is no checkpoint of log_evidence: delete it, or name another file"
            ) from error
        if found != self.fingerprint:
            raise ValueError(
                f"{self.path} holds another call ({found}, not {self.fingerprint}): delete it"
            )
        if not np.allclose(probe, self.probe, rtol=1e-3, equal_nan=True):
            raise ValueError(
                f"{self.path} holds another model or guide, with other densities at the same "
                "weights: delete it"
            )
        return [done]

    def write(self, parts: list[Evidence], *, last: bool) -> None:
        """Replace the file, at the end and every few seconds before."""
        if (
            self.path is not None
            and is_main()
            and (last or time.monotonic() - self.written > SECONDS_BETWEEN_WRITES)
        ):
            self.written = time.monotonic()
            labels: Any = {
                "fingerprint": self.fingerprint,
                "probe": self.probe,
                "num_data": self.num_data,
            }
            concatenate(parts).judged().save(self.path, **labels)


def _probe(model: Program, guide: Program, data: Dataset) -> np.ndarray:
    """A few log-weights: what model and guide are, besides their weights, is in no file but in
    their densities.
    """
    some = data[: min(3, len(data))]
    return log_weights(model, guide, some.x, some.context, num_particles=2, seed=0).cpu().numpy()


def _digest(programs: tuple[Program, ...], data: Dataset) -> str:
    """A hash of the data and of the modules' weights."""
    digest = hashlib.sha256()
    for part in blocks(data.x):
        digest.update(np.ascontiguousarray(part.cpu().numpy()))
    for module in modules_of(*programs):
        for tensor in module.state_dict().values():
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
