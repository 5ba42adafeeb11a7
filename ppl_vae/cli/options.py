"""Parts that several commands share: options, examples in their help, changes by --set."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

TABLES = (".csv", ".parquet")  # as in data/tables/files.py, which would import NumPy

DataDir = Annotated[
    str | None, typer.Option(metavar="<path>", help="Folder to look for named data sets in.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Device = Annotated[
    str | None, typer.Option(help='Where to compute, e.g. "cuda"; the CPU by default.')
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that `fit`, `demo` or `pv.save_run` wrote.")
]
NewRows = Annotated[
    Path, typer.Argument(metavar="TABLE", help="New rows, .csv or .parquet.", dir_okay=False)
]
Table = Annotated[Path, typer.Option("--output", "-o", help="A file .csv or .parquet.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the main figures as one JSON document on stdout.")
]


def examples(*lines: str) -> str:
    """The Examples section of a command's help, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def one_of(what: str, default: str) -> str:
    """The help of an option that takes one of the names below the options."""
    return f"{what}, one of Names below; {default} by default."


def echo_files(said: str, folder: Path, files: Sequence[str]) -> None:
    """A text, and the names of the files below it."""
    typer.echo(f"{said}\n\nfiles in {folder}:\n  {', '.join(files)}")


def echo_json(figures: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
    """One JSON document on stdout; numbers that are not finite are null."""
    from ppl_vae.experiment.metrics import finite

    found = finite(dict(figures))
    if files:
        found["files"] = [str(path) for path in files]
    typer.echo(json.dumps(found, indent=2, allow_nan=False))


def echo_result(found: Any, output: Path, files: Sequence[Path], *, as_json: bool) -> None:
    """What a command found, as one JSON document or in words with the place of its files."""
    if as_json:
        echo_json(found.figures(), files)
        return
    where = output if len(files) == 1 else f"{output}, {len(files)} files"
    typer.echo(f"{found}\nin {where}")


def given(flags: Mapping[str, Any], changes: Sequence[str] | None) -> list[tuple[str, Any]]:
    """The flags that were given, and then the changes by --set."""
    known = [(key, value) for key, value in flags.items() if value is not None]
    return [*known, *map(_change, changes or [])]


def names(text: str | None) -> list[str] | None:
    """Names with commas between them."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def value(text: str | None) -> Any:
    """A TOML value, Python's True or False, or else a string."""
    if text is None:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def _change(text: str) -> tuple[str, Any]:
    """KEY=VALUE."""
    key, equals, given_value = (part.strip() for part in text.partition("="))
    if not equals:
        said = f"{text!r} is not KEY=VALUE, as in training.num_epochs=5"
        raise typer.BadParameter(said, param_hint="--set")
    return key, value(given_value)
