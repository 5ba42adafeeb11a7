"""The thermodynamic variational objective, an integral along the path from guide to posterior."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, override

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.gradients.pathwise import Coefficients, Gradient
from ppl_vae.objectives.target import Target, both, log_mean_exp_of_others
from ppl_vae.runtime.text import echoed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ThermodynamicELBO"]


class ThermodynamicELBO(Bound):
    """Left Riemann sum of log p(x) = int_0^1 E_beta[log w] d beta over a path of densities.

    E_beta is the mean under q^(1 - beta) p(x, z)^beta, normalised. The integrand increases with
    beta, so the left sum is a lower bound; with one interval it is the ELBO. The expectations are
    self-normalised over K particles, so use K = 10 or more. The right sum would be an upper bound.

    Args:
        num_particles: Number of particles K per observation.
        partition: Interior points 0 < beta_1 < ... < 1; None is one point at 0.1 (two intervals, as
            in the paper).
        gradient: None is the paper's covariance estimator, which needs no path derivative and so
            allows discrete latents; it is unbiased for one interval, and for several as K grows.
            `Reparameterized()`, `ScoreFunction()` and `VIMCO()` are unbiased for the expected value
            at K particles.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: the partition does not increase within (0, 1); the covariance estimator has one
            particle.

    References:
        Masrani, Le and Wood (2019), The thermodynamic variational objective, arXiv:1907.00031, eq.
        6 and 9.

    Example:
        >>> ThermodynamicELBO(10, partition=(0.1, 0.5)).partition
        (0.0, 0.1, 0.5, 1.0)
    """

    def __init__(
        self,
        num_particles: int = 10,
        partition: "Sequence[float] | None" = None,
        *,
        gradient: Gradient | None = None,
        max_plate_nesting: int | None = None,
    ) -> None:
        self.partition = _points((0.1,) if partition is None else partition)
        gradient = Covariance() if gradient is None else gradient
        super().__init__(num_particles, gradient=gradient, max_plate_nesting=max_plate_nesting)

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        parts = [
            width * (weights * log_weights).sum(0)
            for width, _, weights in self.intervals(log_weights)
        ]
        return torch.stack(parts).sum(0)

    @override
    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        total = torch.zeros_like(log_weights)
        for left, right in pairwise(self.partition):
            total = total + (right - left) * _tempered_mean_of_others(log_weights, instead, left)
        return total

    def intervals(self, log_weights: Tensor) -> list[tuple[float, float, Tensor]]:
        """Width, left end and self-normalised weights of each interval."""
        return [
            (right - left, left, (left * log_weights).softmax(0))
            for left, right in pairwise(self.partition)
        ]

    @override
    def options(self) -> list[str]:
        return [f"partition={self.partition[1:-1]}"]


def _tempered_mean_of_others(log_weights: Tensor, instead: Tensor | None, power: float) -> Tensor:
    """E_power[log w] over the others; distances from the largest log w have one sign and add up."""
    largest = log_weights.amax(0)

    def weighted(values: Tensor) -> Tensor:
        return power * values + (largest - values).clamp(min=0).log()

    mass = log_mean_exp_of_others(*both(lambda values: power * values, log_weights, instead))
    moment = log_mean_exp_of_others(*both(weighted, log_weights, instead))
    return largest - (moment - mass).exp()


def _points(partition: Any) -> tuple[float, ...]:
    try:
        points = (0.0, *map(float, partition), 1.0)
    except (TypeError, ValueError):
        raise ValueError(
            f"ThermodynamicELBO(partition) is {echoed(partition)}; it must be a sequence of "
            "numbers, as in (0.1, 0.5)"
        ) from None
    if not all(left < right for left, right in pairwise(points)):
        raise ValueError(
            f"partition is {points[1:-1]}; its points must increase strictly between 0 and 1"
        )
    return points


@dataclass(frozen=True)
class Covariance(Gradient):
    """d/d lambda E_b[l] = E_b[dl] + Cov_b[d log pi_b, l], log pi_b = log q + b l up to a constant.

    log q enters l with weight - beta, where beta is the weight of the KL, and log pi_b with weight
    1 - b beta. Covariances of K particles are divided by K - 1, so there is no bias at b = 0, the
    ELBO; elsewhere the self-normalised weights have a bias of order 1 / K.
    """

    path_derivative = False
    needs_others = True

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        model = torch.zeros_like(log_weights)
        log_q = torch.zeros_like(log_weights)
        intervals: Any = bound
        unbiased = len(log_weights) / (len(log_weights) - 1)
        for width, b, weights in intervals.intervals(log_weights):
            covariance = unbiased * weights * (log_weights - (weights * log_weights).sum(0))
            model = model + width * (weights + b * covariance)
            log_q = log_q + width * (
                (1 - b * bound.kl_weight) * covariance - bound.kl_weight * weights
            )
        return Coefficients(model, None, log_q)
