"""Commands about the rows of a new file: impute, anomaly, transform, denoise, contrast."""

from pathlib import Path
from typing import Annotated, Any

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
    echo_result,
    examples,
    names,
)
from ppl_vae.runtime.text import counted

NumParticles = Annotated[
    int | None, typer.Option(min=2, help="Particles K per row; those of the method by default.")
]


@app.command(
    short_help="Fill in the missing cells of a new file.",
    epilog=examples(
        "ppl-vae impute runs/table new.csv --output imputed.csv",
        "ppl-vae impute runs/table new.csv --num-imputations 50 --with-original -o imputed.parquet",
        "ppl-vae impute runs/table new.csv --output imputed/",
        "ppl-vae impute runs/table new.csv --single --level 0.9 --output completed.csv",
    ),
)
def impute(
    run: RunFolder,
    rows: NewRows,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A file .csv or .parquet, or a folder for m files."),
    ] = Path("imputed.csv"),
    num_imputations: Annotated[
        int, typer.Option("--num-imputations", "-m", min=1, help="Number of completed tables m.")
    ] = 20,
    single: Annotated[
        bool,
        typer.Option("--single", help="One table: means and modes, with intervals beside them."),
    ] = False,
    level: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="Probability of the intervals of --single; 0.95 by default."
        ),
    ] = None,
    with_original: Annotated[
        bool, typer.Option("--with-original", help="Add the file itself as imputation 0.")
    ] = False,
    method: Annotated[str, typer.Option(help="auto, importance, refined or hmc.")] = "auto",
    num_particles: NumParticles = None,
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the missing cells of a file given the observed ones, m times.

    A file has the completed tables below each other, as R's mice has them: .imp counts the
    imputations and .id the rows. A folder has one file for each. Other columns are kept.
    Imputations are draws from one fit: analyse each table, and pool the results (`pv.pool`).
    """
    from ppl_vae.experiment import impute_file, load_run

    if with_original and (single or not output.suffix):
        said = "is for a file of several imputations, not for --single or a folder"
        raise typer.BadParameter(said, param_hint="--with-original")
    if level is not None and not single:
        raise typer.BadParameter("is for --single", param_hint="--level")
    trained = load_run(run, data_dir=data_dir, device=device)
    options: dict[str, Any] = {"num_imputations": num_imputations, "method": method, "seed": seed}
    if num_particles is not None:
        options["num_particles"] = num_particles
    found = impute_file(trained, rows, output, single=single, progress=not quiet, **options)
    if single:
        files = found.write_single(output, 0.95 if level is None else level)
    else:
        files = found.write(output, with_original=with_original)
    echo_result(found, output, files, as_json=json)


@app.command(
    short_help="Find rows that are unlike those of training.",
    epilog=examples(
        "ppl-vae anomaly runs/table new.csv --output anomalies.csv",
        "ppl-vae anomaly runs/table new.csv --calibration good.csv --level 0.1",
        "ppl-vae anomaly runs/table new.csv --score typicality --output anomalies.parquet",
    ),
)
def anomaly(
    run: RunFolder,
    rows: NewRows,
    output: Table = Path("anomalies.csv"),
    calibration: Annotated[
        Path | None,
        typer.Option(help="Rows without anomalies that training has not used.", dir_okay=False),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Rows of the run for calibration, without --calibration.")
    ] = "test",
    level: Annotated[float, typer.Option(help="False discovery rate.")] = 0.05,
    score: Annotated[
        str, typer.Option(help="log_evidence, typicality, regret or lower_end.")
    ] = "log_evidence",
    refine: Annotated[
        bool, typer.Option(help="Refine the guide for each row first; slower, and fairer to rows.")
    ] = True,
    num_particles: NumParticles = None,
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give each row of a file a p-value for the hypothesis that it is like the rows of calibration,
    and mark the anomalies.

    p counts the rows of calibration that are at least as odd. These are held-out rows of the run or
    those of another file; rows that training has used are refused. The share of false marks is at
    most --level on average.
    """
    from ppl_vae.experiment import calibration_rows, file_anomalies, load_run
    from ppl_vae.experiment.rows.outputs import require_table

    require_table(output, "anomalies")
    trained = load_run(run, data_dir=data_dir, device=device)
    known = calibration_rows(trained, calibration, split)
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed, "refine": refine}
    found = file_anomalies(
        trained, rows, known, score=score, level=level, progress=not quiet, **options
    )
    echo_result(found, output, [found.write(output)], as_json=json)


