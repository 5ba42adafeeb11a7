"""Conjugate beds with one latent: Gamma-Poisson counts and Beta-Bernoulli sequences."""

from typing import Any, override

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.beds.bed import Bed, BedGuide, BedModel, Distortion, draws
from ppl_vae.runtime.checks import shown

__all__ = ["beta_bernoulli", "gamma_poisson"]


class GammaPoissonModel(BedModel):
    """z ~ Gamma(a, b), x given z ~ Poisson(z)."""

    def __init__(self, num_data: int, shape: float, rate: float) -> None:
        super().__init__(num_data)
        self.register_buffer("shape", draws([shape]))
        self.register_buffer("rate", draws([rate]))

    @override
    def prior(self) -> Any:
        return dist.Gamma(self.shape, self.rate).to_event(1)

    @override
    def likelihood(self, z: Tensor) -> Any:
        return dist.Poisson(z)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shape a + x and rate b + 1, each (N, 1); the prior's where x is missing."""
        return self.shape + x.nan_to_num(nan=0.0), self.rate + ~x.isnan()

    def log_evidence(self, x: Tensor) -> Tensor:
        """log NegativeBinomial(x; a, b / (b + 1))."""
        count = x.nan_to_num(nan=0.0)
        shape, rate = self.posterior(x)
        log_norm = torch.lgamma(shape) - torch.lgamma(self.shape) - torch.lgamma(count + 1)
        return (log_norm + self.shape * self.rate.log() - shape * rate.log())[:, 0]

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        """Gamma with the shape divided by scale^2, the mean moved by shift sds."""
        shape, rate = self.posterior(x)
        mean = shape / rate + distortion.shift * shape.sqrt() / rate
        _inside(mean, 0.0, float("inf"), distortion)
        shape = shape / distortion.scale**2
        return dist.Gamma(shape, shape / mean).to_event(1)


class BetaBernoulliModel(BedModel):
    """z ~ Beta(a, b), x given z: n Bernoulli(z). Reference: Gelman et al. (2013), section 2.4."""

    def __init__(self, num_data: int, num_trials: int, alpha: float, beta: float) -> None:
        super().__init__(num_data)
        self.num_trials = num_trials
        self.register_buffer("alpha", draws([alpha]))
        self.register_buffer("beta", draws([beta]))

    @override
    def prior(self) -> Any:
        return dist.Beta(self.alpha, self.beta).to_event(1)

    @override
    def likelihood(self, z: Tensor) -> Any:
        return dist.Bernoulli(z.expand(*z.shape[:-1], self.num_trials))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a + successes and b + failures among the observed trials, each (N, 1)."""
        successes = x.nansum(-1, keepdim=True)
        trials = (~x.isnan()).sum(-1, keepdim=True)
        return self.alpha + successes, self.beta + trials - successes

    def log_evidence(self, x: Tensor) -> Tensor:
        """log B(a + s, b + n - s) - log B(a, b): of the sequence, not of the count."""
        return (_log_beta(*self.posterior(x)) - _log_beta(self.alpha, self.beta))[:, 0]

    @override
    def guide_at(self, x: Tensor, distortion: Distortion) -> Any:
        """Beta with the concentration divided by scale^2, the mean moved by shift sds."""
        alpha, beta = self.posterior(x)
        total = alpha + beta
        sd = (alpha * beta / (total + 1)).sqrt() / total
        mean = alpha / total + distortion.shift * sd
        _inside(mean, 0.0, 1.0, distortion)
        total = total / distortion.scale**2
        return dist.Beta(total * mean, total * (1 - mean)).to_event(1)


def gamma_poisson(
    num_data: int = 64,
    shape: float = 2.0,
    rate: float = 0.5,
    seed: int = 0,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> Bed:
    """Counts with a Gamma rate each: x is negative binomial.

    z ~ Gamma(a, b), x|z ~ Poisson(z); log p(x) = log NegativeBinomial(x; a, b / (b + 1)); the
    posterior is Gamma(a + x, b + 1).

    Args:
        num_data: Number of rows N; x has shape (N, 1).
        shape: a.
        rate: b.
        seed: Where the data come from.
        guide_scale: The guide's shape is divided by its square at the same mean, so the sd is
            multiplied; 1 is exact.
        guide_shift: Shift of the guide's mean, in posterior sds; 0 is exact.

    Raises:
        ValueError: (guide) The shift moves a mean below 0.

    References:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.6.

    Example:
        >>> gamma_poisson().exact_log_evidence(torch.tensor([[0.0]], dtype=torch.float64)).exp()
        tensor([0.1111], dtype=torch.float64)
    """
    generator = np.random.default_rng(seed)
    x = draws(generator.poisson(generator.gamma(shape, 1 / rate, (num_data, 1))))
    model = GammaPoissonModel(num_data, shape, rate)
    guide = BedGuide(model, Distortion(guide_scale, guide_shift))
    return Bed(name="gamma_poisson", x=x, model=model, guide=guide, latent_dim=1)


def beta_bernoulli(
    num_data: int = 64,
    num_trials: int = 8,
    alpha: float = 2.0,
    beta: float = 3.0,
    seed: int = 0,
    guide_scale: float = 1.0,
    guide_shift: float = 0.0,
) -> Bed:
    """Binary sequences with a Beta probability each.

    z ~ Beta(a, b), x_1..n|z ~ Bernoulli(z); log p(x) = log B(a + s, b + n - s) - log B(a, b) with s
    successes: the probability of the sequence, log(n over s) below the beta-binomial of the count.

    Args:
        num_data: Number of rows N; x has shape (N, num_trials).
        num_trials: Length n of a sequence.
        alpha: a.
        beta: b.
        seed: Where the data come from.
        guide_scale: The guide's concentration is divided by its square at the same mean; 1 is
            exact.
        guide_shift: Shift of the guide's mean, in posterior sds; 0 is exact.

    Raises:
        ValueError: (guide) The shift moves a mean out of (0, 1).

    References:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.4.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> beta_bernoulli(num_trials=1).exact_log_evidence(one).exp()
        tensor([0.4000], dtype=torch.float64)
    """
    generator = np.random.default_rng(seed)
    probability = generator.beta(alpha, beta, (num_data, 1))
    x = draws(generator.binomial(1, probability, (num_data, num_trials)))
    model = BetaBernoulliModel(num_data, num_trials, alpha, beta)
    guide = BedGuide(model, Distortion(guide_scale, guide_shift))
    return Bed(name="beta_bernoulli", x=x, model=model, guide=guide, latent_dim=1)


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def _inside(mean: Tensor, low: float, high: float, distortion: Distortion) -> None:
    outside = ((mean <= low) | (mean >= high)).nonzero()
    if len(outside):
        row = int(outside[0, 0])
        place = f"row {row} to {shown(mean[row, 0])}, outside ({low:g}, {high:g})"
        raise ValueError(
            f"guide_shift={distortion.shift} moves the posterior mean of {place}: use a smaller "
            "shift"
        )
