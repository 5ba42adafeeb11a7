"""Objectives compared as a file says: [[estimators]] and [replicates] beside the tables of a
run.
"""

from collections.abc import Mapping
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
from ppl_vae.experiment.run import load_run
from ppl_vae.experiment.signatures import as_table, complete, construct
from ppl_vae.experiment.tables import ObjectiveTable
from ppl_vae.runtime.checks import suggestion
from ppl_vae.runtime.files import write_whole

__all__ = ["Comparison", "read_comparison", "write_comparison"]

OWN = ("estimators", "replicates")  # the tables of the file that are not a run's
OF_A_MODEL = ("data", "prior", "likelihood", "posterior", "encoder", "decoder")


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on what.

    Args:
        experiment: Model and guide.
        data: The rows.
        objectives: By name.
        replicates: How many gradients of each.

    Example:
        >>> Comparison.__dataclass_fields__["replicates"].type.__name__
        'Replicates'
    """

    experiment: Experiment
    data: Dataset
    objectives: Mapping[str, ELBO]
    replicates: Replicates

    def run(self, *, progress: bool = True) -> EstimatorComparison:
        """The table."""
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
    r"""A comparison from a TOML file: a run's tables, [[estimators]], each like [objective], and
    [replicates].

    The rows are the first of the training split, as many as a batch. Without a run the weights are
    those that training starts from; with one, model and data are the run's, and the file may leave
    them out.

    Args:
        path: The file.
        run: Folder of a finished run.
        num_data: How many rows; None is the batch size of [training].
        data_dir: Where the data are.
        device: Where to put model and guide; None is the CPU.
        settings: Keywords of `Replicates` that win over the file's.

    Raises:
        ConfigError: no such file, an unknown table or keyword, no [[estimators]], an [objective]
            beside them, more rows than there are, or a run of another model or other data.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.toml"
        >>> _ = path.write_text('[data]\nname = "digits"\nbinarize = "static"\n[[estimators]]\nname = "IWAE"\n')
        >>> len(read_comparison(path, num_data=16).data)
        16
    """
    document = read_toml(path)
    own = {name: document.pop(name) for name in OWN if name in document}
    _check_tables(document, path)
    changes = [*table_changes(document), *([("data.data_dir", data_dir)] if data_dir else [])]
    objectives = _objectives(own.get("estimators"), path)
    replicates = _replicates(own.get("replicates", {}) | _given(settings), path)
    if run is None:
        asked = read_config(changes=changes)
        experiment = build(asked)
    else:
        experiment = load_run(run, data_dir=data_dir)
        asked = changed(experiment.config, changes)
        _same_model(experiment.config, asked, f"{run} and {path}")
    for module in (experiment.model, experiment.guide):
        module.to(device)
    train, rows = experiment.data.train, num_data or asked.training.keywords["batch_size"]
    if num_data is not None and num_data > len(train):
        raise ConfigError(
            f"num_data is {num_data}, the training split has {len(train)} rows: ask for fewer"
        )
    return Comparison(experiment, train[:rows], objectives, replicates)


def write_comparison(comparison: EstimatorComparison, folder: str | Path) -> list[str]:
    """Write table.csv (all numbers), table.md, comparison.nc and estimators.png; returns their
    names.

    Example:
        >>> import tempfile
        >>> import ppl_vae as pv
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> chosen = [pv.objectives.IWAE(2)]
        >>> found = compare_estimators(bed.model, bed.amortised_guide, bed.x, chosen, num_replicates=20)
        >>> write_comparison(found, tempfile.mkdtemp())
        ['table.csv', 'table.md', 'comparison.nc', 'estimators.png']
    """
    folder = Path(folder)
    write_whole(folder / "table.csv", lambda p: comparison.table.to_csv(p))
    write_whole(
        folder / "table.md", lambda p: p.write_text(comparison.to_markdown(), encoding="utf-8")
    )
    write_whole(
        folder / "comparison.nc", lambda p: comparison.to_datatree().to_netcdf(p, engine="h5netcdf")
    )
    write_picture(folder / "estimators.png", lambda: plot_estimators(comparison))
    return ["table.csv", "table.md", "comparison.nc", "estimators.png"]


def _check_tables(document: Mapping[str, Any], path: str | Path) -> None:
    known = [*(name for name in Config.model_fields if name != "objective"), *OWN]
    for name in document:
        if name == "objective":
            raise ConfigError(
                f"{path}: [objective] has no use here, where [[estimators]] are the objectives: "
                "leave it out"
            )
        if name not in known:
            raise ConfigError(f"{path}: there is no table [{name}]: {suggestion(name, known)}")


def _objectives(tables: Any, path: str | Path) -> Mapping[str, ELBO]:
    """By their labels, or as they are written."""
    if isinstance(tables, Mapping):
        raise ConfigError(
            f"{path}: [estimators] is one table: write [[estimators]], once for each objective"
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
            f"{path}: two of [[estimators]] are called {again!r}: give them a label of their own"
        )
    return dict(zip(labels, found, strict=True))


def _replicates(table: dict[str, Any], path: str | Path) -> Replicates:
    try:
        return construct(
            Replicates, complete(Replicates, table, Replicates.__module__), Replicates.__module__
        )
    except ValueError as error:
        raise ConfigError(f"{path}: [replicates] {_reason(error)}") from None


def _reason(error: ValueError) -> str:
    said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return " ".join(said.removeprefix("Value error, ").split())


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _same_model(trained: Config, asked: Config, where: str) -> None:
    found = [item for item in differences(trained, asked) if item.partition(".")[0] in OF_A_MODEL]
    if found:
        raise ConfigError(
            f"{where} disagree ({found[0]}): leave the model's tables out of the file"
        )
