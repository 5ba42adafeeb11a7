"""The rows of a run, from a named data set or a file, and new rows in its columns."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_vae.data import Dataset, available, load, read
from ppl_vae.data.splits import count, random_rows
from ppl_vae.data.tables.columns import check_booleans, check_levels
from ppl_vae.data.tables.files import TABLES, Roles, read_frame
from ppl_vae.data.tables.frames import as_pandas, is_frame, with_named_columns
from ppl_vae.data.tables.levels import known_level
from ppl_vae.data.tables.schema import Schema
from ppl_vae.experiment.config import ConfigError, blamed
from ppl_vae.experiment.tables import DataTable
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.text import echoed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe_data", "errors_of", "load_data", "new_rows", "read_fields", "read_known"]

HELD_OUT = 0.1  # of the rows of a file, for validation and for test each
ONLY_TABLES = ("columns", "weights", "split", "drop", "ordered", "categories", "na_values")


def load_data(table: DataTable) -> Dataset:
    """The data that [data] names.

    Args:
        table: The table [data].

    Raises:
        ConfigError: The data are not found, or the table does not fit them.

    Example:
        >>> load_data(DataTable(name="digits")).name
        'digits'
    """
    make: Callable[..., Dataset] = partial(_named, table)
    if table.is_table:
        make = partial(_table, table)
    return _in_words(make)


def new_rows(rows: Any, schema: Schema, context: Any = None, *, place: str = "the rows") -> Dataset:
    r"""Rows in the columns of a schema: names and levels are matched by name.

    Columns that the schema does not have are left out; labels, weights and splits are not read.

    Args:
        rows: A file .csv or .parquet, a frame (of pandas, polars, pyarrow), or an array in the
            order of the columns.
        schema: The columns of training.
        context: Covariates of an array; those of a file or a frame are among its columns.
        place: The rows in messages; a file has its path.

    Raises:
        ConfigError: A column or a file is missing, or a value is not one of the known levels.

    Example:
        >>> import pandas as pd, tempfile
        >>> data = Dataset(pd.DataFrame({"age": [41, 39], "sex": ["male", "female"]}))
        >>> path = Path(tempfile.mkdtemp()) / "new.csv"
        >>> _ = path.write_text("sex,town,age\nmale,Rome,\n")
        >>> new_rows(path, data.schema).x.tolist()
        [[nan, 1.0]]
    """
    is_file = isinstance(rows, str | Path)
    place = str(rows) if is_file else place
    with errors_of(place):
        if not is_file:
            rows = with_named_columns(rows) if schema.names else as_pandas(rows)
        if is_file or is_frame(rows):
            if not schema.names:
                raise ValueError(
                    f"{schema.name!r}, the data of training, is not a table with named columns: "
                    "give the rows as an array in Python (load_run(RUN).read(x))"
                )
            frame = read_known(rows, schema) if is_file else rows.rename(columns=str)
            covariates = schema.context if schema.covariates.are_named else ()
            fields = Roles(columns=schema.names, context=covariates).fields(frame, place)
            if context is not None and covariates:
                raise ValueError(
                    f"context is given, and the covariates ({', '.join(covariates)}) are columns "
                    "of these rows: leave it out"
                )
            if context is not None:
                fields["context"] = _in_order(context, schema)
        else:
            fields = {"x": rows, "context": _in_order(context, schema)}
            if schema.names:
                fields["feature_names"] = schema.names
        name = Path(rows).stem if is_file else "rows"
        dtype = getattr(torch, schema.dtype)
        data = Dataset(**fields, levels=schema.levels, name=name, dtype=dtype)
        check_levels({"x": schema.names}, schema.levels, data.levels, "run")
        check_booleans(schema, data.schema)
        return data.with_schema(schema)


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Errors of reading new rows name their file.

    Args:
        path: The file.

    Raises:
        ConfigError: Instead of the error.

    Example:
        >>> with errors_of("new.csv"):
        ...     raise ValueError("x is inf at row 0")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: new.csv: x is inf at row 0
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, OSError) as error:
        said = one_line(error.args[0] if isinstance(error, KeyError) else error)
        raise ConfigError(said if str(path) in said else f"{path}: {said}") from error


def describe_data(name: str, *, data_dir: str | None = None) -> dict[str, Any]:
    """The facts of a named data set or a file, in words.

    Args:
        name: As in `load`.
        data_dir: The folder to search first.

    Raises:
        ConfigError: it cannot be read.

    Example:
        >>> describe_data("digits")["event shape"]
        '8 x 8'
    """
    data = load_data(DataTable(name=name, data_dir=data_dir))
    facts = data.describe()
    return {
        "name": facts["name"],
        "about": available().get(name, "a file"),
        "size": f"{facts['num_data']:,} rows",
        "event shape": " x ".join(map(str, facts["event_shape"])),
        "splits": ", ".join(f"{split} {size:,}" for split, size in facts["splits"].items()),
        "values": "{:g} to {:g}".format(*facts["range"]),
        "missing": f"{100 * facts['missing']:.1f} %",
        "covariates": ", ".join(map(str, facts["context"])) or "none",
        "labels": f"{facts['labels']} classes" if facts["labels"] else "none",
    }


def read_fields(path: str | Path, roles: Roles) -> dict[str, Any]:
    r"""The arguments of `Dataset` from the columns of a file.

    Args:
        path: The file, .csv or .parquet.
        roles: The roles of its columns.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rain.csv"
        >>> _ = path.write_text("may,june\n1.5,2.0\n")
        >>> list(read_fields(path, Roles(context=("may",)))["x"])
        ['june']
    """
    return roles.read(path)


def read_known(path: str | Path, schema: Schema, as_text: Collection[str] = ()) -> "pd.DataFrame":
    r"""The table in a file, with what is missing in training, and its levels by their names.

    Args:
        path: The file, .csv or .parquet.
        schema: The columns of training.
        as_text: Further columns of a text file whose cells are read as they are written.

    Example:
        >>> import pandas as pd, tempfile
        >>> data = Dataset(pd.DataFrame({"code": ["007", "7"]}))
        >>> path = Path(tempfile.mkdtemp()) / "new.csv"
        >>> _ = path.write_text("code\n007\n007\n")
        >>> read_known(path, data.schema)["code"].tolist()
        ['007', '007']
    """
    frame = read_frame(path, schema.missing, [*schema.levels, *as_text])
    for name, known in schema.levels.items():
        if name in frame and frame[name].dtype.kind == "O":
            named = frame[name].map(partial(known_level, known=known), na_action="ignore")
            frame[name] = named
    return frame


def _in_order(context: Any, schema: Schema) -> Any:
    """Covariates in the order of training, if they have names."""
    if not schema.covariates.are_named:
        return context
    context = with_named_columns(context, "context")
    if not is_frame(context):
        return context
    return Roles(columns=schema.context).fields(context.rename(columns=str), "context")["x"]


def _in_words(make: Callable[[], Dataset]) -> Dataset:
    """The data; errors of reading them name the table [data]."""
    try:
        return blamed("data", make)
    except KeyError as error:
        raise ConfigError(f"[data] {error.args[0]}") from None
    except OSError as error:
        raise ConfigError(f"[data] {error}") from error


def _named(table: DataTable) -> Dataset:
    """A named data set, or arrays in a file."""
    unfit = [word for word in ONLY_TABLES if getattr(table, word)]
    if unfit or isinstance(table.test, str):
        word = (*unfit, "test")[0]
        raise ValueError(
            f"{word} = {getattr(table, word)!r} is for tables in files {' or '.join(TABLES)}, and "
            f"{table.name!r} is not one"
        )
    options: dict[str, Any] = table.model_dump(include={"binarize", "seed"})
    is_named = table.name in available()
    for word in ("label", "context", "exposure") if is_named else ():
        if getattr(table, word):
            raise ValueError(
                f"{word} = {getattr(table, word)!r} names a column, and the named data set "
                f"{table.name!r} has none: leave {word} out"
            )
    if is_named and table.test is not None:
        raise ValueError(f"test = {echoed(table.test)}: {table.name!r} has its own test rows")
    if is_named or not (table.label or table.context or table.test is not None):
        return load(
            table.name,
            flatten=table.flatten,
            valid=table.valid,
            data_dir=table.data_dir,
            **options,
        )
    data = read(table.name, label=table.label, context=table.context, **options)
    data = data.flatten() if table.flatten else data
    return _divided(data, table, data.splits)


def _table(table: DataTable) -> Dataset:
    """A table in a file, with its splits."""
    options: dict[str, Any] = table.model_dump(include={"binarize", "seed"})
    options["name"] = Path(table.name).stem
    fields = read_fields(table.name, table.roles)
    splits = fields.pop("splits", {})
    data = Dataset(**fields, **options)
    if isinstance(table.test, str):
        data, splits = _with_test_file(data, table, table.test, options)
        valid = HELD_OUT if table.valid is None else table.valid
        table = table.model_copy(update={"test": None, "valid": valid})
    data = data.with_schema(replace(data.schema, missing=table.roles.missing))
    return _divided(data, table, splits)


def _with_test_file(
    data: Dataset, table: DataTable, path: str, options: dict[str, Any]
) -> tuple[Dataset, dict[str, np.ndarray]]:
    """The rows of two files, those of the second as test rows, with the levels of the first."""
    if table.split is not None:
        raise ValueError(
            f"test = {path!r} and split = {table.split!r} both name test rows: give one"
        )
    import pandas as pd

    schema = replace(data.schema, missing=table.roles.missing)
    new_rows(path, schema)  # an error names the row of its own file
    names = data.columns["x"]
    roles = replace(table.roles, columns=names)
    known = read_fields(table.name, roles)
    codes = [table.label] if table.label and known["labels"].dtype.kind == "O" else []
    fields = [known, roles.fields(read_known(path, schema, codes), path)]
    both = {what: pd.concat([each[what] for each in fields]) for what in fields[0]}
    rows = np.arange(len(both["x"]))
    splits = {"train": rows[: len(data)], "test": rows[len(data) :]}
    return Dataset(**both, **options, levels=data.levels), splits


def _divided(data: Dataset, table: DataTable, splits: dict[str, np.ndarray]) -> Dataset:
    """The data with the given splits, and validation and test rows from the other rows."""
    shares: dict[str, Any] = {"test": table.test, "valid": table.valid}
    if not splits:
        shares = {part: HELD_OUT if share is None else share for part, share in shares.items()}
        return data.split(**shares, seed=table.seed)
    if "train" not in splits:
        raise ValueError(f"{table.name} has no train rows, only {', '.join(splits)}")
    rest = splits["train"]
    num_rows = len(rest)
    found = dict(splits)
    for part, share in shares.items():
        if share is None:
            continue
        if part in splits:
            raise ValueError(f"{table.name} has its own {part} rows: leave {part} out")
        num_taken = count(share, num_rows, part)
        if num_taken >= len(rest):
            raise ValueError(f"{part} = {share} leaves none of the {num_rows} rows to train on")
        rest, found[part] = random_rows(rest, num_taken, table.seed)
    return data.with_splits(found | {"train": rest})
