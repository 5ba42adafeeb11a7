"""Model = prior + decoder + likelihood (+ missingness): the Pyro model, plate "data"."""

import copy
import itertools
from typing import Any, override

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.streaming import Rows
from ppl_vae.data.tables.levels import Levels, listed
from ppl_vae.families.context import check_context, read_context, require_context_dim
from ppl_vae.families.exposure import Exposure
from ppl_vae.families.likelihoods import Likelihood
from ppl_vae.families.missing import observed_part
from ppl_vae.families.missingness import Missingness
from ppl_vae.families.modules import at_rest, join, require_module
from ppl_vae.families.networks import MLP
from ppl_vae.families.rows import (
    example_rows,
    features_of,
    read_features,
    read_prior,
)
from ppl_vae.families.shared import draw_shared, shared_latents
from ppl_vae.families.units import CovariateUnits
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.memory import require_memory
from ppl_vae.runtime.seeding import one_at_a_time

__all__ = ["Model"]

# A name for each model in Pyro's parameter store, so that two models never share weights.
_numbers = itertools.count()

ROWS_TO_START_FROM = 10_000


class TrainedOn(PyroModule):
    """A module with the columns and levels of its training rows, and their number.

    The metadata of its `state_dict` hold the names, so that weights for others are refused. Weights
    without metadata, as a plain dictionary has none, pass.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.columns: dict[str, tuple[str, ...]] = {}
        self.levels: dict[str, tuple[str, ...]] = {}
        self.num_train: int | None = None
        self.register_state_dict_post_hook(_note_names)

    @override
    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        for what, known in (("columns", self.columns), ("levels", self.levels)):
            _refuse_others(what, local_metadata.get(what, {}), known, type(self).__name__)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _note_names(module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Put the names beside the version of the module, in the metadata of its state."""
    metadata.update(columns=module.columns, levels=module.levels)


def _refuse_others(what: str, saved: Levels, known: Levels, name: str) -> None:
    """Raise where the same part of a table has other names than the weights were saved with."""
    for part in saved:
        if known.get(part, saved[part]) != saved[part]:
            raise ValueError(
                f"these weights are for {what} {listed(saved[part])} of {part!r}, and this {name} "
                f"has {listed(known[part])}: make it from a table with those {what}"
            )


