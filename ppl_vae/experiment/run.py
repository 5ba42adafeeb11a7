"""One run, from its configuration to its folder: train, estimate log p(x), write results."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ppl_vae.data import Dataset
from ppl_vae.data.tables.files import told_missing
from ppl_vae.experiment.assemble import Experiment, build
from ppl_vae.experiment.config import Config, ConfigError, blamed, changed
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Estimates, Metrics
from ppl_vae.experiment.result_table import columns_in_words
from ppl_vae.experiment.results import (
    columns_of,
    measure,
    provenance,
    write_pictures,
    write_posterior,
)
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.experiment.saved.card import write_card
from ppl_vae.experiment.saved.document import DOCUMENT, read_document
from ppl_vae.experiment.saved.programs import WEIGHTS, read_programs
from ppl_vae.experiment.saved.rows import require_rows_of
from ppl_vae.experiment.saved.run import SavedRun, open_saved, write_run
from ppl_vae.programs.traces import Program
from ppl_vae.programs.validation import check_data
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.runtime.distributed import check_share, is_main
from ppl_vae.runtime.files import require_writable
from ppl_vae.runtime.sealed import write_json
from ppl_vae.training import fit, load_weights

__all__ = ["evaluate_run", "load_experiment", "load_run", "run_experiment"]

logger = logging.getLogger(__name__)

EVALUATION_SUFFIXES = (".json", ".npz")  # means, and values per row


def run_experiment(config: Config, output: str | Path, *, progress: bool = True) -> Metrics:
    """Train, evaluate, and write the run's folder.

    An interrupted run resumes, and a finished run returns its results again; the same configuration
    and machine give the same results in both cases. With several processes (torchrun), each does
    its share, and the first writes. The folder holds config.toml (with the likelihood of each
    column, if the run chose it), checkpoint.pt (the state of training), weights.safetensors
    and run.json (as `save_run` writes them), evidence.npz (values per row), posterior.nc, pictures,
    README.md, and finally metrics.json.

    Args:
        config: From `read_config`.
        output: The folder.
        progress: Whether to show bars.

    Returns:
        The content of metrics.json.

    Raises:
        ConfigError: the folder holds another run, or the data cannot be read.
        NonFiniteLossError: training failed.

    Example:
        >>> import tempfile
        >>> from ppl_vae.experiment import read_config
        >>> changes = [("data.name", "digits"), ("data.binarize", "dynamic")]
        >>> changes += [("training.num_epochs", 1), ("evaluation.num_data", 20)]
        >>> config = read_config(changes=[*changes, ("evaluation.num_particles", 30)])
        >>> metrics = run_experiment(config, tempfile.mkdtemp(), progress=False)
        >>> metrics["elbo"] < metrics["log_evidence"]
        True
    """
    folder = Folder(output)
    if folder.finished:
        folder.claim(config)
        folder.refuse_other_evaluation()
        refuse_other_rows(folder)
        return folder.read_metrics()
    started = time.perf_counter()
    experiment = build(config)  # columns are chosen from the rows that are there now
    blamed("training", partial(check_share, experiment.training.batch_size))
    held_out = experiment.held_out  # before training: there may be no such split
    check_data(experiment.model, experiment.data.x, experiment.data.context, experiment.guide)
    columns = columns_of(experiment)
    if columns and is_main():
        logger.info(columns_in_words(columns))
        table = experiment.config.data
        if said := told_missing(table.name, table.roles) if table.is_table else None:
            logger.info(said)
    # Only now: a run that is refused leaves no trace.
    with folder.held(experiment.config) if is_main() else nullcontext(_nothing) as check_present:
        return _run(folder, experiment, held_out, started, check_present, progress=progress)


def refuse_other_rows(*folders: Folder) -> None:
    """Refuse a finished run whose table has changed since; one that is gone is not compared.

    Args:
        folders: The folders of runs; a table that several share is read once.

    Raises:
        ConfigError: The rows, their weights or their splits are others; config.toml was edited.

    Example:
        >>> refuse_other_rows.__name__
        'refuse_other_rows'
    """
    read: dict[str, Dataset] = {}
    for folder in folders:
        table = folder.trained_config().data
        document = folder.path / DOCUMENT
        if not (table.is_table and Path(table.name).exists() and document.is_file()):
            continue
        key = table.model_dump_json()
        if key not in read:
            read[key] = load_data(table)
        require_rows_of(read_document(document).data, read[key], folder.path)


def _nothing() -> None:
    """A process that writes nothing has nothing to check."""


def _run(
    folder: Folder,
    experiment: Experiment,
    held_out: Dataset,
    started: float,
    check_present: Callable[[], None],
    *,
    progress: bool,
) -> Metrics:
    """Train, evaluate and write, in a folder that is reserved; metrics.json comes last."""
    training = replace(experiment.training, checkpoint=folder.checkpoint, progress=progress)
    result = fit(
        experiment.model,
        experiment.guide,
        experiment.data,
        objective=experiment.objective,
        training=training,
    )
    check_present()
    if is_main():
        parts = experiment.model, experiment.guide, experiment.data
        write_run(folder.path, *parts, result, configuration=folder.read_config().tables)
    evidence, found = measure(experiment, held_out, progress=progress, checkpoint=folder.evidence)
    metrics = provenance(found, experiment, result, time.perf_counter() - started)
    check_present()
    if is_main():
        write_posterior(folder, experiment, held_out, progress=progress)
        write_pictures(folder, experiment, held_out, result, evidence)
        check_present()
        write_card(folder.path, read_document(folder.path / DOCUMENT), metrics)
        write_json(folder.metrics, metrics)
    return metrics


def load_run(
    folder: str | Path,
    *,
    model: Program | None = None,
    guide: Program | None = None,
    data: Dataset | Any = None,
    data_dir: str | None = None,
    device: str | None = None,
) -> Experiment | SavedRun:
    """A trained run: its model and guide, its data or their columns, and how it was trained.

    Nothing in the folder is executed: the parts of the library are made again from their names and
    arguments, and weights are tensors whose digest is checked. `run.read(rows)` reads further rows
    in the columns, types and levels of training.

    Args:
        folder: What `save_run`, `ppl-vae fit` or `run_experiment` wrote.
        model: The model of a run of custom programs, built as the saved one; it gets the weights.
        guide: The guide, likewise.
        data: The rows of a run of `save_run` that did not keep them.
        data_dir: The present folder of the data of a configuration.
        device: The device of model and guide; None is the CPU.

    Raises:
        ConfigError: the folder holds no run, one that was not trained to the end, a damaged one,
            one of a newer version, or weights for other programs.

    Example:
        >>> load_run("runs/none")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/none holds no run: there is no config.toml ...
    """
    if not Folder(folder).config.is_file():
        if not (Path(folder) / DOCUMENT).is_file():
            raise ConfigError(
                f"{folder} holds no run: there is no config.toml of `ppl-vae fit` and no "
                f"{DOCUMENT} of `save_run`"
            )
        return open_saved(folder, model=model, guide=guide, data=data, device=device)
    if any(each is not None for each in (model, guide, data)):
        raise ConfigError(
            f"{folder} holds a run of a configuration, which makes model, guide and data: leave "
            "them out"
        )
    if _lacks_table(Folder(folder)):
        warn_caller(
            f"the table of the run in {folder} is gone: model, guide and columns are loaded alone"
        )
        return open_saved(folder, device=device)
    return load_experiment(folder, data_dir=data_dir, device=device)


def _lacks_table(folder: Folder) -> bool:
    """Whether the table of a configuration is gone, and run.json tells its columns."""
    data = folder.read_config().data
    is_gone = data.is_table and not Path(data.name).exists()
    return is_gone and (folder.path / DOCUMENT).is_file()


def load_experiment(
    folder: str | Path, *, data_dir: str | None = None, device: str | None = None
) -> Experiment:
    """The run of a configuration: its data, model, guide and configuration.

    Args:
        folder: The folder that `run_experiment` wrote.
        data_dir: The present folder of the data.
        device: The device of model and guide; None is the CPU.

    Raises:
        ConfigError: the folder holds no run, or one that was not trained to the end.

    Example:
        >>> load_experiment("runs/none")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/none holds no run: there is no config.toml
    """
    place = Folder(folder)
    if not place.config.is_file() and (place.path / DOCUMENT).is_file():
        raise ConfigError(
            f"{folder} was saved from Python, and this needs a run of a configuration: use "
            "`pv.load_run` and Python, or `ppl-vae score`, impute, anomaly and transform"
        )
    config = place.trained_config()
    has_weights = (place.path / WEIGHTS).is_file()
    if not has_weights and not place.weights.is_file():
        raise ConfigError(
            f"{folder} was not trained to the end: ppl-vae fit {place.config} --output {folder} "
            "continues it"
        )
    if data_dir is not None:
        config = changed(config, [("data.data_dir", data_dir)])
    data = load_data(config.data)
    if has_weights:  # before the model is built of columns that may be others
        saved = read_document(place.path / DOCUMENT)
        require_rows_of(saved.data, data, place.path)
    experiment = build(config, data)
    if has_weights:
        read_programs(place.path, saved.programs, experiment.model, experiment.guide)
    else:  # of an earlier version
        load_weights(place.weights, experiment.model, experiment.guide)
    for module in (experiment.model, experiment.guide):
        module.eval().to(device)
    return experiment


def evaluate_run(
    experiment: Experiment,
    output: str | Path | None = None,
    *,
    progress: bool = True,
    refined: bool = False,
    **changes: Any,
) -> Estimates:
    """Estimates for a trained run with settings other than its own.

    With `output`, an interrupted evaluation resumes when it is called again with the same settings.

    Args:
        experiment: From `load_run`.
        output: A .json file for the means; a .npz file of the same name has the values per row.
        progress: Whether to show bars.
        refined: Whether to refine the guide for rows without an estimate and estimate them again.
        changes: Keywords of [evaluation]: split, seed, num_data, method, and the method's own.

    Returns:
        The estimates, as in metrics.json but without training.

    Raises:
        ConfigError: the data have no such split, or the suffix is neither .json nor .npz.
        ValueError: the files were written with other settings.

    Example:
        >>> from ppl_vae.experiment import build, read_config
        >>> changes = [("data.name", "digits"), ("data.binarize", "static")]
        >>> experiment = build(read_config(changes=changes))
        >>> evaluate_run(experiment, progress=False, num_particles=30, num_data=10)["num_data"]
        10
    """
    experiment = experiment.with_evaluation(**changes)
    if output is None:
        return measure(experiment, experiment.held_out, progress=progress, refined=refined)[1]
    output = require_writable(output)
    numbers, per_row = (output.with_suffix(suffix) for suffix in EVALUATION_SUFFIXES)
    if output.suffix not in EVALUATION_SUFFIXES:
        raise ConfigError(
            f"{output}: an evaluation is written to {numbers.name} and {per_row.name}: name "
            "either file"
        )
    taken = Folder(numbers.parent).own(numbers, per_row)
    if taken is not None:
        raise ConfigError(
            f"{taken} is a file of the run in {numbers.parent}: give --output another name"
        )
    settings: dict[str, Any] = {"progress": progress, "checkpoint": per_row, "refined": refined}
    metrics = measure(experiment, experiment.held_out, **settings)[1]
    if is_main():
        write_json(numbers, metrics)
    return metrics
