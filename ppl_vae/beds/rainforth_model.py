"""The toy on which gradient estimators are compared by their signal-to-noise ratio."""

import math
from dataclasses import dataclass
from typing import Any, override

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.beds.bed import Bed, BedGuide, BedModel, Distortion, draws

__all__ = ["RainforthBed", "rainforth"]


class RainforthModel(BedModel):
    """z ~ N(mu, I), x given z ~ N(z, I), with mu learnable. Reference: Rainforth et al. (2018)."""

    def __init__(self, num_data: int, mu: Tensor) -> None:
        super().__init__(num_data)
        self.mu = nn.Parameter(mu)

    @override
    def prior(self) -> Any:
        return dist.Normal(self.mu, 1.0).to_event(1)

    @override
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(z, 1.0)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log N(x; mu, 2 I) over the observed entries, at the present mu."""
        marginal = dist.Normal(self.mu, math.sqrt(2)).mask(~x.isnan()).to_event(1)
        return marginal.log_prob(x.nan_to_num(nan=0.0))

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        """The prior where x is missing; no gradient for mu."""
        mu = self.mu.detach()
        seen = ~x.isnan()
        sd = torch.where(seen, mu.new_tensor(0.5).sqrt(), mu.new_tensor(1.0))
        mean = torch.where(seen, (x.nan_to_num(nan=0.0) + mu) / 2, mu) + distortion.shift * sd
        return dist.Normal(mean, sd * distortion.scale).to_event(1)


class AmortisedGuide(BedGuide):
    """q(z|x) = N(A x + b, 2/3 I), A and b learnable; a missing entry of x counts as 0."""

    def __init__(self, model: RainforthModel, weight: Tensor, bias: Tensor) -> None:
        super().__init__(model, Distortion())
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    @override
    def posterior(self, x: Tensor) -> Any:
        mean = x.nan_to_num(nan=0.0) @ self.weight.mT + self.bias
        return dist.Normal(mean, math.sqrt(2 / 3)).to_event(1)


@dataclass(frozen=True, kw_only=True)
class RainforthBed(Bed):
    """The toy with its own, too wide, guide beside the exact one.

    Args:
        amortised_guide: N(A x + b, 2/3 I), learnable, near its optimum.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537.

    Example:
        >>> rainforth(num_data=4, latent_dim=3).model.mu.shape
        torch.Size([3])
    """

    amortised_guide: BedGuide


def rainforth(
    num_data: int = 1024,
    latent_dim: int = 20,
    seed: int = 0,
    perturbation: float = 0.01,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> RainforthBed:
    """The toy of Rainforth et al.: z ~ N(mu, I), x ~ N(z, I), q = N(A x + b, 2/3 I).

    log p(x) = log N(x; mu, 2 I). The optimum is mu = mean(x), A = I / 2, b = mu / 2; every entry of
    mu, A and b is moved from it by N(0, perturbation^2), because gradients have no signal at the
    optimum itself. mu, A and b are learnable, so `log_evidence` and `guide` follow the present mu.

    Args:
        num_data: Number of rows N.
        latent_dim: Number of dimensions D of x and of z.
        seed: Where the data, the true mu ~ N(0, I) and the perturbation come from.
        perturbation: Its sd.
        guide_scale: Factor on the sd of the exact guide; 1 is exact.
        guide_shift: Shift of the exact guide's mean, in posterior sds; 0 is exact.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537.

    Example:
        >>> [name for name, _ in rainforth(num_data=4).amortised_guide.named_parameters()]
        ['weight', 'bias']
    """
    generator = np.random.default_rng(seed)
    z = generator.standard_normal(latent_dim) + generator.standard_normal((num_data, latent_dim))
    x = draws(z + generator.standard_normal((num_data, latent_dim)))

    def near(optimum: Tensor) -> Tensor:
        return optimum + perturbation * draws(generator.standard_normal(optimum.shape))

    mu = x.mean(0)
    model = RainforthModel(num_data, near(mu))
    amortised = AmortisedGuide(model, near(torch.eye(latent_dim, dtype=x.dtype) / 2), near(mu / 2))
    guide = BedGuide(model, Distortion(guide_scale, guide_shift))
    return RainforthBed(
        name="rainforth",
        x=x,
        model=model,
        guide=guide,
        latent_dim=latent_dim,
        amortised_guide=amortised,
    )