class Model(TrainedOn):
    """A VAE's generative model: z ~ p(z given c), x ~ p(x given z, c).

    log p(x, z) = log p(z given c) + sum_i log p(x_i given z, c), the sum over observed elements of
    x (NaN is missing). A plain Pyro model: for `pyro.infer.SVI`, `pyro.poutine.trace`,
    `pyro.infer.Predictive`, `pyro.render_model`.

    After `fit`, `num_train` is the number of training rows, and `columns` holds the names of the
    columns of x and context where they had any: data and weights with other names are refused.
    `levels` holds the names of the levels of categories, by column: the categories of other data
    are coded alike. `unobserved` names the columns that were missing in every training row.

    Args:
        prior: p(z), one of `priors` or any module that returns a distribution with event shape
            (D,). If it has a `decoded_dim`, the decoder reads that many entries of z, the first; if
            a method `decoded`, what that makes of z.
        likelihood: p(x given features), one of `likelihoods`.
        decoder: Any module from z (and context, appended) to features; None gives an `MLP` of 2 x
            256, for vectors x with a linear path beside it (`skip`).
        context_dim: Number of covariates c, the exposure included; None takes that of `start`, or
            none. Prior and decoder are given covariates in standard deviations of the training
            rows, and indicators (0 or 1) as they are.
        start: Training data, a `Dataset` or its x: the likelihood then starts from the marginal of
            each x_i, scales and dispersions included, and the networks have only to learn how rows
            differ. Elements that are never observed keep their start. Worth nats early in training.
        exposure: Name or number of the column of c by which the mean of each row is multiplied,
            such as hours at risk; for likelihoods of counts. That of a composition is its total.
            The prior and the encoder are given it with the other covariates, the decoder is not.
        missingness: p(m given x), one of `missingness`; None: entries are missing at random. With
            it "log p(x)" is log p(x_obs, m), the mask m of its columns included, in each bound and
            estimate (site "m"). x_mis is drawn with each particle (site "x_completed").

    Shape:
        x (B, *event), context (B, context_dim); under a particle plate of size K, z is (K, B, D)

    Raises:
        ValueError: x lies outside the likelihood's support, context is missing or unexpected, or
            the exposure is no column of it, not positive, or of no use to the likelihood.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, section 2.1.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(5))
        >>> model(torch.zeros(3, 5)).shape
        torch.Size([3, 5])
        >>> model(num_data=4).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihood: Likelihood,
        decoder: nn.Module | None = None,
        *,
        context_dim: int | None = None,
        start: Dataset | Any = None,
        exposure: str | int | None = None,
        missingness: Missingness | None = None,
    ) -> None:
        super().__init__(f"model_{next(_numbers)}")
        require_module(prior, "prior")
        require_module(likelihood, "likelihood", "build", "names")
        self.context_dim = num_covariates(context_dim, start)
        self.exposure = _exposure(exposure, self.context_dim, likelihood)
        self.columns = {"x": tuple(likelihood.names)} if likelihood.names else {}
        self.levels = dict(likelihood.levels)
        if start is not None:
            start = as_dataset(start)
            self.columns, self.levels = start.columns, start.levels
        self.unobserved: tuple[str, ...] = ()  # columns without a value in all training rows
        self.may_miss: bool | None = None  # whether x may hold NaN; None looks at each batch
        self.covariates = CovariateUnits(self.context_dim)
        context = example_rows(self.context_dim) if self.context_dim else None
        require_context_dim(prior, self.context_dim)
        self.latent_dim = read_prior(prior, context)
        # A prior with several layers of latents states how many dimensions the decoder reads.
        self.decoded_dim: int = getattr(prior, "decoded_dim", self.latent_dim)
        num_others = self.context_dim - (exposure is not None)
        covariates = example_rows(num_others) if num_others else None
        examples = join(example_rows(self.decoded_dim), 1, context=covariates)
        if decoder is not None:
            require_module(decoder, "decoder")
        else:
            decoder = MLP(examples.shape[-1], skip=len(likelihood.event_shape) == 1)
        shape = read_features(decoder, examples, "decoder")
        likelihood.build(shape)
        self.prior = prior
        self.likelihood = likelihood
        self.decoder = decoder
        self.missingness = missingness
        if missingness is not None:
            require_module(missingness, "missingness")
            missingness.build(likelihood(torch.zeros(1, *shape)), self.columns.get("x", ()))
        self.made = weights_of(self)
        if start is not None:
            self.start_from(rows_to_start_from(start, self))

    @property
    def has_counts(self) -> bool:
        """Whether x are whole numbers from a lower end on without an upper one."""
        support: Any = self.likelihood.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        has_ends = hasattr(support, "lower_bound"), hasattr(support, "upper_bound")
        return support.is_discrete and has_ends == (True, False)

    def with_prior(self, prior: nn.Module) -> "Model":
        """A model with another prior over the same latents; likelihood and decoder are shared.

        Raises:
            ValueError: the prior has another latent dimension.
        """
        require_module(prior, "prior")
        context = example_rows(self.context_dim) if self.context_dim else None
        if (latent_dim := read_prior(prior, context)) != self.latent_dim:
            raise ValueError(
                f"the prior has {latent_dim} latent dimensions and the decoder {self.latent_dim}: "
                f"use {type(prior).__name__}({self.latent_dim})"
            )
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._pyro_name = f"model_{next(_numbers)}"
        other.prior = prior
        return other

    def start_from(self, rows: Dataset) -> None:
        """Let the likelihood start from the marginals of these rows, in memory."""
        self.read_names(rows.columns)
        self.start_units(rows)
        exposure = self.exposure_of(rows.context)
        given = [each for each in (rows.x, exposure) if each is not None]
        self.likelihood.start_at(*given)

    def start_units(self, rows: Dataset) -> None:
        """Give prior and decoder the covariates in the units of these rows, the mechanism x."""
        if rows.context is not None:
            self.covariates.fit_to(rows.context)
            prior: Any = self.prior
            if hasattr(prior, "start_at"):
                prior.start_at(rows.context)
        if self.missingness is not None:
            self.missingness.start_at(rows.x)

    def read_names(self, columns: dict[str, tuple[str, ...]]) -> None:
        """Learn where an exposure that is given by its name stands, from the first named columns.

        Those of training are checked against later ones in any case.
        """
        if self.exposure is not None and "context" in columns:
            self.columns = {"context": columns["context"]} | self.columns

    @property
    def is_new(self) -> bool:
        """Whether no weight has changed since the model was made."""
        return weights_of(self) == self.made

    def forward(
        self, x: Tensor | None = None, context: Tensor | None = None, *, num_data: int = 1
    ) -> Tensor:
        """The Pyro model; without x it generates (`num_data` rows, or one per row of context)."""
        # Pyro's validation switch: `fit` and `log_evidence` check the data once, then turn it off.
        if x is not None and torch.distributions.Distribution._validate_args:
            self.check(x, context)
        if context is not None:
            num_data = len(context)
        if x is not None:
            num_data = len(x)
        shared = draw_shared(self.prior)
        with pyro.plate("data", num_data, dim=-1):
            z = pyro.sample("z", self.prior_at(context, **shared))
            likelihood = self.likelihood_at(z, context, x)
            if x is None:
                x = pyro.sample("x", likelihood)
                return x if self.missingness is None else self.missingness.hide(x)
            observed, values = observed_part(likelihood, x, self.may_miss)
            found = pyro.sample("x", observed, obs=values)
            if self.missingness is not None:
                self.missingness.observe(likelihood, x, None if found is values else found)
            return found

    def prior_at(self, context: Tensor | None = None, **shared: Tensor) -> dist.TorchDistribution:
        """p(z given c), and given the latents that rows share, if the prior has any.

        A prior with a method `start_at` has units of its own for the covariates.
        """
        if not hasattr(self.prior, "start_at"):
            context = self.covariates(context)
        return self.prior(context, **shared)

    def decode(self, z: Tensor, context: Tensor | None = None) -> dist.Independent:
        """p(x given z, c), batch dims of z to the left; dropout and batch norm are at rest."""
        with at_rest(self):
            return self.likelihood_at(z, context)

    def likelihood_at(
        self, z: Tensor, context: Tensor | None = None, x: Tensor | None = None
    ) -> dist.Independent:
        """p(x given z, c) in the present mode of the modules, as in training.

        Without an exposure in c, counts with a known total take that of x.
        """
        exposure = self.exposure_of(context)
        if exposure is None and x is not None:
            exposure = self.likelihood.exposure_in(x)
        given = [] if exposure is None else [exposure]
        return self.likelihood(self.features(z, context), *given)

    def features(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The decoder's features of z; it sees the batch dims of z as one."""
        context = self.covariates(context)
        if self.exposure is not None:
            context, _ = self.exposure.split(context, self.columns.get("context", ()))
        inputs = join(self.decoded(z), 1, context=context)
        return features_of(self.decoder, inputs, z.dim() - 1)

    def decoded(self, z: Tensor) -> Tensor:
        """What the decoder reads of z."""
        prior: Any = self.prior
        if hasattr(prior, "decoded"):
            return prior.decoded(z)
        return z[..., : self.decoded_dim]

    def exposure_of(self, context: Tensor | None) -> Tensor | None:
        """The exposure of each row, (B, 1, ...), as the likelihood takes it."""
        if self.exposure is None:
            return None
        _, values = self.exposure.split(context, self.columns.get("context", ()))
        return values.reshape(*values.shape, *[1] * len(self.likelihood.event_shape))

    def sample(
        self, num_samples: int = 1, context: Tensor | None = None, *, guide: Any = None
    ) -> Tensor:
        """Draws of x, (num_samples, *event), or one per row of context; dropout is at rest.

        Latents that rows share are drawn once in a call: from the guide if one is given, as for
        predictions of a fitted model, else from their prior.
        """
        whole_number(num_samples, "num_samples")
        require_memory(f"num_samples={num_samples}", num_samples, *self.likelihood.event_shape)
        context = read_context(context, self.context_dim, self)
        if self.exposure is None:  # an exposure has an error of its own
            check_context(context, self.context_dim, "Model")
        with one_at_a_time, at_rest(self), torch.no_grad(), pyro.poutine.block():
            known = {} if guide is None else shared_latents(guide.posterior)
            drawn = {name: each.sample() for name, each in known.items()}
            with pyro.poutine.condition(data=drawn):
                return self(context=context, num_data=num_samples)

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Raise ValueError unless x lies in the likelihood's support and context is as declared."""
        check_context(context, self.context_dim, "Model")
        self.likelihood.check(x)
        exposure = self.exposure_of(context)
        if self.exposure is not None and exposure is not None:
            self.likelihood.check_exposure(x, exposure, self.exposure.column)

    def concerns(self, z: Tensor, context: Tensor | None = None) -> list[str]:
        """The likelihood's concerns about its fitted parameters at these z."""
        with at_rest(self):
            return self.likelihood.concerns(self.features(z, context))


