"""Data sets from files: .npz, .npy, .csv, .parquet, .zarr."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch

from ppl_vae.data.dataset import Binarize, Dataset
from ppl_vae.data.tables.files import TABLES, Roles, present
from ppl_vae.data.tables.text_files import Missing
from ppl_vae.errors import ArgumentError, DamagedFileError, TooLargeError
from ppl_vae.runtime.checks import file_path, from_keywords, one_line, switch
from ppl_vae.runtime.files import require_file
from ppl_vae.runtime.memory import require_memory, require_unpacked
from ppl_vae.runtime.text import echoed

__all__ = ["read"]

SUFFIXES = (".npz", ".npy", *TABLES, ".zarr")
PARTS = ("train", "valid", "test")
ARRAYS = ("x", "labels", "y", "context", "weights")
CLOSE = 0.8  # names that are so similar are taken for a mistake
LARGEST_IN_MEMORY = 2**28  # numbers: 1 GB of float32


class MissingOptions(TypedDict, total=False):
    """The keywords of `Missing`."""

    na_values: Iterable[str]
    keep_default_na: bool


def read(
    path: str | Path,
    *,
    label: str | None = None,
    context: Iterable[str] = (),
    binarize: Binarize | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    **missing: Unpack[MissingOptions],
) -> Dataset:
    r"""Read a file as a data set: .npz, .npy, .csv, .parquet or .zarr.

    An .npz, or a .zarr group, holds `x`, or `x_train` with `x_valid` and `x_test`, which become the
    splits; `context`, `weights` and `labels` (or `y`) have the same endings. An .npy, or a .zarr
    array, is x alone; with more than 2^28 numbers (1 GB as float32) it stays in its file, like a
    memory map given to `Dataset`. A table has one column per feature; missing cells are NaN. A
    first column of distinct values names the rows if it has no name, as pandas writes its index, or
    if it is called id or index and has no fractions. Pickled objects are refused. Values are not
    changed: use `scale=255` to divide bytes by 255.

    Args:
        path: The file.
        label: The array or column with the labels; without it, .npz and .zarr are searched for
            `labels` and `y`.
        context: The array (one) or the columns (any number) of covariates.
        binarize: As in `Dataset`.
        seed: Seed of the evaluation bits.
        dtype: Floating type of x and context.
        scale: Divisor of x.
        missing: `na_values`, further texts of missing cells in a .csv, such as "-" or "-999", and
            `keep_default_na`: whether the names of `pandas.read_csv` (NA, null, ...) are missing in
            a .csv; False makes them levels.

    Raises:
        FileNotFoundError: No such file.
        KeyError: There is no such array or column; those present are named.
        ValueError: The suffix is unknown, the file is damaged, or it has pickled objects;
            na_values or keep_default_na are given for another file than a .csv.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text(",site,may,june\n7,A,1.5,\n9,B,0.5,2.0\n")
        >>> data = read(path, label="site")
        >>> data.coords["feature"].tolist(), data.labels.tolist(), data.mask[0].tolist()
        (['may', 'june'], ['A', 'B'], [True, False])
        >>> data.coords["datum"].tolist()
        [7, 9]
        >>> read(path, label="site", na_values=["1.5"]).mask[0].tolist()
        [False, False]
    """
    path = file_path(path, "path")
    names = (context,) if isinstance(context, str) else tuple(context)
    cells = _missing(missing)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: suffix {path.suffix!r} is unknown, use one of {', '.join(SUFFIXES)}"
        )
    if path.suffix != ".zarr":
        require_file(path)
    cells.require_text(path)
    if path.suffix in TABLES:
        roles = Roles(context=names, label=label)
        fields = replace(roles, **vars(cells)).read(present(path))
    else:
        fields = OF_ARRAYS[path.suffix](present(path), label, names)
    data = Dataset(**fields, binarize=binarize, seed=seed, name=path.stem, dtype=dtype, scale=scale)
    if cells != Missing():  # further rows of these columns are read alike
        data = data.with_schema(replace(data.schema, missing=cells))
    return data


def _missing(options: MissingOptions) -> Missing:
    """Which cells of a text file are missing, by keywords; na_values is one text or several."""
    found = from_keywords(Missing, options, "read")
    given: Any = found.na_values
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, Iterable) or not all(isinstance(each, str) for each in texts):
        raise ArgumentError(
            f"na_values is {echoed(given)}; it must be texts, as in na_values=['-', '-999']"
        )
    return Missing(tuple(texts), switch(found.keep_default_na, "keep_default_na"))


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; pickled objects are refused.

    Raises:
        ValueError: The file is damaged or has pickled objects.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            sizes = [each.file_size for each in archive.zip.infolist()]
            require_unpacked(path, sum(sizes))
            return dict(archive)
    except TooLargeError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib have many kinds for damaged files
        raise _unreadable(path, error) from None


def assemble(found: Mapping[str, Any], label: str | None, context: str | None) -> dict[str, Any]:
    """The fields of a `Dataset` from arrays by name; parts are joined, and their rows are the
    splits.

    Raises:
        KeyError: A name is missing, or seems to be misspelt.

    Example:
        >>> fields = assemble({"x_train": np.zeros((3, 2)), "x_test": np.ones((1, 2))}, None, None)
        >>> {name: rows.tolist() for name, rows in fields["splits"].items()}
        {'train': [0, 1, 2], 'test': [3]}
    """
    parts = [part for part in PARTS if f"x_{part}" in found and "x" not in found]
    if "x" not in found and "train" not in parts:
        raise KeyError(f"no array 'x' or 'x_train' among {', '.join(found)}")
    endings = [f"_{part}" for part in parts] or [""]
    names = (name for name in ("labels", "y") if name + endings[0] in found)
    label = label or next(names, None)
    context = context or ("context" if f"context{endings[0]}" in found else None)
    _refuse_misspelt(found, [*ARRAYS, *filter(None, (label, context))], endings)
    sizes = [len(found[f"x_{part}"]) for part in parts]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return {
        "x": _joined(found, "x", endings),
        "labels": _joined(found, label, endings),
        "context": _joined(found, context, endings),
        "weights": _joined(found, "weights" if f"weights{endings[0]}" in found else None, endings),
        "splits": dict(zip(parts, rows, strict=False)),
    }


def _refuse_misspelt(found: Iterable[str], names: list[str], endings: list[str]) -> None:
    """Refuse arrays that are left out and seem to be meant, such as x_val or weight."""
    known = [name + ending for name in names for ending in endings]
    for name in found:
        stem = name.split("_", maxsplit=1)[0]
        if name not in known and difflib.get_close_matches(stem, names, 1, CLOSE):
            raise KeyError(
                f"array {name!r} is none of {', '.join(known)}, and would be left out: rename it, "
                "or remove it"
            )


def _joined(found: Mapping[str, Any], name: str | None, endings: list[str]) -> Any:
    """The arrays with this name and these endings, as one."""
    if name is None:
        return None
    for ending in endings:
        if name + ending not in found:
            raise KeyError(f"no array {name + ending!r} among {', '.join(found)}")
    parts = [found[name + ending] for ending in endings]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _named(
    path: Path, found: Mapping[str, Any], label: str | None, context: tuple[str, ...]
) -> dict[str, Any]:
    """The fields of a `Dataset` from a file's arrays by name."""
    if len(context) > 1:
        raise ValueError(
            f"{path}: a {path.suffix} file has its covariates in one array, and "
            f"context={list(context)} names several: give one"
        )
    try:
        return assemble(found, label, *(context or (None,)))
    except KeyError as error:
        raise KeyError(f"{path}: {error.args[0]}") from None


