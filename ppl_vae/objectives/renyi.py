"""Power means of the weights: Renyi's bounds, and the chi bound from above."""

from collections.abc import Callable
from typing import Unpack, override

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound, Options
from ppl_vae.objectives.importance_weighted import log_mean_exp, squared_defect
from ppl_vae.objectives.target import Function, both, log_mean_exp_of_others, mean_of_others
from ppl_vae.runtime.checks import real_number

__all__ = ["CUBO", "Renyi"]

Average = Callable[[Function], Tensor]  # of a function of the log-weights


def power_mean(log_weights: Tensor, power: float) -> Tensor:
    """1 / power log mean_k w_k^power over the first dim, (..., B); mean_k log w_k at power 0.

    Small powers of weights are nearly 1; their excess over 1 is averaged by `expm1`, to keep its
    digits.
    """
    return _power_mean(
        log_weights,
        power,
        mean=lambda function: function(log_weights).mean(0),
        log_mean=lambda function: log_mean_exp(function(log_weights)),
    )


def power_mean_of_others(log_weights: Tensor, power: float, instead: Tensor | None) -> Tensor:
    """For each k the power mean over j != k, or with log w_k replaced by `instead`_k, (K, B)."""
    return _power_mean(
        log_weights,
        power,
        mean=lambda function: mean_of_others(*both(function, log_weights, instead)),
        log_mean=lambda function: log_mean_exp_of_others(*both(function, log_weights, instead)),
    )


def _power_mean(log_weights: Tensor, power: float, mean: Average, log_mean: Average) -> Tensor:
    """The power mean by these two averages."""
    if power == 0:
        return mean(lambda values: values)
    is_finite = log_weights.isfinite()
    scaled = torch.where(is_finite, power * log_weights, -torch.inf).detach()
    largest = torch.where(is_finite.any(0), scaled.amax(0) / power, 0.0)
    near_one = largest + torch.log1p(mean(lambda v: torch.expm1(power * (v - largest)))) / power
    excess = torch.where(is_finite, scaled - power * largest, 0.0)  # at most 0
    far_from_one = log_mean(lambda values: power * values) / power
    return torch.where(excess.amin(0) > -1, near_one, far_from_one)


class Renyi(Bound):
    """Renyi's bound: 1 / (1 - alpha) log mean_k w_k^(1 - alpha), decreasing in alpha.

    alpha = 0 is IWAE and alpha = 1 the ELBO; a large alpha is mode-seeking. For alpha < 0 the bound
    itself lies above log p(x), but its estimate from K particles is biased low and may lie below.
    The power is taken per observation, for any plate or scale.

    Args:
        alpha: Order of the divergence.
        num_particles: Number of particles K per observation.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: alpha is not a finite number.

    References:
        Li and Turner (2016), Renyi divergence variational inference, arXiv:1602.02311, eq. 6.

    Example:
        >>> Renyi(0.5, num_particles=10)
        Renyi(num_particles=10, alpha=0.5)
    """

    shown = ("alpha",)

    def __init__(
        self, alpha: float = 0.5, num_particles: int = 5, **options: Unpack[Options]
    ) -> None:
        self.alpha = real_number(alpha, "Renyi(alpha)")
        self.takes_global = self.alpha >= 0 and not self.is_upper
        super().__init__(num_particles, **options)

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        return power_mean(log_weights, 1 - self.alpha)

    @override
    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        return power_mean_of_others(log_weights, 1 - self.alpha, instead)

    @override
    def curvatures(self, log_weights: Tensor) -> Tensor:
        power = 1 - self.alpha
        return power * squared_defect((power * log_weights).softmax(0))


class CUBO(Renyi):
    """The chi upper bound, 1/n log E_q[w^n] >= log p(x), minimised over the guide alone.

    Its minimum over q covers the posterior (zero-avoiding). The estimate from K particles is biased
    low (the log of a mean): it bounds log p(x) from above only as K grows, and if the weights have
    n moments. exp(n CUBO) is estimated without bias. A guide that misses the posterior can lower
    the estimate without limit, so start from a guide fitted by an ELBO, with a small learning rate.
    The model's parameters get no gradient. The loss is + CUBO; `fit` reports - CUBO.

    Args:
        order: n, at least 1.
        num_particles: Number of particles K per observation.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: order is below 1.

    References:
        Dieng et al. (2017), Variational inference via chi upper bound minimization,
        arXiv:1611.00328, eq. 4.

    Example:
        >>> CUBO(2, num_particles=10)
        CUBO(num_particles=10, order=2)
    """

    splits = True
    is_upper = True
    shown = ("order",)

    def __init__(
        self, order: float = 2.0, num_particles: int = 5, **options: Unpack[Options]
    ) -> None:
        self.order = real_number(order, "CUBO(order)", at_least=1)
        super().__init__(1 - self.order, num_particles, **options)

    @override
    def model_slopes(self, log_weights: Tensor) -> Tensor:
        return torch.zeros_like(log_weights)
