"""The commands; large packages are imported only when a command runs."""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ppl_vae.cli.errors import Commands, at_level
from ppl_vae.cli.names import LIKELIHOOD, OBJECTIVE, POSTERIOR, PRIOR, WithNames, completion
from ppl_vae.cli.options import (
    TABLES,
    DataDir,
    Debug,
    Device,
    Json,
    Output,
    Quiet,
    RunFolder,
    echo_json,
    examples,
    given,
    names,
    one_of,
    value,
)

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "ppl-vae demo",
        "ppl-vae fit table.csv --output runs/table",
        "ppl-vae score runs/table new.csv --output scores.csv",
        "ppl-vae fit --data digits --binarize dynamic --prior VampPrior --output runs/vamp",
        "ppl-vae evaluate runs/vamp --num-particles 5000",
    ),
)
def main(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Debug = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train variational autoencoders, and check whether to believe their log p(x).

    --debug, --json and --quiet may stand before or after the command.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave their core
    defaults = {"json": json, "quiet": quiet}
    ctx.default_map = {name: defaults for name in getattr(ctx.command, "commands", ())}
    if version:
        import ppl_vae

        typer.echo(f"ppl-vae {ppl_vae.__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command(
    cls=WithNames,
    short_help="Train, estimate log p(x), write a folder.",
    epilog=examples(
        "ppl-vae fit table.csv --output runs/table",
        "ppl-vae fit table.csv --context age,sex --weights w --test 0.2 --output runs/table",
        "ppl-vae fit examples/digits.toml --output runs/digits",
        "ppl-vae fit --data digits --binarize dynamic --prior VampPrior --latent-dim 8 --output "
        "runs/vamp",
        "ppl-vae fit examples/mnist.toml --output runs/mnist --data-dir data --device cuda",
        "torchrun --nproc-per-node=4 -m ppl_vae fit examples/mnist.toml --output runs/mnist",
        'ppl-vae fit examples/digits.toml --output runs/small --set "encoder.hidden_dims=[64]"',
    ),
)
def fit(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG.toml|TABLE",
            help="A configuration to run, or a table (.csv or .parquet) for its recipe.",
            dir_okay=False,
        ),
    ] = None,
    output: Output = ...,  # type: ignore[assignment]
    data: Annotated[
        str | None, typer.Option(help="Named data set, or .npz, .npy, .csv, .parquet, .zarr.")
    ] = None,
    binarize: Annotated[
        str | None, typer.Option(help="dynamic, static or threshold; left grey by default.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(help=one_of("Prior", "StandardNormal"), autocompletion=completion(PRIOR)),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(help=one_of("Likelihood", "Bernoulli"), autocompletion=completion(LIKELIHOOD)),
    ] = None,
    posterior: Annotated[
        str | None,
        typer.Option(
            help=one_of("Variational family", "MeanFieldNormal"),
            autocompletion=completion(POSTERIOR),
        ),
    ] = None,
    latent_dim: Annotated[
        int | None, typer.Option(min=1, help="Number of latent dimensions; 8 by default.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=one_of("Bound", "MeanFieldELBO"), autocompletion=completion(OBJECTIVE)),
    ] = None,
    num_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Passes over the training data; 100 by default."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows per step; 128 by default.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate; 0.001 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of training (the split keeps its own: data.seed).")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of a table that are modelled: a,b; all by default.")
    ] = None,
    drop: Annotated[str | None, typer.Option(help="Columns that are left out: a,b.")] = None,
    categories: Annotated[
        str | None, typer.Option(help="Columns of numbers or texts that are categories: a,b.")
    ] = None,
    na_values: Annotated[
        str | None, typer.Option(help="Further texts of missing cells in a .csv: -,?.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Columns of covariates: a,b.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of labels, for colouring.")] = None,
    weights: Annotated[str | None, typer.Option(help="Column of sampling weights.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Column that holds train, valid or test.")
    ] = None,
    valid: Annotated[str | None, typer.Option(help="Validation rows, a share or number.")] = None,
    test: Annotated[
        str | None, typer.Option(help="Held-out rows: a share, a number, or a file.")
    ] = None,
    num_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Gradient steps of a table's recipe; 20 epochs at least."),
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other keyword, as in the file."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, estimate held-out log p(x), and write a folder with everything.

    The run is described by a TOML file, by flags, or by both: flags take precedence. A table
    instead of a TOML file is run by the recipe for tables, whose settings are written to
    config.toml of the folder. The same command resumes an interrupted run.
    """
    from ppl_vae.experiment import read_config, recipe_config

    flags = {
        "data.name": data,
        "data.columns": names(columns),
        "data.drop": names(drop),
        "data.categories": names(categories),
        "data.na_values": names(na_values),
        "data.context": names(context),
        "data.label": label,
        "data.weights": weights,
        "data.split": split,
        "data.valid": value(valid),
        "data.test": value(test),
        "data.binarize": binarize,
        "data.data_dir": data_dir,
        "prior.name": prior,
        "likelihood.name": likelihood,
        "posterior.name": posterior,
        "posterior.latent_dim": latent_dim,
        "objective.name": objective,
        "training.num_epochs": num_epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.seed": seed,
        "training.device": device,
    }
    wanted = given(flags, changes)
    _refuse_both(flags, changes, config=config, num_steps=num_steps)
    if config is not None and config.suffix in TABLES:
        found = recipe_config(config, wanted, num_steps=num_steps)
        _run(found, output, quiet=quiet, json=json)
        return
    if num_steps is not None:
        said = "is for a table; give --num-epochs"
        raise typer.BadParameter(said, param_hint="--num-steps")
    _run(read_config(config, wanted), output, quiet=quiet, json=json)


@app.command(
    short_help="Estimate log p(x) of a trained run again.",
    epilog=examples(
        "ppl-vae evaluate runs/demo --num-particles 5000",
        "ppl-vae evaluate runs/demo --split valid --seed 1 --output valid.json",
        "ppl-vae evaluate runs/demo --refine",
        "ppl-vae evaluate runs/demo --method AIS --set num_temperatures=500",
        "torchrun --nproc-per-node=4 -m ppl_vae evaluate runs/mnist --num-particles 5000",
    ),
)
def evaluate(
    run: RunFolder,
    method: Annotated[
        str | None,
        typer.Option(
            help="ImportanceSampling, AIS, ReverseAIS or ChiUpperBound; the run's own by default."
        ),
    ] = None,
    num_particles: Annotated[
        int | None, typer.Option(help="Particles K per row, of ImportanceSampling.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, valid or test.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="FILE.json for the numbers, with FILE.npz per row."),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Refine the guide for rows without an estimate.")
    ] = False,
    device: Device = None,
    data_dir: DataDir = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other keyword, as in [evaluation]."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate log p(x) for a trained run again, with another method, more particles, another split
    or seed.

    Means are written to a .json file, log p(x) and k-hat of every row to an .npz file, in the run's
    folder unless --output is given. The same command resumes an interrupted evaluation.
    """
    from ppl_vae.experiment import Folder, evaluate_run, load_experiment
    from ppl_vae.runtime.distributed import is_main, process_group

    flags = {"method.name": method, "num_particles": num_particles, "split": split, "seed": seed}
    experiment = load_experiment(run, data_dir=data_dir, device=device)
    experiment = experiment.with_evaluation(**dict(given(flags, changes)))
    output = output or Folder(run).evaluation(experiment.config.evaluation, refined=refine)
    with process_group():
        metrics = evaluate_run(experiment, output, progress=not quiet, refined=refine)
        if is_main():
            files = [output.with_suffix(suffix) for suffix in (".json", ".npz")]
            _echo_metrics(metrics, files, json=json)