def _read_zarr(path: Path, label: str | None, context: tuple[str, ...]) -> dict[str, Any]:
    try:
        import zarr
    except ImportError:
        raise ImportError(f"{path}: .zarr files are read with zarr: pip install zarr") from None
    try:
        found: Any = zarr.open(path, mode="r")
    except (ValueError, OSError) as error:
        raise _unreadable(path, error) from None
    by_name = {"x": found} if hasattr(found, "shape") else dict(found.arrays())
    for name, array in by_name.items():
        require_memory(f"{path}: {name} of {array.shape[0]:,} rows", array.shape[0], num_bytes=8)
        _require_small_chunks(path, name, array)
    fields = _named(path, by_name, label, context)
    return fields | {"x": _left_if_large(fields["x"])}


def _require_small_chunks(path: Path, name: str, array: Any) -> None:
    """Raise TooLargeError for chunks of a file that are too large to be read for each batch."""
    size = math.prod(array.chunks)
    if array.size > LARGEST_IN_MEMORY and size > LARGEST_IN_MEMORY // 4:
        raise TooLargeError(
            f"{path}: {name} has chunks of {size:,} numbers, and each batch of its rows reads "
            f"whole ones: write it with at most {LARGEST_IN_MEMORY // 4:,} in a chunk"
        )


def _left_if_large(array: Any) -> Any:
    """An array in a file, read if it is small."""
    return array if array.size > LARGEST_IN_MEMORY else np.array(array)


def _read_npy(path: Path, label: str | None, context: tuple[str, ...]) -> dict[str, Any]:
    if label or context:
        raise ValueError(
            f"{path}: an .npy is x alone; for labels or context use .npz, .csv or .parquet"
        )
    try:
        return {"x": _left_if_large(np.load(path, mmap_mode="r", allow_pickle=False))}
    except Exception as error:  # NumPy, zipfile and zlib have many kinds for damaged files
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DamagedFileError:
    what = one_line(error) or type(error).__name__
    if "bject" in str(error):
        what = "pickled objects, which are refused, or damage"
    return DamagedFileError(
        f"{path} cannot be read: {what}; save plain numbers, for example with np.savez(path, x=x)"
    )


OF_ARRAYS = {
    ".npz": lambda path, label, context: _named(path, arrays(path), label, context),
    ".npy": _read_npy,
    ".zarr": _read_zarr,
}