def num_covariates(context_dim: int | None, start: Dataset | Any) -> int:
    """Number of covariates, as given or as in the data that a module starts from.

    Raises:
        ValueError: The two differ.
    """
    found = start.context_dim if isinstance(start, Dataset) else 0
    if context_dim is None:
        return found
    given = whole_number(context_dim, "context_dim", at_least=0)
    if isinstance(start, Dataset) and given != found:
        raise ValueError(
            f"context_dim is {given}, and start has {found} covariates: leave context_dim out"
        )
    return given


def rows_to_start_from(data: Dataset, module: nn.Module) -> Dataset:
    """The training rows, on the module's device; of rows in a file, 10,000 over all of it."""
    rows = data.train
    if isinstance(rows.x, Rows):
        rows = rows[:: max(1, len(rows) // ROWS_TO_START_FROM)]
    return rows.to(next(module.parameters()).device)


def _exposure(
    column: str | int | None, context_dim: int, likelihood: Likelihood
) -> Exposure | None:
    """The exposure, if there is one and the likelihood takes it."""
    if column is None:
        return None
    if not likelihood.takes_exposure:
        raise ValueError(
            f"exposure={column!r}: {type(likelihood).__name__} takes none, since it is for counts "
            "with a log link and for totals; use such a likelihood, or leave it a covariate"
        )
    return Exposure(column, context_dim)


def weights_of(module: nn.Module) -> list[float]:
    """A number for each parameter, by which changed weights are noticed."""
    return [weights.detach().double().abs().sum().item() for weights in module.parameters()]
