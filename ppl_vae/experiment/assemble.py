"""From a configuration to the objects that it names."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from ppl_vae.data import Dataset, available, load, read
from ppl_vae.experiment.config import Config, ConfigError, changed
from ppl_vae.experiment.signatures import construct
from ppl_vae.experiment.tables import DataTable
from ppl_vae.families.modules import join
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import Training

__all__ = ["Experiment", "build", "describe_data"]


@dataclass(frozen=True)
class Experiment:
    """The parts of one run.

    Args:
        config: The configuration.
        data: The data set with its splits.
        model: The model.
        guide: The guide.
        objective: What is maximised.
        training: Settings of the training.

    Example:
        >>> from ppl_vae.experiment import read_config
        >>> changes = [("data.name", "digits"), ("data.binarize", "dynamic")]
        >>> len(build(read_config(changes=changes)).held_out)
        300
    """

    config: Config
    data: Dataset
    model: Model
    guide: Guide
    objective: ELBO
    training: Training

    @property
    def held_out(self) -> Dataset:
        """The rows that [evaluation] names: the first `num_data` of its split."""
        table = self.config.evaluation
        if table.split not in self.data.splits:
            splits = ", ".join(self.data.splits) or "no splits"
            raise ConfigError(
                f"[evaluation] split = {table.split!r}, but {self.data.name!r} has {splits}"
            )
        part: Dataset = getattr(self.data, table.split)
        return part if table.num_data is None else part[: table.num_data]

    def with_evaluation(self, **changes: Any) -> "Experiment":
        """The same with other keywords of [evaluation], as `read_config` takes them."""
        keys = {f"evaluation.{key}": value for key, value in changes.items()}
        return replace(self, config=changed(self.config, keys.items()))


def build(config: Config) -> Experiment:
    """Data, model, guide, objective and training settings from a configuration; nothing is trained.

    Starting weights are drawn from the training seed, guide first. If values are missing, the
    encoder also receives the missingness indicator.

    Args:
        config: From `read_config`.

    Raises:
        ConfigError: the data are not found, or an argument does not fit them.

    Example:
        >>> from ppl_vae.experiment import read_config
        >>> config = read_config(changes=[("data.name", "digits"), ("prior.name", "VampPrior")])
        >>> build(config).model.prior.pseudo_inputs.shape
        torch.Size([50, 8, 8])
    """
    data = load_data(config.data)
    with seeded(config.training.keywords["seed"]):
        guide = _guide(config, data)
        model = _model(config, data, guide)
    objective = blamed("objective", config.objective.build)
    training = construct(Training, config.training.keywords, config.training.module)
    return Experiment(config, data, model, guide, objective, training)


def blamed(table: str, make: Callable[..., Any], **available: Any) -> Any:
    """The result of a call; an error names the table that caused it."""
    try:
        return make(**available)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[{table}] {' '.join(str(error).split())}") from error


def load_data(table: DataTable) -> Dataset:
    """The data that [data] names."""
    options: dict[str, Any] = table.model_dump(include={"binarize", "seed"})
    if table.name not in available() and (table.label or table.context):
        make: Callable[..., Dataset] = partial(_columns, table)
    else:
        make = partial(
            load, table.name, flatten=table.flatten, valid=table.valid, data_dir=table.data_dir
        )
    try:
        return blamed("data", make, **options)
    except KeyError as error:
        raise ConfigError(f"[data] {error.args[0]}") from None
    except OSError as error:
        raise ConfigError(f"[data] {error}") from error


def describe_data(name: str, *, data_dir: str | None = None) -> dict[str, Any]:
    """The facts of a named data set or a file, in words.

    Args:
        name: As in `load`.
        data_dir: Where to look first.

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


def _columns(table: DataTable, **options: Any) -> Dataset:
    """A file with columns of labels or covariates."""
    data = read(Path(table.name), label=table.label, context=table.context, **options)
    data = data.flatten() if table.flatten else data
    if not data.splits:
        return data.split(0.1 if table.valid is None else table.valid, 0.1, table.seed)
    if table.valid is not None:
        raise ValueError(f"{table.name} has splits of its own: leave valid out")
    return data


def _guide(config: Config, data: Dataset) -> Guide:
    posterior = blamed("posterior", config.posterior.build)
    context_dim = _context_dim(data)
    missing = not bool(data.mask.all())
    # The encoder's input in `Guide`: x, then the missingness indicator, then the covariates.
    x = torch.zeros(1, *data.event_shape)
    context = torch.zeros(1, context_dim) if context_dim else None
    in_shape = join(x, x.dim() - 1, torch.ones_like(x) if missing else None, context).shape[1:]
    encoder = blamed(
        "encoder", config.encoder.build, in_shape=in_shape, event_shape=data.event_shape
    )
    return Guide(posterior, data.event_shape, encoder, context_dim=context_dim, missing=missing)


def _model(config: Config, data: Dataset, guide: Guide) -> Model:
    likelihood = blamed("likelihood", config.likelihood.build, event_shape=data.event_shape)
    prior = _prior(config, data.train, guide)
    decoded_dim = getattr(prior, "decoded_dim", config.latent_dim)
    exposure = config.data.exposure
    width = decoded_dim + _context_dim(data) - (exposure is not None)
    decoder = blamed(
        "decoder", config.decoder.build, in_shape=width, in_dim=width, event_shape=data.event_shape
    )
    make = partial(Model, prior, likelihood, decoder, start=data.train, exposure=exposure)
    return blamed("data", make)


def _prior(config: Config, train: Dataset, guide: Guide) -> nn.Module:
    """The prior, with the guide and the first training rows if it takes them."""
    whole = train.mask.flatten(1).all(1).nonzero()[:, 0]
    starts = {}
    for name, count in config.prior.rows.items():
        if count > len(whole):
            raise ConfigError(
                f"[prior] {name} = {count}: only {len(whole)} training rows have no missing value"
            )
        starts[name] = train.x[whole[:count]]
        if train.context is not None:
            starts["pseudo_context"] = train.context[whole[:count]]
    return blamed("prior", config.prior.build, guide=guide, latent_dim=config.latent_dim, **starts)


def _context_dim(data: Dataset) -> int:
    return 0 if data.context is None else data.context.shape[-1]
