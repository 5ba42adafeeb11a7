"""The model of noisy rows: prior and decoder of the clean ones, noise on the likelihood."""

from typing import Any, override

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families.densities import Columnwise
from ppl_vae.families.entries import entries_of
from ppl_vae.model import Model
from ppl_vae.tasks.denoising.noise import Noise

__all__ = ["NoisyModel"]


class Corrupted(dist.TorchDistribution):
    """p(y given z), elementwise, with the clean entries integrated out; a missing y has density 1.

    Args:
        base: p(x given z), elementwise.
        noise: p(y given x).
        y: The noisy entries, from which `completed` draws x.
    """

    arg_constraints = {}
    support = dist.constraints.real

    def __init__(
        self, base: Any, noise: Noise, y: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.base = base
        self.noise = noise
        self.y = y
        super().__init__(base.batch_shape, validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> "Corrupted":
        return Corrupted(self.base.expand(batch_shape), self.noise, self.y)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        found = self.noise.marginal(self.base, value.masked_fill(missing, 0.0))
        return found.masked_fill(missing, 0.0)

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.noise.corrupt(self.base.sample(sample_shape))

    def completed(self) -> Tensor:
        """A draw of the clean entries, given z and y."""
        with torch.no_grad():
            missing = self.y.isnan()
            clean = self.noise.clean(self.base, self.y.masked_fill(missing, 0.0))
            return torch.where(missing, self.base.sample(), clean)


class NoisyModel(nn.Module):
    """p(z) p(y given z) = p(z) prod_i of the integral of p(x_i given z) p(y_i given x_i) dx_i.

    Args:
        model: The model of clean rows.
        noise: What was added to them.

    Raises:
        ValueError: x is a table of several families, or its entries are dependent given z.

    Example:
        >>> from ppl_vae.families import likelihoods, priors
        >>> from ppl_vae.tasks.denoising.noise import GaussianNoise
        >>> model = Model(priors.StandardNormal(1), likelihoods.Gaussian(3))
        >>> NoisyModel(model, GaussianNoise(0.1))(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, model: Model, noise: Noise) -> None:
        super().__init__()
        if not isinstance(model, Model):
            raise ValueError("denoise takes a Model made of the library's parts")
        self.clean = model
        self.noise = noise

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The Pyro model of noisy rows, under the name that observed rows have elsewhere."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.clean.prior_at(context))
            base, _ = entries_of(self.clean.likelihood_at(z, context))
            if base.event_shape or isinstance(base, Columnwise):
                raise ValueError(
                    f"{type(self.clean.likelihood).__name__}: denoise takes entries of one family, "
                    "independent given z"
                )
            corrupted = Corrupted(base, self.noise, x).to_event(x.dim() - 1)
            return pyro.sample("x", corrupted, obs=x)
