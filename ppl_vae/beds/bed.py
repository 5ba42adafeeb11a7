"""Test beds: a model with closed-form log p(x), and a guide, exact or distorted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae.runtime.checks import real_number

__all__ = ["Bed", "BedGuide", "BedModel"]


class BedModel(PyroModule):
    """A plain Pyro model whose log p(x) is known: sites "z" and "x" in a plate "data".

    NaN in x means missing: its entry carries no density. Without x, the model simulates `num_data`
    rows. `.to(...)` moves model and guide to another device or floating type, but not x.

    Args:
        num_data: Number of rows that the model simulates without x.

    Example:
        >>> from ppl_vae import beds
        >>> beds.beta_bernoulli(num_data=3, num_trials=4).model().shape
        torch.Size([3, 4])
    """

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.num_data = num_data

    def prior(self) -> Any:
        """p(z), for one row."""
        raise NotImplementedError

    def likelihood(self, z: Tensor) -> Any:
        """p(x|z), independent over the entries of x; the event is the last batch dim."""
        raise NotImplementedError

    def guide_at(self, x: Tensor, distortion: "Distortion") -> Any:
        """The exact posterior p(z|x), distorted, batch shape (N,)."""
        raise NotImplementedError

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) per row, over the observed entries."""
        raise NotImplementedError

    def forward(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The generative model; `context` is ignored."""
        with pyro.plate("data", self.num_data if x is None else len(x), dim=-1):
            likelihood = self.likelihood(pyro.sample("z", self.prior()))
            if x is None:
                return pyro.sample("x", likelihood.to_event(1))
            observed = likelihood.mask(~x.isnan()).to_event(1)
            return pyro.sample("x", observed, obs=x.nan_to_num(nan=0.0))


@dataclass(frozen=True)
class Distortion:
    """A guide's distance from the exact posterior: sd times `scale`, mean moved by `shift` sds."""

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        real_number(self.scale, "guide_scale", above=0)


class BedGuide(PyroModule):
    """A plain Pyro guide, site "z" in a plate "data": the model's posterior, distorted if asked.

    Args:
        model: The model of the posterior; its parameters are not the guide's.
        distortion: The guide's distance from the exact posterior.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3, latent_dim=2)
        >>> bed.guide(bed.x).shape
        torch.Size([3, 2])
    """

    def __init__(self, model: BedModel, distortion: Distortion) -> None:
        super().__init__()
        self.distortion = distortion
        self._model = (model,)  # in a tuple: a submodule would share its parameters

    @property
    def model(self) -> Any:
        """The model whose posterior this is."""
        return self._model[0]

    def posterior(self, x: Tensor) -> Any:
        """q(z|x), batch shape (N,)."""
        return self.model.guide_at(x, self.distortion)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Draw z given x; `context` is ignored."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


@dataclass(frozen=True, kw_only=True)
class Bed:
    """Data with a model of known log p(x) and a guide: the exact posterior unless distorted.

    Model and guide take any rows x, not only these.

    Args:
        name: Name of the bed.
        x: Data drawn from the model, shape (N, *event).
        model: `model(x, context=None)`, a Pyro model with sites "z" and "x".
        guide: `guide(x, context=None)`, a Pyro guide with site "z".
        latent_dim: Number of latent dimensions D; 1 for a discrete z.
        reparameterized: Whether draws of the guide carry gradients.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.gamma_poisson(num_data=3)
        >>> bed.log_evidence.shape
        torch.Size([3])
    """

    name: str
    x: Tensor
    model: BedModel
    guide: BedGuide
    latent_dim: int
    reparameterized: bool = True

    @property
    def log_evidence(self) -> Tensor:
        """Exact log p(x) of the bed's own data, in nats, shape (N,)."""
        return self.exact_log_evidence(self.x)

    def exact_log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) of any data, in nats, shape (N,); NaN entries are integrated out."""
        with torch.no_grad():
            return self.model.log_evidence(x)


def draws(array: Any) -> Tensor:
    """NumPy draws as float64."""
    return torch.from_numpy(np.asarray(array, dtype=np.float64))
