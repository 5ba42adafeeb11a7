"""The commands that compare: a grid of models, objectives, and the page on a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli.commands import app
from ppl_vae.cli.options import (
    DataDir,
    Device,
    Json,
    Quiet,
    RunFolder,
    Seed,
    echo_files,
    echo_json,
    examples,
    given,
)


@app.command(
    short_help="Train a grid of models, compare their log p(x).",
    epilog=examples(
        "ppl-vae compare examples/study.toml --output runs/study",
        "ppl-vae compare examples/study.toml --output runs/study --jobs 4",
        "ppl-vae compare examples/study.toml --output runs/short --set training.num_epochs=5",
    ),
)
def compare(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", help="A run, and [grid].", dir_okay=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the study.")],
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Runs at once; -1 for one per core.")
    ] = 1,
    device: Device = None,
    data_dir: DataDir = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any keyword, for all runs."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a grid of models, each as its own run, and compare their log p(x) of the validation
    rows, paired by row. The best model is then evaluated on the test rows, beside plain models.

    The file holds the tables of a run, and [grid] with lists: priors, likelihoods, posteriors,
    objectives, seeds, any keyword. The same command keeps finished runs; if a run fails, this is
    reported and the other runs continue.
    """
    from ppl_vae.experiment import read_study, run_study, write_baselines, write_study

    flags = {"training.device": device, "data.data_dir": data_dir}
    grid = read_study(study, given(flags, changes))
    result = run_study(grid, output, n_jobs=jobs, progress=not quiet)
    files = write_study(result, output)
    beside, more = write_baselines(result, output)
    names = [*files, *more]
    if json:
        echo_json(result.figures(), [output / name for name in names])
    else:
        echo_files(f"{result}{beside}", output, names)
    if result.failures:
        raise typer.Exit(1)


@app.command(
    "compare-estimators",
    short_help="Compare objectives and their gradients.",
    epilog=examples(
        "ppl-vae compare-estimators examples/estimators.toml --output runs/estimators",
        "ppl-vae compare-estimators examples/estimators.toml --run runs/digits --output "
        "runs/estimators",
    ),
)
def compare_estimators(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG.toml", help="A run, and [[estimators]].", dir_okay=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for table and picture.", file_okay=False)
    ],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Model and weights of this finished run.")
    ] = None,
    num_replicates: Annotated[
        int | None, typer.Option(help="Gradient steps of each objective.")
    ] = None,
    num_data: Annotated[
        int | None, typer.Option(min=1, help="Training rows; a batch by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draws.")] = None,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare objectives at the same weights: value, gradient variance, signal-to-noise ratio,
    seconds and memory.

    Nothing is trained: the weights are those that training starts from, or those of a finished run.
    """
    from ppl_vae.experiment import read_comparison, write_comparison
    from ppl_vae.experiment.metrics import records

    settings: dict[str, Any] = {"num_replicates": num_replicates, "seed": seed}
    place: dict[str, Any] = {"device": device, "data_dir": data_dir}
    comparison = read_comparison(config, run, num_data=num_data, **place, **settings)
    found = comparison.run(progress=not quiet)
    files = write_comparison(found, output)
    if json:
        figures = {"objectives": records(found.table), "advice": found.advice}
        echo_json(figures, [output / name for name in files])
        return
    echo_files(str(found), output, files)


@app.command(
    short_help="Write a page on a trained run.",
    epilog=examples(
        "ppl-vae report runs/demo",
        "ppl-vae report runs/vamp --against runs/normal",
        "ppl-vae report runs/mnist --num-data 1000 --output pages/mnist --data-dir data",
    ),
)
def report(
    run: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the report; the run's by default."),
    ] = None,
    num_data: Annotated[
        int, typer.Option(min=2, help="Number of evaluation rows to use, from the first.")
    ] = 300,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Another run of the same rows, to compare with."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Diagnose a trained run, with a verdict for each question: pass, look or fail, and why.

    report.html is a single self-contained page; report.md is the same as text; report.nc has the
    numbers for ArviZ.
    """
    from ppl_vae.report import write_report

    options: dict[str, Any] = {"device": device, "data_dir": data_dir, "progress": not quiet}
    written = write_report(run, output, num_data=num_data, seed=seed, against=against, **options)
    if json:
        echo_json(written.figures(), written.files)
        return
    echo_files(str(written), written.files[0].parent, [path.name for path in written.files])
