"""The commands about rows: score new rows, write drawn rows, describe the rows of a data set."""

from pathlib import Path
from typing import Annotated

import typer

from ppl_vae.cli.commands import app
from ppl_vae.cli.options import (
    DataDir,
    Device,
    Json,
    NewRows,
    Quiet,
    RunFolder,
    Seed,
    Table,
    echo_json,
    examples,
)
from ppl_vae.runtime.text import counted


@app.command(
    short_help="Draw rows from a trained run.",
    epilog=examples(
        "ppl-vae sample runs/demo",
        "ppl-vae sample runs/table --num-samples 500 --output drawn.csv",
        "ppl-vae sample runs/table --context patients.csv --output drawn.parquet",
    ),
)
def sample(
    run: RunFolder,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of rows to draw; 64, or one for each row of --context."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file .png, .npz, .npy, .csv or .parquet.")
    ] = Path("samples.png"),
    context: Annotated[
        Path | None,
        typer.Option(help="A table with covariates; those of the evaluation rows by default."),
    ] = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw rows from a trained model: z from the prior, x from the likelihood.

    A table has the names, levels and types of the training file, with the covariates beside x.
    """
    from ppl_vae.experiment import load_experiment, write_samples

    experiment = load_experiment(run, data_dir=data_dir)
    write_samples(experiment, output, num_samples=num_samples, context=context, seed=seed)
    if json:
        echo_json({}, [output])
    elif not quiet:
        typer.echo(f"samples in {output}")


@app.command(
    short_help="log p(x) of the rows of a new file.",
    epilog=examples(
        "ppl-vae score runs/table new.csv --output scores.csv",
        "ppl-vae score runs/table new.parquet --output scores.parquet --num-particles 5000",
    ),
)
def score(
    run: RunFolder,
    rows: NewRows,
    output: Table = Path("scores.csv"),
    num_particles: Annotated[
        int | None, typer.Option(min=1, help="Particles K per row; those of the run by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draws.")] = None,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate log p(x) of each row of a new file, with its Monte Carlo standard error, k-hat, and
    whether it is an estimate or only a lower bound.

    Columns and levels are matched by name; other columns are left out, and missing cells are
    integrated over.
    """
    from ppl_vae.experiment import figures_of, load_run, write_scores

    trained = load_run(run, data_dir=data_dir, device=device)
    options = {"num_particles": num_particles, "seed": seed}
    evidence = write_scores(trained, rows, output, progress=not quiet, **options)
    if json:
        echo_json(figures_of(evidence), [output])
        return
    bounds = int((~evidence.is_estimate).sum())
    told = f", only a lower bound for {bounds} of them" * (bounds > 0)
    typer.echo(f"log p(x) of {counted(len(evidence), 'row')} in {output}{told}")


@app.command(
    short_help="List the data sets, or describe one.",
    epilog=examples("ppl-vae data", "ppl-vae data digits", "ppl-vae data table.csv"),
)
def data(
    name: Annotated[
        str | None, typer.Argument(help="Named data set, or a file; all names if it is left out.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the named data sets, or describe one: size, licence, shape, splits."""
    from ppl_vae.data import available
    from ppl_vae.experiment import describe_data

    facts = dict(available()) if name is None else describe_data(name, data_dir=data_dir)
    if json:
        echo_json(facts)
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:{width}}  {value}")
