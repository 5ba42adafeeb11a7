"""The commands that compress the rows of a file, and bring them back."""

from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli.commands import app
from ppl_vae.cli.options import (
    DataDir,
    Json,
    NewRows,
    Quiet,
    RunFolder,
    Seed,
    Table,
    echo_json,
    echo_result,
    examples,
)
from ppl_vae.runtime.text import counted


@app.command(
    short_help="Compress the rows of a new file without loss.",
    epilog=examples(
        "ppl-vae compress runs/table new.csv --output new.bits",
        "ppl-vae compress runs/table new.parquet --output new.bits --json",
    ),
)
def compress(
    run: RunFolder,
    rows: NewRows,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file .bits.")] = Path(
        "rows.bits"
    ),
    seed: Seed = 0,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compress the modelled columns of a file without loss, in about -ELBO / log 2 bits a row.

    It needs complete rows and a model of discrete columns; the defaults of `ppl-vae fit` will do.
    Only the same run, library versions and kind of machine decompress the file; covariates, names
    of rows and other columns are not in it.
    """
    from ppl_vae.experiment import compress_file, load_run

    trained = load_run(run, data_dir=data_dir)
    found = compress_file(trained, rows, output, seed=seed, progress=not quiet)
    echo_result(found, output, [output], as_json=json)


@app.command(
    short_help="Bring compressed rows back.",
    epilog=examples(
        "ppl-vae decompress runs/table new.bits --output rows.csv",
        "ppl-vae decompress runs/table new.bits --context covariates.csv --output rows.parquet",
    ),
)
def decompress(
    run: RunFolder,
    compressed: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file of `compress`.", dir_okay=False)
    ],
    output: Table = Path("rows.csv"),
    context: Annotated[
        Path | None,
        typer.Option(help="A table with the covariates of these rows.", dir_okay=False),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the rows of a compressed file as a table, exactly as they were.

    A file that is damaged, or that other weights, versions or a machine of another kind compressed,
    is refused.
    """
    from ppl_vae.experiment import decompress_file, load_run

    trained = load_run(run, data_dir=data_dir)
    found = decompress_file(trained, compressed, output, context=context, progress=not quiet)
    num_rows, num_columns = found.shape
    if json:
        echo_json({"rows": num_rows, "columns": num_columns}, [output])
        return
    typer.echo(f"{counted(num_rows, 'row')} of {counted(num_columns, 'column')} in {output}")
