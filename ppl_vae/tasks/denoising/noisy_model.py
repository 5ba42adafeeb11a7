"""The model of noisy rows: prior and decoder of the clean ones, noise on the likelihood."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, override

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.errors import ArgumentError
from ppl_vae.families.densities import Columnwise
from ppl_vae.families.entries import blocks_of, entries_of
from ppl_vae.families.likelihoods import Columns
from ppl_vae.families.missing import stand_in
from ppl_vae.model import Model
from ppl_vae.tasks.denoising.noise import Noise

__all__ = ["NoisyModel"]


class Share(NamedTuple):
    """A noise, and the entries of the last dim that have it."""

    noise: Noise
    where: Tensor


class Corrupted(dist.TorchDistribution):
    """p(y given z), elementwise, with the clean entries integrated out; a missing y has density 1.

    Args:
        base: p(x given z), elementwise.
        shares: The noises, p(y given x); entries without one are clean.
        y: The noisy entries, from which `completed` draws x.
    """

    arg_constraints = {}

    def __init__(
        self, base: Any, shares: Sequence[Share], y: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.base = base
        self.shares = shares
        self.y = y
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of x where no entry is noisy."""
        return dist.constraints.real if self.shares else self.base.support

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> "Corrupted":
        return Corrupted(self.base.expand(batch_shape), self.shares, self.y)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        found = torch.zeros_like(value)
        is_clean = self._is_clean
        if is_clean.any():
            # gradients of densities outside the support would be NaN behind the mask
            inside = torch.where(is_clean & ~missing, value, stand_in(self.base.support, value))
            found = self.base.log_prob(inside)
        for noise, where in self.shares:
            marginal = noise.marginal(self.base, self._filled(value))
            found = torch.where(where, marginal, found)
        return found.masked_fill(missing, 0.0)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        x = self.base.sample(sample_shape)
        for noise, where in self.shares:
            x = torch.where(where, noise.corrupt(x), x)
        return x

    def completed(self) -> Tensor:
        """A draw of the clean entries, given z and y."""
        with torch.no_grad():
            missing = self.y.isnan()
            found = self.y.expand(self.base.batch_shape)
            for noise, where in self.shares:
                clean = noise.clean(self.base, self._filled(self.y))
                found = torch.where(where, clean, found)
            return torch.where(missing, self.base.sample(), found)

    def _filled(self, y: Tensor) -> Tensor:
        """Values of the support in the place of missing ones."""
        return torch.where(y.isnan(), stand_in(self.base.support, y), y)

    @property
    def _is_clean(self) -> Tensor:
        """Entries of the last dim without noise."""
        clean = torch.ones(self.y.shape[-1], dtype=torch.bool, device=self.y.device)
        for _, where in self.shares:
            clean = clean & ~where
        return clean


class CorruptedColumns(Columnwise):
    """Columns of several families, each a `Corrupted`."""

    def completed(self) -> Tensor:
        """A draw of the clean entries, given z and y."""
        return self.joined([part.completed() for part in self.parts])


class NoisyModel(nn.Module):
    """p(z) p(y given z) = p(z) prod_i of the integral of p(x_i given z) p(y_i given x_i) dx_i.

    Args:
        model: The model of clean rows.
        noise: What was added to all entries, or to single columns, by place.

    Raises:
        ValueError: The model is a custom one, or the entries of x are dependent given z.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> from ppl_vae.tasks.denoising.noise import GaussianNoise
        >>> model = Model(priors.StandardNormal(1), likelihoods.Gaussian(3))
        >>> NoisyModel(model, GaussianNoise(0.1))(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, model: Model, noise: Noise | Mapping[int, Noise]) -> None:
        super().__init__()
        if not isinstance(model, Model):
            raise ValueError("denoise takes a Model made of the library's parts")
        self.clean = model
        self.noise = noise

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The Pyro model of noisy rows, under the name that observed rows have elsewhere."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.clean.prior_at(context))
            p = self.clean.likelihood_at(z, context)
            return pyro.sample("x", self._corrupted(p, x).to_event(x.dim() - 1), obs=x)

    def unknown(self, y: Tensor) -> Tensor:
        """Entries whose x has to be drawn: missing ones, and those that may not be x.

        Args:
            y: The noisy rows, (B, *event).
        """
        if isinstance(self.noise, Noise):
            return ~self.noise.keeps(y)
        found = y.isnan()
        for place, noise in self.noise.items():
            found[..., place] = ~noise.keeps(y[..., place])
        return found

    def density(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(y_i given z) of each entry, at a draw of z from the prior.

        Args:
            y: The noisy rows, (B, *event).
            context: Covariates.
        """
        with torch.no_grad():
            z = self.clean.prior_at(context).expand([len(y)]).sample()
            return self._corrupted(self.clean.likelihood_at(z, context), y).log_prob(y)

    def _corrupted(self, p: Any, y: Tensor) -> Any:
        """p(y given z), elementwise."""
        base, _ = entries_of(p)
        if base.event_shape:
            raise ValueError(
                f"{type(self.clean.likelihood).__name__}: denoise takes entries that are "
                "independent given z"
            )
        if not isinstance(base, Columnwise):
            return Corrupted(base, self._shares(base, range(y.shape[-1]), y), y)
        parts = [
            Corrupted(part, self._shares(part, places, y), y[..., places])
            for part, places in blocks_of(p)
        ]
        return CorruptedColumns(parts, base.places)

    def _no_closed_form(self, noise: Noise, place: int) -> str:
        """What cannot be integrated, by the name of the column, and what can."""
        likelihood = self.clean.likelihood
        where = type(likelihood).__name__
        remedy = "use"
        if isinstance(likelihood, Columns):
            family = type(likelihood.by_column()[place]).__name__
            where = f"column {likelihood.names[place]!r} ({family})"
            remedy = "name the noisy columns and leave this one out, or give it"
        return (
            f"{type(noise).__name__} of {where}: p(y given z) has no closed form; {remedy} a "
            "likelihood of few values (Bernoulli, Categorical, DiscretizedLogistic), or Gaussian "
            "or StudentT with GaussianNoise"
        )

    def _shares(self, base: Any, places: Sequence[int], y: Tensor) -> list[Share]:
        """The noises of these columns, which are of one family."""
        if isinstance(self.noise, Noise):
            given = dict.fromkeys(places, self.noise)
        else:
            given = {place: self.noise[place] for place in places if place in self.noise}
        for place, noise in given.items():
            if not noise.takes(base):
                raise ArgumentError(self._no_closed_form(noise, place))
        if isinstance(self.noise, Noise):
            return [Share(self.noise, torch.ones(len(places), dtype=torch.bool, device=y.device))]
        found = []
        for noise in dict.fromkeys(given.values()):
            where = [given.get(place) == noise for place in places]
            found.append(Share(noise, torch.tensor(where, device=y.device)))
        return found
