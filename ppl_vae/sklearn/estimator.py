"""What the estimators share: their parameters, and how they are fitted."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
from numpy.random import RandomState
from pyro.infer import ELBO
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.families import likelihoods, posteriors, priors
from ppl_vae.families.likelihoods import Columns
from ppl_vae.families.shared import shared_latents
from ppl_vae.recipes import (
    FEWEST_EPOCHS,
    FEWEST_ROWS,
    Choices,
    model_and_guide,
    with_validation,
)
from ppl_vae.runtime.checks import suggestion, whole_number
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed
from ppl_vae.sklearn.density import Density
from ppl_vae.sklearn.rows import new_rows
from ppl_vae.training import Training, fit

NOT_HERE = {"guide", "prior"}  # what a part needs and an estimator cannot give
COVARIATES = "context_dim"  # what some need and an estimator can give if it has covariates


@dataclass(eq=False, repr=False)
class Estimator(BaseEstimator):
    """A VAE for tables, with the parameters of a scikit-learn estimator."""

    latent_dim: int | None = None
    _: KW_ONLY
    likelihood: Any = "auto"
    prior: str | nn.Module | Callable[[int], nn.Module] | None = None
    posterior: str | nn.Module | Callable[[int], nn.Module] | None = None
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    objective: ELBO | None = None
    max_steps: int = 3000
    num_particles: int = 200
    refine_steps: int = 300
    random_state: int | RandomState | None = None

    def _train(self, data: Dataset) -> Self:
        """Fit model and guide; sets the attributes that end in an underscore."""
        whole_number(self.num_particles, "num_particles")
        whole_number(self.refine_steps, "refine_steps", at_least=0)
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        data, chosen, training = self._settings(data)
        with seeded(self.seed_):
            parts = self._parts(data, chosen.latent_dim)
        model, guide = model_and_guide(data, chosen, **parts)
        self.model_ = model.double()
        self.guide_ = guide.double()
        self.data_ = data
        objective = copy.deepcopy(self.objective) or chosen.objective()
        self.result_ = fit(model, guide, data, objective=objective, training=training)
        return self

    def _settings(self, data: Dataset) -> tuple[Dataset, Choices, Training]:
        """Those of `recipe`, without early stopping where rows or steps are few."""
        steps = whole_number(self.max_steps, "max_steps")
        chosen = Choices.of(data, self.latent_dim, steps, self.seed_)
        num_epochs = max(1, steps * chosen.batch_size // len(data))
        if num_epochs >= FEWEST_EPOCHS and len(data) >= FEWEST_ROWS:
            data = with_validation(data, self.seed_)
            chosen = Choices.of(data, self.latent_dim, steps, self.seed_)
            return data, chosen, chosen.training(progress=False)
        training = chosen.training(progress=False)
        return data, chosen, replace(training, num_epochs=num_epochs, patience=None, refit=False)

    def _parts(self, data: Dataset, latent_dim: int) -> dict[str, Any]:
        """The parts that were given, as copies."""
        likelihood = self._families(data)
        if isinstance(likelihood, dict):
            families = {name: _found(each, name, likelihoods) for name, each in likelihood.items()}
            likelihood = Columns.of(data, families)
        sizes = latent_dim, data.context_dim
        return {
            "prior": _part(self.prior, "prior", priors, *sizes),
            "likelihood": _part(likelihood, "likelihood", likelihoods, data.event_shape),
            "posterior": _part(self.posterior, "posterior", posteriors, *sizes),
            "encoder": copy.deepcopy(self.encoder),
            "decoder": copy.deepcopy(self.decoder),
        }

    def _families(self, data: Dataset) -> Any:
        """The likelihood as it was given; None is that of `recipe`."""
        return None if self.likelihood == "auto" else self.likelihood

    def _rows(self, X: Any, context: Any = None) -> Dataset:
        """New rows in the columns and covariates of the fit."""
        check_is_fitted(self)
        return new_rows(self, X, context)

    def _density(self, data: Dataset) -> np.ndarray:
        """log p(x) of each row."""
        options = self.num_particles, self.refine_steps, self.seed_
        return Density(self.model_, self.guide_, *options)(data)

    def __sklearn_tags__(self) -> Any:
        """NaN is missing, and allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Transformer(TransformerMixin):
    """A transformer whose rows may have covariates."""

    def fit_transform(
        self: Any, X: Any, y: Any = None, sample_weight: Any = None, context: Any = None
    ) -> Any:
        """Fit to rows and transform them.

        Args:
            X: Rows, (N, features).
            y: Not used.
            sample_weight: Sampling weights, (N,), as in `fit`.
            context: Covariates, as in `fit`.
        """
        fitted = self.fit(X, y, sample_weight=sample_weight, context=context)
        return fitted.transform(X, context=context)


def _part(given: Any, name: str, room: Any, size: Any, context_dim: int = 0) -> nn.Module | None:
    """A part by its name, a copy of it, or what a function makes of its size."""
    found = _found(given, name, room, context_dim)
    if not (found is None or isinstance(found, nn.Module)):
        with_covariates = context_dim and COVARIATES in inspect.signature(found).parameters
        found = found(size, context_dim=context_dim) if with_covariates else found(size)
    if shared_latents(found):
        _refuse_shared(name, type(found).__name__)
    return found


def _found(given: Any, name: str, room: Any, context_dim: int = 0) -> Any:
    """The class of this name in a room, or a copy of what else was given."""
    if isinstance(given, str):
        return _by_name(given, name, room, context_dim)
    if not (given is None or isinstance(given, nn.Module) or callable(given)):
        raise TypeError(
            f"{name} is {echoed(given)}: give a name, a module, or a function that makes one of "
            "its size"
        )
    return copy.deepcopy(given)


def _by_name(given: str, name: str, room: Any, context_dim: int) -> Any:
    """The class of this name, which must be able to do with the size, and covariates if any."""
    if hasattr(room, given) and "shared" in vars(getattr(room, given)):
        _refuse_shared(name, given)
    alone = [each for each in room.__all__ if "shared" not in vars(getattr(room, each))]
    needs = {each: _needs(getattr(room, each), context_dim) for each in alone}
    if given not in needs:
        allowed = [each for each, more in needs.items() if not more]
        raise ValueError(
            f"{name} is {echoed(given)}, which the library does not have: "
            f"{suggestion(given, allowed)}"
        )
    if not needs[given]:
        return getattr(room, given)
    more = " and ".join(needs[given])
    where = f"{room.__name__.rpartition('.')[2]}.{given}"
    if given == "Columns":
        remedy = "give a dictionary of families by column instead"
    elif COVARIATES in needs[given]:
        remedy = "give covariates, fit(X, context=...)"
    elif NOT_HERE & set(needs[given]):
        remedy = "these estimators have none: use pv.Model and pv.fit"
    else:
        remedy = f"give a function, as in lambda size: {where}(size, {needs[given][-1]}=...)"
    raise ValueError(f"{name} is {echoed(given)}, which also needs {more}: {remedy}")


def _refuse_shared(name: str, part: str) -> NoReturn:
    raise ValueError(
        f"{name} is {part}, under which rows share latents, and results here are those of each row "
        "alone: use pv.Model and pv.fit"
    )


def _needs(part: type, context_dim: int) -> list[str]:
    """What the constructor needs beside the size, and beside covariates if there are any."""
    known = ["latent_dim", "event_shape"] + [COVARIATES] * (context_dim > 0)
    parameters = inspect.signature(part).parameters.values()
    return [
        each.name
        for each in parameters
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and each.name not in known
    ]
