"""The objects that a configuration names."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import blocks
from ppl_vae.experiment.config import Config, ConfigError, blamed, changed, to_toml
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.experiment.signatures import construct, written_family
from ppl_vae.experiment.tables import EvaluationTable
from ppl_vae.families.likelihoods import Columns
from ppl_vae.guide import Guide, input_shape
from ppl_vae.model import Model
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import Training

__all__ = ["Experiment", "build"]


@dataclass(frozen=True)
class Experiment(TrainedRun):
    """The parts of one run.

    Args:
        config: The configuration, with the likelihood of each column if these were chosen.
        data: The data set with its splits.
        model: The model.
        guide: The guide.
        objective: The objective.
        training: The settings of training.

    Example:
        >>> from ppl_vae.experiment import read_config
        >>> changes = [("data.name", "digits"), ("data.binarize", "dynamic")]
        >>> experiment = build(read_config(changes=changes))
        >>> experiment
        Experiment('digits': StandardNormal, Bernoulli, MeanFieldNormal, MeanFieldELBO)
        >>> len(experiment.held_out)
        300
    """

    config: Config
    data: Dataset
    model: Model
    guide: Guide
    objective: ELBO
    training: Training

    @property
    def rows(self) -> Dataset:
        """The data set."""
        return self.data

    @property
    def evaluation(self) -> EvaluationTable:
        """The table [evaluation]."""
        return self.config.evaluation

    @property
    def patience(self) -> int | None:
        """That of [training]."""
        return self.config.training.keywords.get("patience")

    @property
    def is_refitted(self) -> bool:
        """That of [training]."""
        return bool(self.config.training.keywords.get("refit", False))

    @property
    def listing(self) -> str:
        """The configuration."""
        return to_toml(self.config)

    @property
    def names(self) -> dict[str, str]:
        """Names in the configuration."""
        parts = ("prior", "likelihood", "posterior", "objective")
        return {part: getattr(self.config, part).name for part in parts}

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of the split, of training and of the evaluation."""
        return {
            "data": self.config.data.seed,
            "training": self.training.seed,
            "evaluation": self.config.evaluation.seed,
        }

    def __repr__(self) -> str:
        kinds = ", ".join(self.names.values())
        return f"Experiment({self.data.name!r}: {kinds})"

    def with_evaluation(self, **changes: Any) -> "Experiment":
        """The same with other keywords of [evaluation], as `read_config` takes them."""
        keys = {f"evaluation.{key}": value for key, value in changes.items()}
        return replace(self, config=changed(self.config, keys.items()))


def build(config: Config, data: Dataset | None = None) -> Experiment:
    """Data, model, guide, objective and training settings from a configuration; nothing is trained.

    Starting weights are drawn from the training seed, those of the guide first. If values are
    missing, the encoder is also given the missingness indicator; for a table with named columns,
    its inputs are those of `Guide(start=data)`.

    Args:
        config: From `read_config`.
        data: Its rows, if they were read before.

    Raises:
        ConfigError: the data are not found, or an argument does not fit the data.

    Example:
        >>> from ppl_vae.experiment import read_config
        >>> config = read_config(changes=[("data.name", "digits"), ("prior.name", "VampPrior")])
        >>> build(config).model.prior.pseudo_inputs.shape
        torch.Size([50, 8, 8])
    """
    data = load_data(config.data) if data is None else data
    with seeded(config.training.keywords["seed"]):
        guide = _guide(config, data)
        model = _model(config, data, guide)
    objective = blamed("objective", config.objective.build)
    training = construct(Training, config.training.keywords, config.training.module)
    config = _with_choices(config, model)
    return Experiment(config, data, model, guide, objective, training)


def _with_choices(config: Config, model: Model) -> Config:
    """The configuration with the likelihoods that `Columns` chose."""
    if not isinstance(model.likelihood, Columns):
        return config
    given = config.likelihood.keywords.get("families", {})
    chosen = {name: written_family(each) for name, each in model.likelihood.families.items()}
    return changed(config, [("likelihood.families", chosen | given)])


def _guide(config: Config, data: Dataset) -> Guide:
    posterior = blamed("posterior", config.posterior.build)
    encoder = blamed(
        "encoder",
        config.encoder.build,
        in_shape=input_shape(data),
        event_shape=data.event_shape,
    )
    return Guide(
        posterior,
        data.event_shape,
        encoder,
        context_dim=data.context_dim,
        missing=data.has_missing,
        start=data if "x" in data.columns else None,
    )


def _model(config: Config, data: Dataset, guide: Guide) -> Model:
    prior = _prior(config, data.train, guide)
    decoded_dim = getattr(prior, "decoded_dim", config.latent_dim)
    exposure = config.data.exposure
    width = decoded_dim + data.context_dim - (exposure is not None)
    decoder = blamed(
        "decoder", config.decoder.build, in_shape=width, in_dim=width, event_shape=data.event_shape
    )
    likelihood = blamed("likelihood", config.likelihood.of, data=data)
    make = partial(Model, prior, likelihood, decoder, start=data, exposure=exposure)
    return blamed("data", make)


def _prior(config: Config, train: Dataset, guide: Guide) -> nn.Module:
    """The prior, with the guide and the first training rows if it takes them."""
    whole = _complete_rows(train, max(config.prior.rows.values(), default=0))
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


def _complete_rows(data: Dataset, count: int) -> Tensor:
    """Numbers of the first rows without a missing value, at least `count` if there are as many."""
    found: list[Tensor] = []
    start = 0
    for block in blocks(data.x):
        if sum(map(len, found)) >= count:
            break
        complete = ~block.isnan().flatten(1).any(1)
        found.append(start + complete.nonzero()[:, 0])
        start += len(block)
    return torch.cat(found) if found else torch.empty(0, dtype=torch.long)