@app.command(
    short_help="A VampPrior VAE on the embedded digits.",
    epilog=examples("ppl-vae demo", "ppl-vae demo --seed 1 --output runs/demo-1"),
)
def demo(
    output: Output = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of training.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a VampPrior VAE on the embedded digits and report log p(x) with its reliability, in a
    minute or two.
    """
    from ppl_vae.experiment import demo_config

    _run(demo_config(seed), output, quiet=quiet, json=json)


def _run(config: Any, output: Path, *, quiet: bool, json: bool = False) -> None:
    from ppl_vae.experiment import Folder, run_experiment
    from ppl_vae.runtime.distributed import is_main, process_group

    was_finished = Folder(output).finished
    level = logging.WARNING if quiet else logging.INFO
    with process_group(), at_level(level, "ppl_vae.experiment.run"):
        metrics = run_experiment(config, output, progress=not quiet)
    if not is_main():
        return
    if was_finished:
        typer.echo(
            f"{output} is already finished: these are its results. Remove the folder to start "
            "afresh.\n",
            err=True,
        )
    _echo_metrics(metrics, [output / name for name in Folder(output).files], json=json)


def _refuse_both(
    flags: dict[str, Any], changes: list[str] | None, *, config: Path | None, num_steps: int | None
) -> None:
    """Refuse settings that are given twice, of which one would be ignored."""
    if config is not None and config.suffix in TABLES and flags["data.name"] is not None:
        raise typer.BadParameter("names other rows than the table before it", param_hint="--data")
    if num_steps is not None and flags["training.num_epochs"] is not None:
        raise typer.BadParameter("--num-steps and --num-epochs both set the length: give one")
    given_twice = [
        name
        for name, value in flags.items()
        if value is not None and any(change.startswith(f"{name}=") for change in changes or ())
    ]
    if given_twice:
        raise typer.BadParameter(
            f"{given_twice[0]} is also given by a flag: give one of them", param_hint="--set"
        )


def _echo_metrics(metrics: Any, files: list[Path], *, json: bool) -> None:
    """The numbers of a run, as a table or as JSON."""
    from ppl_vae.experiment import table

    if json:
        echo_json(metrics, files)
    else:
        typer.echo(table(metrics, files))
