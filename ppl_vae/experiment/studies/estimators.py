"""Comparisons of objectives from a file: [[estimators]], [replicates], and the tables of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyro.infer import ELBO

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import EstimatorComparison, Replicates, compare_estimators, plot_estimators
from ppl_vae.experiment.assemble import Experiment, build
from ppl_vae.experiment.config import (
    Config,
    ConfigError,
    changed,
    differences,
    read_config,
    read_toml,
    table_changes,
)
from ppl_vae.experiment.results import write_picture
from ppl_vae.experiment.run import load_experiment
from ppl_vae.experiment.signatures import as_table, complete, construct
from ppl_vae.experiment.tables import ObjectiveTable
from ppl_vae.runtime.checks import suggestion
from ppl_vae.runtime.files import write_tree, write_whole

__all__ = ["Comparison", "read_comparison", "write_comparison"]

OWN = ("estimators", "replicates")  # the tables that a run does not have
OF_A_MODEL = ("data", "prior", "likelihood", "posterior", "encoder", "decoder")


@dataclass(frozen=True)
class Comparison:
    """Objectives to compare, and the model, guide and rows to compare them on.

    Args:
        experiment: Model and guide.
        data: The rows.
        objectives: By name.
        replicates: Number of gradients of each.

    Example:
        >>> Comparison.__dataclass_fields__["replicates"].type.__name__
        'Replicates'
    """

    experiment: Experiment
    data: Dataset
    objectives: Mapping[str, ELBO]
    replicates: Replicates

    def run(self, *, progress: bool = True) -> EstimatorComparison:
        """The comparison."""
        model, guide = self.experiment.model, self.experiment.guide
        return compare_estimators(
            model, guide, self.data, self.objectives, self.replicates, progress=progress
        )


def read_comparison(
    path: str | Path,
    run: str | Path | None = None,
    *,
    num_data: int | None = None,
    data_dir: str | None = None,
    device: str | None = None,
    **settings: Any,
) -> Comparison:
    r"""A comparison from a TOML file: tables of a run, [replicates], and [[estimators]].

    Each of [[estimators]] is a table like [objective]. The rows are the first of the training
    split, as many as in a batch. Without a run, the weights are those that training starts from;
    with one, model and data are those of the run, and the file may leave them out.

    Args:
        path: The file.
        run: Folder of a finished run.
        num_data: Number of rows; None is the batch size of [training].
        data_dir: The folder of the data.
        device: The device of model and guide; None is the CPU.
        settings: Keywords of `Replicates` that replace those of the file.

    Raises:
        ConfigError: the file does not exist, a table or keyword is unknown, [[estimators]] is
            missing or [objective] is given, there are too few rows, or the run has another model
            or other data.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.toml"
        >>> data = '[data]\nname = "digits"\nbinarize = "static"\n'
        >>> _ = path.write_text(data + '[[estimators]]\nname = "IWAE"\n')
        >>> len(read_comparison(path, num_data=16).data)
        16
    """
    document = read_toml(path)
    given = {name: value for name, value in settings.items() if value is not None}
    estimators = document.pop("estimators", None)
    repeated = document.pop("replicates", {}) | given
    _check_tables(document, path)
    objectives = _objectives(estimators, path)
    replicates = _replicates(repeated, path)
    changes = list(table_changes(document))
    if data_dir:
        changes.append(("data.data_dir", data_dir))
    if run is None:
        asked = read_config(changes=changes)
        experiment = build(asked)
    else:
        experiment = load_experiment(run, data_dir=data_dir)
        asked = changed(experiment.config, changes)
        _same_model(experiment.config, asked, f"{run} and {path}")
    for module in (experiment.model, experiment.guide):
        module.to(device)
    train = experiment.data.train
    if num_data is not None and num_data > len(train):
        raise ConfigError(
            f"num_data is {num_data}, the training split has {len(train)} rows: ask for fewer"
        )
    rows = train[: num_data or asked.training.keywords["batch_size"]]
    return Comparison(experiment, rows, objectives, replicates)


def write_comparison(comparison: EstimatorComparison, folder: str | Path) -> list[str]:
    """Write table.csv (all numbers), table.md, comparison.nc and estimators.png; returns the names.

    Example:
        >>> import tempfile
        >>> import ppl_vae as pv
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> chosen, guide = [pv.objectives.IWAE(2)], bed.amortised_guide
        >>> found = compare_estimators(bed.model, guide, bed.x, chosen, num_replicates=20)
        >>> write_comparison(found, tempfile.mkdtemp())
        ['table.csv', 'table.md', 'comparison.nc', 'estimators.png']
    """
    text, tree = comparison.to_markdown(), comparison.to_datatree()
    writers: dict[str, Callable[[Path], object]] = {
        "table.csv": lambda p: comparison.table.to_csv(p),
        "table.md": lambda p: p.write_text(text, encoding="utf-8"),
    }
    names = [*writers, "comparison.nc", "estimators.png"]
    for name in names:  # those of an earlier comparison: a kill leaves none of them beside new ones
        (Path(folder) / name).unlink(missing_ok=True)
    for name, write in writers.items():
        write_whole(Path(folder) / name, write)
    write_tree(Path(folder) / "comparison.nc", tree)
    write_picture(Path(folder) / "estimators.png", lambda: plot_estimators(comparison))
    return names


def _check_tables(document: Mapping[str, Any], path: str | Path) -> None:
    known = [*(name for name in Config.model_fields if name != "objective"), *OWN]
    for name in document:
        if name == "objective":
            raise ConfigError(
                f"{path}: [objective] is not used with [[estimators]], which are the objectives: "
                "leave it out"
            )
        if name not in known:
            raise ConfigError(f"{path}: there is no table [{name}]: {suggestion(name, known)}")


def _objectives(tables: Any, path: str | Path) -> Mapping[str, ELBO]:
    """The objectives by their labels, or by their reprs."""
    if isinstance(tables, Mapping):
        raise ConfigError(
            f"{path}: [estimators] is a single table: write [[estimators]] for each objective"
        )
    if not isinstance(tables, list) or not tables:
        raise ConfigError(
            f"{path}: there is no [[estimators]] table: give one for each objective, as in name = "
            '"IWAE"'
        )
    labels, found = [], []
    for i, table in enumerate(tables, start=1):
        try:
            keywords = as_table(table)
            label = keywords.pop("label", None)
            if "name" not in keywords:
                raise ValueError('name is missing, as in name = "IWAE"')
            found.append(ObjectiveTable.model_validate(keywords).build())
        except ValueError as error:
            raise ConfigError(f"{path}: [[estimators]] number {i}: {_reason(error)}") from None
        labels.append(repr(found[-1]) if label is None else str(label))
    if len(set(labels)) < len(labels):
        again = next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(
            f"{path}: two of [[estimators]] are called {again!r}: give each of them a label"
        )
    return dict(zip(labels, found, strict=True))


def _replicates(table: dict[str, Any], path: str | Path) -> Replicates:
    module = Replicates.__module__
    try:
        return construct(Replicates, complete(Replicates, table, module), module)
    except ValueError as error:
        raise ConfigError(f"{path}: [replicates] {_reason(error)}") from None


def _reason(error: ValueError) -> str:
    said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return " ".join(said.removeprefix("Value error, ").split())


def _same_model(trained: Config, asked: Config, where: str) -> None:
    found = [item for item in differences(trained, asked) if item.partition(".")[0] in OF_A_MODEL]
    if found:
        raise ConfigError(
            f"{where} disagree ({found[0]}): leave the model's tables out of the file"
        )