@app.command(
    short_help="Latents of the rows of a new file.",
    epilog=examples(
        "ppl-vae transform runs/table new.csv --output latents.csv",
        "ppl-vae transform runs/table new.parquet --output latents.parquet",
    ),
)
def transform(
    run: RunFolder,
    rows: NewRows,
    output: Table = Path("latents.csv"),
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the mean and the standard deviation of each latent of each row of a file.

    They are those of the guide q(z given x); columns and levels are matched by name, and cells may
    be missing.
    """
    from ppl_vae.experiment import load_run, write_latents

    trained = load_run(run, data_dir=data_dir, device=device)
    found = write_latents(trained, rows, output, seed=seed, progress=not quiet)
    num_rows, num_latents = found.mean.shape
    if json:
        echo_json({"rows": num_rows, "latents": num_latents, "exact": found.exact}, [output])
        return
    typer.echo(f"{counted(num_latents, 'latent')} of {counted(num_rows, 'row')} in {output}")


@app.command(
    short_help="Clean noisy numbers of a new file.",
    epilog=examples(
        "ppl-vae denoise runs/table new.csv --noise gaussian --sd 5 --columns pressure",
        "ppl-vae denoise runs/table new.csv --noise dropout --probability 0.1 -o clean.parquet",
    ),
)
def denoise(
    run: RunFolder,
    rows: NewRows,
    output: Table = Path("denoised.csv"),
    noise: Annotated[
        str, typer.Option(help="gaussian, salt-and-pepper, dropout or poisson.")
    ] = "gaussian",
    sd: Annotated[float | None, typer.Option(help="Standard deviation (gaussian).")] = None,
    probability: Annotated[
        float | None, typer.Option(help="Share of replaced values (salt-and-pepper, dropout).")
    ] = None,
    peak: Annotated[float | None, typer.Option(help="Photons at a value of 1 (poisson).")] = None,
    columns: Annotated[
        str | None, typer.Option(help="The noisy columns; all columns of numbers by default.")
    ] = None,
    level: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Probability of the intervals.")
    ] = 0.95,
    method: Annotated[str, typer.Option(help="auto, importance, refined or hmc.")] = "auto",
    num_particles: NumParticles = None,
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replace noisy numbers by their posterior means given the noise, with sd and interval beside.

    The noise and its size have to be known. Missing cells stay empty (`impute` fills them), and
    other columns are kept.
    """
    from ppl_vae.experiment import denoise_file, load_run, noise_of

    known = noise_of(noise, sd=sd, probability=probability, peak=peak)
    trained = load_run(run, data_dir=data_dir, device=device)
    options: dict[str, Any] = {"method": method, "seed": seed, "progress": not quiet}
    if num_particles is not None:
        options["num_particles"] = num_particles
    found = denoise_file(trained, rows, known, output, names(columns), **options)
    echo_result(found, output, [found.write(output, level)], as_json=json)


@app.command(
    short_help="Compare two groups of rows of a new file.",
    epilog=examples(
        "ppl-vae contrast runs/table new.csv --groups treated --output contrast.csv",
        "ppl-vae contrast runs/table new.csv --groups arm --reference placebo --strata site,sex",
        "ppl-vae contrast runs/table visits.csv --groups arm --subjects patient --method by",
    ),
)
def contrast(
    run: RunFolder,
    rows: NewRows,
    groups: Annotated[
        str, typer.Option(help="Column with two values, with which the model was not trained.")
    ],
    output: Table = Path("contrast.csv"),
    reference: Annotated[
        str | None, typer.Option(help="The group from which the other one differs.")
    ] = None,
    strata: Annotated[
        str | None, typer.Option(help="Columns within whose values rows are compared.")
    ] = None,
    subjects: Annotated[
        str | None, typer.Option(help="Column of subjects, whose rows belong together.")
    ] = None,
    level: Annotated[float, typer.Option(help="Level of discoveries.")] = 0.05,
    method: Annotated[str, typer.Option(help="Adjustment over features: bh or by.")] = "bh",
    num_permutations: Annotated[
        int, typer.Option(min=1, help="Largest number of permutations.")
    ] = 9999,
    num_samples: Annotated[int, typer.Option(min=2, help="Draws of z and x per row.")] = 500,
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Differences between two groups of rows, in the latents and in the columns that the model
    predicts.

    Each has its posterior mean, interval and probability of being positive, for these rows, and a
    permutation p-value for the groups beyond these rows: adjusted by max-T over latents, and by
    --method over features.
    """
    from ppl_vae.experiment import contrast_file, load_run
    from ppl_vae.experiment.rows.outputs import require_table

    require_table(output, "contrasts")
    trained = load_run(run, data_dir=data_dir, device=device)
    design: dict[str, Any] = {"strata": names(strata), "subjects": subjects, "reference": reference}
    sizes: dict[str, Any] = {
        "num_samples": num_samples,
        "num_permutations": num_permutations,
        "seed": seed,
    }
    test: dict[str, Any] = {"level": level, "method": method, "progress": not quiet}
    found = contrast_file(trained, rows, groups, **design, **sizes, **test)
    echo_result(found, output, [found.write(output)], as_json=json)
