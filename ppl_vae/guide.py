"""Guide = encoder + posterior: the Pyro guide, site "z"."""

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.streaming import Rows
from ppl_vae.families.context import check_context
from ppl_vae.families.modules import at_rest, join, require_module, shape_of
from ppl_vae.families.networks import MLP
from ppl_vae.families.posteriors import Posterior
from ppl_vae.families.rows import example_rows, features_of, read_features
from ppl_vae.families.shared import draw_shared, shared_latents
from ppl_vae.families.units import CovariateUnits, Encoding
from ppl_vae.model import TrainedOn, num_covariates, rows_to_start_from, weights_of
from ppl_vae.runtime.checks import real_number, switch

__all__ = ["Guide", "input_shape"]

_numbers = itertools.count()  # see model.py


class Guide(TrainedOn):
    """An amortised posterior: q(z given x, c) from features of x.

    Missing values (NaN) are set to zero, or to the mean of `start`, for the encoder; with
    `missing=True` it is also given the indicator of what was observed. `columns`, `levels` and
    `num_train` describe the training data, as in `Model`. A plain Pyro guide: it works wherever
    `Model` does.

    Args:
        posterior: One of `posteriors`.
        event_shape: Shape of one observation.
        encoder: Any module from x to features; None gives an `MLP` of 2 x 256, for vectors with a
            linear path beside it (`skip`). Covariates and the indicator of what was observed are
            appended to a vector x, and are further channels of an image x.
        context_dim: Number of covariates c; None takes that of `start`, or none.
        missing: Whether the encoder is given the indicator of what was observed.
        hide: Share of the observed entries that are hidden from the encoder at each training step,
            at random; log p(x) is that of all observed ones. So an encoder learns to serve rows of
            which more is missing than of those of training: for imputation, and x_mis given x_obs.
            It needs `missing=True`.
        start: Training rows, a `Dataset` or what makes one: the encoder is then given standardised
            numbers (counts and positive values on a log scale), an indicator of each level of a
            category, and covariates in the units in which a `Model` reads them.

    Shape:
        x (B, *event), context (B, context_dim) -> z (B, D)

    Raises:
        ValueError: x or start has another event shape, context is missing or unexpected, or `hide`
            is no share or is given without `missing`.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, section 2.2;
        Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, section 3 (zero imputation in the
        encoder); Ma et al. (2019), EDDI, arXiv:1809.11142, section 3 (entries hidden at random).

    Example:
        >>> import torch
        >>> from ppl_vae.families import posteriors
        >>> guide = Guide(posteriors.MeanFieldNormal(2), (28, 28))
        >>> guide(torch.zeros(3, 28, 28)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        posterior: Posterior,
        event_shape: int | Sequence[int],
        encoder: nn.Module | None = None,
        *,
        context_dim: int | None = None,
        missing: bool = False,
        hide: float = 0.0,
        start: Dataset | Any = None,
    ) -> None:
        super().__init__(f"guide_{next(_numbers)}")
        self.event_shape = shape_of(event_shape)
        self.missing = switch(missing, "Guide(missing)")
        self.hide = real_number(hide, "Guide(hide)", at_least=0, below=1)
        if hide and not missing:
            raise ValueError(
                "hide without the indicator of what is observed would let hidden entries pass for "
                "zeros: give missing=True"
            )
        self.context_dim = num_covariates(context_dim, start)
        data = None if start is None else as_dataset(start)
        if data is not None and data.event_shape != self.event_shape:
            raise ValueError(
                f"event_shape is {tuple(self.event_shape)}, and one row of start has shape "
                f"{tuple(data.event_shape)}: give data.event_shape"
            )
        self.units = Encoding(self.event_shape, {} if data is None else _num_levels(data))
        self.covariates = CovariateUnits(self.context_dim)
        require_module(posterior, "posterior", "build", "latent_dim")
        context = example_rows(self.context_dim) if self.context_dim else None
        examples = self.inputs(example_rows(*self.event_shape), context)
        if encoder is not None:
            require_module(encoder, "encoder")
        else:
            encoder = MLP(examples.shape[1:], skip=len(self.event_shape) == 1)
        posterior.build(read_features(encoder, examples, "encoder"))
        self.posterior = posterior
        self.encoder = encoder
        self.latent_dim = posterior.latent_dim
        self.made = weights_of(self)
        if data is not None:
            self.columns = data.columns
            self.levels = data.levels
            self.start_from(data)

    def start_from(self, data: Dataset, *, counts: bool = False) -> None:
        """Put the encoder's inputs in the units of the training rows; `counts` are on a log scale.

        In a table, columns of counts and of positive values are on a log scale anyway.
        """
        logged = torch.full(self.event_shape, float(counts))
        if not counts and len(self.event_shape) == 1 and not isinstance(data.x, Rows):
            logged = _log_scales(data)
        rows = rows_to_start_from(data, self)
        self.start_units(rows)
        self.units.fit_to(rows.x, logged)

    def start_units(self, rows: Dataset) -> None:
        """Put the covariates in the units of these rows, as a `Model` does."""
        if rows.context is not None:
            self.covariates.fit_to(rows.context)

    @property
    def is_new(self) -> bool:
        """Whether the guide has no units and no weight has changed since it was made."""
        return not self.units.is_set and weights_of(self) == self.made

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The Pyro guide."""
        self.check(x, context)
        shared = draw_shared(self.posterior)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior_at(x, context, **shared))

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Raise ValueError unless x has the guide's event shape and context is as declared."""
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"Guide was made for data of shape {tuple(self.event_shape)} and was given "
                f"{tuple(x.shape[1:])}"
            )
        check_context(context, self.context_dim, "Guide")

    def encode(self, x: Tensor, context: Tensor | None = None) -> dist.TorchDistribution:
        """q(z given x, c); dropout and batch norm are at rest."""
        with at_rest(self):
            return self.posterior_at(x, context)

    def posterior_at(
        self, x: Tensor, context: Tensor | None = None, **shared: Tensor
    ) -> dist.TorchDistribution:
        """q(z given x, c) in the present mode of the modules, as in training.

        A posterior with latents that rows share is given them, or averages over them.
        """
        if self.training and self.hide:
            x = x.masked_fill(torch.rand_like(x) < self.hide, torch.nan)
        given = [context] if shared_latents(self.posterior) else []
        return self.posterior(self.features(x, context), *given, **shared)

    def features(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The encoder's features of x; it sees the batch dims of x as one."""
        return features_of(self.encoder, self.inputs(x, context), x.dim() - len(self.event_shape))

    def inputs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The encoder's inputs."""
        indicator = ~x.isnan() if self.missing else None
        values = self.units(x).nan_to_num()
        return join(values, len(self.event_shape), indicator, self.covariates(context))


def input_shape(data: Dataset, *, missing: bool | None = None) -> torch.Size:
    """Shape of what the encoder of a `Guide(..., start=data)` is given for one row.

    Numbers, an indicator of each level of a category, then of what is observed, then covariates;
    the latter two are further channels of an image.

    Args:
        data: The data set.
        missing: As in `Guide`; None is whether a value of the data is missing.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"sex": ["f", "m", None], "weight": [60.1, 83.5, 71.0]})
        >>> input_shape(Dataset(frame))
        torch.Size([5])
    """
    x = example_rows(*data.event_shape)
    if missing is None:
        missing = data.has_missing
    indicator = torch.ones_like(x) if missing else None
    context = example_rows(data.context_dim) if data.context_dim else None
    values = Encoding(data.event_shape, _num_levels(data))(x)
    return join(values, len(data.event_shape), indicator, context).shape[1:]


def _num_levels(data: Dataset) -> dict[int, int]:
    """Number of levels by place, for the columns that hold categories."""
    levels = data.levels
    places = enumerate(data.feature_names)
    return {place: len(levels[name]) for place, name in places if name in levels}


def _log_scales(data: Dataset) -> Tensor:
    """a of log(1 + x / a) for each column: 1 for counts, the smallest positive value, or 0."""
    low = data.train.x.nan_to_num(nan=torch.inf).amin(0)
    scales = {"count": torch.ones_like(low), "positive": low}
    rows = [scales.get(kind, torch.zeros_like(low))[i] for i, kind in enumerate(data.kinds)]
    return torch.stack(rows).nan_to_num(posinf=0.0)
